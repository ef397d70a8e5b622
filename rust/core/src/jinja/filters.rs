//! The filters of Jinja2, by name.

use super::arguments::{Given, integer, integer_or};
use super::attributes::own_attribute;
use super::budget::Budget;
use super::fault::Fault;
use super::markup;
use super::names::is_filter;
use super::numbers;
use super::numeric::undefined;
use super::operators::length;
use super::print::text_of;
use super::sequences;
use super::strings;
use super::text::{Text, Writer};
use super::value::{Dict, Value};
use super::{case, format, json};
use std::rc::Rc;

/// `value | name(…)`.
pub(super) fn apply(budget: &Budget, name: &str, value: Value, given: Given) -> Result<Value, Fault> {
    budget.steps(1)?;
    if let Value::Safe(text) = &value
        && !markup::takes(name)
    {
        let filtered = apply(budget, name, Value::Text(text.clone()), given)?;
        return markup::filtered(name, filtered);
    }
    if let Some(result) = sequences::apply(budget, name, &value, &given, apply) {
        return result;
    }
    let text = |text: Result<Text, Fault>| text.map(Value::Text);
    match name {
        "default" | "d" => {
            let [default, boolean] = given.bind(name, ["default_value", "boolean"], 0)?;
            let falsy = boolean.is_some_and(|b| b.is_true()) && !value.is_true();
            let takes = matches!(value, Value::Undefined(_)) || falsy;
            Ok(if takes { default.unwrap_or_else(|| Value::own("")) } else { value })
        }
        "length" | "count" => {
            let [] = given.bind(name, [], 0)?;
            Ok(Value::Int(length(&value)? as i128))
        }
        "string" => {
            let [] = given.bind(name, [], 0)?;
            if matches!(value, Value::Safe(_)) { Ok(value) } else { text(text_of(budget, &value)) }
        }
        "escape" | "e" | "forceescape" => {
            let [] = given.bind(name, [], 0)?;
            markup::escape(budget, &value, name == "forceescape")
        }
        "safe" => {
            let [] = given.bind(name, [], 0)?;
            text_of(budget, &value).map(Value::Safe)
        }
        "tojson" => text(json::tojson(budget, &value, given)),
        "upper" | "lower" | "capitalize" | "title" => {
            let [] = given.bind(name, [], 0)?;
            let given = text_of(budget, &value)?;
            text(match name {
                "upper" => case::upper(budget, &given),
                "lower" => case::lower(budget, &given),
                "capitalize" => case::capitalize(budget, &given),
                _ => title(budget, &given),
            })
        }
        "trim" => {
            let [chars] = given.bind(name, ["chars"], 0)?;
            let whole = text_of(budget, &value)?;
            text(whole.slice(budget, strings::strip(whole.as_str(), chars.as_ref(), true, true)?))
        }
        "replace" => {
            let [Some(old), Some(new), count] = given.bind(name, ["old", "new", "count"], 2)? else {
                return Err(Fault::failed("replace needs more arguments"));
            };
            let count = integer_or(count.as_ref().filter(|c| !matches!(c, Value::None)), -1, "count")?;
            let (old, new) = (text_of(budget, &old)?, text_of(budget, &new)?);
            text(strings::replace(budget, &text_of(budget, &value)?, old.as_str(), &new, count))
        }
        "center" => {
            let [width] = given.bind(name, ["width"], 0)?;
            let width = integer_or(width.as_ref(), 80, "a width")?;
            text(strings::pad(budget, &text_of(budget, &value)?, width, &Text::plain(" "), "center"))
        }
        "indent" => indent(budget, &value, given).map(Value::Text),
        "truncate" => truncate(budget, &value, given),
        "format" => {
            let of = text_of(budget, &value)?;
            let values = values_of_format(budget, given)?;
            text(format::percent(budget, &of, &values))
        }
        "attr" => {
            let [Some(attribute)] = given.bind(name, ["name"], 1)? else {
                return Err(Fault::failed("attr needs a name"));
            };
            let Value::Text(attribute) = &attribute else { return Err(Fault::failed("attr needs a name")) };
            if let Value::Undefined(missing) = &value {
                return Err(undefined(missing));
            }
            let found = own_attribute(budget, &value, attribute.shared())?;
            Ok(found.unwrap_or_else(|| Value::Undefined(attribute.shared().clone())))
        }
        "int" | "float" | "abs" | "round" => numbers::apply(name, &value, given),
        _ if is_filter(name) => Err(Fault::unsupported(format!("the filter `{name}`"))),
        _ => Err(Fault::failed(format!("No filter named '{name}'."))),
    }
}

