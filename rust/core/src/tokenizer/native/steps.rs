//! Split patterns that are a sequence of steps: each splits the strings that the previous one left.
//!
//! A step sees a string that ends where the steps before it have cut, and nothing of what stands before. What it does not
//! match stays as it is, for the next step or as a piece. So a place where a piece begins is all that has to be known to find
//! its end.

use super::classes::{self, DIGIT, LOWER, NUMBER, PUNCTUATION, SPACE, SYMBOL, UPPER, decode};
use super::sets::{LISTED, Set};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// One step. Each is known by the `tokenizer.json` that it spells.
pub(super) enum Step {
    /// `[\r\n]`
    LineBreak,
    /// A run of a set.
    Run(Set),
    /// A run of a set, and the white space before it.
    Led(Set),
    /// White space at the end.
    Trailing,
    /// Up to three digits.
    Threes,
    /// Every digit, as `Digits` has it.
    Digits,
    /// [`WORDS`]
    Words,
}

/// A sign with ASCII letters behind it; letters and marks, with at most one character before them that is neither a
/// sign nor a line break; signs; white space.
const WORDS: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// `[\p{L}\p{M}]`
const WORD: u16 = (UPPER | LOWER) as u16;
/// `[\p{P}\p{S}]`
const SIGN: u16 = PUNCTUATION | SYMBOL;
/// `\s`
const WHITE: u16 = SPACE as u16;

/// The classes of every code point, those of the listed sets among them.
static CLASSES: LazyLock<Box<[u16]>> = LazyLock::new(|| {
    let mut classes = classes::all(|class| class);
    for set in LISTED {
        for range in ranges(set.spelled) {
            classes[range].iter_mut().for_each(|class| *class |= set.bit);
        }
    }
    classes
});

/// What a bracketed list of characters and ranges holds.
fn ranges(spelled: &str) -> Vec<std::ops::RangeInclusive<usize>> {
    let mut rest = spelled.chars().filter(|c| !matches!(c, '[' | ']')).peekable();
    let mut ranges = Vec::new();
    while let Some(first) = rest.next() {
        let last = if rest.next_if_eq(&'-').is_some() { rest.next() } else { None };
        ranges.push(first as usize..=last.unwrap_or(first) as usize);
    }
    ranges
}

impl Step {
    /// Whether a pre-tokenizer is this step.
    pub(super) fn is(&self, step: &Value) -> bool {
        let pattern = match self {
            Self::Digits => return *step == json!({ "type": "Digits", "individual_digits": true }),
            Self::LineBreak => r"[\r\n]".to_owned(),
            Self::Run(set) => format!("{}+", set.spelled),
            Self::Led(set) => format!(r"\s?{}+", set.spelled),
            Self::Trailing => r"\s+$".to_owned(),
            Self::Threes => r"\p{N}{1,3}".to_owned(),
            Self::Words => WORDS.to_owned(),
        };
        // The published files have line breaks unescaped.
        let found = step["pattern"]["Regex"].as_str().map(|regex| regex.replace('\r', r"\r").replace('\n', r"\n"));
        step["type"] == "Split" && step["behavior"] == "Isolated" && step["invert"] == false && found == Some(pattern)
    }

    /// The end of what begins at `at`: a match, or else what stands before the first one. The text ends where the string does.
    fn end(&self, text: &Text<'_>, at: usize) -> usize {
        match self {
            Self::LineBreak => match memchr::memchr2(b'\r', b'\n', &text.bytes[at..]) {
                Some(0) => at + 1,
                Some(n) => at + n,
                None => text.bytes.len(),
            },
            Self::Run(set) => text.run_or_gap(at, set.bit),
            Self::Led(set) => text.led(at, set.bit),
            Self::Trailing => text.trailing(at),
            Self::Threes => text.digits(at, NUMBER.into(), 3),
            Self::Digits => text.digits(at, DIGIT.into(), 1),
            Self::Words => text.words(at),
        }
    }
}

/// A text up to where a string in it ends.
#[derive(Clone, Copy)]
struct Text<'t> {
    bytes: &'t [u8],
    classes: &'static [u16],
}

