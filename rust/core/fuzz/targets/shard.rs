//! The reader of shards: what is opened is in order, and a deeper look never takes what a shallow one refuses.
//!
//! The first four bytes are the numbers of samples, tokens and files that the manifest names; the rest is the shard. Its
//! hash is right, so that the bytes are looked at and not only compared.

use qlora_fast_core::dataset::{ShardEntry, Verify, open};

pub(crate) fn check(input: &[u8]) {
    let Some((&[rows, low, high, files], content)) = input.split_first_chunk::<4>() else { return };
    let header = content.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length)).saturating_add(8);
    let columns = content.get(usize::try_from(header).unwrap_or(usize::MAX)..).unwrap_or_default();
    super::with_file(content, |path| {
        let entry = ShardEntry {
            file: "input".to_owned(),
            rows: u64::from(rows),
            tokens: u64::from(u16::from_le_bytes([low, high])),
            bytes: content.len() as u64,
            blake3: blake3::hash(columns).to_hex().to_string(),
        };
        let folder = path.parent().unwrap();
        let look = |verify| {
            let entries = std::slice::from_ref(&entry);
            open(folder, entries, usize::from(files), verify, None, &mut |_, _, _| true).unwrap()
        };
        let [full, quick, off] = [Verify::Full, Verify::Quick, Verify::Off].map(look);
        assert_eq!(full.damaged.is_empty(), quick.damaged.is_empty());
        assert!(off.damaged.is_empty() || !quick.damaged.is_empty());
        for shard in off.shards {
            assert!(shard.columns.iter().all(|placed| placed.offset + placed.bytes <= entry.bytes));
            assert_eq!(shard.lengths.len() as u64, entry.rows);
            assert_eq!(shard.lengths.iter().map(|&length| u64::from(length)).sum::<u64>(), entry.tokens);
            assert!(shard.supervised.iter().zip(&shard.lengths).all(|(learned, length)| learned < length));
        }
    });
}
