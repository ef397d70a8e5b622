//! Piece → ids, by the shortest way that is exact: seen before, a whole token, or merged.

use super::border::Borders;
use super::merge::{self, Scratch};
use super::scan;
use super::tables::{Key, NONE, Pattern, SHORT, Tables, WHOLE_ONLY, hash, key, key_of};
use std::collections::HashMap;

/// Slots of the cache of short pieces: with 32 bytes each it stays in a core's own cache.
const SLOTS: usize = 1 << 14;
/// Ids that a slot holds itself.
const INLINE: usize = 3;
/// Ids of pieces with more than [`INLINE`], and pieces longer than [`SHORT`]: beyond that the cache begins anew.
const OVERFLOW: usize = 1 << 18;
const LONG_PIECES: usize = 1 << 14;
/// Longer pieces are too rarely seen again to be kept.
const LONGEST_KEPT: usize = 128;

#[derive(Clone, Copy)]
struct Slot {
    key: Key,
    ids: [u32; INLINE],
    n: u32,
}

/// What a thread has seen, bounded, and its buffers.
pub(super) struct Cache {
    slots: Box<[Slot]>,
    overflow: Vec<u32>,
    long: HashMap<Box<[u8]>, Box<[u32]>, Fold>,
    pub(super) text: String,
    scratch: Scratch,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            slots: vec![Slot { key: [0; 2], ids: [0; INLINE], n: 0 }; SLOTS].into_boxed_slice(),
            overflow: Vec::new(),
            long: HashMap::default(),
            text: String::new(),
            scratch: Scratch::default(),
        }
    }
}

impl Cache {
    #[inline(always)]
    fn slot(key: Key) -> usize {
        (hash(key) >> 40) as usize % SLOTS
    }

    /// Appends the ids of a piece seen before.
    #[inline(always)]
    fn get(&self, key: Key, ids: &mut Vec<u32>) -> bool {
        let slot = &self.slots[Self::slot(key)];
        if slot.key != key {
            return false;
        }
        match slot.n as usize {
            1 => ids.push(slot.ids[0]),
            n @ 0..=INLINE => ids.extend_from_slice(&slot.ids[..n]),
            n => {
                let start = slot.ids[0] as usize;
                ids.extend_from_slice(self.overflow.get(start..start + n).unwrap_or_default());
            }
        }
        true
    }

    fn put(&mut self, key: Key, ids: &[u32]) {
        let mut slot = Slot { key, ids: [0; INLINE], n: ids.len() as u32 };
        if ids.len() <= INLINE {
            slot.ids[..ids.len()].copy_from_slice(ids);
        } else {
            if self.overflow.len() + ids.len() > OVERFLOW {
                self.overflow.clear();
                self.slots.iter_mut().filter(|slot| slot.n as usize > INLINE).for_each(|slot| slot.key = [0; 2]);
            }
            slot.ids[0] = self.overflow.len() as u32;
            self.overflow.extend_from_slice(ids);
        }
        self.slots[Self::slot(key)] = slot;
    }

    fn keep_long(&mut self, piece: &[u8], ids: &[u32]) {
        if piece.len() <= LONGEST_KEPT {
            if self.long.len() >= LONG_PIECES {
                self.long.clear();
            }
            self.long.insert(piece.into(), ids.into());
        }
    }
}

/// Hashes bytes eight at a time; the map behind it compares whole pieces.
#[derive(Default, Clone, Copy)]
struct Fold(u64);

impl std::hash::BuildHasher for Fold {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl std::hash::Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let word = scan::load(bytes, at);
            self.0 = hash([self.0 ^ word as u64, (word >> 64) as u64]);
            at += 16;
        }
    }
    fn write_usize(&mut self, n: usize) {
        self.0 ^= n as u64;
    }
}

/// The tables with what is derived from their head.
pub(super) struct Encoder<'t> {
    pub(super) tables: &'t Tables,
    pub(super) metaspace: bool,
    /// A stretch of a piece may be another token than the same text as a whole piece.
    pub(super) whole_only: bool,
}

impl<'t> Encoder<'t> {
    pub(super) fn new(tables: &'t Tables, pattern: Pattern, whole_only: bool) -> Self {
        Self { tables, metaspace: pattern == Pattern::Metaspace, whole_only }
    }

