//! An input file: its path, its name, its dataset, and the layout of its records.

use crate::record::{Format, Layout};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};

/// One file of `data`: a path alone, or an object.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Form")]
pub struct Input {
    /// Its path.
    pub path: PathBuf,
    /// Its name in reports, if that is not its path: standard input is read from a temporary file.
    pub name: Option<PathBuf>,
    /// The dataset that it belongs to; files of one dataset are consecutive. Unset: its own.
    pub dataset: Option<String>,
    /// How its records are laid out.
    pub layout: Layout,
    /// Whether only `max_samples` rows of the dataset are read.
    pub max_samples: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Path(PathBuf),
    Object(Object),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    path: PathBuf,
    #[serde(default)]
    name: Option<PathBuf>,
    #[serde(default)]
    dataset: Option<String>,
    #[serde(default)]
    layout: Layout,
    #[serde(default = "yes")]
    max_samples: bool,
}

fn yes() -> bool {
    true
}

impl From<Form> for Input {
    fn from(form: Form) -> Self {
        match form {
            Form::Path(path) => Self { path, name: None, dataset: None, layout: Layout::default(), max_samples: true },
            Form::Object(Object { path, name, dataset, layout, max_samples }) => {
                Self { path, name, dataset, layout, max_samples }
            }
        }
    }
}

impl Input {
    /// The path as reports show it.
    #[must_use]
    pub fn shown(&self) -> &Path {
        self.name.as_deref().unwrap_or(&self.path)
    }

    /// The name of the dataset that it belongs to.
    #[must_use]
    pub fn dataset(&self) -> String {
        self.dataset.clone().unwrap_or_else(|| self.shown().display().to_string())
    }
}

/// Reads a format's name, or `auto`.
pub(super) fn auto_or<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Format>, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name == "auto" { Ok(None) } else { Format::deserialize(name.into_deserializer()).map(Some) }
}
