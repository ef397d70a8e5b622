//! The project's own engine against the reference, id by id: every kind of tokenizer that it knows, real text where
//! `QLORA_FAST_DATA` names a folder with it, and random text made to hit what pre-tokenizers disagree on.
//!
//! `FUZZ_STRINGS` sets how many random strings each tokenizer gets (default 3,000; 10⁷ were run, see BENCHMARKS.md), and
//! `FUZZ_ONLY` by how their names begin which ones get any.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod common;

use common::tokenizers::synthetic;
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The tokenizers of the data folder, if there is one.
fn real() -> Vec<(String, PathBuf)> {
    let Some(data) = std::env::var_os("QLORA_FAST_DATA").map(PathBuf::from) else { return Vec::new() };
    let root = if data.join("tokenizers").is_dir() { data } else { data.parent().unwrap().to_path_buf() };
    let names = [
        "tokenizers/qwen3-0.6b",
        "tokenizers/llama3",
        "tokenizers/gpt2",
        "tokenizers/llama2",
        "tokenizers/torchtune-small",
        "models/stories260k",
    ];
    names
        .iter()
        .map(|n| (n.to_string(), root.join(n).join("tokenizer.json")))
        .filter(|(_, path)| path.is_file())
        .collect()
}

struct Pair {
    name: String,
    own: Tokenizer,
    reference: Tokenizer,
}

fn pairs() -> Vec<Pair> {
    let folder = tempfile::tempdir().unwrap();
    let mut files = synthetic(folder.path());
    files.extend(real());
    load(files)
}

fn load(files: Vec<(String, PathBuf)>) -> Vec<Pair> {
    files
        .into_iter()
        .map(|(name, path)| Pair {
            own: Tokenizer::load(&path, Choice::Native, None).unwrap_or_else(|e| panic!("{name}: {e}")),
            reference: Tokenizer::load(&path, Choice::Tokenizers, None).unwrap(),
            name,
        })
        .collect()
}

impl Pair {
    fn check(&self, text: &str) {
        let (mut own, mut reference) = (Vec::new(), Vec::new());
        self.own.engine().encode(text, &mut own).unwrap();
        self.reference.engine().encode(text, &mut reference).unwrap();
        if own != reference {
            let at = own.iter().zip(&reference).take_while(|(a, b)| a == b).count();
            panic!(
                "{}: {text:?}\n from token {at}: {:?}\n but reference {:?}",
                self.name,
                &own[at..own.len().min(at + 8)],
                &reference[at..reference.len().min(at + 8)]
            );
        }
    }
}

/// A small generator of its own, so that a failing string can be made again from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

const WORDS: &[&str] = &[
    "the",
    "The",
    "THE",
    "hello",
    "Welt",
    "naïve",
    "façade",
    "e\u{301}",
    "A\u{30a}",
    "ﬁ",
    "ſ",
    "'s",
    "'S",
    "'ſ",
    "'re",
    "'RE",
    "'vE",
    "'ll",
    "'d",
    "'x",
    "’s",
    "don't",
    "中文",
    "的一是",
    "，",
    "。",
    "日本語の",
    "カタカナ",
    "한국어",
    "각",
    "\u{1100}\u{1161}\u{11a8}",
    "русский",
    "ελληνικά",
    "עברית",
    "العربية",
    "हिन्दी",
    "ไทย",
    "👍",
    "👨\u{200d}👩\u{200d}👧",
    "🏽",
    "❤\u{fe0f}",
    "\u{200d}",
    "\u{feff}",
    "\u{0}",
    "\u{7}",
    "\u{1b}[0m",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{3000}",
    "\u{200b}",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\t",
    " ",
    "  ",
    "   ",
    "        ",
    "0",
    "7",
    "42",
    "123",
    "1234567",
    "３",
    "٣",
    "Ⅷ",
    "²",
    "½",
    "<|im_end|>",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<unk>",
    "<0x0A>",
    "<think>",
    "[INST]",
    "▁",
    "▁▁",
    "Ġ",
    "Ċ",
    "https://x.y/z?q=1&r=2",
    "foo_bar",
    "fooBar",
    "FOOBar",
    "HTTPServer",
    "a.b.c",
    "...",
    "!?",
    "//",
    "/\n",
    "---",
    "==",
    "{}",
    "();",
    "\\n",
    "\"",
    "`",
    "qzx",
    " qzx",
    "aqzx",
    "zzzzzzzzzzzzzzzzzzzzzzzz",
    "internationalization",
    "antidisestablishmentarianism",
    "ǅ",
    "ʰ",
    "ª",
    "ͅ",
    "\u{1e943}",
    "𠀀",
    "𝒜",
    "\u{e000}",
    "\u{fffd}",
    "\u{10ffff}",
    "\u{378}",
    "\u{d7fb}",
    "\u{323}",
    "\u{307}",
    "q\u{323}\u{307}",
    "\u{344}",
    "\u{2126}",
    "\u{fb1d}",
    "\u{f900}",
    "\u{0958}",
];

