//! See `targets`.

#![no_main]

#[path = "../targets/mod.rs"]
mod targets;
#[path = "../../tests/common/tokenizers.rs"]
mod tokenizers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::run("frames", input));
