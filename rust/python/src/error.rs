//! Core errors → the exceptions of `qlora_fast.errors`; errors of the operating system → Python's own.

use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError};
use pyo3::prelude::*;
use qlora_fast_core::error::{Error, Place};
use qlora_fast_core::pack::PackError;
use qlora_fast_core::reasons::Reason;
use std::path::PathBuf;

pyo3::import_exception!(qlora_fast.errors, DataError);
pyo3::import_exception!(qlora_fast.errors, ConfigError);
pyo3::import_exception!(qlora_fast.errors, TokenizerError);
pyo3::import_exception!(qlora_fast.errors, ArtifactError);

/// The arguments of `QloraFastError`: message, hint, reason, path, line, column, row.
type Arguments = (String, Option<String>, Option<&'static str>, Option<PathBuf>, Option<u64>, Option<u64>, Option<u64>);

fn arguments(error: &Error) -> Arguments {
    let Place { path, line, column, row } = error.place();
    (error.to_string(), error.hint(), error.reason().map(Reason::name), path, line, column, row)
}

pub(crate) fn core(error: Error) -> PyErr {
    let arguments = arguments(&error);
    match error {
        // With its number Python picks the subclass: FileNotFoundError, PermissionError, …
        Error::Io { source, path, action } => match source.raw_os_error() {
            Some(number) => PyOSError::new_err((number, format!("cannot {action}: {source}"), path)),
            None => PyOSError::new_err(arguments.0),
        },
        Error::Tokenizer { .. } => TokenizerError::new_err(arguments),
        Error::Option { .. } => ConfigError::new_err(arguments),
        Error::Artifact { .. } => ArtifactError::new_err(arguments),
        Error::Interrupted { kept: None } => PyKeyboardInterrupt::new_err(()),
        Error::Interrupted { .. } => PyKeyboardInterrupt::new_err(arguments.0),
        _ => DataError::new_err(arguments),
    }
}

/// A conversation that cannot be rendered.
pub(crate) fn refused(reason: Reason) -> PyErr {
    DataError::new_err((reason.to_string(), None::<String>, reason.name()))
}

pub(crate) fn pack(error: PackError) -> PyErr {
    let (message, hint) = (error.to_string(), error.hint());
    if error.is_about_data() { DataError::new_err((message, hint)) } else { ConfigError::new_err((message, hint)) }
}

/// A mistake in what this package's own Python handed over.
pub(crate) fn option(error: impl std::fmt::Display) -> PyErr {
    ConfigError::new_err(error.to_string())
}
