//! Templates and the encoder, for chat and inspect: the same path as the training data.

use crate::error::{self, DataError, TokenizerError};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use qlora_fast_core::conversation::Conversation;
use qlora_fast_core::encode::Encoder;
use qlora_fast_core::template::{self, Controls, Kind, Learn, Source, Spec, Template, Turn};
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use std::path::PathBuf;

type Arrays<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray2<i32>>);

#[pyfunction]
pub(crate) fn templates() -> Vec<&'static str> {
    template::names()
}

#[pyfunction]
pub(crate) fn template_keys() -> Vec<&'static str> {
    template::KEYS.to_vec()
}

/// A built-in template as it is written, as JSON.
#[pyfunction]
pub(crate) fn written_template(name: &str) -> PyResult<Option<String>> {
    template::written(name).map(serde_json::to_string).transpose().map_err(error::option)
}

/// What is wrong with a written template (JSON): (key, problem) pairs.
#[pyfunction]
pub(crate) fn template_problems(template: &str) -> Vec<(&'static str, String)> {
    match serde_json::from_str::<Spec>(template) {
        Ok(spec) => spec.compile().err().unwrap_or_default(),
        Err(fault) => vec![("", fault.to_string())],
    }
}

#[pyfunction]
#[pyo3(signature = (chat_template, bos_token, eos_token))]
pub(crate) fn detect_template(
    chat_template: &str,
    bos_token: Option<&str>,
    eos_token: Option<&str>,
) -> Option<&'static str> {
    template::detect(chat_template, bos_token, eos_token).map(|t| t.name.as_str())
}

/// Every probe rendered by `template` and by `chat_template`: JSON objects.
#[pyfunction]
#[pyo3(signature = (template, chat_template, bos_token, eos_token, tokenizer))]
pub(crate) fn compare_templates(
    py: Python<'_>,
    template: String,
    chat_template: &str,
    bos_token: Option<&str>,
    eos_token: Option<&str>,
    tokenizer: PathBuf,
) -> PyResult<Vec<String>> {
    let template = Template::new(&source(template)?, bos_token, eos_token).map_err(error::core)?;
    let controls = match template {
        Template::Frames(_) => Controls::default(),
        Template::Jinja(_) => {
            let added = py.detach(|| Tokenizer::added_of(&tokenizer)).map_err(error::core)?;
            Controls::new(added.iter().map(String::as_str))
        }
    };
    let compared = template::check(&template, chat_template, bos_token, eos_token, &controls);
    let compared = compared.map_err(TokenizerError::new_err)?;
    Ok(compared
        .iter()
        .map(|c| {
            serde_json::json!({
                "probe": c.name,
                "agrees": c.agrees(),
                "refused": c.refused,
                "ours": c.ours.as_ref().ok(),
                "own": c.own.as_ref().ok(),
                "error": c.ours.as_ref().err().or(c.own.as_ref().err()),
                "thinking": c.thinking,
                "conversation": c.conversation,
            })
            .to_string()
        })
        .collect())
}

fn source(text: String) -> PyResult<Source> {
    Source::try_from(text).map_err(TokenizerError::new_err)
}

#[pyclass(frozen, module = "qlora_fast._core")]
pub(crate) struct ChatEncoder {
    tokenizer: Tokenizer,
    template: Template,
    default_system: Option<String>,
    eos_token: Option<String>,
}

impl ChatEncoder {
    fn encoder(&self) -> PyResult<Encoder<'_>> {
        Encoder::new(&self.template, &self.tokenizer, self.eos_token.as_deref()).map_err(error::core)
    }

    /// Calls `f` with the encoder and the rendered turns.
    fn rendered<T>(
        &self,
        conversation: &str,
        add_generation_prompt: bool,
        enable_thinking: bool,
        f: impl FnOnce(&Encoder<'_>, &[Turn<'_>]) -> PyResult<T>,
    ) -> PyResult<T> {
        let conversation: Conversation<'_> =
            serde_json::from_str(conversation).map_err(|e| DataError::new_err(e.to_string()))?;
        let encoder = self.encoder()?;
        let system = self.default_system.as_deref();
        let rendered = if add_generation_prompt {
            encoder.prompt(&conversation, system, enable_thinking)
        } else {
            encoder.render(&conversation, system, Learn::default())
        };
        f(&encoder, &rendered.map_err(error::refused)?.turns)
    }
}

#[pymethods]
impl ChatEncoder {
    #[new]
    #[pyo3(signature = (tokenizer, template, *, engine="auto", default_system=None, bos_token=None, eos_token=None))]
    fn new(
        py: Python<'_>,
        tokenizer: PathBuf,
        template: String,
        engine: &str,
        default_system: Option<String>,
        bos_token: Option<String>,
        eos_token: Option<String>,
    ) -> PyResult<Self> {
        let engine: Choice = serde_json::from_value(engine.into()).map_err(error::option)?;
        let template =
            Template::new(&source(template)?, bos_token.as_deref(), eos_token.as_deref()).map_err(error::core)?;
        let tokenizer = py.detach(|| Tokenizer::load(&tokenizer, engine)).map_err(error::core)?;
        let encoder = Self { tokenizer, template, default_system, eos_token };
        encoder.encoder()?;
        Ok(encoder)
    }

    #[getter]
    fn engine(&self) -> &'static str {
        self.tokenizer.engine().name()
    }

    #[pyo3(signature = (conversation, *, add_generation_prompt=false, enable_thinking=false))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        conversation: &str,
        add_generation_prompt: bool,
        enable_thinking: bool,
    ) -> PyResult<Arrays<'py>> {
        let encoded = self.rendered(conversation, add_generation_prompt, enable_thinking, |encoder, turns| {
            encoder.encode(turns).map_err(DataError::new_err)
        })?;
        // Ids are below 2³¹: a vocabulary of that size does not exist.
        let ids: Vec<i32> = encoded.ids.iter().map(|&id| id as i32).collect();
        let spans: Vec<i32> = encoded.spans.iter().flat_map(|&(start, end)| [start as i32, end as i32]).collect();
        let rows = spans.len() / 2;
        Ok((ids.into_pyarray(py), spans.into_pyarray(py).reshape([rows, 2])?))
    }

    #[pyo3(signature = (conversation, *, add_generation_prompt=false, enable_thinking=false))]
    fn segments(
        &self,
        conversation: &str,
        add_generation_prompt: bool,
        enable_thinking: bool,
    ) -> PyResult<Vec<(&'static str, String, bool)>> {
        self.rendered(conversation, add_generation_prompt, enable_thinking, |_, turns| {
            let eos = self.eos_token.as_deref().unwrap_or("");
            let segments = turns.iter().flat_map(|t| &t.segments).map(|s| {
                let kind = match s.kind {
                    Kind::Control => "control",
                    Kind::Marker => "marker",
                    Kind::Text => "text",
                };
                let text = if s.kind == Kind::Control && s.text.is_empty() { eos } else { &s.text };
                (kind, text.to_owned(), s.learned)
            });
            Ok(segments.collect())
        })
    }

    fn encode_text(&self, text: &str) -> PyResult<Vec<u32>> {
        let mut ids = Vec::new();
        self.tokenizer.engine().encode(text, &mut ids).map_err(DataError::new_err)?;
        Ok(ids)
    }

    fn stop_ids(&self) -> PyResult<Vec<u32>> {
        Ok(self.encoder()?.stops())
    }
}
