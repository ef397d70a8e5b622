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
//! The folders are the stages, in that order. Nothing here knows of Python.

#![forbid(unsafe_code)]

pub mod pack;
