//! The cache of one thread: ids of pieces by their text, a few pieces per cache line of the processor.
//!
//! Most pieces of a text are words that came before, so how fast text is encoded hangs on how much of the hot part of
//! this table the processor keeps near. Pieces of at most eight bytes, four of five in English, therefore stand in a table
//! of their own where each takes sixteen bytes; longer ones of up to [`super::tables::SHORT`] in one of twenty-four.

use super::cpu::{self, Cpu, Name, NamedValues};
use super::long::LongPieces;
use super::merge::Scratch;
use super::prefaulted;
use super::tables::{Key, hash};
use std::ops::Range;

/// Lines of brief pieces.
pub(super) const BRIEF_LINES: usize = 1 << 14;
/// Lines of longer ones.
const LINES: usize = 1 << 16;
/// Ids of pieces with more than two: beyond that the cache starts over.
const OVERFLOW: usize = 1 << 19;
/// Pieces that are looked up together, so that the processor waits for many lines at once.
pub(super) const TOGETHER: usize = 64;

/// One or two ids, or where more of them stand: in the upper two bits how many (3: more), below them the second id or how
/// many, and in the lower half the first id or the place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found(pub(super) u64);

impl Found {
    #[inline(always)]
    pub(super) fn count(self) -> usize {
        (self.0 >> 62) as usize
    }

    #[inline(always)]
    pub(super) fn first(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(super) fn second(self) -> u32 {
        (self.0 >> 32) as u32 & cpu::SECOND
    }

    /// Whether it is one id or two: neither nothing nor a place.
    #[inline(always)]
    pub(super) fn is_plain(self) -> bool {
        cpu::is_plain(self.0)
    }

    fn of(count: u64, second: u32, first: u32) -> Self {
        Self(count << 62 | u64::from(second) << 32 | u64::from(first))
    }
}

/// Pieces of eight bytes and more.
#[derive(Clone, Copy, Default, bytemuck::Zeroable)]
#[repr(align(64))]
pub(super) struct Line {
    firsts: [u64; 2],
    seconds: [u64; 2],
    found: [u64; 2],
}

/// What a thread has seen, bounded, and its buffers.
pub(super) struct Cache {
    pub(super) brief: Box<[NamedValues; BRIEF_LINES]>,
    pub(super) lines: Box<[Line; LINES]>,
    overflow: Vec<u32>,
    /// Pieces that found all places taken.
    turn: usize,
    pub(super) long: LongPieces,
    pub(super) text: String,
    /// Batches that are not in use: one for pieces, one for the stretches of one.
    #[expect(clippy::vec_box, reason = "a batch is handed over by its pointer, not copied")]
    pub(super) spare: Vec<Box<Batch>>,
    pub(super) scratch: Scratch,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            brief: zeros(),
            lines: zeros(),
            overflow: Vec::new(),
            turn: 0,
            long: LongPieces::default(),
            text: String::new(),
            spare: Vec::new(),
            scratch: Scratch::default(),
        }
    }
}

/// An array that never stood on the stack.
fn zeros<T: bytemuck::Zeroable + Copy, const N: usize>() -> Box<[T; N]> {
    prefaulted::zeros(N).try_into().unwrap_or_else(|_| unreachable!("it has just been made so long"))
}

impl Cache {
    fn brief_line(name: Name) -> usize {
        cpu::place(name, BRIEF_LINES.ilog2()) as usize
    }

    #[inline(always)]
    pub(super) fn line(key: Key) -> usize {
        (hash(key) >> (64 - LINES.ilog2())) as usize
    }

    /// A brief piece, whose line is known.
    #[inline(always)]
    pub(super) fn find_brief(&self, cpu: impl Cpu, name: Name, line: usize) -> Found {
        Found(cpu.select(&self.brief[line % BRIEF_LINES], name))
    }

    /// A longer piece, whose line is known.
    #[inline(always)]
    pub(super) fn find(&self, key: Key, line: usize) -> Found {
        let Line { firsts, seconds, found } = &self.lines[line % LINES];
        let same = |way: usize| (firsts[way] ^ key[0]) | (seconds[way] ^ key[1]) == 0;
        let way = usize::from(same(1));
        if same(0) | (way != 0) { Found(found[way]) } else { Found::default() }
    }

    /// Appends the ids of what was found.
    pub(super) fn write(&self, found: Found, ids: &mut Vec<u32>) {
        if found.is_plain() {
            ids.extend_from_slice(&[found.first(), found.second()][..found.count()]);
        } else {
            let start = found.first() as usize;
            ids.extend_from_slice(&self.overflow[start..start + found.second() as usize]);
        }
    }

