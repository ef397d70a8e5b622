//! The whole path on small files: every row accounted for, every fault with its place, nothing half-written.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use qlora_fast_core::encode::Encoder;
use qlora_fast_core::error::Error;
use qlora_fast_core::prepare::{Batch, Options, Report, RowMaker, Tally, Workspace, merge, prepare, prepare_share};
use qlora_fast_core::record::{Layout, Span, reader::Reader};
use qlora_fast_core::tokenizer::Tokenizer;
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

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn options(&self, files: &[PathBuf], more: Value) -> Options {
        let mut options = json!({
            "data": files,
            "tokenizer": data().join("tokenizer/tokenizer.json"),
            "template": "qwen3",
            "cutoff_len": 2048,
            "out": self.out(),
        });
        if let (Some(options), Value::Object(more)) = (options.as_object_mut(), more) {
            options.extend(more);
        }
        serde_json::from_value(options).unwrap()
    }

    fn prepare(&self, text: impl AsRef<[u8]>, more: Value) -> Result<Report, Error> {
        let file = self.file("data.json", text);
        prepare(&self.options(&[file], more), &mut |_, _, _| true)
    }

    /// Names beside the data file: nothing may be left there after a failure.
    fn left(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n != "data.json").collect()
    }
}

fn accounted(report: &Report) {
    let m = &report.manifest;
    assert_eq!(m.rows_read, m.rows_kept + m.rows_dropped.values().sum::<u64>());
    assert_eq!(m.rows_read, m.sources.iter().map(|s| s.rows).sum::<u64>());
    assert_eq!(m.rows_kept, m.shards.iter().map(|s| s.rows).sum::<u64>());
    assert_eq!(m.tokens, m.shards.iter().map(|s| s.tokens).sum::<u64>());
}

const GOOD: &str = r#"{"instruction": "a", "input": "", "output": "b"}"#;

#[test]
fn every_row_is_kept_or_dropped_by_name() {
    let world = World::new();
    let rows = [
        GOOD,
        r#"{"instruction": "a", "output": ""}"#,
        r#"{"instruction": "a", "output": 5}"#,
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": true}"#,
        r#"{"conversations": [{"from": "human", "value": "q"}]}"#,
        r#"{"something": "else"}"#,
        "3",
        r#"{"instruction": "", "output": "from nothing"}"#,
    ];
    let report = world.prepare(format!("[\n{}\n]", rows.join(",\n")), json!({})).unwrap();
    accounted(&report);
    let m = &report.manifest;
    assert_eq!((m.rows_read, m.rows_kept), (8, 3));
    let reasons: Vec<_> = m.rows_dropped.iter().map(|(r, n)| (r.as_str(), *n)).collect();
    let expected =
        [("empty_answer", 1), ("no_answer", 1), ("not_an_object", 1), ("not_text:output", 1), ("unknown_format", 1)];
    assert_eq!(reasons, expected);
    assert_eq!(m.dropped_examples[0].line, 3);
    assert_eq!(
        m.ignored_keys.iter().map(|(k, n)| (k.as_str(), *n)).collect::<Vec<_>>(),
        [("label", 1), ("something", 1)]
    );
    assert_eq!(m.notices["empty_prompt"], 1);
    let rejected = std::fs::read_to_string(world.out().join("rejected.jsonl")).unwrap();
    assert_eq!(rejected.lines().count(), 5);
}

