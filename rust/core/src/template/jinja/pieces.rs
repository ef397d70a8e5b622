//! What a template printed → segments.
//!
//! The one place where text becomes a control token: only bytes that the template wrote itself, next to each other, are
//! searched for one.

use super::talk::message_of;
use crate::jinja::{TEMPLATE, Text};
use crate::template::controls::Controls;
use crate::template::segment::{Kind, Segment};
use std::borrow::Cow;
use std::ops::Range;

/// A part of the text, nothing of it learned.
pub(super) fn segments(text: &Text, part: Range<usize>, controls: &Controls) -> Vec<Segment<'static>> {
    let mut segments = Vec::new();
    let mut push = |kind, piece: &str, content| {
        segments.push(Segment { kind, text: Cow::Owned(piece.to_owned()), learned: false, content });
    };
    for (run, origin) in text.runs(part) {
        let chars = &text.as_str()[run];
        if origin == TEMPLATE {
            controls.split(chars).into_iter().for_each(|(kind, piece)| push(kind, piece, false));
        } else {
            push(Kind::Text, chars, true);
        }
    }
    segments
}

/// The pieces of what the template wrote from `from` on: text, control tokens, and data as one piece each.
pub(super) fn pieces<'t>(text: &'t Text, from: usize, controls: &Controls) -> Vec<(Kind, &'t str)> {
    let mut pieces = Vec::new();
    for (run, origin) in text.runs(from..text.as_str().len()) {
        let chars = &text.as_str()[run];
        if origin == TEMPLATE { pieces.extend(controls.split(chars)) } else { pieces.push((Kind::Text, chars)) }
    }
    pieces
}

/// The bytes of data from the messages of `of` in a part of the text: from the first to behind the last.
pub(super) fn data(text: &Text, part: Range<usize>, of: impl Fn(usize) -> bool) -> Option<Range<usize>> {
    let mut found: Option<Range<usize>> = None;
    for (run, origin) in text.runs(part) {
        if message_of(origin).is_some_and(&of) {
            found = Some(found.map_or(run.start, |f| f.start)..run.end);
        }
    }
    found
}

/// How many bytes two texts have in common at their beginning, in whole characters.
pub(super) fn common(a: &str, b: &str) -> usize {
    // By blocks first: most of two renderings is equal.
    let blocks = a.as_bytes().chunks(256).zip(b.as_bytes().chunks(256)).take_while(|(a, b)| a == b);
    let mut length = blocks.map(|(block, _)| block.len()).sum::<usize>();
    length += a.bytes().skip(length).zip(b.bytes().skip(length)).take_while(|(a, b)| a == b).count();
    while !a.is_char_boundary(length) {
        length -= 1;
    }
    length
}
