//! Alpaca, ShareGPT and OpenAI messages: what each field means.

use super::layout::{Format, Layout};
use super::pyjson;
use super::raw::{Field, History, Raw, RawTurn, Turns};
use super::unique;
use crate::conversation::{Conversation, Message, Role};
use crate::reasons::{Detail, Reason};
use serde_json::Value;
use std::borrow::Cow;

impl Format {
    /// The format that a record's own keys show.
    pub(super) fn of(raw: &Raw<'_>) -> Option<Self> {
        [Self::Messages, Self::Sharegpt, Self::Alpaca].into_iter().find(|format| format.fits(raw))
    }

    /// Whether the record has the keys that this format cannot do without.
    pub(super) fn fits(self, raw: &Raw<'_>) -> bool {
        match self {
            Self::Alpaca => raw.instruction != Field::Missing || raw.output != Field::Missing,
            Self::Sharegpt => !matches!(raw.conversations, Turns::Missing),
            Self::Messages => !matches!(raw.messages, Turns::Missing),
        }
    }

    /// Adds the keys of other formats that stand in the record as well: they are not read.
    pub(super) fn ignored<'a>(self, raw: &Raw<'a>, keys: &mut Vec<Cow<'a, str>>) {
        let alpaca = self == Self::Alpaca;
        let fields = [("instruction", &raw.instruction), ("input", &raw.input), ("output", &raw.output)];
        keys.extend(fields.iter().filter(|(_, f)| !alpaca && **f != Field::Missing).map(|(name, _)| Cow::from(*name)));
        if !alpaca && !matches!(raw.history, History::Missing) {
            keys.push("history".into());
        }
        if self != Self::Sharegpt && Self::Sharegpt.fits(raw) {
            keys.push("conversations".into());
        }
        if self != Self::Messages && Self::Messages.fits(raw) {
            keys.push("messages".into());
        }
        let (list, name) = match self {
            Self::Alpaca => return,
            Self::Sharegpt => (&raw.conversations, "conversations"),
            Self::Messages => (&raw.messages, "messages"),
        };
        if let Turns::List(turns) = list {
            let mut names: Vec<_> = turns.iter().flatten().flat_map(|t| &t.others).collect();
            names.sort_unstable();
            names.dedup();
            keys.extend(names.into_iter().map(|key| Cow::from(format!("{name}[].{key}"))));
        }
    }

    /// The record as a dialogue, before any repair.
    pub(super) fn read<'a>(self, raw: Raw<'a>, layout: &Layout) -> Result<Conversation<'a>, Reason> {
        match self {
            Self::Alpaca => alpaca(raw, layout),
            Self::Sharegpt => turns(raw.conversations, raw.system, raw.tools, "conversations", layout),
            Self::Messages => turns(raw.messages, raw.system, raw.tools, "messages", layout),
        }
    }
}

fn alpaca<'a>(raw: Raw<'a>, layout: &Layout) -> Result<Conversation<'a>, Reason> {
    // A key that is not there is another mistake than an answer that is empty.
    if raw.output == Field::Missing && !matches!(raw.history, History::Pairs(_)) {
        return Err(Reason::MissingKey(layout.name_of("output").to_owned().into()));
    }
    let mut messages = Vec::with_capacity(3);
    system(raw.system, &mut messages)?;
    match raw.history {
        History::Missing => {}
        History::Other => return Err(Reason::NotPairs("history".into())),
        History::Pairs(pairs) => {
            for pair in pairs {
                let [question, answer] =
                    <[Field<'_>; 2]>::try_from(pair).map_err(|_| Reason::NotPairs("history".into()))?;
                messages.push(Message::new(Role::User, text(question, "history")?));
                messages.push(Message::new(Role::Assistant, text(answer, "history")?));
            }
        }
    }
    let (instruction, input) = (text(raw.instruction, "instruction")?, text(raw.input, "input")?);
    let prompt = match (instruction.is_empty(), input.is_empty()) {
        (_, true) => instruction,
        (true, false) => input,
        (false, false) => Cow::Owned([&*instruction, "\n", &*input].concat()),
    };
    messages.push(Message::new(Role::User, prompt));
    messages.push(Message::new(Role::Assistant, text(raw.output, "output")?));
    Ok(Conversation { messages, tools: tools(raw.tools)? })
}

fn turns<'a>(
    list: Turns<'a>,
    system_field: Field<'a>,
    tools_field: Field<'a>,
    name: &'static str,
    layout: &Layout,
) -> Result<Conversation<'a>, Reason> {
    let Turns::List(list) = list else {
        return Err(Reason::NotAList(name.into()));
    };
    let mut messages = Vec::with_capacity(list.len() + 1);
    system(system_field, &mut messages)?;
    for turn in list {
        let turn = turn.ok_or_else(|| Reason::NotAnObject(name.into()))?;
        messages.push(message(turn, layout)?);
    }
    Ok(Conversation { messages, tools: tools(tools_field)? })
}

