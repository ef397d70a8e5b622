//! What can go wrong, with where it went wrong, as fields: messages are formatted only when they are shown.

use crate::reasons::Reason;
use std::path::{Path, PathBuf};

/// A result of the data path.
pub type Result<T> = std::result::Result<T, Error>;

/// Where in the data an error lies, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The file or folder.
    pub path: Option<PathBuf>,
    /// 1-based line.
    pub line: Option<u64>,
    /// 1-based column, in bytes.
    pub column: Option<u64>,
    /// 0-based row.
    pub row: Option<u64>,
}

/// A row that was dropped, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its file.
    pub path: PathBuf,
    /// 1-based line.
    pub line: u64,
    /// 0-based row.
    pub row: u64,
    /// Why it was dropped.
    pub reason: Reason,
}

/// Every failure of the data path. `Display` says what and where; [`Error::hint`] how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of the operating system failed.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// The bytes are not the JSON they should be.
    #[error("{}:{line}:{column}: {}{problem}", path.display(), row.map_or(String::new(), |row| format!("row {row}: ")))]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// 1-based column, in bytes.
        column: u64,
        /// 0-based row, if the fault lies inside one.
        row: Option<u64>,
        /// What is wrong there.
        problem: String,
        /// How to fix it.
        hint: &'static str,
    },
    /// A file as a whole cannot be used.
    #[error("`{}` {problem}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// How to fix it.
        hint: String,
    },
    /// `strict`, and a row would have been dropped.
    #[error("{}:{}: row {} cannot be used: {}", .0.path.display(), .0.line, .0.row, .0.reason)]
    Strict(Box<Rejection>),
    /// Every row was dropped.
    #[error("nothing can be trained on: all {rows} rows were dropped ({reasons})")]
    NothingSurvives {
        /// Rows read.
        rows: u64,
        /// Names and counts of the reasons.
        reasons: String,
        /// The first dropped row.
        first: Option<Box<Rejection>>,
        /// Keys of the rows that were not read: the answer may stand under one of them.
        ignored: Vec<String>,
    },
    /// The tokenizer cannot be loaded or does not fit the template.
    #[error("{problem}")]
    Tokenizer {
        /// Its file, if the file is at fault.
        path: Option<PathBuf>,
        /// What is wrong.
        problem: String,
        /// How to fix it.
        hint: String,
    },
    /// An option has no meaning.
    #[error("{problem}")]
    Option {
        /// What is wrong.
        problem: String,
    },
    /// The output folder exists and is something else.
    #[error("`{}` {problem}", path.display())]
    Artifact {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// How to fix it.
        hint: &'static str,
    },
    /// The caller asked to stop.
    #[error("interrupted{}", kept.as_ref().map_or(String::new(), |kept| {
        format!("; what is done is kept in `{}`, and the same command resumes from there", kept.display())
    }))]
    Interrupted {
        /// Where the work so far is kept.
        kept: Option<PathBuf>,
    },
}

