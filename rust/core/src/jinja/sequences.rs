//! Filters of lists and mappings.

use super::arguments::{Given, integer};
use super::attributes::item;
use super::budget::Budget;
use super::checks;
use super::fault::Fault;
use super::operators::{binary, compare, equal, iterate};
use super::print::{text_of, write};
use super::sorted::sorted;
use super::text::{Text, Writer};
use super::value::{Key, Value, View};
use super::{ast::Binary, case};
use std::cmp::Ordering;
use std::collections::HashSet;

/// Applies the filter of a name.
type Filter = fn(&Budget, &str, Value, Given) -> Result<Value, Fault>;

/// `value | name(…)`, if that is a filter of lists; `filter`: for `map`.
pub(super) fn apply(
    budget: &Budget,
    name: &str,
    value: &Value,
    given: &Given,
    filter: Filter,
) -> Option<Result<Value, Fault>> {
    let given = given.clone();
    Some(match name {
        "first" => first(budget, value, given),
        "last" => last(budget, value, given),
        "list" => nothing(name, given).and_then(|()| Value::list(budget, iterate(budget, value)?)),
        "reverse" => nothing(name, given).and_then(|()| reverse(budget, value)),
        "join" => join(budget, value, given),
        "items" => nothing(name, given).and_then(|()| items(budget, value)),
        "map" => map(budget, value, given, filter),
        "select" => choose(budget, value, given, true, false),
        "reject" => choose(budget, value, given, false, false),
        "selectattr" => choose(budget, value, given, true, true),
        "rejectattr" => choose(budget, value, given, false, true),
        "sort" => sort(budget, value, given),
        "dictsort" => dictsort(budget, value, given),
        "unique" => unique(budget, value, given),
        "min" => extreme(budget, value, given, Ordering::Less),
        "max" => extreme(budget, value, given, Ordering::Greater),
        "sum" => sum(budget, value, given),
        "batch" => batch(budget, value, given),
        "slice" => slices(budget, value, given),
        _ => return None,
    })
}

fn nothing(name: &str, given: Given) -> Result<(), Fault> {
    given.bind(name, [], 0).map(|[]| ())
}

