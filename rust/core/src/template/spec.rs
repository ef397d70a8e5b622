//! The written form of a template: one line of text per role, as in YAML files.
//!
//! `"<|im_start|>user\n{content}<|im_end|>\n"` beside `control: ["<|im_start|>", "<|im_end|>"]` says everything: what is printed
//! around the content, and which of it are control tokens. The built-in templates are written in it too.

use super::chat_template::{ChatTemplate, Frame, Piece, SystemPlace, Thinking, ToolStyle};
use serde::{Deserialize, Serialize};

/// A template as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "docs/templates.md explains each under the same name")]
pub struct Spec {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub control: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub begin: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub default_system: String,
    pub system: String,
    #[serde(skip_serializing_if = "is_default")]
    pub system_in: SystemPlace,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "flag")]
    pub system_always: bool,
    pub user: String,
    pub assistant: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation_prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub end: String,
    #[serde(skip_serializing_if = "is_default")]
    pub thinking: Thinking,
    #[serde(skip_serializing_if = "is_default")]
    pub tools: ToolStyle,
}

/// The keys of a written template.
pub const KEYS: [&str; 15] = [
    "name",
    "about",
    "control",
    "begin",
    "default_system",
    "system",
    "system_in",
    "system_always",
    "user",
    "assistant",
    "generation_prompt",
    "tool",
    "end",
    "thinking",
    "tools",
];

/// (key, what is wrong with it).
pub type Problem = (&'static str, String);

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A YAML file's `true` arrives as text.
fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Bool(bool),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Bool(value) => Ok(value),
        Written::Text(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(serde::de::Error::custom(format!("`system_always` must be true or false, not `{text}`"))),
        },
    }
}

