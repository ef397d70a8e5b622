//! What several tests use.

pub mod tokenizers;
