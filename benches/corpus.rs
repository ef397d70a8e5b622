//! A deterministic synthetic corpus for the benches.
