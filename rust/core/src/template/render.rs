//! Conversation → turns of segments.

use super::chat_template::{ChatTemplate, Frame, Piece, SystemPlace, Thinking, ToolStyle};
use super::segment::{Kind, Segment, Turn};
use super::tools::{Offer, offered};
use crate::conversation::{Conversation, Message, Role};
use crate::reasons::Notice;
use crate::record::pyjson;
use memchr::memmem::Finder;
use std::borrow::Cow;
use std::sync::LazyLock;

/// Tags that templates write and tokenizers may know as one token.
const MARKERS: [&str; 6] =
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"];

const TOOLS_BEFORE: &str = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>";
const TOOLS_AFTER: &str = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

/// What is asked of a sample, where the data does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learn {
    /// Prompts too.
    pub prompts: bool,
    /// Of the answers only the last.
    pub last_answer_only: bool,
    /// Rendered for a model that does not think: as its prompts are with thinking off.
    pub without_thinking: bool,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered<'a> {
    /// Its turns, in order.
    pub turns: Vec<Turn<'a>>,
    /// What the report mentions, by name.
    pub notices: Vec<Notice>,
}

impl ChatTemplate {
    /// Renders a repaired conversation. `system` replaces the template's own default system prompt.
    #[must_use]
    pub fn render<'a>(
        &'a self,
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
            rendered.turns.push(Builder::new(Role::System, &self.begin).end(&[]));
        }
        let default = system.unwrap_or(&self.default_system);
        let own = first.map(|m| m.content.as_ref());
        // A system prompt that is printed inside the next question.
        let mut waiting = Vec::new();
        if let Some(turn) = self.render_system(own, default, conversation.tools.as_deref(), &mut rendered.notices) {
            self.place_system(turn, &mut waiting, &mut rendered.turns);
        }

        let last_answer = rest.iter().rposition(|m| m.role == Role::Assistant);
        let last_query = rest.iter().rposition(is_query);
        let mut at = 0;
        while at < rest.len() {
            let message = &rest[at];
            if message.role == Role::Assistant && !waiting.is_empty() {
                rendered.turns.push(self.render_prompt(Role::User, &mut waiting, "", false));
            }
            if message.role != Role::Assistant && has_an_answers_parts(message) {
                rendered.notices.push(Notice::ContentLeftOut);
            }
            match message.role {
                Role::Tool if self.tools == ToolStyle::Qwen => {
                    let run = rest[at..].iter().take_while(|m| m.role == Role::Tool).count();
                    let parts = rest[at + 1..at + run].iter().filter(|m| has_an_answers_parts(m)).count();
                    rendered.notices.extend(std::iter::repeat_n(Notice::ContentLeftOut, parts));
                    rendered.turns.push(tool_responses(&self.user, &rest[at..at + run]));
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
                    if is_empty_prompt(message) {
                        rendered.notices.push(Notice::EmptyPrompt);
                    }
                    if role == Role::Tool && self.tool.is_none() {
                        rendered.notices.push(Notice::ToolResultAsQuestion);
                    }
                    let learned = message.loss == Some(true);
                    if role == Role::System {
                        let mut turn = Builder::new(role, &self.system.before);
                        turn.content(trimmed(&message.content, self.system.trim), learned);
                        self.place_system(turn.end(&self.system.after), &mut waiting, &mut rendered.turns);
                    } else {
                        rendered.turns.push(self.render_prompt(role, &mut waiting, &message.content, learned));
                    }
                }
            }
            at += 1;
        }
        if !waiting.is_empty() {
            rendered.turns.push(self.render_prompt(Role::User, &mut waiting, "", false));
        }
        if let Some(turn) = rendered.turns.last_mut().filter(|t| t.role == Role::Assistant && !self.end.is_empty()) {
            let learned = turn.segments.last().is_some_and(|s| s.learned);
            let mut end = Builder::new(Role::Assistant, &[]);
            end.pieces(&self.end, learned);
            turn.segments.append(&mut end.segments);
        }
        if learn.prompts {
            for turn in rendered.turns.iter_mut().filter(|t| t.role != Role::Assistant) {
                turn.segments.iter_mut().for_each(|s| s.learned = true);
            }
        }
        rendered
    }

    /// The generation prompt.
    #[must_use]
    pub fn generation_prompt(&self, enable_thinking: bool) -> Turn<'_> {
        let mut turn = Builder::new(Role::Assistant, &self.prompt);
        if self.thinking == Thinking::Qwen3 && !enable_thinking {
            turn.markup("<think>\n\n</think>\n\n", false);
        }
        Turn { role: Role::Assistant, segments: turn.segments }
    }

    /// The system prompt in its frame, or none.
    fn render_system<'a>(
        &'a self,
        own: Option<&'a str>,
        default: &'a str,
        tools: Option<&'a str>,
        notices: &mut Vec<Notice>,
    ) -> Option<Turn<'a>> {
        let system = own.unwrap_or(default);
        let mut turn = Builder::new(Role::System, &self.system.before);
        match tools {
            None if own.is_none() && system.is_empty() && !self.system_always => return None,
            None => turn.content(trimmed(system, self.system.trim), false),
            Some(tools) => {
                turn.content(system, false);
                match self.tools {
                    ToolStyle::Qwen => {
                        turn.template(if own.is_none() && system.is_empty() { "" } else { "\n\n" });
                        turn.markup(TOOLS_BEFORE, false);
                        let (lines, done) = tool_lines(tools);
                        notices.extend(done);
                        for tool in lines {
                            turn.template("\n");
                            turn.content(tool, false);
                        }
                        turn.markup(TOOLS_AFTER, false);
                    }
                    ToolStyle::Unknown => {
                        notices.push(Notice::ToolsAsPlainText);
                        turn.template(if system.is_empty() { "" } else { "\n\n" });
                        turn.content(tools, false);
                    }
                }
            }
        }
        Some(turn.end(&self.system.after))
    }

    /// A system turn goes where the template has it: by itself, or into the question that follows.
    fn place_system<'a>(&self, turn: Turn<'a>, waiting: &mut Vec<Segment<'a>>, turns: &mut Vec<Turn<'a>>) {
        if self.system_in == SystemPlace::OwnTurn {
            turns.push(turn);
        } else {
            waiting.extend(turn.segments);
        }
    }

    /// A user or tool turn, with the system prompt that is printed inside it.
    fn render_prompt<'a>(
        &'a self,
        role: Role,
        waiting: &mut Vec<Segment<'a>>,
        text: &'a str,
        learned: bool,
    ) -> Turn<'a> {
        let frame = if role == Role::Tool { self.tool.as_ref().unwrap_or(&self.user) } else { &self.user };
        let mut turn = Builder::new(role, &frame.before);
        let joined = self.system_in == SystemPlace::FirstUserContent && !waiting.is_empty() && frame.trim;
        let first = turn.segments.len();
        turn.segments.append(waiting);
        turn.content(trimmed(text, frame.trim && !joined), learned);
        if joined {
            trim_segments(&mut turn.segments, first);
        }
        turn.end(&frame.after)
    }

    /// An answer. `behind`: it comes after the last question; `last`: it is the last turn.
    fn render_answer<'a>(
        &'a self,
        message: &'a Message<'_>,
        learned: bool,
        behind: bool,
        last: bool,
        notices: &mut Vec<Notice>,
    ) -> Turn<'a> {
        let mut turn = Builder::new(Role::Assistant, &self.prompt);
        turn.pieces(&self.assistant.before, learned);
        let content = message.content.as_ref();
        let (reasoning, content) = match (self.thinking, &message.reasoning) {
            (_, Some(reasoning)) => (reasoning.as_ref(), content),
            (Thinking::Qwen3, None) => {
                let (thoughts, answer, whole) = split_thoughts(content);
                if !whole {
                    notices.push(Notice::ContentLeftOut);
                }
                (thoughts, answer)
            }
            (Thinking::Unknown, None) => ("", content),
        };
        let mut answer = content;
        if self.thinking == Thinking::Qwen3 && behind && (last || !reasoning.is_empty()) {
            answer = content.trim_start_matches('\n');
            let thoughts = reasoning.trim_matches('\n');
            if thoughts.is_empty() {
                // Not supervised: it is part of the generation prompt when thinking is disabled.
                turn.markup("<think>\n\n</think>\n\n", false);
            } else {
                turn.markup("<think>\n", learned);
                turn.content(thoughts, learned);
                turn.markup("\n</think>\n\n", learned);
            }
        } else if !reasoning.is_empty() {
            notices.push(Notice::ThoughtsLeftOut);
        }
        answer = trimmed(answer, self.assistant.trim);
        if learned && starts_with_blanks(answer) {
            notices.push(Notice::AnswerStartsWithBlanks);
        }
        turn.content(answer, learned);
        for (i, call) in message.tool_calls.iter().enumerate() {
            let start = if i > 0 || !answer.is_empty() { "\n<tool_call>\n" } else { "<tool_call>\n" };
            turn.markup(start, learned);
            turn.content(call.as_str(), learned);
            turn.markup("\n</tool_call>", learned);
        }
        turn.learned_end(&self.assistant.after, learned)
    }
}

