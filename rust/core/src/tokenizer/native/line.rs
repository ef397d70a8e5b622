//! Merges as encoding looks them up: several in one cache line of the processor.

/// "No merge", "no token".
pub(super) const NONE: u32 = u32::MAX;

/// Merges per line.
pub(super) const LINE: usize = 8;

/// Merges, as many as fit into a line of the processor's cache, from its beginning on: left symbol, right symbol and rank of each in
/// one number; all ones is a free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Pairs(pub(super) [u64; LINE]);

/// Bits of an id, twice, and of a rank, in [`Pairs`].
pub(super) const ID_BITS: u32 = 21;
pub(super) const RANK_BITS: u32 = 22;
pub(super) const RANK: u64 = (1 << RANK_BITS) - 1;
pub(super) const FREE: u64 = u64::MAX;
/// More than any vocabulary has; what has more is left to another engine.
pub(super) const MOST_IDS: usize = 1 << ID_BITS;
pub(super) const MOST_MERGES: usize = 1 << RANK_BITS;
