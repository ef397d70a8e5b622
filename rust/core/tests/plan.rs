//! Packing and planning, as their users see them.

use proptest::prelude::*;
use qlora_fast_core::pack::*;

/// The textbook, item by item: longest first, each into the fullest row that still has room.
fn best_fit_item_by_item(lengths: &[u32], capacity: u32) -> usize {
    let mut sorted: Vec<u32> = lengths.iter().map(|&l| l.min(capacity)).collect();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let mut free: Vec<u32> = Vec::new();
    for length in sorted {
        match free.iter_mut().filter(|f| **f >= length).min() {
            Some(row) => *row -= length,
            None => free.push(capacity - length),
        }
    }
    free.len()
}

fn options(mode: Mode) -> PlanOptions {
    PlanOptions {
        mode,
        samples_per_update: 32,
        micro_batch_size: 4,
        max_tokens_per_row: 2048,
        rows_per_update: 8,
        world_size: 1,
        seed: 42,
    }
}

const MODES: [Mode; 4] = [Mode::Exact, Mode::Dense, Mode::Bucketed, Mode::None];

/// Lengths with a long tail, from a fixed seed: no file, no float.
fn synthetic(n: usize, mean: u32, longest: u32) -> Vec<u32> {
    let mut random = SplitMix64::new(7);
    (0..n)
        .map(|_| {
            let bits = random.next_u64().trailing_zeros();
            (3 + random.below(mean) + bits * random.below(mean)).min(longest)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn grouped_packing_is_best_fit_decreasing(lengths in proptest::collection::vec(1_u32..300, 0..300), capacity in 1_u32..220) {
        let packing = pack(&lengths, capacity).unwrap();
        let rows = packing.row_offsets.len() - 1;
        prop_assert_eq!(rows, best_fit_item_by_item(&lengths, capacity));
        prop_assert!(rows as u64 >= lower_bound(&lengths, capacity).unwrap());
        let mut ids = packing.sample_ids.clone();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..lengths.len() as i64).collect::<Vec<_>>());
        for w in packing.row_offsets.windows(2) {
            let row = &packing.sample_ids[w[0] as usize..w[1] as usize];
            let tokens: u32 = row.iter().map(|&i| lengths[i as usize]).sum();
            prop_assert!(tokens <= capacity || row.len() == 1);
        }
    }

    #[test]
    fn a_plan_keeps_its_promises(
        samples in proptest::collection::vec((1_u32..200).prop_flat_map(|l| (Just(l), 0..=l)), 1..200),
        budget in 20_u32..400, per_update in 1_u32..40, micro in 1_u32..9, world in 1_u32..5, seed: u64, epoch in 0_u64..5,
    ) {
        let (lengths, supervised): (Vec<_>, Vec<_>) = samples.into_iter().unzip();
        let mut windows: Option<Vec<Vec<i64>>> = None;
        for mode in MODES {
            let options = PlanOptions {
                mode, samples_per_update: per_update, micro_batch_size: micro, max_tokens_per_row: budget,
                rows_per_update: per_update, world_size: world, seed,
            };
            let plan = plan_epoch(&lengths, &supervised, &options, epoch).unwrap();
            prop_assert_eq!(&plan, &plan_epoch(&lengths, &supervised, &options, epoch).unwrap());
            let mut ids = plan.sample_ids.clone();
            ids.sort_unstable();
            prop_assert_eq!(ids, (0..lengths.len() as i64).collect::<Vec<_>>());

            let mut own = Vec::new();
            for (u, w) in plan.update_offsets.windows(2).enumerate() {
                prop_assert_eq!((w[1] - w[0]) % i64::from(world), 0);
                let rows = &plan.row_offsets[w[0] as usize..=w[1] as usize];
                let mut of_update = plan.sample_ids[rows[0] as usize..rows[rows.len() - 1] as usize].to_vec();
                let sum = |column: &[u32]| of_update.iter().map(|&i| i64::from(column[i as usize])).sum::<i64>();
                prop_assert_eq!((plan.tokens[u], plan.supervised[u]), (sum(&lengths), sum(&supervised)));
                for r in rows.windows(2) {
                    let row = &plan.sample_ids[r[0] as usize..r[1] as usize];
                    let tokens: u32 = row.iter().map(|&i| lengths[i as usize]).sum();
                    match mode {
                        Mode::Exact | Mode::Dense => prop_assert!(tokens <= budget || row.len() == 1),
                        Mode::Bucketed | Mode::None => prop_assert!(row.len() <= micro as usize),
                    }
                }
                if mode == Mode::Exact {
                    let window: Vec<u32> = of_update.iter().map(|&i| lengths[i as usize]).collect();
                    let best_fit = best_fit_item_by_item(&window, budget);
                    let even = best_fit.next_multiple_of(world as usize);
                    prop_assert!(rows.len() - 1 <= even, "{} rows, best fit has {best_fit}", rows.len() - 1);
                    prop_assert!((rows.len() - 1) as u64 >= lower_bound(&window, budget).unwrap());
                    let filled = rows.windows(2).filter(|r| r[0] < r[1]).count();
                    let all_even = filled.next_multiple_of(world as usize);
                    prop_assert!(filled == all_even || all_even > window.len());
                }
                of_update.sort_unstable();
                own.push(of_update);
            }
            if mode != Mode::Dense {
                prop_assert_eq!(own.len(), lengths.len().div_ceil(per_update as usize));
                prop_assert_eq!(windows.get_or_insert_with(|| own.clone()), &own);
            }
        }
    }
}

