//! A chat template that is data: what stands around the content of each role.

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

/// What stands around the content of a role's turns.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Frame {
    pub(super) before: Vec<Piece>,
    pub(super) after: Vec<Piece>,
    /// The content loses its leading and trailing blanks.
    pub(super) trim: bool,
}

/// Where the system prompt stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemPlace {
    /// In a turn of its own.
    #[default]
    OwnTurn,
    /// In the first question, before its content.
    FirstUser,
    /// The same, as a part of its content: what is trimmed is the two together.
    FirstUserContent,
}

/// What becomes of the model's thoughts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// The template knows none: they are left out, and counted.
    #[default]
    #[serde(rename = "none")]
    Unknown,
    /// Qwen3: only behind the last question; an empty block where there are none.
    Qwen3,
}

/// How tools are offered and called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolStyle {
    /// The template knows none: the offer is appended to the system prompt as it stands, and counted.
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
    /// How an answer's turn begins: given when it is to be generated, so never learned.
    pub(super) prompt: Vec<Piece>,
    /// The rest of an answer's turn, which is learned.
    pub(super) assistant: Frame,
    /// None: a tool's result is a question like others.
    pub(super) tool: Option<Frame>,
    /// Behind a last answer.
    pub(super) end: Vec<Piece>,
    pub(super) thinking: Thinking,
    pub(super) tools: ToolStyle,
}

impl ChatTemplate {
    /// The same with the tokenizer's own tokens in place of `{bos}` and `{eos}`; a tokenizer without bos writes none.
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
