//! Conversation → turns of segments.

use super::{ChatTemplate, Frame, Kind, Piece, Segment, Thinking, ToolStyle, Turn};
use crate::conversation::{Conversation, Message, Role};
use crate::record::pyjson;
use std::borrow::Cow;

/// Tags that templates write and tokenizers may know as one token.
const MARKERS: [&str; 6] =
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"];

const TOOLS_BEFORE: &str = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>";
const TOOLS_AFTER: &str = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

/// Which turns are learned, beyond what the data says itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learn {
    /// Prompts too.
    pub prompts: bool,
    /// Of the answers only the last.
    pub last_answer_only: bool,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered<'a> {
    /// Its turns, in order.
    pub turns: Vec<Turn<'a>>,
    /// What the report shall mention, by name.
    pub notices: Vec<&'static str>,
}

impl ChatTemplate {
    /// Renders a repaired conversation. `system` replaces the template's own default system prompt.
    #[must_use]
    pub fn render<'a>(
        &self,
        conversation: &'a Conversation<'_>,
        system: Option<&'a str>,
        learn: Learn,
    ) -> Rendered<'a> {
        let mut rendered = Rendered { turns: Vec::with_capacity(conversation.messages.len() + 1), notices: Vec::new() };
        let messages = &conversation.messages;
        let (first, rest) = match messages.split_first() {
            Some((first, rest)) if first.role == Role::System => (Some(first), rest),
            _ => (None, &messages[..]),
        };
        if !self.begin.is_empty() {
            rendered.turns.push(Builder::new(Role::System, self.begin).end(&[]));
        }
        let default = system.unwrap_or(self.default_system);
        let own = first.map(|m| m.content.as_ref());
        self.render_system(own, default, conversation.tools.as_deref(), &mut rendered);

        let last_answer = rest.iter().rposition(|m| m.role == Role::Assistant);
        let last_query = rest.iter().rposition(is_query);
        let mut at = 0;
        while at < rest.len() {
            let message = &rest[at];
            match message.role {
                Role::Tool if self.tools == ToolStyle::Qwen => {
                    let run = rest[at..].iter().take_while(|m| m.role == Role::Tool).count();
                    rendered.turns.push(tool_responses(self.user.before[0], &rest[at..at + run], self.user.after));
                    at += run;
                    continue;
                }
                Role::Assistant => {
                    let learned = message.is_learned() && (!learn.last_answer_only || Some(at) == last_answer);
                    let behind = last_query.is_some_and(|query| at > query);
                    let last = at + 1 == rest.len();
                    let turn = self.render_answer(message, learned, behind, last, &mut rendered.notices);
                    rendered.turns.push(turn);
                }
                role => {
                    if message.content.trim_ascii().is_empty() {
                        rendered.notices.push("empty_prompt");
                    }
                    let mut turn = Builder::new(role, self.frame(role).before);
                    turn.content(self.trimmed(&message.content), message.loss == Some(true));
                    rendered.turns.push(turn.end(self.frame(role).after));
                }
            }
            at += 1;
        }
        if learn.prompts {
            for turn in rendered.turns.iter_mut().filter(|t| t.role != Role::Assistant) {
                turn.segments.iter_mut().for_each(|s| s.learned = true);
            }
        }
        rendered
    }

    /// What stands before an answer that is to be generated.
    #[must_use]
    pub fn generation_prompt(&self, enable_thinking: bool) -> Turn<'static> {
        let mut turn = Builder::new(Role::Assistant, self.assistant.before);
        if self.thinking == Thinking::Qwen3 && !enable_thinking {
            turn.markup("<think>\n\n</think>\n\n", false);
        }
        Turn { role: Role::Assistant, segments: turn.segments }
    }

    fn frame(&self, role: Role) -> &Frame {
        match role {
            Role::System => &self.system,
            Role::User => &self.user,
            Role::Assistant => &self.assistant,
            Role::Tool => &self.tool,
        }
    }

    fn trimmed<'a>(&self, text: &'a str) -> &'a str {
        if self.trim { python_strip(text) } else { text }
    }

    fn render_system<'a>(
        &self,
        own: Option<&'a str>,
        default: &'a str,
        tools: Option<&'a str>,
        rendered: &mut Rendered<'a>,
    ) {
        let system = own.unwrap_or(default);
        let mut turn = Builder::new(Role::System, self.system.before);
        match tools {
            None if own.is_none() && system.is_empty() => return,
            None => turn.content(self.trimmed(system), false),
            Some(tools) => {
                turn.content(system, false);
                match self.tools {
                    ToolStyle::Qwen => {
                        turn.template(if own.is_none() && system.is_empty() { "" } else { "\n\n" });
                        turn.markup(TOOLS_BEFORE, false);
                        for tool in tool_lines(tools) {
                            turn.template("\n");
                            turn.content(tool, false);
                        }
                        turn.markup(TOOLS_AFTER, false);
                    }
                    ToolStyle::Unknown => {
                        rendered.notices.push("tools_as_plain_text");
                        turn.template(if system.is_empty() { "" } else { "\n\n" });
                        turn.content(tools, false);
                    }
                }
            }
        }
        rendered.turns.push(turn.end(self.system.after));
    }

    /// An answer. `behind`: it stands behind the last question; `last`: it is the last turn.
    fn render_answer<'a>(
        &self,
        message: &'a Message<'_>,
        learned: bool,
        behind: bool,
        last: bool,
        notices: &mut Vec<&'static str>,
    ) -> Turn<'a> {
        let mut turn = Builder::new(Role::Assistant, self.assistant.before);
        let content = message.content.as_ref();
        let (reasoning, content) = match (self.thinking, &message.reasoning) {
            (_, Some(reasoning)) => (reasoning.as_ref(), content),
            (Thinking::Qwen3, None) => split_thoughts(content),
            (Thinking::Unknown, None) => ("", content),
        };
        let mut answer = content;
        if self.thinking == Thinking::Qwen3 && behind && (last || !reasoning.is_empty()) {
            answer = content.trim_start_matches('\n');
            let thoughts = reasoning.trim_matches('\n');
            if thoughts.is_empty() {
                // Given, not learned: it is what the prompt holds when thinking is switched off.
                turn.markup("<think>\n\n</think>\n\n", false);
            } else {
                turn.markup("<think>\n", learned);
                turn.content(thoughts, learned);
                turn.markup("\n</think>\n\n", learned);
            }
        } else if !reasoning.is_empty() {
            notices.push("thoughts_left_out");
        }
        answer = self.trimmed(answer);
        if learned && starts_with_blanks(answer) {
            notices.push("answer_starts_with_blanks");
        }
        turn.content(answer, learned);
        for (i, call) in message.tool_calls.iter().enumerate() {
            let start = if i > 0 || !answer.is_empty() { "\n<tool_call>\n" } else { "<tool_call>\n" };
            turn.markup(start, learned);
            turn.content(call.as_str(), learned);
            turn.markup("\n</tool_call>", learned);
        }
        turn.learned_end(self.assistant.after, learned)
    }
}

