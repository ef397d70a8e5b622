//! The seeds of the fuzz target, and every input that it once failed on, with each tokenizer: no fuzzer is needed.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

#[path = "common/engines.rs"]
mod engines;
#[path = "common/tokenizers.rs"]
mod tokenizers;

use engines::Engines;
use std::path::Path;

#[test]
fn the_engines_agree_on_every_seed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/engines");
    let engines = Engines::load();
    let mut seeds = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let mut input = std::fs::read(entry.unwrap().path()).unwrap();
        for tokenizer in 0..engines.len() {
            input[0] = u8::try_from(tokenizer).unwrap();
            engines.check(&input);
        }
        seeds += 1;
    }
    assert!(seeds >= 12);
}
