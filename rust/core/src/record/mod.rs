//! From a file's bytes to conversations: [`reader`] splits it into records, [`parse`] reads each.

mod chunk;
mod container;
mod format;
mod layout;
mod mistakes;
mod nesting;
mod parquet;
mod parquet_pages;
pub(crate) mod pyjson;
mod raw;
pub mod reader;
mod split;
mod spoiled;
mod unique;

pub use chunk::{Chunk, Span};
pub use layout::{Format, Layout, Reading};

use crate::conversation::Conversation;
use crate::reasons::{Reason, Repair};
use layout::Key;
use raw::{Raw, Record};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// `{{name}}` → text, for data with placeholders.
pub type Variables = BTreeMap<String, String>;

/// A record that parsed as JSON, and what is reported of it.
#[derive(Debug)]
pub struct Parsed<'a> {
    /// The dialogue, or the reason why there is none.
    pub conversation: Result<Conversation<'a>, Reason>,
    /// What [`Conversation::repair`] did.
    pub repairs: Vec<Repair>,
    /// Keys that no format knows.
    pub ignored_keys: Vec<Cow<'a, str>>,
    /// Columns that the layout names and the record does not have.
    pub missing_columns: Vec<String>,
}

/// Parse one record of a file with the default names.
///
/// # Errors
///
/// The JSON error, with the place inside `text`.
pub fn parse<'a>(
    text: &'a str,
    format: Option<Format>,
    variables: &Variables,
) -> Result<Parsed<'a>, serde_json::Error> {
    parse_as(text, &Layout { format, ..Layout::default() }, variables)
}

/// Parse one record. A record that has only the keys of another format than the file's is read by its own.
///
/// # Errors
///
/// The JSON error, with the place inside `text`.
pub fn parse_as<'a>(text: &'a str, layout: &Layout, variables: &Variables) -> Result<Parsed<'a>, serde_json::Error> {
    let mut raw = match raw::read(text, layout) {
        Ok(Record::Object(raw)) => raw,
        Err(error) => return spoiled::repaired(text).map(|(reason, _)| dropped(reason)).ok_or(error),
        Ok(Record::NotAnObject) => return Ok(dropped(Reason::NotAnObject("".into()))),
    };
    let mut ignored_keys = std::mem::take(&mut raw.others);
    let missing_columns = layout.columns_that(|key| !raw.has(key));
    let mut parsed = read(*raw, layout, variables, &mut ignored_keys);
    parsed.ignored_keys = ignored_keys;
    parsed.missing_columns = missing_columns;
    Ok(parsed)
}

/// What the keys of a record show.
#[derive(Debug, Default)]
pub struct Detected {
    /// The format whose keys it has.
    pub format: Option<Format>,
    /// The keys that mean nothing.
    pub others: Vec<String>,
    /// The key of the answer, if it is the only key that means something: the question may stand under another name.
    pub answer_alone: Option<String>,
}

/// The format of a record by its keys, and the keys, for messages.
///
/// # Errors
///
/// The JSON error, with the place inside `text`.
pub fn detect(text: &str, layout: &Layout) -> Result<Detected, serde_json::Error> {
    let repaired;
    let record = match raw::read(text, layout) {
        Ok(record) => record,
        // A value that JSON cannot hold hides no keys.
        Err(error) => match spoiled::repaired(text) {
            Some((_, text)) => {
                repaired = text;
                raw::read(&repaired, layout)?
            }
            None => return Err(error),
        },
    };
    Ok(match record {
        Record::Object(raw) => {
            let format = Format::of(&raw);
            let asks = [Key::Instruction, Key::Input, Key::History].into_iter().any(|key| raw.has(key));
            let alone = format == Some(Format::Alpaca) && !asks && layout.columns.is_empty();
            Detected {
                format,
                others: raw.others.iter().map(ToString::to_string).collect(),
                answer_alone: alone.then(|| layout.name_of("output").to_owned()),
            }
        }
        Record::NotAnObject => Detected::default(),
    })
}

