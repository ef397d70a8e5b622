//! The project's own engine against the reference: the first byte picks the tokenizer, the rest is the text.
//!
//! `cargo +nightly fuzz run engines` in `rust/core`.

#![no_main]

#[path = "../../tests/common/tokenizers.rs"]
mod tokenizers;

use libfuzzer_sys::fuzz_target;
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use std::sync::LazyLock;

static PAIRS: LazyLock<Vec<(Tokenizer, Tokenizer)>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let load = |path: &std::path::Path, choice| Tokenizer::load(path, choice, None).expect("a tokenizer");
    let files = tokenizers::synthetic(folder.path());
    files.iter().map(|(_, path)| (load(path, Choice::Native), load(path, Choice::Tokenizers))).collect()
});

fuzz_target!(|data: &[u8]| {
    let Some((&first, text)) = data.split_first() else { return };
    let (own, reference) = &PAIRS[first as usize % PAIRS.len()];
    let text = String::from_utf8_lossy(text);
    let ids = |tokenizer: &Tokenizer| {
        let mut ids = Vec::new();
        tokenizer.engine().encode(&text, &mut ids).expect("ids");
        ids
    };
    assert_eq!(ids(own), ids(reference));
});