impl Text<'_> {
    /// Class and length of the character at `at`; nothing (0, 0) at the end.
    #[inline(always)]
    fn class(&self, at: usize) -> (u16, usize) {
        match self.bytes.get(at) {
            None => (0, 0),
            Some(&byte) if byte < 0x80 => (self.classes[usize::from(byte)], 1),
            Some(_) => {
                let (code, length) = decode(self.bytes, at);
                (self.classes.get(code as usize).copied().unwrap_or(0), length)
            }
        }
    }

    /// Where the characters from `at` on are no longer of a class.
    #[inline(always)]
    fn past(&self, mut at: usize, bits: u16) -> usize {
        loop {
            let (class, length) = self.class(at);
            if class & bits == 0 {
                return at;
            }
            at += length;
        }
    }

    /// Where the first character of a class stands, from `at` on; or the end.
    #[inline(always)]
    fn first(&self, mut at: usize, bits: u16) -> usize {
        loop {
            let (class, length) = self.class(at);
            if class & bits != 0 || length == 0 {
                return at;
            }
            at += length;
        }
    }

    /// `S+`
    fn run_or_gap(&self, at: usize, bits: u16) -> usize {
        let end = self.past(at, bits);
        if end > at { end } else { self.first(at, bits) }
    }

    /// `\s?S+`
    fn led(&self, at: usize, bits: u16) -> usize {
        let (class, length) = self.class(at);
        // White space of the set begins a run anyway.
        let run = if class & WHITE != 0 && class & bits == 0 { at + length } else { at };
        let end = self.past(run, bits);
        if end > run {
            return end;
        }
        // The run that ends what is no match takes the white space before it.
        let (mut from, mut lead) = (at, at);
        loop {
            let (class, length) = self.class(from);
            if length == 0 {
                return from;
            }
            if class & bits != 0 {
                return lead;
            }
            from += length;
            lead = if class & WHITE != 0 { from - length } else { from };
        }
    }

    /// `\s+$`, in a string with no line break but on its own.
    fn trailing(&self, at: usize) -> usize {
        let (mut from, mut end) = (at, at);
        loop {
            let (class, length) = self.class(from);
            from += length;
            if length == 0 {
                return if end > at { end } else { from };
            }
            if class & WHITE == 0 {
                end = from;
            }
        }
    }

    /// `D{1,most}`
    fn digits(&self, at: usize, bits: u16, most: usize) -> usize {
        let mut end = at;
        for _ in 0..most {
            let (class, length) = self.class(end);
            if class & bits == 0 {
                break;
            }
            end += length;
        }
        if end > at { end } else { self.first(at, bits) }
    }

    /// [`WORDS`]
    fn words(&self, at: usize) -> usize {
        let (class, length) = self.class(at);
        let (first, next) = (self.bytes[at], at + length);
        if first.is_ascii_punctuation() {
            let letters = self.bytes[next..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
            if letters > 0 {
                return next + letters;
            }
        }
        if class & WORD != 0 {
            return self.past(next, WORD);
        }
        if class & SIGN != 0 {
            return self.signs(next);
        }
        let (behind, behind_length) = self.class(next);
        if behind & WORD != 0 && !matches!(first, b'\r' | b'\n') {
            return self.past(next + behind_length, WORD);
        }
        if behind & SIGN != 0 && first == b' ' {
            return self.signs(next + behind_length);
        }
        if class & WHITE != 0 { self.white_space(at) } else { self.unmatched(next) }
    }

    /// The rest of a run of signs, and the line breaks behind it.
    fn signs(&self, at: usize) -> usize {
        let end = self.past(at, SIGN);
        end + self.bytes[end..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count()
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`: white space to behind its last line break, or else all of it but the last character, which
    /// belongs to what follows.
    fn white_space(&self, at: usize) -> usize {
        let end = self.past(at, WHITE);
        let space = &self.bytes[at..end];
        if let Some(last) = memchr::memrchr2(b'\r', b'\n', space) {
            return at + last + 1;
        }
        if end == self.bytes.len() {
            return end;
        }
        let last = space.iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or(0);
        if last > 0 { at + last } else { end }
    }

    /// What no rule matches, from behind its first character: to where one does.
    fn unmatched(&self, mut at: usize) -> usize {
        loop {
            let (class, length) = self.class(at);
            let (behind, _) = self.class(at + length);
            // The last of it may lead a word.
            if length == 0 || class & (WORD | SIGN | WHITE) != 0 || behind & WORD != 0 {
                return at;
            }
            at += length;
        }
    }
}

/// The most steps that a tokenizer has.
const MOST: usize = 6;

/// A text on its way through the steps.
pub(super) struct Cutter<'t> {
    text: Text<'t>,
    steps: &'static [Step],
    /// Where the string ends that the next piece is in, as each step has made it.
    ends: [usize; MOST],
}

impl<'t> Cutter<'t> {
    pub(super) fn new(text: &'t [u8], steps: &'static [Step]) -> Self {
        debug_assert!(steps.len() <= MOST, "each step has a place");
        Self { text: Text { bytes: text, classes: &CLASSES }, steps, ends: [0; MOST] }
    }

    /// The end of the piece at `at`, where one begins. Pieces may be left out, but not gone back to.
    pub(super) fn end(&mut self, at: usize) -> usize {
        let mut end = self.text.bytes.len();
        for (step, known) in self.steps.iter().zip(&mut self.ends) {
            if *known <= at {
                *known = step.end(&Text { bytes: &self.text.bytes[..end], ..self.text }, at);
            }
            end = *known;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::super::deepseek::DeepSeek;
    use super::super::fill::tests::{Texts, single_ends};
    use super::*;
    use std::path::Path;
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    /// The steps of a published pre-tokenizer, and the reference with the same.
    struct Pair {
        name: String,
        own: DeepSeek,
        reference: PreTokenizerWrapper,
    }

    fn pairs() -> Vec<Pair> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/deepseek.json");
        let file: serde_json::Map<String, Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        file.into_iter()
            .map(|(name, mut steps)| {
                // The last one makes bytes of what the others have cut.
                let cut = steps["pretokenizers"].as_array_mut().unwrap();
                cut.pop().unwrap();
                let own = DeepSeek::of(cut).unwrap_or_else(|| panic!("{name} is not known"));
                Pair { name, own, reference: serde_json::from_value(steps).unwrap() }
            })
            .collect()
    }

    impl Pair {
        fn check(&self, text: &str) {
            let mut reference = PreTokenizedString::from(text);
            self.reference.pre_tokenize(&mut reference).unwrap();
            let expected: Vec<&str> =
                reference.get_splits(OffsetReferential::Original, OffsetType::Byte).iter().map(|s| s.0).collect();
            let mut cutter = Cutter::new(text.as_bytes(), self.own.steps());
            let mut from = 0;
            let found: Vec<&str> = single_ends(text, |at| cutter.end(at))
                .into_iter()
                .map(|end| &text[std::mem::replace(&mut from, end)..end])
                .collect();
            assert_eq!(found, expected, "{}: {text:?}", self.name);
        }
    }

    #[test]
    fn pieces_are_those_of_the_reference() {
        const PARTS: &[&str] = &[
            "a",
            "Bc",
            "don't",
            "!",
            "(",
            "_",
            "=",
            "$",
            " ",
            " ",
            "  ",
            "\t",
            "\n",
            "\r\n",
            "\u{b}",
            "\0",
            "\u{ad}",
            "\u{200d}",
            "\u{feff}",
            "1",
            "23",
            "4567",
            "²",
            "½",
            "Ⅷ",
            "٣",
            "é",
            "ß",
            "ǅ",
            "ª",
            "日本",
            "の",
            "カ",
            "・",
            "ー",
            "゠",
            "゙",
            "\u{3040}",
            "〇",
            "。",
            "，",
            "！",
            "“",
            "‟",
            "　",
            "Ａ",
            "한국",
            "हिं",
            "ไทย",
            "\u{301}",
            "👍",
            "\u{a0}",
            "\u{85}",
            "\u{2028}",
            "€",
            "𝒜",
            "\u{e000}",
            "\u{378}",
        ];
        let mut texts = Texts::default();
        for pair in pairs() {
            for _ in 0..20_000 {
                let mut text = String::new();
                for _ in 0..texts.below(24) {
                    match texts.below(8) {
                        0 => text.extend(char::from_u32(texts.below(0x11_0000) as u32)),
                        _ => text.push_str(PARTS[texts.below(PARTS.len())]),
                    }
                }
                pair.check(&text);
            }
        }
    }
}
