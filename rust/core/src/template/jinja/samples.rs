//! How one conversation becomes one sample or several.
//!
//! The whole rendering is a sample, and every answer that stands in it as it stood when it was the last is learned from
//! it. An answer that a template prints otherwise once others follow (its thoughts go, another token ends it) is learned
//! in a sample of its own, which ends with it, and so are the earlier answers that stand there as they did.

use super::answers::{End, Finder, Start};
use super::model::reason;
use super::pieces::{data, segments};
use super::printer::Printer;
use super::talk::{Part, origin};
use crate::conversation::{Conversation, Role};
use crate::jinja::Text;
use crate::reasons::{Notice, Reason};
use crate::template::controls::Controls;
use crate::template::render::{Learn, Rendered, is_empty_prompt, is_python_blank, starts_with_blanks};
use crate::template::segment::{Kind, Segment, Turn};
use std::borrow::Cow;
use std::ops::Range;

/// Makes the samples of a conversation.
pub(super) struct Maker<'m> {
    pub(super) printer: Printer<'m>,
    pub(super) conversation: &'m Conversation<'m>,
    pub(super) controls: &'m Controls,
    pub(super) learn: Learn,
}

/// The first `count` messages as a sample.
struct Sample {
    count: usize,
    text: Text,
    /// Where each message ends, if that can be told.
    ends: Vec<Option<End>>,
    /// The answers that are learned from it.
    answers: Vec<usize>,
}