#[test]
fn plans_do_not_change_by_accident() {
    // A run that is resumed after an upgrade must see the same updates.
    let lengths = synthetic(5000, 120, 2048);
    let supervised: Vec<u32> = lengths.iter().map(|l| l / 2).collect();
    let digests = MODES.map(|mode| plan_epoch(&lengths, &supervised, &options(mode), 3).unwrap().digest());
    let expected = include_str!("plan_digests.txt");
    assert_eq!(digests.join("\n"), expected.trim(), "a resumed run would see other updates");
}

#[test]
fn epochs_and_seeds_differ() {
    let lengths = synthetic(500, 100, 2048);
    for mode in MODES {
        let plan = |seed, epoch| plan_epoch(&lengths, &lengths, &PlanOptions { seed, ..options(mode) }, epoch).unwrap();
        assert_ne!(plan(1, 0), plan(1, 1));
        assert_ne!(plan(1, 0), plan(2, 0));
    }
}

#[test]
fn hard_windows_never_need_more_rows_than_best_fit() {
    // 0.3–0.7 of a row each: filling the emptiest row first overflows early here, so the fallbacks have to work.
    let row = 1000;
    let mut random = SplitMix64::new(3);
    let lengths: Vec<u32> = (0..20_000).map(|_| 300 + random.below(401)).collect();
    for (per_update, world) in [(8, 1), (32, 1), (32, 2), (33, 4), (128, 1), (512, 8)] {
        let options = PlanOptions {
            samples_per_update: per_update,
            max_tokens_per_row: row,
            world_size: world,
            ..options(Mode::Exact)
        };
        let plan = plan_epoch(&lengths, &lengths, &options, 0).unwrap();
        for w in plan.update_offsets.windows(2) {
            let offsets = &plan.row_offsets[w[0] as usize..=w[1] as usize];
            let ids = &plan.sample_ids[offsets[0] as usize..offsets[offsets.len() - 1] as usize];
            let window: Vec<u32> = ids.iter().map(|&i| lengths[i as usize]).collect();
            let best_fit = best_fit_item_by_item(&window, row).next_multiple_of(world as usize);
            assert!(offsets.len() - 1 <= best_fit);
            for r in offsets.windows(2) {
                let ids = &plan.sample_ids[r[0] as usize..r[1] as usize];
                assert!(ids.iter().map(|&i| lengths[i as usize]).sum::<u32>() <= row);
            }
        }
    }
}

#[test]
fn a_late_epoch_needs_no_earlier_one() {
    let lengths = synthetic(700, 100, 2048);
    for mode in MODES {
        let plan = |epoch| plan_epoch(&lengths, &lengths, &options(mode), epoch).unwrap().digest();
        let in_order: Vec<String> = (0..4).map(plan).collect();
        let resumed: Vec<String> = [3, 1, 2, 0].map(plan).to_vec();
        assert_eq!(resumed, [3, 1, 2, 0].map(|epoch| in_order[epoch].clone()));
    }
}

