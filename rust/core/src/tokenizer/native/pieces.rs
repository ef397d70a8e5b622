//! Piece → ids, by the shortest way that is exact: seen before, a whole token, or merged.

use super::border::Borders;
use super::bytes::{load, load_half};
use super::cache::{BRIEF_LINES, Batch, Cache, Found, TOGETHER};
use super::cpu::{self, Cpu};
use super::fill::one_by_one;
use super::line::NONE;
use super::long;
use super::merge;
use super::shared::Shared;
use super::tables::{Head, Key, SHORT, Tables, WHOLE_ONLY, key};
use super::unknown::{Unknown, by_byte};
use std::ops::Range;

/// Second half of the key of a piece that is too long for one; the first is its hash. No line has such a key.
const TOO_LONG: u64 = 0;

/// The first `n` pieces of those that a batch holds.
#[derive(Clone, Copy)]
pub(super) struct Cut<'t> {
    pub(super) text: &'t [u8],
    pub(super) n: usize,
    /// They are parts of one piece.
    pub(super) stretches: bool,
    /// The highest bit of what they are looked for by: a stretch is not a whole piece, and where the two may differ they
    /// are kept apart.
    apart: u64,
}

impl Cut<'_> {
    /// The key of a piece of at most [`SHORT`] bytes. Taken from the text: of a piece on its own there would be too few bytes to load.
    #[inline(always)]
    fn key(self, range: Range<usize>) -> Key {
        key(load(self.text, range.start), range.len())
    }
}

/// The tables with what is derived from their head.
pub(super) struct Encoder<'t> {
    tables: &'t Tables,
    /// If there are other threads.
    shared: Option<&'t Shared>,
    metaspace: bool,
    /// A stretch of a piece may be another token than the same text as a whole piece.
    whole_only: bool,
    /// Merging may begin with whole characters.
    by_characters: bool,
    unknown: Unknown,
}

impl<'t> Encoder<'t> {
    pub(super) fn new(head: &Head, tables: &'t Tables, shared: Option<&'t Shared>) -> Self {
        Self {
            tables,
            shared,
            metaspace: head.pattern.is_metaspace(),
            whole_only: head.whole_only,
            by_characters: head.monotone,
            unknown: head.unknown,
        }
    }

