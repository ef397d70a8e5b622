//! The data path of qlora-fast.
//!
//! ```text
//!  data.json ─▶ record ─▶ conversation ─▶ template ─▶ encode ─▶ truncate ─▶ dataset
//!    bytes      Alpaca/     Message[]      Segment[]   ids+spans  ≤ cutoff    safetensors + manifest.json
//!               ShareGPT/                                             │ lengths
//!               messages                                              ▼
//!                                                       pack: lengths ─▶ rows ─▶ updates
//! ```
//!
//! The folders are the stages, in that order. Nothing here knows of Python. Unsafe code is denied in the whole workspace; the
//! one exception is `tokenizer/native/cpu`.

pub mod batching;
pub mod conversation;
pub mod dataset;
pub mod durable;
pub mod encode;
pub mod error;
mod file_state;
mod guarded;
pub mod jinja;
pub mod pack;
pub mod prepare;
pub mod reasons;
pub mod record;
mod regular_file;
pub mod stats;
pub mod template;
mod threads;
pub mod tokenizer;
pub mod truncate;
