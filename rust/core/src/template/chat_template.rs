//! A chat template that is data: what is printed around the content of each role.

use serde::{Deserialize, Serialize};

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) enum Piece {
    Control(String),
    Text(String),
    /// The tokenizer's beginning-of-sequence token, if it has one.
    Bos,
    /// The tokenizer's end-of-sequence token.
    Eos,
}

/// What is printed around the content of a role's turns.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Frame {
    pub(super) before: Vec<Piece>,
    pub(super) after: Vec<Piece>,
    /// The content loses its leading and trailing blanks.
    pub(super) trim: bool,
}

/// Where the system prompt is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemPlace {
    /// In a turn of its own.
    #[default]
    OwnTurn,
    /// In the first question, before its content.
    FirstUser,
    /// The same, as a part of its content: the two are trimmed together.
    FirstUserContent,
}

/// How the model's reasoning is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// Not supported by the template: it is left out, and counted.
    #[default]
    #[serde(rename = "none")]
    Unknown,
    /// Qwen3: only after the last question; an empty block if there is none.
    Qwen3,
}

/// How tools are offered and called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolStyle {
    /// Not supported by the template: the description is appended to the system prompt unchanged, and counted.
    #[default]
    #[serde(rename = "none")]
    Unknown,
    /// Qwen's: a `# Tools` section, `<tool_call>` and `<tool_response>` tags.
    Qwen,
}

/// A chat template that is data.
#[derive(Debug, Clone, Serialize)]
pub struct ChatTemplate {
    /// Its name in configs.
    pub name: String,
    pub(super) begin: Vec<Piece>,
    pub(super) default_system: String,
    pub(super) system: Frame,
    pub(super) system_in: SystemPlace,
    /// There is a system turn even without a system prompt.
    pub(super) system_always: bool,
    pub(super) user: Frame,
    /// How an answer's turn begins: it is given for generation, so never supervised.
    pub(super) prompt: Vec<Piece>,
    /// The rest of an answer's turn, which is supervised.
    pub(super) assistant: Frame,
    /// None: a tool's result is printed as a user turn.
    pub(super) tool: Option<Frame>,
    /// Printed after a last answer.
    pub(super) end: Vec<Piece>,
    pub(super) thinking: Thinking,
    pub(super) tools: ToolStyle,
}

impl ChatTemplate {
    /// The same with the tokenizer's own tokens in place of `{bos}` and `{eos}`; without a bos token none is printed.
    #[must_use]
    pub fn bound(&self, bos: Option<&str>, eos: Option<&str>) -> Self {
        let mut bound = self.clone();
        let ChatTemplate { begin, system, user, prompt, assistant, tool, end, .. } = &mut bound;
        let frames = [system, user, assistant].into_iter().chain(tool);
        let parts = frames.flat_map(|f| [&mut f.before, &mut f.after]).chain([begin, prompt, end]);
        for pieces in parts {
            pieces.retain(|piece| bos.is_some() || *piece != Piece::Bos);
            for piece in pieces {
                match (&piece, bos, eos) {
                    (Piece::Bos, Some(bos), _) => *piece = Piece::Control(bos.to_owned()),
                    (Piece::Eos, _, Some(eos)) => *piece = Piece::Control(eos.to_owned()),
                    _ => {}
                }
            }
        }
        bound
    }

    /// Control tokens that the tokenizer must have; `None` stands for its end-of-sequence token.
    pub fn required(&self) -> impl Iterator<Item = Option<&str>> {
        let frames = [&self.system, &self.user, &self.assistant].into_iter().chain(&self.tool);
        let parts = frames.flat_map(|f| [&f.before, &f.after]).chain([&self.begin, &self.prompt, &self.end]);
        parts.flat_map(|pieces| tokens(pieces))
    }

    /// The tokens that end an answer; `None` stands for the end-of-sequence token.
    pub fn stops(&self) -> impl Iterator<Item = Option<&str>> {
        tokens(&self.assistant.after)
    }
}

fn tokens(pieces: &[Piece]) -> impl Iterator<Item = Option<&str>> {
    pieces.iter().filter_map(|piece| match piece {
        Piece::Control(token) => Some(Some(token.as_str())),
        Piece::Eos => Some(None),
        Piece::Text(_) | Piece::Bos => None,
    })
}