/// Every fourth is ASCII alone, where words, blanks and line breaks are found sixty-four bytes at a time.
fn random_text(random: &mut Random) -> String {
    if random.below(4) == 0 {
        const PARTS: &[&str] = &[
            "a", "B", "s", "t", "re", "ll", "'", "'", "\"", ".", "!", "/", " ", " ", "  ", "\n", "\r", "\t", "1", "23",
            "word", "\u{b}", "\u{0}",
        ];
        let length = if random.below(8) == 0 { 120 } else { 24 };
        return (0..random.below(length)).map(|_| random.pick(PARTS)).collect();
    }
    let mut text = String::new();
    for _ in 0..random.below(12) {
        match random.below(12) {
            0..=5 => text.push_str(random.pick(WORDS)),
            6 => (0..random.below(10)).for_each(|_| text.push((b'a' + random.below(26) as u8) as char)),
            7 => (0..random.below(10))
                .for_each(|_| text.push(char::from_u32(0x4e00 + random.below(2000) as u32).unwrap())),
            8 => (0..random.below(8)).for_each(|_| text.push(random.below(128) as u8 as char)),
            9 => (0..random.below(6)).for_each(|_| text.push(char::from_u32(random.below(0x3000) as u32).unwrap())),
            10 => (0..random.below(5)).for_each(|_| text.extend(char::from_u32(random.below(0x11_0000) as u32))),
            _ => {
                let word = random.pick(WORDS);
                (0..random.below(5)).for_each(|_| text.push_str(word));
            }
        }
        if random.below(2) == 0 {
            text.push(' ');
        }
    }
    text
}

