//! Added tokens in text, found as `tokenizers` finds them: those that are not normalized in the text as it is, the others
//! in what the normalizer makes of the text between.

use super::added::AddedToken;
use super::first_bytes::FirstBytes;
use aho_corasick::{AhoCorasick, MatchKind};
use std::borrow::Cow;
use std::ops::Range;

/// The tokens to be found.
#[derive(Debug)]
pub(super) struct Words {
    raw: Option<Finder>,
    normal: Option<Finder>,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Token(u32),
    Text(Range<usize>),
}

/// What an engine does with the text between added tokens.
pub(super) trait Between {
    /// The text as the normalizer makes it.
    fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str>;

    /// Appends the ids of a text that is not normalized yet. `first`: nothing stood before it.
    fn encode_raw(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<(), String>;

    /// The same for a text that is.
    fn encode_normal(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<(), String>;
}

impl Words {
    /// Of these tokens; the special ones among them stay text, and no other token is found within them.
    ///
    /// # Errors
    ///
    /// They cannot be searched for.
    pub(super) fn new(added: &[AddedToken], between: &impl Between) -> Result<Self, String> {
        let finder = |normalized| {
            let tokens = added.iter().filter(|token| token.normalized == normalized);
            let pattern = |token: &AddedToken| match normalized {
                true => between.normalize(&token.content).into_owned(),
                false => token.content.clone(),
            };
            Finder::new(tokens.map(|token| (pattern(token), token.clone())).collect())
        };
        Ok(Self { raw: finder(false)?, normal: finder(true)? })
    }

    /// Appends the ids of a text.
    pub(super) fn encode(&self, text: &str, between: &impl Between, ids: &mut Vec<u32>) -> Result<(), String> {
        let Some(raw) = &self.raw else { return self.encode_part(text, true, between, ids) };
        raw.split(text, &mut |part| match part {
            Part::Token(id) => {
                ids.push(id);
                Ok(())
            }
            Part::Text(range) => self.encode_part(&text[range.clone()], range.start == 0, between, ids),
        })
    }

    fn encode_part(&self, text: &str, first: bool, between: &impl Between, ids: &mut Vec<u32>) -> Result<(), String> {
        let Some(normal) = &self.normal else { return between.encode_raw(text, first, ids) };
        let text = between.normalize(text);
        normal.split(&text, &mut |part| match part {
            Part::Token(id) => {
                ids.push(id);
                Ok(())
            }
            Part::Text(range) => between.encode_normal(&text[range.clone()], first && range.start == 0, ids),
        })
    }
}

/// Finds some tokens in a text.
#[derive(Debug)]
struct Finder {
    first_bytes: FirstBytes,
    patterns: AhoCorasick,
    tokens: Vec<AddedToken>,
}

impl Finder {
    fn new(tokens: Vec<(String, AddedToken)>) -> Result<Option<Self>, String> {
        if tokens.iter().all(|(_, token)| token.special) {
            return Ok(None);
        }
        let first_bytes = FirstBytes::of(tokens.iter().map(|(pattern, _)| pattern.as_str()));
        // Of several that begin at one place the longest.
        let patterns = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(pattern, _)| pattern))
            .map_err(|e| e.to_string())?;
        Ok(Some(Self { first_bytes, patterns, tokens: tokens.into_iter().map(|(_, token)| token).collect() }))
    }

    /// The parts of a text, in order. White space that two tokens claim goes to the first of them.
    fn split(&self, text: &str, each: &mut dyn FnMut(Part) -> Result<(), String>) -> Result<(), String> {
        if !text.is_empty() && !self.first_bytes.may_stand_in(text) {
            return each(Part::Text(0..text.len()));
        }
        let mut from = 0;
        for found in self.patterns.find_iter(text) {
            let token = &self.tokens[found.pattern()];
            let (mut start, mut end) = (found.start(), found.end());
            if token.special || token.single_word && !stands_alone(text, start..end) {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(from);
            }
            if token.rstrip {
                end += text[end..].len() - text[end..].trim_start().len();
            }
            if from < start {
                each(Part::Text(from..start))?;
            }
            // One whose own text went to the token before it, as white space, is none.
            if start < end {
                each(Part::Token(token.id))?;
            }
            from = end;
        }
        if from == text.len() { Ok(()) } else { each(Part::Text(from..text.len())) }
    }
}

/// Whether no word character stands on either side.
fn stands_alone(text: &str, range: Range<usize>) -> bool {
    let word = |c: Option<char>| c.is_some_and(|c| regex_syntax::try_is_word_character(c).unwrap_or(false));
    !word(text[..range.start].chars().next_back()) && !word(text[range.end..].chars().next())
}
