//! Templates, encoded and truncated: control tokens are the template's alone, spans lie in the sample, a cut sample fits.
//!
//! The first byte selects the template, the second one the longest sample; the rest is a record.

use crate::tokenizers::repo;
use qlora_fast_core::encode::{Encoded, Encoder};
use qlora_fast_core::record::{self, Variables};
use qlora_fast_core::template::{self, Kind, Learn, Rendered, Source, Template};
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use qlora_fast_core::truncate::{self, Rule};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::load(&repo("tests/data/tokenizer/tokenizer.json"), Choice::Native, None).unwrap());

fn encoders(templates: Vec<Template>) -> Vec<Encoder<'static>> {
    let leaked: &'static [Template] = Vec::leak(templates);
    leaked.iter().filter_map(|template| Encoder::new(template, &TOKENIZER, Some("<|im_end|>")).ok()).collect()
}

static FRAMES: LazyLock<Vec<Encoder<'static>>> = LazyLock::new(|| {
    let named = |name: &&str| Template::new(&Source::named(name), None, Some("<|im_end|>")).unwrap();
    encoders(template::names().iter().map(named).collect())
});

static VENDOR: LazyLock<Vec<Encoder<'static>>> = LazyLock::new(|| {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(repo("tests/data/chat_templates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    files.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        Template::new(&Source::jinja(&text), Some("<s>"), Some("<|im_end|>")).unwrap()
    };
    encoders(files.iter().map(read).collect())
});

static CONTROLS: LazyLock<HashSet<u32>> =
    LazyLock::new(|| TOKENIZER.added().iter().filter(|token| token.special).map(|token| token.id).collect());

fn check(input: &[u8], encoders: &[Encoder<'_>]) {
    let [which, longest, record @ ..] = input else { return };
    let encoder = &encoders[usize::from(*which) % encoders.len()];
    let Ok(text) = std::str::from_utf8(record) else { return };
    let Ok(parsed) = record::parse(text, None, &Variables::new()) else { return };
    let Ok(dialogue) = parsed.conversation else { return };
    let Ok(samples) = encoder.samples(&dialogue, None, Learn::default()) else { return };
    for rendered in &samples {
        sample(encoder, rendered, usize::from(*longest) + 1);
    }
}

fn sample(encoder: &Encoder<'_>, rendered: &Rendered<'_>, longest: usize) {
    let segments = || rendered.turns.iter().flat_map(|turn| &turn.segments);
    assert!(segments().all(|segment| !segment.content || segment.kind == Kind::Text), "data wrote a control token");
    let encoded = encoder.encode(&rendered.turns).unwrap();
    spans(&encoded);
    let wrote = segments().filter(|s| s.kind != Kind::Text).filter_map(|s| encoder.control(&s.text));
    let wanted: Vec<u32> = wrote.filter(|id| CONTROLS.contains(id)).collect();
    let found: Vec<u32> = encoded.ids.iter().copied().filter(|id| CONTROLS.contains(id)).collect();
    assert_eq!(found, wanted, "control tokens are exactly those of the template");
    for rule in [Rule::Structure, Rule::Llamafactory] {
        if let Ok(cut) = truncate::truncate(encoder, &rendered.turns, longest, rule, false) {
            assert!(cut.encoded.ids.len() <= longest, "{rule:?}");
            assert!(!cut.encoded.spans.is_empty(), "{rule:?}");
            spans(&cut.encoded);
        }
    }
}

fn spans(encoded: &Encoded) {
    let mut before = 0;
    for &(from, to) in &encoded.spans {
        assert!(before <= from && from < to && to as usize <= encoded.ids.len(), "{:?}", encoded.spans);
        before = to;
    }
}

pub(crate) fn frame_kinds() -> usize {
    FRAMES.len()
}

pub(crate) fn vendor_kinds() -> usize {
    VENDOR.len()
}

pub(crate) fn frames(input: &[u8]) {
    check(input, &FRAMES);
}

pub(crate) fn vendor(input: &[u8]) {
    check(input, &VENDOR);
}
