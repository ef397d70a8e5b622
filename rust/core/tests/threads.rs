//! A preparation starts the threads that it is allowed, and no others. Alone in its process: it looks at what all of it
//! shares.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use qlora_fast_core::prepare::prepare;
use serde_json::json;
use std::path::Path;

#[test]
fn the_thread_pool_of_the_process_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    std::fs::write(&data, [r#"{"instruction": "a", "output": "b"}"#; 50].join("\n")).unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tokenizer/tokenizer.json");
    let options = json!({
        "data": [data], "tokenizer": tokenizer, "template": "qwen3", "cutoff_len": 256, "deduplicate": "exact",
        "threads": 1, "out": dir.path().join("out"),
    });
    let report = prepare(&serde_json::from_value(options).unwrap(), &mut |_, _, _| true).unwrap();
    assert_eq!(report.manifest.rows_dropped["duplicate"], 49);
    // It can be set up only before its first use, and would have a thread for every core.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
}
