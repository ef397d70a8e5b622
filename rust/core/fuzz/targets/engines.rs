//! The native tokenizer and the reference, side by side: equal ids for any text, with added words and without.
//!
//! The first byte selects the tokenizer, the rest is the text.

use crate::tokenizers::synthetic;
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use std::sync::LazyLock;

/// Both engines for each of the synthetic tokenizers.
static ENGINES: LazyLock<Vec<(Tokenizer, Tokenizer)>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: &std::path::Path, choice| Tokenizer::load(path, choice, None).unwrap();
    let files = synthetic(folder.path());
    files.iter().map(|(_, path)| (load(path, Choice::Native), load(path, Choice::Tokenizers))).collect()
});

pub(crate) fn kinds() -> usize {
    ENGINES.len()
}

pub(crate) fn check(input: &[u8]) {
    let Some((&first, text)) = input.split_first() else { return };
    let (own, reference) = &ENGINES[usize::from(first) % ENGINES.len()];
    let text = String::from_utf8_lossy(text);
    let ids = |tokenizer: &Tokenizer| {
        let (mut bare, mut ids) = (Vec::new(), Vec::new());
        tokenizer.engine().encode(&text, &mut bare).unwrap();
        let content = tokenizer.content(|_| false).unwrap();
        content.engine().encode(&text, &mut ids).unwrap();
        (bare, ids)
    };
    assert_eq!(ids(own), ids(reference), "tokenizer {first}: {text:?}");
}
