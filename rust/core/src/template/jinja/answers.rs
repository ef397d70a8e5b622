//! Where the turns of a rendered text begin and end.
//!
//! A turn ends where the rendering of the dialogue up to it ends. An answer is learned from where the rendering of all
//! before it, with the generation prompt, ends; where an answer does not begin as that prompt does (a prompt that opens
//! a thought which the answer does not have), from where the two part.
//!
//! Some templates print the generation prompt behind a dialogue though none is asked for. There an answer ends behind the
//! token that closes it, and what follows is not learned.

use super::model::{Asked, reason};
use super::pieces::{common, data, pieces};
use super::printer::Printer;
use crate::jinja::Text;
use crate::reasons::Reason;
use crate::template::controls::Controls;
use crate::template::segment::Kind;

/// Where a turn ends in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) at: usize,
    /// Behind its content stands a token that ends an answer.
    pub(super) closed: bool,
}

/// Where the learned text of an answer begins.
pub(super) struct Start {
    pub(super) at: usize,
    /// The prompt that ends there, if all of it stands before. What of it an answer repeats (`<think>`) is the prompt's.
    pub(super) prompt: Option<Text>,
    /// The answer does not begin as any prompt does: they part here.
    pub(super) parted: bool,
}

impl Start {
    /// Of a turn that is no answer.
    pub(super) fn plain(at: usize) -> Self {
        Self { at, prompt: None, parted: false }
    }
}

/// Finds the turns of `text`, which is the rendering of the first messages.
pub(super) struct Finder<'f> {
    pub(super) printer: &'f Printer<'f>,
    pub(super) controls: &'f Controls,
    pub(super) text: &'f Text,
}

