//! What a file calls things: LLaMA-Factory's `columns` and `tags`, and the names that every file may use.

use crate::conversation::Role;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use strum::{EnumString, IntoStaticStr};

/// How a file's records are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Format {
    /// `instruction`, `input`, `output`, `system`, `history`.
    Alpaca,
    /// `conversations` of `from`/`value`.
    Sharegpt,
    /// `messages` of `role`/`content`.
    Messages,
}

impl Format {
    /// The name in options and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A record key that some format gives a meaning to, whatever the file calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Key {
    Instruction,
    Input,
    Output,
    History,
    System,
    Tools,
    Conversations,
    Messages,
}

/// A key of a turn, whatever the file calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnKey {
    Role,
    Content,
    Reasoning,
    ToolCalls,
    FunctionCall,
    Loss,
}

/// How the records of a file are to be read. The default is what every file is read by that says nothing else.
///
/// Names that are not listed keep their defaults; in LLaMA-Factory they lose them, and a column is lost silently.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Layout {
    /// The format, if it is not to be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Our name of a record key → the file's; an empty one: the file has none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// `role` and `content` → the file's keys of a turn; `user`, `assistant`, `observation`, `function` and
    /// `system` → what the file calls these roles.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What the rest of the options say of how records are read; not a property of the file.
    #[serde(skip)]
    pub reading: Reading,
}

/// What of a turn is kept for the template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Words of the template: keys of a turn among them are given to it, even if they mean nothing here.
    pub words: Arc<BTreeSet<Box<str>>>,
    /// The thoughts of answers are removed.
    pub without_thoughts: bool,
}

/// Keys that a template is given of every turn, whatever the file calls them.
const GIVEN: [&str; 5] = ["role", "content", "reasoning_content", "thinking", "tool_calls"];

/// The role, and whether the text is a tool call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Speaker {
    pub(super) role: Role,
    pub(super) calls: bool,
}

impl Layout {
    /// What a key of a record means; a name that the file gives to something else means nothing more by itself.
    pub(super) fn key(&self, name: &str) -> Option<Key> {
        if !self.columns.is_empty() {
            if let Some((ours, _)) = self.columns.iter().find(|(_, theirs)| *theirs == name && !theirs.is_empty()) {
                return ours.parse().ok();
            }
            if self.columns.contains_key(name) {
                return None;
            }
        }
        name.parse().ok()
    }

    /// The file's names of the columns that it maps, as far as something holds of what they mean.
    pub(super) fn columns_that(&self, holds: impl Fn(Key) -> bool) -> Vec<String> {
        let named = self.columns.iter().filter(|(_, theirs)| !theirs.is_empty());
        named.filter(|(ours, _)| ours.parse().is_ok_and(&holds)).map(|(_, theirs)| theirs.clone()).collect()
    }

    /// What the file calls one of our record keys.
    pub(super) fn name_of(&self, ours: &'static str) -> &str {
        self.columns.get(ours).map_or(ours, String::as_str)
    }

    /// What a key of a turn means.
    pub(super) fn turn_key(&self, name: &str) -> Option<TurnKey> {
        let tag = |ours: &str| self.tags.get(ours).map(String::as_str);
        if !self.tags.is_empty() {
            if tag("role") == Some(name) {
                return Some(TurnKey::Role);
            }
            if tag("content") == Some(name) {
                return Some(TurnKey::Content);
            }
        }
        match name {
            "role" | "from" if tag("role").is_none() => Some(TurnKey::Role),
            "content" | "value" if tag("content").is_none() => Some(TurnKey::Content),
            "reasoning_content" | "reasoning" | "thinking" => Some(TurnKey::Reasoning),
            "tool_calls" => Some(TurnKey::ToolCalls),
            // OpenAI's older form of one call.
            "function_call" => Some(TurnKey::FunctionCall),
            "loss" | "loss_weight" | "loss_mask" | "weight" | "train" | "training" | "trainable" => Some(TurnKey::Loss),
            _ => None,
        }
    }

    /// Whether a key of a turn that means nothing here is kept for the template.
    pub(super) fn keeps(&self, name: &str) -> bool {
        self.reading.words.contains(name) && !GIVEN.contains(&name)
    }

    /// Who a role's name stands for: the file's own names first.
    pub(super) fn speaker(&self, name: &str) -> Option<Speaker> {
        let own =
            self.tags.iter().find(|(ours, theirs)| *theirs == name && !matches!(ours.as_str(), "role" | "content"));
        // Capitals say nothing more.
        let role = own.map_or(name, |(ours, _)| ours.as_str()).to_ascii_lowercase();
        let (role, calls) = match role.as_str() {
            "user" | "human" => (Role::User, false),
            "assistant" | "gpt" | "model" | "bot" | "bing" | "chatgpt" | "ai" => (Role::Assistant, false),
            "system" | "developer" => (Role::System, false),
            // ms-swift's, Llama 3.1's and others' words for a tool's result.
            "tool" | "observation" | "function_response" | "tool_response" | "tool_result" | "ipython" => {
                (Role::Tool, false)
            }
            // The tag is LLaMA-Factory's word for a call, the role OpenAI's older one for its result.
            "function" if own.is_some() => (Role::Assistant, true),
            "function" => (Role::Tool, false),
            "function_call" | "tool_call" => (Role::Assistant, true),
            _ => return None,
        };
        Some(Speaker { role, calls })
    }

    /// The names that stand for nothing here, if there are any.
    #[must_use]
    pub fn unknown_names(&self) -> Vec<&str> {
        const TAGS: [&str; 7] = ["role", "content", "user", "assistant", "observation", "function", "system"];
        let columns = self.columns.keys().filter(|k| k.parse::<Key>().is_err());
        let tags = self.tags.keys().filter(|k| !TAGS.contains(&k.as_str()));
        columns.chain(tags).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(json: &str) -> Layout {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn unlisted_names_keep_their_meaning() {
        let renamed = layout(r#"{"columns": {"instruction": "question", "output": "answer", "system": ""}}"#);
        assert_eq!(renamed.key("question"), Some(Key::Instruction));
        assert_eq!(renamed.key("input"), Some(Key::Input));
        assert_eq!((renamed.key("instruction"), renamed.key("system"), renamed.key("")), (None, None, None));
        let swapped = layout(r#"{"columns": {"input": "output", "output": "input"}}"#);
        assert_eq!((swapped.key("input"), swapped.key("output")), (Some(Key::Output), Some(Key::Input)));
    }

    #[test]
    fn tags_name_roles_and_keys() {
        let tagged =
            layout(r#"{"tags": {"role": "speaker", "user": "USER", "function": "call", "assistant": "user"}}"#);
        assert_eq!((tagged.turn_key("speaker"), tagged.turn_key("from")), (Some(TurnKey::Role), None));
        assert_eq!(tagged.turn_key("value"), Some(TurnKey::Content));
        let role = |name| tagged.speaker(name).map(|s| (s.role, s.calls));
        assert_eq!(role("USER"), Some((Role::User, false)));
        assert_eq!(role("user"), Some((Role::Assistant, false)));
        assert_eq!(role("call"), Some((Role::Assistant, true)));
        assert_eq!(role("function"), Some((Role::Tool, false)));
        assert_eq!(role("narrator"), None);
    }

    #[test]
    fn names_without_a_meaning_are_found() {
        assert_eq!(layout(r#"{"columns": {"images": "x"}, "tags": {"role": "r"}}"#).unknown_names(), ["images"]);
    }
}
