//! What to do about records of no known format: a guess at what they are, from their keys.

use super::names::beginning;
use crate::record::pyjson::dumps;
use serde_json::{Map, Value, json};

/// Depth to which a list of records is searched in a file that is one object.
const DEEPEST: usize = 3;
const QUESTIONS: [&str; 8] = ["question", "query", "prompt", "instruction", "input", "problem", "human", "user"];
const ANSWERS: [&str; 10] =
    ["answer", "response", "completion", "output", "target", "solution", "reply", "assistant", "gpt", "text"];
/// What files call the speaker of a turn, and what is said.
const SPEAKERS: [&str; 6] = ["role", "from", "speaker", "author", "sender", "name"];
const SAYINGS: [&str; 6] = ["content", "value", "text", "message", "utterance", "parts"];
/// The keys of a preferred and a rejected answer.
const PREFERENCES: [(&str, &str); 3] =
    [("chosen", "rejected"), ("preferred_output", "non_preferred_output"), ("preferred", "rejected")];

/// A hint for a file whose first records have these keys.
///
/// `file` is the file's name, `first` the text of its first record, and `alone` whether it has no other near its start.
pub(super) fn hint(file: &str, first: &str, alone: bool, keys: &[String]) -> String {
    let record: Value = serde_json::from_str(first).unwrap_or_default();
    if keys.is_empty() {
        return of_no_object(&record).to_owned();
    }
    let has = |name: &str| keys.iter().any(|key| key == name);
    let is_list = |name: &str| record.get(name).is_some_and(Value::is_array);
    if is_list("prompt") && is_list("completion") {
        return "`prompt` and `completion` are lists of turns: join them into one list, `messages`".to_owned();
    }
    if let Some((preferred, _)) = PREFERENCES.iter().find(|(preferred, rejected)| has(preferred) && has(rejected)) {
        return of_preferences(file, keys, &record, preferred);
    }
    if alone && keys.len() > 1 && record.as_object().is_some_and(|object| object.values().all(Value::is_object)) {
        return "if each value is a record, convert them to a list: jq '[.[]]' FILE > records.json".to_owned();
    }
    if let Some((path, item)) = list_of_objects(&record, DEEPEST) {
        return of_list(file, &path, item, alone);
    }
    if found(keys, &SPEAKERS).is_some() && found(keys, &SAYINGS).is_some() {
        return "each record is one turn, but a record must be a complete conversation: put its turns into a list, `messages`"
            .to_owned();
    }
    match (found(keys, &QUESTIONS), found(keys, &ANSWERS)) {
        (Some(question), Some(answer)) if question != answer => {
            let entry = entry(file, &json!({"columns": {"prompt": question, "response": answer}}));
            format!("{entry}; or rename the keys `instruction` and `output`")
        }
        _ if keys.len() == 1 && has("text") => {
            "plain text is not trained on: its prompts and answers must be separate, as \
             `instruction` and `output` (Alpaca) or as turns in `messages`"
                .to_owned()
        }
        _ => {
            let entry = entry(file, &json!({"columns": {"prompt": "KEY", "response": "KEY"}}));
            format!(
                "expected `instruction` and `output` (Alpaca), `conversations` (ShareGPT) or `messages`; for other keys, {entry}"
            )
        }
    }
}

/// Whether a record is a whole table, with a list, or an object of numbered values, for each column.
pub(super) fn is_table(text: &str) -> bool {
    let Ok(Value::Object(columns)) = serde_json::from_str::<Value>(text) else { return false };
    let rows = |column: &Value| match column {
        Value::Array(rows) if !rows.first().is_some_and(Value::is_object) => Some(rows.len()),
        Value::Object(rows) if rows.keys().all(|key| key.parse::<u64>().is_ok()) => Some(rows.len()),
        _ => None,
    };
    let mut lengths = columns.values().map(rows);
    let Some(Some(first)) = lengths.next() else { return false };
    columns.len() > 1 && first > 0 && lengths.all(|length| length == Some(first))
}

/// Whether a question stands under one of these keys, most likely.
pub(super) fn has_question(keys: &[String]) -> bool {
    found(keys, &QUESTIONS).is_some()
}

