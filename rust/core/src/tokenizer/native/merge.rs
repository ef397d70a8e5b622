//! Byte-pair encoding proper: the lowest-ranked pair of neighbours merges, the leftmost of equals, until none can.

use super::cpu::{self, Cpu};
use super::settle::{FEW, Heap, Placed, settle_part};
use super::tables::Tables;
use super::windows::{self, Text};

/// Buffers that outlive a call.
#[derive(Default)]
pub(super) struct Scratch {
    /// The symbols to merge, and what is left of them.
    pub(super) ids: Vec<u32>,
    /// Rank of each symbol's merge with the next.
    ranks: Vec<u32>,
    tokens: Vec<Placed>,
    heap: Heap,
}

/// Merges `scratch.ids`.
pub(super) fn merge(tables: &Tables, scratch: &mut Scratch) {
    let Scratch { ids, ranks, .. } = scratch;
    cpu::fastest(Ranks { tables, ids, ranks });
    settle(tables, scratch);
}

/// The same for the symbols of bytes, whose first ranks are in a table of their own.
pub(super) fn merge_bytes(tables: &Tables, text: &[u8], scratch: &mut Scratch) {
    let Scratch { ids, ranks, .. } = scratch;
    ids.clear();
    ids.extend(text.iter().map(|&byte| tables.byte_ids[usize::from(byte)]));
    ranks.clear();
    ranks.extend(text.windows(2).map(|pair| tables.byte_pairs[usize::from(pair[0]) << 8 | usize::from(pair[1])]));
    settle(tables, scratch);
}

/// At which rank each symbol merges with the next.
struct Ranks<'a> {
    tables: &'a Tables,
    ids: &'a [u32],
    ranks: &'a mut Vec<u32>,
}

impl cpu::Work for Ranks<'_> {
    type Done = ();

    #[inline(always)]
    fn run(self, cpu: impl Cpu) {
        self.ranks.clear();
        self.ranks.extend(self.ids.windows(2).map(|pair| self.tables.rank(cpu, pair[0], pair[1])));
    }
}

fn settle(tables: &Tables, scratch: &mut Scratch) {
    let Scratch { ids, ranks, tokens, heap } = scratch;
    if ids.len() < 2 {
        return;
    }
    tokens.clear();
    if ids.len() <= FEW {
        settle_part(tables, ids, ranks, tokens, heap);
    } else {
        windows::settle(&Text { tables, ids, ranks }, tokens, heap);
    }
    ids.clear();
    ids.extend(tokens.iter().map(|&(id, _)| id));
}