#[test]
fn faults_name_their_place_and_leave_nothing_behind() {
    let deep = format!("[{}]", "[".repeat(200_000));
    let many = format!("[{GOOD},\n{GOOD},\n{{\"instruction\": \"a\" \"output\": \"b\"}},\n{{]");
    for (text, place) in [
        (&b""[..], "data.json` is empty"),
        (b"\xef\xbb\xbf \n", "data.json` is empty"),
        (b"[]", "data.json` holds no records"),
        (b"hello", "data.json:1:1: neither"),
        (br#"{"instruction": "a","#, "data.json:1:20: row 0: not valid JSON: the text ends"),
        (br#"[{"instruction": "a", "output": NaN}]"#, "all 1 rows were dropped (1 number_not_finite)"),
        (br#"[{"instruction": "a", "output": "b",}]"#, "data.json:1:37: row 0"),
        (br#"[{"instruction": "a", "output": "b"},]"#, "data.json:1:38: a record is missing"),
        (br#"[{"instruction": "a", "output": "b"}] x"#, "data.json:1:39: there is text after"),
        (br#"[{"instruction": "a", "output": "b"}"#, "data.json:1:37: the array is not closed"),
        (br#"[{"instruction": "a", "output": "\ud800"}]"#, "all 1 rows were dropped (1 lone_surrogate)"),
        (b"[{\"instruction\": \"a\",\n \"output\": \"b\xff\"}]", "data.json:2:14: row 0: these bytes are not UTF-8"),
        (b"{\"instruction\": \"a\", \"output\": \"b\"}\n{\"x\n", "data.json:2:"),
        (br#"{"text": "only", "id": 3}"#, "has the keys text, id"),
        (b"\x1f\x8b\x08", "is a gzip archive that ends too early"),
        (b"PAR1....", "is a damaged Parquet file"),
        (b"\xff\xfe[\0", "is UTF-16"),
        (deep.as_bytes(), "data.json:1:"),
        // The first fault in file order, whatever the threads do.
        (many.as_bytes(), "data.json:3:21: row 2"),
    ] {
        let world = World::new();
        let error = world.prepare(text, json!({"threads": 3})).unwrap_err();
        let shown = error.to_string().replace("first records have", "has");
        assert!(shown.contains(place), "{:?}: {shown}", String::from_utf8_lossy(&text[..text.len().min(40)]));
        assert!(error.hint().is_some_and(|h| !h.is_empty()), "{shown}");
        assert!(world.left().is_empty(), "{shown}: {:?}", world.left());
    }
}

#[test]
fn bom_crlf_and_blank_lines_are_no_faults() {
    let plain = World::new();
    let report = plain.prepare(format!("{GOOD}\n{GOOD}\n"), json!({})).unwrap();
    for text in [
        format!("\u{feff}{GOOD}\r\n\r\n  {GOOD}  \r\n\n"),
        format!("{GOOD}\n{GOOD}"),
        format!("\u{feff}\n[{GOOD}\r\n,\r\n{GOOD}\r\n]\r\n"),
    ] {
        let world = World::new();
        let same = world.prepare(&text, json!({})).unwrap();
        assert_eq!((same.manifest.rows_kept, same.manifest.tokens), (2, report.manifest.tokens), "{text:?}");
    }
}

#[test]
fn nothing_survives_is_an_error() {
    let world = World::new();
    let error = world.prepare(r#"[{"instruction": "a", "output": ""}]"#, json!({})).unwrap_err();
    assert_eq!(error.to_string(), "nothing can be trained on: all 1 rows were dropped (1 empty_answer)");
    assert!(error.hint().unwrap().contains("data.json:1 (row 0): empty_answer"));
    assert!(world.left().is_empty());
}

#[test]
fn strict_refuses_the_first_bad_row() {
    let world = World::new();
    let text =
        format!("{GOOD}\n{{\"instruction\": \"a\", \"output\": \"\"}}\n{{\"instruction\": \"a\", \"output\": 1}}\n");
    let error = world.prepare(text, json!({"strict": true})).unwrap_err().to_string();
    assert!(error.ends_with("data.json:2: row 1 cannot be used: empty_answer"), "{error}");
    assert!(world.left().is_empty());
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let world = World::new();
    let file = world.file("data.json", format!("{GOOD}\n"));
    let error = prepare(&world.options(&[file], json!({})), &mut |_, _, _| false).unwrap_err();
    assert!(matches!(error, Error::Interrupted { kept: None }));
    assert!(world.left().is_empty());
}

#[test]
fn the_same_inputs_are_found_again_and_others_are_refused() {
    let world = World::new();
    let first = world.prepare(format!("[{GOOD}]"), json!({})).unwrap();
    assert!(!first.reused);
    let again = world.prepare(format!("[{GOOD}]"), json!({"engine": "tokenizers", "threads": 1})).unwrap();
    assert!(again.reused);
    assert_eq!(first.manifest.fingerprint, again.manifest.fingerprint);
    for more in [json!({"cutoff_len": 100}), json!({"template": "chatml"}), json!({"train_on_prompt": true})] {
        let error = world.prepare(format!("[{GOOD}]"), more).unwrap_err();
        assert!(matches!(error, Error::Artifact { .. }), "{error}");
    }
    let shard = world.out().join(&first.manifest.shards[0].file);
    std::fs::write(&shard, b"short").unwrap();
    let repaired = world.prepare(format!("[{GOOD}]"), json!({})).unwrap();
    assert!(repaired.reused);
    assert_eq!(repaired.remade, [first.manifest.shards[0].file.clone()]);
    assert!(world.prepare(format!("[{GOOD}]"), json!({})).unwrap().remade.is_empty());
    std::fs::remove_dir_all(world.out()).unwrap();
    std::fs::write(world.out(), b"a file").unwrap();
    assert!(matches!(world.prepare(format!("[{GOOD}]"), json!({})).unwrap_err(), Error::Artifact { .. }));
}

#[test]
fn max_samples_are_the_first_rows_of_each_file() {
    let world = World::new();
    let files = [world.file("a", format!("{GOOD}\n").repeat(5)), world.file("b", format!("[{GOOD},{GOOD},{GOOD}]"))];
    let report = prepare(&world.options(&files, json!({"max_samples": 2})), &mut |_, _, _| true).unwrap();
    accounted(&report);
    assert_eq!(report.manifest.sources.iter().map(|s| s.rows).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(report.manifest.format, "alpaca");
}

#[test]
fn truncation_keeps_its_account_under_every_rule() {
    let files: Vec<PathBuf> =
        ["messages.json", "tool_calls.json", "alpaca_en.json"].map(|name| data().join("demo").join(name)).into();
    for template in ["qwen3", "llama3", "alpaca"] {
        let world = World::new();
        let run = |rule: &str, cutoff: usize, mask_history: bool| {
            let _ = std::fs::remove_dir_all(world.out());
            let more = json!({
                "template": template, "truncation": rule, "cutoff_len": cutoff, "mask_history": mask_history,
                "eos_token": "<|endoftext|>",
            });
            let report = prepare(&world.options(&files, more), &mut |_, _, _| true).unwrap();
            accounted(&report);
            report.manifest
        };
        let whole = run("drop", 1 << 20, false);
        for rule in ["structure", "llamafactory"] {
            for (cutoff, mask_history) in [(64, false), (150, false), (150, true), (700, false)] {
                let cut = run(rule, cutoff, mask_history);
                assert!(cut.lengths.max <= cutoff as u64);
                assert!(cut.rows_truncated > 0);
                assert!(cut.supervised_tokens >= cut.rows_kept);
                if cut.rows_dropped == whole.rows_dropped {
                    assert_eq!(cut.tokens + cut.tokens_cut, whole.tokens, "{template} {rule} {cutoff}");
                }
            }
        }
        let dropped = run("drop", 150, false);
        assert_eq!(dropped.tokens_cut, 0);
        assert!(dropped.rows_dropped["too_long"] > 0);
        // Every sample is far longer than this, and still all but the largest frames fit.
        assert_eq!(run("structure", 700, false).rows_kept, whole.rows_kept);
    }
}

#[test]
fn a_record_of_a_megabyte_is_one_sample() {
    let world = World::new();
    let text = format!(r#"[{{"instruction": "a", "output": "{}"}}]"#, "word \\\" ".repeat(150_000));
    let report = world.prepare(text, json!({"cutoff_len": 1000})).unwrap();
    accounted(&report);
    assert_eq!((report.manifest.rows_kept, report.manifest.tokens), (1, 1000));
    assert!(report.manifest.tokens_cut > 100_000);
}

#[test]
fn names_from_the_data_cannot_flood_the_report() {
    let world = World::new();
    let rows: Vec<_> =
        (0..500).map(|i| format!(r#"{{"key{i}": 1, "messages": [{{"role": "role{i}", "content": "x"}}]}}"#)).collect();
    let report = world.prepare(format!("{GOOD}\n{}", rows.join("\n")), json!({})).unwrap();
    accounted(&report);
    assert!(report.manifest.rows_dropped.len() <= 101 && report.manifest.ignored_keys.len() <= 101);
    assert_eq!(report.manifest.rows_dropped["unknown_role:…"], 400);
    assert_eq!(report.manifest.ignored_keys["…"], 400);
}

#[test]
fn names_from_the_data_cannot_flood_a_message() {
    let many: serde_json::Map<String, Value> = (0..20_000).map(|i| (format!("k{i}"), json!({"a": 1}))).collect();
    let long = json!({"x".repeat(1 << 20): [{"instruction": "a"}]});
    let answerless = json!({"instruction": "a", "y".repeat(1 << 20): 1});
    for record in [Value::Object(many), long, answerless] {
        let world = World::new();
        let error = world.prepare(json!([record]).to_string(), json!({})).unwrap_err();
        let said = format!("{error} {}", error.hint().unwrap());
        assert!(said.len() < 600, "{} bytes: {}", said.len(), &said[..600]);
    }
}

#[test]
fn rejected_rows_can_be_mended_and_fed_again() {
    let world = World::new();
    let rows = format!("[{GOOD},\n{{\"instruction\": \"q\",\n  \"output\": \"\"}},\n3]");
    let report = world.prepare(&rows, json!({})).unwrap();
    assert_eq!(report.manifest.rows_dropped.len(), 2);
    let rejected = std::fs::read_to_string(world.out().join("rejected.jsonl")).unwrap();
    let mended = world.file("mended.jsonl", rejected.replace(r#""output": """#, r#""output": "b""#));
    let options = world.options(&[mended], json!({"out": world.dir.path().join("again")}));
    let again = prepare(&options, &mut |_, _, _| true).unwrap().manifest;
    assert_eq!((again.rows_read, again.rows_kept, again.ignored_keys["rejected"]), (2, 1, 2));
    assert_eq!(again.rows_dropped["unknown_format"], 1);
}

#[test]
fn lengths_before_truncation_and_the_rows_that_lost_most_are_kept() {
    let world = World::new();
    let row = |words: usize| format!(r#"{{"instruction": "a", "output": "{}"}}"#, "word ".repeat(words));
    let rows: Vec<_> = (1..=40).map(|n| row(n * 10)).collect();
    let whole = world.prepare(rows.join("\n"), json!({})).unwrap().manifest;
    assert!(whole.most_cut.is_empty());
    assert_eq!(whole.full_lengths.tokens(), whole.tokens);
    std::fs::remove_dir_all(world.out()).unwrap();
    let cut = world.prepare(rows.join("\n"), json!({"cutoff_len": 100})).unwrap().manifest;
    assert_eq!(cut.full_lengths, whole.full_lengths);
    let loss = cut.full_lengths.loss_at(100);
    assert_eq!((loss.rows, loss.tokens), (cut.rows_truncated, cut.tokens_cut));
    assert_eq!(cut.most_cut.iter().map(|r| r.row).collect::<Vec<_>>(), (30..40).rev().collect::<Vec<_>>());
    assert_eq!((cut.most_cut[0].line, cut.most_cut[0].tokens), (40, whole.lengths.max));
}

#[test]
fn parts_of_a_report_add_up_to_the_whole() {
    let world = World::new();
    let bad = ["", "3", r#"{"instruction": "a", "output": ""}"#, r#"{"messages": [{"role": "x"}]}"#];
    let rows: Vec<String> = (0..60)
        .map(|i| match bad[i % 4] {
            "" => format!(r#"{{"instruction": "a", "id": {i}, "output": "{}"}}"#, "word ".repeat(i * 3)),
            text => text.to_owned(),
        })
        .collect();
    let file = world.file("data.json", rows.join("\n"));
    let options = world.options(&[file], json!({"cutoff_len": 64}));
    let tokenizer = Tokenizer::load(&options.tokenizer, options.engine, None).unwrap();
    let template = options.chat_template().unwrap();
    let encoder = Encoder::new(&template, &tokenizer, None).unwrap();
    let maker = RowMaker { options: &options, encoder };
    let sources = options.identify().unwrap().sources;
    let chunk = Reader::open(&options.data[0].path).unwrap().next().unwrap().unwrap();
    let tally = |records: &[Span], rejected: &mut Vec<u8>| {
        let mut tally = Tally::default();
        for part in records.chunks(7) {
            let (path, mut batch) = (&options.data[0].path, Batch::default());
            let mut workspace = Workspace::default();
            maker.make(path, &Layout::default(), &chunk.bytes, (part, &[]), &mut workspace, &mut batch).unwrap();
            tally.add(&batch, &sources, rejected);
        }
        tally
    };
    let (mut all, mut parts) = (Vec::new(), Vec::new());
    let whole = tally(&chunk.records, &mut all);
    let mut sum = Tally::default();
    for part in chunk.records.chunks(13) {
        // A part's tally travels as JSON.
        let json = serde_json::to_string(&tally(part, &mut parts)).unwrap();
        sum.append(serde_json::from_str(&json).unwrap());
    }
    assert_eq!(all, parts);
    let (whole, sum) = (whole.finish(), sum.finish());
    assert_eq!(serde_json::to_value(&whole).unwrap(), serde_json::to_value(&sum).unwrap());
    assert_eq!((whole.rows_read, whole.rows_truncated), (60, 12));
    assert!(whole.rows_dropped.len() == 3 && whole.dropped_examples.len() == 15);
}

/// Every file of a folder, but the ones that a process holds open.
fn bytes_of(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// Two files of a few dozen parts, with rows that are dropped, cut and repaired.
fn many_parts(world: &World) -> (Vec<PathBuf>, Value) {
    let row = |i: usize| match i % 50 {
        7 => r#"{"instruction": "a", "output": ""}"#.to_owned(),
        9 => format!(r#"{{"instruction": "row {i}", "output": "{}"}}"#, "long answer ".repeat(60)),
        _ => format!(r#"{{"instruction": "row {i}", "input": "x", "output": "answer {i}", "extra{}": 1}}"#, i % 3),
    };
    let rows: Vec<_> = (0..1500).map(row).collect();
    let files = vec![
        world.file("array.json", format!("[{}]", rows[..900].join(",\n"))),
        world.file("lines.jsonl", rows[900..].join("\n")),
        world.file("small.jsonl", GOOD),
    ];
    (files, json!({ "part_bytes": 4000, "cutoff_len": 100 }))
}

#[test]
fn the_bytes_depend_neither_on_threads_nor_on_shares() {
    let world = World::new();
    let (files, more) = many_parts(&world);
    let options = |extra: Value| {
        let mut options = more.clone();
        options.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        world.options(&files, options)
    };
    let mut expected = None;
    let mut check = |report: &Report| {
        accounted(report);
        assert!(report.manifest.shards.len() > 20);
        let found = bytes_of(&world.out());
        assert_eq!(expected.get_or_insert_with(|| found.clone()), &found);
        std::fs::remove_dir_all(world.out()).unwrap();
    };
    for threads in 1..=3 {
        check(&prepare(&options(json!({ "threads": threads })), &mut |_, _, _| true).unwrap());
    }
    for count in [2, 5, 100] {
        let options = options(json!({}));
        for number in (1..=count).rev() {
            let incomplete = merge(&options, &mut |_, _, _| true).unwrap_err();
            assert!(matches!(incomplete, Error::Artifact { .. }), "{incomplete}");
            prepare_share(&options, number, count, &mut |_, _, _| true).unwrap();
        }
        let report = merge(&options, &mut |_, _, _| true).unwrap();
        assert_eq!(report.engine.name, None);
        check(&report);
    }
    assert!(prepare_share(&options(json!({})), 3, 2, &mut |_, _, _| true).is_err());
    assert_eq!(world.left().len(), files.len(), "{:?}", world.left());
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let world = World::new();
    let (files, more) = many_parts(&world);
    let options = world.options(&files, more);
    prepare(&options, &mut |_, _, _| true).unwrap();
    let expected = bytes_of(&world.out());
    std::fs::remove_dir_all(world.out()).unwrap();

    let mut left = 3;
    let mut interrupted = 0;
    let report = loop {
        let mut ticks = 0;
        // A little further each time; what is done stays.
        match prepare(&options, &mut |_, _, _| {
            ticks += 1;
            ticks < left
        }) {
            Ok(report) => break report,
            Err(Error::Interrupted { kept }) => {
                assert_eq!(kept.as_ref().is_some_and(|kept| kept.is_dir()), kept.is_some());
                interrupted += usize::from(kept.is_some());
                if let Some(shard) = kept.and_then(|k| {
                    let shards = std::fs::read_dir(k).unwrap().map(|e| e.unwrap().path());
                    shards.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).min()
                }) {
                    // One shard is found damaged each time.
                    std::fs::write(shard, b"short").unwrap();
                }
                left += 2;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(interrupted > 1);
    accounted(&report);
    assert_eq!(bytes_of(&world.out()), expected);
    assert_eq!(world.left().len(), files.len() + 1, "{:?}", world.left());
}

#[test]
fn a_fault_takes_the_finished_parts_with_it() {
    let world = World::new();
    let text = format!("[{},{{\"a\" 1}}]", vec![GOOD; 500].join(","));
    let error = world.prepare(text, json!({ "part_bytes": 1000 })).unwrap_err();
    assert!(error.to_string().contains("row 500"), "{error}");
    assert!(world.left().is_empty());
}

#[test]
fn a_row_on_which_the_split_pattern_gives_up_is_dropped_and_the_others_are_not() {
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(data().join("tokenizer/tokenizer.json")).unwrap()).unwrap();
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"(a|aa)+$|\s+");
    let row = |answer: &str| json!({"instruction": "q", "output": answer});
    let text = json!([row("one"), row(&format!("{}b", "a".repeat(60))), row("aaa"), row("four")]).to_string();
    for engine in ["native", "tokenizers"] {
        let world = World::new();
        let file = world.file("tokenizer.json", tokenizer.to_string());
        let report = world.prepare(&text, json!({"tokenizer": file, "engine": engine, "threads": 1})).unwrap();
        assert_eq!(report.manifest.rows_kept, 3, "{engine}");
        let dropped: Vec<_> = report.manifest.rows_dropped.into_iter().collect();
        let reason = "untokenizable:the tokenizer's split pattern gives up on this text";
        assert_eq!(dropped, [(reason.to_owned(), 1)], "{engine}");
    }
}