/// An entry of `dataset_info.json` that says how a file is laid out.
fn entry(file: &str, layout: &Value) -> String {
    let mut entry = Map::from_iter([("file_name".to_owned(), json!(file))]);
    entry.extend(layout.as_object().cloned().unwrap_or_default());
    // As people write it: with blanks after colons and commas.
    let written = dumps(&json!({"mine": entry}));
    format!("name the keys in a dataset_info.json beside the data: {written}, then dataset=mine")
}

/// Records that are no objects.
fn of_no_object(record: &Value) -> &'static str {
    let inner = record.get(0).and_then(Value::as_object);
    match inner {
        Some(turn) if has_any(turn, &SPEAKERS) && has_any(turn, &SAYINGS) => {
            r#"each record is a list of turns: put it under a key, as {"messages": […]}"#
        }
        Some(_) => "the records are in a list inside the list: remove the outer one, jq '.[]' FILE > records.json",
        None => r#"each record must be an object, as {"instruction": "…", "output": "…"}"#,
    }
}

fn of_preferences(file: &str, keys: &[String], record: &Value, preferred: &str) -> String {
    let start = "pairs of a preferred and a rejected answer are not trained on";
    if !record.get(preferred).is_some_and(Value::is_string) {
        return format!(
            "{start}; to train on the preferred ones, write prompt and `{preferred}` as one list of turns, `messages`"
        );
    }
    let question = found(keys, &QUESTIONS).unwrap_or("prompt");
    let entry = entry(file, &json!({"columns": {"prompt": question, "response": preferred}}));
    format!("{start}; to train on the preferred ones, {entry}")
}

/// What to do about a list of objects: the records themselves, or the turns of one.
fn of_list(file: &str, path: &str, item: &Map<String, Value>, alone: bool) -> String {
    let key = |names: &[&'static str]| names.iter().copied().find(|name| item.contains_key(*name));
    if path.ends_with("replies") || item.contains_key("replies") {
        return "a tree of replies is not a conversation: write each path from the root to a leaf as a separate record, with its \
                turns in `messages`"
            .to_owned();
    }
    if let (Some(speaker), Some(saying)) = (key(&SPEAKERS), key(&SAYINGS)) {
        if path.contains('.') || !item[saying].is_string() {
            return format!("write the turns under `{path}` as `messages`, each with `role` and `content`");
        }
        return entry(
            file,
            &json!({"formatting": "sharegpt", "columns": {"messages": path},
                    "tags": {"role_tag": speaker, "content_tag": saying}}),
        );
    }
    if key(&["human", "user", "question"]).is_some() && key(&["assistant", "gpt", "bot", "answer"]).is_some() {
        return format!(
            "`{path}` holds pairs: write each as two turns in `messages`, {{\"role\": \"user\", …}} and {{\"role\": \"assistant\", …}}"
        );
    }
    if alone {
        return format!(
            "if the records are the list under `{path}`, keep that list alone: jq '.{path}' FILE > records.json"
        );
    }
    format!("if `{path}` holds the turns, write them as `messages`, each with `role` and `content`")
}

fn has_any(object: &Map<String, Value>, names: &[&str]) -> bool {
    names.iter().any(|name| object.contains_key(*name))
}

/// The first of `names` that is a key, however it is capitalized.
fn found<'k>(keys: &'k [String], names: &[&str]) -> Option<&'k str> {
    names.iter().find_map(|name| keys.iter().find(|key| key.trim().eq_ignore_ascii_case(name))).map(String::as_str)
}

/// Where in an object a list of objects stands, its keys joined by dots, and the first of them.
fn list_of_objects(value: &Value, depth: usize) -> Option<(String, &Map<String, Value>)> {
    let object = value.as_object().filter(|_| depth > 0)?;
    let object = || object.iter().filter(|(key, _)| beginning(key) == *key);
    let here = object().find_map(|(key, v)| Some((key.clone(), v.as_array()?.first()?.as_object()?)));
    here.or_else(|| {
        object().find_map(|(key, v)| list_of_objects(v, depth - 1).map(|(rest, item)| (format!("{key}.{rest}"), item)))
    })
}

