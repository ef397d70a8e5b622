//! What any thread has merged, for all of them: each would otherwise have to merge every word of a text again.
//!
//! A slot is written once and never again, so that a reader who sees its key sees all of it, without a lock. What finds its slots
//! taken is not kept: a thread's own [`super::cache`] goes with the text, this table only helps it to begin.

use super::cpu;
use super::tables::{Key, hash};
use std::sync::atomic::{AtomicU64, Ordering};

/// Slots, 32 bytes each.
const SLOTS: usize = 1 << 16;
/// Slots in a line.
const WAYS: usize = 2;
/// Ids that a slot holds, and the bits of each.
const MOST: usize = 3;
const BITS: u32 = 20;
/// Marks a slot that is being written. No key has such a length.
const BUSY: u64 = u64::MAX;

#[derive(Default)]
struct Slot {
    first: AtomicU64,
    /// 0 until the slot is written.
    second: AtomicU64,
    /// The ids from the lowest bits on, and their number in the highest two.
    ids: AtomicU64,
}

/// One line of the processor's cache.
#[derive(Default)]
#[repr(align(64))]
struct Ways([Slot; WAYS]);

/// Merged pieces, by their key.
pub(super) struct Shared(Box<[Ways]>);

impl Default for Shared {
    fn default() -> Self {
        Self((0..SLOTS / WAYS).map(|_| Ways::default()).collect())
    }
}

impl Shared {
    fn line(key: Key) -> usize {
        // From the highest bits, as every bit of the key reaches only those.
        (hash(key) >> (64 - (SLOTS / WAYS).ilog2())) as usize
    }

    /// Where a piece may stand: in its own line, or in the one beside it.
    fn slots(&self, key: Key) -> impl Iterator<Item = &Slot> {
        let own = Self::line(key);
        [own, own ^ 1].into_iter().flat_map(|line| &self.0[line].0)
    }

    /// Asks for the memory that [`Self::write`] will look at.
    pub(super) fn prefetch(&self, key: Key) {
        cpu::prefetch(&self.0[Self::line(key)]);
    }

    /// Appends the ids of a piece, if it has been merged; whether it has.
    pub(super) fn write(&self, key: Key, ids: &mut Vec<u32>) -> bool {
        // Acquire: what was written before the second half is there. Behind a free slot there is nothing.
        let taken = |slot: &&Slot| slot.second.load(Ordering::Acquire) != 0;
        let same = |slot: &&Slot| {
            slot.second.load(Ordering::Acquire) == key[1] && slot.first.load(Ordering::Relaxed) == key[0]
        };
        let Some(slot) = self.slots(key).take_while(taken).find(same) else { return false };
        let packed = slot.ids.load(Ordering::Relaxed);
        ids.extend((0..(packed >> 62) as u32).map(|i| (packed >> (i * BITS)) as u32 & ((1 << BITS) - 1)));
        true
    }

    /// Keeps a piece, if it has few ids, none of them very large, and there is room.
    pub(super) fn put(&self, key: Key, ids: &[u32]) {
        if ids.len() > MOST || ids.iter().any(|id| id >> BITS != 0) {
            return;
        }
        for slot in self.slots(key) {
            match slot.second.compare_exchange(0, BUSY, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let packed = ids.iter().rev().fold(0, |packed, &id| packed << BITS | u64::from(id));
                    slot.ids.store(packed | (ids.len() as u64) << 62, Ordering::Relaxed);
                    slot.first.store(key[0], Ordering::Relaxed);
                    slot.second.store(key[1], Ordering::Release);
                    return;
                }
                Err(taken) if taken == key[1] && slot.first.load(Ordering::Relaxed) == key[0] => return,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::key_of;
    use super::*;

    #[test]
    fn what_one_thread_keeps_others_find() {
        let shared = Shared::default();
        let texts: Vec<String> = (0..20_000).map(|i| format!("word {i}")).collect();
        let ids = |i: usize| vec![i as u32, (1 << BITS) - 1, 7][..=i % MOST].to_vec();
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut found = 0;
                        for _ in 0..3 {
                            for (i, text) in texts.iter().enumerate() {
                                let (key, mut known) = (key_of(text.as_bytes()), Vec::new());
                                if shared.write(key, &mut known) {
                                    assert_eq!(known, ids(i));
                                    found += 1;
                                } else {
                                    shared.put(key, &ids(i));
                                }
                            }
                        }
                        found
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        // Each is looked for twelve times; at worst all four threads come upon it at once, and a few find no room.
        assert!(found > texts.len() * 7, "{found}");
    }

    #[test]
    fn what_has_many_ids_or_finds_no_room_is_not_kept() {
        let shared = Shared::default();
        for ids in [&[1, 2, 3, 4][..], &[1 << BITS]] {
            shared.put(key_of(b"many"), ids);
            assert!(!shared.write(key_of(b"many"), &mut Vec::new()));
        }
        for i in 0..10 * SLOTS {
            shared.put(key_of(i.to_string().as_bytes()), &[i as u32 % 1000]);
        }
        let kept = (0..10 * SLOTS).filter(|i| shared.write(key_of(i.to_string().as_bytes()), &mut Vec::new())).count();
        assert!(kept > SLOTS / 2 && kept <= SLOTS, "{kept}");
    }
}
