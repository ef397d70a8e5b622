//! Pre-tokenization without regular expressions: where does the piece that begins here end?
//!
//! The pieces of plain ASCII are found a block at a time, by [`starts`]; what that leaves open is looked at piece by piece, and
//! characters beyond ASCII one by one, by [`classes`].

use super::bytes::load;
use super::classes::{self, DIGIT, LETTER, LOWER, NUMBER, SPACE, UPPER, decode};
use super::cpu::{self, Block};
use super::fill::Pieces;
use super::rules::Rules;
use super::starts::starts;

/// What an ASCII byte is; `WIDE` begins a character of several bytes.
const OTHER: u8 = 0;
const WIDE: u8 = 128;
const ASCII: [u8; 256] = {
    let mut table = [OTHER; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        table[i] = match byte {
            b'A'..=b'Z' => LETTER | UPPER,
            b'a'..=b'z' => LETTER | LOWER,
            b'0'..=b'9' => NUMBER | DIGIT,
            b'\t'..=b'\r' | b' ' => SPACE,
            128.. => WIDE,
            _ => OTHER,
        };
        i += 1;
    }
    table
};

const ONES: u128 = 0x0101_0101_0101_0101_0101_0101_0101_0101;
const HIGH: u128 = ONES * 0x80;

/// How many of the sixteen bytes, from the first on, are ASCII letters.
#[inline(always)]
fn letters_of(word: u128) -> usize {
    let folded = (word | (ONES * 0x20)) & !HIGH;
    // No byte carries into the next: both summands are below 128.
    let (from_a, behind_z) = (folded + ONES * (0x80 - 0x61), folded + ONES * (0x80 - 0x7b));
    let letters = from_a & !behind_z & !word & HIGH;
    ((letters ^ HIGH).trailing_zeros() / 8) as usize
}

/// Where pieces of plain ASCII begin and end, in a block: one bit per byte.
pub(super) struct Masks {
    /// A run of letters begins here, or what leads one.
    word: u64,
    /// A run of other characters begins here, or the blank before one.
    other: u64,
    /// A piece begins here whose end the block tells: one of these two, or a digit on its own.
    plain: u64,
    /// What is no letter.
    letters_end: u64,
    /// What is neither letter nor digit nor white space nor beyond ASCII.
    others_end: u64,
    /// What may continue a run: bytes beyond ASCII, and line breaks behind other characters.
    beyond_word: u64,
    beyond_other: u64,
}

impl Masks {
    #[inline(always)]
    fn of<R: Rules>(block: &Block) -> Self {
        let Block { letters, digits, blanks, controls, line_breaks, apostrophes, wide, others, .. } = *block;
        let lead = if R::ANY_LEAD { blanks | (controls & !line_breaks) | (others & !apostrophes) } else { blanks };
        let word = letters | (lead & letters >> 1);
        // An apostrophe may begin a contraction, which is looked at one by one.
        let other = ((others & !apostrophes) | (blanks & others >> 1)) & !word;
        let digit = if R::DIGITS == 1 || R::DIGITS_APART { digits } else { 0 };
        Self {
            word,
            other,
            plain: if R::CASED { 0 } else { word | other | digit },
            letters_end: !letters,
            others_end: !others,
            beyond_word: wide,
            beyond_other: if R::LINE_BREAKS { wide | line_breaks } else { wide },
        }
    }

    /// The end of the piece at `at`, if the block decides it. There is no branch on the kind of piece: a text mixes them
    /// as it likes, and every wrong guess of the processor costs as much as the rest.
    #[inline(always)]
    fn end(&self, at: usize) -> Option<usize> {
        let (word, other) = (self.word >> at & 1 != 0, self.other >> at & 1 != 0);
        let stop = if other { self.others_end } else { u64::MAX };
        let stop = if word { self.letters_end } else { stop };
        let beyond = if other { self.beyond_other } else { 0 };
        let beyond = if word { self.beyond_word } else { beyond };
        let rest = stop >> at >> 1;
        let end = at + 1 + rest.trailing_zeros() as usize;
        let told = (self.plain >> at & 1 != 0) & (rest != 0) & (beyond >> (end % cpu::BYTES) & 1 == 0);
        told.then_some(end)
    }
}

/// A text under a split pattern.
pub(super) struct Scanner<'t, R> {
    text: &'t [u8],
    classes: &'static [u8],
    rules: std::marker::PhantomData<R>,
}

impl<R: Rules> Pieces for Scanner<'_, R> {
    type Masks = Masks;

    const HAS_STARTS: bool = !R::CASED;

    #[inline(always)]
    fn text(&self) -> &[u8] {
        self.text
    }

    #[inline(always)]
    fn starts(&self, block: &Block, base: usize) -> u64 {
        starts::<R>(block, |apostrophe| Some(self.contraction(base + apostrophe)? - base))
    }

    #[inline(always)]
    fn masks(&self, block: &Block) -> Masks {
        Masks::of::<R>(block)
    }

    #[inline(always)]
    fn end(&mut self, masks: &Masks, base: usize, at: usize) -> usize {
        match masks.end(at - base) {
            Some(end) => base + end,
            None => self.any_end(at, self.text[at]),
        }
    }
}

