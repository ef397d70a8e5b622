//! The project's own engine: byte-pair encoding over flat tables, for a fixed set of split patterns.
//!
//! ```text
//!  text ─▶ NFC, if anything in it composes ─▶ scan: pieces ─▶ seen before? a whole token? ─▶ else cut at borders that
//!                                                                                          no merge crosses, and merge
//! ```
//!
//! The tables are compiled once from `tokenizer.json` and kept in the user's cache folder. docs/tokenizer.md has the
//! reasons and the figures.

mod border;
mod bytes;
mod cache;
pub(crate) mod classes;
mod compile;
mod cpu;
mod deepseek;
mod deepseek_v3;
mod file;
mod fill;
mod line;
mod long;
mod merge;
mod metaspace;
mod normalizer;
mod pieces;
mod prefaulted;
mod regexes;
mod rules;
mod scan;
mod sets;
mod settle;
mod shared;
mod source;
mod starts;
mod steps;
mod tables;
mod unknown;
mod windows;

use super::added::AddedToken;
use super::engine::{Base, Engine};
use super::words::{Between, Words};
use cache::{Cache, Cuts};
use deepseek::DeepSeek;
use fill::{Filled, by_blocks, one_by_one};
use metaspace::Metaspace;
use pieces::Encoder;
use rules::{Gpt2, Llama3, O200k, Qwen, Qwen35, Smol, Tekken};
use scan::Scanner;
use shared::Shared;
use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use steps::Cutter;
use tables::{Head, Pattern, Tables};
use thread_local::ThreadLocal;
use unicode_normalization_alignments::UnicodeNormalization;

pub(super) struct Native {
    head: Head,
    tables: Tables,
    splits: Vec<onig::Regex>,
    caches: ThreadLocal<RefCell<Cache>>,
    /// There from the second thread on.
    shared: OnceLock<Shared>,
    threads: AtomicUsize,
}

impl Native {
    /// The engine for a `tokenizer.json`, given as bytes: from the compiled file in `folder` if there is a sound one,
    /// else compiled now and kept there if that is possible.
    ///
    /// # Errors
    ///
    /// What is not known of the tokenizer.
    pub(super) fn load(json: &[u8], folder: Option<&Path>) -> Result<Self, String> {
        let source = blake3::hash(json).to_hex();
        let path = folder.map(|folder| folder.join(file::name(&source)));
        if let Some((head, tables)) = path.as_ref().and_then(|path| file::read(path, &source)) {
            return Self::of(head, tables);
        }
        let (head, tables) = compile::compile(json)?;
        if let Some(path) = path {
            // A folder that cannot be written costs the next start half a second, and nothing else.
            let _ = file::write(&path, &source, &head, &tables);
        }
        Self::of(head, tables)
    }

    fn of(head: Head, tables: Tables) -> Result<Self, String> {
        let splits = regexes::compiled(&head.splits)?;
        let (caches, shared) = (ThreadLocal::new(), OnceLock::new());
        Ok(Self { head, tables, splits, caches, shared, threads: AtomicUsize::new(0) })
    }

    /// The added tokens of the file.
    pub(super) fn added(&self) -> &[AddedToken] {
        &self.head.added
    }

    /// Whether only a text with nothing before it gets a leading blank.
    pub(super) fn blank_is_first_only(&self) -> bool {
        matches!(self.head.pattern, Pattern::Metaspace(metaspace) if metaspace.first_only)
    }

    /// Called once a thread.
    fn new_cache(&self) -> RefCell<Cache> {
        if self.threads.fetch_add(1, Ordering::Relaxed) > 0 {
            self.shared.get_or_init(Shared::default);
        }
        RefCell::default()
    }

    fn encode_bytes(&self, text: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        self.encode_unless(|| false, text, cache, ids);
    }

