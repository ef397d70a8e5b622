//! Contents behind unguessable words: what of a rendered text came with the data is then seen, not guessed.

use super::values::{Part, tools, values};
use crate::conversation::{Conversation, Role};
use crate::reasons::Reason;
use crate::record::pyjson;
use crate::template::controls::Controls;
use crate::template::segment::{Kind, Segment};
use minijinja::Value;
use std::borrow::Cow;
use std::ops::Range;

/// Where templates part an answer into thoughts and reply.
pub(super) const TAGS: [&str; 2] = ["<think>", "</think>"];

/// A conversation with words in place of its contents.
pub(super) struct Masked {
    pub(super) messages: Vec<Value>,
    pub(super) tools: Value,
    key: String,
    /// What each word stands for.
    pub(super) hidden: Vec<Hidden>,
}

/// A hidden text.
pub(super) struct Hidden {
    /// The message that it is in.
    pub(super) message: usize,
    pub(super) part: Part,
    pub(super) text: String,
}

/// A word in a rendered text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) at: Range<usize>,
    /// Which of the hidden texts it stands for.
    pub(super) index: usize,
}

impl Masked {
    /// Hides every content. Blanks at its edges stay (templates strip them), and so do `tags` in answers. Texts in tool
    /// calls come back as JSON has them if `escape` is set.
    pub(super) fn new(
        conversation: &Conversation<'_>,
        source: &str,
        tags: &[&str],
        escape: bool,
    ) -> Result<Self, Reason> {
        let key = key_for(conversation, source);
        let mut hidden = Vec::new();
        let messages = values(&conversation.messages, |message, part, text| {
            let answer = conversation.messages[message].role == Role::Assistant && part == Part::Said;
            hide(text, if answer { tags } else { &[] }, &mut |core| {
                let text = if part == Part::Called && escape { pyjson::escaped(core) } else { core.to_owned() };
                hidden.push(Hidden { message, part, text });
                format!("{key}{}q", hidden.len() - 1)
            })
        })?;
        Ok(Self { messages, tools: tools(conversation)?, key, hidden })
    }

    /// Hides nothing.
    pub(super) fn nothing(conversation: &Conversation<'_>) -> Result<Self, Reason> {
        let messages = values(&conversation.messages, |_, _, text| text.to_owned())?;
        Ok(Self { messages, tools: tools(conversation)?, key: String::new(), hidden: Vec::new() })
    }

    /// The words in a rendered text, in order.
    pub(super) fn words(&self, text: &str) -> Vec<Word> {
        if self.key.is_empty() {
            return Vec::new();
        }
        let found = memchr::memmem::find_iter(text.as_bytes(), self.key.as_bytes());
        let word = |start: usize| {
            let digits = &text[start + self.key.len()..];
            let length = digits.find('q')?;
            let index = digits[..length].parse().ok().filter(|&i: &usize| i < self.hidden.len())?;
            Some(Word { at: start..start + self.key.len() + length + 1, index })
        };
        found.filter_map(word).collect()
    }

    /// The text with the contents back in place.
    pub(super) fn unmasked(&self, text: &str) -> String {
        let mut whole = String::with_capacity(text.len() * 2);
        let mut from = 0;
        for word in self.words(text) {
            whole.push_str(&text[from..word.at.start]);
            whole.push_str(&self.hidden[word.index].text);
            from = word.at.end;
        }
        whole.push_str(&text[from..]);
        whole
    }

    /// A part of a rendered text as segments: control tokens where the template wrote them, text where the data did.
    pub(super) fn segments(&self, text: &str, part: Range<usize>, controls: &Controls) -> Vec<Segment<'static>> {
        let mut segments = Vec::new();
        // Where nothing is hidden, what is not a control token may be content, and may be cut.
        let open = self.key.is_empty();
        let mut plain = |piece: &str| {
            for (kind, piece) in controls.split(piece) {
                let content = open && kind == Kind::Text;
                segments.push(Segment { kind, text: Cow::Owned(piece.to_owned()), learned: false, content });
            }
            segments.len()
        };
        let mut from = part.start;
        let mut contents = Vec::new();
        for word in self.words(text) {
            if word.at.start >= part.start && word.at.end <= part.end {
                let place = plain(&text[from..word.at.start]);
                contents.push((place, word.index));
                from = word.at.end;
            }
        }
        plain(&text[from..part.end]);
        for (place, index) in contents.into_iter().rev() {
            let text = Cow::Owned(self.hidden[index].text.clone());
            segments.insert(place, Segment { kind: Kind::Text, text, learned: false, content: true });
        }
        segments
    }
}

/// A word that neither the data nor the template holds: it depends on all of the data, so the data cannot contain it.
fn key_for(conversation: &Conversation<'_>, source: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for message in &conversation.messages {
        for text in [Some(message.content.as_ref()), message.reasoning.as_deref()].into_iter().flatten() {
            hasher.update(text.as_bytes());
        }
        for call in &message.tool_calls {
            hasher.update(call.as_bytes());
        }
    }
    format!("q{}q", &hasher.update(source.as_bytes()).finalize().to_hex().as_str()[..24])
}

/// `text` with words in place of all but the tags, and the blanks beside them and at the edges.
fn hide(text: &str, tags: &[&str], word: &mut dyn FnMut(&str) -> String) -> String {
    let next = tags.iter().filter_map(|tag| text.find(tag).map(|at| (at, *tag))).min();
    if let Some((at, tag)) = next {
        let before = hide(&text[..at], &[], word);
        return before + tag + &hide(&text[at + tag.len()..], tags, word);
    }
    let core = text.trim();
    if core.is_empty() {
        return text.to_owned();
    }
    let start = text.len() - text.trim_start().len();
    format!("{}{}{}", &text[..start], word(core), &text[start + core.len()..])
}
