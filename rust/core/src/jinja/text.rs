//! Strings that know where each of their bytes came from.
//!
//! Every string in a rendering is made by a [`Writer`], from pieces of other strings. So the output says of each byte
//! whether the template wrote it or which text of the data it belongs to, whatever the template did with that text:
//! stripped it, split it, changed its case, put it into JSON.

use super::budget::Budget;
use super::fault::Fault;
use std::ops::Range;
use std::sync::Arc;

/// Where bytes came from: 0 is the template, other numbers are the caller's.
pub type Origin = u32;

/// Written by the template.
pub const TEMPLATE: Origin = 0;

/// A string with the origin of its bytes.
#[derive(Debug, Clone)]
pub struct Text {
    chars: Arc<str>,
    marks: Marks,
}

#[derive(Debug, Clone)]
enum Marks {
    /// All of one origin.
    One(Origin),
    /// Where each run ends, and its origin; the last ends where the text does.
    Many(Arc<[(usize, Origin)]>),
}

impl Text {
    /// A text of one origin.
    pub fn new(chars: impl Into<Arc<str>>, origin: Origin) -> Self {
        Self { chars: chars.into(), marks: Marks::One(origin) }
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.chars
    }

    pub(super) fn shared(&self) -> &Arc<str> {
        &self.chars
    }

    /// The runs of bytes of one origin that a part of the text is made of.
    pub fn runs(&self, part: Range<usize>) -> impl Iterator<Item = (Range<usize>, Origin)> + '_ {
        let one;
        let many: &[(usize, Origin)] = match &self.marks {
            Marks::One(origin) => {
                one = Some((self.chars.len(), *origin));
                &[]
            }
            Marks::Many(runs) => {
                one = None;
                &runs[runs.partition_point(|(end, _)| *end <= part.start)..]
            }
        };
        let mut from = part.start;
        one.into_iter().chain(many.iter().copied()).map_while(move |(end, origin)| {
            let run = from..end.min(part.end);
            from = run.end;
            (run.start < run.end).then_some((run, origin))
        })
    }

    /// The origin of the byte at `at`.
    pub fn origin(&self, at: usize) -> Origin {
        self.runs(at..self.chars.len()).next().map_or(TEMPLATE, |(_, origin)| origin)
    }
}

/// Makes a text and pays for it.
pub(super) struct Writer<'b> {
    budget: &'b Budget,
    chars: String,
    runs: Vec<(usize, Origin)>,
}

impl<'b> Writer<'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self { budget, chars: String::new(), runs: Vec::new() }
    }

    pub(super) fn budget(&self) -> &'b Budget {
        self.budget
    }

    pub(super) fn push(&mut self, chars: &str, origin: Origin) -> Result<(), Fault> {
        self.budget.bytes(chars.len())?;
        self.chars.push_str(chars);
        self.ends(origin);
        Ok(())
    }

    pub(super) fn push_char(&mut self, c: char, origin: Origin) -> Result<(), Fault> {
        self.push(c.encode_utf8(&mut [0; 4]), origin)
    }

    /// What the template adds by itself.
    pub(super) fn own(&mut self, chars: &str) -> Result<(), Fault> {
        self.push(chars, TEMPLATE)
    }

    pub(super) fn text(&mut self, text: &Text) -> Result<(), Fault> {
        match text.marks {
            Marks::One(origin) => self.push(&text.chars, origin),
            Marks::Many(_) => self.part(text, 0..text.chars.len()),
        }
    }

    pub(super) fn part(&mut self, text: &Text, part: Range<usize>) -> Result<(), Fault> {
        for (run, origin) in text.runs(part) {
            self.push(&text.chars[run], origin)?;
        }
        Ok(())
    }

    /// `text`, `times` times.
    pub(super) fn repeat(&mut self, text: &Text, times: usize) -> Result<(), Fault> {
        // Paid twice where it fits; refused at once where it does not.
        self.budget.bytes(text.chars.len().saturating_mul(times))?;
        (0..times).try_for_each(|_| self.text(text))
    }

    pub(super) fn finish(self) -> Text {
        let marks = match self.runs.as_slice() {
            [] => Marks::One(TEMPLATE),
            [(_, origin)] => Marks::One(*origin),
            runs => Marks::Many(runs.into()),
        };
        Text { chars: self.chars.into(), marks }
    }

    fn ends(&mut self, origin: Origin) {
        let end = self.chars.len();
        match self.runs.last_mut() {
            Some(last) if last.1 == origin => last.0 = end,
            Some(last) if last.0 == end => {}
            None if end == 0 => {}
            _ => self.runs.push((end, origin)),
        }
    }
}

/// Short cuts for what most string functions do.
impl Text {
    pub(super) fn plain(chars: impl Into<Arc<str>>) -> Self {
        Self::new(chars, TEMPLATE)
    }

    pub(super) fn slice(&self, budget: &Budget, part: Range<usize>) -> Result<Self, Fault> {
        if part == (0..self.chars.len()) {
            return Ok(self.clone());
        }
        let mut writer = Writer::new(budget);
        writer.part(self, part)?;
        Ok(writer.finish())
    }

    /// Each character with its place and origin.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, char, Origin)> + '_ {
        self.runs(0..self.chars.len()).flat_map(|(run, origin)| {
            let start = run.start;
            self.chars[run].char_indices().map(move |(at, c)| (start + at, c, origin))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_knows_the_origin_of_every_part_of_it() {
        let budget = Budget::of(0);
        let mut writer = Writer::new(&budget);
        writer.own("<").unwrap();
        writer.push("né", 7).unwrap();
        writer.own(">").unwrap();
        let text = writer.finish();
        let runs: Vec<_> = text.runs(0..5).collect();
        assert_eq!(runs, [(0..1, 0), (1..4, 7), (4..5, 0)]);
        assert_eq!(text.runs(2..4).collect::<Vec<_>>(), [(2..4, 7)]);
        let part = text.slice(&budget, 2..5).unwrap();
        assert_eq!((part.as_str(), part.origin(0), part.origin(2)), ("é>", 7, 0));
        assert_eq!(text.each().map(|(_, _, o)| o).collect::<Vec<_>>(), [0, 7, 7, 0]);
    }
}