fn trimmed(text: &str, trim: bool) -> &str {
    if trim { python_strip(text) } else { text }
}

/// Removes the blanks at both ends of the segments from `first` on.
fn trim_segments(segments: &mut Vec<Segment<'_>>, first: usize) {
    while let Some(last) = segments.last_mut().filter(|s| s.kind == Kind::Text) {
        last.text = Cow::Owned(trim_python_end(&last.text).to_owned());
        if !last.text.is_empty() || segments.len() <= first + 1 {
            break;
        }
        segments.pop();
    }
    if let Some(head) = segments.get_mut(first).filter(|s| s.kind == Kind::Text) {
        head.text = Cow::Owned(head.text.trim_start_matches(is_python_blank).to_owned());
    }
}

/// A question by the user; a tool's result in a user turn is not one.
fn is_query(message: &Message<'_>) -> bool {
    let text = message.content.as_ref();
    message.role == Role::User && !(text.starts_with("<tool_response>") && text.ends_with("</tool_response>"))
}

/// `(thoughts, answer, whole)` of content with a `</think>` in it, split as Qwen3's own template does. It prints neither what
/// stands before `<think>` nor what stands between two thoughts; `whole` is false where there is any.
fn split_thoughts(content: &str) -> (&str, &str, bool) {
    // Nearly every answer has none, and what is made once for all of them need not be made again.
    static CLOSE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("</think>"));
    let Some(first) = CLOSE.find(content.as_bytes()) else { return ("", content, true) };
    let (between, after) = content[first..].rsplit_once("</think>").unwrap_or_default();
    let before = content[..first].trim_end_matches('\n');
    let (unseen, thoughts) = before.rsplit_once("<think>").unwrap_or(("", before));
    let whole = between.is_empty() && python_strip(unseen).is_empty();
    (thoughts.trim_start_matches('\n'), after.trim_start_matches('\n'), whole)
}

