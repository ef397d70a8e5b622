//! Text, cut into records without being parsed.
//!
//! A JSON array is cut at the commas between its elements by following strings and nesting only; JSONL at its line
//! breaks. The content of a record is not examined here; a broken record is reported where it is parsed, with its place.

use super::chunk::{Chunk, Span, characters};
use super::container::{Stream, refuse};
use super::mistakes;
use super::nesting::Nesting;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// How much is read, and about how much is handed over, at a time.
const CHUNK_BYTES: usize = 2 << 20;
/// A single record may not be larger: a missing quote would otherwise swallow the rest of a large file.
pub(super) const LARGEST_RECORD: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but blanks so far: an array or lines?
    Start,
    /// In an array, before an element or the closing bracket. `true`: right after `[`.
    Element(bool),
    /// In an array, behind an element.
    Comma,
    /// Behind the array: only blanks may follow.
    End,
    /// In a file of lines.
    Lines,
    /// In a file of objects that span several lines: before an object or the end.
    Objects,
}

/// Cuts the text of a stream into [`Chunk`]s.
pub(super) struct Splitter {
    path: PathBuf,
    stream: Stream,
    /// Bytes that are read but not handed over; `scanned` of them are understood.
    pending: Vec<u8>,
    scanned: usize,
    state: State,
    /// Where the scanner stands inside an unfinished element.
    element: Option<Element>,
    row: u64,
    /// The line of `counted`, and its column there, in characters.
    line: u64,
    counted: usize,
    column: u64,
    at_end: bool,
}

/// Progress inside one element of an array.
#[derive(Debug, Clone, Copy)]
struct Element {
    start: usize,
    nesting: Nesting,
}

impl Splitter {
    /// Looks at the first bytes of the text.
    pub(super) fn new(stream: Stream, shown: &Path) -> Result<Self> {
        let mut splitter = Self {
            path: shown.to_path_buf(),
            stream,
            pending: Vec::new(),
            scanned: 0,
            state: State::Start,
            element: None,
            row: 0,
            line: 1,
            counted: 0,
            column: 1,
            at_end: false,
        };
        splitter.fill()?;
        match splitter.pending[..] {
            // With a byte order mark, or an ASCII character and the rest of its four bytes.
            [0xff, 0xfe, 0, 0, ..]
            | [0, 0, 0xfe, 0xff, ..]
            | [b'[' | b'{', 0, 0, 0, ..]
            | [0, 0, 0, b'[' | b'{', ..] => {
                return Err(refuse(shown, "is UTF-32 text", "save it as UTF-8"));
            }
            // With a byte order mark, or an ASCII character and its other half.
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'[' | b'{', 0, ..] | [0, b'[' | b'{', ..] => {
                return Err(refuse(shown, "is UTF-16 text", "save it as UTF-8"));
            }
            [0xef, 0xbb, 0xbf, ..] => {
                splitter.scanned = 3;
                splitter.counted = 3;
            }
            _ => {}
        }
        Ok(splitter)
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Reads one more block; notes the end of the text.
    fn fill(&mut self) -> Result<()> {
        self.at_end = self.stream.fill(&mut self.pending, CHUNK_BYTES)? < CHUNK_BYTES;
        Ok(())
    }