    /// Appends the ids of the piece `text[start..end]`.
    #[inline(always)]
    pub(super) fn piece(&self, text: &[u8], start: usize, end: usize, cache: &mut Cache, ids: &mut Vec<u32>) {
        let n = end - start;
        if n <= SHORT {
            let key = key(scan::load(text, start), n);
            if !cache.get(key, ids) {
                self.new_piece(&text[start..end], key, cache, ids);
            }
        } else {
            self.long_piece(&text[start..end], cache, ids);
        }
    }

    /// Appends the ids of a text that is one piece, however long, by its stretches.
    pub(super) fn stretches(&self, text: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        let borders = Borders(&self.tables.borders);
        let mut start = 0;
        while start < text.len() {
            let end = borders.end(text, start);
            self.stretch(text, start, end, cache, ids);
            start = end;
        }
    }

    #[inline(never)]
    fn new_piece(&self, piece: &[u8], key: Key, cache: &mut Cache, ids: &mut Vec<u32>) {
        let before = ids.len();
        match self.tables.short(key) {
            Some(id) => ids.push(id & !WHOLE_ONLY),
            None => self.parts(piece, cache, ids),
        }
        cache.put(key, &ids[before..]);
    }

    #[inline(never)]
    fn long_piece(&self, piece: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        if let Some(known) = cache.long.get(piece) {
            return ids.extend_from_slice(known);
        }
        let before = ids.len();
        match self.tables.long(piece) {
            Some(id) => ids.push(id & !WHOLE_ONLY),
            None => {
                let end = Borders(&self.tables.borders).end(piece, 0);
                if end < piece.len() {
                    // Its stretches are short and known; the whole is seldom seen again.
                    return self.stretches(piece, cache, ids);
                }
                self.merge(piece, cache, ids);
            }
        }
        cache.keep_long(piece, &ids[before..]);
    }

    /// A piece that is no token: cut at its borders, or merged.
    fn parts(&self, piece: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        if !piece.is_ascii() {
            let end = Borders(&self.tables.borders).end(piece, 0);
            if end < piece.len() {
                return self.stretches(piece, cache, ids);
            }
        }
        self.merge(piece, cache, ids);
    }

    /// A part of a piece that merges with nothing outside.
    #[inline(always)]
    fn stretch(&self, text: &[u8], start: usize, end: usize, cache: &mut Cache, ids: &mut Vec<u32>) {
        let n = end - start;
        if n > SHORT {
            return self.long_stretch(&text[start..end], cache, ids);
        }
        let mut key = key(scan::load(text, start), n);
        // A stretch is not a whole piece: where the two differ, they are kept apart.
        key[1] |= u64::from(self.whole_only) << 63;
        if !cache.get(key, ids) {
            self.new_stretch(&text[start..end], key, cache, ids);
        }
    }

    #[inline(never)]
    fn new_stretch(&self, stretch: &[u8], key: Key, cache: &mut Cache, ids: &mut Vec<u32>) {
        let before = ids.len();
        match self.tables.short(key_of(stretch)) {
            Some(id) if id & WHOLE_ONLY == 0 => ids.push(id),
            _ => self.merge(stretch, cache, ids),
        }
        cache.put(key, &ids[before..]);
    }

    fn long_stretch(&self, stretch: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        match self.tables.long(stretch) {
            Some(id) if id & WHOLE_ONLY == 0 => ids.push(id),
            _ => self.merge(stretch, cache, ids),
        }
    }

    fn merge(&self, piece: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        let scratch = &mut cache.scratch;
        if self.metaspace {
            self.characters(piece, &mut scratch.ids);
            merge::merge(self.tables, scratch);
        } else {
            merge::merge_bytes(self.tables, piece, scratch);
        }
        ids.extend_from_slice(&scratch.ids);
    }

    /// The characters of a text as symbols; the bytes of those that the vocabulary does not have.
    fn characters(&self, text: &[u8], symbols: &mut Vec<u32>) {
        symbols.clear();
        let mut at = 0;
        while at < text.len() {
            let (_, length) = super::classes::decode(text, at);
            let name = &text[at..(at + length).min(text.len())];
            match self.tables.short(key_of(name)) {
                Some(id) => symbols.push(id),
                None => symbols.extend(name.iter().map(|&byte| self.tables.byte_ids[usize::from(byte)])),
            }
            at += length;
        }
        debug_assert!(!symbols.contains(&NONE));
    }
}
