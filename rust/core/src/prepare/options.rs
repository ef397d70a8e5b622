//! What is to be prepared, and the fingerprint that names the result.

use super::file_hashes::{Content, Memory};
use super::input::{self, Input};

use crate::dataset::Verify;
use crate::error::{Error, Result};
use crate::record::{Format, Layout, Reading, Variables};
use crate::template::{self, Template};
use crate::tokenizer::Choice;
use crate::truncate::Rule;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Raised whenever equal inputs begin to give other bytes: no older folder is then taken for a new one.
pub const DATA_PATH_VERSION: u32 = 13;
/// Size of the records after which a part is closed: what a killed run may have to make again.
const PART_BYTES: u64 = 32 << 20;

fn part_bytes() -> u64 {
    PART_BYTES
}

fn yes() -> bool {
    true
}

/// What is done about rows that are equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deduplicate {
    /// Nothing.
    #[default]
    Off,
    /// A row whose conversation is equal to an earlier one is dropped.
    Exact,
}

/// The options of [`prepare`](super::prepare()).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the config table explains each under the same name")]
pub struct Options {
    pub data: Vec<Input>,
    #[serde(default, deserialize_with = "input::auto_or")]
    pub format: Option<Format>,
    #[serde(default)]
    pub variables: Variables,
    pub tokenizer: PathBuf,
    pub template: template::Source,
    #[serde(default)]
    pub default_system: Option<String>,
    #[serde(default)]
    pub bos_token: Option<String>,
    #[serde(default)]
    pub eos_token: Option<String>,
    pub cutoff_len: usize,
    #[serde(default)]
    pub truncation: Rule,
    #[serde(default)]
    pub train_on_prompt: bool,
    #[serde(default)]
    pub mask_history: bool,
    #[serde(default = "yes")]
    pub enable_thinking: bool,
    #[serde(default)]
    pub max_samples: Option<u64>,
    #[serde(default)]
    pub deduplicate: Deduplicate,
    #[serde(default)]
    pub engine: Choice,
    #[serde(default)]
    pub threads: usize,
    #[serde(default)]
    pub strict: bool,
    /// What is verified of a prepared folder that is there.
    #[serde(default)]
    pub verify: Verify,
    /// The user's cache folder: hashes of files, what was verified, compiled tokenizers.
    #[serde(default)]
    pub cache: Option<PathBuf>,
    /// Size of the parts, in bytes of records.
    #[serde(default = "part_bytes")]
    pub part_bytes: u64,
    pub out: PathBuf,
}

/// A file that goes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As it was named.
    pub path: PathBuf,
    /// The dataset that it belongs to.
    #[serde(default)]
    pub dataset: String,
    /// Its size.
    pub bytes: u64,
    /// Hash of its content.
    pub blake3: String,
    /// Records read from it.
    #[serde(default)]
    pub rows: u64,
}

/// The inputs, identified.
#[derive(Debug)]
pub struct Identity {
    /// The files.
    pub sources: Vec<Source>,
    /// Hash of everything that can change a byte of the result.
    pub fingerprint: String,
}

impl Options {
    /// The template that is named, with the tokenizer's own tokens in it.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] with the known names, or with what is wrong with a written one.
    pub fn chat_template(&self) -> Result<Template> {
        Template::new(&self.template, self.bos_token.as_deref(), self.eos_token.as_deref())
    }

    /// How the records of every input are to be read, whatever its layout.
    #[must_use]
    pub fn reading(&self, template: &Template) -> Reading {
        Reading { words: template.words(), without_thoughts: !self.enable_thinking }
    }

    /// How the records of an input are to be read.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for a column or a tag that does not exist.
    pub fn layout(&self, input: &Input) -> Result<Layout> {
        let mut layout = input.layout.clone();
        layout.format = layout.format.or(self.format);
        match layout.unknown_names()[..] {
            [] => Ok(layout),
            [first, ..] => Err(Error::Option { problem: format!("there is no column or tag `{first}`") }),
        }
    }

    /// On how many threads rows are made: as many as asked for, or one a core.
    pub(super) fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    /// Whether what becomes of a row depends on the files before its own: all of them are read then, whichever process made
    /// which part of them.
    pub(super) fn rows_depend_on_files_before(&self) -> bool {
        let mut datasets = self.data.iter().map(Input::dataset).collect::<Vec<_>>();
        datasets.dedup();
        self.deduplicate != Deduplicate::Off || (self.max_samples.is_some() && datasets.len() < self.data.len())
    }

    /// Hashes every input, or remembers its hash, with all options that can change the result; engine, threads and the
    /// place of the result cannot.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] for a file that cannot be read, and an unknown template.
    pub fn identify(&self) -> Result<Identity> {
        let template = self.chat_template()?.identity().map_err(|e| Error::Option { problem: e.to_string() })?;
        let memory = Memory::new(self.cache.as_deref());
        let mut sources = Vec::with_capacity(self.data.len());
        let mut layouts = Vec::with_capacity(self.data.len());
        for input in &self.data {
            let Content { bytes, blake3 } = memory.content(&input.path)?;
            let (path, dataset) = (input.shown().to_path_buf(), input.dataset());
            sources.push(Source { path, dataset, bytes, blake3, rows: 0 });
            layouts.push((self.layout(input)?, input.max_samples));
        }
        let tokenizer = memory.content(&self.tokenizer)?.blake3;
        let mut hasher = blake3::Hasher::new();
        let mut parts = serde_json::json!({
            "data_path_version": DATA_PATH_VERSION,
            // Names are stored in the manifest, so they are part of the bytes.
            "data": sources,
            "tokenizer": tokenizer,
            "template": template,
            "layouts": layouts,
            "variables": self.variables,
            "default_system": self.default_system,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "cutoff_len": self.cutoff_len,
            "truncation": self.truncation,
            "train_on_prompt": self.train_on_prompt,
            "mask_history": self.mask_history,
            "max_samples": self.max_samples,
            "deduplicate": self.deduplicate,
            "strict": self.strict,
            "part_bytes": self.part_bytes,
        });
        // Left out where it changes nothing: data that was prepared before there was such an option is still found.
        if !self.enable_thinking {
            parts["enable_thinking"] = false.into();
        }
        hasher.update(parts.to_string().as_bytes());
        Ok(Identity { sources, fingerprint: hasher.finalize().to_hex().to_string() })
    }
}