fn values_of_format(budget: &Budget, given: Given) -> Result<Value, Fault> {
    match (given.positional.is_empty(), given.named.is_empty()) {
        (false, false) => Err(Fault::failed("format takes values by place or by name")),
        (_, true) => Value::tuple(budget, given.positional),
        _ => {
            let mut dict = Dict::default();
            for (name, value) in given.named {
                dict.set(budget, Value::own(name), value)?;
            }
            Ok(Value::Dict(Rc::new(dict)))
        }
    }
}

/// Jinja2's `title`: words begin behind blanks, hyphens and opening brackets.
fn title(budget: &Budget, text: &Text) -> Result<Text, Fault> {
    let chars = text.as_str();
    if chars.contains('Σ') {
        return Err(Fault::unsupported("the title case of `Σ`"));
    }
    let mut out = Writer::new(budget);
    let mut begins = true;
    for (_, c, origin) in text.each() {
        let separates = super::lexer::blank(c) || "-({[<".contains(c);
        if begins {
            c.to_uppercase().try_for_each(|c| out.push_char(c, origin))?;
        } else {
            c.to_lowercase().try_for_each(|c| out.push_char(c, origin))?;
        }
        begins = separates;
    }
    Ok(out.finish())
}

fn indent(budget: &Budget, value: &Value, given: Given) -> Result<Text, Fault> {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"], 0)?;
    let text = strings::str_of(value, "indent")?;
    let by = match &width {
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Safe(_)) => return Err(Fault::unsupported("`indent` by what the filter `safe` returned")),
        width => {
            let mut blanks = Writer::new(budget);
            let width = integer_or(width.as_ref(), 4, "a width")?;
            blanks.repeat(&Text::plain(" "), usize::try_from(width.max(0)).unwrap_or(usize::MAX))?;
            blanks.finish()
        }
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (first, blank) = (truth(first), truth(blank));
    let mut ended = Writer::new(budget);
    ended.text(text)?;
    ended.own("\n")?;
    let ended = ended.finish();
    let lines = strings::lines(ended.as_str(), false);
    budget.steps(lines.len())?;
    let mut out = Writer::new(budget);
    for (i, line) in lines.into_iter().enumerate() {
        if i > 0 {
            out.own("\n")?;
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.text(&by)?;
        }
        out.part(&ended, line)?;
    }
    Ok(out.finish())
}

fn truncate(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    let names = ["length", "killwords", "end", "leeway"];
    let [most, kill, end, leeway] = given.bind("truncate", names, 0)?;
    if matches!(end, Some(Value::Safe(_))) {
        return Err(Fault::unsupported("`truncate` to what the filter `safe` returned"));
    }
    let end = end.map_or_else(|| Ok(Text::plain("...")), |end| strings::str_of(&end, "truncate").cloned())?;
    let most = integer_or(most.as_ref(), 255, "a length")?;
    let leeway = match &leeway {
        None | Some(Value::None) => 5,
        Some(leeway) => integer(leeway, "a leeway")?,
    };
    let tail = end.as_str().chars().count() as i128;
    if most < tail || leeway < 0 {
        return Err(Fault::failed("truncate to less than its end"));
    }
    if length(value)? as i128 <= most.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let text = strings::str_of(value, "truncate")?;
    let chars = text.as_str();
    let keep = (most - tail) as usize;
    let mut cut = chars.char_indices().nth(keep).map_or(chars.len(), |(at, _)| at);
    if !kill.is_some_and(|kill| kill.is_true()) {
        cut = chars[..cut].rfind(' ').unwrap_or(cut);
    }
    let mut out = Writer::new(budget);
    out.part(text, 0..cut)?;
    out.text(&end)?;
    Ok(Value::Text(out.finish()))
}
