//! What can go wrong, with where it went wrong. Text is made only when somebody reads it.

use std::path::{Path, PathBuf};

/// A result of the data path.
pub type Result<T> = std::result::Result<T, Error>;

/// Every failure of the data path. `Display` says what and where; [`Error::hint`] how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The bytes are not the JSON they should be.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// 1-based column, in bytes.
        column: u64,
        /// What is wrong there.
        problem: String,
        /// How to mend it.
        hint: &'static str,
    },
    /// A file as a whole cannot be used.
    #[error("`{}` {problem}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// How to mend it.
        hint: String,
    },
    /// `strict`, and a row would have been dropped.
    #[error("{file}:{line}: row {row} cannot be used: {reason}")]
    Strict {
        /// Which file.
        file: String,
        /// 1-based line.
        line: u64,
        /// 0-based row.
        row: u64,
        /// The reason it would have been dropped for.
        reason: String,
    },
    /// Every row was dropped.
    #[error("nothing can be trained on: all {rows} rows were dropped ({reasons})")]
    NothingSurvives {
        /// Rows read.
        rows: u64,
        /// Reasons and counts, in words.
        reasons: String,
        /// The first dropped row.
        first: String,
    },
    /// The tokenizer cannot be loaded or does not fit the template.
    #[error("{problem}")]
    Tokenizer {
        /// What is wrong.
        problem: String,
        /// How to mend it.
        hint: String,
    },
    /// An option has no meaning.
    #[error("{problem}")]
    Option {
        /// What is wrong.
        problem: String,
    },
    /// The output folder is there and is something else.
    #[error("`{}` {problem}", path.display())]
    Artifact {
        /// The folder.
        path: PathBuf,
        /// What stands in the way.
        problem: String,
        /// How to mend it.
        hint: &'static str,
    },
    /// The caller asked to stop.
    #[error("interrupted{}", kept.as_ref().map_or(String::new(), |kept| {
        format!("; what is done is kept in `{}`, and the same command goes on from there", kept.display())
    }))]
    Interrupted {
        /// Where the work so far is kept.
        kept: Option<PathBuf>,
    },
}

impl Error {
    /// How to mend it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax { hint, .. } => Some((*hint).to_owned()),
            Self::Artifact { hint, .. } => Some((*hint).to_owned()),
            Self::File { hint, .. } | Self::Tokenizer { hint, .. } => Some(hint.clone()),
            Self::Strict { .. } => Some("mend the row, or leave `strict` out to drop and count such rows".to_owned()),
            Self::NothingSurvives { first, .. } => Some(format!("the first was {first}")),
            Self::Io { .. } | Self::Option { .. } | Self::Interrupted { .. } => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
