//! How much work and how much text one rendering may cost: a chat template comes with a model, so it is not trusted.

use super::fault::Fault;
use std::cell::Cell;

/// Steps that every rendering may take; a step is a node of the template or an item that is visited.
const STEPS: u64 = 1_000_000;
/// More of them for each byte of the conversation, and how many there are at most.
const STEPS_PER_BYTE: u64 = 64;
const MOST_STEPS: u64 = 10_000_000;
/// Bytes of text that a rendering may make on the way to its output, and more for each byte of the conversation.
const BYTES: u64 = 32 << 20;
const BYTES_PER_BYTE: u64 = 64;
/// How deep expressions, blocks, calls of macros and values may nest.
const DEPTH: u32 = 200;

/// What is left to spend.
#[derive(Debug)]
pub(super) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    depth: Cell<u32>,
}

impl Budget {
    /// For a conversation of `size` bytes.
    pub(super) fn of(size: usize) -> Self {
        let size = size as u64;
        Self {
            steps: Cell::new(STEPS.saturating_add(size.saturating_mul(STEPS_PER_BYTE)).min(MOST_STEPS)),
            bytes: Cell::new(BYTES.saturating_add(size.saturating_mul(BYTES_PER_BYTE))),
            depth: Cell::new(0),
        }
    }

    /// Pays for `n` steps before they are taken.
    pub(super) fn steps(&self, n: usize) -> Result<(), Fault> {
        spend(&self.steps, n).ok_or_else(|| Fault::budget("it takes too many steps"))
    }

    /// Pays for `n` bytes of text before they are made.
    pub(super) fn bytes(&self, n: usize) -> Result<(), Fault> {
        spend(&self.bytes, n).ok_or_else(|| Fault::budget("it makes too much text"))
    }

    /// Runs `work` one level deeper.
    pub(super) fn deeper<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        let depth = self.depth.get() + 1;
        if depth > DEPTH {
            return Err(Fault::budget("it nests too deep"));
        }
        self.depth.set(depth);
        let done = work();
        self.depth.set(depth - 1);
        done
    }
}

/// The depth of a value that holds others of at most this depth.
pub(super) fn around(depth: u32) -> Result<u32, Fault> {
    if depth >= DEPTH { Err(Fault::budget("it nests values too deep")) } else { Ok(depth + 1) }
}

fn spend(left: &Cell<u64>, n: usize) -> Option<()> {
    left.set(left.get().checked_sub(n as u64)?);
    Some(())
}
