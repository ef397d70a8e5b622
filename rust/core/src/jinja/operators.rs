//! Python's operators.

use super::ast::{Binary, Comparison};
use super::budget::Budget;
use super::fault::Fault;
use super::format::percent;
use super::markup;
use super::numeric::{Number, number, undefined};
use super::text::Writer;
use super::value::{Key, Value, View};
use std::cmp::Ordering;
use std::rc::Rc;

fn large<T>() -> Result<T, Fault> {
    Err(Fault::unsupported("numbers beyond 127 bits"))
}

pub(super) fn binary(budget: &Budget, operator: Binary, left: &Value, right: &Value) -> Result<Value, Fault> {
    let formats = operator == Binary::Remainder && matches!(left, Value::Text(_));
    for value in [left, right] {
        match value {
            Value::Undefined(_) if formats => {}
            Value::Undefined(name) => return Err(undefined(name)),
            Value::Safe(_) if operator == Binary::Remainder => {
                return Err(Fault::unsupported("`%` with what the filter `safe` returned"));
            }
            _ => {}
        }
    }
    if let (Some(a), Some(b)) = (number(left), number(right)) {
        return arithmetic(operator, a, b);
    }
    let mismatch = || Fault::failed(format!("{operator:?} of {} and {}", left.kind(), right.kind()));
    match (operator, left, right) {
        (Binary::Add, Value::Safe(_), _) | (Binary::Add, _, Value::Safe(_)) => markup::add(budget, left, right),
        (Binary::Multiply, Value::Safe(text), times) | (Binary::Multiply, times, Value::Safe(text)) => {
            repeat(budget, &Value::Text(text.clone()), times).map(markup::safe)
        }
        (Binary::Add, Value::Text(a), Value::Text(b)) => {
            let mut writer = Writer::new(budget);
            writer.text(a)?;
            writer.text(b)?;
            Ok(Value::Text(writer.finish()))
        }
        (Binary::Add, Value::List(a), Value::List(b)) => {
            budget.steps(a.items.len() + b.items.len())?;
            Value::list(budget, [a.items.as_slice(), &b.items].concat())
        }
        (Binary::Add, Value::Tuple(a), Value::Tuple(b)) => {
            budget.steps(a.items.len() + b.items.len())?;
            Value::tuple(budget, [a.items.as_slice(), &b.items].concat())
        }
        (Binary::Multiply, Value::Int(_) | Value::Bool(_), Value::Text(_) | Value::List(_) | Value::Tuple(_)) => {
            repeat(budget, right, left)
        }
        (Binary::Multiply, Value::Text(_) | Value::List(_) | Value::Tuple(_), Value::Int(_) | Value::Bool(_)) => {
            repeat(budget, left, right)
        }
        (Binary::Remainder, Value::Text(format), _) => percent(budget, format, right).map(Value::Text),
        (Binary::Subtract, Value::View(..), _) => Err(Fault::unsupported("sets")),
        _ => Err(mismatch()),
    }
}

fn repeat(budget: &Budget, value: &Value, times: &Value) -> Result<Value, Fault> {
    let times = match number(times) {
        Some(Number::Int(n)) => usize::try_from(n.max(0)).unwrap_or(usize::MAX),
        _ => return Err(Fault::failed("a count must be a whole number")),
    };
    match value {
        Value::Text(text) => {
            let mut writer = Writer::new(budget);
            if !text.as_str().is_empty() {
                writer.repeat(text, times)?;
            }
            Ok(Value::Text(writer.finish()))
        }
        Value::List(items) | Value::Tuple(items) => {
            budget.steps(items.items.len().saturating_mul(times))?;
            let times = if items.items.is_empty() { 0 } else { times };
            let repeated = (0..times).flat_map(|_| items.items.iter().cloned()).collect();
            if matches!(value, Value::List(_)) { Value::list(budget, repeated) } else { Value::tuple(budget, repeated) }
        }
        other => Err(Fault::failed(format!("a {} cannot be repeated", other.kind()))),
    }
}

