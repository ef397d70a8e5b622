//! Why a template does not render.

use std::fmt;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The template is not Jinja.
    Syntax {
        /// 1-based.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The template called `raise_exception`.
    Raised(String),
    /// Jinja2 fails here too.
    Failed(String),
    /// Jinja2 renders this; here it is not implemented.
    Unsupported(String),
    /// The template asks for more work or text than it is given.
    Budget(&'static str),
}

impl Fault {
    pub(super) fn failed(problem: impl Into<String>) -> Self {
        Self::Failed(problem.into())
    }

    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }

    pub(super) fn budget(what: &'static str) -> Self {
        Self::Budget(what)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { line, problem } => write!(f, "line {line}: {problem}"),
            Self::Raised(message) | Self::Failed(message) => f.write_str(message),
            Self::Unsupported(what) => write!(f, "not supported in a chat template: {what}"),
            Self::Budget(what) => write!(f, "the template was stopped: {what}"),
        }
    }
}

impl std::error::Error for Fault {}
