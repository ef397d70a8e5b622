//! The steps by which DeepSeek's tokenizers split text.

use super::classes;
use super::steps::{Set, Step};
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

const LETTERS: Set = Set { spelled: r"\p{L}", bit: classes::LETTER as u16 };
const PUNCTUATION: Set = Set { spelled: r"\p{P}", bit: classes::PUNCTUATION };
/// Letters with case, in escapes: some of them an editor might take for others.
const LATIN: Set = Set {
    spelled: "\
        [A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\
        \u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\
        \u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\
        \u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\
        \u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\
        \u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\
        \u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\
        \u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\
        \u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\
        \u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\
        \u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\
        \u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\
        \u{118a0}-\u{118df}\u{1e900}-\u{1e943}]",
    bit: 1 << 10,
};
/// Of ASCII, where letters are among it too, and of wide characters.
const WIDE_PUNCTUATION: Set =
    Set { spelled: "[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]", bit: 1 << 11 };
const EAST: Set = Set { spelled: "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]", bit: 1 << 12 };
const CHINESE_AND_KANA: Set = Set { spelled: "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]", bit: 1 << 13 };

/// The sets that no class of the reference is.
pub(super) const LISTED: [Set; 4] = [LATIN, WIDE_PUNCTUATION, EAST, CHINESE_AND_KANA];

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
