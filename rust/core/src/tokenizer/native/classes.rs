//! What kind of character a code point is, as the reference's regular expressions see it.
//!
//! `classes.bin` lists the code points at which the class changes. It is made from the reference itself: the classes
//! with Oniguruma, which `tokenizers` splits with, and the composition flag with the crate that it normalises with, so no
//! difference between Unicode versions can creep in. `tests/classes.rs` holds every code point against both, and
//! regenerates the file with `UPDATE_CLASSES=1`.

use std::sync::LazyLock;

/// `\p{L}`
pub(crate) const LETTER: u8 = 1;
/// `\p{N}`
pub(crate) const NUMBER: u8 = 2;
/// `\s`
pub(crate) const SPACE: u8 = 4;
/// Normalisation may change it, or move it, or join it with what stands before: a text with one is normalised.
pub(crate) const COMPOSES: u8 = 8;
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
pub(crate) const UPPER: u8 = 16;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
pub(crate) const LOWER: u8 = 32;
/// Rust's own `char::is_numeric`, by which `tokenizers` cuts digits apart.
pub(crate) const DIGIT: u8 = 64;
/// `\p{P}`; this and the next are in [`all`] alone, for most patterns do without them.
pub(crate) const PUNCTUATION: u16 = 256;
/// `\p{S}`
pub(crate) const SYMBOL: u16 = 512;

const CODE_POINTS: usize = 0x11_0000;

/// The classes of all code points.
static CLASSES: LazyLock<Box<[u8]>> = LazyLock::new(|| all(|class| class as u8));

/// One class a code point; indices are code points.
pub(crate) fn table() -> &'static [u8] {
    &CLASSES
}

/// What `of` makes of each code point's classes, those included that no byte has room for.
pub(crate) fn all<T: Copy + Default>(of: impl Fn(u16) -> T) -> Box<[T]> {
    let mut classes = vec![T::default(); CODE_POINTS].into_boxed_slice();
    let changes: Vec<(usize, u16)> = include_bytes!("classes.bin")
        .chunks_exact(5)
        .map(|c| (u32::from_le_bytes([c[0], c[1], c[2], 0]) as usize, u16::from_le_bytes([c[3], c[4]])))
        .collect();
    for (i, &(start, class)) in changes.iter().enumerate() {
        let end = changes.get(i + 1).map_or(CODE_POINTS, |next| next.0);
        classes[start..end].fill(of(class));
    }
    classes
}

/// The code point that begins at `at`, and its length in bytes. `text` is UTF-8 and `at` a border in it.
#[inline(always)]
pub(crate) fn decode(text: &[u8], at: usize) -> (u32, usize) {
    let byte = |i: usize| u32::from(text.get(at + i).copied().unwrap_or(0));
    let first = byte(0);
    match first {
        0..0x80 => (first, 1),
        0x80..0xe0 => ((first & 0x1f) << 6 | byte(1) & 0x3f, 2),
        0xe0..0xf0 => ((first & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | byte(2) & 0x3f, 3),
        _ => ((first & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | byte(3) & 0x3f, 4),
    }
}