impl Finder<'_> {
    /// Where message `i` ends; none if it, or something before it, stands there otherwise than where it was the last.
    ///
    /// # Errors
    ///
    /// The reason to drop the row: the template does not print an answer as the last message.
    pub(super) fn end(&self, i: usize, answer: bool) -> Result<Option<End>, Reason> {
        let alone = match self.printer.sample(i + 1) {
            Ok(alone) => alone,
            Err(fault) if answer => return Err(reason(fault)),
            Err(_) => return Ok(None),
        };
        let (own, whole) = (alone.as_str(), self.text.as_str());
        let equal = common(own, whole);
        let said = data(&alone, 0..own.len(), |m| m == i).map(|range| range.end);
        let from = said.unwrap_or(equal).min(equal);
        if let Some(closed) = self.closed_before_a_prompt(i, answer, &alone, from) {
            return Ok((closed.at <= equal).then_some(closed));
        }
        if equal == own.len() {
            return Ok(Some(self.close(self.closes(&alone, from, equal), equal)));
        }
        let Some(said) = said.filter(|said| *said <= equal) else { return Ok(None) };
        // A template may close the whole text with something that does not close the turn.
        let (ours, theirs) = (pieces(&alone, said, self.controls), pieces(self.text, said, self.controls));
        let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).map(|(piece, _)| piece);
        let (length, closed) = same.fold((0, false), |(length, closed), (kind, piece)| {
            (length + piece.len(), closed || *kind == Kind::Control && self.printer.jinja.closes(piece))
        });
        Ok((closed || !answer).then_some(End { at: said + length, closed }))
    }

    /// Where message `i`, which says no more from `from` on, is closed, if the template prints a generation prompt behind
    /// it unasked: behind the first token at which serving stops; an answer without one, behind the first token that
    /// prompts have before them, too.
    fn closed_before_a_prompt(&self, i: usize, answer: bool, alone: &Text, from: usize) -> Option<End> {
        let before = self.printer.with_unasked_prompt(if answer { i } else { i + 1 })?;
        let asked = data(&before, 0..before.as_str().len(), |_| true).map_or(0, |range| range.end);
        let (tail, prompt) = (&alone.as_str()[from..], &before.as_str()[asked..]);
        let equal = tail.bytes().rev().zip(prompt.bytes().rev()).take_while(|(a, b)| a == b).count();
        let mut at = 0;
        let mut closings = Vec::new();
        for (kind, piece) in pieces(alone, from, self.controls) {
            let start = at;
            at += piece.len();
            if kind == Kind::Control {
                closings.push((piece, start..at));
            }
        }
        let stop = closings.iter().find(|(token, _)| self.printer.jinja.stops_at(token));
        let shared = || closings.iter().find(|(_, token)| answer && tail.len() - token.start <= equal);
        let (_, closing) = stop.or_else(shared)?;
        let follows = &tail[closing.end..];
        let prompts = follows.len() <= equal && !follows.trim().is_empty();
        prompts.then_some(End { at: from + closing.end, closed: true })
    }

    /// Whether a token that ends an answer stands between `from` and `to`.
    fn closes(&self, text: &Text, from: usize, to: usize) -> bool {
        let mut at = from;
        pieces(text, from, self.controls).into_iter().any(|(kind, piece)| {
            at += piece.len();
            at <= to && kind == Kind::Control && self.printer.jinja.closes(piece)
        })
    }

    /// The end of a turn, with the token behind it where serving stops there and nothing closes it before.
    fn close(&self, closed: bool, at: usize) -> End {
        if closed {
            return End { at, closed };
        }
        match pieces(self.text, at, self.controls).first() {
            Some((Kind::Control, token)) if self.printer.jinja.stops_at(token) => {
                End { at: at + token.len(), closed: true }
            }
            _ => End { at, closed: false },
        }
    }

    /// Where the learned text of answer `i` begins, between `from`, where the turn before it ends, and `to`.
    pub(super) fn start(&self, i: usize, from: usize, to: usize) -> Option<Start> {
        let whole = self.text.as_str();
        let own = data(self.text, from..to, |m| m == i).map_or(to, |range| range.start);
        let (mut prompted, mut parting): (Option<Text>, Option<usize>) = (None, None);
        for thinking in self.printer.thinking {
            let Ok(prompt) = self.printer.print(i, Asked { prompt: true, thinking: *thinking }) else { continue };
            let equal = common(prompt.as_str(), whole);
            let all = equal == prompt.as_str().len() && equal <= to;
            let at = if all { equal } else { self.before(from, equal.min(own)) };
            // What stands before may be printed otherwise by now: then the two part too early.
            if at < from || data(self.text, at..own.max(at), |m| m != i).is_some() {
                continue;
            }
            if !all {
                parting = parting.max(Some(at));
            } else if prompted.as_ref().is_none_or(|longest| longest.as_str().len() < at) {
                prompted = Some(prompt);
            }
        }
        if let Some(prompt) = prompted {
            return Some(Start { at: prompt.as_str().len(), prompt: Some(prompt), parted: false });
        }
        let behind = self.behind_prompt(i, from, own);
        let at = parting.max(behind)?;
        Some(Start { at, prompt: None, parted: behind != Some(at) })
    }

    /// Behind the last generation prompt in front of what answer `i` says: for templates that print what stands before
    /// otherwise as soon as there is an answer, and for those that close a tool's result only then.
    fn behind_prompt(&self, i: usize, from: usize, own: usize) -> Option<usize> {
        let plain = self.printer.sample(i).ok()?;
        let ends = self.printer.thinking.iter().filter_map(|&thinking| {
            let prompted = self.printer.print(i, Asked { prompt: true, thinking }).ok()?;
            let prompt = prompted.as_str().strip_prefix(plain.as_str()).filter(|prompt| !prompt.is_empty())?;
            let places = self.text.as_str().get(from..own)?.rmatch_indices(prompt);
            let mut ends = places.map(|(at, _)| from + at..from + at + prompt.len());
            ends.find(|place| data(self.text, place.clone(), |_| true).is_none()).map(|place| place.end)
        });
        ends.max()
    }

    /// The last place up to `at` where no token and no word is cut.
    fn before(&self, from: usize, at: usize) -> usize {
        if at <= from {
            return at;
        }
        let mut place = from;
        for (kind, piece) in pieces(self.text, from, self.controls) {
            let end = place + piece.len();
            if end <= at {
                place = end;
                continue;
            }
            if kind == Kind::Text {
                let inside = &piece[..at - place];
                place += inside.rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
            }
            break;
        }
        place.min(at)
    }
}