/// Each tool on a line of its own, or the text as it is.
fn tool_lines(text: &str) -> (Vec<String>, Vec<Notice>) {
    match offered(text) {
        Some(Offer { tools, notices }) => (tools.iter().map(pyjson::dumps).collect(), notices),
        None => (vec![text.to_owned()], vec![Notice::ToolsAsPlainText]),
    }
}

/// The results of tools in a user turn, after its header.
fn tool_responses<'a>(user: &'a Frame, messages: &'a [Message<'_>]) -> Turn<'a> {
    let mut turn = Builder::new(Role::Tool, &user.before);
    for (i, message) in messages.iter().enumerate() {
        turn.markup(if i == 0 { "<tool_response>\n" } else { "\n<tool_response>\n" }, false);
        turn.content(message.content.as_ref(), false);
        turn.markup("\n</tool_response>", false);
    }
    turn.end(&user.after)
}

/// Whether a turn has calls or thoughts, which only answers are printed with.
fn has_an_answers_parts(message: &Message<'_>) -> bool {
    !message.tool_calls.is_empty() || message.reasoning.as_deref().is_some_and(|thought| !thought.trim().is_empty())
}

/// Whether a prompt is empty.
pub(super) fn is_empty_prompt(message: &Message<'_>) -> bool {
    message.content.trim_ascii().is_empty()
}

/// Whether an answer begins with a line break, or with several blanks. There, and only there, the line break that ends
/// a ChatML header may share a token with the answer when the whole text is tokenized at once.
pub(super) fn starts_with_blanks(text: &str) -> bool {
    let blanks = text.len() - text.trim_start().len();
    blanks > 1 || text.starts_with(['\n', '\r'])
}

/// Python's `str.strip`, which also takes the four ASCII separators.
fn python_strip(text: &str) -> &str {
    text.trim_matches(is_python_blank)
}

fn trim_python_end(text: &str) -> &str {
    text.trim_end_matches(is_python_blank)
}

pub(super) fn is_python_blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

struct Builder<'a> {
    role: Role,
    segments: Vec<Segment<'a>>,
}

impl<'a> Builder<'a> {
    fn new(role: Role, before: &'a [Piece]) -> Self {
        let mut builder = Self { role, segments: Vec::with_capacity(before.len() + 7) };
        builder.pieces(before, false);
        builder
    }

    fn push(&mut self, kind: Kind, text: impl Into<Cow<'a, str>>, learned: bool, content: bool) {
        let text = text.into();
        if !text.is_empty() || kind == Kind::Control {
            self.segments.push(Segment { kind, text, learned, content });
        }
    }

    fn pieces(&mut self, pieces: &'a [Piece], learned: bool) {
        for piece in pieces {
            match piece {
                Piece::Control(token) => self.push(Kind::Control, token.as_str(), learned, false),
                Piece::Text(text) => self.push(Kind::Text, text.as_str(), learned, false),
                // A template that is bound to a tokenizer has none left.
                Piece::Bos => {}
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

    fn end(self, after: &'a [Piece]) -> Turn<'a> {
        self.learned_end(after, false)
    }

    fn learned_end(mut self, after: &'a [Piece], learned: bool) -> Turn<'a> {
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