    /// Encodes a text, unless it has something beyond ASCII and `refused`: then it leaves `ids` as they were and says so.
    fn encode_unless(&self, refused: impl Fn() -> bool, text: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) -> bool {
        let encoder = Encoder::new(&self.head, &self.tables, self.shared.get());
        match self.head.pattern {
            Pattern::Qwen => encode(&encoder, by_blocks(Scanner::<Qwen>::new(text)), refused, text, cache, ids),
            Pattern::Qwen35 => encode(&encoder, by_blocks(Scanner::<Qwen35>::new(text)), refused, text, cache, ids),
            Pattern::Tekken => encode(&encoder, by_blocks(Scanner::<Tekken>::new(text)), refused, text, cache, ids),
            Pattern::Llama3 => encode(&encoder, by_blocks(Scanner::<Llama3>::new(text)), refused, text, cache, ids),
            Pattern::Gpt2 => encode(&encoder, by_blocks(Scanner::<Gpt2>::new(text)), refused, text, cache, ids),
            Pattern::Smol => encode(&encoder, by_blocks(Scanner::<Smol>::new(text)), refused, text, cache, ids),
            Pattern::O200k => encode(&encoder, by_blocks(Scanner::<O200k>::new(text)), refused, text, cache, ids),
            Pattern::DeepSeek(DeepSeek::V3) => {
                encode(&encoder, by_blocks(deepseek_v3::Scanner::new(text)), refused, text, cache, ids)
            }
            Pattern::DeepSeek(deepseek) => {
                let mut cutter = Cutter::new(text, deepseek.steps());
                encode(&encoder, one_by_one(text, |at| cutter.end(at)), refused, text, cache, ids)
            }
            Pattern::Regexes => {
                let ends = std::str::from_utf8(text).map_or(Vec::new(), |text| regexes::ends(&self.splits, text));
                let end = |at| ends.get(ends.partition_point(|&end| end <= at)).copied().unwrap_or(text.len());
                encode(&encoder, one_by_one(text, end), refused, text, cache, ids)
            }
            Pattern::Metaspace(metaspace) if metaspace.split => {
                encode(&encoder, one_by_one(text, |at| metaspace::piece_end(text, at)), refused, text, cache, ids)
            }
            Pattern::Metaspace(_) => {
                encoder.whole(text, cache, ids);
                true
            }
        }
    }
}

fn encode(
    encoder: &Encoder<'_>,
    mut fill: impl FnMut(usize, &mut Cuts) -> Filled,
    refused: impl Fn() -> bool,
    text: &[u8],
    cache: &mut Cache,
    ids: &mut Vec<u32>,
) -> bool {
    let mut batch = cache.spare.pop().unwrap_or_default();
    let (before, mut at, mut asked) = (ids.len(), 0, false);
    while at < text.len() {
        let Filled { n, ascii } = fill(at, &mut batch.cuts);
        if !ascii && !asked && refused() {
            ids.truncate(before);
            break;
        }
        asked |= !ascii;
        encoder.encode(encoder.cut(text, n, false), &mut batch, cache, ids);
        at = batch.cuts[n] as usize;
    }
    cache.spare.push(batch);
    at == text.len()
}

impl Native {
    /// Encodes a text; `first`: nothing stands before it, not even an added token.
    fn encode_text(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<(), String> {
        fits(text)?;
        let cache = &mut *self.caches.get_or(|| self.new_cache()).borrow_mut();
        if let Pattern::Metaspace(metaspace) = self.head.pattern {
            self.encode_marked(metaspace, text, first, cache, ids);
        } else if !self.encode_unless(|| self.head.nfc && composes(text), text.as_bytes(), cache, ids) {
            let mut normal = std::mem::take(&mut cache.text);
            normal.clear();
            normal.extend(text.nfc().map(|(c, _)| c));
            self.encode_bytes(normal.as_bytes(), cache, ids);
            cache.text = normal;
        }
        Ok(())
    }

    fn encode_marked(&self, metaspace: Metaspace, text: &str, first: bool, cache: &mut Cache, ids: &mut Vec<u32>) {
        let mut marked = std::mem::take(&mut cache.text);
        marked.clear();
        metaspace.mark(text, first, &mut marked);
        self.encode_bytes(marked.as_bytes(), cache, ids);
        cache.text = marked;
    }
}

/// Places in a text are kept in four bytes, and marks for blanks, or NFC, make it three times as long at most.
fn fits(text: &str) -> Result<(), String> {
    if text.len() > u32::MAX as usize / 4 { Err("a text of more than 1 GiB".to_owned()) } else { Ok(()) }
}

impl Between for Native {
    fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.head.pattern {
            Pattern::Metaspace(metaspace) if metaspace.normalizes => {
                let mut marked = String::with_capacity(text.len() + text.len() / 2);
                metaspace.mark(text, true, &mut marked);
                Cow::Owned(marked)
            }
            _ if self.head.nfc && composes(text) => Cow::Owned(text.nfc().map(|(c, _)| c).collect()),
            _ => Cow::Borrowed(text),
        }
    }

    fn encode_raw(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<(), String> {
        self.encode_text(text, first, ids)
    }

    fn encode_normal(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<(), String> {
        fits(text)?;
        let cache = &mut *self.caches.get_or(|| self.new_cache()).borrow_mut();
        match self.head.pattern {
            Pattern::Metaspace(metaspace) if !metaspace.normalizes => {
                self.encode_marked(metaspace, text, first, cache, ids);
            }
            _ => self.encode_bytes(text.as_bytes(), cache, ids),
        }
        Ok(())
    }
}

impl Engine for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        self.encode_text(text, true, ids)
    }
}

