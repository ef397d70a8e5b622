//! Templates and the encoder, for chat and inspect: the same path as the training data.

use crate::error::{self, DataError, TokenizerError};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pythonize::pythonize;
use qlora_fast_core::conversation::Conversation;
use qlora_fast_core::encode::{Binding, Encoder};
use qlora_fast_core::jinja::{Fault, Program, TEMPLATE, Variable};
use qlora_fast_core::template::{self, Controls, Kind, Learn, Source, Spec, Template, Turn};
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

type Arrays<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray2<i32>>);

/// The names of the built-in chat templates, in the order in which ``template: auto`` tries them.
#[pyfunction]
pub(crate) fn templates() -> Vec<&'static str> {
    template::names()
}

/// The keys that a written template may have.
#[pyfunction]
pub(crate) fn template_keys() -> Vec<&'static str> {
    template::KEYS.to_vec()
}

/// A built-in template as it is written.
///
/// Args:
///     name: one of :func:`templates`.
///
/// Returns:
///     Its keys, without those that have their default; None if there is no such template.
#[pyfunction]
pub(crate) fn written_template<'py>(py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    template::written(name).map(|spec| pythonize(py, spec)).transpose().map_err(PyErr::from)
}

/// What is wrong with a written template.
///
/// Args:
///     template: its keys as a JSON object.
///
/// Returns:
///     (key, problem) pairs, empty for a sound template; the key is empty where no single key is at fault.
#[pyfunction]
pub(crate) fn template_problems(template: &str) -> Vec<(&'static str, String)> {
    match serde_json::from_str::<Spec>(template) {
        Ok(spec) => spec.compile().err().unwrap_or_default(),
        Err(fault) => vec![("", fault.to_string())],
    }
}

/// The built-in template that prints exactly what a model's own chat template prints, on all probe conversations.
///
/// Args:
///     chat_template: the model's own template, Jinja.
///     bos_token: the tokenizer's beginning-of-sequence token, None if it has none.
///     eos_token: the tokenizer's end-of-sequence token, None if it has none.
///
/// Returns:
///     Its name; None if no built-in template prints the same.
#[pyfunction]
#[pyo3(signature = (chat_template, bos_token, eos_token))]
pub(crate) fn detect_template(
    chat_template: &str,
    bos_token: Option<&str>,
    eos_token: Option<&str>,
) -> Option<&'static str> {
    template::detect(chat_template, bos_token, eos_token).map(|t| t.name.as_str())
}

/// Render every probe conversation by a template and by a model's own chat template.
///
/// Args:
///     template: a built-in template's name, or a written template as a JSON object.
///     chat_template: the model's own template, Jinja.
///     bos_token: the tokenizer's beginning-of-sequence token, None if it has none.
///     eos_token: the tokenizer's end-of-sequence token, None if it has none.
///     tokenizer: path of a ``tokenizer.json``; its control tokens are looked for in what a Jinja template prints.
///
/// Returns:
///     A report for each probe.
///
/// Raises:
///     TokenizerError: one of the templates cannot be used.
///     OSError: the tokenizer cannot be read.
#[pyfunction]
#[pyo3(signature = (template, chat_template, bos_token, eos_token, tokenizer))]
pub(crate) fn compare_templates<'py>(
    py: Python<'py>,
    template: String,
    chat_template: &str,
    bos_token: Option<&str>,
    eos_token: Option<&str>,
    tokenizer: PathBuf,
) -> PyResult<Bound<'py, PyAny>> {
    let template = Template::new(&source(template)?, bos_token, eos_token).map_err(error::core)?;
    let added = match template {
        Template::Frames(_) => Vec::new(),
        Template::Jinja(_) => py.detach(|| Tokenizer::added_of(&tokenizer)).map_err(error::core)?,
    };
    let controls = Controls::of(&template, &added);
    let compared = template::check(&template, chat_template, bos_token, eos_token, &controls);
    let compared = compared.map_err(TokenizerError::new_err)?;
    let probes: Vec<_> = compared
        .iter()
        .map(|c| ProbeReport {
            probe: c.name,
            agrees: c.agrees(),
            refused: c.refused,
            ours: c.ours.as_deref().ok(),
            own: c.own.as_deref().ok(),
            error: c.ours.as_ref().err().or(c.own.as_ref().err()).map(String::as_str),
            thinking: c.thinking,
            conversation: &c.conversation,
        })
        .collect();
    Ok(pythonize(py, &probes)?)
}

/// A probe conversation, rendered both ways; the stub explains the keys.
#[derive(Serialize)]
struct ProbeReport<'a> {
    probe: &'static str,
    agrees: bool,
    refused: bool,
    ours: Option<&'a str>,
    own: Option<&'a str>,
    error: Option<&'a str>,
    thinking: Option<bool>,
    conversation: &'a str,
}