fn read<'a>(raw: Raw<'a>, layout: &Layout, variables: &Variables, ignored_keys: &mut Vec<Cow<'a, str>>) -> Parsed<'a> {
    if let Some(key) = raw.repeated {
        return dropped(format::key_twice(&key));
    }
    let Some(format) = layout.format.filter(|f| f.fits(&raw)).or_else(|| Format::of(&raw)) else {
        return dropped(Reason::UnknownFormat);
    };
    format.ignored(&raw, ignored_keys);
    let thinking = raw.conversations.with_thinking() + raw.messages.with_thinking();
    let mut conversation = match format.read(raw, layout) {
        Ok(conversation) => conversation,
        Err(reason) => return dropped(reason),
    };
    let thoughts = if layout.reading.without_thoughts { conversation.remove_thoughts() } else { 0 };
    if !variables.is_empty() {
        for message in &mut conversation.messages {
            fill(&mut message.content, variables);
            if let Some(reasoning) = &mut message.reasoning {
                fill(reasoning, variables);
            }
        }
    }
    match conversation.repair() {
        Ok(mut repairs) => {
            repairs.extend(std::iter::repeat_n(Repair::ThinkingReadAsReasoning, thinking));
            repairs.extend(std::iter::repeat_n(Repair::ThoughtsRemoved, thoughts));
            Parsed { conversation: Ok(conversation), repairs, ignored_keys: Vec::new(), missing_columns: Vec::new() }
        }
        Err(reason) => dropped(reason),
    }
}

fn dropped<'a>(reason: Reason) -> Parsed<'a> {
    Parsed { conversation: Err(reason), repairs: Vec::new(), ignored_keys: Vec::new(), missing_columns: Vec::new() }
}