fn arithmetic(operator: Binary, a: Number, b: Number) -> Result<Value, Fault> {
    let by_zero = || Fault::failed("division by zero");
    if let (Number::Int(a), Number::Int(b)) = (a, b) {
        let whole = match operator {
            Binary::Add => a.checked_add(b),
            Binary::Subtract => a.checked_sub(b),
            Binary::Multiply => a.checked_mul(b),
            Binary::FloorDivide | Binary::Remainder | Binary::Divide if b == 0 => return Err(by_zero()),
            Binary::FloorDivide => {
                a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q })
            }
            Binary::Remainder => a.checked_rem_euclid(b).map(|r| if b < 0 && r != 0 { r + b } else { r }),
            Binary::Power if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            Binary::Divide | Binary::Power => return fraction(operator, a, b),
        };
        return whole.map_or_else(large, |i| Ok(Value::Int(i)));
    }
    let (a, b) = (a.float(), b.float());
    Ok(Value::Float(match operator {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        _ if b == 0.0 && operator != Binary::Power => return Err(by_zero()),
        Binary::Divide => a / b,
        Binary::FloorDivide => floor_divide(a, b).0,
        Binary::Remainder => floor_divide(a, b).1,
        Binary::Power => return power(a, b),
    }))
}

/// What whole numbers give that is none itself.
fn fraction(operator: Binary, a: i128, b: i128) -> Result<Value, Fault> {
    const EXACT: i128 = 1 << 53;
    if a.abs() > EXACT || b.abs() > EXACT {
        return large();
    }
    if operator == Binary::Power { power(a as f64, b as f64) } else { Ok(Value::Float(a as f64 / b as f64)) }
}

fn power(a: f64, b: f64) -> Result<Value, Fault> {
    if a == 0.0 && b < 0.0 {
        return Err(Fault::failed("zero to a negative power"));
    }
    if a < 0.0 && b.fract() != 0.0 {
        return Err(Fault::unsupported("complex numbers"));
    }
    let power = a.powf(b);
    if power.is_infinite() && a.is_finite() && b.is_finite() {
        return Err(Fault::failed("the result is too large"));
    }
    Ok(Value::Float(power))
}

/// Quotient and remainder, as Python's `divmod` has them.
fn floor_divide(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(b);
    } else if (b < 0.0) != (rest < 0.0) {
        rest += b;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(a / b), rest);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, rest)
}

/// Python's `==`.
pub(super) fn equal(budget: &Budget, left: &Value, right: &Value) -> Result<bool, Fault> {
    budget.steps(1)?;
    if let (Some(a), Some(b)) = (number(left), number(right)) {
        return Ok(order(a, b) == Some(Ordering::Equal));
    }
    Ok(match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Text(a) | Value::Safe(a), Value::Text(b) | Value::Safe(b)) => a.as_str() == b.as_str(),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(budget, a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.entries().len() != b.entries().len() {
                return Ok(false);
            }
            for (key, value) in a.entries() {
                match b.get(&Key::of(key)?) {
                    Some(other) if equal(budget, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(a), Value::Range(b)) => {
            a.length == b.length && (a.length == 0 || a.start == b.start && (a.length == 1 || a.step == b.step))
        }
        (Value::View(View::Keys | View::Items, _), Value::View(View::Keys | View::Items, _)) => {
            return Err(Fault::unsupported("sets"));
        }
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        (Value::Once(a), Value::Once(b)) => Rc::ptr_eq(a, b),
        (Value::Call(a), Value::Call(b)) => Rc::ptr_eq(a, b),
        _ => false,
    })
}

/// Python's order of two values; none where one is not a number at all.
pub(super) fn compare(budget: &Budget, left: &Value, right: &Value) -> Result<Option<Ordering>, Fault> {
    budget.steps(1)?;
    if let (Some(a), Some(b)) = (number(left), number(right)) {
        return Ok(order(a, b));
    }
    match (left, right) {
        (Value::Undefined(name), _) | (_, Value::Undefined(name)) => Err(undefined(name)),
        (Value::Text(a) | Value::Safe(a), Value::Text(b) | Value::Safe(b)) => Ok(Some(a.as_str().cmp(b.as_str()))),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (x, y) in a.items.iter().zip(&b.items) {
                if !equal(budget, x, y)? {
                    return compare(budget, x, y);
                }
            }
            Ok(Some(a.items.len().cmp(&b.items.len())))
        }
        (Value::View(..), Value::View(..)) => Err(Fault::unsupported("sets")),
        _ => Err(Fault::failed(format!("{} and {} have no order", left.kind(), right.kind()))),
    }
}

fn order(a: Number, b: Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => Some(a.cmp(&b)),
        (Number::Int(a), Number::Float(b)) if b.fract() == 0.0 && b.abs() < 1e30 => Some(a.cmp(&(b as i128))),
        (Number::Float(a), Number::Int(b)) if a.fract() == 0.0 && a.abs() < 1e30 => Some((a as i128).cmp(&b)),
        (a, b) => a.float().partial_cmp(&b.float()),
    }
}

