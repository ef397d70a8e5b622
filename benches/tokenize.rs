//! Engines side by side in one run: MB/s of input, cold (nothing seen yet) and warm (the same texts again), by threads.
//!
//! ```text
//! cargo bench -p qlora-fast-bench --bench tokenize -- TOKENIZER.json TEXTS.json [more texts …]
//! ```
//!
//! Texts are the strings of a JSON or JSONL file, those of a record joined by a line break. Each round loads every engine again, so cold is cold; engines
//! take turns, and medians over the rounds are printed. The ids are compared, so a fast wrong answer fails.

#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const ROUNDS: usize = 5;
const WARM: usize = 3;
const BATCH: usize = 256;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let Some((tokenizer, files)) = args.split_first() else {
        println!("nothing to do: give a tokenizer.json and files of texts");
        return;
    };
    let engines: [(&str, Load); 2] = [("qlora-fast", own), ("fastokens", fastokens)];
    for file in files {
        let texts = texts(Path::new(file));
        let bytes: usize = texts.iter().map(String::len).sum();
        println!("\n{file}: {} texts, {:.1} MB", texts.len(), bytes as f64 / 1e6);
        println!(
            "{:<12} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "engine", "load s", "cold 1", "warm 1", "cold 2", "warm 2", "2:1 cold"
        );
        let mut all: BTreeMap<&str, [Vec<f64>; 5]> = BTreeMap::new();
        let mut ids = None;
        for _ in 0..ROUNDS {
            for (name, load) in engines {
                let rates = all.entry(name).or_default();
                for threads in [1, 2] {
                    let start = Instant::now();
                    let engine = load(tokenizer);
                    if threads == 1 {
                        rates[0].push(start.elapsed().as_secs_f64());
                    }
                    for pass in 0..=WARM {
                        let (seconds, sum) = encode(engine.as_ref(), &texts, threads);
                        assert_eq!(*ids.get_or_insert(sum), sum, "{name} has other ids");
                        rates[threads * 2 - 1 + usize::from(pass > 0)].push(bytes as f64 / 1e6 / seconds);
                    }
                }
            }
        }
        for (name, rates) in &mut all {
            let [load, cold, warm, cold2, warm2] = rates.each_mut().map(|v| median(v));
            println!("{name:<12} {load:>7.3} {cold:>9.1} {warm:>9.1} {cold2:>9.1} {warm2:>9.1} {:>9.2}", cold2 / cold);
        }
    }
}

/// Loads a tokenizer.json as an engine.
type Load = fn(&str) -> Box<Engine>;

/// Appends the ids of a text.
type Engine = dyn Fn(&str, &mut Vec<u32>) + Sync;

fn own(path: &str) -> Box<Engine> {
    let tokenizer = Tokenizer::load(Path::new(path), Choice::Native, None).expect("a tokenizer");
    Box::new(move |text, ids| tokenizer.engine().encode(text, ids).expect("ids"))
}

fn fastokens(path: &str) -> Box<Engine> {
    let tokenizer = fastokens::Tokenizer::from_file(Path::new(path)).expect("a tokenizer");
    Box::new(move |text, ids| ids.extend(tokenizer.encode_ordinary(text).expect("ids")))
}

/// Seconds, and a sum over all ids.
fn encode(engine: &Engine, texts: &[String], threads: usize) -> (f64, u64) {
    let next = AtomicUsize::new(0);
    let batches: Vec<&[String]> = texts.chunks(BATCH).collect();
    let start = Instant::now();
    let sums: Vec<u64> = std::thread::scope(|scope| {
        let work = || {
            let mut sum = 0_u64;
            let mut ids = Vec::new();
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                ids.clear();
                for text in *batch {
                    engine(text, &mut ids);
                }
                sum += ids.iter().map(|&id| u64::from(id)).sum::<u64>();
            }
            sum
        };
        let handles: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        handles.into_iter().map(|h| h.join().expect("a thread")).chain([own]).collect()
    });
    (start.elapsed().as_secs_f64(), sums.iter().sum())
}

fn texts(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("a file of texts");
    let records: Vec<Value> = serde_json::from_str(&text)
        .unwrap_or_else(|_| text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect());
    records.iter().map(|record| strings(record).join("\n")).collect()
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().flat_map(strings).collect(),
        Value::Object(map) => map.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
