//! A fuzzer without coverage: it changes seeds at random. It finds less than libFuzzer, and needs nothing but a compiler.

use crate::targets::Target;
use qlora_fast_core::pack::SplitMix64;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Inputs that are mutated further, at most.
const POOL: usize = 512;
const LONGEST_INPUT: usize = 1 << 16;
/// An execution that takes longer has failed.
const SLOWEST: Duration = Duration::from_secs(5);
const MOST_FAILURES: usize = 5;

/// What a run did.
pub(crate) struct Run {
    pub(crate) executions: u64,
    pub(crate) failures: usize,
}

/// Runs a target on mutations of its seeds; inputs that fail are stored in `artifacts`, also those that end the process.
pub(crate) fn run(target: &Target, seeds: &[Vec<u8>], share: Duration, artifacts: &Path) -> Run {
    std::fs::create_dir_all(artifacts).unwrap();
    // A stack overflow or an exhausted memory ends the process: its input is in this file then.
    let current = artifacts.join(format!("{}-running", target.name));
    let kept = std::fs::File::create(&current).unwrap();
    let mut random = SplitMix64::new(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let mut pool = seeds.to_owned();
    let mut run = Run { executions: 0, failures: 0 };
    let started = Instant::now();
    while started.elapsed() < share && run.failures < MOST_FAILURES {
        let mut input = pool[random.below(pool.len() as u32) as usize].clone();
        for _ in 0..1 + random.below(6) {
            let other = &seeds[random.below(seeds.len() as u32) as usize];
            mutate(&mut input, other, target.words, &mut random);
        }
        input.truncate(LONGEST_INPUT);
        kept.set_len(0).and_then(|()| kept.write_all_at(&input, 0)).unwrap();
        let began = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_ok();
        run.executions += 1;
        if !passed || began.elapsed() > SLOWEST {
            run.failures += 1;
            let name = &blake3::hash(&input).to_hex()[..12];
            std::fs::write(artifacts.join(format!("{}-{name}", target.name)), &input).unwrap();
        } else if random.below(64) == 0 {
            if pool.len() < POOL {
                pool.push(input);
            } else {
                let place = seeds.len() + random.below((POOL - seeds.len()) as u32) as usize;
                pool[place] = input;
            }
        }
    }
    std::fs::remove_file(current).unwrap();
    run
}

/// One change.
fn mutate(input: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut SplitMix64) {
    let mut below = |bound: usize| random.below(bound.max(1) as u32) as usize;
    let at = below(input.len() + 1);
    let power = below(7);
    let length = 1 + below(1 << power);
    let end = (at + length).min(input.len());
    match below(9) {
        0 if at < input.len() => input[at] ^= 1 << below(8),
        1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', b'{'][below(8)],
        2 => drop(input.drain(at..end)),
        3 => {
            let bytes: Vec<u8> = (0..length.min(16)).map(|_| below(256) as u8).collect();
            input.splice(at..at, bytes);
        }
        4 => {
            let copy = input[at..end].to_vec();
            let place = below(input.len() + 1);
            input.splice(place..place, copy);
        }
        5 if !other.is_empty() => {
            let from = below(other.len());
            let to = (from + length * 4).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        6 if at < input.len() => input[at] = input[at].wrapping_add(below(35) as u8).wrapping_sub(17),
        7 if at < end => {
            let copy = input[at..end].repeat(1 + below(64));
            input.splice(at..at, copy);
        }
        _ if !words.is_empty() => drop(input.splice(at..at, words[below(words.len())].bytes())),
        _ => {}
    }
}
