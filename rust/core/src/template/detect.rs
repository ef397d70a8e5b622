//! Which built-in template is a model's own: rendered side by side on probe conversations, not guessed from words in it.

use super::{ChatTemplate, Learn, Rendered, ToolStyle, builtin};
use crate::conversation::{Conversation, Message, Role};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Template, Value, context};

/// The first built-in template that prints exactly what `chat_template` (Jinja) prints, on every probe: dialogues,
/// prompts for an answer, and tools where the built-in one knows any.
#[must_use]
pub fn detect(chat_template: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Option<&'static ChatTemplate> {
    let mut environment = Environment::new();
    // transformers renders chat templates with these two, and with Python's string methods.
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().ok()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    // The probes hold their tools and arguments as JSON text already.
    environment.add_filter("tojson", |json: String| json);
    let own = Jinja { template: environment.template_from_str(chat_template).ok()?, bos_token, eos_token };
    let probes: Vec<_> = probes().into_iter().map(|probe| (own.print(&probe), probe)).collect();
    builtin::names().into_iter().filter_map(builtin::find).find(|template| {
        probes.iter().all(|(printed, probe)| {
            (probe.talk.tools.is_some() && template.tools == ToolStyle::Unknown)
                || printed.as_ref().is_some_and(|text| *text == print(template, probe, eos_token.unwrap_or("")))
        })
    })
}

struct Probe {
    talk: Conversation<'static>,
    /// Whether the model is to answer next, without thinking.
    prompt: bool,
}

struct Jinja<'e> {
    template: Template<'e, 'e>,
    bos_token: Option<&'e str>,
    eos_token: Option<&'e str>,
}

impl Jinja<'_> {
    fn print(&self, probe: &Probe) -> Option<String> {
        let call = |json: &String| {
            let (name, arguments) = json.strip_prefix("{\"name\": \"")?.split_once("\", \"arguments\": ")?;
            Some(context! { function => context! { name, arguments => arguments.strip_suffix('}')? } })
        };
        let messages: Vec<Value> = probe
            .talk
            .messages
            .iter()
            .map(|m| {
                let (role, content) = (m.role.name(), m.content.as_ref());
                let tool_calls: Vec<Value> = m.tool_calls.iter().filter_map(call).collect();
                if tool_calls.is_empty() {
                    context! { role, content }
                } else {
                    context! { role, content, tool_calls }
                }
            })
            .collect();
        let Self { template, bos_token, eos_token } = self;
        // One tool, the text between the brackets of the list.
        let tools = probe.talk.tools.as_deref().map(|list| vec![list[1..list.len() - 1].to_owned()]);
        let add_generation_prompt = probe.prompt;
        let given = context! { messages, tools, bos_token, eos_token, add_generation_prompt, enable_thinking => false };
        template.render(given).ok()
    }
}

fn print(template: &ChatTemplate, probe: &Probe, eos: &str) -> String {
    let mut rendered: Rendered<'_> = template.render(&probe.talk, None, Learn::default());
    if probe.prompt {
        rendered.turns.push(template.generation_prompt(false));
    }
    rendered.text(eos)
}

/// Conversations that tell templates apart: system or none, blanks at the edges, several turns, thoughts, tools.
fn probes() -> Vec<Probe> {
    use Role::{Assistant, System, Tool, User};
    let talk = |turns: &[(Role, &'static str)]| {
        let messages = turns.iter().map(|&(role, text)| Message::new(role, text)).collect();
        Probe { talk: Conversation { messages, tools: None }, prompt: turns.last().is_some_and(|t| t.0 == User) }
    };
    let mut tools = talk(&[(User, "Rain?"), (Assistant, ""), (Tool, "yes"), (Assistant, "It rains.")]);
    tools.talk.messages[1].tool_calls = vec![r#"{"name": "rain", "arguments": {"city": "Ulm"}}"#.to_owned()];
    tools.talk.tools = Some(r#"[{"type": "function", "function": {"name": "rain"}}]"#.into());
    vec![
        talk(&[(User, "What is 2+2?"), (Assistant, "4")]),
        talk(&[(System, "Be brief."), (User, "Hi"), (Assistant, "Hello")]),
        talk(&[(User, "  a\n"), (Assistant, "b "), (User, "c"), (Assistant, " d")]),
        talk(&[
            (User, "q"),
            (Assistant, "<think>\nhm\n</think>\n\na"),
            (User, "r"),
            (Assistant, "<think>\nho\n</think>\n\nb"),
        ]),
        talk(&[(System, "s"), (User, "q"), (Assistant, "a"), (User, "r")]),
        tools,
    ]
}
