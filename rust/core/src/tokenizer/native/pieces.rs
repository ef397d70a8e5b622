//! Piece → ids, by the shortest way that is exact: seen before, a whole token, or merged.

use super::border::Borders;
use super::cache::{Batch, Cache, INLINE, TOGETHER};
use super::cpu;
use super::long;
use super::merge;
use super::scan;
use super::tables::{Head, Key, NONE, Pattern, SHORT, Tables, WHOLE_ONLY, key, key_of};

/// Second half of the key of a piece that is too long for one; the first is its hash. No line has such a key.
const TOO_LONG: u64 = 0;

/// The tables with what is derived from their head.
pub(super) struct Encoder<'t> {
    tables: &'t Tables,
    metaspace: bool,
    /// A stretch of a piece may be another token than the same text as a whole piece.
    whole_only: bool,
    /// Merging may begin with whole characters.
    by_characters: bool,
}

impl<'t> Encoder<'t> {
    pub(super) fn new(head: &Head, tables: &'t Tables) -> Self {
        Self {
            tables,
            metaspace: head.pattern == Pattern::Metaspace,
            whole_only: head.whole_only,
            by_characters: head.monotone,
        }
    }

    /// Appends the ids of the first `n` pieces whose ends stand in `batch`, the first beginning at `start`.
    #[inline(always)]
    pub(super) fn pieces(
        &self,
        text: &[u8],
        start: usize,
        n: usize,
        batch: &mut Batch,
        cache: &mut Cache,
        ids: &mut Vec<u32>,
    ) {
        self.look_up(text, start, n, batch, cache, ids, false);
    }

    /// Appends the ids of a text that is one piece, however long, by its stretches: parts that merge with nothing outside.
    #[inline(always)]
    pub(super) fn stretches(&self, text: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        let borders = Borders(&self.tables.borders);
        let mut batch = cache.spare.pop().unwrap_or_default();
        let mut start = 0;
        while start < text.len() {
            let (mut n, mut at) = (0, start);
            while n < TOGETHER && at < text.len() {
                at = borders.end(text, at);
                batch.ends[n] = at as u32;
                n += 1;
            }
            self.look_up(text, start, n, &mut batch, cache, ids, true);
            start = at;
        }
        cache.spare.push(batch);
    }

    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "inlined into its two callers")]
    fn look_up(
        &self,
        text: &[u8],
        start: usize,
        n: usize,
        batch: &mut Batch,
        cache: &mut Cache,
        ids: &mut Vec<u32>,
        stretches: bool,
    ) {
        // A stretch is not a whole piece: where the two may differ, they are kept apart.
        let apart = stretches && self.whole_only;
        let mut from = start;
        for ((key_of, place), &end) in batch.keys.iter_mut().zip(&mut batch.places).zip(&batch.ends).take(n) {
            let length = end as usize - from;
            // By the time all keys are made, the memory that they name is there.
            if length <= SHORT {
                let mut key = key(scan::load(text, from), length);
                key[1] |= u64::from(apart) << 63;
                let line = Cache::line(key);
                cpu::prefetch(&cache.lines[line]);
                (*key_of, *place) = (key, line as u32);
            } else {
                let hash = long::hash_of(&text[from..end as usize], apart);
                cache.long.prefetch(hash);
                (*key_of, *place) = ([hash, TOO_LONG], 0);
            }
            from = end as usize;
        }
        let mut known = [0; TOGETHER * INLINE + 1];
        let mut filled = 0;
        let mut from = start;
        for ((&key, &place), &end) in batch.keys.iter().zip(&batch.places).zip(&batch.ends).take(n) {
            let end = end as usize;
            let found = cache.find(key, place as usize).map(|(line, way)| line.ids[way]);
            match found {
                Some(own) if own[INLINE] as usize <= INLINE => {
                    known[filled..=filled + INLINE].copy_from_slice(&own);
                    filled += own[INLINE] as usize;
                }
                rare => {
                    ids.extend_from_slice(&known[..filled]);
                    filled = 0;
                    let piece = &text[from..end];
                    match rare {
                        Some(own) => ids.extend_from_slice(cache.spilled(own[0], own[INLINE] as usize)),
                        None if key[1] == TOO_LONG => self.long_piece(piece, key[0], stretches, cache, ids),
                        None if stretches => self.new_stretch(piece, key, cache, ids),
                        None => self.new_piece(piece, key, cache, ids),
                    }
                }
            }
            from = end;
        }
        ids.extend_from_slice(&known[..filled]);
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
    fn long_piece(&self, piece: &[u8], hash: u64, stretch: bool, cache: &mut Cache, ids: &mut Vec<u32>) {
        if let Some(known) = cache.long.get(piece, hash) {
            return ids.extend_from_slice(known);
        }
        let before = ids.len();
        // A token has no border inside, so what has one is cut without a look at the table.
        if !stretch && Borders(&self.tables.borders).end(piece, 0) < piece.len() {
            self.stretches(piece, cache, ids);
        } else {
            match self.tables.long(piece) {
                Some(id) if !stretch || id & WHOLE_ONLY == 0 => ids.push(id & !WHOLE_ONLY),
                _ => self.merge(piece, cache, ids),
            }
        }
        cache.long.put(piece, hash, &ids[before..]);
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

    #[inline(never)]
    fn new_stretch(&self, stretch: &[u8], key: Key, cache: &mut Cache, ids: &mut Vec<u32>) {
        let before = ids.len();
        match self.tables.short(key_of(stretch)) {
            Some(id) if id & WHOLE_ONLY == 0 => ids.push(id),
            _ => self.merge(stretch, cache, ids),
        }
        cache.put(key, &ids[before..]);
    }

    fn merge(&self, piece: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        let scratch = &mut cache.scratch;
        if self.metaspace {
            self.characters_or_bytes(piece, &mut scratch.ids);
            merge::merge(self.tables, scratch);
        } else if self.by_characters && !piece.is_ascii() && self.characters(piece, &mut scratch.ids) {
            merge::merge(self.tables, scratch);
        } else {
            merge::merge_bytes(self.tables, piece, scratch);
        }
        ids.extend_from_slice(&scratch.ids);
    }

    /// The characters of a text as symbols, if each is a token and merges with its like only: then bytes within a character
    /// merge before anything that holds it whole, since ranks rise, and nothing else happens to them.
    fn characters(&self, text: &[u8], symbols: &mut Vec<u32>) -> bool {
        symbols.clear();
        let mut at = 0;
        while at < text.len() {
            let (code, length) = super::classes::decode(text, at);
            match self.tables.characters.get(code as usize) {
                Some(&id) if id != NONE => symbols.push(id),
                _ => return false,
            }
            at += length;
        }
        Borders(&self.tables.borders).whole_characters(text)
    }

    /// The characters of a text as symbols; the bytes of those that the vocabulary does not have.
    fn characters_or_bytes(&self, text: &[u8], symbols: &mut Vec<u32>) {
        symbols.clear();
        let mut at = 0;
        while at < text.len() {
            let (code, length) = super::classes::decode(text, at);
            let known =
                self.tables.characters.get(code as usize).copied().unwrap_or_else(|| self.tables.character(code));
            if known == NONE {
                let bytes = text[at..].iter().take(length);
                symbols.extend(bytes.map(|&byte| self.tables.byte_ids[usize::from(byte)]));
            } else {
                symbols.push(known);
            }
            at += length;
        }
    }
}