impl Spec {
    /// The template that it describes.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, key by key.
    pub fn compile(&self) -> Result<ChatTemplate, Vec<Problem>> {
        let mut problems = Vec::new();
        if self.name.is_empty() {
            problems.push(("name", "must be given".to_owned()));
        }
        for (i, token) in self.control.iter().enumerate() {
            let parts = [&self.begin, &self.system, &self.user, &self.assistant, &self.end];
            let used = parts.into_iter().chain(self.tool.as_ref()).any(|part| part.contains(token.as_str()));
            if token.is_empty() || !used {
                problems.push(("control", format!("no part of the template has `{token}`")));
            } else if self.control[..i].contains(token) {
                problems.push(("control", format!("`{token}` is listed twice")));
            }
        }
        let mut bare = |key, text: &str| self.pieces(text).unwrap_or_else(|problem| note(&mut problems, key, problem));
        let (begin, end) = (bare("begin", &self.begin), bare("end", &self.end));
        let mut frame = |key, text: &str| self.frame(text).unwrap_or_else(|problem| note(&mut problems, key, problem));
        let system = if self.system.is_empty() { Frame::default() } else { frame("system", &self.system) };
        let user = frame("user", &self.user);
        let mut assistant = frame("assistant", &self.assistant);
        let tool = self.tool.as_ref().map(|text| frame("tool", text));
        let prompt = match &self.generation_prompt {
            None => std::mem::take(&mut assistant.before),
            Some(text) => {
                let given =
                    self.pieces(text).unwrap_or_else(|problem| note(&mut problems, "generation_prompt", problem));
                match without(&assistant.before, &given) {
                    Some(rest) => assistant.before = rest,
                    None if problems.is_empty() => {
                        problems.push(("generation_prompt", "must be how `assistant` begins".to_owned()));
                    }
                    None => {}
                }
                given
            }
        };
        if problems.is_empty() && !assistant.after.iter().any(|piece| matches!(piece, Piece::Control(_) | Piece::Eos)) {
            let problem = "never ends: put a control token or {eos} behind {content}, or generation cannot stop";
            problems.push(("assistant", problem.to_owned()));
        }
        if self.system.is_empty() && (self.system_always || !self.default_system.is_empty()) {
            problems.push(("system", "must be given beside `default_system` and `system_always`".to_owned()));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(ChatTemplate {
            name: self.name.clone(),
            begin,
            default_system: self.default_system.clone(),
            system,
            system_in: if self.system.is_empty() { SystemPlace::FirstUser } else { self.system_in },
            system_always: self.system_always,
            user,
            prompt,
            assistant,
            tool,
            end,
            thinking: self.thinking,
            tools: self.tools,
        })
    }

    fn frame(&self, text: &str) -> Result<Frame, String> {
        let slots = [("{content}", false), ("{content|trim}", true)];
        let mut found =
            slots.iter().flat_map(|&(slot, trim)| text.match_indices(slot).map(move |(at, _)| (at, slot, trim)));
        let (Some((at, slot, trim)), None) = (found.next(), found.next()) else {
            return Err("must hold {content} (or {content|trim}) once".to_owned());
        };
        Ok(Frame { before: self.pieces(&text[..at])?, after: self.pieces(&text[at + slot.len()..])?, trim })
    }

    /// Text without content → pieces. The longest control token wins where several begin.
    fn pieces(&self, text: &str) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let control = self.control.iter().filter(|c| !c.is_empty() && rest.starts_with(c.as_str()));
            let (piece, length) = if let Some(token) = control.max_by_key(|c| c.len()) {
                (Piece::Control(token.clone()), token.len())
            } else if let Some(slot) = slot(rest) {
                match slot {
                    "{bos}" => (Piece::Bos, slot.len()),
                    "{eos}" => (Piece::Eos, slot.len()),
                    "{content}" | "{content|trim}" => return Err(format!("{slot} has no place here")),
                    other => {
                        return Err(format!(
                            "{other} means nothing; known are {{content}}, {{content|trim}}, {{bos}} and {{eos}}"
                        ));
                    }
                }
            } else {
                plain.push(next);
                rest = &rest[next.len_utf8()..];
                continue;
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
            rest = &rest[length..];
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(pieces)
    }
}

fn note<T: Default>(problems: &mut Vec<Problem>, key: &'static str, problem: String) -> T {
    problems.push((key, problem));
    T::default()
}

/// `{word}` at the start of a text.
fn slot(text: &str) -> Option<&str> {
    let end = text.strip_prefix('{')?.find(|c: char| !c.is_ascii_lowercase() && c != '|' && c != '_')? + 1;
    (end > 1 && text[end..].starts_with('}')).then(|| &text[..=end])
}

/// `all` without the `first` pieces that it begins with.
fn without(all: &[Piece], first: &[Piece]) -> Option<Vec<Piece>> {
    let Some((last, whole)) = first.split_last() else { return Some(all.to_vec()) };
    let rest = all.strip_prefix(whole)?;
    match (rest.split_first()?, last) {
        ((piece, behind), last) if piece == last => Some(behind.to_vec()),
        ((Piece::Text(text), behind), Piece::Text(given)) => {
            let mut left = vec![Piece::Text(text.strip_prefix(given.as_str())?.to_owned())];
            left.extend_from_slice(behind);
            Some(left)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> Result<ChatTemplate, Vec<Problem>> {
        serde_json::from_value::<Spec>(json).unwrap().compile()
    }

    #[test]
    fn a_frame_is_read_as_it_is_written() {
        let template = spec(serde_json::json!({
            "name": "t", "control": ["<|e|>", "<|e|>>"], "system_always": "yes", "system": "{content}\n",
            "user": "{bos}U {content|trim}<|e|>>", "assistant": "A: {content}{eos}", "generation_prompt": "A:",
        }));
        let template = template.unwrap();
        assert_eq!(template.user.before, [Piece::Bos, Piece::Text("U ".into())]);
        assert_eq!(template.user.after, [Piece::Control("<|e|>>".into())]);
        assert!(template.user.trim && !template.assistant.trim && template.system_always);
        assert_eq!(template.prompt, [Piece::Text("A:".into())]);
        assert_eq!(template.assistant.before, [Piece::Text(" ".into())]);
    }

    #[test]
    fn every_problem_is_named() {
        let problems = spec(serde_json::json!({
            "control": ["<|x|>"], "begin": "{content}", "default_system": "s", "user": "no slot",
            "assistant": "{content}{oes}", "tool": "{content}{content}",
        }));
        let problems = problems.unwrap_err();
        let keys: Vec<_> = problems.iter().map(|p| p.0).collect();
        for key in ["name", "control", "begin", "user", "assistant", "tool", "system"] {
            assert!(keys.contains(&key), "{key}: {problems:?}");
        }
        let never_ends = spec(serde_json::json!({"name": "t", "user": "{content}", "assistant": "{content}\n"}));
        assert!(never_ends.unwrap_err()[0].1.contains("never ends"));
        let other_start = spec(serde_json::json!({
            "name": "t", "user": "{content}", "assistant": "A:{content}{eos}", "generation_prompt": "B:",
        }));
        assert_eq!(other_start.unwrap_err()[0].0, "generation_prompt");
    }

    #[test]
    fn the_keys_are_those_of_the_struct() {
        let full = Spec {
            about: "a".into(),
            control: vec!["c".into()],
            begin: "b".into(),
            default_system: "d".into(),
            system_in: SystemPlace::FirstUser,
            system_always: true,
            generation_prompt: Some(String::new()),
            tool: Some(String::new()),
            end: "e".into(),
            thinking: Thinking::Qwen3,
            tools: ToolStyle::Qwen,
            ..Spec::default()
        };
        let json = serde_json::to_value(full).unwrap();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), KEYS);
    }
}
