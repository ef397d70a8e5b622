//! Rows with the same conversation as an earlier row, found in file order whatever the number of threads.
//!
//! Conversations are hashed on several threads; one table, 16 bytes per row, then says in file order which of them were
//! seen before. A chance hit among a thousand million rows is less likely than 10⁻¹¹ (96 bits).

use crate::conversation::Conversation;
use crate::error::{Error, Result};
use crate::record::{self, Chunk, Layout, Span, Variables};
use crate::threads;
use rayon::ThreadPool;
use rayon::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

/// What is known of a record before it is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Hash of the first user turn: rows with equal questions belong on the same side of a split.
    pub question: i64,
    /// The earlier row with the same conversation.
    pub first: Option<First>,
}

/// The first of several equal rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// Index into the sources.
    pub file: u32,
    /// 0-based row.
    pub row: u64,
}

/// The conversations seen so far.
#[derive(Debug)]
pub struct Duplicates {
    pool: ThreadPool,
    seen: HashMap<[u32; 3], u32>,
    /// Rows up to and including the last chunk.
    rows: u64,
    /// Rows before each file.
    files: Vec<u64>,
}

impl Duplicates {
    /// An empty table; rows are hashed on `threads` threads.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] if they cannot be started.
    pub fn new(threads: usize) -> Result<Self> {
        Ok(Self { pool: threads::pool(threads)?, seen: HashMap::new(), rows: 0, files: Vec::new() })
    }

    /// Call at the beginning of every file, also of one that is not read.
    pub fn next_file(&mut self) {
        self.files.push(self.rows);
    }

    /// Marks the records of the next chunk.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when there are more rows than the table can number. Broken JSON is reported when the row is encoded.
    pub fn mark(&mut self, chunk: &Chunk, path: &Path, layout: &Layout, variables: &Variables) -> Result<Vec<Mark>> {
        let hash_one = |span: &Span| {
            let text = span.text(path, &chunk.bytes).ok()?;
            let conversation = record::parse_as(text, layout, variables).ok()?.conversation.ok()?;
            Some(hash(&conversation))
        };
        let hashed: Vec<Option<Hashed>> = self.pool.install(|| chunk.records.par_iter().map(hash_one).collect());
        let mut marks = Vec::with_capacity(hashed.len());
        let before = self.files.last().copied().unwrap_or(0);
        self.rows += hashed.len() as u64;
        for (span, hashed) in chunk.records.iter().zip(hashed) {
            let Some(hashed) = hashed else {
                marks.push(Mark::default());
                continue;
            };
            let row = u32::try_from(before + span.row).map_err(|_| Error::Option {
                problem: "`deduplicate` cannot number more than 4,294,967,296 rows".to_owned(),
            })?;
            let first = match self.seen.entry(hashed.whole) {
                Entry::Occupied(seen) => Some(*seen.get()),
                Entry::Vacant(free) => {
                    free.insert(row);
                    None
                }
            };
            let first = first.map(|row| self.place(row));
            marks.push(Mark { question: hashed.question, first });
        }
        Ok(marks)
    }

    /// File and row of a row counted over all files.
    fn place(&self, row: u32) -> First {
        let row = u64::from(row);
        let file = self.files.partition_point(|&before| before <= row).saturating_sub(1);
        First { file: file as u32, row: row - self.files.get(file).copied().unwrap_or(0) }
    }
}

struct Hashed {
    whole: [u32; 3],
    question: i64,
}

/// Everything that a sample is made from is hashed, every part with its length, so different conversations differ.
fn hash(conversation: &Conversation<'_>) -> Hashed {
    let mut hasher = blake3::Hasher::new();
    let mut put = |part: Option<&str>| {
        let part = part.map_or((u64::MAX, ""), |text| (text.len() as u64, text));
        hasher.update(&part.0.to_le_bytes());
        hasher.update(part.1.as_bytes());
    };
    put(conversation.tools.as_deref());
    for message in &conversation.messages {
        put(Some(message.role.name()));
        put(Some(&message.content));
        put(message.reasoning.as_deref());
        put(message.loss.map(|learned| if learned { "1" } else { "0" }));
        put(Some(&message.tool_calls.len().to_string()));
        message.tool_calls.iter().for_each(|call| put(Some(call)));
        put(Some(&message.call_ids.len().to_string()));
        message.call_ids.iter().for_each(|id| put(id.as_deref()));
        put(Some(&message.others.len().to_string()));
        for (key, value) in &message.others {
            put(Some(key));
            put(Some(&value.to_string()));
        }
    }
    let word =
        |bytes: &[u8; 32], at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let whole = hasher.finalize();
    let asked = conversation.messages.iter().find(|m| m.role == crate::conversation::Role::User);
    let question = blake3::hash(asked.map_or("", |m| m.content.as_ref()).as_bytes());
    let (low, high) = (word(question.as_bytes(), 0), word(question.as_bytes(), 4));
    Hashed {
        whole: [0, 4, 8].map(|at| word(whole.as_bytes(), at)),
        question: (u64::from(low) | u64::from(high) << 32).cast_signed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::{Message, Role};

    #[test]
    fn the_id_of_a_call_is_no_key_of_a_turn() {
        let of = |change: &dyn Fn(&mut Message<'_>)| {
            let mut message = Message::new(Role::Assistant, "a");
            message.tool_calls = vec!["{}".to_owned(); 2];
            change(&mut message);
            hash(&Conversation { messages: vec![message], tools: None }).whole
        };
        let ids = of(&|message| message.call_ids = vec![Some("name".to_owned()), Some("\"x\"".to_owned())]);
        let key = of(&|message| {
            message.others.insert("name".to_owned(), "x".into());
        });
        assert_ne!(ids, key);
    }

    #[test]
    fn there_are_as_many_threads_as_asked_for() {
        for threads in [1, 3] {
            assert_eq!(Duplicates::new(threads).unwrap().pool.current_num_threads(), threads);
        }
    }
}