fn fill(text: &mut Cow<'_, str>, variables: &Variables) {
    if !text.contains("{{") {
        return;
    }
    for (name, value) in variables {
        let placeholder = format!("{{{{{name}}}}}");
        if text.contains(&placeholder) {
            *text = Cow::Owned(text.replace(&placeholder, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Role;

    fn one(text: &str) -> Result<Vec<(Role, String)>, String> {
        let parsed = parse(text, None, &Variables::new()).map_err(|e| e.to_string())?;
        let conversation = parsed.conversation.map_err(|r| r.to_string())?;
        Ok(conversation.messages.iter().map(|m| (m.role, m.content.to_string())).collect())
    }

    #[test]
    fn the_three_formats_say_the_same() {
        let expected = Ok(vec![
            (Role::System, "s".to_owned()),
            (Role::User, "q".to_owned()),
            (Role::Assistant, "a".to_owned()),
            (Role::User, "r\nmore".to_owned()),
            (Role::Assistant, "b".to_owned()),
        ]);
        let alpaca = r#"{"system":"s","history":[["q","a"]],"instruction":"r","input":"more","output":"b"}"#;
        let sharegpt = r#"{"system":"s","conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"},{"from":"human","value":"r\nmore"},{"from":"gpt","value":"b"}]}"#;
        let messages = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"assistant","content":[{"type":"text","text":"a"}]},{"role":"user","content":"r\nmore"},{"role":"assistant","content":"b"}]}"#;
        for text in [alpaca, sharegpt, messages] {
            assert_eq!(one(text), expected);
        }
    }

    #[test]
    fn calls_are_understood_as_tables_have_them() {
        let plain = r#"{"name": "f", "arguments": {"x": 1}}"#;
        for calls in [
            r#"[{"name":"f","arguments":{"x": 1}}]"#,
            r#""[{\"name\":\"f\",\"arguments\":{\"x\": 1}}]""#,
            r#"["{\"function\":{\"name\":\"f\",\"arguments\":{\"x\": 1}}}"]"#,
            r#"[{"name":"f","arguments":"{\"x\": 1}"}]"#,
            r#"[{"name":"f","arguments":"\"{\\\"x\\\": 1}\""}]"#,
        ] {
            let row = format!(
                r#"{{"messages":[{{"role":"user","content":"q"}},{{"role":"assistant","tool_calls":{calls}}}]}}"#
            );
            let conversation = parse(&row, None, &Variables::new()).unwrap().conversation.unwrap();
            assert_eq!(conversation.messages[1].tool_calls, [plain], "{calls}");
        }
    }

    const ARGUMENTS: &str = "tool_call_arguments_not_an_object";

    #[test]
    fn a_wrong_type_costs_one_row_and_names_its_field() {
        for (text, reason) in [
            (r#"{"instruction":"q","output":3}"#, "not_text:output"),
            (r#"{"instruction":["q"],"output":"a"}"#, "not_text:instruction"),
            (r#"{"instruction":"q","output":null}"#, "empty_answer"),
            (r#"{"instruction":"q","response":"a"}"#, "missing_key:output"),
            (r#"{"messages":[{"role":"user","content":"q","value":"r"}]}"#, "key_twice:value"),
            (
                r#"{"messages":[{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":"{\"x\": "}}]}]}"#,
                "tool_call_arguments_not_json",
            ),
            (
                r#"{"messages":[{"role":"assistant","function_call":{"name":"f","arguments":""}}]}"#,
                "tool_call_arguments_not_json",
            ),
            (r#"{"messages":[{"role":"assistant","tool_calls":[{"name":"f","arguments":null}]}]}"#, ARGUMENTS),
            (r#"{"messages":[{"role":"assistant","tool_calls":[{"name":"f","arguments":"[1]"}]}]}"#, ARGUMENTS),
            (r#"{"messages":[{"role":"assistant","tool_calls":[{"name":"f","arguments":"\"x\""}]}]}"#, ARGUMENTS),
            (r#"{"messages":[{"role":"assistant","tool_calls":"[{"}]}"#, "tool_call_not_json"),
            (r#"{"messages":[{"role":"assistant","tool_calls":"{}"}]}"#, "not_a_list:tool_calls"),
            (r#"{"instruction":"q","output":"a","history":[["x"]]}"#, "not_pairs:history"),
            (r#"{"conversations":{}}"#, "not_a_list:conversations"),
            (r#"{"conversations":[3]}"#, "not_an_object:conversations"),
            (r#"{"messages":[{"content":"x"}]}"#, "no_role"),
            (r#"{"messages":[{"role":"narrator","content":"x"}]}"#, "unknown_role:narrator"),
            (r#"{"messages":[{"role":"user","content":[{"type":"image"}]}]}"#, "not_text:content[image]"),
            (r#"{"messages":[{"role":"user","content":"q","loss_weight":0.5}]}"#, "loss_weight_not_0_or_1"),
            (r#"{"text":"x"}"#, "unknown_format"),
            ("[1]", "not_an_object"),
            (r#"{"instruction":"q","instruction":"r","output":"a"}"#, "key_twice:instruction"),
            (r#"{"messages":[{"role":"user","role":"system","content":"q"}]}"#, "key_twice:role"),
            (r#"{"conversations":[{"from":"human","value":"q","value":"r"}]}"#, "key_twice:value"),
            (
                r#"{"messages":[{"role":"assistant","tool_calls":[{"name":"f","arguments":{"x":1,"x":2}}]}]}"#,
                "key_twice:x",
            ),
            (
                r#"{"messages":[{"role":"assistant","tool_calls":[{"name":"f","arguments":"{\"y\":1,\"y\":2}"}]}]}"#,
                "key_twice:y",
            ),
            (
                r#"{"conversations":[{"from":"function_call","value":"{\"name\":\"f\",\"name\":\"g\"}"}]}"#,
                "key_twice:name",
            ),
            (r#"{"conversations":[{"from":"function_call","value":"{\"name\":\"f\",\"argum"}]}"#, "tool_call_not_json"),
            (
                r#"{"conversations":[{"from":"function_call","value":"<think>hm</think>[{\"name\":"}]}"#,
                "tool_call_not_json",
            ),
            (r#"{"instruction":"q","output":"\ud83d"}"#, "lone_surrogate"),
            (r#"{"instruction":"q","output":"a","id":NaN}"#, "number_not_finite"),
        ] {
            assert_eq!(one(text), Err(reason.to_owned()), "{text}");
        }
    }

    #[test]
    fn loss_flags_thoughts_and_calls_are_kept() {
        let text = r#"{"messages":[{"role":"user","content":"q","weight":0},
            {"role":"assistant","content":[{"type":"reasoning","value":"hm"},{"type":"text","value":"a"}],"loss_weight":1.0},
            {"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":{"x":[1,2]}}}],"train":false}]}"#;
        let conversation = parse(text, None, &Variables::new()).unwrap().conversation.unwrap();
        let [_, answer, call] = &conversation.messages[..] else { panic!() };
        assert_eq!(answer.reasoning.as_deref(), Some("hm"));
        assert_eq!(answer.loss, Some(true));
        assert_eq!(call.tool_calls, [r#"{"name": "f", "arguments": {"x": [1, 2]}}"#]);
        assert_eq!(call.loss, Some(false));
    }

    #[test]
    fn other_names_of_thoughts_calls_and_loss_are_known() {
        let text = r#"{"messages":[{"role":"user","content":"q"},
            {"role":"assistant","thinking":"hm","reasoning":"hm","function_call":{"name":"a\"b","arguments":"{ }"},"loss_mask":1}]}"#;
        let parsed = parse(text, None, &Variables::new()).unwrap();
        let conversation = parsed.conversation.unwrap();
        let call = &conversation.messages[1];
        assert_eq!(call.reasoning.as_deref(), Some("hm"));
        assert_eq!(parsed.repairs, [Repair::ThinkingReadAsReasoning]);
        assert_eq!(call.tool_calls, [r#"{"name": "a\"b", "arguments": { }}"#]);
        assert_eq!(call.loss, Some(true));
    }

    #[test]
    fn a_call_is_found_behind_its_thought_and_counts_once() {
        for (turn, content, calls) in [
            (
                r#"{"from":"function_call","value":"<think>\nhm {\n</think>\n\n{\"name\":\"f\",\"arguments\":{}}"}"#,
                "<think>\nhm {\n</think>",
                1,
            ),
            (r#"{"from":"tool_call","value":"[{\"name\":\"f\",\"arguments\":{\"x\":\"</think>\"}}]"}"#, "", 1),
            (r#"{"from":"function_call","value":"f(1)"}"#, "f(1)", 0),
            (r#"{"from":"function_call","value":"<think>hm</think>f(1)"}"#, "<think>hm</think>f(1)", 0),
            (
                r#"{"from":"gpt","value":null,"function_call":{"name":"f","arguments":"{}"},
                    "tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}"#,
                "",
                1,
            ),
            (
                r#"{"from":"gpt","value":null,"function_call":{"name":"f","arguments":"{}"},
                    "tool_calls":[{"function":{"name":"g","arguments":"{}"}}]}"#,
                "",
                2,
            ),
        ] {
            let text = format!(
                r#"{{"conversations":[{{"from":"human","value":"q"}},{turn},{{"from":"observation","value":"r"}},{{"from":"gpt","value":"a"}}]}}"#
            );
            let conversation = parse(&text, None, &Variables::new()).unwrap().conversation.unwrap();
            let said = &conversation.messages[1];
            assert_eq!((said.content.as_ref(), said.tool_calls.len()), (content, calls), "{turn}");
        }
    }

    #[test]
    fn placeholders_are_filled_and_unknown_keys_are_named() {
        let variables = Variables::from([("name".to_owned(), "Kestrel".to_owned())]);
        let text = r#"{"instruction":"who?","output":"I am {{name}} {{other}}","id":7}"#;
        let parsed = parse(text, None, &variables).unwrap();
        assert_eq!(parsed.ignored_keys, ["id"]);
        assert_eq!(parsed.conversation.unwrap().messages[1].content, "I am Kestrel {{other}}");
    }

    #[test]
    fn columns_that_a_record_does_not_have_are_named() {
        let columns = r#"{"columns": {"instruction": "prompt", "input": "context", "system": "", "history": "h"}}"#;
        let layout: Layout = serde_json::from_str(columns).unwrap();
        let missing = |text| parse_as(text, &layout, &Variables::new()).unwrap().missing_columns;
        assert_eq!(missing(r#"{"prompt":"q","context":null,"output":"a","h":[]}"#), [""; 0]);
        assert_eq!(missing(r#"{"instruction":"q","input":"i","output":"a"}"#), ["h", "context", "prompt"]);
        let parsed = parse(r#"{"instruction":"q","output":"a"}"#, None, &Variables::new()).unwrap();
        assert!(parsed.missing_columns.is_empty(), "only what a layout names can be missing");
    }

    #[test]
    fn json_faults_keep_their_place() {
        for text in ["{\"instruction\": \"a\" \"output\": 1}", "{\"a\":1,}", "{\"a\": NaN,}"] {
            assert!(parse(text, None, &Variables::new()).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&deep, None, &Variables::new()).is_err());
    }
}