impl Maker<'_> {
    /// The shortest first; the last is the whole.
    pub(super) fn samples(&self) -> Result<Vec<Rendered<'static>>, Reason> {
        let messages = &self.conversation.messages;
        let last_answer = messages.iter().rposition(|m| m.role == Role::Assistant);
        let learned =
            |i: &usize| messages[*i].is_learned() && (!self.learn.last_answer_only || Some(*i) == last_answer);
        let answers = (0..messages.len()).filter(|&i| messages[i].role == Role::Assistant);
        let mut open: Vec<usize> = answers.filter(learned).collect();
        let mut samples = vec![self.sample(messages.len(), &mut open)?];
        while let Some(&last) = open.last() {
            samples.push(self.sample(last + 1, &mut open)?);
        }
        samples.reverse();
        let whole = samples.pop();
        samples.retain(|sample| !sample.answers.is_empty());
        let mut rendered = Vec::new();
        let mut before = 0;
        for sample in samples.into_iter().chain(whole) {
            rendered.push(self.rendered(&sample, before)?);
            before = sample.count;
        }
        let others = rendered.len() - 1;
        if let Some(whole) = rendered.last_mut() {
            whole.notices.extend(std::iter::repeat_n(Notice::AnswerInASampleOfItsOwn, others));
            whole.notices.extend(&self.printer.talk.notices);
        }
        Ok(rendered)
    }

    /// The sample of the first `count` messages; takes the answers that it holds from `open`.
    fn sample(&self, count: usize, open: &mut Vec<usize>) -> Result<Sample, Reason> {
        let text = self.printer.sample(count).map_err(reason)?;
        let finder = Finder { printer: &self.printer, controls: self.controls, text: &text };
        let mut ends = Vec::with_capacity(count);
        for (i, message) in self.conversation.messages[..count].iter().enumerate() {
            ends.push(finder.end(i, message.role == Role::Assistant && open.contains(&i))?);
        }
        // Nothing that serving stops at behind an answer in the middle: it would not be learned to end.
        let stands = |i: usize| ends[i].is_some_and(|end| end.closed || i + 1 == count);
        let answers = open.iter().copied().filter(|&i| i < count && stands(i)).collect();
        open.retain(|&i| i < count && !stands(i));
        Ok(Sample { count, text, ends, answers })
    }

    /// `before`: how many messages a shorter sample has; the prompts among them were learned there, if any are.
    fn rendered(&self, sample: &Sample, before: usize) -> Result<Rendered<'static>, Reason> {
        let mut rendered = Rendered { turns: Vec::new(), notices: Vec::new() };
        let mut from = 0;
        for (i, message) in self.conversation.messages[..sample.count].iter().enumerate() {
            let last = i + 1 == sample.count;
            let answer = sample.answers.contains(&i);
            let end = if last && !answer { Some(sample.text.as_str().len()) } else { sample.ends[i].map(|end| end.at) };
            let Some(end) = end.filter(|&end| end >= from) else {
                if answer {
                    return Err(Reason::TemplateRewritesTurns);
                }
                continue; // its text goes with the next turn
            };
            let prompt = message.role != Role::Assistant && i >= before;
            if prompt && is_empty_prompt(message) {
                rendered.notices.push(Notice::EmptyPrompt);
            }
            let Start { at: start, prompt: printed, parted } = if answer {
                self.answer_start(sample, i, from..end)?
            } else {
                let learned = prompt && (self.learn.prompts || message.is_learned());
                Start::plain(if learned { from } else { end })
            };
            if parted {
                rendered.notices.push(Notice::AnswerUnlikeThePrompt);
            }
            let mut turn = segments(printed.as_ref().unwrap_or(&sample.text), from..start, self.controls);
            let header = turn.len();
            turn.extend(segments(&sample.text, start..end, self.controls));
            turn[header..].iter_mut().for_each(|s| s.learned = true);
            if answer && turn.get(header).is_some_and(|s| s.content && starts_with_blanks(&s.text)) {
                rendered.notices.push(Notice::AnswerStartsWithBlanks);
            }
            if answer && last && !sample.ends[i].is_some_and(|end| end.closed) && self.printer.jinja.eos.is_some() {
                turn.push(Segment { kind: Kind::Control, text: Cow::Borrowed(""), learned: true, content: false });
                rendered.notices.push(Notice::StopTokenAdded);
            }
            rendered.turns.push(Turn { role: message.role, segments: turn });
            from = end;
        }
        if from < sample.text.as_str().len() {
            let rest = segments(&sample.text, from..sample.text.as_str().len(), self.controls);
            match rendered.turns.last_mut() {
                Some(turn) => turn.segments.extend(rest),
                None => rendered.turns.push(Turn { role: Role::System, segments: rest }),
            }
        }
        rendered.notices.extend(self.left_out(sample, before));
        Ok(rendered)
    }

    /// Where the learned text of answer `i` begins. All that is learned must be the answer's own.
    fn answer_start(&self, sample: &Sample, i: usize, turn: Range<usize>) -> Result<Start, Reason> {
        let finder = Finder { printer: &self.printer, controls: self.controls, text: &sample.text };
        let message = &self.conversation.messages[i];
        let says = !message.content.trim().is_empty()
            || !message.tool_calls.is_empty()
            || message.reasoning.as_deref().is_some_and(|thought| !thought.trim().is_empty());
        if says && data(&sample.text, turn.clone(), |m| m == i).is_none() {
            return Err(Reason::AnswerLeftOutByTheTemplate);
        }
        let start = finder.start(i, turn.start, turn.end).ok_or(Reason::TemplateRewritesTurns)?;
        match data(&sample.text, start.at..turn.end, |m| m != i) {
            Some(_) => Err(Reason::TemplateRewritesTurns),
            None => Ok(start),
        }
    }

    /// Contents of the messages from `before` on that the template did not print.
    fn left_out(&self, sample: &Sample, before: usize) -> Vec<Notice> {
        let printed: std::collections::HashSet<_> =
            sample.text.runs(0..sample.text.as_str().len()).map(|(_, origin)| origin).collect();
        let mut names = Vec::new();
        for (i, message) in self.conversation.messages[..sample.count].iter().enumerate().skip(before) {
            for part in [Part::Said, Part::Thought, Part::Called] {
                let there = match part {
                    Part::Said => !message.content.trim().is_empty(),
                    Part::Thought => message.reasoning.as_deref().is_some_and(|thought| !thought.trim().is_empty()),
                    Part::Called => !message.tool_calls.is_empty(),
                    Part::Other => false,
                };
                if there && !printed.contains(&origin(i, part)) {
                    names.push(if part == Part::Thought { Notice::ThoughtsLeftOut } else { Notice::ContentLeftOut });
                }
            }
            let said = Said { text: &sample.text, message: i, content: &message.content };
            let thought = if message.role == Role::Assistant { said.thought_left_out() } else { 0 };
            if thought > 0 {
                names.push(Notice::ThoughtsLeftOut);
            }
            if printed.contains(&origin(i, Part::Said))
                && said.printed() + said.tags() + thought < visible(said.content)
            {
                names.push(Notice::ContentLeftOut);
            }
        }
        names
    }
}

/// The content of a message, and where it was printed.
struct Said<'s> {
    text: &'s Text,
    message: usize,
    content: &'s str,
}

impl Said<'_> {
    fn runs(&self) -> impl Iterator<Item = &str> {
        let said = origin(self.message, Part::Said);
        let runs = self.text.runs(0..self.text.as_str().len()).filter(move |(_, origin)| *origin == said);
        runs.map(|(run, _)| &self.text.as_str()[run])
    }

    /// How much of it was printed.
    fn printed(&self) -> usize {
        self.runs().map(visible).sum()
    }

    /// How much the tags around its thoughts take: a template prints its own.
    fn tags(&self) -> usize {
        if !self.content.contains("</think>") {
            return 0;
        }
        ["<think>", "</think>"].iter().map(|tag| tag.len() * self.content.matches(tag).count()).sum()
    }

    /// How much stands before its `</think>` that was not printed with it.
    fn thought_left_out(&self) -> usize {
        let Some((thought, _)) = self.content.split_once("</think>") else { return 0 };
        let thought = thought.rsplit_once("<think>").map_or(thought, |(_, thought)| thought).trim();
        if self.runs().any(|run| run.contains(thought)) { 0 } else { visible(thought) }
    }
}

/// Characters that are no blanks: templates strip those.
fn visible(text: &str) -> usize {
    text.chars().filter(|&c| !is_python_blank(c)).count()
}
