//! Comparison of a template with the model's own on probe conversations.

use super::controls::Controls;
use super::jinja::Jinja;
use super::probes::probes;
use super::render::{Learn, Rendered};
use super::source::Template;
use crate::jinja::Fault;
use crate::reasons::Notice;

/// One probe, rendered both ways.
#[derive(Debug)]
pub struct Compared {
    /// What it tests.
    pub name: &'static str,
    /// The conversation, as JSON.
    pub conversation: String,
    /// The output of the template, or the reason it refuses the conversation.
    pub ours: Result<String, String>,
    /// The output of the model's own template.
    pub own: Result<String, String>,
    /// The model's own template refuses such a conversation, so there is nothing to compare.
    pub refused: bool,
    /// For a generation prompt: whether thinking is enabled.
    pub thinking: Option<bool>,
}

impl Compared {
    /// Whether both outputs are equal, or one of the templates refuses the conversation.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.refused || self.ours.is_err() || self.ours == self.own
    }
}

/// Renders every probe by `template` and by the model's own `chat_template`.
///
/// # Errors
///
/// The fault in the model's own template.
pub fn check(
    template: &Template,
    chat_template: &str,
    bos_token: Option<&str>,
    eos_token: Option<&str>,
    controls: &Controls,
) -> Result<Vec<Compared>, String> {
    let own = Jinja::new(chat_template, bos_token, eos_token, &[]).map_err(|fault| fault.to_string())?;
    let compare = |probe: super::probes::Probe| {
        let printed = probe.own(&own);
        if let Err(fault @ Fault::Budget(_)) = &printed {
            return Err(fault.to_string());
        }
        let ours = match probe.thinking {
            None => template.render(&probe.talk, None, Learn::default(), controls),
            Some(thinking) => template.prompt(&probe.talk, None, thinking, controls),
        };
        Ok(Compared {
            name: probe.name,
            conversation: serde_json::to_string(&probe.talk).unwrap_or_default(),
            ours: ours
                .map(|rendered: Rendered<'_>| as_printed(rendered).text(eos_token.unwrap_or("")))
                .map_err(|reason| reason.to_string()),
            refused: matches!(printed, Err(Fault::Raised(_))),
            own: printed.map_err(|fault| fault.to_string()),
            thinking: probe.thinking,
        })
    };
    probes().into_iter().map(compare).collect()
}

/// What the template printed, without the stop token that is added where it prints none.
fn as_printed(mut rendered: Rendered<'_>) -> Rendered<'_> {
    if rendered.notices.contains(&Notice::StopTokenAdded)
        && let Some(turn) = rendered.turns.last_mut()
    {
        turn.segments.pop();
    }
    rendered
}
