//! The fuzz targets without a fuzzer: their seeds are replayed, and mutated for as long as asked.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]
#![allow(clippy::print_stderr, reason = "a person waits for `make fuzz`")]

#[path = "../fuzz/targets/mod.rs"]
mod targets;
#[path = "common/tokenizers.rs"]
mod tokenizers;

#[path = "common/mutate.rs"]
mod mutate;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use targets::{TARGETS, Target};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder().join("seeds").join(target.name)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn every_seed_passes() {
    for target in &TARGETS {
        let mut seeds = seeds(target);
        assert!(seeds.len() >= 3, "{} has few seeds", target.name);
        let kinds = u8::try_from((target.kinds)()).unwrap();
        if kinds > 1 {
            // The first byte selects the tokenizer or the template: each seed with each of them.
            let each = |seed: &Vec<u8>| (0..kinds).map(|first| [&[first], &seed[1..]].concat()).collect::<Vec<_>>();
            seeds = seeds.iter().flat_map(each).collect();
        }
        seeds.iter().for_each(|seed| (target.run)(seed));
    }
}

#[test]
fn the_fuzzer_has_the_same_targets() {
    let names = |folder: &str| -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        std::fs::read_dir(self::folder().join(folder)).unwrap().map(|entry| stem(entry.unwrap().path())).collect()
    };
    let listed: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names("fuzz_targets"), listed);
    assert_eq!(names("seeds"), listed);
    let cargo = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in &listed {
        let own = std::fs::read_to_string(folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(own.contains(&format!("\"{name}\"")) && cargo.contains(&format!("fuzz_targets/{name}.rs")));
    }
}

/// `make fuzz` where there is no cargo-fuzz. The seconds are shared by the targets.
#[test]
#[ignore = "takes as long as it is told to"]
fn mutations_of_the_seeds_pass() {
    let variable = |name: &str| std::env::var(name).ok();
    let seconds: f64 = variable("QLORA_FAST_FUZZ_SECONDS").map_or(60.0, |text| text.parse().unwrap());
    let only = variable("QLORA_FAST_FUZZ_TARGETS").unwrap_or_default();
    let wanted = |target: &&Target| only.is_empty() || only.split(',').any(|name| name == target.name);
    let chosen: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    let mut failures = 0;
    for target in &chosen {
        let share = std::time::Duration::from_secs_f64(seconds / chosen.len() as f64);
        let run = mutate::run(target, &seeds(target), share, &folder().join("artifacts"));
        eprintln!("{:<10} {:>12} executions, {} failures", target.name, run.executions, run.failures);
        failures += run.failures;
    }
    assert_eq!(failures, 0, "inputs that failed are in {}", folder().join("artifacts").display());
}
