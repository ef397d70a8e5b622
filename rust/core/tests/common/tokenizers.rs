//! Small tokenizers of every kind that the own engine knows, made from the one in tests/data.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A file of the repository; the fuzzer's crate lies deeper in it than this one.
pub(crate) fn repo(path: &str) -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    above.map(|folder| folder.join(path)).find(|file| file.exists()).unwrap()
}

/// The small byte-level tokenizer of the tests, with another split pattern each: `(name, file)`.
pub(crate) fn synthetic(folder: &Path) -> Vec<(String, PathBuf)> {
    let base: Value =
        serde_json::from_slice(&std::fs::read(repo("tests/data/tokenizer/tokenizer.json")).unwrap()).unwrap();
    let byte_level =
        |own: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": own});
    let split = |regex: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}, byte_level(false)]})
    };
    let qwen = base["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].as_str().unwrap().to_owned();
    let llama3 = qwen.replace(r"|\p{N}|", r"|\p{N}{1,3}|");
    let o200k = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let kinds = [
        ("qwen", split(&qwen), true, false),
        ("llama3", split(&llama3), false, true),
        ("o200k", split(o200k), false, true),
        ("gpt2", byte_level(true), false, false),
        (
            "smol",
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)]}),
            false,
            false,
        ),
    ];
    let mut files: Vec<_> = kinds
        .into_iter()
        .map(|(name, pre_tokenizer, nfc, ignore_merges)| {
            let mut file = base.clone();
            file["pre_tokenizer"] = pre_tokenizer;
            file["normalizer"] = if nfc { json!({"type": "NFC"}) } else { Value::Null };
            file["model"]["ignore_merges"] = json!(ignore_merges);
            if ignore_merges {
                // Tokens that no merge gives: whole pieces may be them, parts of pieces may not.
                let vocab = file["model"]["vocab"].as_object_mut().unwrap();
                for (id, token) in (2000..).zip(["Ġqzx", "qzx", "zzzzzzzzzzzzzzzzzzzzzzzz", "ä¸Ńæĸĩ"]) {
                    vocab.insert(token.to_owned(), json!(id));
                }
            }
            (name.to_owned(), save(folder, name, &file))
        })
        .collect();
    files.extend(unusual(folder, &base));
    for (name, pre_tokenizer) in published() {
        let mut file = base.clone();
        file["pre_tokenizer"] = pre_tokenizer;
        file["normalizer"] = json!({"type": "Sequence", "normalizers": []});
        join_characters(&mut file["model"]);
        let path = save(folder, &name, &file);
        files.push((name, path));
    }
    for (name, normalizer, pre_tokenizer) in blanks() {
        let mut file = metaspace();
        file["normalizer"] = normalizer;
        file["pre_tokenizer"] = pre_tokenizer;
        files.push((name.to_owned(), save(folder, name, &file)));
    }
    files
}

/// Patterns without rules, bytes that no token stands for, added words with every flag.
fn unusual(folder: &Path, base: &Value) -> Vec<(String, PathBuf)> {
    let byte_level =
        |own: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": own});
    let splits = |regexes: &[&str], own: bool| {
        let split = |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": regexes.iter().map(split).chain([byte_level(own)]).collect::<Vec<_>>()})
    };
    let qwen35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let tekken = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let lacking = |unk: Option<&str>, fuse: bool| {
        let mut file = base.clone();
        let model = file["model"].as_object_mut().unwrap();
        let without = ["Ą", "Ċ", "ł", "Ń", "x", "ä"];
        let vocab = model["vocab"].as_object_mut().unwrap();
        // With their merges, as a trained vocabulary would be.
        vocab.retain(|token, _| !without.iter().any(|byte| token.contains(byte)));
        let next = vocab.values().map(|id| id.as_u64().unwrap()).max().unwrap() + 1;
        unk.map(|unk| vocab.insert(unk.to_owned(), json!(next)));
        let known = vocab.clone();
        model["merges"].as_array_mut().unwrap().retain(|merge| {
            let parts: Vec<&str> = match merge {
                Value::String(line) => line.split(' ').collect(),
                pair => pair.as_array().unwrap().iter().map(|part| part.as_str().unwrap()).collect(),
            };
            parts.iter().all(|part| known.contains_key(*part)) && known.contains_key(&parts.concat())
        });
        model.insert("unk_token".to_owned(), json!(unk));
        model.insert("fuse_unk".to_owned(), json!(fuse));
        file
    };
    let with = |key: &str, value: Value, mut file: Value| {
        file[key] = value;
        file
    };
    let mut unfused = metaspace();
    unfused["model"]["byte_fallback"] = json!(false);
    let mut fused = unfused.clone();
    (unfused["model"]["fuse_unk"], fused["model"]["fuse_unk"]) = (json!(false), json!(true));
    let mut some_bytes = metaspace();
    some_bytes["model"]["vocab"].as_object_mut().unwrap().retain(|token, _| token != "<0xC3>" && token != "<0xE4>");
    let marks = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    [
        ("words", with("added_tokens", words(&base["added_tokens"]), base.clone())),
        ("words-metaspace", with("added_tokens", words(&json!([])), with("pre_tokenizer", marks.clone(), metaspace()))),
        ("qwen35", with("pre_tokenizer", splits(&[qwen35], false), base.clone())),
        ("tekken", with("pre_tokenizer", splits(&[tekken], false), base.clone())),
        ("regexes", with("pre_tokenizer", splits(&[r"\d+|[a-f]*", "[中文]", r"\s{2}"], true), base.clone())),
        ("dropped", lacking(None, false)),
        ("unknown", lacking(Some("<unk>"), false)),
        ("unknown-fused", lacking(Some("<unk>"), true)),
        ("metaspace-unknown", with("pre_tokenizer", marks.clone(), unfused)),
        ("metaspace-unknown-fused", with("pre_tokenizer", marks.clone(), fused)),
        ("metaspace-some-bytes", with("pre_tokenizer", marks, some_bytes)),
    ]
    .into_iter()
    .map(|(name, file)| (name.to_owned(), save(folder, name, &file)))
    .collect()
}

