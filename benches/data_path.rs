//! The data path, stage by stage and whole, in bytes of input a second.
//!
//! `read` cuts a file into records, `render` adds parsing and the template, `encode` is the tokenizer alone on rendered
//! text, warm, by both engines; `prepare` is everything, from a cold tokenizer to the folder on disk.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use qlora_fast_bench::text::alpaca;
use qlora_fast_core::prepare::{Options, prepare};
use qlora_fast_core::record::{self, Variables, reader::Reader};
use qlora_fast_core::template::{self, Learn};
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use std::hint::black_box;
use std::path::{Path, PathBuf};

const ROWS: usize = 10_000;

fn tokenizer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tokenizer/tokenizer.json")
}

fn stages(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("alpaca.json");
    let text = alpaca(ROWS);
    std::fs::write(&path, &text).expect("room for the corpus");
    let template = template::find("qwen3").expect("a built-in template");
    let variables = Variables::new();
    let chunks = || Reader::open(&path).expect("the corpus").map(|chunk| chunk.expect("sound JSON"));

    let mut group = c.benchmark_group("data_path");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("read", |b| b.iter(|| chunks().map(|chunk| chunk.records.len()).sum::<usize>()));
    group.bench_function("render", |b| {
        b.iter(|| {
            for chunk in chunks() {
                for span in &chunk.records {
                    let record = std::str::from_utf8(&chunk.bytes[span.start..span.end]).expect("UTF-8");
                    let parsed = record::parse(record, None, &variables).expect("sound JSON");
                    let conversation = parsed.conversation.expect("a sound record");
                    black_box(template.render(&conversation, None, Learn::default()));
                }
            }
        });
    });
    for (name, choice) in [("native", Choice::Native), ("tokenizers", Choice::Tokenizers)] {
        let tokenizer = Tokenizer::load(&tokenizer(), choice, None).expect("the test tokenizer");
        let mut ids = Vec::new();
        group.bench_function(format!("encode/{name}"), |b| {
            b.iter(|| {
                ids.clear();
                for line in text.split("},{") {
                    tokenizer.engine().encode(line, &mut ids).expect("text is encodable");
                }
            });
        });
    }
    let mut number = 0;
    group.bench_function("prepare", |b| {
        b.iter_batched(
            || {
                number += 1;
                serde_json::json!({
                    "data": [path], "format": "auto", "tokenizer": tokenizer(), "template": "qwen3",
                    "eos_token": "<|im_end|>", "cutoff_len": 2048, "out": folder.path().join(format!("out{number}")),
                })
            },
            |options| {
                let options: Options = serde_json::from_value(options).expect("sound options");
                prepare(&options, &mut |_, _, _| true).expect("sound data").manifest.tokens
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
