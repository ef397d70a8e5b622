//! Functions that every template has.

use super::arguments::{Given, integer};
use super::budget::Budget;
use super::fault::Fault;
use super::operators::{iterate, length};
use super::print::text_of;
use super::strings::str_of;
use super::value::{Callable, Dict, Range, Value};
use std::cell::RefCell;
use std::rc::Rc;

const NAMES: [&str; 9] =
    ["range", "dict", "namespace", "raise_exception", "strftime_now", "cycler", "joiner", "lipsum", BLOCKS];

/// Has the blocks of a template as its attributes; a chat template has none.
pub(super) const BLOCKS: &str = "self";

/// The date that `strftime_now` prints: the one that Llama's templates fall back to. Today's would give other bytes
/// tomorrow.
pub const FIXED_DATE: &str = "26 Jul 2024";

/// The most that the sandbox of Jinja2 lets `range` count.
const LONGEST_RANGE: usize = 100_000;

/// The global of this name.
pub(super) fn named(name: &str) -> Option<Value> {
    let known = NAMES.into_iter().find(|known| *known == name)?;
    Some(Value::Call(Rc::new(Callable::Global(known))))
}

pub(super) fn call(budget: &Budget, name: &str, given: Given) -> Result<Value, Fault> {
    match name {
        "range" => range(given),
        "dict" => dict(budget, given),
        "namespace" => namespace(budget, given),
        "raise_exception" => {
            let [message] = given.bind(name, ["message"], 0)?;
            let message = message.unwrap_or(Value::None);
            Err(Fault::Raised(text_of(budget, &message)?.as_str().to_owned()))
        }
        "strftime_now" => {
            let [Some(format)] = given.bind(name, ["format"], 1)? else {
                return Err(Fault::failed("a format is needed"));
            };
            Ok(Value::own(strftime(str_of(&format, name)?.as_str())?))
        }
        _ => Err(Fault::unsupported(format!("the function `{name}`"))),
    }
}

fn range(given: Given) -> Result<Value, Fault> {
    let [Some(first), second, third] = given.unnamed("range", 1)? else {
        return Err(Fault::failed("range needs a number"));
    };
    let first = integer(&first, "a bound of range")?;
    let step = third.as_ref().map_or(Ok(1), |step| integer(step, "a step of range"))?;
    let (start, stop) = match &second {
        None => (0, first),
        Some(stop) => (first, integer(stop, "a bound of range")?),
    };
    if step == 0 {
        return Err(Fault::failed("range() arg 3 must not be zero"));
    }
    let span = if step > 0 { stop.checked_sub(start) } else { start.checked_sub(stop) };
    let size = step.unsigned_abs();
    let length = span.map_or(u128::MAX, |span| (span.max(0) as u128).div_ceil(size));
    match usize::try_from(length).ok().filter(|length| *length <= LONGEST_RANGE) {
        Some(length) => Ok(Value::Range(Range { start, stop, step, length })),
        None => Err(Fault::failed("range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).")),
    }
}

/// The entries of `dict(mapping_or_pairs, name=value)`.
fn entries(budget: &Budget, given: Given) -> Result<Dict, Fault> {
    let mut dict = Dict::default();
    let Given { positional, named } = given;
    let [from] = Given { positional, named: Vec::new() }.unnamed("dict", 0)?;
    match from {
        None => {}
        Some(Value::Dict(from)) => {
            for (key, value) in from.entries() {
                dict.set(budget, key.clone(), value.clone())?;
            }
        }
        Some(pairs) => {
            for pair in iterate(budget, &pairs)? {
                if length(&pair)? != 2 {
                    return Err(Fault::failed("a dict is made of pairs"));
                }
                let mut pair = iterate(budget, &pair)?;
                if let (Some(value), Some(key)) = (pair.pop(), pair.pop()) {
                    dict.set(budget, key, value)?;
                }
            }
        }
    }
    for (name, value) in named {
        dict.set(budget, Value::own(name), value)?;
    }
    Ok(dict)
}

fn dict(budget: &Budget, given: Given) -> Result<Value, Fault> {
    Ok(Value::Dict(Rc::new(entries(budget, given)?)))
}

fn namespace(budget: &Budget, given: Given) -> Result<Value, Fault> {
    let mut own = Vec::new();
    for (key, value) in entries(budget, given)?.entries() {
        let name = str_of(key, "namespace")?.shared().clone();
        hidden(&name)?;
        own.push((name, value.clone()));
    }
    Ok(Value::Namespace(Rc::new(RefCell::new(own))))
}

/// transformers does not let a namespace hold what begins with an underscore.
pub(super) fn hidden(name: &str) -> Result<(), Fault> {
    if name.starts_with('_') {
        return Err(Fault::failed("Chat templates cannot store underscore-prefixed attributes on a namespace"));
    }
    Ok(())
}

/// Python's `strftime` of 26 July 2024, midnight, a Friday.
fn strftime(format: &str) -> Result<String, Fault> {
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let code = chars.next().unwrap_or('%');
        text.push_str(match code {
            '-' => match chars.next() {
                Some('d') => "26",
                Some('m') => "7",
                Some('H' | 'M' | 'S') => "0",
                _ => return Err(Fault::unsupported("this format of a date")),
            },
            'd' | 'e' => "26",
            'b' | 'h' => "Jul",
            'B' => "July",
            'm' => "07",
            'Y' => "2024",
            'y' => "24",
            'A' => "Friday",
            'a' => "Fri",
            'j' => "208",
            'u' | 'w' => "5",
            'F' => "2024-07-26",
            'D' => "07/26/24",
            'H' | 'M' | 'S' => "00",
            'I' => "12",
            'p' => "AM",
            'T' => "00:00:00",
            'R' => "00:00",
            '%' => "%",
            other => return Err(Fault::unsupported(format!("%{other} in a date"))),
        });
    }
    Ok(text)
}
