//! The output of a template: turns of segments.

use crate::conversation::Role;
use serde::Serialize;
use std::borrow::Cow;

/// What a segment is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One control token, which the tokenizer must have.
    Control,
    /// A tag such as `<think>`: one token where the tokenizer has it, text elsewhere.
    Marker,
    /// Text.
    Text,
}

/// A piece of a rendered turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment<'a> {
    /// What it is made of.
    pub kind: Kind,
    /// Its text, or the name of its token.
    pub text: Cow<'a, str>,
    /// Whether it is supervised.
    pub learned: bool,
    /// Whether it came with the data; the rest is the template's own and is never truncated.
    pub content: bool,
}

/// One rendered turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn<'a> {
    /// The role of the turn. The beginning of a text (bos) is a system turn of its own.
    pub role: Role,
    /// Its pieces, in order.
    pub segments: Vec<Segment<'a>>,
}
