//! What is fuzzed: one function per target, which panics where a promise is broken.
//!
//! libFuzzer calls them (`fuzz_targets/`), a test replays their seeds and every input that once failed, and the same test
//! mutates the seeds where there is no fuzzer (`tests/fuzz.rs`). docs/fuzzing.md lists them.

#![allow(clippy::unwrap_used, reason = "a target ends where a promise is broken")]

mod engines;
mod jinja;
mod packer;
mod reader;
mod records;
mod shard;
mod templates;

/// A target and the words that its inputs are made of.
pub(crate) struct Target {
    /// Its name: that of its folder of seeds and of its file in `fuzz_targets`.
    pub(crate) name: &'static str,
    /// Panics if a promise is broken.
    pub(crate) run: fn(&[u8]),
    /// What a mutation may insert.
    pub(crate) words: &'static [&'static str],
    /// How many tokenizers or templates the first byte of an input selects among.
    pub(crate) kinds: fn() -> usize,
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\n",
    "\\u0000",
    "\\ud83d",
    "\\ude00",
    "null",
    "true",
    "NaN",
    "1e999",
    "-0",
    "\n",
    "\r\n",
    "\u{feff}",
    "\"instruction\":",
    "\"input\":",
    "\"output\":",
    "\"system\":",
    "\"history\":",
    "\"conversations\":",
    "\"from\":",
    "\"value\":",
    "\"human\"",
    "\"gpt\"",
    "\"function_call\"",
    "\"messages\":",
    "\"role\":",
    "\"content\":",
    "\"user\"",
    "\"assistant\"",
    "\"tool\"",
    "\"tool_calls\":",
    "\"function\":",
    "\"name\":",
    "\"arguments\":",
    "\"tools\":",
    "\"reasoning_content\":",
    "\"loss_weight\":",
    "\"type\":\"text\"",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
];
const JINJA: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{%-",
    "-%}",
    "{#",
    "#}",
    "for m in messages",
    "endfor",
    "if ",
    "elif ",
    "else",
    "endif",
    "set x = ",
    "macro f(a)",
    "endmacro",
    "loop.index0",
    "loop.previtem",
    "namespace(a=1)",
    "messages",
    "m.role",
    "m['content']",
    "|tojson",
    "|trim",
    "|length",
    "|join(', ')",
    "|indent(9)",
    "|sort",
    "|map(attribute='role')",
    "range(9)",
    "range(10**9)",
    "**",
    "//",
    "%",
    "~",
    "is defined",
    "is none",
    "not in",
    " and ",
    " or ",
    "[::-1]",
    ".split('x')",
    ".strip()",
    "'",
    "\"",
    "(",
    ")",
    "[",
    "]",
    "none",
    "true",
    "-1",
    "1.5e9",
    "raise_exception('x')",
    "strftime_now('%d')",
    "generation",
    "break",
];

/// All of them.
pub(crate) const TARGETS: [Target; 12] = [
    Target { name: "reader", run: reader::text, words: JSON, kinds: one },
    Target { name: "parquet", run: reader::parquet, words: &["PAR1"], kinds: one },
    Target { name: "alpaca", run: records::alpaca, words: JSON, kinds: one },
    Target { name: "sharegpt", run: records::sharegpt, words: JSON, kinds: one },
    Target { name: "messages", run: records::messages, words: JSON, kinds: one },
    Target { name: "detect", run: records::detected, words: JSON, kinds: one },
    Target { name: "frames", run: templates::frames, words: JSON, kinds: templates::frame_kinds },
    Target { name: "vendor", run: templates::vendor, words: JSON, kinds: templates::vendor_kinds },
    Target { name: "jinja", run: jinja::program, words: JINJA, kinds: one },
    Target { name: "engines", run: engines::check, words: &[], kinds: engines::kinds },
    Target { name: "packer", run: packer::check, words: &[], kinds: one },
    Target {
        name: "shard",
        run: shard::check,
        words: &["\"data_offsets\":", "\"shape\":", "\"I32\"", "\"I64\"", "[0,0]"],
        kinds: one,
    },
];

fn one() -> usize {
    1
}

/// Runs the target of that name.
#[allow(dead_code, reason = "of the fuzzer's binaries")]
pub(crate) fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    (target.run)(input);
}

/// A file with this content, in a folder of its own for each thread; in memory where there is such a place.
fn with_file<T>(content: &[u8], then: impl FnOnce(&std::path::Path) -> T) -> T {
    thread_local!(static FOLDER: tempfile::TempDir =
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
    FOLDER.with(|folder| {
        let path = folder.path().join("input");
        std::fs::write(&path, content).unwrap();
        then(&path)
    })
}
