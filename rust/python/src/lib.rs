//! `qlora_fast._core`: the Python binding of the core. No logic of its own.

#![expect(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]

mod batching;
mod chat;
mod dataset;
mod error;
mod plan;
mod prepare;
mod progress;
mod tokenizer;

use pyo3::prelude::*;

/// The extension module.
#[pymodule(gil_used = false)]
mod _core {
    use super::*;

    #[pymodule_export]
    use crate::batching::{batching_report, padding, report_names};
    #[pymodule_export]
    use crate::chat::{
        ChatEncoder, compare_templates, detect_template, render_jinja, template_keys, template_problems, templates,
        written_template,
    };
    #[pymodule_export]
    use crate::dataset::{LengthCounts, PreparedFolder, length_counts, open_prepared, read_manifest, verify_prepared};
    #[pymodule_export]
    use crate::plan::{EpochPlan, mix, pack, packing_lower_bound, plan_epoch, split};
    #[pymodule_export]
    use crate::prepare::{fingerprint, inspect_rows, merge, prepare, prepare_share};
    #[pymodule_export]
    use crate::tokenizer::Tokenizer;

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))?;
        m.add("FORMAT_VERSION", qlora_fast_core::dataset::FORMAT_VERSION)?;
        m.add("BUILD_PROFILE", if cfg!(debug_assertions) { "debug" } else { "release" })
    }
}
