//! The native engine against the reference: the first byte selects the tokenizer, the rest is the text.
//!
//! `cargo +nightly fuzz run engines corpus/engines fuzz/seeds/engines` in `rust/core`. An input that fails goes into
//! `seeds/engines`, where `cargo test` replays it.

#![no_main]
#![allow(dead_code, reason = "the test that replays the seeds uses more of these modules")]

#[path = "../../tests/common/engines.rs"]
mod engines;
#[path = "../../tests/common/tokenizers.rs"]
mod tokenizers;

use engines::Engines;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static ENGINES: LazyLock<Engines> = LazyLock::new(Engines::load);

fuzz_target!(|data: &[u8]| ENGINES.check(data));
