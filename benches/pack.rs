//! Packing and planning: how long for 52 thousand, one million and ten million samples.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use qlora_fast_bench::lengths::Shape;
use qlora_fast_core::pack::{Mode, PlanOptions, lower_bound, pack, plan_epoch};
use std::hint::black_box;
use std::time::Duration;

const ROW: u32 = 2048;
const SIZES: [usize; 3] = [52_000, 1_000_000, 10_000_000];

fn packing(c: &mut Criterion) {
    let mut group = c.benchmark_group("pack");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    for n in SIZES {
        let lengths = Shape::Alpaca.lengths(n, ROW);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("best_fit_decreasing", n), |b| {
            b.iter_batched(|| (), |()| pack(black_box(&lengths), ROW), BatchSize::PerIteration);
        });
        group.bench_function(BenchmarkId::new("lower_bound", n), |b| b.iter(|| lower_bound(black_box(&lengths), ROW)));
    }
    group.finish();
}

fn planning(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan_epoch");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    let modes = [("exact", Mode::Exact), ("dense", Mode::Dense), ("bucketed", Mode::Bucketed), ("none", Mode::None)];
    for n in SIZES {
        let lengths = Shape::Alpaca.lengths(n, ROW);
        group.throughput(Throughput::Elements(n as u64));
        for (name, mode) in modes {
            let options = PlanOptions {
                mode,
                samples_per_update: 32,
                micro_batch_size: 4,
                max_tokens_per_row: ROW,
                rows_per_update: 8,
                world_size: 2,
                seed: 42,
            };
            group.bench_function(BenchmarkId::new(name, n), |b| {
                b.iter_batched(
                    || (),
                    |()| plan_epoch(black_box(&lengths), &lengths, &options, 0),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, packing, planning);
criterion_main!(benches);