/// The tools on offer; an empty list, as JSON or as text, is none.
fn tools(field: Field<'_>) -> Result<Option<Cow<'_, str>>, Reason> {
    match field {
        Field::Missing | Field::Null => Ok(None),
        Field::Text(text) if matches!(text.trim(), "" | "[]" | "{}" | "null") => Ok(None),
        Field::Text(text) => Ok(Some(text)),
        Field::Json(Value::Array(list)) if list.is_empty() => Ok(None),
        Field::Json(value) => Ok(Some(Cow::Owned(pyjson::dumps(&value)))),
        Field::Scalar(_) => Err(Reason::NotText("tools".into())),
    }
}

fn message<'a>(turn: RawTurn<'a>, layout: &Layout) -> Result<Message<'a>, Reason> {
    if let Some(key) = turn.repeated {
        return Err(Reason::KeyTwice(key.into_owned().into()));
    }
    let name = match turn.role {
        Field::Text(name) => name,
        Field::Missing | Field::Null => return Err(Reason::NoRole),
        Field::Json(_) | Field::Scalar(_) => return Err(Reason::NotText("role".into())),
    };
    let Some(speaker) = layout.speaker(&name) else {
        return Err(Reason::UnknownRole(shortened(&name)));
    };
    let mut reasoning = match turn.reasoning {
        Field::Text(text) if !text.is_empty() => Some(text),
        Field::Missing | Field::Null | Field::Text(_) => None,
        Field::Json(_) | Field::Scalar(_) => return Err(Reason::NotText("reasoning_content".into())),
    };
    let (mut tool_calls, mut call_ids) = (Vec::new(), Vec::new());
    match turn.tool_calls {
        Field::Missing | Field::Null => {}
        field => {
            let calls = listed(field)?;
            tool_calls = calls.iter().map(tool_call).collect::<Result<_, _>>()?;
            if layout.keeps("id") {
                call_ids = calls.iter().map(|call| call.get("id")?.as_str().map(str::to_owned)).collect();
            }
        }
    }
    match turn.function_call {
        Field::Missing | Field::Null => {}
        Field::Json(call @ Value::Object(_)) => {
            let call = tool_call(&call)?;
            // Some exports have one call under both names.
            if !tool_calls.contains(&call) {
                tool_calls.push(call);
            }
        }
        _ => return Err(Reason::ToolCallNotJson),
    }
    let mut content = match turn.content {
        Field::Json(Value::Array(parts)) => Cow::Owned(join_parts(&parts, &mut reasoning, &mut tool_calls)?),
        field => text(field, "content")?,
    };
    if speaker.calls {
        let calls;
        (content, calls) = said_and_called(content)?;
        tool_calls.extend(calls);
    }
    let loss = match turn.loss {
        Field::Missing | Field::Null => None,
        Field::Scalar(0.0) => Some(false),
        Field::Scalar(1.0) => Some(true),
        _ => return Err(Reason::LossWeightNot0Or1),
    };
    let mut message = Message { role: speaker.role, content, reasoning, tool_calls, call_ids, others: turn.kept, loss };
    if message.call_ids.iter().all(Option::is_none) {
        message.call_ids.clear();
    }
    Ok(message)
}

/// The calls of a turn. Tables, in which calls with other arguments would be other types, have them as JSON in texts: the
/// whole list, or each of it.
fn listed(calls: Field<'_>) -> Result<Vec<Value>, Reason> {
    let parsed = |text: &str| match unique::parse(text) {
        Some(Ok(value)) => Ok(value),
        Some(Err(key)) => Err(key_twice(&key)),
        None => Err(Reason::ToolCallNotJson),
    };
    let list = match calls {
        Field::Json(list) => list,
        Field::Text(text) if text.trim().is_empty() => return Ok(Vec::new()),
        Field::Text(text) => parsed(&text)?,
        _ => Value::Null,
    };
    let Value::Array(list) = list else { return Err(Reason::NotAList("tool_calls".into())) };
    list.into_iter().map(|call| if let Value::String(text) = call { parsed(&text) } else { Ok(call) }).collect()
}