#[cfg(test)]
mod tests {
    use super::{hint, is_table};

    #[test]
    fn the_hint_fits_the_keys() {
        let of = |record: &str, alone: bool| {
            let keys = match serde_json::from_str::<serde_json::Value>(record).unwrap() {
                serde_json::Value::Object(object) => object.keys().cloned().collect(),
                _ => Vec::new(),
            };
            hint("d.json", record, alone, &keys)
        };
        for (record, alone, words) in [
            (r#"{"data": [{"instruction": "a"}]}"#, true, "list under `data`"),
            (r#"{"version": 1, "data": {"train": [{"a": "b"}]}}"#, true, "jq '.data.train' FILE"),
            (
                r#"{"dialog": [{"speaker": "a", "text": "b"}]}"#,
                false,
                r#"{"mine": {"file_name": "d.json", "formatting": "sharegpt", "columns": {"messages": "dialog"}, "tags": {"role_tag": "speaker", "content_tag": "text"}}}"#,
            ),
            (r#"{"dialog": [{"role": "a", "content": "b"}]}"#, true, r#""columns": {"messages": "dialog"}"#),
            (r#"{"contents": [{"role": "user", "parts": [{"text": "a"}]}]}"#, true, "write the turns under `contents`"),
            (r#"{"conversation": [{"human": "a", "assistant": "b"}]}"#, true, "`conversation` holds pairs"),
            (r#"{"rounds": [{"in": "a", "out": "b"}]}"#, false, "if `rounds` holds the turns"),
            (r#"{"prompt": {"text": "a", "replies": [{"text": "b"}]}}"#, true, "a tree of replies"),
            (r#"{"0": {"a": "b"}, "1": {"a": "b"}}"#, true, "jq '[.[]]' FILE"),
            (r#"{"prompt": [{"role": "user"}], "completion": [{}]}"#, false, "one list, `messages`"),
            (r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#, false, r#""response": "chosen""#),
            (
                r#"{"question": "a", "chosen": "b", "rejected": "c"}"#,
                false,
                r#"{"mine": {"file_name": "d.json", "columns": {"prompt": "question", "response": "chosen"}}}"#,
            ),
            (
                r#"{"input": {}, "preferred_output": [{}], "non_preferred_output": [{}]}"#,
                true,
                "prompt and `preferred_output`",
            ),
            (
                r#"{"question": "a", "answer": "b"}"#,
                false,
                r#""columns": {"prompt": "question", "response": "answer"}"#,
            ),
            (
                r#"{"Instruction": "a", "Output": "b"}"#,
                true,
                r#""columns": {"prompt": "Instruction", "response": "Output"}"#,
            ),
            (r#"{"role": "user", "content": "b"}"#, false, "each record is one turn"),
            (r#"{"text": "a"}"#, false, "plain text is not trained on"),
            (r#"{"frage": "a"}"#, false, "expected `instruction`"),
            (r#"["a", "b"]"#, false, "must be an object"),
            (r#"[{"role": "user", "content": "b"}]"#, false, "is a list of turns"),
            (r#"[{"instruction": "a", "output": "b"}]"#, false, "remove the outer one"),
        ] {
            assert!(of(record, alone).contains(words), "{record}: {}", of(record, alone));
        }
    }

    #[test]
    fn a_table_is_a_record_of_columns() {
        for (record, expected) in [
            (r#"{"instruction": ["a", "b"], "output": ["c", "d"]}"#, true),
            (r#"{"instruction": {"0": "a"}, "output": {"0": "c"}}"#, true),
            (r#"{"instruction": ["a", "b"], "output": ["c"]}"#, false),
            (r#"{"instruction": "a", "output": ["c"]}"#, false),
            (r#"{"instruction": [], "output": []}"#, false),
            (r#"{"output": ["c"]}"#, false),
            (r#"{"prompt": [{"role": "user"}], "completion": [{}]}"#, false),
            (r#"{"messages": [{"role": "user"}], "tools": [{}]}"#, false),
            (r#"{"0": {"instruction": "a"}, "1": {"instruction": "b"}}"#, false),
            ("[]", false),
        ] {
            assert_eq!(is_table(record), expected, "{record}");
        }
    }
}
