//! Chat templates as data: a conversation becomes turns of segments.
//!
//! Control tokens exist only as [`Kind::Control`] and [`Kind::Marker`] segments that a template writes; whatever a user
//! typed is [`Kind::Text`] and is encoded by a tokenizer that knows no control tokens. A border between learned and
//! not learned is a border between segments, so no token straddles it.

mod builtin;
mod detect;
mod render;

pub use builtin::{find, names};
pub use detect::detect;
pub use render::{Learn, Rendered};

use crate::conversation::Role;
use serde::Serialize;
use std::borrow::Cow;

/// What a segment is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One control token, which the tokenizer must have.
    Control,
    /// A tag such as `<think>`: one token where the tokenizer has it, text elsewhere.
    Marker,
    /// Text.
    Text,
}

/// A piece of a rendered turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment<'a> {
    /// What it is made of.
    pub kind: Kind,
    /// Its text, or the name of its token.
    pub text: Cow<'a, str>,
    /// Whether it is learned.
    pub learned: bool,
    /// Whether it came with the data; the rest is the template's own and is never cut.
    pub content: bool,
}

/// One rendered turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn<'a> {
    /// Who speaks. The beginning of a text (bos) is a system turn of its own.
    pub role: Role,
    /// Its pieces, in order.
    pub segments: Vec<Segment<'a>>,
}

/// A piece of a template.
#[derive(Debug, Clone, Copy, Serialize)]
enum Piece {
    Control(&'static str),
    Text(&'static str),
    /// The tokenizer's end-of-sequence token.
    Eos,
}

/// What stands around the content of a role's turns.
#[derive(Debug, Clone, Copy, Serialize)]
struct Frame {
    before: &'static [Piece],
    after: &'static [Piece],
}

/// What becomes of the model's thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Thinking {
    /// The template knows none: they are left out, and counted.
    Unknown,
    /// Qwen3: only behind the last question; an empty block where there are none.
    Qwen3,
}

/// How tools are offered and called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum ToolStyle {
    /// The template knows none: the offer is appended to the system prompt as it stands, and counted.
    Unknown,
    /// Qwen's: a `# Tools` section, `<tool_call>` and `<tool_response>` tags.
    Qwen,
}

/// A chat template.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ChatTemplate {
    /// Its name in configs.
    pub name: &'static str,
    begin: &'static [Piece],
    default_system: &'static str,
    system: Frame,
    user: Frame,
    assistant: Frame,
    tool: Frame,
    /// Content loses its leading and trailing blanks.
    trim: bool,
    thinking: Thinking,
    tools: ToolStyle,
}

impl ChatTemplate {
    /// The system prompt of rows that have none.
    #[must_use]
    pub fn default_system(&self) -> &'static str {
        self.default_system
    }

    /// Control tokens that the tokenizer must have; `None` stands for its end-of-sequence token.
    pub fn required(&self) -> impl Iterator<Item = Option<&'static str>> {
        [self.system, self.user, self.assistant, self.tool]
            .into_iter()
            .flat_map(|f| f.before.iter().chain(f.after))
            .chain(self.begin)
            .filter_map(|piece| match piece {
                Piece::Control(token) => Some(Some(*token)),
                Piece::Eos => Some(None),
                Piece::Text(_) => None,
            })
    }

    /// The tokens that end an answer; `None` stands for the end-of-sequence token.
    pub fn stops(&self) -> impl Iterator<Item = Option<&'static str>> {
        self.assistant.after.iter().filter_map(|piece| match piece {
            Piece::Control(token) => Some(Some(*token)),
            Piece::Eos => Some(None),
            Piece::Text(_) => None,
        })
    }
}
