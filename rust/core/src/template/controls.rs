//! Control tokens in text that a template wrote.

use super::segment::Kind;
use aho_corasick::{AhoCorasick, MatchKind};

/// The control tokens that a tokenizer knows, to be found in the output of a template.
#[derive(Debug, Default)]
pub struct Controls(Option<AhoCorasick>);

impl Controls {
    /// Of these tokens; of several that begin at one place the longest wins, as in `tokenizers`.
    pub fn new<'t>(tokens: impl IntoIterator<Item = &'t str>) -> Self {
        let tokens: Vec<_> = tokens.into_iter().filter(|t| !t.is_empty()).collect();
        Self(AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(tokens).ok())
    }

    /// The text, cut at the tokens.
    pub(crate) fn split<'t>(&self, text: &'t str) -> Vec<(Kind, &'t str)> {
        let mut pieces = Vec::new();
        let mut from = 0;
        for found in self.0.iter().flat_map(|tokens| tokens.find_iter(text)) {
            if found.start() > from {
                pieces.push((Kind::Text, &text[from..found.start()]));
            }
            pieces.push((Kind::Control, &text[found.range()]));
            from = found.end();
        }
        if from < text.len() {
            pieces.push((Kind::Text, &text[from..]));
        }
        pieces
    }
}