    /// The first `n` pieces of a batch.
    pub(super) fn cut<'x>(&self, text: &'x [u8], n: usize, stretches: bool) -> Cut<'x> {
        Cut { text, n, stretches, apart: u64::from(stretches && self.whole_only) << 63 }
    }

    /// Appends the ids of a text that is one piece.
    #[inline(always)]
    pub(super) fn whole(&self, text: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        if self.has_unknown(text) { self.merge(text, cache, ids) } else { self.stretches(text, cache, ids) }
    }

    /// Appends the ids of a text that is one piece, however long, by its stretches: parts that merge with nothing outside.
    #[inline(always)]
    pub(super) fn stretches(&self, text: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        let borders = Borders(&self.tables.borders);
        let mut batch = cache.spare.pop().unwrap_or_default();
        let mut fill = one_by_one(text, |at| borders.end(text, at));
        let mut at = 0;
        while at < text.len() {
            let n = fill(at, &mut batch.cuts).n;
            self.encode(self.cut(text, n, true), &mut batch, cache, ids);
            at = batch.cuts[n] as usize;
        }
        cache.spare.push(batch);
    }

    /// Appends the ids of pieces of `batch`.
    pub(super) fn encode(&self, cut: Cut<'_>, batch: &mut Batch, cache: &mut Cache, ids: &mut Vec<u32>) {
        cpu::fastest(Encoding { encoder: self, cut, batch, cache, ids });
    }

    /// Asks for the memory that [`Self::short_piece`] will look at.
    #[inline(always)]
    fn prefetch(&self, cut: Cut<'_>, range: Range<usize>) {
        if range.len() <= SHORT {
            let key = cut.key(range);
            self.tables.prefetch(key);
            if let Some(shared) = self.shared {
                shared.prefetch([key[0], key[1] | cut.apart]);
            }
        }
    }

    /// A piece that is new, or of more than two ids.
    #[inline(never)]
    fn rare_piece(&self, cut: Cut<'_>, range: Range<usize>, hash: u64, cache: &mut Cache, ids: &mut Vec<u32>) {
        let before = ids.len();
        // Those before it in the batch may have brought it in, or have put everything out.
        if let Some(name) = cpu::name(load_half(cut.text, range.start), range.len()) {
            let name = name | cut.apart;
            match cache.find_brief_beside(name) {
                found if found.count() == 0 => {
                    self.short_piece(cut, range, cache, ids);
                    cache.put_brief(name, &ids[before..]);
                }
                found => cache.write(found, ids),
            }
        } else if range.len() <= SHORT {
            let [first, second] = cut.key(range.clone());
            let key = [first, second | cut.apart];
            match cache.find_beside(key) {
                found if found.count() == 0 => {
                    self.short_piece(cut, range, cache, ids);
                    cache.put(key, &ids[before..]);
                }
                found => cache.write(found, ids),
            }
        } else {
            self.long_piece(&cut.text[range], hash, cut.stretches, cache, ids);
        }
    }

    fn short_piece(&self, cut: Cut<'_>, range: Range<usize>, cache: &mut Cache, ids: &mut Vec<u32>) {
        let [first, second] = cut.key(range.clone());
        if let Some(id) = self.tables.short([first, second]).filter(|id| !cut.stretches || id & WHOLE_ONLY == 0) {
            return ids.push(id & !WHOLE_ONLY);
        }
        let key = [first, second | cut.apart];
        if self.shared.is_some_and(|shared| shared.write(key, ids)) {
            return;
        }
        let before = ids.len();
        let piece = &cut.text[range];
        if cut.stretches {
            self.merge(piece, cache, ids);
        } else {
            self.parts(piece, cache, ids);
        }
        if let Some(shared) = self.shared {
            shared.put(key, &ids[before..]);
        }
    }

    #[inline(never)]
    fn long_piece(&self, piece: &[u8], hash: u64, stretch: bool, cache: &mut Cache, ids: &mut Vec<u32>) {
        if let Some(known) = cache.long.get(piece, hash) {
            return ids.extend_from_slice(known);
        }
        let before = ids.len();
        // A token has no border inside, so what has one is cut without a look at the table.
        if !stretch && !self.has_unknown(piece) && Borders(&self.tables.borders).end(piece, 0) < piece.len() {
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
        if !piece.is_ascii() && !self.has_unknown(piece) {
            let end = Borders(&self.tables.borders).end(piece, 0);
            if end < piece.len() {
                return self.stretches(piece, cache, ids);
            }
        }
        self.merge(piece, cache, ids);
    }

    fn merge(&self, piece: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        let scratch = &mut cache.scratch;
        if self.has_unknown(piece) {
            let byte_ids = &self.tables.byte_ids;
            match self.metaspace {
                true => self.unknown.symbols(self.each_character(piece), byte_ids, &mut scratch.ids),
                false => self.unknown.symbols(by_byte(piece, byte_ids), byte_ids, &mut scratch.ids),
            }
            merge::merge(self.tables, scratch);
        } else if self.metaspace {
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

    /// Whether a text has characters that neither a token nor bytes stand in for: its neighbours may then meet, or be
    /// unknown together, so that it is not cut.
    #[inline(always)]
    fn has_unknown(&self, text: &[u8]) -> bool {
        let lacks = |&byte: &u8| self.tables.byte_ids[usize::from(byte)] == NONE;
        self.unknown.lacking
            && match self.metaspace {
                true => self.each_character(text).any(|(id, bytes)| id == NONE && bytes.iter().any(lacks)),
                false => text.iter().any(lacks),
            }
    }

    /// The characters of a text, each with its id.
    fn each_character<'c>(&'c self, text: &'c [u8]) -> impl Iterator<Item = (u32, &'c [u8])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let from = at;
            (from < text.len()).then(|| {
                let (code, length) = super::classes::decode(text, from);
                at = (from + length).min(text.len());
                let known = self.tables.characters.get(code as usize).copied();
                (known.unwrap_or_else(|| self.tables.character(code)), &text[from..at])
            })
        })
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

/// The pieces of a batch on their way to ids.
struct Encoding<'e> {
    encoder: &'e Encoder<'e>,
    cut: Cut<'e>,
    batch: &'e mut Batch,
    cache: &'e mut Cache,
    ids: &'e mut Vec<u32>,
}

