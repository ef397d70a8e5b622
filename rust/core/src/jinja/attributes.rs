//! `value.name`, `value[key]` and `value[start:stop:step]`, as the sandbox of Jinja2 allows them.

use super::arguments::integer;
use super::budget::Budget;
use super::fault::Fault;
use super::markup;
use super::numeric::{number, undefined};
use super::text::Writer;
use super::value::{Callable, Key, Loop, Range, Value, View};
use std::rc::Rc;
use std::sync::Arc;

/// Methods of texts; those that nothing implements fail when they are called.
const OF_TEXT: [&str; 46] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
];
const OF_LIST: [&str; 3] = ["copy", "count", "index"];
const OF_DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const OF_TUPLE: [&str; 2] = ["count", "index"];
const OF_NUMBER: [&str; 10] = [
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "from_bytes",
    "fromhex",
    "hex",
    "is_integer",
    "to_bytes",
    "zfill",
];
/// What would change a list or a dictionary: the sandbox does not let it be called.
const UNSAFE: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "remove",
    "reverse",
    "sort",
    "popitem",
    "setdefault",
    "update",
    "add",
];

/// `value.name`.
pub(super) fn attribute(budget: &Budget, value: &Value, name: &Arc<str>) -> Result<Value, Fault> {
    if let Value::Undefined(missing) = value {
        return Err(undefined(missing));
    }
    if let Some(found) = own_attribute(budget, value, name)? {
        return Ok(found);
    }
    Ok(match value {
        Value::Dict(dict) => dict.get_text(name).cloned().unwrap_or_else(|| Value::Undefined(name.clone())),
        _ => Value::Undefined(name.clone()),
    })
}

/// What Python's `getattr` gives.
pub(super) fn own_attribute(budget: &Budget, value: &Value, name: &Arc<str>) -> Result<Option<Value>, Fault> {
    if name.starts_with("__") && name.ends_with("__") {
        // The sandbox hides what Python has of this sort.
        return Ok(Some(Value::Undefined(name.clone())));
    }
    let method = |known: &[&str]| {
        let there = known.contains(&&**name);
        there.then(|| Value::Call(Rc::new(Callable::Method(value.clone(), name.clone()))))
    };
    let hidden = || UNSAFE.contains(&&**name).then(|| Value::Undefined(name.clone()));
    Ok(match value {
        Value::Text(_) | Value::Safe(_) if &**name == "zfill" => method(&["zfill"]),
        Value::Safe(_) if matches!(&**name, "escape" | "striptags" | "unescape") => {
            return Err(Fault::unsupported(format!("`{name}` of a Markup")));
        }
        Value::Text(_) | Value::Safe(_) => method(&OF_TEXT),
        Value::List(_) => method(&OF_LIST).or_else(hidden),
        Value::Tuple(_) => method(&OF_TUPLE),
        Value::Dict(_) => method(&OF_DICT).or_else(|| {
            ["clear", "pop", "popitem", "setdefault", "update"]
                .contains(&&**name)
                .then(|| Value::Undefined(name.clone()))
        }),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => match &**name {
            "real" => number(value).map(|n| match n {
                super::numeric::Number::Int(i) => Value::Int(i),
                super::numeric::Number::Float(f) => Value::Float(f),
            }),
            "imag" => Some(if matches!(value, Value::Float(_)) { Value::Float(0.0) } else { Value::Int(0) }),
            "zfill" => None,
            "numerator" | "denominator" => return Err(Fault::unsupported("fractions")),
            _ => method(&OF_NUMBER),
        },
        Value::Range(range) => match &**name {
            "start" => Some(Value::Int(range.start)),
            "stop" => Some(Value::Int(range.stop)),
            "step" => Some(Value::Int(range.step)),
            _ => method(&OF_TUPLE),
        },
        Value::Namespace(entries) => {
            let entries = entries.borrow();
            entries.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
        }
        Value::Loop(state) => of_loop(budget, state, name)?.or_else(|| method(&["changed", "cycle"])),
        Value::View(..) if matches!(&**name, "mapping" | "isdisjoint") => {
            return Err(Fault::unsupported(format!("`{name}` of a {}", value.kind())));
        }
        Value::Call(_) if matches!(&**name, "name" | "arguments" | "catch_kwargs" | "catch_varargs" | "caller") => {
            return Err(Fault::unsupported(format!("`{name}` of a function")));
        }
        Value::Once(_) if matches!(&**name, "send" | "throw" | "close") => {
            return Err(Fault::unsupported(format!("`{name}` of a {}", value.kind())));
        }
        _ => None,
    })
}

/// `loop.name`.
fn of_loop(budget: &Budget, state: &Loop, name: &str) -> Result<Option<Value>, Fault> {
    let (index, length) = (state.index.get(), state.items.len());
    let int = |i: usize| Some(Value::Int(i as i128));
    budget.steps(1)?;
    Ok(match name {
        "index" => int(index + 1),
        "index0" => int(index),
        "revindex" => int(length - index),
        "revindex0" => int(length - index - 1),
        "first" => Some(Value::Bool(index == 0)),
        "last" => Some(Value::Bool(index + 1 == length)),
        "length" => int(length),
        "depth" => int(state.depth),
        "depth0" => int(state.depth - 1),
        "previtem" if index == 0 => Some(Value::undefined("there is no previous item")),
        "previtem" => Some(state.items[index - 1].clone()),
        "nextitem" => {
            Some(state.items.get(index + 1).cloned().unwrap_or_else(|| Value::undefined("there is no next item")))
        }
        _ => None,
    })
}

