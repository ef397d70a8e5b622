//! Where the turns of a rendered text begin and end, and which of it is learned.
//!
//! A turn ends where the rendering of the dialogue up to it ends. A template may rewrite earlier turns when later ones
//! come (Qwen3 drops their thoughts), so only what follows the last content of such a rendering is compared with the
//! whole text, behind the same content. An answer is learned from where the rendering of all before it, with the
//! generation prompt, ends.

use super::mask::{Hidden, Masked, Word};
use super::program::{Asked, Jinja};
use super::values::Part;
use crate::conversation::{Conversation, Role};
use crate::reasons::{Notice, Reason};
use crate::template::controls::Controls;
use crate::template::render::{Learn, Rendered, is_empty_prompt, starts_with_blanks};
use crate::template::segment::{Kind, Segment, Turn};

pub(super) struct Locator<'l> {
    pub(super) jinja: &'l Jinja,
    pub(super) masked: &'l Masked,
    pub(super) controls: &'l Controls,
}

impl Locator<'_> {
    /// The turns of `text`, the whole rendering.
    pub(super) fn turns(
        &self,
        text: &str,
        conversation: &Conversation<'_>,
        learn: Learn,
    ) -> Result<Rendered<'static>, Reason> {
        let messages = &conversation.messages;
        let words = self.masked.words(text);
        let last_answer = messages.iter().rposition(|m| m.role == Role::Assistant);
        let mut rendered = Rendered { turns: Vec::new(), notices: self.left_out(&words, conversation) };
        let mut from = 0;
        for (i, message) in messages.iter().enumerate() {
            let answer = message.role == Role::Assistant;
            let learned = if answer {
                message.is_learned() && (!learn.last_answer_only || Some(i) == last_answer)
            } else {
                learn.prompts || message.is_learned()
            };
            let end = if i + 1 == messages.len() { Some(text.len()) } else { self.end(text, &words, i, answer) };
            let Some(end) = end.filter(|&end| end >= from) else {
                if answer {
                    return Err(Reason::TemplateRewritesTurns);
                }
                continue; // its text goes with the next turn
            };
            if !answer && is_empty_prompt(message) {
                rendered.notices.push(Notice::EmptyPrompt);
            }
            let start = match (learned, answer) {
                (false, _) => end,
                (true, false) => from,
                (true, true) => {
                    let start = self.start(text, &words, i).filter(|s| (from..=end).contains(s));
                    start.ok_or(Reason::TemplateRewritesTurns)?
                }
            };
            let mut segments = self.masked.segments(text, from..start, self.controls);
            let header = segments.len();
            segments.extend(self.masked.segments(text, start..end, self.controls));
            segments[header..].iter_mut().for_each(|s| s.learned = true);
            if answer && segments.get(header).is_some_and(|s| s.kind == Kind::Text && starts_with_blanks(&s.text)) {
                rendered.notices.push(Notice::AnswerStartsWithBlanks);
            }
            rendered.turns.push(Turn { role: message.role, segments });
            from = end;
        }
        self.check_answers(&words, conversation, &rendered.turns)?;
        Ok(rendered)
    }

    /// Where message `i` ends.
    fn end(&self, text: &str, words: &[Word], i: usize, answer: bool) -> Option<usize> {
        let so_far = self.jinja.print(&self.masked.messages[..=i], &self.masked.tools, Asked::default()).ok()?;
        let (anchor, tail) = self.tail(&so_far, words)?;
        let rest = &text[anchor..];
        if rest.starts_with(tail) {
            return Some(anchor + tail.len());
        }
        // A template may close the whole text with something that does not close the turn.
        let ours = self.controls.split(tail);
        let theirs = self.controls.split(rest);
        let equal = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).map(|(a, _)| a);
        let (length, closed) = equal.fold((0, false), |(n, c), (kind, t)| (n + t.len(), c || *kind != Kind::Text));
        (closed || !answer).then_some(anchor + length)
    }

    /// Where the learned text of answer `i` begins: behind the longest generation prompt that stands there.
    fn start(&self, text: &str, words: &[Word], i: usize) -> Option<usize> {
        let before = &self.masked.messages[..i];
        let ends = [None, Some(false), Some(true)].into_iter().filter_map(|thinking| {
            let so_far = self.jinja.print(before, &self.masked.tools, Asked { prompt: true, thinking }).ok()?;
            let (anchor, tail) = self.tail(&so_far, words)?;
            text[anchor..].starts_with(tail).then_some(anchor + tail.len())
        });
        ends.max()
    }

    /// What a rendering of the dialogue's beginning has behind its last content, and where that content ends in the
    /// whole text.
    fn tail<'t>(&self, so_far: &'t str, words: &[Word]) -> Option<(usize, &'t str)> {
        match self.masked.words(so_far).pop() {
            None => Some((0, so_far)),
            Some(last) => {
                let anchor = words.iter().rfind(|word| word.index == last.index)?.at.end;
                Some((anchor, &so_far[last.at.end..]))
            }
        }
    }

    /// Contents that the template did not print.
    fn left_out(&self, words: &[Word], conversation: &Conversation<'_>) -> Vec<Notice> {
        let missing = (0..self.masked.hidden.len()).filter(|&i| !words.iter().any(|word| word.index == i));
        // What an answer loses, and not all of it (see below), is what it thought between its tags.
        let name = |i: usize| match &self.masked.hidden[i] {
            hidden if hidden.part != Part::Called && conversation.messages[hidden.message].role == Role::Assistant => {
                Notice::ThoughtsLeftOut
            }
            _ => Notice::ContentLeftOut,
        };
        missing.map(name).collect()
    }

    /// Every learned answer must be there, and nothing else may be learned with it.
    fn check_answers(&self, words: &[Word], conversation: &Conversation<'_>, turns: &[Turn<'_>]) -> Result<(), Reason> {
        let learned = |s: &Segment<'_>| s.learned && s.content;
        if self.masked.hidden.is_empty() {
            return Ok(());
        }
        for (i, message) in conversation.messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
            let own: Vec<usize> =
                (0..self.masked.hidden.len()).filter(|&w| self.masked.hidden[w].message == i).collect();
            let said = own.iter().any(|&w| words.iter().any(|word| word.index == w));
            if message.is_learned() && !own.is_empty() && !said {
                return Err(Reason::AnswerLeftOutByTheTemplate);
            }
        }
        let contents: Vec<&str> = turns
            .iter()
            .filter(|t| t.role == Role::Assistant)
            .flat_map(|t| t.segments.iter().filter(|s| learned(s)).map(|s| s.text.as_ref()))
            .collect();
        let of_answers = |text: &str| {
            let answer = |h: &Hidden| conversation.messages[h.message].role == Role::Assistant;
            self.masked.hidden.iter().any(|h| answer(h) && h.text == text)
        };
        if contents.into_iter().all(of_answers) { Ok(()) } else { Err(Reason::TemplateRewritesTurns) }
    }
}
