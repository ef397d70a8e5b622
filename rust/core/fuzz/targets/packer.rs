//! Plans of an epoch: every sample in exactly one row, no row longer than its budget, the sums right.

use qlora_fast_core::pack::{Mode, PlanOptions, lower_bound, pack, plan_epoch};

pub(crate) fn check(input: &[u8]) {
    let Some((head, rest)) = input.split_first_chunk::<12>() else { return };
    let word = |at: usize| u32::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let options = PlanOptions {
        mode: [Mode::Exact, Mode::Dense, Mode::Bucketed, Mode::None][usize::from(head[0] % 4)],
        samples_per_update: u32::from(head[1]),
        micro_batch_size: u32::from(head[2]),
        max_tokens_per_row: word(3),
        rows_per_update: u32::from(head[5]),
        world_size: u32::from(head[6] % 32),
        seed: u64::from(word(7)),
    };
    let lengths: Vec<u32> = rest.as_chunks::<2>().0.iter().map(|&pair| u32::from(u16::from_le_bytes(pair))).collect();
    let supervised: Vec<u32> = lengths.iter().map(|length| length / 2).collect();
    if let Ok(plan) = plan_epoch(&lengths, &supervised, &options, u64::from(word(9))) {
        let mut ids = plan.sample_ids.clone();
        ids.sort_unstable();
        assert_eq!(ids, (0..lengths.len() as i64).collect::<Vec<_>>(), "every sample once");
        let row = |r: usize| &plan.sample_ids[plan.row_offsets[r] as usize..plan.row_offsets[r + 1] as usize];
        let tokens = |r: usize| row(r).iter().map(|&id| u64::from(lengths[id as usize])).sum::<u64>();
        for rows in plan.update_offsets.windows(2).zip(plan.tokens.iter().zip(&plan.supervised)) {
            let (bounds, (&sum, &learned)) = rows;
            let rows = bounds[0] as usize..bounds[1] as usize;
            assert!(rows.len().is_multiple_of(options.world_size as usize), "devices have equally many rows");
            assert_eq!(rows.clone().map(tokens).sum::<u64>(), sum as u64);
            let own = rows.clone().flat_map(row).map(|&id| i64::from(supervised[id as usize]));
            assert_eq!(own.sum::<i64>(), learned);
            if matches!(options.mode, Mode::Exact | Mode::Dense) {
                for r in rows {
                    assert!(tokens(r) <= u64::from(options.max_tokens_per_row) || row(r).len() == 1);
                }
            }
        }
    }
    if let (Ok(packing), Ok(bound)) = (pack(&lengths, word(3)), lower_bound(&lengths, word(3))) {
        assert!((packing.row_offsets.len() as u64).saturating_sub(1) >= bound);
    }
}
