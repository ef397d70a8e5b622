//! What the benches measure on: sample lengths and files of conversations, made from a seed.
//!
//! Nothing is read from disk and nothing depends on the day, so two machines measure the same work. The shapes are
//! those of the data that people fine-tune on; see [`lengths`] for the numbers.

pub mod lengths;
pub mod text;
