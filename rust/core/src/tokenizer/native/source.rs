//! What is read of a `tokenizer.json`, and whether its parts are all known.

use super::deepseek::DeepSeek;
use super::metaspace::Metaspace;
use super::normalizer::is_empty;
use super::regexes::GPT2;
use super::tables::Pattern;
use crate::tokenizer::added::AddedToken;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

#[derive(Deserialize)]
pub(super) struct Source<'a> {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(borrow)]
    pub(super) model: Model<'a>,
}

#[derive(Deserialize)]
pub(super) struct Model<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) fuse_unk: bool,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    #[serde(borrow)]
    pub(super) vocab: Vocabulary<'a>,
    #[serde(borrow)]
    pub(super) merges: Vec<Merge<'a>>,
}

/// `"a b"` or `["a", "b"]`.
pub(super) enum Merge<'a> {
    Pair(Cow<'a, str>, Cow<'a, str>),
    Line(Cow<'a, str>),
}

/// A string, borrowed from the file where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge")
            }
            fn visit_borrowed_str<E>(self, line: &'de str) -> Result<Self::Value, E> {
                Ok(Merge::Line(Cow::Borrowed(line)))
            }
            fn visit_str<E>(self, line: &str) -> Result<Self::Value, E> {
                Ok(Merge::Line(Cow::Owned(line.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let (left, right) = (seq.next_element::<Text<'de>>()?, seq.next_element::<Text<'de>>()?);
                match (left, right, seq.next_element::<IgnoredAny>()?) {
                    (Some(Text(left)), Some(Text(right)), None) => Ok(Merge::Pair(left, right)),
                    _ => Err(A::Error::custom("a merge is not two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Merge<'_> {
    pub(super) fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair(left, right) => Some((left, right)),
            // As the reference: one blank parts them; with more it is no merge.
            Self::Line(line) => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        }
    }
}

/// Token and id, in file order.
pub(super) struct Vocabulary<'a>(pub(super) Vec<(Cow<'a, str>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a vocabulary")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(1 << 16));
                while let Some((Text(token), id)) = map.next_entry()? {
                    entries.push((token, id));
                }
                Ok(Vocabulary(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const TAIL: &str = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

impl Source<'_> {
    /// The split pattern and whether the text is brought to NFC first; or what is not known.
    pub(super) fn parts(&self) -> Result<Parts, String> {
        let model = &self.model;
        if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
            return Err(format!("its model is {}, not BPE", model.kind.as_deref().unwrap_or_default()));
        }
        let affix = |affix: &Option<String>| affix.as_deref().is_some_and(|a| !a.is_empty());
        if model.dropout.is_some_and(|p| p > 0.0)
            || affix(&model.continuing_subword_prefix)
            || affix(&model.end_of_word_suffix)
        {
            return Err("its model has dropout or affixes".to_owned());
        }
        if let Some(metaspace) = Metaspace::of(&self.normalizer, &self.pre_tokenizer) {
            return if model.ignore_merges {
                Err("it marks blanks and ignores merges".to_owned())
            } else {
                Ok(Parts { pattern: Pattern::Metaspace(metaspace), splits: Vec::new(), nfc: false })
            };
        }
        if model.byte_fallback {
            return Err("it falls back to bytes in a way that is not known".to_owned());
        }
        let nfc = match self.normalizer["type"].as_str() {
            _ if is_empty(&self.normalizer) => false,
            Some("NFC") => true,
            _ => return Err(format!("its normalizer is not known: {}", self.normalizer)),
        };
        let step = &self.pre_tokenizer;
        if let Some(pattern) = pattern(step) {
            return Ok(Parts { pattern, splits: Vec::new(), nfc });
        }
        let splits = splits(step).ok_or_else(|| format!("its pre-tokenizer is not known: {step}"))?;
        Ok(Parts { pattern: Pattern::Regexes, splits, nfc })
    }
}

/// How a text becomes pieces.
pub(super) struct Parts {
    pub(super) pattern: Pattern,
    /// Of [`Pattern::Regexes`].
    pub(super) splits: Vec<String>,
    /// The text is brought to NFC first.
    pub(super) nfc: bool,
}

/// A byte-level pre-tokenizer that adds no blank; `own`: it splits by GPT-2's pattern.
fn byte_level(step: &Value, own: bool) -> bool {
    step["type"] == "ByteLevel"
        && step["add_prefix_space"] == false
        && step["use_regex"].as_bool().unwrap_or(true) == own
}

/// The regular expressions of a pre-tokenizer that cuts at their matches and then goes to bytes.
fn splits(step: &Value) -> Option<Vec<String>> {
    let (last, steps) = step["pretokenizers"].as_array().filter(|_| step["type"] == "Sequence")?.split_last()?;
    let isolated = |step: &Value| {
        let regex = step["pattern"]["Regex"].as_str().filter(|_| step["type"] == "Split")?;
        (step["behavior"] == "Isolated" && step["invert"] != true).then(|| regex.to_owned())
    };
    let mut splits = steps.iter().map(isolated).collect::<Option<Vec<_>>>()?;
    if byte_level(last, true) {
        splits.push(GPT2.to_owned());
    } else if !byte_level(last, false) {
        return None;
    }
    Some(splits)
}

/// The pattern of a pre-tokenizer: a byte-level one with its own pattern, or a known pattern before it.
fn pattern(step: &Value) -> Option<Pattern> {
    if byte_level(step, true) {
        return Some(Pattern::Gpt2);
    }
    if step["type"] != "Sequence" {
        return None;
    }
    let steps = step["pretokenizers"].as_array()?.as_slice();
    if let Some((last, steps)) = steps.split_last()
        && byte_level(last, false)
        && let Some(deepseek) = DeepSeek::of(steps)
    {
        return Some(Pattern::DeepSeek(deepseek));
    }
    let [first, second] = steps else { return None };
    if first["type"] == "Digits" && first["individual_digits"] == true && byte_level(second, true) {
        return Some(Pattern::Smol);
    }
    let regex = first["pattern"]["Regex"].as_str()?;
    // All of these patterns match every character, so that nothing lies between two matches.
    let matches = match first["behavior"].as_str() {
        Some("Isolated") => first["invert"] != true,
        Some("Removed") => first["invert"] == true,
        _ => false,
    };
    if first["type"] != "Split" || !matches || !byte_level(second, false) {
        return None;
    }
    let words = r"|[^\r\n\p{L}\p{N}]?\p{L}+|";
    if regex == format!(r"{CONTRACTIONS}{words}\p{{N}}{TAIL}") {
        Some(Pattern::Qwen)
    } else if regex == format!(r"{CONTRACTIONS}{words}\p{{N}}{{1,3}}{TAIL}") {
        Some(Pattern::Llama3)
    } else if regex == O200K {
        Some(Pattern::O200k)
    } else if regex == O200K.replace(CONTRACTIONS, "").replace(r"\p{N}{1,3}", r"\p{N}").replace("?|", "|") {
        Some(Pattern::Tekken)
    } else if regex == QWEN35 {
        Some(Pattern::Qwen35)
    } else {
        None
    }
}

/// Byte of each character that byte-level vocabularies write bytes with: printable Latin-1 stands for itself, the other
/// bytes for 256 on, in order (`bytes_to_unicode` of GPT-2).
pub(super) fn byte_of() -> [Option<u8>; 324] {
    let mut bytes = [None; 324];
    let mut next = 256;
    for byte in 0..=255_u8 {
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            bytes[usize::from(byte)] = Some(byte);
        } else {
            bytes[next] = Some(byte);
            next += 1;
        }
    }
    bytes
}