/// Added tokens with more of them, of which each flag is one's.
fn words(known: &Value) -> Value {
    let flags: [(&str, &[&str]); 9] = [
        ("ACME", &["lstrip"]),
        ("the", &["single_word"]),
        ("中文", &["rstrip", "normalized"]),
        ("é", &["normalized"]),
        ("and", &["lstrip", "rstrip", "single_word", "normalized"]),
        ("an", &["special", "normalized"]),
        ("<|a|>", &["special"]),
        ("<|b|>", &["rstrip"]),
        ("\n\n", &[]),
    ];
    let added = flags.iter().map(|(content, flags)| {
        let flag = |name| flags.contains(&name);
        json!({"id": 0, "content": content, "special": flag("special"), "normalized": flag("normalized"),
            "single_word": flag("single_word"), "lstrip": flag("lstrip"), "rstrip": flag("rstrip")})
    });
    known.as_array().unwrap().iter().cloned().chain(added).collect()
}

/// The pre-tokenizers of DeepSeek, as published.
fn published() -> Vec<(String, Value)> {
    let file: Value = serde_json::from_slice(&std::fs::read(repo("tests/data/deepseek.json")).unwrap()).unwrap();
    file.as_object().unwrap().clone().into_iter().collect()
}

/// Adds merges of the last byte of any character with the first of any, so that the ids show where a piece ends.
fn join_characters(model: &mut Value) {
    let mut others = (256..).filter_map(char::from_u32);
    let letters: Vec<char> = (0..=255_u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => others.next().unwrap(),
        })
        .collect();
    let mut merges = Vec::new();
    for last in &letters[..0xc0] {
        merges.extend(letters[..0x80].iter().chain(&letters[0xc2..0xf5]).map(|first| (last, first)));
    }
    for (last, first) in merges {
        let vocab = model["vocab"].as_object_mut().unwrap();
        let id = vocab.len() + 10_000;
        if !vocab.contains_key(&format!("{last}{first}")) {
            vocab.insert(format!("{last}{first}"), json!(id));
            model["merges"].as_array_mut().unwrap().push(json!([last, first]));
        }
    }
}

/// What tokenizers from SentencePiece do with blanks: `(name, normalizer, pre-tokenizer)`.
fn blanks() -> [(&'static str, Value, Value); 6] {
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    [
        ("llama", json!({"type": "Sequence", "normalizers": [prepend, replace]}), Value::Null),
        ("metaspace-first", Value::Null, metaspace("first", false)),
        ("metaspace-never", Value::Null, metaspace("never", false)),
        ("metaspace-split", Value::Null, json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true})),
        ("metaspace-never-split", Value::Null, metaspace("never", true)),
        (
            "gemma",
            replace.clone(),
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
        ),
    ]
}

/// A SentencePiece-like tokenizer with byte fallback, its merges made up here. Some go across blanks.
fn metaspace() -> Value {
    let mut vocab: Vec<String> = vec!["<unk>".into(), "<s>".into(), "</s>".into()];
    vocab.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    vocab.extend("▁abcdefghijklmnopqrstuvwxyzABC.,'0123中文的一是é".chars().map(String::from));
    let merges = [
        "t h",
        "▁ t",
        "▁t h",
        "▁th e",
        "▁ a",
        "i n",
        "n d",
        "a n",
        "an d",
        "▁a nd",
        "▁ ▁",
        "▁▁ ▁▁",
        "e ▁",
        "▁a ▁",
        "' ▁",
        "e r",
        "中 文",
        "的 一",
        "文 的",
        "l l",
        "ll ll",
    ];
    for merge in merges {
        vocab.push(merge.replace(' ', ""));
    }
    vocab.dedup();
    let vocab: serde_json::Map<String, Value> = vocab.into_iter().enumerate().map(|(i, t)| (t, json!(i))).collect();
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "post_processor": null, "decoder": null,
        "normalizer": null, "pre_tokenizer": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges}})
}

fn save(folder: &Path, name: &str, file: &Value) -> PathBuf {
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, file.to_string()).unwrap();
    path
}
