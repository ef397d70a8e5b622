//! The table of character classes against the libraries it was made from, for every code point there is.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use onig::Regex;
use std::path::Path;
use unicode_normalization_alignments::char::canonical_combining_class;
use unicode_normalization_alignments::{IsNormalized, is_nfc_quick};

/// Bit and pattern of each class that a regular expression defines, as in `tokenizer/native/classes.rs`.
const PATTERNS: [(u16, &str); 7] = [
    (1, r"^\p{L}$"),
    (2, r"^\p{N}$"),
    (4, r"^\s$"),
    (16, r"^[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]$"),
    (32, r"^[\p{Ll}\p{Lm}\p{Lo}\p{M}]$"),
    (256, r"^\p{P}$"),
    (512, r"^\p{S}$"),
];

fn reference() -> Vec<u16> {
    let patterns = PATTERNS.map(|(bit, pattern)| (bit, Regex::new(pattern).unwrap()));
    let class = |c: char| {
        let mut text = [0; 4];
        let text = c.encode_utf8(&mut text);
        let mut class = 0;
        for (bit, pattern) in &patterns {
            // `$` also matches before a final line break, which is one of the characters asked about.
            if pattern.find(text).is_some_and(|(start, end)| (start, end) == (0, text.len())) {
                class |= bit;
            }
        }
        let stable = is_nfc_quick(std::iter::once(c)) == IsNormalized::Yes && canonical_combining_class(c) == 0;
        class | if stable { 0 } else { 8 } | if c.is_numeric() { 64 } else { 0 }
    };
    (0..0x11_0000).map(|code| char::from_u32(code).map_or(0, class)).collect()
}

#[test]
fn every_code_point_has_the_class_that_the_reference_gives_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tokenizer/native/classes.bin");
    let mut bytes: Vec<u8> = Vec::new();
    let mut last = None;
    for (code, class) in reference().into_iter().enumerate() {
        if last != Some(class) {
            bytes.extend(&(code as u32).to_le_bytes()[..3]);
            bytes.extend(class.to_le_bytes());
            last = Some(class);
        }
    }
    if std::env::var_os("UPDATE_CLASSES").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == bytes, "made with other tables: run this test with UPDATE_CLASSES=1");
}
