//! Any text as a chat template: it is read and rendered, or refused, and never takes long.

use qlora_fast_core::jinja::{Program, Variable};
use std::time::{Duration, Instant};

/// A template may not take longer, on a slow machine with sanitizers.
const LONGEST: Duration = Duration::from_secs(10);

pub(crate) fn program(input: &[u8]) {
    let Ok(source) = std::str::from_utf8(input) else { return };
    let Ok(program) = Program::new(source) else { return };
    let message = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let messages = serde_json::json!([message("user", "a <b> {{ c }}"), message("assistant", "é\n 12")]);
    let variables = [
        ("messages", Variable::Json(messages, 1)),
        ("add_generation_prompt", Variable::Bool(true)),
        ("bos_token", Variable::word("<s>")),
        ("tools", Variable::None),
    ];
    let started = Instant::now();
    let _ = program.render(&variables, 100);
    assert!(started.elapsed() < LONGEST, "it took {:?}", started.elapsed());
}