    /// The next whole records; `None` at the end.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut records = Vec::new();
        loop {
            let outcome = self.scan(&mut records);
            if outcome.is_err() && !records.is_empty() {
                // What stands before the error is whole; the error is found again by the next call.
                return Ok(Some(self.hand_over(records)));
            }
            outcome?;
            if !records.is_empty() && (self.at_end || self.pending.len() >= CHUNK_BYTES) {
                return Ok(Some(self.hand_over(records)));
            }
            if self.at_end {
                return self.finish();
            }
            self.drop_blanks();
            if self.pending.len() > LARGEST_RECORD {
                return Err(self.too_large());
            }
            self.fill()?;
        }
    }

    /// Cuts as many whole records as there are.
    fn scan(&mut self, records: &mut Vec<Span>) -> Result<()> {
        loop {
            if self.state == State::Lines {
                let rest = &self.pending[self.scanned..];
                let length = match memchr::memchr(b'\n', rest) {
                    Some(found) => found,
                    None if self.at_end => rest.len(),
                    None => return Ok(()),
                };
                let line = &rest[..length];
                let lead = line.len() - line.trim_ascii_start().len();
                let (start, end) = (self.scanned + lead, self.scanned + lead + line.trim_ascii().len());
                if start < end {
                    records.push(self.span(start, end));
                }
                self.scanned = (self.scanned + length + 1).min(self.pending.len());
                if self.scanned == self.pending.len() {
                    return Ok(());
                }
                continue;
            }
            if self.element.is_some() {
                match self.end_of_element() {
                    Some(end) => {
                        let start = self.element.take().map_or(end, |e| e.start);
                        records.push(self.span(start, end));
                        self.scanned = end;
                        if self.state != State::Objects {
                            self.state = State::Comma;
                        }
                    }
                    None => return Ok(()),
                }
                continue;
            }
            let rest = &self.pending[self.scanned..];
            self.scanned += rest.len() - rest.trim_ascii_start().len();
            let Some(&byte) = self.pending.get(self.scanned) else {
                return Ok(());
            };
            self.state = match (self.state, byte) {
                (State::Start, b'[') => State::Element(true),
                (State::Start, b'{') => match self.first_object_spans_lines() {
                    Some(true) => State::Objects,
                    Some(false) => State::Lines,
                    None => return Ok(()),
                },
                (State::Start, _) => {
                    let found = mistakes::of_start(&self.pending[self.scanned..]);
                    return Err(self.syntax(found.problem, found.hint));
                }
                (State::Element(true) | State::Comma, b']') => State::End,
                (State::Element(_), b',' | b']' | b'}' | b':') => {
                    return Err(self.syntax("a record is missing here", "remove the extra comma"));
                }
                (State::Element(_), _) => {
                    self.element = Some(Element { start: self.scanned, nesting: Nesting::default() });
                    continue;
                }
                (State::Comma, b',') => State::Element(false),
                (State::Comma, _) => {
                    return Err(self.syntax("expected `,` or `]` here", "records are parted by commas"));
                }
                (State::End, _) => {
                    return Err(self.syntax(
                        "there is text after the array",
                        "several arrays in one file are not a JSON document; JSONL has no brackets",
                    ));
                }
                (State::Objects, b'{') => {
                    self.element = Some(Element { start: self.scanned, nesting: Nesting::default() });
                    continue;
                }
                (State::Objects, _) => {
                    return Err(self.syntax(
                        "expected the `{` of another record here",
                        "records that span lines follow each other without commas; or put `[` … `]` around them all",
                    ));
                }
                (State::Lines, _) => State::Lines,
            };
            if !matches!(self.state, State::Lines | State::Objects) {
                self.scanned += 1;
            }
        }
    }

    /// Whether the object at the start of the text is still open where its first line ends, so that the file is not
    /// JSONL: a pretty-printed record, or several of them. `None`: the line does not end in what has been read.
    fn first_object_spans_lines(&self) -> Option<bool> {
        let rest = &self.pending[self.scanned..];
        let Some(length) = memchr::memchr(b'\n', rest) else {
            return self.at_end.then_some(false);
        };
        let (_, closed) = Nesting::default().follow(&rest[..length], true);
        Some(!closed)
    }

    /// Goes on inside the element; its end, if it lies in `pending`.
    fn end_of_element(&mut self) -> Option<usize> {
        let element = self.element.as_mut()?;
        if !matches!(self.pending[element.start], b'{' | b'[') {
            return end_of_scalar(&self.pending[element.start..]).map(|length| element.start + length);
        }
        let (passed, closed) = element.nesting.follow(&self.pending[self.scanned..], self.at_end);
        self.scanned += passed;
        closed.then_some(self.scanned)
    }

    /// The end of the file: is everything closed?
    fn finish(&mut self) -> Result<Option<Chunk>> {
        if let Some(element) = self.element.take() {
            // Parsing the rest as a record finds the exact place of the fault.
            let end = self.pending.len();
            let records = vec![self.span(element.start, end)];
            self.scanned = end;
            if self.state != State::Objects {
                self.state = State::Comma;
            }
            return Ok(Some(self.hand_over(records)));
        }
        match self.state {
            State::Start => Err(refuse(
                &self.path,
                "is empty",
                "it should hold records, as a JSON array or one JSON object per line",
            )),
            State::Element(_) | State::Comma => {
                Err(self.syntax("the array is not closed", "the file ends too early; was it cut in transfer?"))
            }
            State::End | State::Lines | State::Objects => Ok(None),
        }
    }

    /// Forgets what was read before the record that is not complete: blanks, however many there are.
    fn drop_blanks(&mut self) {
        let begin = self.element.map_or(self.scanned, |e| e.start);
        let blanks = self.pending[begin..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if begin + blanks >= CHUNK_BYTES {
            self.scanned = self.scanned.max(begin + blanks);
            drop(self.hand_over(Vec::new()));
        }
    }

    fn hand_over(&mut self, records: Vec<Span>) -> Chunk {
        let cut = self.element.map_or(self.scanned, |e| e.start);
        self.count_lines(cut);
        // Room for the next block at once, or the rest would be copied twice.
        let mut rest = Vec::with_capacity(self.pending.len() - cut + CHUNK_BYTES);
        rest.extend_from_slice(&self.pending[cut..]);
        let mut bytes = std::mem::replace(&mut self.pending, rest);
        bytes.truncate(cut);
        self.scanned -= cut;
        self.counted -= cut;
        if let Some(element) = &mut self.element {
            element.start = 0;
        }
        Chunk { bytes, records }
    }

    fn span(&mut self, start: usize, end: usize) -> Span {
        self.count_lines(start);
        let span = Span { start, end, row: self.row, line: self.line, column: self.column };
        self.row += 1;
        span
    }

    /// Moves the counters of lines and columns forward to `to`.
    fn count_lines(&mut self, to: usize) {
        if to > self.counted {
            let mut passed = &self.pending[self.counted..to];
            if let Some(last) = memchr::memrchr(b'\n', passed) {
                self.line += memchr::memchr_iter(b'\n', passed).count() as u64;
                passed = &passed[last + 1..];
                self.column = 1;
            }
            self.column += characters(passed);
            self.counted = to;
        }
    }

    fn syntax(&mut self, problem: &str, hint: &'static str) -> Error {
        self.count_lines(self.scanned);
        let column = self.column;
        Error::Syntax { path: self.path.clone(), line: self.line, column, row: None, problem: problem.to_owned(), hint }
    }

    fn too_large(&mut self) -> Error {
        if let Some(element) = self.element {
            self.scanned = element.start;
        }
        self.syntax(
            &format!("a record larger than {} MiB begins here", LARGEST_RECORD >> 20),
            "is a quote or a bracket missing?",
        )
    }
}

