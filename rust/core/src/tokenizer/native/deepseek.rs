//! The steps by which DeepSeek's tokenizers split text.

use super::sets::{CHINESE_AND_KANA, EAST, LATIN, LETTERS, PUNCTUATION, WIDE_PUNCTUATION};
use super::steps::Step;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DeepSeek {
    /// DeepSeek-LLM, V2 and Coder-V2.
    Llm,
    Coder,
    /// V3, R1 and what followed.
    V3,
}

impl DeepSeek {
    const ALL: [Self; 3] = [Self::Llm, Self::Coder, Self::V3];

    /// The tokenizer whose steps these are.
    pub(super) fn of(steps: &[Value]) -> Option<Self> {
        let same = |known: &Self| {
            let known = known.steps();
            known.len() == steps.len() && known.iter().zip(steps).all(|(known, step)| known.is(step))
        };
        Self::ALL.into_iter().find(same)
    }

    pub(super) fn steps(self) -> &'static [Step] {
        match self {
            Self::Llm => &[
                Step::LineBreak,
                Step::Led(LATIN),
                Step::Led(WIDE_PUNCTUATION),
                Step::Trailing,
                Step::Run(EAST),
                Step::Digits,
            ],
            Self::Coder => {
                &[Step::LineBreak, Step::Led(LETTERS), Step::Led(PUNCTUATION), Step::Run(EAST), Step::Digits]
            }
            Self::V3 => &[Step::Threes, Step::Run(CHINESE_AND_KANA), Step::Words],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn what_differs_in_a_step_is_not_taken() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/deepseek.json");
        let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let names = ["deepseek-llm", "deepseek-coder", "deepseek-v3"];
        for (name, known) in names.into_iter().zip(DeepSeek::ALL) {
            let (_, steps) = file[name]["pretokenizers"].as_array().unwrap().split_last().unwrap();
            assert_eq!(DeepSeek::of(steps), Some(known));
            assert_eq!(DeepSeek::of(&steps[1..]), None);
            for i in 0..steps.len() {
                for (field, value) in [
                    ("pattern", json!({ "Regex": r"\p{L}" })),
                    ("pattern", json!({ "String": "[\r\n]" })),
                    ("behavior", json!("Removed")),
                    ("invert", json!(true)),
                    ("individual_digits", json!(false)),
                ] {
                    let mut changed = steps.to_vec();
                    if changed[i].get(field).is_some() {
                        changed[i][field] = value;
                        assert_eq!(DeepSeek::of(&changed), None, "{name}: {i}, {field}");
                    }
                }
            }
        }
    }
}
