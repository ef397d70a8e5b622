//! Filters of numbers.

use super::arguments::{Given, integer_or};
use super::fault::Fault;
use super::lexer::blank;
use super::numeric::{Number, number, undefined};
use super::value::Value;

/// `value | name(…)`.
pub(super) fn apply(name: &str, value: &Value, given: Given) -> Result<Value, Fault> {
    if let Value::Undefined(missing) = value {
        return Err(undefined(missing));
    }
    match name {
        "int" => {
            let [default, base] = given.bind(name, ["default", "base"], 0)?;
            let base = integer_or(base.as_ref(), 10, "a base")?;
            let parsed = match value {
                Value::Text(text) => {
                    whole(text.as_str(), base)?.map(Ok).or_else(|| fraction(text.as_str()).map(truncated))
                }
                value => match number(value) {
                    Some(Number::Int(i)) => Some(Ok(i)),
                    Some(Number::Float(f)) => Some(truncated(f)),
                    None => None,
                },
            };
            match parsed {
                Some(Ok(i)) => Ok(Value::Int(i)),
                Some(Err(Some(fault))) => Err(fault),
                Some(Err(None)) | None => Ok(default.unwrap_or(Value::Int(0))),
            }
        }
        "float" => {
            let [default] = given.bind(name, ["default"], 0)?;
            let parsed = match value {
                Value::Text(text) => fraction(text.as_str()),
                value => number(value).map(Number::float),
            };
            Ok(parsed.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "abs" => {
            let [] = given.bind(name, [], 0)?;
            match number(value) {
                Some(Number::Int(i)) => Ok(Value::Int(i.abs())),
                Some(Number::Float(f)) => Ok(Value::Float(f.abs())),
                None => Err(Fault::failed(format!("bad operand type for abs(): '{}'", value.kind()))),
            }
        }
        _ => round(value, given),
    }
}

/// `int(float)`; of what is not finite it is a fault, or the default.
fn truncated(value: f64) -> Result<i128, Option<Fault>> {
    if value.is_nan() || value.is_infinite() {
        return Err(None);
    }
    if value.abs() > 1e30 {
        Err(Some(Fault::unsupported("numbers beyond 127 bits")))
    } else {
        Ok(value.trunc() as i128)
    }
}

/// Python's `int(text, base)`.
fn whole(text: &str, base: i128) -> Result<Option<i128>, Fault> {
    let text = text.trim_matches(blank);
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if !(base == 0 || (2..=36).contains(&base)) {
        return Ok(None);
    }
    let lower = digits.to_ascii_lowercase();
    let prefix = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find(|(prefix, b)| lower.starts_with(prefix) && (base == *b || base == 0));
    let (digits, radix) = match prefix {
        Some((_, radix)) => (digits[2..].strip_prefix('_').unwrap_or(&digits[2..]), radix as u32),
        None if base == 0 => {
            if lower.starts_with('0') && lower.bytes().any(|b| b != b'0' && b != b'_') {
                return Ok(None);
            }
            (digits, 10)
        }
        None => (digits, base as u32),
    };
    if !digits.is_ascii() && digits.chars().any(char::is_numeric) {
        return Err(Fault::unsupported("digits of other scripts"));
    }
    let sound = !digits.is_empty() && !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    let digits = digits.replace('_', "");
    if !sound || !digits.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    let size = i128::from_str_radix(&digits, radix).map_err(|_| Fault::unsupported("numbers beyond 127 bits"))?;
    Ok(Some(if negative { -size } else { size }))
}

/// Python's `float(text)`.
fn fraction(text: &str) -> Option<f64> {
    let text = text.trim_matches(blank);
    let sound = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
    let between = |at: usize| {
        let digit = |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit);
        digit(at.checked_sub(1).and_then(|at| text.as_bytes().get(at))) && digit(text.as_bytes().get(at + 1))
    };
    if !sound || !text.match_indices('_').all(|(at, _)| between(at)) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn round(value: &Value, given: Given) -> Result<Value, Fault> {
    let [precision, method] = given.bind("round", ["precision", "method"], 0)?;
    let places = integer_or(precision.as_ref(), 0, "a precision")?;
    let method = match &method {
        None => "common",
        Some(Value::Text(text)) => text.as_str(),
        Some(_) => "",
    };
    let Some(value) = number(value) else {
        return Err(Fault::failed(format!("a {} cannot be rounded", value.kind())));
    };
    if !matches!(method, "common" | "ceil" | "floor") {
        return Err(Fault::failed("method must be common, ceil or floor"));
    }
    let Some(places) = usize::try_from(places).ok().filter(|places| *places <= 15) else {
        return Err(Fault::unsupported("rounding to tens, or to more than 15 places"));
    };
    match (value, method) {
        (Number::Int(i), "common") => Ok(Value::Int(i)),
        (Number::Float(f), "common") if f.is_finite() => {
            // The nearest of its decimals, and the even one of two: as Python rounds.
            let rounded = format!("{f:.places$}").parse().unwrap_or(f);
            Ok(Value::Float(rounded))
        }
        (Number::Float(f), "common") => Ok(Value::Float(f)),
        (value, method) => {
            let scale = 10_f64.powi(places as i32);
            let scaled = value.float() * scale;
            if !scaled.is_finite() || scaled.abs() > 9e15 {
                return Err(Fault::unsupported("rounding of large numbers"));
            }
            let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
            // Python's floor and ceil give an integer, which has no negative zero.
            Ok(Value::Float((whole + 0.0) / scale))
        }
    }
}