impl<'t, R: Rules> Scanner<'t, R> {
    /// What a run of letters is made of; marks are both upper and lower case, and no letters.
    const WORD: u8 = if R::MARKS { LETTER | UPPER | LOWER } else { LETTER };

    /// `text` must be UTF-8.
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self { text, classes: classes::table(), rules: std::marker::PhantomData }
    }

    /// Class and length of the character at `at`; nothing (0, 0) at the end.
    #[inline(always)]
    fn class(&self, at: usize) -> (u8, usize) {
        match self.text.get(at) {
            None => (0, 0),
            Some(&byte) => match ASCII[byte as usize] {
                WIDE => {
                    let (code, length) = decode(self.text, at);
                    (self.classes.get(code as usize).copied().unwrap_or(0), length)
                }
                class => (class, 1),
            },
        }
    }

    #[inline(never)]
    fn any_end(&self, at: usize, first: u8) -> usize {
        let (class, length) = self.class(at);
        let next = at + length;
        if R::DIGITS_APART && class & DIGIT != 0 {
            return next;
        }
        if class & NUMBER != 0 {
            return self.digits(next, 1);
        }
        if R::CASED {
            if let Some(end) = self.cased(at, class, next, first) {
                return end;
            }
        } else if class & Self::WORD != 0 {
            return self.letters(next);
        }
        if first == b'\''
            && !R::CASED
            && let Some(end) = self.contraction(at)
        {
            return end;
        }
        let (behind, behind_length) = self.class(next);
        let known = behind_length > 0 && !(R::DIGITS_APART && behind & DIGIT != 0);
        let line_break = matches!(first, b'\r' | b'\n');
        if !R::CASED && behind & Self::WORD != 0 && known && if R::ANY_LEAD { !line_break } else { first == b' ' } {
            return self.letters(next + behind_length);
        }
        if class & SPACE == 0 {
            return self.others(next);
        }
        if first == b' ' && known {
            if behind & (Self::WORD | NUMBER | SPACE) == 0 {
                return self.others(next + behind_length);
            }
            if !R::LINE_BREAKS && behind & NUMBER != 0 {
                return self.digits(next + behind_length, 1);
            }
        }
        self.white_space(at)
    }

    /// A run of letters, from a place where one may or may not go on.
    fn letters(&self, mut at: usize) -> usize {
        loop {
            let n = letters_of(load(self.text, at));
            at += n;
            if n == 16 {
                continue;
            }
            match self.text.get(at) {
                Some(&byte) if byte >= 0x80 => {}
                _ => return at,
            }
            let before = at;
            at = self.wide_letters(at);
            if at == before || self.text.get(at).is_none_or(|&b| ASCII[b as usize] & LETTER == 0) {
                return at;
            }
        }
    }

    /// A run of letters of several bytes each.
    fn wide_letters(&self, mut at: usize) -> usize {
        while self.text.get(at).is_some_and(|&b| b >= 0x80) {
            let (code, length) = decode(self.text, at);
            match self.classes.get(code as usize) {
                Some(class) if class & Self::WORD != 0 && !(R::DIGITS_APART && class & DIGIT != 0) => at += length,
                _ => break,
            }
        }
        at
    }

    fn digits(&self, mut at: usize, mut n: usize) -> usize {
        while n < R::DIGITS {
            let (class, length) = self.class(at);
            if class & NUMBER == 0 || (R::DIGITS_APART && class & DIGIT != 0) {
                break;
            }
            at += length;
            n += 1;
        }
        at
    }

    /// The rest of a run of what is neither letter nor digit nor white space, and the line breaks behind it.
    fn others(&self, mut at: usize) -> usize {
        loop {
            let (class, length) = self.class(at);
            if length == 0 || class & (Self::WORD | NUMBER | SPACE) != 0 || (R::DIGITS_APART && class & DIGIT != 0) {
                break;
            }
            at += length;
        }
        if R::LINE_BREAKS {
            while self.text.get(at).is_some_and(|&b| matches!(b, b'\r' | b'\n') || (R::CASED && b == b'/')) {
                at += 1;
            }
        }
        at
    }

    /// White space that nothing before has taken: to behind its last line break, or else all of it but the last
    /// character, which belongs to what follows.
    fn white_space(&self, start: usize) -> usize {
        let (mut at, mut last, mut line_break) = (start, start, None);
        let behind = loop {
            let (class, length) = self.class(at);
            if length == 0 || class & SPACE == 0 {
                break if R::DIGITS_APART { class & DIGIT != 0 || length == 0 } else { length == 0 };
            }
            last = at;
            if matches!(self.text[at], b'\r' | b'\n') {
                line_break = Some(at + 1);
            }
            at += length;
        };
        match line_break {
            Some(end) if R::LINE_BREAKS => end,
            _ if behind || last == start => at,
            _ => last,
        }
    }

    /// `'s 't 're 've 'm 'll 'd` at `at`, which is an apostrophe.
    fn contraction(&self, at: usize) -> Option<usize> {
        let byte = |i: usize| {
            let byte = self.text.get(at + i).copied().unwrap_or(0);
            if R::CONTRACTIONS_ANY_CASE { byte.to_ascii_lowercase() } else { byte }
        };
        match (byte(1), byte(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
            // U+017F, the long s, is an s to whom case does not matter.
            (0xc5, 0xbf) if R::CONTRACTIONS_ANY_CASE => Some(at + 3),
            _ => None,
        }
    }

    /// The two word rules of o200k: `lead? upper* lower+ contraction?`, then `lead? upper+ lower* contraction?`, where a
    /// letter without case, or a mark, counts as both.
    fn cased(&self, at: usize, class: u8, next: usize, first: u8) -> Option<usize> {
        let word = class & (UPPER | LOWER) != 0;
        // A lead may be anything that is no line break, letter or digit: a mark, too, which could also begin the word.
        let may_lead = class & (LETTER | NUMBER) == 0 && !matches!(first, b'\r' | b'\n');
        let starts = [may_lead.then_some(next), word.then_some(at)];
        let mut found = None;
        for rule in [Self::upper_lower, Self::upper] {
            found = starts.iter().flatten().find_map(|&start| rule(self, start));
            if found.is_some() {
                break;
            }
        }
        let end = found?;
        let contraction = R::CONTRACTIONS_IN_WORDS && self.text.get(end) == Some(&b'\'');
        if contraction { self.contraction(end).or(Some(end)) } else { Some(end) }
    }

    /// `upper* lower+` with the backtracking of a regular expression: the longest run of upper-like characters that
    /// leaves something lower-like behind.
    fn upper_lower(&self, start: usize) -> Option<usize> {
        let (mut at, mut last_both) = (start, None);
        loop {
            let (class, length) = self.class(at);
            if class & UPPER == 0 || length == 0 {
                if class & LOWER != 0 {
                    return Some(self.lower(at + length));
                }
                // Nothing lower behind: the run gives back its last character that is lower-like as well.
                return last_both.map(|(_, end)| self.lower(end));
            }
            if class & LOWER != 0 {
                last_both = Some((at, at + length));
            }
            at += length;
        }
    }

    /// `upper+ lower*`
    fn upper(&self, start: usize) -> Option<usize> {
        let mut at = start;
        loop {
            let (class, length) = self.class(at);
            if class & UPPER == 0 {
                return (at > start).then(|| self.lower(at));
            }
            at += length;
        }
    }

    fn lower(&self, mut at: usize) -> usize {
        loop {
            let (class, length) = self.class(at);
            if class & LOWER == 0 {
                return at;
            }
            at += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fill::tests::{Texts, ends_of, single_ends};
    use super::super::rules::{Gpt2, Llama3, O200k, Qwen, Qwen35, Smol, Tekken};
    use super::*;

    /// What the masks of whole blocks say is what going from piece to piece says, wherever in a block a piece begins and the text
    /// ends.
    fn masks_agree_with_single_steps<R: Rules>() {
        const PARTS: &[&str] = &[
            "a", "B", "s", "re", "'", "'s", "'ll", "'x", "''", "!", "/", " ", " ", "  ", "\n", "\r\n", " \n", "\t",
            "1", "23", "4567", "word", "\u{b}", "\0", "é", "，", "中文", "\u{301}",
        ];
        let mut texts = Texts::default();
        for round in 0..60_000 {
            // Most are ASCII alone: elsewhere the masks have no say.
            let kinds = if round % 4 == 0 { PARTS.len() } else { PARTS.len() - 4 };
            let text = texts.next(&PARTS[..kinds]);
            let scanner = Scanner::<R>::new(text.as_bytes());
            let expected = single_ends(&text, |at| scanner.any_end(at, text.as_bytes()[at]));
            assert_eq!(ends_of(scanner), expected, "{text:?}");
        }
    }

    #[test]
    fn blocks_agree_with_single_steps() {
        masks_agree_with_single_steps::<Qwen>();
        masks_agree_with_single_steps::<Llama3>();
        masks_agree_with_single_steps::<Gpt2>();
        masks_agree_with_single_steps::<Smol>();
        masks_agree_with_single_steps::<O200k>();
        masks_agree_with_single_steps::<Qwen35>();
        masks_agree_with_single_steps::<Tekken>();
    }
}