#[test]
fn long_samples_are_alone_and_nothing_is_lost() {
    let lengths = [5000, 10, 3000, 20, 30, 2048, 2049];
    for mode in [Mode::Exact, Mode::Dense] {
        let plan = plan_epoch(&lengths, &[1; 7], &options(mode), 0).unwrap();
        let rows = plan.row_offsets.windows(2).map(|r| &plan.sample_ids[r[0] as usize..r[1] as usize]);
        let mut rows: Vec<Vec<i64>> = rows.map(<[i64]>::to_vec).collect();
        rows.sort();
        assert_eq!(rows, [vec![0], vec![2], vec![4, 3, 1], vec![5], vec![6]]);
        assert_eq!(plan.tokens, [12_157]);
    }
}

#[test]
fn the_guides_numbers_of_updates() {
    // 5,986 samples, effective batch 128 → 47 updates per epoch; at 32 → 188.
    let lengths = synthetic(5986, 40, 2048);
    for (per_update, updates) in [(128, 47), (32, 188)] {
        let options = PlanOptions { samples_per_update: per_update, ..options(Mode::Exact) };
        assert_eq!(plan_epoch(&lengths, &lengths, &options, 0).unwrap().tokens.len(), updates);
    }
}

/// max/mean of the devices' work in each update, without the last, in thousandths; work = tokens + attention.
fn imbalance(plan: &EpochPlan, lengths: &[u32], world: usize) -> Vec<u64> {
    let full = plan.tokens.len() - 1;
    plan.update_offsets
        .windows(2)
        .take(full)
        .map(|w| {
            let mut work = vec![0; world];
            for (j, row) in (w[0] as usize..w[1] as usize).enumerate() {
                let ids = &plan.sample_ids[plan.row_offsets[row] as usize..plan.row_offsets[row + 1] as usize];
                // 9.6e-5 per token of a segment: Qwen3-0.6B's attention against its linear layers.
                let cost = |length: u64| length * (1_000_000 + 96 * length);
                work[j % world] += ids.iter().map(|&i| cost(u64::from(lengths[i as usize]))).sum::<u64>();
            }
            work.iter().max().copied().unwrap_or(0) * world as u64 * 1000 / work.iter().sum::<u64>()
        })
        .collect()
}

#[test]
fn devices_get_like_work() {
    for mean in [40, 110] {
        let lengths = synthetic(6000, mean, 2048);
        for world in [2, 4] {
            let options = PlanOptions { world_size: world, samples_per_update: 128, ..options(Mode::Exact) };
            let plan = plan_epoch(&lengths, &lengths, &options, 0).unwrap();
            let ratios = imbalance(&plan, &lengths, world as usize);
            let worst = *ratios.iter().max().unwrap();
            let average = ratios.iter().sum::<u64>() / ratios.len() as u64;
            assert!(average <= 1010 && worst <= 1050, "mean {mean}, world {world}: {average}, at worst {worst}");
        }
    }
}

#[test]
fn nonsense_is_refused() {
    let plan = |lengths: &[u32], supervised: &[u32], change: &dyn Fn(&mut PlanOptions)| {
        let mut o = options(Mode::Exact);
        change(&mut o);
        plan_epoch(lengths, supervised, &o, 0)
    };
    assert!(matches!(plan(&[3, 0], &[1, 0], &|_| ()), Err(PackError::EmptySample { sample: 1 })));
    assert!(matches!(plan(&[3], &[1, 2], &|_| ()), Err(PackError::ColumnsDiffer { .. })));
    assert!(matches!(plan(&[3], &[4], &|_| ()), Err(PackError::TooManySupervised { .. })));
    assert!(matches!(plan(&[3], &[1], &|o| o.world_size = 0), Err(PackError::Zero { .. })));
    assert!(matches!("exakt".parse::<Mode>(), Err(PackError::UnknownMode { .. })));
    assert!(plan(&[], &[], &|_| ()).unwrap().sample_ids.is_empty());
}

#[test]
fn bucketed_batches_are_no_more_than_every_device_needs() {
    let sizes = |n: usize, world_size| {
        let lengths: Vec<u32> = (1..=n as u32).collect();
        let options =
            PlanOptions { samples_per_update: n as u32, micro_batch_size: 2, world_size, ..options(Mode::Bucketed) };
        let plan = plan_epoch(&lengths, &lengths, &options, 0).unwrap();
        let mut sizes: Vec<_> = plan.row_offsets.windows(2).map(|row| row[1] - row[0]).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(5, 1), [1, 2, 2]);
    assert_eq!(sizes(6, 2), [1, 1, 2, 2]);
    assert_eq!(sizes(4, 4), [1, 1, 1, 1]);
    assert_eq!(sizes(3, 4), [0, 0, 1, 2]);
}
