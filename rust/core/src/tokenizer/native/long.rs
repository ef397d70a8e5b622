//! Pieces too long for a key, seen before: found by hash, proved by comparing them whole.

use super::bytes::load;
use super::cpu;
use super::prefaulted;
use super::tables::hash;

/// Slots at first, and at most.
const FEWEST_SLOTS: usize = 1 << 11;
const SLOTS: usize = 1 << 17;
/// Consecutive slots in which a piece may stand; where all are taken a newer piece takes an older one's.
const WAYS: usize = 8;
/// Bytes and ids that are kept; beyond that the store starts over.
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
    /// Entries since it started or started over.
    pieces: usize,
    bytes: Vec<u8>,
    ids: Vec<u32>,
}

/// What a piece is looked for by; `kind` keeps apart what must not be taken for one another.
pub(super) fn hash_of(piece: &[u8], kind: bool) -> u64 {
    let mut mixed = piece.len() as u64 | (u64::from(kind) << 32);
    for at in (0..piece.len()).step_by(16) {
        let word = load(piece, at);
        mixed = hash([mixed ^ word as u64, (word >> 64) as u64]).rotate_left(32);
    }
    hash([mixed, 0]) | 1
}

impl LongPieces {
    /// The first place where a piece may stand. The number of slots is a power of two.
    fn place(&self, hash: u64) -> usize {
        (hash >> 40) as usize & self.slots.len().wrapping_sub(1)
    }

    fn places(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let (own, mask) = (self.place(hash), self.slots.len().wrapping_sub(1));
        (own..own + WAYS).map(move |at| at & mask)
    }

    /// The ids of a piece seen before.
    pub(super) fn get(&self, piece: &[u8], hash: u64) -> Option<&[u32]> {
        let slots = self.places(hash).map_while(|at| self.slots.get(at));
        // Behind a free slot there is nothing.
        let slot = slots.take_while(|slot| slot.hash != 0).find(|slot| slot.hash == hash)?;
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
            let fewer = std::mem::replace(&mut self.slots, prefaulted::zeros((4 * room).max(FEWEST_SLOTS)));
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
        let free = self.places(slot.hash).find(|&at| self.slots[at].hash == 0);
        let at = free.unwrap_or(self.place(slot.hash));
        self.slots[at] = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_while_the_table_grows_and_after_it_began_anew() {
        let mut long = LongPieces::default();
        let piece = |i: usize| format!("a piece with the number {i}");
        let found = |long: &LongPieces, i: usize| {
            let piece = piece(i);
            let ids = long.get(piece.as_bytes(), hash_of(piece.as_bytes(), false)).map(<[u32]>::to_vec);
            assert!(ids.as_deref().is_none_or(|ids| ids == [i as u32; 3]), "{ids:?}");
            ids.is_some()
        };
        assert!(!found(&long, 0));
        for i in 0..90_000 {
            let piece = piece(i);
            long.put(piece.as_bytes(), hash_of(piece.as_bytes(), false), &[i as u32; 3]);
            assert!(found(&long, i));
            assert!(!found(&long, i + 1));
        }
        let kept = (0..90_000).filter(|&i| found(&long, i)).count();
        assert!(kept > 85_000, "{kept}");
        for i in 90_000..200_000 {
            let piece = piece(i);
            long.put(piece.as_bytes(), hash_of(piece.as_bytes(), false), &[i as u32; 3]);
        }
        assert!(found(&long, 199_999) && !found(&long, 0), "it started over");
    }
}
