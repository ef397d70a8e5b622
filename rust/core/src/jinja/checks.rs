//! The tests of Jinja2: what stands behind `is`.

use super::arguments::Given;
use super::ast::Binary;
use super::budget::Budget;
use super::classes;
use super::fault::Fault;
use super::globals::BLOCKS;
use super::names::{COMPARISONS, is_filter, is_test};
use super::operators::{binary, equal, holds};
use super::print::text_of;
use super::value::{Callable, Value};
use std::rc::Rc;

/// `value is name(…)`.
pub(super) fn check(budget: &Budget, name: &str, value: &Value, given: Given) -> Result<bool, Fault> {
    budget.steps(1)?;
    if let Some((_, comparison)) = COMPARISONS.iter().find(|(names, _)| names.contains(&name)) {
        let [Some(other)] = given.bind(name, ["other"], 1)? else { return Err(Fault::failed("a test needs a value")) };
        return holds(budget, *comparison, value, &other);
    }
    let remainder = |by: &Value, wanted: i128| {
        let rest = binary(budget, Binary::Remainder, value, by)?;
        equal(budget, &rest, &Value::Int(wanted))
    };
    match name {
        "divisibleby" => {
            let [Some(by)] = given.bind(name, ["num"], 1)? else { return Err(Fault::failed("a test needs a value")) };
            return remainder(&by, 0);
        }
        "sameas" => {
            let [Some(other)] = given.bind(name, ["other"], 1)? else {
                return Err(Fault::failed("a test needs a value"));
            };
            return same(value, &other);
        }
        _ => {}
    }
    let [] = given.bind(name, [], 0)?;
    Ok(match name {
        "odd" => remainder(&Value::Int(2), 1)?,
        "even" => remainder(&Value::Int(2), 0)?,
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_)),
        "string" => value.as_text().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Text(_)
                | Value::Safe(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "iterable" => !matches!(
            value,
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Namespace(_) | Value::Call(_)
        ),
        "callable" => match value {
            Value::Call(call) => !matches!(**call, Callable::Global(BLOCKS)),
            value => matches!(value, Value::Undefined(_)),
        },
        "escaped" => matches!(value, Value::Safe(_)),
        "lower" | "upper" => {
            let text = text_of(budget, value)?;
            classes::method(text.as_str(), if name == "lower" { "islower" } else { "isupper" }).unwrap_or(Ok(false))?
        }
        "filter" | "test" => {
            super::value::Key::of(value)?;
            let known = if name == "filter" { is_filter } else { is_test };
            value.as_text().is_some_and(|text| known(text.as_str()))
        }
        _ => return Err(Fault::failed(format!("No test named '{name}'."))),
    })
}

/// Python's `is`: certain for what exists once, and for what the template has made.
fn same(a: &Value, b: &Value) -> Result<bool, Fault> {
    Ok(match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        _ if std::mem::discriminant(a) == std::mem::discriminant(b) => {
            return Err(Fault::unsupported(format!("`sameas` of a {}", a.kind())));
        }
        _ => false,
    })
}
