//! The native engine and the reference, side by side: what the fuzz target calls, and the test that replays its seeds.

use crate::tokenizers::synthetic;
use qlora_fast_core::tokenizer::{Choice, Tokenizer};

/// Both engines for each of the synthetic tokenizers.
pub(crate) struct Engines(Vec<(Tokenizer, Tokenizer)>);

impl Engines {
    /// Loads all of them.
    pub(crate) fn load() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let load = |path: &std::path::Path, choice| Tokenizer::load(path, choice, None).expect("a tokenizer");
        let files = synthetic(folder.path());
        Self(files.iter().map(|(_, path)| (load(path, Choice::Native), load(path, Choice::Tokenizers))).collect())
    }

    /// How many tokenizers there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// One input of the fuzz target: the first byte selects the tokenizer, the rest is the text. Panics if the ids differ.
    pub(crate) fn check(&self, input: &[u8]) {
        let Some((&first, text)) = input.split_first() else { return };
        let (own, reference) = &self.0[usize::from(first) % self.0.len()];
        let text = String::from_utf8_lossy(text);
        let ids = |tokenizer: &Tokenizer| {
            let mut ids = Vec::new();
            tokenizer.engine().encode(&text, &mut ids).expect("ids");
            ids
        };
        assert_eq!(ids(own), ids(reference), "tokenizer {first}: {text:?}");
    }
}