/// `{"name": …, "arguments": …}` as the official templates print it, from either spelling.
fn tool_call(call: &Value) -> Result<String, Reason> {
    let function = call.get("function").unwrap_or(call);
    let (Some(Value::String(name)), Some(arguments)) = (function.get("name"), function.get("arguments")) else {
        return Err(Reason::ToolCallWithoutNameOrArguments);
    };
    let arguments = match arguments {
        Value::String(text) => arguments_in_text(text)?,
        Value::Object(_) => pyjson::dumps(arguments),
        _ => return Err(Reason::ToolCallArgumentsNotAnObject),
    };
    let name = pyjson::dumps(&Value::String(name.clone()));
    Ok(format!("{{\"name\": {name}, \"arguments\": {arguments}}}"))
}

/// OpenAI's form: JSON as text. It is kept as it is written; JSON of that text once more is undone.
fn arguments_in_text(text: &str) -> Result<String, Reason> {
    match unique::parse(text) {
        Some(Ok(Value::Object(_))) => Ok(text.to_owned()),
        Some(Ok(Value::String(inner))) => match unique::parse(&inner) {
            Some(Ok(Value::Object(_))) => Ok(inner),
            Some(Err(key)) => Err(key_twice(&key)),
            _ => Err(Reason::ToolCallArgumentsNotAnObject),
        },
        Some(Ok(_)) => Err(Reason::ToolCallArgumentsNotAnObject),
        Some(Err(key)) => Err(key_twice(&key)),
        None => Err(Reason::ToolCallArgumentsNotJson),
    }
}

/// The content of a turn whose role is a call: the thought before the calls, and the calls. Other text stays content.
fn said_and_called(content: Cow<'_, str>) -> Result<(Cow<'_, str>, Vec<String>), Reason> {
    const OPEN: &str = "<think>";
    const CLOSE: &str = "</think>";
    let thought = content.trim_start().starts_with(OPEN).then(|| content.find(CLOSE)).flatten();
    let json = thought.map_or(0, |at| at + CLOSE.len());
    match calls_in_text(&content[json..])? {
        Some(calls) => Ok((Cow::Owned(content[..json].to_owned()), calls)),
        None if content[json..].trim_start().starts_with(['{', '[']) => Err(Reason::ToolCallNotJson),
        None => Ok((content, Vec::new())),
    }
}

/// The calls that JSON text holds, one or a list of them; `None` if it is not JSON.
fn calls_in_text(text: &str) -> Result<Option<Vec<String>>, Reason> {
    match unique::parse(text) {
        Some(Ok(Value::Array(calls))) => calls.iter().map(tool_call).collect::<Result<_, _>>().map(Some),
        Some(Ok(call @ Value::Object(_))) => Ok(Some(vec![tool_call(&call)?])),
        Some(Err(key)) => Err(key_twice(&key)),
        _ => Ok(None),
    }
}

/// Content given in parts: the texts concatenated; thoughts and calls separate.
fn join_parts(
    parts: &[Value],
    reasoning: &mut Option<Cow<'_, str>>,
    tool_calls: &mut Vec<String>,
) -> Result<String, Reason> {
    let mut joined = String::new();
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
        let text = ["text", "value", "content", "reasoning", "thinking"].iter().find_map(|key| part.get(key)?.as_str());
        match (kind, text) {
            ("text", Some(text)) => joined.push_str(text),
            ("reasoning" | "thinking", Some(text)) => match reasoning {
                Some(before) => before.to_mut().push_str(text),
                None => *reasoning = Some(Cow::Owned(text.to_owned())),
            },
            ("tool_call" | "tool_calls", Some(text)) => {
                let calls = calls_in_text(text)?.filter(|calls| !calls.is_empty());
                tool_calls.extend(calls.ok_or(Reason::ToolCallNotJson)?);
            }
            _ => {
                return Err(Reason::NotText(format!("content[{}]", shortened(kind)).into()));
            }
        }
    }
    Ok(joined)
}

fn system<'a>(field: Field<'a>, messages: &mut Vec<Message<'a>>) -> Result<(), Reason> {
    let content = text(field, "system")?;
    if !content.is_empty() {
        messages.push(Message::new(Role::System, content));
    }
    Ok(())
}

/// The text of a field; missing and null are empty.
fn text<'a>(field: Field<'a>, name: &'static str) -> Result<Cow<'a, str>, Reason> {
    match field {
        Field::Text(text) => Ok(text),
        Field::Missing | Field::Null => Ok(Cow::Borrowed("")),
        Field::Json(_) | Field::Scalar(_) => Err(Reason::NotText(name.into())),
    }
}

/// Two values for one key.
pub(super) fn key_twice(key: &str) -> Reason {
    Reason::KeyTwice(shortened(key))
}

/// The beginning of a name out of the data, for a reason.
fn shortened(name: &str) -> Detail {
    name.chars().take(24).collect::<String>().into()
}