/// A question by the person; a tool's result that was written as a user turn is none.
fn is_query(message: &Message<'_>) -> bool {
    let text = message.content.as_ref();
    message.role == Role::User && !(text.starts_with("<tool_response>") && text.ends_with("</tool_response>"))
}

/// `(thoughts, answer)` of content with a `</think>` in it, as Qwen3's own template parts them.
fn split_thoughts(content: &str) -> (&str, &str) {
    // Nearly every answer has none: memmem says so several times faster than `str::find`.
    let Some(first) = memchr::memmem::find(content.as_bytes(), b"</think>") else { return ("", content) };
    let (before, after) = (&content[..first], content.rsplit_once("</think>").map_or("", |(_, after)| after));
    let before = before.trim_end_matches('\n');
    let thoughts = before.rsplit_once("<think>").map_or(before, |(_, thoughts)| thoughts);
    (thoughts.trim_start_matches('\n'), after.trim_start_matches('\n'))
}

/// Each tool on a line of its own: the items of a JSON list, or the text as it is.
fn tool_lines(tools: &str) -> Vec<String> {
    match serde_json::from_str::<serde_json::Value>(tools) {
        Ok(serde_json::Value::Array(list)) => list.iter().map(pyjson::dumps).collect(),
        Ok(value @ serde_json::Value::Object(_)) => vec![pyjson::dumps(&value)],
        _ => vec![tools.to_owned()],
    }
}

