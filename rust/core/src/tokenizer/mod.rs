//! Text → token ids, by one of two engines with equal ids: the project's own where it knows the tokenizer's parts, and the
//! crate `tokenizers`, which is the reference, elsewhere.
//!
//! Control tokens are looked up by name, by the template: text never becomes one, whatever it contains. Other added tokens
//! are tokens in text, as they are for the model's own tokenizer ([`Tokenizer::content`]).

mod added;
mod content;
mod engine;
mod first_bytes;
pub(crate) mod native;
mod reference;
mod words;
mod work_stealing;

pub use added::AddedToken;
pub use content::Content;
pub use engine::Engine;

use crate::error::{Error, Result};
use crate::threads;
use engine::Base;
use rayon::prelude::*;
use reference::Reference;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use strum::EnumString;

/// Bytes of text that a thread takes at a time: small enough that no thread waits long for another at the end.
const SHARE: usize = 16 << 10;

/// Which engine to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, EnumString)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = Error, parse_err_fn = unknown_engine)]
pub enum Choice {
    /// The fastest that knows the tokenizer.
    #[default]
    Auto,
    /// The project's own, or an error.
    Native,
    /// The crate `tokenizers`: the reference.
    Tokenizers,
}

fn unknown_engine(name: &str) -> Error {
    Error::Option { problem: format!("unknown engine `{name}`: use auto, native or tokenizers") }
}

/// An engine and the added tokens of the tokenizer.
pub struct Tokenizer {
    engine: Arc<dyn Base>,
    /// Why a slower engine was chosen.
    reason: Option<String>,
    added: Vec<AddedToken>,
    /// Place of each in `added`. They are looked up for every token of the template in every row.
    names: FxHashMap<String, usize>,
    blank_is_first_only: bool,
    /// The latest of [`Self::content`], as a program has one template at a time.
    content: Mutex<Option<Arc<Content>>>,
}

