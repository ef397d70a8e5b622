//! SentencePiece's way with blanks: each becomes a `▁`, and a text may get one in front.

use super::normalizer::is_empty;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a tokenizer does with blanks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metaspace {
    front: Front,
    /// Text behind a control token gets none in front.
    pub(super) first_only: bool,
    /// A piece begins at each `▁`; else a text is one piece.
    pub(super) split: bool,
    /// The normalizer does it, and not the pre-tokenizer: added tokens are looked for behind it.
    pub(super) normalizes: bool,
}

/// When a text gets a `▁` in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Front {
    Always,
    /// Unless it begins with one, or with a blank.
    Missing,
    Never,
}

const MARK: &str = "▁";

impl Metaspace {
    /// What a normalizer and a pre-tokenizer do together, if it is known.
    pub(super) fn of(normalizer: &Value, pre_tokenizer: &Value) -> Option<Self> {
        let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": MARK });
        let prepend = json!({ "type": "Prepend", "prepend": MARK });
        if is_empty(normalizer) {
            return Self::of_pre_tokenizer(pre_tokenizer);
        }
        // Llama-2, TinyLlama, Mistral.
        if *normalizer == json!({ "type": "Sequence", "normalizers": [prepend, replace] }) {
            return pre_tokenizer.is_null().then_some(Self {
                front: Front::Always,
                first_only: false,
                split: false,
                normalizes: true,
            });
        }
        // Gemma. It splits at blanks when there are none any more.
        let idle = json!({
            "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false
        });
        (*normalizer == replace && (pre_tokenizer.is_null() || *pre_tokenizer == idle)).then_some(Self {
            front: Front::Never,
            first_only: false,
            split: false,
            normalizes: true,
        })
    }

    /// As newer conversions of Llama-2 and Mistral have it.
    fn of_pre_tokenizer(step: &Value) -> Option<Self> {
        if step["type"] != "Metaspace" || step["replacement"] != MARK {
            return None;
        }
        let scheme = step.get("prepend_scheme").map_or(Some("always"), Value::as_str)?;
        let front = match scheme {
            "always" | "first" if step["add_prefix_space"] != false => Front::Missing,
            "never" => Front::Never,
            _ => return None,
        };
        let split = step.get("split").filter(|split| !split.is_null()).map_or(Some(true), Value::as_bool)?;
        Some(Self { front, first_only: scheme == "first", split, normalizes: false })
    }

    /// Appends a text as it is encoded. `first`: nothing stands before it.
    pub(super) fn mark(self, text: &str, first: bool, marked: &mut String) {
        let front = match self.front {
            _ if self.first_only && !first => false,
            Front::Always => !text.is_empty(),
            Front::Missing => !text.is_empty() && !text.starts_with([' ', '▁']),
            Front::Never => false,
        };
        if front {
            marked.push_str(MARK);
        }
        let mut from = 0;
        for at in memchr::memchr_iter(b' ', text.as_bytes()) {
            marked.push_str(&text[from..at]);
            marked.push_str(MARK);
            from = at + 1;
        }
        marked.push_str(&text[from..]);
    }
}

/// The end of the piece at `at` where one begins at each `▁`.
pub(super) fn piece_end(text: &[u8], at: usize) -> usize {
    let mark = MARK.as_bytes();
    // A mark at `at` is this piece's own.
    let behind = at + 1;
    memchr::memchr_iter(mark[0], &text[behind..])
        .map(|n| behind + n)
        .find(|&at| text[at..].starts_with(mark))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(normalizer: &str, pre_tokenizer: &str) -> Option<Metaspace> {
        Metaspace::of(&serde_json::from_str(normalizer).unwrap(), &serde_json::from_str(pre_tokenizer).unwrap())
    }

    #[test]
    fn what_is_not_quite_known_is_not_taken() {
        let step = |fields: &str| format!(r#"{{"type": "Metaspace", {fields}}}"#);
        let first = step(r#""replacement": "▁", "prepend_scheme": "first", "split": false"#);
        assert_eq!(
            known("null", &first),
            Some(Metaspace { front: Front::Missing, first_only: true, split: false, normalizes: false })
        );
        let short = step(r#""replacement": "▁""#);
        assert_eq!(
            known("null", &short),
            Some(Metaspace { front: Front::Missing, first_only: false, split: true, normalizes: false })
        );
        for fields in [
            r#""replacement": "_", "prepend_scheme": "first""#,
            r#""replacement": "▁", "prepend_scheme": "last""#,
            // The reference does not load this one.
            r#""replacement": "▁", "prepend_scheme": "first", "add_prefix_space": false"#,
        ] {
            assert_eq!(known("null", &step(fields)), None, "{fields}");
        }
        let replace = r#"{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}"#;
        assert_eq!(
            known(replace, "null"),
            Some(Metaspace { front: Front::Never, first_only: false, split: false, normalizes: true })
        );
        assert_eq!(known(replace, &first), None);
        assert_eq!(known(r#"{"type": "NFKC"}"#, &first), None);
    }

    #[test]
    fn a_text_gets_one_mark_in_front() {
        let marked = |front, text| {
            let mut marked = String::new();
            let metaspace = Metaspace { front, first_only: false, split: false, normalizes: true };
            metaspace.mark(text, true, &mut marked);
            marked
        };
        for (text, always, missing, never) in
            [("", "", "", ""), ("a b", "▁a▁b", "▁a▁b", "a▁b"), (" a", "▁▁a", "▁a", "▁a"), ("▁a", "▁▁a", "▁a", "▁a")]
        {
            assert_eq!(marked(Front::Always, text), always);
            assert_eq!(marked(Front::Missing, text), missing);
            assert_eq!(marked(Front::Never, text), never);
        }
    }
}