#[test]
fn random_text_has_the_ids_of_the_reference() {
    let strings: u64 = std::env::var("FUZZ_STRINGS").map_or(3_000, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("FUZZ_SEED").map_or(1, |n| n.parse().unwrap());
    let only = std::env::var("FUZZ_ONLY").unwrap_or_default();
    for pair in pairs().iter().filter(|pair| pair.name.starts_with(&only)) {
        for i in 0..strings {
            pair.check(&random_text(&mut Random(seed << 40 | i)));
        }
        eprintln!("{}: {strings} strings, none differs", pair.name);
    }
}

/// Added words that overlap each other, blanks and control tokens, with flags drawn at random.
fn add_words(file: &mut Value, random: &mut Random) {
    const CONTENTS: &[&str] = &[
        "ACME",
        "acme",
        "AC",
        "the",
        "中",
        "文",
        " the",
        "e ",
        "  ",
        "\n\n",
        "\n",
        "\t",
        "<think>",
        "</think>",
        "im",
        "<|im_end|>",
        "é",
        "e\u{301}",
        "▁",
        "a",
        "don",
        "'s",
        "1",
        "_x",
        "ſ",
        "   x",
        "und",
        "hello Welt",
    ];
    let tokens = file["added_tokens"].as_array_mut().unwrap();
    let known: Vec<String> = tokens.iter().map(|t| t["content"].as_str().unwrap().to_owned()).collect();
    let mut contents: Vec<&str> = CONTENTS.to_vec();
    for _ in 0..1 + random.below(6) {
        let content = contents.swap_remove(random.below(contents.len()));
        if known.iter().any(|k| k == content) {
            continue;
        }
        let flag = |random: &mut Random, of: usize| json!(random.below(of) == 0);
        // Equal ones behind the normalizer cannot be searched for.
        let normalized = json!(random.below(2) == 0 && content != "e\u{301}");
        tokens.push(json!({
            "id": 77, "content": content, "normalized": normalized, "special": flag(random, 5),
            "single_word": flag(random, 3), "lstrip": flag(random, 3), "rstrip": flag(random, 3),
        }));
    }
}

/// The crate `tokenizers` with the file as it is, and special tokens as text.
fn as_the_model_does(path: &std::path::Path) -> tokenizers::Tokenizer {
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["post_processor"] = Value::Null;
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
    tokenizer.set_encode_special_tokens(true);
    tokenizer
}

#[test]
fn added_words_have_the_ids_of_the_reference() {
    let strings: u64 = std::env::var("FUZZ_STRINGS").map_or(300, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut files = synthetic(folder.path());
    files.extend(real());
    let only = std::env::var("FUZZ_ONLY").unwrap_or_default();
    files.retain(|(name, _)| name.starts_with(&only));
    for (number, (name, path)) in files.iter().enumerate() {
        let large = std::fs::metadata(path).unwrap().len() > 1 << 20;
        for round in 0..if large { 1 } else { 4 } {
            let mut random = Random((number as u64) << 32 | round);
            let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            add_words(&mut file, &mut random);
            let with_words = folder.path().join("with_words.json");
            std::fs::write(&with_words, file.to_string()).unwrap();
            let reference = as_the_model_does(&with_words);
            let [own, fallback] = [Choice::Native, Choice::Tokenizers]
                .map(|choice| Tokenizer::load(&with_words, choice, None).unwrap_or_else(|e| panic!("{name}: {e}")))
                .map(|tokenizer| tokenizer.content(|_| false).unwrap());
            let words: Vec<&str> =
                file["added_tokens"].as_array().unwrap().iter().map(|t| t["content"].as_str().unwrap()).collect();
            for i in 0..strings {
                let mut text = random_text(&mut Random(i));
                for _ in 0..random.below(5) {
                    text.push_str(random.pick(&["", " ", "  ", "x", "\n", "_", "é"]));
                    text.push_str(random.pick(&words));
                    text.push_str(random.pick(&["", " ", "\u{3000} ", "x", "\n ", "-", "中"]));
                }
                // It panics where white space that one token has taken is the text of another that takes white space.
                let encode = || reference.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
                let Ok(expected) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(encode)) else { continue };
                for content in [&own, &fallback] {
                    let mut ids = Vec::new();
                    content.engine().encode(&text, &mut ids).unwrap();
                    assert_eq!(
                        ids,
                        expected,
                        "{name}, {}: {text:?}, {}",
                        content.engine().name(),
                        file["added_tokens"]
                    );
                }
            }
        }
    }
}

#[test]
fn every_character_has_the_ids_of_the_reference() {
    // Kinds that differ in what they do with unknown characters or added words alone, and patterns without rules, hold no tables to check.
    let same = ["unknown", "dropped", "regexes", "words", "metaspace-unknown", "metaspace-some"];
    let pairs = pairs();
    let all: Vec<char> = (0..0x11_0000).filter_map(char::from_u32).collect();
    // A thread each: it is the longest of Rust's tests, and nearly all of it is the reference.
    std::thread::scope(|threads| {
        for pair in pairs.iter().filter(|pair| !same.iter().any(|kind| pair.name.starts_with(kind))) {
            threads.spawn(|| check_each(&all, pair));
        }
    });
}

fn check_each(all: &[char], pair: &Pair) {
    // Sixteen at a time, between what they might join, lead, or end.
    for some in all.chunks(16) {
        let near: &[&str] = match some[0] as u32 >> 16 {
            0..4 | 14 => &["x", " ", "'", "1", "!", "\n", "A", "é"],
            // Planes of nothing but private and unassigned code points.
            _ => &["x", " "],
        };
        let text: String = some.iter().flat_map(|c| near.iter().map(move |near| format!("{near}{c}"))).collect();
        pair.check(&text);
    }
}

#[test]
fn long_words_have_the_ids_of_the_reference() {
    let mut random = Random(7);
    let letters: String = (0..100_000).map(|_| (b'a' + random.below(26) as u8) as char).collect();
    let chinese: String = (0..50_000).map(|_| char::from_u32(0x4e00 + random.below(5000) as u32).unwrap()).collect();
    let marks = "e\u{301}\u{323}".repeat(10_000);
    let mut joined = |words: &[&str], n: usize| (0..n).map(|_| words[random.below(words.len())]).collect::<String>();
    let english = ["the", "of", "under", "stand", "ing", "s", "inter", "nation", "al", "a", "which", "Their", "un"];
    let mut texts = vec![
        joined(&english, 20_000),
        joined(&["a", "c", "g", "t"], 50_000),
        "x".repeat(100_000),
        "ab".repeat(50_000),
        letters,
        chinese,
        marks,
        " ".repeat(50_000),
        "\n".repeat(50_000),
        "=".repeat(50_000),
        "7".repeat(50_000),
        "'s".repeat(20_000),
    ];
    // Texts that repeat themselves, until they do not.
    let repeating = ["a", "ab", "abc", "the", "acgt", "=-"].into_iter().zip(["b", "c", "x", "q", "t", "/"]);
    texts
        .extend(repeating.flat_map(|(part, other)| [61, 211, 1400].map(|n| (part.repeat(n) + other).repeat(9000 / n))));
    // About as long as the windows that long words are merged by, and some of them together.
    texts.extend((50..700).step_by(13).map(|n| joined(&["a", "c", "g", "t"], n)));
    texts.extend((10..200).step_by(7).map(|n| joined(&english, n)));
    for pair in pairs() {
        for text in &texts {
            pair.check(text);
        }
    }
}

#[test]
fn real_text_has_the_ids_of_the_reference() {
    let Some(data) = std::env::var_os("QLORA_FAST_DATA").map(PathBuf::from) else { return };
    let root = if data.join("datasets").is_dir() { data.join("datasets") } else { data };
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in [root.clone(), root.join("llamafactory"), root.join("ruozhiba")] {
        files.extend(std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()));
    }
    files.sort();
    for pair in load(real()) {
        for file in &files {
            let text = String::from_utf8(std::fs::read(file).unwrap()).unwrap();
            // As it stands, and with its escapes undone: line breaks and quotes as the training data has them.
            text.split_inclusive("\n").for_each(|line| pair.check(line));
            let plain = text.replace("\\n", "\n").replace("\\\"", "\"").replace("\\t", "\t");
            plain.split("\", \"").for_each(|part| pair.check(part));
        }
    }
}