fn first(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    nothing("first", given)?;
    let found = match value {
        Value::Once(items) => items.borrow_mut().next()?,
        value => iterate(budget, value)?.into_iter().next(),
    };
    Ok(found.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
}

fn last(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    nothing("last", given)?;
    if matches!(value, Value::Once(_)) {
        return Err(Fault::failed("a generator cannot be reversed"));
    }
    Ok(iterate(budget, value)?.pop().unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
}

fn reverse(budget: &Budget, value: &Value) -> Result<Value, Fault> {
    let mut items = iterate(budget, value)?;
    items.reverse();
    match value {
        Value::Text(_) => {
            let mut out = Writer::new(budget);
            items.iter().try_for_each(|item| write(&mut out, item))?;
            Ok(Value::Text(out.finish()))
        }
        Value::Once(_) => Value::list(budget, items),
        _ => Ok(Value::once(items, |item| Ok(Some(item)))),
    }
}

fn join(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    let [by, attribute] = given.bind("join", ["d", "attribute"], 0)?;
    let by = by.map_or_else(|| Ok(Text::plain("")), |by| text_of(budget, &by))?;
    let path = path(attribute.as_ref())?;
    let mut out = Writer::new(budget);
    for (i, item) in iterate(budget, value)?.into_iter().enumerate() {
        if i > 0 {
            out.text(&by)?;
        }
        write(&mut out, &follow(budget, item, &path, None)?)?;
    }
    Ok(Value::Text(out.finish()))
}

fn items(budget: &Budget, value: &Value) -> Result<Value, Fault> {
    let items = match value {
        Value::Undefined(_) => Vec::new(),
        Value::Dict(dict) => iterate(budget, &Value::View(View::Items, dict.clone()))?,
        _ => {
            let fault = Fault::failed("Can only get item pairs from a mapping.");
            return Ok(Value::once(vec![Value::None], |_| Err(fault.clone())));
        }
    };
    Ok(Value::once(items, |item| Ok(Some(item))))
}

/// Names and numbers of `attribute='a.0.b'`.
fn path(attribute: Option<&Value>) -> Result<Vec<Value>, Fault> {
    match attribute {
        None | Some(Value::None) => Ok(Vec::new()),
        Some(Value::Text(text)) => Ok(text
            .as_str()
            .split('.')
            .map(|part| match part.parse() {
                Ok(index) if part.bytes().all(|b| b.is_ascii_digit()) => Value::Int(index),
                _ => Value::own(part),
            })
            .collect()),
        Some(other) => Ok(vec![other.clone()]),
    }
}

fn follow(budget: &Budget, mut value: Value, path: &[Value], default: Option<&Value>) -> Result<Value, Fault> {
    for part in path {
        value = item(budget, &value, part)?;
        if let (Value::Undefined(_), Some(default)) = (&value, default) {
            value = default.clone();
        }
    }
    Ok(value)
}

fn lazily(budget: &Budget, value: &Value) -> Result<Vec<Value>, Fault> {
    if value.is_true() { iterate(budget, value) } else { Ok(Vec::new()) }
}

/// A generator that fails when it is gone through, as Python's would.
fn or_later(items: Result<Vec<Value>, Fault>) -> Result<Vec<Value>, Value> {
    items.map_err(|fault| Value::once(vec![Value::None], |_| Err(fault.clone())))
}

fn map(budget: &Budget, value: &Value, mut given: Given, filter: Filter) -> Result<Value, Fault> {
    let items = match or_later(lazily(budget, value)) {
        Ok(items) => items,
        Err(later) => return Ok(later),
    };
    let late = |fault: Fault| Ok(Value::once(vec![Value::None], |_| Err(fault.clone())));
    if items.is_empty() {
        return Ok(Value::once(Vec::new(), |item| Ok(Some(item))));
    }
    if given.positional.is_empty() {
        let Some(at) = given.named.iter().position(|(name, _)| &**name == "attribute") else {
            return late(Fault::failed("map requires a filter argument"));
        };
        let (_, attribute) = given.named.remove(at);
        let default = given.named.iter().position(|(name, _)| &**name == "default").map(|at| given.named.remove(at).1);
        if !given.named.is_empty() {
            return late(Fault::failed("Unexpected keyword argument"));
        }
        let default = default.filter(|value| !matches!(value, Value::None));
        let path = path(Some(&attribute))?;
        return Ok(Value::once(items, |item| follow(budget, item, &path, default.as_ref()).map(Some)));
    }
    let name = given.positional.remove(0);
    let Value::Text(name) = &name else { return late(Fault::failed("map needs the name of a filter")) };
    Ok(Value::once(items, |item| filter(budget, name.as_str(), item, given.clone()).map(Some)))
}

fn choose(budget: &Budget, value: &Value, mut given: Given, wanted: bool, attribute: bool) -> Result<Value, Fault> {
    let items = match or_later(lazily(budget, value)) {
        Ok(items) => items,
        Err(later) => return Ok(later),
    };
    let path = if attribute && !items.is_empty() {
        if given.positional.is_empty() {
            let fault = Fault::failed("Missing parameter for attribute name");
            return Ok(Value::once(vec![Value::None], |_| Err(fault.clone())));
        }
        path(Some(&given.positional.remove(0)))?
    } else {
        Vec::new()
    };
    let test = if given.positional.is_empty() { None } else { Some(given.positional.remove(0)) };
    Ok(Value::once(items, |item| {
        let seen = follow(budget, item.clone(), &path, None)?;
        let holds = match &test {
            None => seen.is_true(),
            Some(Value::Text(name)) => checks::check(budget, name.as_str(), &seen, given.clone())?,
            Some(_) => return Err(Fault::failed("the name of a test is needed")),
        };
        Ok((holds == wanted).then_some(item))
    }))
}

fn without_case(budget: &Budget, value: Value) -> Result<Value, Fault> {
    match value {
        Value::Text(text) => case::lower(budget, &text).map(Value::Text),
        other => Ok(other),
    }
}

fn truth(value: Option<&Value>) -> bool {
    value.is_some_and(Value::is_true)
}

/// Sorts by keys, stable also backwards.
fn by_keys(budget: &Budget, mut keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>, Fault> {
    if reverse {
        keyed.reverse();
    }
    let mut ordered = sorted(budget, keyed, |(a, _), (b, _)| compare(budget, a, b))?;
    if reverse {
        ordered.reverse();
    }
    Ok(ordered.into_iter().map(|(_, item)| item).collect())
}

fn sort(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    let [reverse, sensitive, attribute] = given.bind("sort", ["reverse", "case_sensitive", "attribute"], 0)?;
    let paths: Vec<Vec<Value>> = match &attribute {
        Some(Value::Text(text)) => {
            text.as_str().split(',').map(|part| path(Some(&Value::own(part)))).collect::<Result<_, _>>()?
        }
        other => vec![path(other.as_ref())?],
    };
    let mut keyed = Vec::new();
    for item in iterate(budget, value)? {
        let mut keys = Vec::new();
        for path in &paths {
            let key = follow(budget, item.clone(), path, None)?;
            keys.push(if truth(sensitive.as_ref()) { key } else { without_case(budget, key)? });
        }
        keyed.push((Value::list(budget, keys)?, item));
    }
    Value::list(budget, by_keys(budget, keyed, truth(reverse.as_ref()))?)
}

fn dictsort(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    let [sensitive, by, reverse] = given.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let by_value = match &by {
        None => false,
        Some(Value::Text(text)) if matches!(text.as_str(), "key" | "value") => text.as_str() == "value",
        Some(_) => return Err(Fault::failed("You can only sort by either \"key\" or \"value\"")),
    };
    let Value::Dict(dict) = value else { return Err(Fault::failed("dictsort needs a mapping")) };
    let mut keyed = Vec::new();
    for (key, item) in dict.entries() {
        let by = if by_value { item } else { key }.clone();
        let by = if truth(sensitive.as_ref()) { by } else { without_case(budget, by)? };
        keyed.push((by, Value::tuple(budget, vec![key.clone(), item.clone()])?));
    }
    Value::list(budget, by_keys(budget, keyed, truth(reverse.as_ref()))?)
}

fn unique(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    let [sensitive, attribute] = given.bind("unique", ["case_sensitive", "attribute"], 0)?;
    let items = match or_later(iterate(budget, value)) {
        Ok(items) => items,
        Err(later) => return Ok(later),
    };
    let path = path(attribute.as_ref())?;
    let mut seen = HashSet::new();
    Ok(Value::once(items, |item| {
        let key = follow(budget, item.clone(), &path, None)?;
        let key = if truth(sensitive.as_ref()) { key } else { without_case(budget, key)? };
        Ok(seen.insert(Key::of(&key)?).then_some(item))
    }))
}

fn extreme(budget: &Budget, value: &Value, given: Given, wanted: Ordering) -> Result<Value, Fault> {
    let [sensitive, attribute] = given.bind("min or max", ["case_sensitive", "attribute"], 0)?;
    let path = path(attribute.as_ref())?;
    let mut best: Option<(Value, Value)> = None;
    for item in iterate(budget, value)? {
        let key = follow(budget, item.clone(), &path, None)?;
        let key = if truth(sensitive.as_ref()) { key } else { without_case(budget, key)? };
        let better = match &best {
            None => true,
            Some((held, _)) => compare(budget, &key, held)? == Some(wanted),
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
}

fn sum(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    let [attribute, start] = given.bind("sum", ["attribute", "start"], 0)?;
    let path = path(attribute.as_ref())?;
    let mut total = start.unwrap_or(Value::Int(0));
    if matches!(total, Value::Text(_)) {
        return Err(Fault::failed("sum() can't sum strings"));
    }
    let (mut whole, mut fraction) = (true, false);
    for item in iterate(budget, value)? {
        let item = follow(budget, item, &path, None)?;
        fraction |= matches!(item, Value::Float(_)) && !whole;
        whole &= !matches!(item, Value::Float(_));
        total = binary(budget, Binary::Add, &total, &item)?;
    }
    // Several fractions are added with a correction by newer Pythons and without one by older.
    if fraction { Err(Fault::unsupported("sums of fractions")) } else { Ok(total) }
}

fn batch(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    let [Some(count), fill] = given.bind("batch", ["linecount", "fill_with"], 1)? else {
        return Err(Fault::failed("batch needs a number"));
    };
    let items = match or_later(iterate(budget, value)) {
        Ok(items) => items,
        Err(later) => return Ok(later),
    };
    let mut lines: Vec<Vec<Value>> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(line) if !equal(budget, &Value::Int(line.len() as i128), &count)? => line.push(item),
            _ => lines.push(vec![item]),
        }
    }
    if let (Some(line), Some(fill)) = (lines.last_mut(), fill.filter(|fill| !matches!(fill, Value::None))) {
        let missing = usize::try_from(integer(&count, "a number")? - line.len() as i128).unwrap_or(0);
        budget.steps(missing)?;
        line.extend(std::iter::repeat_n(fill, missing));
    }
    let lines = lines.into_iter().map(|line| Value::list(budget, line)).collect::<Result<Vec<_>, _>>()?;
    Ok(Value::once(lines, |line| Ok(Some(line))))
}

fn slices(budget: &Budget, value: &Value, given: Given) -> Result<Value, Fault> {
    let [Some(count), fill] = given.bind("slice", ["slices", "fill_with"], 1)? else {
        return Err(Fault::failed("slice needs a number"));
    };
    let items = match or_later(iterate(budget, value)) {
        Ok(items) => items,
        Err(later) => return Ok(later),
    };
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let Some(count) = usize::try_from(integer(&count, "a number")?).ok().filter(|count| *count > 0) else {
        return Err(Fault::unsupported("slices without a number"));
    };
    budget.steps(count)?;
    let (each, more) = (items.len() / count, items.len() % count);
    let mut slices = Vec::new();
    let mut from = 0;
    for i in 0..count {
        let to = from + each + usize::from(i < more);
        let mut slice = items[from..to].to_vec();
        if i >= more {
            slice.extend(fill.clone());
        }
        slices.push(Value::list(budget, slice)?);
        from = to;
    }
    Ok(Value::once(slices, |slice| Ok(Some(slice))))
}
