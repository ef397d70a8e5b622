//! Pieces too long for a key, seen before: found by hash, proved by comparing them whole.

use super::cpu;
use super::fresh;
use super::scan;
use super::tables::hash;

/// Slots at first, and at most; a newer piece takes an older one's.
const FEWEST_SLOTS: usize = 1 << 11;
const SLOTS: usize = 1 << 17;
/// Bytes and ids that are kept; beyond that the store begins anew.
const BYTES: usize = 4 << 20;
const IDS: usize = 1 << 20;
/// Longer pieces are too rarely seen again.
const LONGEST: usize = 256;

#[derive(Clone, Copy, Default, bytemuck::Zeroable)]
struct Slot {
    /// 0 is a free slot.
    hash: u64,
    start: u32,
    length: u32,
    first_id: u32,
    ids: u32,
}

/// Bounded; made when the first long piece comes.
#[derive(Default)]
pub(super) struct LongPieces {
    slots: Box<[Slot]>,
    /// That were put in since it began or began anew.
    pieces: usize,
    bytes: Vec<u8>,
    ids: Vec<u32>,
}

/// What a piece is looked for by; `kind` keeps apart what must not be taken for one another.
pub(super) fn hash_of(piece: &[u8], kind: bool) -> u64 {
    let mut mixed = piece.len() as u64 | (u64::from(kind) << 32);
    for at in (0..piece.len()).step_by(16) {
        let word = scan::load(piece, at);
        mixed = hash([mixed ^ word as u64, (word >> 64) as u64]).rotate_left(32);
    }
    hash([mixed, 0]) | 1
}

impl LongPieces {
    /// Where a piece may stand, there or beside it; the number of slots is a power of two.
    fn place(&self, hash: u64) -> usize {
        (hash >> 40) as usize & self.slots.len().wrapping_sub(1)
    }

    /// The ids of a piece seen before.
    pub(super) fn get(&self, piece: &[u8], hash: u64) -> Option<&[u32]> {
        let own = self.place(hash);
        let slot = [own, own ^ 1].into_iter().filter_map(|at| self.slots.get(at)).find(|slot| slot.hash == hash)?;
        let bytes = self.bytes.get(slot.start as usize..(slot.start + slot.length) as usize)?;
        let ids = self.ids.get(slot.first_id as usize..(slot.first_id + slot.ids) as usize)?;
        (bytes == piece).then_some(ids)
    }

    /// Asks for the slot of a piece ahead of its use.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(slot) = self.slots.get(self.place(hash)) {
            cpu::prefetch(slot);
        }
    }

    /// Keeps a piece.
    pub(super) fn put(&mut self, piece: &[u8], hash: u64, ids: &[u32]) {
        if piece.len() > LONGEST {
            return;
        }
        if self.slots.is_empty() {
            // All of it at once: growing would copy it again and again, and what is not used is not touched.
            self.bytes.reserve_exact(BYTES);
            self.ids.reserve_exact(IDS);
        }
        let room = self.slots.len();
        if room < SLOTS && self.pieces >= room / 2 {
            let fewer = std::mem::replace(&mut self.slots, fresh::zeros((4 * room).max(FEWEST_SLOTS)));
            fewer.into_iter().filter(|slot| slot.hash != 0).for_each(|slot| self.keep(slot));
        }
        if self.bytes.len() + piece.len() > BYTES || self.ids.len() + ids.len() > IDS {
            self.slots.fill(Slot::default());
            self.pieces = 0;
            self.bytes.clear();
            self.ids.clear();
        }
        self.keep(Slot {
            hash,
            start: self.bytes.len() as u32,
            length: piece.len() as u32,
            first_id: self.ids.len() as u32,
            ids: ids.len() as u32,
        });
        self.pieces += 1;
        self.bytes.extend_from_slice(piece);
        self.ids.extend_from_slice(ids);
    }

    fn keep(&mut self, slot: Slot) {
        let own = self.place(slot.hash);
        let at = if self.slots[own].hash != 0 && self.slots[own ^ 1].hash == 0 { own ^ 1 } else { own };
        self.slots[at] = slot;
    }
}
