//! Piece → ids, by the shortest way that is exact: seen before, a whole token, or merged.

use super::border::Borders;
use super::cpu;
use super::merge::{self, Scratch};
use super::scan;
use super::tables::{Head, Key, NONE, Pattern, SHORT, Tables, WHOLE_ONLY, hash, key, key_of};
use std::collections::HashMap;

/// Lines of the cache of short pieces, of 64 bytes and two pieces each.
const LINES: usize = 1 << 16;
/// Ids that a line holds itself, for each of its pieces.
const INLINE: usize = 3;
/// Ids of pieces with more than [`INLINE`], and pieces longer than [`SHORT`]: beyond that the cache begins anew.
const OVERFLOW: usize = 1 << 18;
const LONG_PIECES: usize = 1 << 16;
/// Longer pieces are too rarely seen again to be kept.
const LONGEST_KEPT: usize = 128;
/// Pieces that are looked up together, so that the processor waits for many lines at once.
pub(super) const TOGETHER: usize = 64;
/// Key of a piece that is too long for one: no line has it.
const TOO_LONG: Key = [1, 0];

/// Two pieces and their ids, as large as a line of the processor's cache.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    keys: [Key; 2],
    ids: [[u32; INLINE]; 2],
    n: [u32; 2],
}

/// What a thread has seen, bounded, and its buffers.
pub(super) struct Cache {
    lines: Box<[Line]>,
    overflow: Vec<u32>,
    long: HashMap<Box<[u8]>, Box<[u32]>, Fold>,
    pub(super) text: String,
    pub(super) ends: Box<[u32; TOGETHER]>,
    keys: Box<[Key; TOGETHER]>,
    /// Line of each key.
    places: Box<[u32; TOGETHER]>,
    scratch: Scratch,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            lines: vec![Line::default(); LINES].into_boxed_slice(),
            overflow: Vec::new(),
            long: HashMap::default(),
            text: String::new(),
            ends: Box::new([0; TOGETHER]),
            keys: Box::new([[0; 2]; TOGETHER]),
            places: Box::new([0; TOGETHER]),
            scratch: Scratch::default(),
        }
    }
}

impl Cache {
    #[inline(always)]
    fn line(key: Key) -> usize {
        (hash(key) >> 40) as usize % LINES
    }

    /// Line and place in it of a key: its own line, or else the one beside it.
    #[inline(always)]
    fn find(&self, key: Key, own: usize) -> Option<(&Line, usize)> {
        let line = &self.lines[own % LINES];
        if line.keys[0] == key {
            Some((line, 0))
        } else if line.keys[1] == key {
            Some((line, 1))
        } else {
            let line = &self.lines[(own ^ 1) % LINES];
            line.keys.iter().position(|k| *k == key).map(|way| (line, way))
        }
    }

    /// Appends the ids of a piece seen before.
    #[inline(always)]
    fn get(&self, key: Key, ids: &mut Vec<u32>) -> bool {
        let Some((line, way)) = self.find(key, Self::line(key)) else { return false };
        match line.n[way] as usize {
            1 => ids.push(line.ids[way][0]),
            n @ 0..=INLINE => ids.extend_from_slice(&line.ids[way][..n]),
            n => ids.extend_from_slice(self.spilled(line.ids[way][0], n)),
        }
        true
    }

    fn spilled(&self, start: u32, n: usize) -> &[u32] {
        self.overflow.get(start as usize..start as usize + n).unwrap_or_default()
    }

    fn put(&mut self, key: Key, ids: &[u32]) {
        let mut own = [0; INLINE];
        if ids.len() <= INLINE {
            own[..ids.len()].copy_from_slice(ids);
        } else {
            if self.overflow.len() + ids.len() > OVERFLOW {
                self.overflow.clear();
                self.lines.fill(Line::default());
            }
            own[0] = self.overflow.len() as u32;
            self.overflow.extend_from_slice(ids);
        }
        let at = Self::line(key);
        // A piece that is one token is found again at once; one that was merged is worth keeping.
        let places = [(at, 0), (at, 1), (at ^ 1, 0), (at ^ 1, 1)];
        let cheap = |most: u32| places.into_iter().find(|&(line, way)| self.lines[line % LINES].n[way] <= most);
        let (line, way) = cheap(0).or_else(|| cheap(1)).unwrap_or((at, (self.overflow.len() ^ key[0] as usize) & 1));
        let line = &mut self.lines[line % LINES];
        (line.keys[way], line.ids[way], line.n[way]) = (key, own, ids.len() as u32);
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

    /// Appends the ids of the first `n` pieces whose ends stand in the cache's buffer, the first beginning at `start`.
    #[inline(always)]
    pub(super) fn pieces(&self, text: &[u8], start: usize, n: usize, cache: &mut Cache, ids: &mut Vec<u32>) {
        let Cache { keys, places, ends, lines, .. } = cache;
        let mut from = start;
        for ((key_of, place), &end) in keys.iter_mut().zip(places.iter_mut()).zip(ends.iter()).take(n) {
            let length = end as usize - from;
            let key = if length <= SHORT { key(scan::load(text, from), length) } else { TOO_LONG };
            let line = Cache::line(key);
            // By the time all keys are made the lines are there.
            cpu::prefetch(&lines[line]);
            (*key_of, *place) = (key, line as u32);
            from = end as usize;
        }
        let mut known = [0; TOGETHER * INLINE + INLINE];
        let mut filled = 0;
        let mut from = start;
        for i in 0..n.min(TOGETHER) {
            let (key, end) = (cache.keys[i], cache.ends[i] as usize);
            let found =
                cache.find(key, cache.places[i] as usize).map(|(line, way)| (line.ids[way], line.n[way] as usize));
            match found {
                Some((own, n)) if n <= INLINE => {
                    known[filled..filled + INLINE].copy_from_slice(&own);
                    filled += n;
                }
                rare => {
                    ids.extend_from_slice(&known[..filled]);
                    filled = 0;
                    match rare {
                        Some((own, n)) => ids.extend_from_slice(cache.spilled(own[0], n)),
                        None if key == TOO_LONG => self.long_piece(&text[from..end], cache, ids),
                        None => self.new_piece(&text[from..end], key, cache, ids),
                    }
                }
            }
            from = end;
        }
        ids.extend_from_slice(&known[..filled]);
    }

    /// Appends the ids of a text that is one piece, however long, by its stretches.
    #[inline(always)]
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
        // A token has no border inside, so what has one is cut without a look at the table.
        let end = Borders(&self.tables.borders).end(piece, 0);
        if end < piece.len() {
            // Its stretches are short and known; the whole is seldom seen again.
            return self.stretches(piece, cache, ids);
        }
        if let Some(known) = cache.long.get(piece) {
            return ids.extend_from_slice(known);
        }
        let before = ids.len();
        match self.tables.long(piece) {
            Some(id) => ids.push(id & !WHOLE_ONLY),
            None => self.merge(piece, cache, ids),
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
        // Where a stretch may be another token than a whole piece, only whole pieces are kept.
        let kept = !self.whole_only && stretch.len() <= LONGEST_KEPT;
        if kept && let Some(known) = cache.long.get(stretch) {
            return ids.extend_from_slice(known);
        }
        let before = ids.len();
        match self.tables.long(stretch) {
            Some(id) if id & WHOLE_ONLY == 0 => ids.push(id),
            _ => self.merge(stretch, cache, ids),
        }
        if kept {
            cache.keep_long(stretch, &ids[before..]);
        }
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
