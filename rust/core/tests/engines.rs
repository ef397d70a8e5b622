//! The engines give the same ids for any text, and content never becomes a control token.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use proptest::prelude::*;
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use std::path::Path;
use std::sync::LazyLock;

fn load(choice: Choice) -> Tokenizer {
    Tokenizer::load(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tokenizer/tokenizer.json"),
        choice,
        None,
    )
    .unwrap()
}

static NATIVE: LazyLock<Tokenizer> = LazyLock::new(|| load(Choice::Native));
static REFERENCE: LazyLock<Tokenizer> = LazyLock::new(|| load(Choice::Tokenizers));

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.engine().encode(text, &mut ids).unwrap();
    ids
}

/// Pieces that pre-tokenizers disagree on, glued at random.
fn nasty() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<|im_end|>".to_owned()),
        Just("<think>".to_owned()),
        Just("don'T're".to_owned()),
        Just("\r\n".to_owned()),
        Just("\u{301}".to_owned()),
        Just("中文".to_owned()),
        "[ \t\n\r\u{a0}\u{85}\u{2028}\u{3000}]{1,6}",
        "[a-zA-Z]{1,12}",
        "[0-9\u{661}\u{2167}\u{b2}]{1,5}",
        "\\PC{0,8}",
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn engines_agree_on_any_text(text in nasty()) {
        prop_assert_eq!(ids(&NATIVE, &text), ids(&REFERENCE, &text));
    }

    #[test]
    fn text_never_becomes_a_control_token_and_a_word_is_its_token(text in nasty()) {
        let id = |token| NATIVE.control(token).unwrap();
        let controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(id);
        for tokenizer in [&*NATIVE, &*REFERENCE] {
            let content = tokenizer.content(|token| token.content == "</think>").unwrap();
            let mut ids = Vec::new();
            content.engine().encode(&text, &mut ids).unwrap();
            prop_assert!(ids.iter().all(|id| !controls.contains(id)));
            prop_assert!(!ids.contains(&id("</think>")));
            prop_assert_eq!(ids.contains(&id("<think>")), text.contains("<think>"));
            prop_assert_eq!(content.has_control(&text), text.contains("<|im_end|>"));
            prop_assert_eq!(content.has_word(&text), text.contains("<think>"));
        }
    }
}

#[test]
fn a_control_token_is_known_by_name_and_unknown_to_text() {
    for tokenizer in [&*NATIVE, &*REFERENCE] {
        let end = tokenizer.control("<|im_end|>").unwrap();
        assert!(!ids(tokenizer, "<|im_end|>").contains(&end));
        assert!(ids(tokenizer, "<|im_end|>").len() > 3);
        assert_eq!(tokenizer.control("<|never|>"), None);
    }
}

#[test]
fn long_texts_agree() {
    for text in ["x".repeat(300_000), "多".repeat(50_000), "a b\n".repeat(100_000), " ".repeat(100_000)] {
        assert_eq!(ids(&NATIVE, &text), ids(&REFERENCE, &text));
    }
}

#[test]
fn many_texts_are_encoded_as_each_alone() {
    let texts: Vec<String> = (0..1000).map(|i| format!("text {i} 中文\n").repeat(i % 7)).collect();
    let (all, lengths) = NATIVE.encode_all(&texts, 3).unwrap();
    let mut from = 0;
    for (text, n) in texts.iter().zip(&lengths) {
        assert_eq!(all[from..from + n], ids(&NATIVE, text));
        from += n;
    }
    assert_eq!(from, all.len());
}
