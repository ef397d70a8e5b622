//! What goes in: renamed keys, datasets of several files, rows that say the same.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use qlora_fast_core::error::Error;
use qlora_fast_core::prepare::{FirstRow, Options, Report, inspect, merge, prepare, prepare_share};
use qlora_fast_core::reasons::Reason;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Prepares into a new folder each time.
    fn prepare(&self, inputs: &Value, more: &Value) -> Result<Report, Error> {
        prepare(&self.options(inputs, more), &mut |_, _, _| true)
    }

    fn options(&self, inputs: &Value, more: &Value) -> Options {
        let number = std::fs::read_dir(self.dir.path()).unwrap().count();
        let mut options = json!({
            "data": inputs,
            "tokenizer": data().join("tokenizer/tokenizer.json"),
            "template": "qwen3",
            "cutoff_len": 2048,
            "out": self.dir.path().join(format!("out{number}")),
        });
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(options).unwrap()
    }
}

/// A column of 4- or 8-byte numbers, over all shards.
fn column(report: &Report, name: &str) -> Option<Vec<i64>> {
    let mut all = Vec::new();
    for shard in &report.manifest.shards {
        let bytes = std::fs::read(report.path.join(&shard.file)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor(name).ok()?;
        match tensor.dtype() {
            safetensors::Dtype::I64 => {
                all.extend(tensor.data().chunks(8).map(|c| i64::from_le_bytes(c.try_into().unwrap())));
            }
            _ => all.extend(tensor.data().chunks(4).map(|c| i64::from(i32::from_le_bytes(c.try_into().unwrap())))),
        }
    }
    Some(all)
}

fn row(question: &str, answer: &str) -> String {
    json!({"instruction": question, "output": answer}).to_string()
}

#[test]
fn renamed_keys_give_the_same_samples() {
    let world = World::new();
    let talk = r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;
    let plain = [
        world.file("plain.jsonl", r#"{"instruction": "q", "input": "more", "output": "a", "system": "s"}"#),
        world.file("talk.jsonl", talk),
    ];
    let alpaca = world
        .file("a.jsonl", r#"{"question": "q", "context": "more", "output": "a", "system": "s", "instruction": 7}"#);
    let talk = world.file("b.jsonl", r#"{"talk": [{"who": "YOU", "value": "q"}, {"who": "ME", "value": "a"}]}"#);
    let expected = world.prepare(&json!(plain), &json!({})).unwrap();
    let got = world
        .prepare(
            &json!([
                {"path": alpaca, "layout": {"format": "alpaca", "columns": {"instruction": "question", "input": "context"}}},
                {"path": talk, "layout": {"columns": {"conversations": "talk"},
                    "tags": {"role": "who", "user": "YOU", "assistant": "ME"}}},
            ]),
            &json!({}),
        )
        .unwrap();
    for name in ["input_ids", "sample_offsets", "spans"] {
        assert_eq!(column(&got, name), column(&expected, name), "{name}");
    }
    // The key whose meaning was given to another one means nothing any more, and is said to.
    assert_eq!(got.manifest.ignored_keys["instruction"], 1);
    let error =
        world.prepare(&json!([{"path": talk, "layout": {"columns": {"images": "x"}}}]), &json!({})).unwrap_err();
    assert!(error.to_string().contains("no column or tag `images`"));
}

#[test]
fn max_samples_counts_a_dataset_of_several_files_as_one() {
    let world = World::new();
    let rows = |n: usize| (0..n).map(|i| row(&format!("q{i}"), "a") + "\n").collect::<String>();
    let files = [world.file("a", rows(3)), world.file("b", rows(3)), world.file("c", rows(5))];
    let inputs = json!([
        {"path": files[0], "dataset": "ab"}, {"path": files[1], "dataset": "ab"},
        {"path": files[2], "name": "-"},
    ]);
    let report = world.prepare(&inputs, &json!({"max_samples": 4})).unwrap();
    let of = |r: &Report| r.manifest.sources.iter().map(|s| (s.dataset.clone(), s.rows)).collect::<Vec<_>>();
    assert_eq!(of(&report), [("ab".into(), 3), ("ab".into(), 1), ("-".into(), 4)]);
    assert_eq!(report.manifest.sources[2].path, Path::new("-"));
    let report = world.prepare(&inputs, &json!({"max_samples": 2})).unwrap();
    assert_eq!(of(&report), [("ab".into(), 2), ("ab".into(), 0), ("-".into(), 2)]);
    let uncut = json!([{"path": files[0], "max_samples": false}, files[1]]);
    let report = world.prepare(&uncut, &json!({"max_samples": 1})).unwrap();
    assert_eq!(report.manifest.sources.iter().map(|s| s.rows).collect::<Vec<_>>(), [3, 1]);
}

#[test]
fn a_row_is_looked_at_as_it_would_be_prepared_and_also_with_files_before_it() {
    let world = World::new();
    let files = [
        world.file("a.jsonl", [row("q1", "a"), row("q2", "a")].join("\n")),
        world.file("b.json", format!("[{}, {{\"text\": 1}}, {}]", row("q3", "a"), row("q2", "a"))),
    ];
    let looked = |file, rows: &[u64], more: Value| {
        inspect(&world.options(&json!(files), &more), file, rows, &mut |_, _, _| true).map_err(|e| e.to_string())
    };
    let reasons = |more| {
        let looks = looked(1, &[2, 1, 0, 2], more).unwrap();
        looks.into_iter().map(|l| (l.row, l.dropped.map(|d| (d.reason, d.first)))).collect::<Vec<_>>()
    };
    let unknown = || (1, Some((Reason::UnknownFormat, None)));
    assert_eq!(reasons(json!({})), [(2, None), unknown(), (0, None), (2, None)]);
    let first = Some(FirstRow { file: files[0].clone(), row: 1 });
    let equal = || (2, Some((Reason::Duplicate, first.clone())));
    assert_eq!(reasons(json!({"deduplicate": "exact"})), [equal(), unknown(), (0, None), equal()]);
    // A first row of no known format does not hide what its file is.
    assert_eq!(looked(1, &[1], json!({})).unwrap()[0].format, "alpaca");
    assert!(looked(0, &[1, 2], json!({})).unwrap_err().contains("has no row 2: it has 2, from 0 to 1"));
    assert!(looked(2, &[0], json!({})).is_err());
}

#[test]
fn equal_rows_are_dropped_with_the_place_of_the_first_whatever_the_threads() {
    let world = World::new();
    let many: String = (0..3000).map(|i| row(&format!("q{}", i % 1000), "a") + "\n").collect();
    let files = [
        world.file("a.json", format!("[{},\n{},\n{}]", row("q1", "a"), row("q1", "b"), row("q1", "a"))),
        world.file("b.jsonl", many),
        // The same dialogue in another format, and one that differs in nothing but what is learned.
        world.file(
            "c.jsonl",
            r#"{"messages": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "b"}], "id": 5}
               {"messages": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "b"}], "tools": "[f]"}
               {"instruction": "q", "output": ""}
               {"instruction": "q", "output": ""}"#,
        ),
    ];
    let reports: Vec<_> = [1, 2, 5]
        .iter()
        .map(|threads| {
            let report = world.prepare(&json!(files), &json!({"deduplicate": "exact", "threads": threads})).unwrap();
            (
                std::fs::read(report.path.join("manifest.json")).unwrap(),
                std::fs::read(report.path.join("rejected.jsonl")).unwrap(),
                report,
            )
        })
        .collect();
    assert!(reports.iter().all(|r| r.0 == reports[0].0 && r.1 == reports[0].1));
    let report = &reports[0].2;
    let m = &report.manifest;
    // a: q1/a, q1/b; b: 999 others; c: the one with tools.
    assert_eq!((m.rows_read, m.rows_kept), (3 + 3000 + 4, 2 + 999 + 1));
    assert_eq!(m.rows_dropped["duplicate"], 1 + 2001 + 1);
    assert_eq!(m.rows_dropped["empty_answer"], 2);
    let dropped = String::from_utf8(reports[0].1.clone()).unwrap();
    let dropped: Vec<Value> =
        dropped.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["rejected"].clone()).collect();
    let firsts = |file: usize| {
        let name = json!(files[file]);
        dropped
            .iter()
            .filter(move |d| d["file"] == name && d["reason"] == "duplicate")
            .map(|d| (d["row"].clone(), d["first"].clone()))
    };
    assert_eq!(firsts(0).collect::<Vec<_>>(), [(json!(2), json!({"file": files[0], "row": 0}))]);
    assert_eq!(firsts(1).next().unwrap(), (json!(1), json!({"file": files[0], "row": 0})));
    assert_eq!(firsts(1).nth(1).unwrap(), (json!(1000), json!({"file": files[1], "row": 0})));
    assert_eq!(firsts(2).next().unwrap(), (json!(0), json!({"file": files[0], "row": 1})));

    let questions = column(report, "record_question").unwrap();
    assert_eq!(questions.len(), 1002);
    assert_eq!(questions[0], questions[1]);
    assert_eq!(questions.iter().collect::<std::collections::BTreeSet<_>>().len(), 1000);
    let off = world.prepare(&json!(files), &json!({})).unwrap();
    assert_eq!(off.manifest.rows_kept, 3005);
    assert_eq!(column(&off, "record_question"), None);
    assert_ne!(off.manifest.fingerprint, m.fingerprint);
    // What was asked for is no fault.
    let some = world.prepare(&json!(files[..2]), &json!({"deduplicate": "exact", "strict": true})).unwrap();
    assert_eq!(some.manifest.rows_kept, 1001);
}

#[test]
fn shares_find_the_same_duplicates_and_first_rows() {
    let world = World::new();
    let rows =
        |from: usize, to: usize| (from..to).map(|i| row(&format!("q{}", i % 700), "a") + "\n").collect::<String>();
    let files =
        [world.file("a.jsonl", rows(0, 900)), world.file("b.jsonl", rows(100, 1500)), world.file("c", rows(0, 9))];
    let inputs = json!([
        {"path": files[0], "dataset": "ab"}, {"path": files[1], "dataset": "ab"}, {"path": files[2], "dataset": "c"},
    ]);
    let more = json!({"deduplicate": "exact", "max_samples": 2000, "part_bytes": 3000});
    let whole = world.prepare(&inputs, &more).unwrap();
    assert_eq!(whole.manifest.sources.iter().map(|s| s.rows).collect::<Vec<_>>(), [900, 1100, 9]);
    assert_eq!(whole.manifest.rows_kept, 700);
    let options = world.options(&inputs, &more);
    for share in [2, 3, 1] {
        prepare_share(&options, share, 3, &mut |_, _, _| true).unwrap();
    }
    let merged = merge(&options, &mut |_, _, _| true).unwrap();
    let bytes = |r: &Report, name: &str| std::fs::read(r.path.join(name)).unwrap();
    for name in ["manifest.json", "rejected.jsonl", &whole.manifest.shards[1].file] {
        assert_eq!(bytes(&merged, name), bytes(&whole, name), "{name}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// The demo rows of three formats, in an array and in lines.
fn demo() -> (String, String) {
    let rows: Vec<Value> = ["alpaca_en.json", "alpaca_zh.json", "tool_calls.json", "messages.json"]
        .iter()
        .flat_map(|name| {
            let text = std::fs::read_to_string(data().join("demo").join(name)).unwrap();
            serde_json::from_str::<Vec<Value>>(&text).unwrap()
        })
        .collect();
    let lines = rows.iter().map(|row| row.to_string() + "\n").collect();
    (serde_json::to_string_pretty(&rows).unwrap(), lines)
}

#[test]
fn every_container_gives_the_same_samples() {
    let world = World::new();
    let (array, lines) = demo();
    let expected = world.prepare(&json!([world.file("plain.json", &array)]), &json!({})).unwrap();
    let (first, second) = lines.as_bytes().split_at(lines.len() / 3);
    let padding = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    for (name, bytes) in [
        ("lines", lines.clone().into_bytes()),
        // Names say nothing.
        ("array.jsonl", array.clone().into_bytes()),
        ("array.json", gzip(array.as_bytes())),
        ("lines.gz", gzip(lines.as_bytes())),
        ("members.gz", [gzip(first), gzip(b""), gzip(second)].concat()),
        ("lines.zst", zstd(lines.as_bytes())),
        ("array.zst", zstd(array.as_bytes())),
        ("frames.zst", [zstd(first), padding.to_vec(), zstd(second)].concat()),
        ("skip.zst", [padding.to_vec(), zstd(lines.as_bytes())].concat()),
        ("mark.gz", gzip(format!("\u{feff}{array}").as_bytes())),
    ] {
        let got = world.prepare(&json!([world.file(name, bytes)]), &json!({"threads": 2})).unwrap();
        assert_eq!(got.manifest.rows_dropped, expected.manifest.rows_dropped, "{name}");
        for column_name in ["input_ids", "sample_offsets", "spans", "record_index"] {
            assert_eq!(column(&got, column_name), column(&expected, column_name), "{name} {column_name}");
        }
    }
}

#[test]
fn damaged_archives_say_what_where_and_how_to_mend() {
    let (array, _) = demo();
    let (whole_gz, whole_zst) = (gzip(array.as_bytes()), zstd(array.as_bytes()));
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x55;
        bytes
    };
    for (bytes, said) in [
        (whole_gz[..whole_gz.len() / 2].to_vec(), "is a gzip archive that ends too early"),
        (whole_gz[..whole_gz.len() - 3].to_vec(), "is a gzip archive that ends too early"),
        (flipped(&whole_gz, whole_gz.len() - 6), "is a damaged gzip archive"),
        ([whole_gz.clone(), b"something else behind it".to_vec()].concat(), "is a damaged gzip archive"),
        (gzip(b""), "is empty"),
        (whole_zst[..whole_zst.len() / 2].to_vec(), "is a zstd archive that ends too early"),
        (flipped(&whole_zst, 6), "zstd archive"),
        (zstd(b"hello"), ":1:1: neither a JSON array"),
        (gzip(b"[{\"instruction\": \"a\",\n \"output\": }]"), ":2:12: row 0: not valid JSON"),
        (gzip(&[0xff, 0xfe, b'[', 0]), "is UTF-16 text"),
        (b"PK\x03\x04rest".to_vec(), "is a zip archive, which is not read"),
        (b"BZh91AY".to_vec(), "is a bzip2 archive"),
        (b"PAR1".to_vec(), "is a damaged Parquet file"),
        (b"PAR1 and then something else".to_vec(), "is a damaged Parquet file"),
        (b"[\0{\0".to_vec(), "is UTF-16 text"),
    ] {
        let world = World::new();
        let file = world.file("data", bytes);
        let error = world.prepare(&json!([file]), &json!({})).unwrap_err();
        assert!(error.to_string().contains(said), "{error} / {said}");
        assert!(error.to_string().contains("data"), "{error}");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error}");
    }
}

#[test]
fn no_damage_makes_the_reader_panic() {
    let (_, lines) = demo();
    for whole in [gzip(&lines.as_bytes()[..20_000]), zstd(&lines.as_bytes()[..20_000])] {
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x80;
            for bytes in [&flipped[..], &whole[..at]] {
                let world = World::new();
                let file = world.file("data", bytes);
                if let Ok(reader) = qlora_fast_core::record::reader::Reader::open(&file) {
                    reader.for_each(drop);
                }
            }
        }
    }
}
