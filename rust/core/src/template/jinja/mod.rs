//! The model's own chat template, as Jinja: for models that no built-in template renders alike.
//!
//! Every byte of what a template prints says whether it is the template's or data ([`crate::jinja::Text`]). So control
//! tokens are looked for in the template's own bytes alone, in one place (`pieces`): no text of the data becomes one,
//! whatever the template does with it. Which bytes are an answer is found by rendering up to it (`answers`), and answers
//! that print otherwise once others follow get a sample of their own (`samples`).

mod answers;
mod model;
mod pieces;
mod printer;
mod samples;
mod talk;

use super::controls::Controls;
use super::render::{Learn, Rendered};
use super::segment::{Kind, Turn};
use crate::conversation::{Conversation, Message, Role};
use crate::jinja::{Fault, TEMPLATE};
use crate::reasons::Reason;
use model::reason;
use printer::Printer;
use std::borrow::Cow;

pub use crate::jinja::FIXED_DATE;
pub(in crate::template) use model::Asked;
pub use model::Jinja;

impl Jinja {
    /// The direct rendering of a conversation.
    pub(super) fn direct(&self, conversation: &Conversation<'_>, asked: Asked) -> Result<String, Fault> {
        let printer = Printer::new(self, conversation, false).map_err(|reason| Fault::Failed(reason.to_string()))?;
        printer.print(conversation.messages.len(), asked).map(|text| text.as_str().to_owned())
    }

    /// What it writes itself for some conversations, without their texts.
    pub(super) fn own_text(&self, talks: impl FnOnce() -> Vec<(Conversation<'static>, Asked)>) -> &str {
        self.own.get_or_init(|| {
            let mut own = String::new();
            for (talk, asked) in talks() {
                let Ok(printer) = Printer::new(self, &talk, false) else { continue };
                let Ok(text) = printer.print(talk.messages.len(), asked) else { continue };
                let runs = text.runs(0..text.as_str().len()).filter(|(_, origin)| *origin == TEMPLATE);
                runs.for_each(|(run, _)| {
                    own.push_str(&text.as_str()[run]);
                    own.push('\0');
                });
            }
            own
        })
    }

    /// The samples of a repaired conversation, of which the last is the whole of it; `system` stands for a system
    /// prompt that the row does not have.
    ///
    /// # Errors
    ///
    /// The reason to drop the row.
    pub(super) fn samples(
        &self,
        conversation: &Conversation<'_>,
        system: Option<&str>,
        learn: Learn,
        controls: &Controls,
    ) -> Result<Vec<Rendered<'static>>, Reason> {
        let whole = with_system(conversation, system);
        let printer = Printer::new(self, &whole, learn.without_thinking)?;
        samples::Maker { printer, conversation: &whole, controls, learn }.samples()
    }

    /// Renders a conversation that the model is to answer: one turn, nothing learned.
    ///
    /// # Errors
    ///
    /// Why it cannot be rendered.
    pub(super) fn prompt(
        &self,
        conversation: &Conversation<'_>,
        system: Option<&str>,
        enable_thinking: bool,
        controls: &Controls,
    ) -> Result<Rendered<'static>, Reason> {
        let whole = with_system(conversation, system);
        let printer = Printer::new(self, &whole, false)?;
        let asked = Asked { prompt: true, thinking: Some(enable_thinking) };
        let text = printer.print(whole.messages.len(), asked).map_err(reason)?;
        let segments = pieces::segments(&text, 0..text.as_str().len(), controls);
        Ok(Rendered { turns: vec![Turn { role: Role::User, segments }], notices: Vec::new() })
    }

    /// The tokens that end an answer; an empty name is the end-of-sequence token.
    pub(super) fn ends(&self, controls: &Controls) -> Vec<String> {
        let messages = vec![Message::new(Role::User, "question"), Message::new(Role::Assistant, "answer")];
        let talk = Conversation { messages, tools: None };
        let samples = self.samples(&talk, None, Learn::default(), controls);
        let turn = samples.ok().and_then(|mut samples| samples.pop()?.turns.pop());
        let segments = turn.map(|t| t.segments).unwrap_or_default();
        let behind = segments.iter().rposition(|s| s.content).map_or(0, |at| at + 1);
        let tokens = segments[behind..].iter().filter(|s| s.kind == Kind::Control && s.learned);
        let printed = tokens.map(|s| s.text.clone()).map(Cow::into_owned);
        printed.chain(self.stops.iter().cloned()).collect()
    }
}

/// The conversation with a system prompt, if it has none and there is one to give.
fn with_system<'a>(conversation: &Conversation<'a>, system: Option<&str>) -> Conversation<'a> {
    let mut whole = conversation.clone();
    if let Some(system) = system.filter(|s| !s.is_empty())
        && whole.messages.first().is_none_or(|m| m.role != Role::System)
    {
        whole.messages.insert(0, Message::new(Role::System, system.to_owned()));
    }
    whole
}
