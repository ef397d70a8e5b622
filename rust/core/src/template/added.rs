//! What the added tokens of a tokenizer are under a template.
//!
//! | | in what the template writes | in the data |
//! |---|---|---|
//! | control token: special, or the template writes it around turns | the token | text |
//! | tag: `<think>` and `</think>`, if both are added and not special | the token | the token |
//! | word: any other | the token | the token |
//!
//! Words may reach from the template's text into the data, so they are found when both are encoded; control tokens and
//! tags are found in the template's own bytes.

use super::controls::Controls;
use super::jinja::{Asked, Jinja};
use super::probes::{Probe, probes};
use super::source::Template;
use crate::tokenizer::AddedToken;

impl Template {
    /// Whether a token is a control token under this template.
    #[must_use]
    pub fn controls(&self, token: &AddedToken, added: &[AddedToken]) -> bool {
        token.special
            || match self {
                Self::Frames(template) => template.required().any(|name| name == Some(token.content.as_str())),
                Self::Jinja(jinja) => {
                    jinja.stops_at(&token.content)
                        || jinja.begins_with(&token.content)
                        || is_bracketed(&token.content) && !is_tag(token, added) && jinja.writes(&token.content)
                }
            }
    }

    /// Whether a token is looked for in the template's own bytes: a control token or a tag.
    #[must_use]
    pub fn writes(&self, token: &AddedToken, added: &[AddedToken]) -> bool {
        is_tag(token, added) || self.controls(token, added)
    }
}

impl Controls {
    /// Those that are looked for in the output of a template; one that is data names its own.
    #[must_use]
    pub fn of(template: &Template, added: &[AddedToken]) -> Self {
        match template {
            Template::Frames(_) => Self::default(),
            Template::Jinja(_) => {
                let own = added.iter().filter(|token| template.writes(token, added));
                Self::new(own.map(|token| token.content.as_str()))
            }
        }
    }
}

impl Jinja {
    /// Whether it has a token in its text, or makes it of parts of it.
    fn writes(&self, token: &str) -> bool {
        let asked = |probe: Probe| {
            let asked = Asked { prompt: probe.thinking.is_some(), thinking: probe.thinking };
            (probe.talk, asked)
        };
        self.source.contains(token) || self.own_text(|| probes().into_iter().map(asked).collect()).contains(token)
    }
}

/// Whether a token stands in brackets, as the control tokens of all vendors do, and no word does.
fn is_bracketed(token: &str) -> bool {
    token.starts_with(['<', '[', '{']) && token.ends_with(['>', ']', '}']) && token.len() > 2
}

/// Whether a token is `<name>` or `</name>` and the other is added, too.
fn is_tag(token: &AddedToken, added: &[AddedToken]) -> bool {
    let Some(name) = tag_name(&token.content) else { return false };
    let other =
        |other: &AddedToken| !other.special && other.content != token.content && tag_name(&other.content) == Some(name);
    !token.special && added.iter().any(other)
}

fn tag_name(token: &str) -> Option<&str> {
    let name = token.strip_prefix('<')?.strip_suffix('>')?;
    let name = name.strip_prefix('/').unwrap_or(name);
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    (!name.is_empty() && name.chars().all(plain)).then_some(name)
}
