//! The record formats: whatever serde_json reads is a record, and a dialogue that is taken can be trained on.

use qlora_fast_core::conversation::Role;
use qlora_fast_core::record::{self, Format, Layout, Variables};
use serde_json::Value;

fn check(input: &[u8], format: Option<Format>) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let layout = Layout { format, ..Layout::default() };
    let parsed = record::parse_as(text, &layout, &Variables::new());
    let valid = serde_json::from_str::<Value>(text).is_ok();
    assert!(parsed.is_ok() || !valid, "valid JSON is refused as JSON: {:?}", parsed.err());
    let Ok(parsed) = parsed else { return };
    if let Ok(dialogue) = parsed.conversation {
        assert!(dialogue.messages.iter().any(|message| message.role == Role::Assistant));
        let again = serde_json::to_string(&dialogue).unwrap();
        assert!(serde_json::from_str::<Value>(&again).is_ok());
        for call in dialogue.messages.iter().flat_map(|message| &message.tool_calls) {
            assert!(serde_json::from_str::<Value>(call).is_ok(), "{call}");
        }
    }
    let _ = record::detect(text, &layout);
}

pub(crate) fn alpaca(input: &[u8]) {
    check(input, Some(Format::Alpaca));
}

pub(crate) fn sharegpt(input: &[u8]) {
    check(input, Some(Format::Sharegpt));
}

pub(crate) fn messages(input: &[u8]) {
    check(input, Some(Format::Messages));
}

pub(crate) fn detected(input: &[u8]) {
    check(input, None);
}
