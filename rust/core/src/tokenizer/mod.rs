//! Text → token ids, by one of three engines with equal ids: the project's own where it knows the tokenizer's parts, the
//! crate `fastokens` where only that one does, and the crate `tokenizers`, which is the reference, elsewhere.
//!
//! All encode as if the tokenizer had no added tokens: text can then never become a control token, whatever it contains.
//! Control tokens are looked up by name, by the template.

mod engine;
mod fast;
pub(crate) mod native;
mod reference;
mod work_stealing;

pub use engine::Engine;

use crate::error::{Error, Result};
use crate::threads;
use aho_corasick::AhoCorasick;
use native::AddedToken;
use rayon::prelude::*;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
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
    /// The crate `fastokens`, or an error.
    Fastokens,
    /// The crate `tokenizers`: the reference.
    Tokenizers,
}

fn unknown_engine(name: &str) -> Error {
    Error::Option { problem: format!("unknown engine `{name}`: use auto, native, fastokens or tokenizers") }
}

/// An engine and the control tokens of the tokenizer.
pub struct Tokenizer {
    engine: Box<dyn Engine>,
    /// Why a slower engine was chosen.
    reason: Option<String>,
    added: HashMap<String, u32>,
    blank_is_first_only: bool,
    lookalikes: Option<AhoCorasick>,
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
        let fast = || fast::Fast::load(path);
        let reference = || reference::Reference::load(path).map_err(fault);
        let mut reason = None;
        let outside = || Outside::of(&bytes).map_err(fault);
        let (engine, outside): (Box<dyn Engine>, _) = match choice {
            Choice::Native => of_native(native().map_err(fault)?),
            Choice::Fastokens => (Box::new(fast().map_err(fault)?), outside()?),
            Choice::Tokenizers => (Box::new(reference()?), outside()?),
            Choice::Auto => match native() {
                Ok(engine) => of_native(engine),
                Err(own) => match fast() {
                    Ok(engine) => {
                        reason = Some(own);
                        (Box::new(engine), outside()?)
                    }
                    Err(why) => {
                        reason = Some(format!("{own}; fastokens: {why}"));
                        (Box::new(reference()?), outside()?)
                    }
                },
            },
        };
        let Outside { added, blank_is_first_only } = outside;
        let blanks = added.iter().find(|t| !t.special && t.content.trim().is_empty());
        if let Some(blank) = blanks {
            // Such tokens take part in splitting ordinary text; without them the ids would differ.
            return Err(fault(format!(
                "its added token {:?} is white space, which is not supported yet",
                blank.content
            )));
        }
        let added: HashMap<String, u32> = added.into_iter().map(|t| (t.content, t.id)).collect();
        let lookalikes = AhoCorasick::new(added.keys()).ok().filter(|_| !added.is_empty());
        Ok(Self { engine, reason, added, blank_is_first_only, lookalikes })
    }

    /// The engine that runs.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Encodes many texts on `threads` threads (0: all cores): all ids concatenated, and how many each text has.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] if the engine refuses a text, and [`Error::Option`] if the threads cannot be started.
    pub fn encode_all<T: AsRef<str> + Sync>(&self, texts: &[T], threads: usize) -> Result<(Vec<u32>, Vec<usize>)> {
        if threads == 1 {
            let mut all = Part::default();
            self.encode_some(texts, &mut all)?;
            return Ok((all.ids, all.lengths));
        }
        let pool = threads::pool(threads)?;
        let parts: Vec<Part> = work_stealing::each(&pool, &shares(texts), |some| {
            let mut part = Part::default();
            self.encode_some(some, &mut part).map(|()| part)
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

    fn encode_some<T: AsRef<str>>(&self, texts: &[T], to: &mut Part) -> Result<()> {
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
            self.engine.encode(text.as_ref(), ids).map_err(|problem| Error::Tokenizer {
                path: None,
                problem,
                hint: "try another engine".to_owned(),
            })?;
            lengths.push(ids.len() - before);
        }
        Ok(())
    }

    /// Why a slower engine runs, if one does and none was asked for.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The id of a control token.
    #[must_use]
    pub fn control(&self, token: &str) -> Option<u32> {
        self.added.get(token).copied()
    }

    /// The control tokens of a `tokenizer.json`, without the rest of it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Tokenizer`].
    pub fn added_of(path: &Path) -> Result<Vec<String>> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let outside = Outside::of(&bytes).map_err(|problem| unusable(path, &problem))?;
        Ok(outside.added.into_iter().map(|t| t.content).collect())
    }

    /// Whether a leading blank is added only to a text with nothing before it, not even a control token: then
    /// text after a control token has to be encoded as a continuation.
    #[must_use]
    pub fn blank_is_first_only(&self) -> bool {
        self.blank_is_first_only
    }

    /// All control tokens.
    pub fn added(&self) -> impl Iterator<Item = &str> {
        self.added.keys().map(String::as_str)
    }

    /// Whether a text contains the text of a control token.
    #[must_use]
    pub fn has_lookalike(&self, text: &str) -> bool {
        self.lookalikes.as_ref().is_some_and(|l| l.is_match(text))
    }
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

fn of_native(engine: native::Native) -> (Box<dyn Engine>, Outside) {
    let outside = Outside { added: engine.added().to_vec(), blank_is_first_only: engine.blank_is_first_only() };
    (Box::new(engine), outside)
}

/// Settings of a `tokenizer.json` that all engines share.
struct Outside {
    /// The control tokens.
    added: Vec<AddedToken>,
    blank_is_first_only: bool,
}

impl Outside {
    fn of(json: &[u8]) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Shape {
            added_tokens: Vec<AddedToken>,
            #[serde(default)]
            pre_tokenizer: serde_json::Value,
            #[serde(rename = "model")]
            _model: IgnoredAny,
        }
        let file: Shape = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let steps = file.pre_tokenizer["pretokenizers"].as_array().into_iter().flatten();
        let blank_is_first_only = std::iter::once(&file.pre_tokenizer)
            .chain(steps)
            .any(|step| step["type"] == "Metaspace" && step["prepend_scheme"] == "first");
        Ok(Self { added: file.added_tokens, blank_is_first_only })
    }
}
