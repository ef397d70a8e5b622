//! Core errors → the exceptions of `qlora_fast.errors`; errors of the operating system → Python's own.

use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError};
use pyo3::prelude::*;
use qlora_fast_core::error::Error;
use qlora_fast_core::pack::PackError;

pyo3::import_exception!(qlora_fast.errors, DataError);
pyo3::import_exception!(qlora_fast.errors, ConfigError);
pyo3::import_exception!(qlora_fast.errors, TokenizerError);
pyo3::import_exception!(qlora_fast.errors, ArtifactError);

pub(crate) fn core(error: Error) -> PyErr {
    let (message, hint) = (error.to_string(), error.hint());
    match error {
        // With its number Python picks the subclass: FileNotFoundError, PermissionError, …
        Error::Io { source, path, action } => match source.raw_os_error() {
            Some(number) => PyOSError::new_err((number, format!("cannot {action}: {source}"), path)),
            None => PyOSError::new_err(message),
        },
        Error::Tokenizer { .. } => TokenizerError::new_err((message, hint)),
        Error::Option { .. } => ConfigError::new_err((message, hint)),
        Error::Artifact { .. } => ArtifactError::new_err((message, hint)),
        Error::Interrupted { kept: None } => PyKeyboardInterrupt::new_err(()),
        Error::Interrupted { .. } => PyKeyboardInterrupt::new_err(message),
        _ => DataError::new_err((message, hint)),
    }
}

pub(crate) fn pack(error: PackError) -> PyErr {
    let (message, hint) = (error.to_string(), error.hint());
    if error.is_about_data() { DataError::new_err((message, hint)) } else { ConfigError::new_err((message, hint)) }
}

/// A mistake in what this package's own Python handed over.
pub(crate) fn option(error: impl std::fmt::Display) -> PyErr {
    ConfigError::new_err(error.to_string())
}