/// `value[key]`.
pub(super) fn item(budget: &Budget, value: &Value, key: &Value) -> Result<Value, Fault> {
    let index = match key {
        Value::Int(i) => Some(*i),
        Value::Bool(b) => Some(i128::from(*b)),
        _ => None,
    };
    let place = |length: usize| {
        let index = index?;
        let from_end = if index < 0 { index + length as i128 } else { index };
        usize::try_from(from_end).ok().filter(|&at| at < length)
    };
    let found = match value {
        Value::Undefined(name) => return Err(undefined(name)),
        Value::Dict(dict) => Key::of(key).ok().and_then(|key| dict.get(&key).cloned()),
        Value::List(items) | Value::Tuple(items) => place(items.items.len()).map(|at| items.items[at].clone()),
        Value::Range(range) => place(range.length).map(|at| range.at(at)),
        Value::Safe(text) if index.is_some() => {
            return item(budget, &Value::Text(text.clone()), key).map(markup::safe);
        }
        Value::Text(text) if index.is_some() => {
            let chars = text.as_str();
            budget.steps(chars.len() / 64)?;
            let count = if chars.is_ascii() { chars.len() } else { chars.chars().count() };
            match place(count).and_then(|at| chars.char_indices().nth(at)) {
                Some((at, c)) => Some(Value::Text(text.slice(budget, at..at + c.len_utf8())?)),
                None => None,
            }
        }
        Value::Loop(_) | Value::Namespace(_) if !matches!(key, Value::Text(_)) => None,
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    if let Value::Text(name) = key
        && let Some(found) = own_attribute(budget, value, name.shared())?
    {
        return Ok(found);
    }
    let name: Arc<str> = match key {
        Value::Text(name) => name.shared().clone(),
        Value::Int(i) => i.to_string().into(),
        other => other.kind().into(),
    };
    Ok(Value::Undefined(name))
}

/// `value[start:stop:step]`.
pub(super) fn slice(budget: &Budget, value: &Value, bounds: &[Option<Value>; 3]) -> Result<Value, Fault> {
    if let Value::Undefined(name) = value {
        return Err(undefined(name));
    }
    let (length, chars) = match value {
        Value::Text(text) => (text.as_str().chars().count(), text.as_str().len()),
        Value::List(items) | Value::Tuple(items) => (items.items.len(), 0),
        Value::Range(range) => (range.length, 0),
        Value::Safe(text) => return slice(budget, &Value::Text(text.clone()), bounds).map(markup::safe),
        other => return Err(Fault::failed(format!("a {} has no parts", other.kind()))),
    };
    budget.steps(chars / 64)?;
    let mut parts = [None; 3];
    for (part, bound) in parts.iter_mut().zip(bounds) {
        *part = match bound {
            None | Some(Value::None) => None,
            Some(bound @ (Value::Int(_) | Value::Bool(_))) => Some(integer(bound, "a bound")?),
            Some(_) => return Err(Fault::failed("slice indices must be integers or None")),
        };
    }
    let [start, stop, step] = parts;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Fault::failed("slice step cannot be zero"));
    }
    let (from, to) = indices(start, stop, step, length as i128);
    let count = if step > 0 { (to - from + step - 1).max(0) / step } else { (from - to - step - 1).max(0) / -step };
    let picks = (0..count).map(|i| (from + i * step) as usize);
    budget.steps(count as usize)?;
    match value {
        Value::Text(text) => {
            let places: Vec<_> = text.as_str().char_indices().map(|(at, _)| at).chain([chars]).collect();
            let mut writer = Writer::new(budget);
            if step == 1 && count > 0 {
                writer.part(text, places[from as usize]..places[to as usize])?;
            } else {
                for at in picks {
                    writer.part(text, places[at]..places[at + 1])?;
                }
            }
            Ok(Value::Text(writer.finish()))
        }
        Value::List(items) => Value::list(budget, picks.map(|at| items.items[at].clone()).collect()),
        Value::Tuple(items) => Value::tuple(budget, picks.map(|at| items.items[at].clone()).collect()),
        Value::Range(range) => {
            let at = |index: i128| range.start + range.step * index;
            let (start, stop) = (at(from), at(to));
            Ok(Value::Range(Range { start, stop, step: range.step * step, length: count as usize }))
        }
        other => Err(Fault::failed(format!("a {} has no parts", other.kind()))),
    }
}

/// Python's `slice.indices`.
fn indices(start: Option<i128>, stop: Option<i128>, step: i128, length: i128) -> (i128, i128) {
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |given: Option<i128>, default: i128| match given {
        None => default,
        Some(i) if i < 0 => i.saturating_add(length).max(low),
        Some(i) => i.min(high),
    };
    if step > 0 { (bound(start, low), bound(stop, high)) } else { (bound(start, high), bound(stop, low)) }
}

/// The value of a view that a method of a dictionary returns.
pub(super) fn view(name: &str) -> Option<View> {
    match name {
        "keys" => Some(View::Keys),
        "values" => Some(View::Values),
        "items" => Some(View::Items),
        _ => None,
    }
}
