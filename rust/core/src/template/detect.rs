//! Which built-in template is a model's own: both are rendered on probe conversations and compared.

use super::builtin;
use super::chat_template::{ChatTemplate, ToolStyle};
use super::jinja::Jinja;
use super::probes::{Probe, probes};
use super::render::{Learn, Rendered};
use crate::jinja::Fault;

/// The first built-in template that prints exactly what `chat_template` (Jinja) prints, on every probe that it accepts:
/// dialogues, prompts for an answer, and tools if the built-in one supports them.
#[must_use]
pub fn detect(chat_template: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Option<&'static ChatTemplate> {
    let own = Jinja::new(chat_template, bos_token, eos_token, &[]).ok()?;
    let mut printed = Vec::new();
    for probe in probes() {
        let text = probe.own(&own);
        // Gemma refuses a system prompt; a template that refuses a plain question and answer is no chat template. One
        // that is stopped for what it costs is not asked again.
        if text.is_err() && probe.name == "one turn" || matches!(text, Err(Fault::Budget(_))) {
            return None;
        }
        printed.push((text, probe));
    }
    let probes = printed;
    builtin::names().into_iter().filter_map(builtin::find).find(|template| {
        let bound = template.bound(bos_token, eos_token);
        probes.iter().all(|(printed, probe)| match printed {
            Ok(_) if probe.talk.tools.is_some() && template.tools == ToolStyle::Unknown => true,
            Ok(text) => *text == print(&bound, probe),
            Err(Fault::Raised(_)) => true,
            Err(_) => probe.talk.tools.is_some() && template.tools == ToolStyle::Unknown,
        })
    })
}

fn print(template: &ChatTemplate, probe: &Probe) -> String {
    let mut rendered: Rendered<'_> = template.render(&probe.talk, None, Learn::default());
    if let Some(thinking) = probe.thinking {
        rendered.turns.push(template.generation_prompt(thinking));
    }
    rendered.text("")
}