impl Base for Native {
    fn unknown(&self) -> Option<u32> {
        self.head.unknown.token
    }

    fn largest(&self) -> u32 {
        self.head.largest
    }

    fn with_added(self: Arc<Self>, added: &[AddedToken]) -> Result<Arc<dyn Engine>, String> {
        let words = Words::new(added, self.as_ref())?;
        Ok(Arc::new(Worded { engine: self, words }))
    }
}

/// The engine for text in which added tokens are tokens.
struct Worded {
    engine: Arc<Native>,
    words: Words,
}

impl Engine for Worded {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        self.words.encode(text, self.engine.as_ref(), ids)
    }
}

/// Asks for the beginning of a text that will soon be encoded.
pub(super) fn prefetch(text: &str) {
    for line in text.as_bytes().iter().step_by(64).take(8) {
        cpu::prefetch(line);
    }
}

/// Whether NFC might change the text.
fn composes(text: &str) -> bool {
    if text.is_ascii() {
        return false;
    }
    let table = classes::table();
    // Nothing below U+0300 composes with the character before it, or decomposes.
    text.chars().any(|c| c >= '\u{300}' && table[c as usize] & classes::COMPOSES != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn json() -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tokenizer/tokenizer.json");
        std::fs::read(path).unwrap()
    }

    fn only_file(folder: &Path) -> PathBuf {
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    fn ids(engine: &Native) -> Vec<u32> {
        let mut ids = Vec::new();
        engine.encode("Hello there, 中文! don't 123\n\n  x", &mut ids).unwrap();
        ids
    }

    #[test]
    fn a_compiled_file_gives_what_compiling_gives() {
        let folder = tempfile::tempdir().unwrap();
        let made = Native::load(&json(), Some(folder.path())).unwrap();
        let file = only_file(folder.path());
        let written = std::fs::metadata(&file).unwrap().modified().unwrap();
        let read = Native::load(&json(), Some(folder.path())).unwrap();
        assert_eq!((&made.head, &made.tables, ids(&made)), (&read.head, &read.tables, ids(&read)));
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written, "it was found, not made again");
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let made = Native::load(&json(), Some(folder.path())).unwrap();
        let file = only_file(folder.path());
        let sound = std::fs::read(&file).unwrap();
        let damage = |at: usize| {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x10;
            bytes
        };
        let mut broken: Vec<Vec<u8>> = [0, 35, 60, 400, sound.len() / 2, sound.len() - 1].map(damage).to_vec();
        broken.extend([Vec::new(), sound[..sound.len() - 1].to_vec(), vec![0xff; 4096], b"[]".to_vec()]);
        for bytes in broken {
            std::fs::write(&file, bytes).unwrap();
            let loaded = Native::load(&json(), Some(folder.path())).unwrap();
            assert_eq!((&loaded.tables, ids(&loaded)), (&made.tables, ids(&made)));
            assert!(std::fs::read(&file).unwrap() == sound, "it was repaired");
        }
    }

    #[test]
    fn a_file_of_another_tokenizer_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let made = Native::load(&json(), Some(folder.path())).unwrap();
        let file = only_file(folder.path());
        let mut other: serde_json::Value = serde_json::from_slice(&json()).unwrap();
        other["model"]["merges"].as_array_mut().unwrap().truncate(10);
        let other = serde_json::to_vec(&other).unwrap();
        let place = folder.path().join(file::name(&blake3::hash(&other).to_hex()));
        std::fs::copy(&file, &place).unwrap();
        assert_ne!(ids(&Native::load(&other, Some(folder.path())).unwrap()), ids(&made));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(ids(&Native::load(&json(), Some(&file)).unwrap()), ids(&Native::load(&json(), None).unwrap()));
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (pointer, value, word) in [
            ("/normalizer", serde_json::json!({"type": "NFKC"}), "normalizer"),
            ("/pre_tokenizer", serde_json::json!({"type": "Whitespace"}), "pre-tokenizer"),
            ("/pre_tokenizer/pretokenizers/0/behavior", serde_json::json!("Removed"), "pre-tokenizer"),
            ("/model/byte_fallback", serde_json::json!(true), "bytes"),
            ("/model/dropout", serde_json::json!(0.1), "dropout"),
            ("/model/type", serde_json::json!("Unigram"), "Unigram"),
        ] {
            let mut file: serde_json::Value = serde_json::from_slice(&json()).unwrap();
            *file.pointer_mut(pointer).unwrap() = value;
            let error = Native::load(&serde_json::to_vec(&file).unwrap(), None).err().unwrap();
            assert!(error.contains(word), "{error}");
        }
    }
}
