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
use std::collections::HashSet;

/// The tags among the added tokens of a tokenizer: `<name>` and `</name>` where both are added and not special.
pub struct Tags<'t> {
    /// Names of each that could be one, and whether it closes.
    halves: HashSet<(&'t str, bool)>,
}

impl<'t> Tags<'t> {
    /// Of these added tokens.
    #[must_use]
    pub fn of(added: &'t [AddedToken]) -> Self {
        Self { halves: added.iter().filter(|token| !token.special).filter_map(|t| half(&t.content)).collect() }
    }

    fn has(&self, token: &AddedToken) -> bool {
        !token.special && half(&token.content).is_some_and(|(name, closes)| self.halves.contains(&(name, !closes)))
    }
}

impl Template {
    /// Whether a token is a control token under this template; `tags` are those of its tokenizer.
    #[must_use]
    pub fn controls(&self, token: &AddedToken, tags: &Tags<'_>) -> bool {
        token.special
            || match self {
                Self::Frames(template) => template.required().any(|name| name == Some(token.content.as_str())),
                Self::Jinja(jinja) => {
                    jinja.stops_at(&token.content)
                        || jinja.begins_with(&token.content)
                        || is_bracketed(&token.content) && !tags.has(token) && jinja.writes(&token.content)
                }
            }
    }

    /// Whether a token is looked for in the template's own bytes: a control token or a tag.
    #[must_use]
    pub fn writes(&self, token: &AddedToken, tags: &Tags<'_>) -> bool {
        tags.has(token) || self.controls(token, tags)
    }
}

impl Controls {
    /// Those that are looked for in the output of a template; one that is data names its own.
    #[must_use]
    pub fn of(template: &Template, added: &[AddedToken]) -> Self {
        match template {
            Template::Frames(_) => Self::default(),
            Template::Jinja(_) => {
                let tags = Tags::of(added);
                let own = added.iter().filter(|token| template.writes(token, &tags));
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

/// The name in `<name>` or `</name>`, and whether it is the latter.
fn half(token: &str) -> Option<(&str, bool)> {
    let inside = token.strip_prefix('<')?.strip_suffix('>')?;
    let closing = inside.strip_prefix('/');
    let name = closing.unwrap_or(inside);
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    (!name.is_empty() && name.chars().all(plain)).then_some((name, closing.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(content: &str, special: bool) -> AddedToken {
        serde_json::from_value(json!({"id": 0, "content": content, "special": special})).unwrap()
    }

    #[test]
    fn a_tag_is_one_of_two_that_are_added_and_not_special() {
        let some = [("<a>", false), ("</a>", false), ("<b>", false), ("<c>", false), ("</c>", true), ("</d>", false)];
        let added = some.map(|(content, special)| token(content, special));
        let tags = Tags::of(&added);
        let found: Vec<_> = added.iter().filter(|token| tags.has(token)).map(|token| token.content.as_str()).collect();
        assert_eq!(found, ["<a>", "</a>"]);
    }
}
