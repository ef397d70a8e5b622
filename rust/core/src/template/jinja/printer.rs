//! Renderings of the beginnings of a conversation, each made once.

use super::model::{Asked, Jinja};
use super::talk::{Arguments, Talk};
use crate::conversation::Conversation;
use crate::jinja::{Fault, Text, Variable};
use crate::reasons::Reason;
use std::cell::RefCell;
use std::collections::HashMap;

type Prints = HashMap<(usize, Asked), Result<Text, Fault>>;

/// Prints a conversation up to any of its messages.
#[derive(Debug)]
pub(super) struct Printer<'j> {
    pub(super) jinja: &'j Jinja,
    pub(super) talk: Talk,
    /// What a sample is printed with.
    plain: Asked,
    /// What prompts may be printed with: the answers to `Asked.thinking` that the template can tell apart.
    pub(super) thinking: &'static [Option<bool>],
    made: RefCell<Prints>,
}

impl<'j> Printer<'j> {
    /// `without_thinking`: samples are printed as prompts with thinking off are.
    ///
    /// # Errors
    ///
    /// The reason to drop the row.
    pub(super) fn new(
        jinja: &'j Jinja,
        conversation: &Conversation<'_>,
        without_thinking: bool,
    ) -> Result<Self, Reason> {
        let switches = jinja.source.contains("thinking");
        let thinking: &[Option<bool>] = match (switches, without_thinking) {
            (false, _) => &[None],
            (true, true) => &[Some(false)],
            (true, false) => &[None, Some(false), Some(true)],
        };
        let plain = Asked { prompt: false, thinking: thinking[0] };
        let with = |arguments| {
            let talk = Talk::new(conversation, arguments)?;
            Ok::<_, Reason>(Self { jinja, talk, plain, thinking, made: RefCell::default() })
        };
        let printer = with(Arguments::AsMapping)?;
        let calls = conversation.messages.iter().any(|m| !m.tool_calls.is_empty());
        let count = conversation.messages.len();
        if calls && matches!(printer.sample(count), Err(Fault::Failed(_))) {
            let other = with(Arguments::AsText)?;
            if other.sample(count).is_ok() {
                return Ok(other);
            }
        }
        Ok(printer)
    }

    /// The first `count` messages as a sample.
    pub(super) fn sample(&self, count: usize) -> Result<Text, Fault> {
        self.print(count, self.plain)
    }

    /// The first `count` messages, if a template that is asked for no generation prompt prints what it prints when asked.
    pub(super) fn with_unasked_prompt(&self, count: usize) -> Option<Text> {
        let prompted = self.print(count, Asked { prompt: true, ..self.plain }).ok()?;
        self.sample(count).is_ok_and(|plain| plain.as_str() == prompted.as_str()).then_some(prompted)
    }

    /// The first `count` messages.
    pub(super) fn print(&self, count: usize, asked: Asked) -> Result<Text, Fault> {
        if let Some(made) = self.made.borrow().get(&(count, asked)) {
            return made.clone();
        }
        let messages = Variable::List(self.talk.messages[..count].to_vec());
        let printed = self.jinja.print(messages, self.talk.tools.clone(), self.talk.size, asked);
        self.made.borrow_mut().insert((count, asked), printed.clone());
        printed
    }
}
