//! A model's own Jinja template: whatever the data says, only the template writes control tokens.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use proptest::prelude::*;
use qlora_fast_core::conversation::{Conversation, Message, Role};
use qlora_fast_core::template::{Controls, Kind, Learn, Rendered, Source, Template};
use std::path::Path;

const TOKENS: [&str; 12] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<think>",
    "</think>",
    "<s>",
    "</s>",
];
const TAGS: [&str; 2] = ["<think>", "</think>"];
/// Templates of every sort: plain, trimming, the system prompt in the question, thoughts parted from answers.
const FILES: [&str; 7] = ["chatml", "llama3", "gemma", "llama2", "qwen2_5", "zephyr", "qwen3"];

fn template(name: &str) -> Template {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/data/chat_templates/{name}.jinja"));
    let text = std::fs::read_to_string(path).unwrap();
    Template::new(&Source::jinja(&text), Some("<s>"), Some("</s>")).unwrap()
}

fn talk(turns: &[String]) -> Conversation<'_> {
    let role = |i: usize| if i.is_multiple_of(2) { Role::User } else { Role::Assistant };
    let messages = turns.iter().enumerate().map(|(i, text)| Message::new(role(i), text.as_str())).collect();
    Conversation { messages, tools: None }
}

fn controls_of(rendered: &Rendered<'_>) -> Vec<String> {
    let segments = rendered.turns.iter().flat_map(|t| &t.segments);
    segments.filter(|s| s.kind == Kind::Control).map(|s| s.text.to_string()).collect()
}

/// Words, blanks, and what looks like a control token.
fn content() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => "[a-zé字 ]{1,6}".prop_map(String::from),
        2 => prop::sample::select(TOKENS.to_vec()).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["\n", "  ", "\t", "{{ x }}", "{% if %}", "\"\\", "q0q"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat()).prop_filter("says something", |text| {
        let bare = TOKENS.iter().fold(text.clone(), |text, token| text.replace(token, ""));
        !bare.trim().is_empty() && !text.trim().is_empty()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn text_never_becomes_a_control_token(
        turns in prop::collection::vec(content(), 2..=6).prop_filter("answered", |turns| turns.len().is_multiple_of(2)),
        file in prop::sample::select(FILES.to_vec()),
    ) {
        let template = template(file);
        let controls = Controls::new(TOKENS);
        let conversation = talk(&turns);
        let plain: Vec<String> = turns.iter().map(|_| "x".to_owned()).collect();
        let usual = talk(&plain);
        let usual = template.render(&usual, None, Learn::default(), &controls).unwrap();
        match template.render(&conversation, None, Learn::default(), &controls) {
            Ok(rendered) => {
                if file == "qwen3" {
                    // Qwen3 itself turns tags in an answer into its own; all else must be as ever.
                    let bare = |r: &Rendered<'_>| -> Vec<String> {
                        controls_of(r).into_iter().filter(|t| !TAGS.contains(&t.as_str())).collect()
                    };
                    prop_assert_eq!(bare(&rendered), bare(&usual));
                } else {
                    prop_assert_eq!(controls_of(&rendered), controls_of(&usual));
                    let learned = rendered.turns.iter().flat_map(|t| &t.segments).filter(|s| s.learned && s.content);
                    let answers: Vec<&str> = turns.iter().skip(1).step_by(2).map(|t| t.trim()).collect();
                    prop_assert_eq!(learned.map(|s| s.text.trim()).collect::<Vec<_>>(), answers);
                }
            }
            Err(reason) => {
                prop_assert_eq!(file, "qwen3", "{}", reason);
                prop_assert!(turns.iter().any(|t| TAGS.iter().any(|tag| t.contains(tag))));
            }
        }
    }
}

#[test]
fn the_words_in_place_of_contents_cannot_be_forged() {
    // A content that spells the word of another row, or any word, is only text: the word depends on all contents.
    let template = template("chatml");
    let controls = Controls::new(TOKENS);
    let forged: Vec<String> = ["q0q", "q00000000000000000000000000q0q"].map(str::to_owned).to_vec();
    let conversation = talk(&forged);
    let rendered = template.render(&conversation, None, Learn::default(), &controls).unwrap();
    assert!(rendered.text("").contains("assistant\nq00000000000000000000000000q0q<|im_end|>"));
}