impl Error {
    /// How to fix it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax { hint, .. } => Some((*hint).to_owned()),
            Self::Artifact { hint, .. } => Some((*hint).to_owned()),
            Self::File { hint, .. } | Self::Tokenizer { hint, .. } => Some(hint.clone()),
            Self::Strict(_) => Some("fix the row, or leave `strict` out to drop and count such rows".to_owned()),
            Self::NothingSurvives { first, ignored, .. } => first.as_ref().map(|first| {
                let Rejection { path, line, row, reason } = &**first;
                let keys =
                    if ignored.is_empty() { String::new() } else { format!("; not read: {}", ignored.join(", ")) };
                format!("the first was {}:{line} (row {row}): {reason}{keys}", path.display())
            }),
            Self::Io { .. } | Self::Option { .. } | Self::Interrupted { .. } => None,
        }
    }

    /// Where in the data it lies.
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Self::Io { path, .. } | Self::File { path, .. } | Self::Artifact { path, .. } => {
                Place { path: Some(path.clone()), ..Place::default() }
            }
            Self::Syntax { path, line, column, row, .. } => {
                Place { path: Some(path.clone()), line: Some(*line), column: Some(*column), row: *row }
            }
            Self::Strict(row) | Self::NothingSurvives { first: Some(row), .. } => {
                Place { path: Some(row.path.clone()), line: Some(row.line), column: None, row: Some(row.row) }
            }
            Self::Tokenizer { path, .. } => Place { path: path.clone(), ..Place::default() },
            Self::NothingSurvives { first: None, .. } | Self::Option { .. } | Self::Interrupted { .. } => {
                Place::default()
            }
        }
    }

    /// Why the row at [`Error::place`] cannot be used, if the error is about a row that was dropped.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Strict(row) | Self::NothingSurvives { first: Some(row), .. } => Some(&row.reason),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One error of each kind. The match has no wildcard: a new kind does not compile until it is shown here.
    fn one_of_each() -> Vec<Error> {
        let path = || PathBuf::from("data/duplicate.json");
        let rejection =
            || Box::new(Rejection { path: path(), line: 3, row: 1, reason: Reason::NotText("output".into()) });
        let syntax = |row| Error::Syntax { path: path(), line: 3, column: 21, row, problem: "p".to_owned(), hint: "h" };
        let all = vec![
            Error::Io { action: "read", path: path(), source: std::io::Error::other("broken pipe") },
            syntax(Some(1)),
            syntax(None),
            Error::File { path: path(), problem: "is empty".to_owned(), hint: "h".to_owned() },
            Error::Strict(rejection()),
            Error::NothingSurvives {
                rows: 2,
                reasons: "2 not_text:output".to_owned(),
                first: Some(rejection()),
                ignored: vec!["response".to_owned()],
            },
            Error::NothingSurvives { rows: 0, reasons: String::new(), first: None, ignored: Vec::new() },
            Error::Tokenizer { path: Some(path()), problem: "p".to_owned(), hint: "h".to_owned() },
            Error::Option { problem: "p".to_owned() },
            Error::Artifact { path: path(), problem: "is taken".to_owned(), hint: "h" },
            Error::Interrupted { kept: Some(path()) },
            Error::Interrupted { kept: None },
        ];
        for error in &all {
            match error {
                Error::Io { .. }
                | Error::Syntax { .. }
                | Error::File { .. }
                | Error::Strict(_)
                | Error::NothingSurvives { .. }
                | Error::Tokenizer { .. }
                | Error::Option { .. }
                | Error::Artifact { .. }
                | Error::Interrupted { .. } => {}
            }
        }
        all
    }

    #[test]
    fn every_error_has_a_message_a_place_and_a_reason_as_fields() {
        let shown: Vec<_> = one_of_each()
            .iter()
            .map(|error| {
                let Place { path, line, column, row } = error.place();
                let place = (path.is_some(), line, column, row);
                (error.to_string(), error.hint().unwrap_or_default(), place, error.reason().map(Reason::name))
            })
            .collect();
        let nowhere = (false, None, None, None);
        let file = (true, None, None, None);
        let rejected = (true, Some(3), None, Some(1));
        let expected = [
            ("cannot read `data/duplicate.json`: broken pipe", "", file, None),
            ("data/duplicate.json:3:21: row 1: p", "h", (true, Some(3), Some(21), Some(1)), None),
            ("data/duplicate.json:3:21: p", "h", (true, Some(3), Some(21), None), None),
            ("`data/duplicate.json` is empty", "h", file, None),
            (
                "data/duplicate.json:3: row 1 cannot be used: not_text:output",
                "fix the row, or leave `strict` out to drop and count such rows",
                rejected,
                Some("not_text"),
            ),
            (
                "nothing can be trained on: all 2 rows were dropped (2 not_text:output)",
                "the first was data/duplicate.json:3 (row 1): not_text:output; not read: response",
                rejected,
                Some("not_text"),
            ),
            ("nothing can be trained on: all 0 rows were dropped ()", "", nowhere, None),
            ("p", "h", file, None),
            ("p", "", nowhere, None),
            ("`data/duplicate.json` is taken", "h", file, None),
            (
                "interrupted; what is done is kept in `data/duplicate.json`, and the same command resumes from there",
                "",
                nowhere,
                None,
            ),
            ("interrupted", "", nowhere, None),
        ];
        let shown: Vec<_> =
            shown.iter().map(|(m, h, place, reason)| (m.as_str(), h.as_str(), *place, *reason)).collect();
        assert_eq!(shown, expected);
    }
}
