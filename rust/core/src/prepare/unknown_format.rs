//! What to do about records of no known format: a guess at what they are, from their keys.

use super::names::beginning;
use serde_json::Value;

/// Depth to which a list of records is searched in a file that is one object.
const DEEPEST: usize = 3;
const QUESTIONS: [&str; 8] = ["question", "query", "prompt", "instruction", "input", "problem", "human", "user"];
const ANSWERS: [&str; 10] =
    ["answer", "response", "completion", "output", "target", "solution", "reply", "assistant", "gpt", "text"];

/// A hint for a file whose first records have these keys.
///
/// `first` is the text of the first record, and `alone` whether the file has no other near its start.
pub(super) fn hint(first: &str, alone: bool, keys: &[String]) -> String {
    if keys.is_empty() {
        return r#"each record must be an object, as {"instruction": "…", "output": "…"}"#.to_owned();
    }
    let has = |name: &str| keys.iter().any(|key| key == name);
    let record: Value = serde_json::from_str(first).unwrap_or_default();
    let is_list = |name: &str| record.get(name).is_some_and(Value::is_array);
    if is_list("prompt") && is_list("completion") {
        return "`prompt` and `completion` are lists of turns: join them to one list, `messages`".to_owned();
    }
    if alone && keys.len() > 1 && record.as_object().is_some_and(|object| object.values().all(Value::is_object)) {
        return "if each value is a record, make a list of them: jq '[.[]]' FILE > records.json".to_owned();
    }
    if let Some(path) = list_of_objects(&record, DEEPEST) {
        if alone {
            return format!(
                "if the records are the list under `{path}`, keep that list alone: jq '.{path}' FILE > records.json"
            );
        }
        return format!(
            "if `{path}` holds the turns, name it in dataset_info.json: \
             \"formatting\": \"sharegpt\", \"columns\": {{\"messages\": \"{path}\"}}, and what a turn's keys are in \"tags\""
        );
    }
    if has("chosen") && has("rejected") {
        let question = found(keys, &QUESTIONS).unwrap_or("prompt");
        return format!(
            "pairs of a preferred and a rejected answer are not trained on; to train on the preferred ones, name them in \
             dataset_info.json: \"columns\": {{\"prompt\": \"{question}\", \"response\": \"chosen\"}}"
        );
    }
    match (found(keys, &QUESTIONS), found(keys, &ANSWERS)) {
        (Some(question), Some(answer)) if question != answer => format!(
            "name the keys in dataset_info.json: \"columns\": {{\"prompt\": \"{question}\", \"response\": \"{answer}\"}}; \
             or rename them `instruction` and `output`"
        ),
        _ => {
            "expected `instruction` and `output` (Alpaca), `conversations` (ShareGPT) or `messages`; other keys can be \
              named in dataset_info.json (\"columns\")"
                .to_owned()
        }
    }
}

/// The first of `names` that is a key, however it is capitalized.
fn found<'k>(keys: &'k [String], names: &[&str]) -> Option<&'k str> {
    names.iter().find_map(|name| keys.iter().find(|key| key.trim().eq_ignore_ascii_case(name))).map(String::as_str)
}

/// Where in an object a list of objects stands: its keys, joined by dots.
fn list_of_objects(value: &Value, depth: usize) -> Option<String> {
    let object = value.as_object().filter(|_| depth > 0)?;
    let object = || object.iter().filter(|(key, _)| beginning(key) == *key);
    let here = object().find(|(_, v)| v.as_array().is_some_and(|list| list.first().is_some_and(Value::is_object)));
    here.map(|(key, _)| key.clone())
        .or_else(|| object().find_map(|(key, v)| list_of_objects(v, depth - 1).map(|rest| format!("{key}.{rest}"))))
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn the_hint_fits_the_keys() {
        let of = |record: &str, alone: bool| {
            let keys = match serde_json::from_str::<serde_json::Value>(record).unwrap() {
                serde_json::Value::Object(object) => object.keys().cloned().collect(),
                _ => Vec::new(),
            };
            hint(record, alone, &keys)
        };
        for (record, alone, words) in [
            (r#"{"data": [{"instruction": "a"}]}"#, true, "list under `data`"),
            (r#"{"version": 1, "data": {"train": [{"a": "b"}]}}"#, true, "jq '.data.train' FILE"),
            (r#"{"dialog": [{"speaker": "a", "text": "b"}]}"#, false, "\"messages\": \"dialog\""),
            (r#"{"0": {"a": "b"}, "1": {"a": "b"}}"#, true, "jq '[.[]]' FILE"),
            (r#"{"prompt": [{"role": "user"}], "completion": [{}]}"#, false, "one list, `messages`"),
            (r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#, false, "\"response\": \"chosen\""),
            (
                r#"{"question": "a", "chosen": "b", "rejected": "c"}"#,
                false,
                "{\"prompt\": \"question\", \"response\": \"chosen\"}",
            ),
            (r#"{"question": "a", "answer": "b"}"#, false, "{\"prompt\": \"question\", \"response\": \"answer\"}"),
            (r#"{"Instruction": "a", "Output": "b"}"#, true, "{\"prompt\": \"Instruction\", \"response\": \"Output\"}"),
            (r#"{"text": "a"}"#, false, "expected `instruction`"),
            (r#"["a", "b"]"#, false, "must be an object"),
        ] {
            assert!(of(record, alone).contains(words), "{record}: {}", of(record, alone));
        }
    }
}
