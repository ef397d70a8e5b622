//! Packing and planning: from sample lengths to rows to optimizer steps.
//!
//! ```text
//!  lengths ─▶ plan ─┬─ exact     a window of samples ─▶ fewest, balanced rows      (exact.rs)
//!                   ├─ dense     a whole epoch ─▶ best-fit-decreasing rows         (bfd.rs)
//!                   └─ bucketed, none   a window ─▶ padded micro-batches           (plan.rs)
//! ```
//!
//! `padding.rs` says what each of them would cost.
//!
//! A plan is a pure function of the lengths and the options: integers only, no hash order, no
//! thread count, no platform. It costs milliseconds, so it is computed again instead of stored.
//! Nothing here knows what a token is; only how many there are.

mod bfd;
mod bound;
mod error;
mod exact;
mod free_space;
mod mix;
mod padding;
mod plan;
mod rng;
mod split;

pub use bfd::{Packing, pack};
pub use bound::lower_bound;
pub use error::PackError;
pub use mix::{MixStrategy, mix};
pub use padding::{EffectiveBatch, PackingStats, effective_batches, padding};
pub use plan::{EpochPlan, Mode, PlanOptions, plan_epoch};
pub use rng::SplitMix64;
pub use split::{Split, split, split_groups};
