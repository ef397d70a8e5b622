//! Templates and the encoder, for chat and inspect: the same path as the training data.

use crate::error::{self, DataError};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use qlora_fast_core::conversation::Conversation;
use qlora_fast_core::encode::Encoder;
use qlora_fast_core::error::Error;
use qlora_fast_core::template::{self, ChatTemplate, Kind, Learn, Turn};
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use std::path::PathBuf;

type Arrays<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray2<i32>>);

#[pyfunction]
pub(crate) fn templates() -> Vec<&'static str> {
    template::names()
}

#[pyfunction]
#[pyo3(signature = (chat_template, bos_token, eos_token))]
pub(crate) fn detect_template(
    chat_template: &str,
    bos_token: Option<&str>,
    eos_token: Option<&str>,
) -> Option<&'static str> {
    template::detect(chat_template, bos_token, eos_token).map(|t| t.name)
}

#[pyclass(frozen, module = "qlora_fast._core")]
pub(crate) struct ChatEncoder {
    tokenizer: Tokenizer,
    template: &'static ChatTemplate,
    default_system: Option<String>,
    eos_token: Option<String>,
}

impl ChatEncoder {
    fn encoder(&self) -> PyResult<Encoder<'_>> {
        Encoder::new(self.template, &self.tokenizer, self.eos_token.as_deref()).map_err(error::core)
    }

    /// Calls `f` with the rendered turns.
    fn rendered<T>(
        &self,
        conversation: &str,
        add_generation_prompt: bool,
        enable_thinking: bool,
        f: impl FnOnce(&[Turn<'_>]) -> PyResult<T>,
    ) -> PyResult<T> {
        let conversation: Conversation<'_> =
            serde_json::from_str(conversation).map_err(|e| DataError::new_err(e.to_string()))?;
        let mut rendered = self.template.render(&conversation, self.default_system.as_deref(), Learn::default());
        if add_generation_prompt {
            rendered.turns.push(self.template.generation_prompt(enable_thinking));
        }
        f(&rendered.turns)
    }
}

#[pymethods]
impl ChatEncoder {
    #[new]
    #[pyo3(signature = (tokenizer, template, *, engine="auto", default_system=None, eos_token=None))]
    fn new(
        py: Python<'_>,
        tokenizer: PathBuf,
        template: &str,
        engine: &str,
        default_system: Option<String>,
        eos_token: Option<String>,
    ) -> PyResult<Self> {
        let engine: Choice = serde_json::from_value(engine.into()).map_err(error::option)?;
        let template = template::find(template).ok_or_else(|| {
            error::core(Error::Tokenizer {
                problem: format!("unknown template `{template}`"),
                hint: format!("built in: {}", template::names().join(", ")),
            })
        })?;
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
        let encoder = self.encoder()?;
        let encoded = self.rendered(conversation, add_generation_prompt, enable_thinking, |turns| {
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
        self.rendered(conversation, add_generation_prompt, enable_thinking, |turns| {
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
        let encoder = self.encoder()?;
        let mut ids: Vec<u32> = self.template.stops().filter_map(|stop| encoder.control(stop.unwrap_or(""))).collect();
        ids.extend(encoder.control(""));
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}
