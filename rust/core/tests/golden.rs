//! Rendering and encoding against transformers and `tokenizers`: the golden vectors that `make golden` writes.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use qlora_fast_core::conversation::Conversation;
use qlora_fast_core::encode::Encoder;
use qlora_fast_core::template::{self, Learn};
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Case<'a> {
    name: String,
    #[serde(borrow)]
    conversation: Conversation<'a>,
    prompt: bool,
    text: String,
    ids: Vec<u32>,
    spans: Vec<(u32, u32)>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

#[test]
fn golden_vectors() {
    for engine in [Choice::Fastokens, Choice::Tokenizers] {
        let tokenizer = Tokenizer::load(&data().join("tokenizer/tokenizer.json"), engine).unwrap();
        for name in ["qwen3", "qwen", "chatml", "smollm2", "llama3"] {
            let template = template::find(name).unwrap();
            let encoder = Encoder::new(template, &tokenizer, None).unwrap();
            let file = std::fs::read_to_string(data().join("golden").join(format!("{name}.json"))).unwrap();
            let cases: Vec<Case<'_>> = serde_json::from_str(&file).unwrap();
            assert!(cases.len() > 10, "{name}");
            for case in &cases {
                let mut rendered = template.render(&case.conversation, None, Learn::default());
                if case.prompt {
                    rendered.turns.push(template.generation_prompt(false));
                }
                assert_eq!(rendered.text(""), case.text, "{name}: {}", case.name);
                let encoded = encoder.encode(&rendered.turns).unwrap();
                assert_eq!(encoded.ids, case.ids, "{name}: {}", case.name);
                assert_eq!(encoded.spans, case.spans, "{name}: {}", case.name);
            }
        }
    }
}

#[test]
fn every_template_is_found_by_its_own_jinja() {
    for (file, expected) in
        [("qwen3", "qwen3"), ("qwen2_5", "qwen"), ("chatml", "chatml"), ("smollm2", "smollm2"), ("llama3", "llama3")]
    {
        let jinja = std::fs::read_to_string(data().join(format!("chat_templates/{file}.jinja"))).unwrap();
        assert_eq!(template::detect(&jinja, None, None).map(|t| t.name), Some(expected));
    }
    for foreign in ["{{ messages[0].content }}", "{% broken", "", "{{ raise_exception('no') }}"] {
        assert!(template::detect(foreign, None, None).is_none(), "{foreign}");
    }
}

#[test]
fn a_tokenizer_without_the_templates_tokens_is_refused_with_what_fits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data().join("tokenizer/tokenizer.json")).unwrap()).unwrap();
    json["added_tokens"].as_array_mut().unwrap().retain(|t| !t["content"].as_str().unwrap().contains("im_"));
    std::fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Tokenizer::load(&path, Choice::Auto).unwrap();
    let refused = |name: &str, eos: Option<&str>| {
        Encoder::new(template::find(name).unwrap(), &tokenizer, eos).err().map(|e| (e.to_string(), e.hint().unwrap()))
    };
    let (problem, hint) = refused("qwen3", None).unwrap();
    assert!(problem.contains("template `qwen3` needs the token `<|im_"), "{problem}");
    assert_eq!(hint, "templates that fit: llama3");
    assert!(refused("alpaca", None).unwrap().0.contains("eos_token"));
    assert!(refused("alpaca", Some("<|endoftext|>")).is_none());
}

#[test]
fn files_that_are_no_tokenizer_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (text, word) in
        [("", "EOF"), ("[]", "not a tokenizer"), ("{\"added_tokens\": []}", "model"), ("{}", "added_tokens")]
    {
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, text).unwrap();
        for engine in [Choice::Auto, Choice::Fastokens, Choice::Tokenizers] {
            let error = Tokenizer::load(&path, engine).err().unwrap().to_string();
            assert!(error.contains(word) && error.contains("tokenizer.json"), "{text:?}: {error}");
        }
    }
    assert!(Tokenizer::load(&dir.path().join("none"), Choice::Auto).is_err());
}