impl Tokenizer {
    /// Loads a `tokenizer.json`. The native engine keeps its compiled tables in `cache`, if there is one, and finds them
    /// there the next time.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Tokenizer`].
    pub fn load(path: &Path, choice: Choice, cache: Option<&Path>) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let fault = |problem: String| unusable(path, &problem);
        let tables = cache.map(|cache| cache.join("tokenizers"));
        let native = || native::Native::load(&bytes, tables.as_deref());
        let reference = || Reference::load(&bytes).map_err(fault);
        match choice {
            Choice::Native => Ok(Self::of_native(native().map_err(fault)?)),
            Choice::Tokenizers => Ok(Self::of_reference(reference()?, None)),
            Choice::Auto => match native() {
                Ok(engine) => Ok(Self::of_native(engine)),
                Err(why) => Ok(Self::of_reference(reference()?, Some(why))),
            },
        }
    }

    fn of_native(engine: native::Native) -> Self {
        let (added, first_only) = (engine.added().to_vec(), engine.blank_is_first_only());
        Self::new(Arc::new(engine), added, first_only, None)
    }

    fn of_reference(mut engine: Reference, reason: Option<String>) -> Self {
        let (added, first_only) = (std::mem::take(&mut engine.added), engine.blank_is_first_only);
        Self::new(Arc::new(engine), added, first_only, reason)
    }

    fn new(engine: Arc<dyn Base>, added: Vec<AddedToken>, blank_is_first_only: bool, reason: Option<String>) -> Self {
        let names = added.iter().enumerate().map(|(i, token)| (token.content.clone(), i)).collect();
        Self { engine, reason, added, names, blank_is_first_only, content: Mutex::default() }
    }

    /// The engine that runs, for text in which no added token is one.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// How text is encoded: the added tokens are tokens, but for those that are special or for which `is_control` holds,
    /// which stay text.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`]: they cannot be searched for.
    pub fn content(&self, is_control: impl Fn(&AddedToken) -> bool) -> Result<Arc<Content>> {
        let special: Vec<bool> = self.added.iter().map(|token| token.special || is_control(token)).collect();
        let forbidden = content::forbidden(&self.added, is_control, self.engine.as_ref());
        let mut latest = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        // Its tokens are those of this tokenizer: nothing else can differ.
        let same = |content: &&Arc<Content>| {
            content.forbidden == forbidden
                && content.added.iter().map(|token| token.special).eq(special.iter().copied())
        };
        if let Some(content) = latest.as_ref().filter(same) {
            return Ok(content.clone());
        }
        let marked = self.added.iter().zip(special).map(|(token, special)| AddedToken { special, ..token.clone() });
        let added = marked.collect();
        let content = Content::new(added, forbidden, &self.engine).map_err(|problem| Error::Tokenizer {
            path: None,
            problem: format!("the tokenizer's added tokens cannot be used: {problem}"),
            hint: "no two of them may be equal".to_owned(),
        })?;
        Ok(latest.insert(Arc::new(content)).clone())
    }

    /// Encodes many texts on `threads` threads (0: all cores), special tokens as text, other added tokens as tokens: all ids concatenated, and how many each text has.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] if a text is refused ([`Content::encode`]), and [`Error::Option`] if the threads cannot be started.
    pub fn encode_all<T: AsRef<str> + Sync>(&self, texts: &[T], threads: usize) -> Result<(Vec<u32>, Vec<usize>)> {
        let content = self.content(|_| false)?;
        if threads == 1 {
            let mut all = Part::default();
            encode_some(&content, texts, &mut all)?;
            return Ok((all.ids, all.lengths));
        }
        let pool = threads::pool(threads)?;
        let parts: Vec<Part> = work_stealing::each(&pool, &shares(texts), |some| {
            let mut part = Part::default();
            encode_some(&content, some, &mut part).map(|()| part)
        })
        .into_iter()
        .collect::<Result<_>>()?;
        let lengths = parts.iter().flat_map(|part| &part.lengths).copied().collect();
        // All threads copy: the first touch of new memory costs as much as encoding what goes into it.
        let mut ids = vec![0; parts.iter().map(|part| part.ids.len()).sum()];
        let mut rest = ids.as_mut_slice();
        let rooms: Vec<_> = parts.iter().filter_map(|part| rest.split_off_mut(..part.ids.len())).collect();
        pool.install(|| parts.par_iter().zip(rooms).for_each(|(part, room)| room.copy_from_slice(&part.ids)));
        Ok((ids, lengths))
    }

    /// Why a slower engine runs, if one does and none was asked for.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The id of an added token.
    #[must_use]
    pub fn control(&self, token: &str) -> Option<u32> {
        self.token(token).map(|token| token.id)
    }

    /// An added token.
    #[must_use]
    pub fn token(&self, token: &str) -> Option<&AddedToken> {
        self.names.get(token).map(|&at| &self.added[at])
    }

    /// The added tokens of a `tokenizer.json`, without the rest of it; their ids are those of the file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Tokenizer`].
    pub fn added_of(path: &Path) -> Result<Vec<AddedToken>> {
        #[derive(Deserialize)]
        struct Shape {
            added_tokens: Vec<AddedToken>,
            #[serde(rename = "model")]
            _model: serde::de::IgnoredAny,
        }
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let file: Shape = serde_json::from_slice(&bytes).map_err(|e| unusable(path, &e.to_string()))?;
        Ok(file.added_tokens)
    }

    /// Whether a leading blank is added only to a text with nothing before it, not even a control token: then
    /// text after a control token has to be encoded as a continuation.
    #[must_use]
    pub fn blank_is_first_only(&self) -> bool {
        self.blank_is_first_only
    }

    /// All added tokens.
    #[must_use]
    pub fn added(&self) -> &[AddedToken] {
        &self.added
    }
}

fn encode_some<T: AsRef<str>>(content: &Content, texts: &[T], to: &mut Part) -> Result<()> {
    let Part { ids, lengths } = to;
    // A rough estimate.
    ids.reserve(texts.iter().map(|text| text.as_ref().len()).sum::<usize>() / 4);
    lengths.reserve(texts.len());
    for (i, text) in texts.iter().enumerate() {
        // Texts are scattered over memory, so the processor cannot prefetch the next one itself.
        if let Some(next) = texts.get(i + 1) {
            native::prefetch(next.as_ref());
        }
        let before = ids.len();
        content.encode(text.as_ref(), ids).map_err(|problem| Error::Tokenizer {
            path: None,
            problem,
            hint: "leave this text out".to_owned(),
        })?;
        lengths.push(ids.len() - before);
    }
    Ok(())
}

fn unusable(path: &Path, problem: &str) -> Error {
    Error::Tokenizer {
        path: Some(path.to_path_buf()),
        problem: format!("`{}` is not a tokenizer that can be used: {problem}", path.display()),
        hint: "it must be the tokenizer.json that transformers' `save_pretrained` writes".to_owned(),
    }
}

/// The ids of some texts concatenated, and how many each has.
#[derive(Default)]
struct Part {
    ids: Vec<u32>,
    lengths: Vec<usize>,
}

/// Neighbouring texts of about [`SHARE`] bytes together.
fn shares<T: AsRef<str>>(texts: &[T]) -> Vec<&[T]> {
    let (mut shares, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (i, text) in texts.iter().enumerate() {
        bytes += text.as_ref().len();
        if bytes >= SHARE || i + 1 == texts.len() {
            shares.push(&texts[from..=i]);
            (from, bytes) = (i + 1, 0);
        }
    }
    shares
}
