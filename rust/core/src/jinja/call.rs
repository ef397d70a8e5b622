//! Methods of values.

use super::arguments::{Given, integer_or};
use super::attributes::view;
use super::budget::Budget;
use super::fault::Fault;
use super::markup_methods;
use super::operators::{equal, iterate};
use super::strings;
use super::value::{Dict, Key, Loop, Value};
use std::rc::Rc;

/// `value.name(…)`.
pub(super) fn method(budget: &Budget, value: &Value, name: &str, given: Given) -> Result<Value, Fault> {
    match value {
        Value::Text(text) => strings::method(budget, text, name, given),
        Value::Safe(text) => markup_methods::method(budget, text, name, given),
        Value::Dict(dict) => of_dict(budget, dict, name, given),
        Value::List(_) | Value::Tuple(_) | Value::Range(_) => of_list(budget, value, name, given),
        Value::Loop(state) => of_loop(budget, state, name, given),
        Value::Int(i) if name == "bit_length" => {
            let [] = given.unnamed(name, 0)?;
            Ok(Value::Int((128 - i.unsigned_abs().leading_zeros()).into()))
        }
        Value::Float(f) if name == "is_integer" => {
            let [] = given.unnamed(name, 0)?;
            Ok(Value::Bool(f.fract() == 0.0 && f.is_finite()))
        }
        other => Err(Fault::unsupported(format!("the method `{name}` of a {}", other.kind()))),
    }
}

fn of_dict(budget: &Budget, dict: &Rc<Dict>, name: &str, given: Given) -> Result<Value, Fault> {
    if let Some(view) = view(name) {
        let [] = given.unnamed(name, 0)?;
        return Ok(Value::View(view, dict.clone()));
    }
    match name {
        "get" => {
            let [Some(key), default] = given.unnamed(name, 1)? else { return Err(Fault::failed("get needs a key")) };
            let found = dict.get(&Key::of(&key)?).cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        "copy" => {
            let [] = given.unnamed(name, 0)?;
            let mut copy = Dict::default();
            for (key, value) in dict.entries() {
                copy.set(budget, key.clone(), value.clone())?;
            }
            Ok(Value::Dict(Rc::new(copy)))
        }
        _ => Err(Fault::unsupported(format!("the method `{name}` of a dict"))),
    }
}

fn of_list(budget: &Budget, value: &Value, name: &str, given: Given) -> Result<Value, Fault> {
    match name {
        "count" => {
            let [Some(wanted)] = given.unnamed(name, 1)? else { return Err(Fault::failed("count needs a value")) };
            let mut count = 0;
            for item in iterate(budget, value)? {
                count += i128::from(equal(budget, &item, &wanted)?);
            }
            Ok(Value::Int(count))
        }
        "index" => {
            let [Some(wanted), start, stop] = given.unnamed(name, 1)? else {
                return Err(Fault::failed("index needs a value"));
            };
            let items = iterate(budget, value)?;
            let length = items.len() as i128;
            let bound = |i: i128| if i < 0 { i.saturating_add(length).max(0) } else { i.min(length) };
            let start = bound(integer_or(start.as_ref(), 0, "a bound")?);
            let stop = bound(integer_or(stop.as_ref(), length, "a bound")?);
            for at in start..stop {
                if equal(budget, &items[at as usize], &wanted)? {
                    return Ok(Value::Int(at));
                }
            }
            Err(Fault::failed("the value is not in the list"))
        }
        "copy" => {
            let [] = given.unnamed(name, 0)?;
            Value::list(budget, iterate(budget, value)?)
        }
        _ => Err(Fault::unsupported(format!("the method `{name}` of a {}", value.kind()))),
    }
}

fn of_loop(budget: &Budget, state: &Loop, name: &str, given: Given) -> Result<Value, Fault> {
    if !given.named.is_empty() {
        return Err(Fault::failed(format!("{name} takes no arguments by name")));
    }
    let values = given.positional;
    if name == "cycle" {
        if values.is_empty() {
            return Err(Fault::failed("no items for cycling given"));
        }
        return Ok(values[state.index.get() % values.len()].clone());
    }
    let mut last = state.last.borrow_mut();
    let same = match last.as_ref() {
        Some(last) => equal(budget, &Value::tuple(budget, last.clone())?, &Value::tuple(budget, values.clone())?)?,
        None => false,
    };
    if !same {
        *last = Some(values);
    }
    Ok(Value::Bool(!same))
}