impl cpu::Work for Encoding<'_> {
    type Done = ();

    #[inline(always)]
    fn run(self, cpu: impl Cpu) {
        let Self { encoder, cut, batch, cache, ids } = self;
        look_up(cpu, cut, batch, cache);
        let pieces = u64::MAX >> (TOGETHER - cut.n);
        let mut rare_ids = std::mem::take(&mut batch.rare_ids);
        let (eights, _) = batch.found.as_chunks();
        let mut rare = 0;
        for (i, values) in eights.iter().enumerate().take(cut.n.div_ceil(8)) {
            rare |= u64::from(cpu.rare_of_eight(values)) << (8 * i);
        }
        rare &= pieces;
        for i in bits(rare) {
            encoder.prefetch(cut, batch.piece(i));
        }
        // Room for two ids each, and for what is written in passing.
        let room = |pieces: usize| 2 * pieces + 16;
        let mut filled = ids.len();
        ids.resize(filled + room(cut.n), 0);
        for (eight, values) in eights.iter().enumerate().take(cut.n.div_ceil(8)) {
            let first = eight * 8;
            let whole = pieces >> first & 0xff == 0xff;
            if rare >> first & 0xff == 0
                && whole
                && let Some(room) = ids[filled..].first_chunk_mut()
            {
                filled += cpu.ids_of_eight(values, room);
                continue;
            }
            for i in first..cut.n.min(first + 8) {
                let found = Found(batch.found[i]);
                if found.is_plain() {
                    ids[filled..filled + 2].copy_from_slice(&[found.first(), found.second()]);
                    filled += found.count();
                } else {
                    // By way of a buffer: `ids` would else have to be made longer again behind every rare piece.
                    rare_ids.clear();
                    encoder.rare_piece(cut, batch.piece(i), batch.keys[i][0], cache, &mut rare_ids);
                    let end = filled + rare_ids.len();
                    if end + room(cut.n - i) > ids.len() {
                        ids.resize(end + room(cut.n - i), 0);
                    }
                    ids[filled..end].copy_from_slice(&rare_ids);
                    filled = end;
                }
            }
        }
        batch.rare_ids = rare_ids;
        ids.truncate(filled);
    }
}

/// Fills in what is known of each piece.
///
/// Loops over places, for a compiler keeps those in registers, and several iterators side by side in memory.
#[inline(always)]
fn look_up(cpu: impl Cpu, cut: Cut<'_>, batch: &mut Batch, cache: &Cache) {
    let n = cut.n.min(TOGETHER);
    for (name, &from) in batch.names.iter_mut().zip(&batch.cuts[..n]) {
        *name = load_half(cut.text, from as usize);
    }
    let eights = n.div_ceil(8);
    let (names, _) = batch.names.as_chunks_mut();
    let (places, _) = batch.places.as_chunks_mut();
    let mut longer = 0;
    for (i, (names, places)) in names.iter_mut().zip(places).enumerate().take(eights) {
        if let Some(cuts) = batch.cuts[8 * i..].first_chunk() {
            longer |= u64::from(cpu.names_of_eight(cuts, cut.apart, BRIEF_LINES.ilog2(), names, places)) << (8 * i);
        }
    }
    longer &= u64::MAX >> (TOGETHER - n);
    // What is asked for ahead is there by the time that all is asked for.
    for &place in &batch.places[..n] {
        cpu::prefetch(&cache.brief[place as usize % BRIEF_LINES]);
    }
    for i in bits(longer) {
        let piece = batch.piece(i);
        let (key, place) = if piece.len() <= SHORT {
            let mut key = cut.key(piece);
            key[1] |= cut.apart;
            let line = Cache::line(key);
            cpu::prefetch(&cache.lines[line]);
            (key, line)
        } else {
            let hash = long::hash_of(&cut.text[piece], cut.apart != 0);
            cache.long.prefetch(hash);
            ([hash, TOO_LONG], 0)
        };
        (batch.keys[i], batch.lines[i]) = (key, place as u32);
    }
    for i in 0..n {
        batch.found[i] = cache.find_brief(cpu, batch.names[i], batch.places[i] as usize).0;
    }
    for i in bits(longer) {
        batch.found[i] = cache.find(batch.keys[i], batch.lines[i] as usize).0;
    }
}

/// The places of the bits that are set, from the lowest on.
#[inline(always)]
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (lowest < 64).then_some(lowest)
    })
}
