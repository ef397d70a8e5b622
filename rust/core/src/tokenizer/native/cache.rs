//! What a thread has seen: short pieces by key, a line of the processor's cache for two.

use super::long::LongPieces;
use super::merge::Scratch;
use super::tables::{Key, hash};

/// Lines of the cache of short pieces, of 64 bytes and two pieces each.
const LINES: usize = 1 << 16;
/// Ids that a line holds itself, for each of its pieces.
pub(super) const INLINE: usize = 3;
/// Ids of pieces with more than [`INLINE`]: beyond that the cache begins anew.
const OVERFLOW: usize = 1 << 18;
/// Pieces that are looked up together, so that the processor waits for many lines at once.
pub(super) const TOGETHER: usize = 64;

/// Two pieces and their ids, as large as a line of the processor's cache.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(super) struct Line {
    keys: [Key; 2],
    /// Ids, and how many.
    pub(super) ids: [[u32; INLINE + 1]; 2],
}

/// What a thread has seen, bounded, and its buffers.
pub(super) struct Cache {
    pub(super) lines: Box<[Line]>,
    overflow: Vec<u32>,
    pub(super) long: LongPieces,
    pub(super) text: String,
    /// Batches that nobody uses: one for pieces, one for the stretches of one.
    #[expect(clippy::vec_box, reason = "a batch is handed over by its pointer, not copied")]
    pub(super) spare: Vec<Box<Batch>>,
    pub(super) scratch: Scratch,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            lines: vec![Line::default(); LINES].into_boxed_slice(),
            overflow: Vec::new(),
            long: LongPieces::default(),
            text: String::new(),
            spare: Vec::new(),
            scratch: Scratch::default(),
        }
    }
}

impl Cache {
    #[inline(always)]
    pub(super) fn line(key: Key) -> usize {
        (hash(key) >> 48) as usize % LINES
    }

    /// Line and place in it of a key: its own line, or else the one beside it.
    #[inline(always)]
    pub(super) fn find(&self, key: Key, own: usize) -> Option<(&Line, usize)> {
        let differs = |line: &Line, way: usize| (line.keys[way][0] ^ key[0]) | (line.keys[way][1] ^ key[1]);
        let line = &self.lines[own % LINES];
        let (first, second) = (differs(line, 0), differs(line, 1));
        // One branch for both: which of the two it is cannot be guessed.
        if (first == 0) | (second == 0) {
            return Some((line, usize::from(first != 0)));
        }
        let line = &self.lines[(own ^ 1) % LINES];
        (0..2).find(|&way| differs(line, way) == 0).map(|way| (line, way))
    }

    pub(super) fn spilled(&self, start: u32, n: usize) -> &[u32] {
        self.overflow.get(start as usize..start as usize + n).unwrap_or_default()
    }

    pub(super) fn put(&mut self, key: Key, ids: &[u32]) {
        let mut own = [0; INLINE + 1];
        own[INLINE] = ids.len() as u32;
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
        let cheap =
            |most: u32| places.into_iter().find(|&(line, way)| self.lines[line % LINES].ids[way][INLINE] <= most);
        let (line, way) = cheap(0).or_else(|| cheap(1)).unwrap_or((at, (self.overflow.len() ^ key[0] as usize) & 1));
        let line = &mut self.lines[line % LINES];
        (line.keys[way], line.ids[way]) = (key, own);
    }
}

/// Pieces that are looked up together.
pub(super) struct Batch {
    /// Where each ends.
    pub(super) ends: [u32; TOGETHER],
    pub(super) keys: [Key; TOGETHER],
    /// Line of each key.
    pub(super) places: [u32; TOGETHER],
}

impl Default for Batch {
    fn default() -> Self {
        Self { ends: [0; TOGETHER], keys: [[0; 2]; TOGETHER], places: [0; TOGETHER] }
    }
}
