//! Rendering and encoding against transformers and `tokenizers`: the golden vectors that `make golden` writes.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use qlora_fast_core::conversation::Conversation;
use qlora_fast_core::encode::Encoder;
use qlora_fast_core::template::{self, Learn, Source, Template};
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

fn template(name: &str, bos: Option<&str>, eos: Option<&str>) -> Template {
    Template::new(&Source::named(name), bos, eos).unwrap()
}

fn golden(name: &str) -> String {
    std::fs::read_to_string(data().join("golden").join(format!("{name}.json"))).unwrap()
}

#[test]
fn golden_vectors() {
    for engine in [Choice::Native, Choice::Tokenizers] {
        let tokenizer = Tokenizer::load(&data().join("tokenizer/tokenizer.json"), engine, None).unwrap();
        for name in ["qwen3", "qwen", "chatml", "smollm2", "llama3"] {
            let template = template(name, None, None);
            let encoder = Encoder::new(&template, &tokenizer, None).unwrap();
            let file = golden(name);
            let cases: Vec<Case<'_>> = serde_json::from_str(&file).unwrap();
            assert!(cases.len() > 10, "{name}");
            for case in &cases {
                let rendered = if case.prompt {
                    encoder.prompt(&case.conversation, None, false)
                } else {
                    encoder.render(&case.conversation, None, Learn::default())
                };
                let rendered = rendered.unwrap();
                assert_eq!(rendered.text(""), case.text, "{name}: {}", case.name);
                let encoded = encoder.encode(&rendered.turns).unwrap();
                assert_eq!(encoded.ids, case.ids, "{name}: {}", case.name);
                assert_eq!(encoded.spans, case.spans, "{name}: {}", case.name);
            }
        }
    }
}

/// What the tests' tokenizer has no tokens for is compared as text, with what is learned of it.
#[derive(Deserialize)]
struct TextCase<'a> {
    name: String,
    #[serde(borrow)]
    conversation: Conversation<'a>,
    prompt: bool,
    text: String,
    learned: Vec<String>,
}

fn learned(rendered: &template::Rendered<'_>) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut open = false;
    for segment in rendered.turns.iter().flat_map(|t| &t.segments) {
        match pieces.last_mut().filter(|_| open && segment.learned) {
            Some(last) => last.push_str(&segment.text),
            None if segment.learned => pieces.push(segment.text.to_string()),
            None => {}
        }
        open = segment.learned;
    }
    pieces
}

#[test]
fn golden_texts() {
    let controls = template::Controls::default();
    for name in template::names() {
        let file = match name {
            "qwen3" | "qwen" | "chatml" | "smollm2" | "llama3" | "qwen3_nothink" => continue,
            name => golden(name),
        };
        let template = template(name, Some("<s>"), Some("</s>"));
        let cases: Vec<TextCase<'_>> = serde_json::from_str(&file).unwrap();
        assert!(cases.len() > 4, "{name}");
        for case in &cases {
            let rendered = if case.prompt {
                template.prompt(&case.conversation, None, false, &controls)
            } else {
                template.render(&case.conversation, None, Learn::default(), &controls)
            };
            let rendered = rendered.unwrap();
            assert_eq!(rendered.text(""), case.text, "{name}: {}", case.name);
            assert_eq!(learned(&rendered), case.learned, "{name}: {}", case.name);
        }
    }
}

#[test]
fn every_template_is_found_by_its_own_jinja() {
    for (file, expected) in [("qwen2_5", "qwen")].into_iter().chain(template::names().into_iter().map(|n| (n, n))) {
        let Ok(jinja) = std::fs::read_to_string(data().join(format!("chat_templates/{file}.jinja"))) else {
            assert!(["qwen", "qwen3_nothink"].contains(&file), "{file} has no reference");
            continue;
        };
        assert_eq!(
            template::detect(&jinja, Some("<s>"), Some("</s>")).map(|t| t.name.as_str()),
            Some(expected),
            "{file}"
        );
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
    let tokenizer = Tokenizer::load(&path, Choice::Auto, None).unwrap();
    let refused = |name: &str, eos: Option<&str>| {
        let template = template(name, None, eos);
        Encoder::new(&template, &tokenizer, eos).err().map(|e| (e.to_string(), e.hint().unwrap()))
    };
    let (problem, hint) = refused("qwen3", None).unwrap();
    assert!(problem.contains("template `qwen3` needs the token `<|im_"), "{problem}");
    assert_eq!(hint, "templates that fit: llama3, llama3_2");
    assert!(refused("alpaca", None).unwrap().0.contains("eos_token"));
    assert!(refused("alpaca", Some("<|endoftext|>")).is_none());
}

#[test]
fn files_that_are_no_tokenizer_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (text, word) in [("", "EOF"), ("[]", "not a tokenizer"), ("{\"added_tokens\": []}", "model"), ("{}", "missing")]
    {
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, text).unwrap();
        for engine in [Choice::Auto, Choice::Native, Choice::Tokenizers] {
            let error = Tokenizer::load(&path, engine, None).err().unwrap().to_string();
            let names_it = error.to_lowercase().contains(&word.to_lowercase());
            assert!(names_it && error.contains("tokenizer.json"), "{text:?}: {error}");
        }
    }
    assert!(Tokenizer::load(&dir.path().join("none"), Choice::Auto, None).is_err());
}