    /// A brief piece that does not stand in its own line, or is not plain.
    pub(super) fn find_brief_beside(&self, name: Name) -> Found {
        let line = Self::brief_line(name);
        let own = self.find_brief(cpu::PLAIN, name, line);
        if own.count() > 0 { own } else { self.find_brief(cpu::PLAIN, name, line ^ 1) }
    }

    /// A longer piece that does not stand in its own line, or is not plain.
    pub(super) fn find_beside(&self, key: Key) -> Found {
        let line = Self::line(key);
        let own = self.find(key, line);
        if own.count() > 0 { own } else { self.find(key, line ^ 1) }
    }

    /// Keeps a brief piece, if there is room.
    pub(super) fn put_brief(&mut self, name: Name, ids: &[u32]) {
        let line = Self::brief_line(name);
        let lines = [&self.brief[line].values, &self.brief[line ^ 1].values];
        if let Some((beside, way)) = room(lines, ids.len(), &mut self.turn) {
            let new = self.keep(ids);
            let line = &mut self.brief[line ^ beside];
            (line.names[way], line.values[way]) = (name, new.0);
        }
    }

    /// Keeps a longer piece, if there is room.
    pub(super) fn put(&mut self, key: Key, ids: &[u32]) {
        let line = Self::line(key);
        let lines = [&self.lines[line].found, &self.lines[line ^ 1].found];
        if let Some((beside, way)) = room(lines, ids.len(), &mut self.turn) {
            let new = self.keep(ids);
            let line = &mut self.lines[line ^ beside];
            (line.firsts[way], line.seconds[way], line.found[way]) = (key[0], key[1], new.0);
        }
    }

    fn keep(&mut self, ids: &[u32]) -> Found {
        match *ids {
            [first] => Found::of(1, 0, first),
            [first, second] => Found::of(2, second, first),
            _ => {
                if self.overflow.len() + ids.len() > OVERFLOW {
                    self.overflow.clear();
                    self.brief.fill(NamedValues::default());
                    self.lines.fill(Line::default());
                }
                let start = self.overflow.len() as u32;
                self.overflow.extend_from_slice(ids);
                Found::of(3, ids.len() as u32, start)
            }
        }
    }
}

/// Where a new piece of so many ids may stand: in its own line (0) or the one beside it (1), and where there. A free place is
/// taken first; a piece that was merged may have that of a whole token, which is found again soon enough. Where all are taken
/// only every eighth comes in: pieces that are one too many for a line would otherwise keep evicting each other.
fn room<const N: usize>(lines: [&[u64; N]; 2], ids: usize, turn: &mut usize) -> Option<(usize, usize)> {
    let at_most = |most: usize| {
        let fits = |line: usize| lines[line].iter().position(|&place| Found(place).count() <= most);
        (0..2).find_map(|line| Some((line, fits(line)?)))
    };
    let place = at_most(0).or_else(|| if ids > 1 { at_most(1) } else { None });
    place.or_else(|| {
        *turn += 1;
        turn.is_multiple_of(8).then_some((0, *turn / 8 % N))
    })
}

/// Where the first piece begins, and then where each ends. Those of one more block of text have room, and what is written in
/// passing.
pub(super) type Cuts = [u32; 1 + TOGETHER * 2 + 16];

/// Pieces that are looked up together.
pub(super) struct Batch {
    pub(super) cuts: Cuts,
    pub(super) names: [Name; TOGETHER],
    pub(super) keys: [Key; TOGETHER],
    /// Line of each name, and of each key.
    pub(super) places: [u32; TOGETHER],
    pub(super) lines: [u32; TOGETHER],
    pub(super) found: [u64; TOGETHER],
    /// The ids of one.
    pub(super) rare_ids: Vec<u32>,
}

impl Batch {
    /// The place of a piece in the text.
    #[inline(always)]
    pub(super) fn piece(&self, i: usize) -> Range<usize> {
        self.cuts[i] as usize..self.cuts[i + 1] as usize
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            cuts: [0; 1 + TOGETHER * 2 + 16],
            names: [0; TOGETHER],
            keys: [[0; 2]; TOGETHER],
            places: [0; TOGETHER],
            lines: [0; TOGETHER],
            found: [0; TOGETHER],
            rare_ids: Vec::new(),
        }
    }
}