/// `left comparison right`.
pub(super) fn holds(budget: &Budget, comparison: Comparison, left: &Value, right: &Value) -> Result<bool, Fault> {
    let ordered = |wanted: &[Ordering]| Ok(compare(budget, left, right)?.is_some_and(|found| wanted.contains(&found)));
    match comparison {
        Comparison::Equal => equal(budget, left, right),
        Comparison::NotEqual => Ok(!equal(budget, left, right)?),
        Comparison::Less => ordered(&[Ordering::Less]),
        Comparison::LessOrEqual => ordered(&[Ordering::Less, Ordering::Equal]),
        Comparison::Greater => ordered(&[Ordering::Greater]),
        Comparison::GreaterOrEqual => ordered(&[Ordering::Greater, Ordering::Equal]),
        Comparison::In => contains(budget, right, left),
        Comparison::NotIn => Ok(!contains(budget, right, left)?),
    }
}

/// `item in container`.
pub(super) fn contains(budget: &Budget, container: &Value, item: &Value) -> Result<bool, Fault> {
    match container {
        Value::Text(text) | Value::Safe(text) => match item.as_text() {
            Some(part) => {
                budget.bytes(text.as_str().len() / 16)?;
                Ok(memchr::memmem::find(text.as_str().as_bytes(), part.as_str().as_bytes()).is_some())
            }
            None => Err(Fault::failed(format!("a str holds no {}", item.kind()))),
        },
        Value::Dict(dict) | Value::View(View::Keys, dict) => Ok(dict.get(&Key::of(item)?).is_some()),
        Value::List(items) | Value::Tuple(items) => {
            for other in &items.items {
                if equal(budget, other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Namespace(_) | Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Call(_) => {
            Err(Fault::failed(format!("a {} holds nothing", container.kind())))
        }
        Value::Once(items) => loop {
            let next = items.borrow_mut().next()?;
            match next {
                Some(other) if equal(budget, &other, item)? => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        },
        Value::Loop(_) => Err(Fault::unsupported("`in loop`")),
        Value::Undefined(_) | Value::Range(_) | Value::View(..) => {
            for other in iterate(budget, container)? {
                if equal(budget, &other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// All that Python's `iter` gives.
pub(super) fn iterate(budget: &Budget, value: &Value) -> Result<Vec<Value>, Fault> {
    let items = match value {
        Value::Undefined(_) => Vec::new(),
        Value::Text(text) | Value::Safe(text) => {
            budget.steps(text.as_str().len())?;
            let mut items = Vec::new();
            for (at, c, _) in text.each() {
                items.push(Value::Text(text.slice(budget, at..at + c.len_utf8())?));
            }
            items
        }
        Value::List(items) | Value::Tuple(items) => {
            budget.steps(items.items.len())?;
            items.items.clone()
        }
        Value::Dict(dict) | Value::View(View::Keys, dict) => {
            budget.steps(dict.entries().len())?;
            dict.entries().iter().map(|(key, _)| key.clone()).collect()
        }
        Value::View(View::Values, dict) => {
            budget.steps(dict.entries().len())?;
            dict.entries().iter().map(|(_, value)| value.clone()).collect()
        }
        Value::View(View::Items, dict) => {
            budget.steps(dict.entries().len())?;
            let pair = |(key, value): &(Value, Value)| Value::tuple(budget, vec![key.clone(), value.clone()]);
            dict.entries().iter().map(pair).collect::<Result<_, _>>()?
        }
        Value::Range(range) => {
            budget.steps(range.length)?;
            range.iter().collect()
        }
        Value::Once(items) => {
            let mut all = Vec::new();
            while let Some(item) = items.borrow_mut().next()? {
                all.push(item);
            }
            all
        }
        Value::Loop(_) => return Err(Fault::unsupported("a loop over `loop`")),
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Namespace(_) | Value::Call(_) => {
            return Err(Fault::failed(format!("a {} cannot be looped over", value.kind())));
        }
    };
    budget.steps(items.len())?;
    Ok(items)
}

/// Python's `len`.
pub(super) fn length(value: &Value) -> Result<usize, Fault> {
    Ok(match value {
        Value::Undefined(_) => 0,
        Value::Text(text) | Value::Safe(text) => text.as_str().chars().count(),
        Value::List(items) | Value::Tuple(items) => items.items.len(),
        Value::Dict(dict) | Value::View(_, dict) => dict.entries().len(),
        Value::Range(range) => range.length,
        Value::Loop(state) => state.items.len(),
        other => return Err(Fault::failed(format!("a {} has no length", other.kind()))),
    })
}