fn tool_responses<'a>(start: Piece, messages: &'a [Message<'_>], after: &'static [Piece]) -> Turn<'a> {
    let mut turn = Builder::new(Role::Tool, &[]);
    turn.pieces(&[start, Piece::Text("user")], false);
    for message in messages {
        turn.markup("\n<tool_response>\n", false);
        turn.content(message.content.as_ref(), false);
        turn.markup("\n</tool_response>", false);
    }
    turn.end(after)
}

/// Whether an answer begins with a line break, or with several blanks. There, and only there, the line break that ends
/// a ChatML header may share a token with the answer when the whole text is tokenized at once.
fn starts_with_blanks(text: &str) -> bool {
    let blanks = text.len() - text.trim_start().len();
    blanks > 1 || text.starts_with(['\n', '\r'])
}

/// Python's `str.strip`, which also takes the four ASCII separators.
fn python_strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

struct Builder<'a> {
    role: Role,
    segments: Vec<Segment<'a>>,
}

impl<'a> Builder<'a> {
    fn new(role: Role, before: &[Piece]) -> Self {
        let mut builder = Self { role, segments: Vec::with_capacity(before.len() + 4) };
        builder.pieces(before, false);
        builder
    }

    fn push(&mut self, kind: Kind, text: impl Into<Cow<'a, str>>, learned: bool, content: bool) {
        let text = text.into();
        if !text.is_empty() || kind == Kind::Control {
            self.segments.push(Segment { kind, text, learned, content });
        }
    }

    fn pieces(&mut self, pieces: &[Piece], learned: bool) {
        for piece in pieces {
            match piece {
                Piece::Control(token) => self.push(Kind::Control, *token, learned, false),
                Piece::Text(text) => self.push(Kind::Text, *text, learned, false),
                // An empty name is the tokenizer's own end-of-sequence token.
                Piece::Eos => self.push(Kind::Control, "", learned, false),
            }
        }
    }

    fn template(&mut self, text: &'static str) {
        self.push(Kind::Text, text, false, false);
    }

    fn content(&mut self, text: impl Into<Cow<'a, str>>, learned: bool) {
        self.push(Kind::Text, text, learned, true);
    }

    /// Text of the template with tags in it.
    fn markup(&mut self, mut text: &'static str, learned: bool) {
        let mut from = 0;
        while let Some(at) = memchr::memchr(b'<', &text.as_bytes()[from..]).map(|found| from + found) {
            let Some(marker) = MARKERS.iter().find(|m| text[at..].starts_with(*m)) else {
                from = at + 1;
                continue;
            };
            self.push(Kind::Text, &text[..at], learned, false);
            self.push(Kind::Marker, *marker, learned, false);
            text = &text[at + marker.len()..];
            from = 0;
        }
        self.push(Kind::Text, text, learned, false);
    }

    fn end(self, after: &[Piece]) -> Turn<'a> {
        self.learned_end(after, false)
    }

    fn learned_end(mut self, after: &[Piece], learned: bool) -> Turn<'a> {
        self.pieces(after, learned);
        Turn { role: self.role, segments: self.segments }
    }
}

impl Rendered<'_> {
    /// The whole text, as a chat template would print it; `eos` is the tokenizer's end-of-sequence token.
    #[must_use]
    pub fn text(&self, eos: &str) -> String {
        let segments = self.turns.iter().flat_map(|t| &t.segments);
        segments.map(|s| if s.kind == Kind::Control && s.text.is_empty() { eos } else { &s.text }).collect()
    }
}