/// Length of a text, number or word, which no array of records should have: it is not followed but started over.
fn end_of_scalar(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&b'"') {
        // What ends it belongs to the array.
        return bytes.iter().position(|b| matches!(b, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t'));
    }
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)? + 1;
        if bytes[at - 1] == b'"' {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::reader::Reader;
    use proptest::prelude::*;

    fn read(text: &[u8]) -> Result<Vec<(String, u64, u64)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, text).unwrap();
        let mut rows = Vec::new();
        for chunk in Reader::open(&path)? {
            let chunk = chunk?;
            for r in &chunk.records {
                rows.push((String::from_utf8_lossy(&chunk.bytes[r.start..r.end]).into_owned(), r.line, r.column));
            }
        }
        Ok(rows)
    }

    fn texts(text: &str) -> Vec<String> {
        read(text.as_bytes()).unwrap().into_iter().map(|r| r.0).collect()
    }

    #[test]
    fn arrays_are_cut_at_their_commas() {
        assert_eq!(
            texts(r#" [ {"a":"],}\""} , [1,{"b":2}],3 ,"x,y", null ] "#),
            [r#"{"a":"],}\""}"#, "[1,{\"b\":2}]", "3", "\"x,y\"", "null"]
        );
        assert_eq!(texts("[]"), Vec::<String>::new());
    }

    #[test]
    fn objects_that_span_lines_are_records() {
        let pretty = "{\n  \"a\": \"}\n\"\n}\n";
        assert_eq!(texts(pretty), [pretty.trim()]);
        assert_eq!(texts("{\n}\n{\"b\": 1}\n\n {\n\"c\": [\n]}"), ["{\n}", "{\"b\": 1}", "{\n\"c\": [\n]}"]);
        assert_eq!(read(b"{\n}\n {\n}").unwrap().iter().map(|r| (r.1, r.2)).collect::<Vec<_>>(), [(1, 1), (3, 2)]);
        let error = read(b"{\n},\n{\n}").unwrap_err().to_string();
        assert!(error.contains(":2:2: expected the `{`"), "{error}");
    }

    #[test]
    fn lines_are_cut_at_their_ends() {
        assert_eq!(texts("\u{feff}{\"a\":1}\r\n\n  {\"b\":2}  \n{\"c\":3}"), ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
    }

    #[test]
    fn every_record_knows_its_place() {
        let rows = read(b"[\n  {\"a\": \"x\"},\n  {\"b\":\n 1}, {}\n]").unwrap();
        assert_eq!(rows.iter().map(|r| (r.1, r.2)).collect::<Vec<_>>(), [(2, 3), (3, 3), (4, 6)]);
    }

    #[test]
    fn faults_between_records_have_a_place() {
        for (text, place) in [
            ("", "is empty"),
            (" \n ", "is empty"),
            ("hello", ":1:1: neither"),
            ("[{} {}]", ":1:5: expected `,` or `]`"),
            ("[{},\n,{}]", ":2:1: a record is missing"),
            ("[{},]", ":1:5: a record is missing"),
            ("[{}", ":1:4: the array is not closed"),
            ("[{},", ":1:5: the array is not closed"),
            ("[{}]\n[{}]", ":2:1: there is text after"),
            ("[}", ":1:2: a record is missing"),
        ] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(place), "{text:?}: {error}");
        }
    }

    #[test]
    fn an_unfinished_record_is_handed_over_to_be_diagnosed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "[{\"a\": \"never ends}]").unwrap();
        let chunks: Vec<_> = Reader::open(&path).unwrap().collect();
        assert_eq!(chunks[0].as_ref().unwrap().records.len(), 1);
        assert!(chunks[1].is_err());
    }

    #[test]
    fn records_larger_than_a_block_are_whole() {
        let long = format!("{{\"a\":\"{}\"}}", "x\\\"".repeat(CHUNK_BYTES));
        let text = format!("[{long},{{}},{long}]");
        assert_eq!(texts(&text), [long.as_str(), "{}", long.as_str()]);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<f64>().prop_map(|x| serde_json::json!(x)),
            any::<String>().prop_map(serde_json::Value::from),
            Just(serde_json::Value::Null)
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_array_is_cut_as_serde_reads_it(values in proptest::collection::vec(json(), 0..20), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&values) } else { serde_json::to_string(&values) }.unwrap();
            let cut: Vec<serde_json::Value> = texts(&text).iter().map(|t| serde_json::from_str(t).unwrap()).collect();
            let whole: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(cut, whole);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(prop_oneof![Just(b'['), Just(b'{'), Just(b'"'), Just(b'\\'), Just(b','), Just(b']'), Just(b'}'), Just(b'\n'), any::<u8>()], 0..200)) {
            let _ = read(&bytes);
        }
    }
}