/// A Jinja template rendered with variables (a JSON object), as transformers would: `(kind, text)`, where the kind is
/// `text`, or what went wrong: `syntax`, `raised`, `failed`, `unsupported`, `budget`.
#[pyfunction]
pub(crate) fn render_jinja(source: &str, variables: &str) -> PyResult<(&'static str, String)> {
    let given: serde_json::Map<String, serde_json::Value> = serde_json::from_str(variables).map_err(error::option)?;
    let given: Vec<(&str, Variable)> =
        given.iter().map(|(name, value)| (name.as_str(), Variable::Json(value.clone(), TEMPLATE))).collect();
    let rendered = Program::new(source).and_then(|program| program.render(&given, variables.len()));
    Ok(match rendered {
        Ok(text) => ("text", text.as_str().to_owned()),
        Err(fault) => {
            let kind = match fault {
                Fault::Syntax { .. } => "syntax",
                Fault::Raised(_) => "raised",
                Fault::Failed(_) => "failed",
                Fault::Unsupported(_) => "unsupported",
                Fault::Budget(_) => "budget",
            };
            (kind, fault.to_string())
        }
    })
}

fn source(text: String) -> PyResult<Source> {
    Source::try_from(text).map_err(TokenizerError::new_err)
}

/// A chat template bound to a tokenizer: the same rendering and encoding as for the training data.
///
/// Args:
///     tokenizer: path of a ``tokenizer.json``.
///     template: a built-in template's name, or a written template as a JSON object (``{"jinja": "…"}``: the model's own).
///     engine: auto, native or tokenizers; all give equal ids.
///     default_system: the system prompt of conversations that have none.
///     bos_token: the tokenizer's beginning-of-sequence token.
///     eos_token: the tokenizer's end-of-sequence token.
///     cache: folder in which compiled tokenizers are kept; None: it is compiled each time.
///
/// Raises:
///     TokenizerError: the tokenizer or the template cannot be used, or they do not fit each other.
///     ConfigError: there is no such engine.
///     OSError: the tokenizer cannot be read.
#[pyclass(frozen, module = "qlora_fast._core")]
pub(crate) struct ChatEncoder {
    tokenizer: Tokenizer,
    template: Template,
    default_system: Option<String>,
    eos_token: Option<String>,
    binding: Arc<Binding>,
}

impl ChatEncoder {
    fn encoder(&self) -> Encoder<'_> {
        Encoder::bound(&self.template, &self.tokenizer, self.binding.clone())
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
        let encoder = self.encoder();
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
    #[pyo3(signature = (tokenizer, template, *, engine="auto", default_system=None, bos_token=None, eos_token=None, cache=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python class")]
    fn new(
        py: Python<'_>,
        tokenizer: PathBuf,
        template: String,
        engine: &str,
        default_system: Option<String>,
        bos_token: Option<String>,
        eos_token: Option<String>,
        cache: Option<PathBuf>,
    ) -> PyResult<Self> {
        let engine: Choice = engine.parse().map_err(error::core)?;
        let template =
            Template::new(&source(template)?, bos_token.as_deref(), eos_token.as_deref()).map_err(error::core)?;
        let tokenizer = py.detach(|| Tokenizer::load(&tokenizer, engine, cache.as_deref())).map_err(error::core)?;
        let bound = || Encoder::new(&template, &tokenizer, eos_token.as_deref()).map(|encoder| encoder.binding());
        let binding = py.detach(bound).map_err(error::core)?;
        Ok(Self { tokenizer, template, default_system, eos_token, binding })
    }

    /// The engine that runs: native or tokenizers.
    #[getter]
    fn engine(&self) -> &'static str {
        self.tokenizer.engine().name()
    }

    /// Render and encode one conversation.
    ///
    /// Args:
    ///     conversation: JSON, ``{"messages": [{"role": …, "content": …}, …]}``.
    ///     add_generation_prompt: end with the beginning of an answer, for the model to complete; no token is supervised then.
    ///     enable_thinking: with ``add_generation_prompt``, for templates that can switch thoughts on and off.
    ///
    /// Returns:
    ///     Token ids, int32, (tokens,), and the supervised spans, int32, (spans, 2): half-open ranges of token positions,
    ///     ascending and disjoint.
    ///
    /// Raises:
    ///     DataError: it is no conversation, or the template refuses it; ``reason`` says why.
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

    /// Render one conversation without encoding it.
    ///
    /// Args:
    ///     conversation: as for :meth:`encode`.
    ///     add_generation_prompt: as for :meth:`encode`.
    ///     enable_thinking: as for :meth:`encode`.
    ///
    /// Returns:
    ///     (kind, text, supervised) of each segment. The kind is ``control`` (one control token), ``marker`` (a tag such as
    ///     ``<think>``: one token where the tokenizer has it) or ``text``.
    ///
    /// Raises:
    ///     DataError: it is no conversation, or the template refuses it; ``reason`` says why.
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

    /// The ids of text from a conversation: control tokens in it stay text, other added tokens are tokens.
    ///
    /// Raises:
    ///     DataError: the engine refuses the text, or the tokenizer's model makes a control token of it.
    fn encode_text(&self, text: &str) -> PyResult<Vec<u32>> {
        let mut ids = Vec::new();
        self.encoder().content().encode(text, &mut ids).map_err(DataError::new_err)?;
        Ok(ids)
    }

    /// The ids that end an answer, ascending.
    fn stop_ids(&self) -> Vec<u32> {
        self.encoder().stops()
    }
}
