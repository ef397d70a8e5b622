//! The model's own chat template, as Jinja: for models that no built-in template renders alike.
//!
//! Jinja gives one text. Which of it came from the data, and which of it is an answer, is found by rendering again: with
//! unguessable words in place of the contents (`mask`), and up to each turn (`locate`). Both are proved on every row: the
//! masked rendering, its words put back, must be the direct one; a turn must begin where the rendering of what stands
//! before it ends. A row for which that fails is dropped by name.

mod environment;
mod locate;
mod mask;
mod program;
mod values;

pub use environment::FIXED_DATE;
pub use program::Jinja;
pub(super) use program::{Asked, Refusal};

use super::controls::Controls;
use super::render::{Learn, Rendered};
use super::segment::Turn;
use crate::conversation::{Conversation, Message, Role};
use crate::reasons::Reason;
use mask::{Masked, TAGS};

impl Jinja {
    /// Renders a repaired conversation; `system` stands for a system prompt that the row does not have.
    ///
    /// # Errors
    ///
    /// The reason to drop the row.
    pub(super) fn render(
        &self,
        conversation: &Conversation<'_>,
        system: Option<&str>,
        learn: Learn,
        controls: &Controls,
    ) -> Result<Rendered<'static>, Reason> {
        let whole = with_system(conversation, system);
        self.proved(&whole, Asked::default(), controls, &|masked, text| {
            locate::Locator { jinja: self, masked, controls }.turns(text, &whole, learn)
        })
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
        let asked = Asked { prompt: true, thinking: Some(enable_thinking) };
        let whole = with_system(conversation, system);
        self.proved(&whole, asked, controls, &|masked, text| {
            let segments = masked.segments(text, 0..text.len(), controls);
            Ok(Rendered { turns: vec![Turn { role: Role::User, segments }], notices: Vec::new() })
        })
    }

    /// Calls `work` with a masked rendering that is proved to be the direct one.
    fn proved(
        &self,
        conversation: &Conversation<'_>,
        asked: Asked,
        controls: &Controls,
        work: &dyn Fn(&Masked, &str) -> Result<Rendered<'static>, Reason>,
    ) -> Result<Rendered<'static>, Reason> {
        let direct = self.direct(conversation, asked).map_err(Refusal::reason)?;
        if conversation.tools.as_deref().is_some_and(|tools| controls.any(tools)) {
            return Err(Reason::ControlTokenInToolJson);
        }
        let mut failed = None;
        // Templates that part an answer at its tags print another text for words that have none; those that print the
        // arguments of a call one by one print them as they are, and not as JSON.
        for (tags, escape) in [(&[][..], true), (&TAGS[..], true), (&[][..], false), (&TAGS[..], false)] {
            let masked = Masked::new(conversation, self.source(), tags, escape)?;
            let Ok(text) = self.print(&masked.messages, &masked.tools, asked) else { continue };
            if masked.unmasked(&text) == direct {
                match work(&masked, &text) {
                    Ok(rendered) => return Ok(rendered),
                    Err(reason) => failed = Some(reason),
                }
            }
        }
        if let Some(reason) = failed {
            return Err(reason);
        }
        let contents = conversation.messages.iter().flat_map(|m| [Some(&m.content), m.reasoning.as_ref()]).flatten();
        let calls = conversation.messages.iter().flat_map(|m| &m.tool_calls).map(String::as_str);
        if contents.map(AsRef::as_ref).chain(calls).any(|text| controls.any(text)) {
            return Err(Reason::ControlTokenInTextThatTheTemplateRewrites);
        }
        // Nothing of the data looks like a control token, so the direct rendering can be cut up as it stands.
        work(&Masked::nothing(conversation)?, &direct)
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
