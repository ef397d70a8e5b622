//! The split patterns of the native engine.
//!
//! Those of the GPT-2 and tiktoken families share one shape: contractions, a run of letters with at most one character
//! before it, digits, a run of anything else, white space. [`Rules`] holds what differs between them.

/// The properties in which split patterns differ.
pub(super) trait Rules {
    /// Contractions match whatever their case, `ſ` for `s` included.
    const CONTRACTIONS_ANY_CASE: bool;
    /// Any character but a letter, a digit or a line break may lead a run of letters; otherwise only a blank may.
    const ANY_LEAD: bool;
    /// Digits in a piece.
    const DIGITS: usize;
    /// Line breaks (and for o200k slashes) belong to the run of other characters before them, and white space is cut
    /// behind its last line break.
    const LINE_BREAKS: bool;
    /// Runs of letters are cut where lower case turns into upper case.
    const CASED: bool;
    /// Contractions belong to the word before them; with [`Self::CASED`] only.
    const CONTRACTIONS_IN_WORDS: bool;
    /// Marks count as letters.
    const MARKS: bool;
    /// Digits were cut out beforehand, so that the text ends before them. Each is a piece, unless [`Self::DIGITS`] has a bound.
    const DIGITS_APART: bool;
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident: $any_case:literal, $any_lead:literal, $digits:expr, $breaks:literal, $cased:literal, $in_words:literal, $marks:literal, $apart:literal;)*) => {
        $($(#[$doc])* pub(super) struct $name;
        impl Rules for $name {
            const CONTRACTIONS_ANY_CASE: bool = $any_case;
            const ANY_LEAD: bool = $any_lead;
            const DIGITS: usize = $digits;
            const LINE_BREAKS: bool = $breaks;
            const CASED: bool = $cased;
            const CONTRACTIONS_IN_WORDS: bool = $in_words;
            const MARKS: bool = $marks;
            const DIGITS_APART: bool = $apart;
        })*
    };
}

rules! {
    /// Qwen2, Qwen2.5, Qwen3.
    Qwen: true, true, 1, true, false, false, false, false;
    /// Qwen3.5.
    Qwen35: true, true, 1, true, false, false, true, false;
    /// Llama-3 and cl100k.
    Llama3: true, true, 3, true, false, false, false, false;
    /// GPT-2, and `ByteLevel` with its own pattern.
    Gpt2: false, false, usize::MAX, false, false, false, false, false;
    /// SmolLM and StarCoder: every digit apart, then GPT-2.
    Smol: false, false, usize::MAX, false, false, false, false, true;
    /// What DeepSeek-V3 makes of ASCII without control characters: digits apart in threes, no contractions.
    DeepSeekV3: false, true, 3, true, false, false, false, true;
    /// GPT-4o.
    O200k: true, true, 3, true, true, true, false, false;
    /// Tekken: Mistral Nemo and later.
    Tekken: true, true, 1, true, true, false, false, false;
}
