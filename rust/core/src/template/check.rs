//! A template against the model's own, probe by probe.

use super::controls::Controls;
use super::jinja::{Jinja, Refusal};
use super::probes::probes;
use super::render::{Learn, Rendered};
use super::source::Template;

/// One probe, rendered both ways.
#[derive(Debug)]
pub struct Compared {
    /// What it looks at.
    pub name: &'static str,
    /// The conversation, as JSON.
    pub conversation: String,
    /// What ours makes of it, or the reason why it makes nothing.
    pub ours: Result<String, String>,
    /// What the model's own prints.
    pub own: Result<String, String>,
    /// The model's own refuses such a conversation, so there is nothing to compare.
    pub refused: bool,
    /// Whether an answer is to be generated, and whether it may think.
    pub thinking: Option<bool>,
}

impl Compared {
    /// Whether both say the same, or there is nothing to compare: the one refuses such rows, the other drops them by name.
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
    let own = Jinja::new(chat_template, bos_token, eos_token)?;
    let compare = |probe: super::probes::Probe| {
        let printed = probe.own(&own);
        let ours = match probe.thinking {
            None => template.render(&probe.talk, None, Learn::default(), controls),
            Some(thinking) => template.prompt(&probe.talk, None, thinking, controls),
        };
        Compared {
            name: probe.name,
            conversation: serde_json::to_string(&probe.talk).unwrap_or_default(),
            ours: ours
                .map(|rendered: Rendered<'_>| rendered.text(eos_token.unwrap_or("")))
                .map_err(|reason| reason.to_string()),
            refused: matches!(printed, Err(Refusal::Raised(_))),
            own: printed.map_err(|refusal| match refusal {
                Refusal::Raised(message) | Refusal::Failed(message) => message,
            }),
            thinking: probe.thinking,
        }
    };
    Ok(probes().into_iter().map(compare).collect())
}
