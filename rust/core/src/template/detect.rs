//! Which built-in template is a model's own: rendered side by side on probe conversations, not guessed from words in it.

use super::{ChatTemplate, Learn, builtin};
use crate::conversation::{Conversation, Message, Role};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, context};

/// The first built-in template that prints exactly what `chat_template` (Jinja) prints, on every probe.
#[must_use]
pub fn detect(chat_template: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Option<&'static ChatTemplate> {
    let mut environment = Environment::new();
    // transformers renders chat templates with these two, and with Python's string methods.
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().ok()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
    });
    let own = environment.template_from_str(chat_template).ok()?;
    let probes = probes();
    let printed: Option<Vec<String>> = probes
        .iter()
        .map(|probe| {
            let messages: Vec<_> = probe
                .messages
                .iter()
                .map(|m| context! { role => m.role.name(), content => m.content.as_ref() })
                .collect();
            own.render(context! { messages, bos_token, eos_token, add_generation_prompt => false }).ok()
        })
        .collect();
    let printed = printed?;
    builtin::names().into_iter().filter_map(builtin::find).find(|template| {
        probes
            .iter()
            .zip(&printed)
            .all(|(probe, text)| template.render(probe, None, Learn::default()).text(eos_token.unwrap_or("")) == *text)
    })
}

/// Conversations that tell templates apart: system or none, blanks at the edges, several turns, thoughts.
fn probes() -> Vec<Conversation<'static>> {
    use Role::{Assistant, System, User};
    let dialogue = |turns: &[(Role, &'static str)]| Conversation {
        messages: turns.iter().map(|&(role, text)| Message::new(role, text)).collect(),
        tools: None,
    };
    vec![
        dialogue(&[(User, "What is 2+2?"), (Assistant, "4")]),
        dialogue(&[(System, "Be brief."), (User, "Hi"), (Assistant, "Hello")]),
        dialogue(&[(User, "  a\n"), (Assistant, "b "), (User, "c"), (Assistant, " d")]),
        dialogue(&[
            (User, "q"),
            (Assistant, "<think>\nhm\n</think>\n\na"),
            (User, "r"),
            (Assistant, "<think>\nho\n</think>\n\nb"),
        ]),
    ]
}
