//! Probe conversations, on which templates differ.

use super::jinja::{Asked, Jinja};
use crate::conversation::{Conversation, Message, Role};
use crate::jinja::Fault;

/// A conversation to render both ways.
pub(super) struct Probe {
    /// What it tests.
    pub(super) name: &'static str,
    pub(super) talk: Conversation<'static>,
    /// The model is to answer next: with thinking or without.
    pub(super) thinking: Option<bool>,
}

impl Probe {
    /// What the model's own template prints.
    pub(super) fn own(&self, jinja: &Jinja) -> Result<String, Fault> {
        jinja.direct(&self.talk, Asked { prompt: self.thinking.is_some(), thinking: self.thinking })
    }
}

/// With and without system prompt, several turns, leading and trailing blanks, reasoning, tools, generation prompts.
pub(super) fn probes() -> Vec<Probe> {
    use Role::{Assistant, System, Tool, User};
    let talk = |name, turns: &[(Role, &'static str)]| {
        let messages = turns.iter().map(|&(role, text)| Message::new(role, text)).collect();
        let asked = turns.last().is_some_and(|t| t.0 == User);
        Probe { name, talk: Conversation { messages, tools: None }, thinking: asked.then_some(false) }
    };
    let mut tools = talk("tools", &[(User, "Rain?"), (Assistant, ""), (Tool, "yes"), (Assistant, "It rains.")]);
    tools.talk.messages[1].tool_calls = vec![r#"{"name": "rain", "arguments": {"city": "Ulm"}}"#.to_owned()];
    tools.talk.tools = Some(r#"[{"type": "function", "function": {"name": "rain"}}]"#.into());
    let prompt = [(System, "s"), (User, "q"), (Assistant, "a"), (User, "r")];
    let mut thinking = talk("prompt, thinking", &prompt);
    thinking.thinking = Some(true);
    vec![
        talk("one turn", &[(User, "What is 2+2?"), (Assistant, "4")]),
        talk("system", &[(System, "Be brief."), (User, "Hi"), (Assistant, "Hello")]),
        talk("blanks at the edges", &[(User, "  a\n"), (Assistant, "b "), (User, "c"), (Assistant, " d")]),
        talk(
            "thoughts",
            &[
                (User, "q"),
                (Assistant, "<think>\nhm\n</think>\n\na"),
                (User, "r"),
                (Assistant, "<think>\nho\n</think>\n\nb"),
            ],
        ),
        talk("prompt", &[(User, "q"), (Assistant, "a"), (User, "r")]),
        talk("prompt, system", &prompt),
        thinking,
        tools,
    ]
}
