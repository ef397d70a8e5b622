//! The reader of text: an array is cut as serde_json reads it; no bytes, of whatever container, make it panic.

use qlora_fast_core::record::reader::Reader;
use serde_json::Value;

/// Records of a file, or nothing after an error; their places are checked.
fn records(content: &[u8]) -> Option<Vec<Vec<u8>>> {
    super::with_file(content, |path| {
        let mut records = Vec::new();
        for chunk in Reader::open(path).ok()? {
            let chunk = chunk.ok()?;
            let mut end = 0;
            for span in &chunk.records {
                assert!(end <= span.start && span.start < span.end && span.end <= chunk.bytes.len(), "{span:?}");
                assert_eq!(span.row, records.len() as u64);
                assert!(span.line >= 1 && span.column >= 1);
                records.push(chunk.bytes[span.start..span.end].to_vec());
                end = span.end;
            }
        }
        Some(records)
    })
}

pub(crate) fn text(input: &[u8]) {
    let found = records(input);
    let Ok(all) = serde_json::from_slice::<Value>(input) else { return };
    match all {
        // Elements that are no objects are records too; they are refused where they are parsed.
        Value::Array(expected) => {
            let found = found.expect("a JSON array is read");
            let found: Vec<Value> = found.iter().map(|record| serde_json::from_slice(record).unwrap()).collect();
            assert_eq!(found, expected);
        }
        Value::Object(_) => assert_eq!(found.expect("an object is read").len(), 1),
        _ => {}
    }
}

pub(crate) fn parquet(input: &[u8]) {
    let _ = records(input);
}
