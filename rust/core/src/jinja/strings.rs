//! Methods of Python's texts.

use super::arguments::{Given, integer, integer_or};
use super::budget::Budget;
use super::fault::Fault;
use super::format::braces;
use super::lexer::blank;
use super::operators::iterate;
use super::text::{Text, Writer};
use super::value::{Dict, Value};
use super::{case, classes};
use std::ops::Range;

/// `text.name(…)`.
pub(super) fn method(budget: &Budget, text: &Text, name: &str, given: Given) -> Result<Value, Fault> {
    budget.steps(1 + text.as_str().len() / 64)?;
    let whole = 0..text.as_str().len();
    let part = |range: Range<usize>| text.slice(budget, range).map(Value::Text);
    if let Some(answer) = classes::method(text.as_str(), name) {
        let [] = given.unnamed(name, 0)?;
        return answer.map(Value::Bool);
    }
    if let Some(changed) = case::method(budget, text, name) {
        let [] = given.unnamed(name, 0)?;
        return changed.map(Value::Text);
    }
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = given.unnamed(name, 0)?;
            part(strip(text.as_str(), chars.as_ref(), name != "rstrip", name != "lstrip")?)
        }
        "removeprefix" | "removesuffix" => {
            let [Some(affix)] = given.unnamed(name, 1)? else { return Err(missing(name)) };
            let (chars, affix) = (text.as_str(), str_of(&affix, name)?.as_str().to_owned());
            if affix.is_empty() {
                part(whole)
            } else if name == "removeprefix" {
                part(if chars.starts_with(&affix) { affix.len()..chars.len() } else { whole })
            } else {
                part(if chars.ends_with(&affix) { 0..chars.len() - affix.len() } else { whole })
            }
        }
        "split" | "rsplit" => {
            let [by, most] = given.bind(name, ["sep", "maxsplit"], 0)?;
            let most = usize::try_from(integer_or(most.as_ref(), -1, "maxsplit")?).unwrap_or(usize::MAX);
            let parts = split(budget, text.as_str(), by.as_ref(), most, name == "rsplit")?;
            let parts = parts.into_iter().map(part).collect::<Result<_, _>>()?;
            Value::list(budget, parts)
        }
        "splitlines" => {
            let [keep] = given.bind(name, ["keepends"], 0)?;
            let lines = lines(text.as_str(), keep.is_some_and(|keep| keep.is_true()));
            budget.steps(lines.len())?;
            let lines = lines.into_iter().map(part).collect::<Result<_, _>>()?;
            Value::list(budget, lines)
        }
        "partition" | "rpartition" => {
            let [Some(by)] = given.unnamed(name, 1)? else { return Err(missing(name)) };
            let by = str_of(&by, name)?.as_str();
            let first = name == "partition";
            let found = found(text.as_str(), by, !first).filter(|_| !by.is_empty());
            let empty = || Value::own("");
            if by.is_empty() {
                return Err(Fault::failed("empty separator"));
            }
            let parts = match found {
                Some(at) => vec![part(0..at)?, part(at..at + by.len())?, part(at + by.len()..whole.end)?],
                None if first => vec![part(whole)?, empty(), empty()],
                None => vec![empty(), empty(), part(whole)?],
            };
            Value::tuple(budget, parts)
        }
        "startswith" | "endswith" => affix(text.as_str(), name, given),
        "find" | "rfind" | "index" | "rindex" | "count" => search(text.as_str(), name, given),
        "replace" => {
            let [Some(old), Some(new), count] = given.bind(name, ["", " ", "count"], 2)? else {
                return Err(missing(name));
            };
            let count = integer_or(count.as_ref(), -1, "count")?;
            let (old, new) = (str_of(&old, name)?, str_of(&new, name)?);
            replace(budget, text, old.as_str(), new, count).map(Value::Text)
        }
        "join" => {
            let [Some(items)] = given.unnamed(name, 1)? else { return Err(missing(name)) };
            let mut out = Writer::new(budget);
            for (i, item) in iterate(budget, &items)?.iter().enumerate() {
                if i > 0 {
                    out.text(text)?;
                }
                out.text(str_of(item, "join")?)?;
            }
            Ok(Value::Text(out.finish()))
        }
        "center" | "ljust" | "rjust" => {
            let [Some(width), fill] = given.unnamed(name, 1)? else { return Err(missing(name)) };
            let fill = fill.map_or_else(|| Ok(Text::plain(" ")), |fill| str_of(&fill, name).cloned())?;
            pad(budget, text, integer(&width, "a width")?, &fill, name).map(Value::Text)
        }
        "zfill" => {
            let [Some(width)] = given.unnamed(name, 1)? else { return Err(missing(name)) };
            zfill(budget, text, integer(&width, "a width")?).map(Value::Text)
        }
        "expandtabs" => {
            let [size] = given.bind(name, ["tabsize"], 0)?;
            expand_tabs(budget, text, integer_or(size.as_ref(), 8, "tabsize")?).map(Value::Text)
        }
        "format" => braces(budget, text, &given).map(Value::Text),
        "format_map" => {
            let [Some(map)] = given.unnamed(name, 1)? else { return Err(missing(name)) };
            let Value::Dict(map) = &map else { return Err(Fault::failed("format_map needs a mapping")) };
            braces(budget, text, &by_name(map)).map(Value::Text)
        }
        _ => Err(Fault::unsupported(format!("the method `{name}` of texts"))),
    }
}

fn missing(name: &str) -> Fault {
    Fault::failed(format!("{name} needs more arguments"))
}

fn by_name(map: &Dict) -> Given {
    let named = map.entries().iter().filter_map(|(k, v)| Some((k.as_text()?.shared().clone(), v.clone())));
    Given { positional: Vec::new(), named: named.collect() }
}

/// The text that a method wants.
pub(super) fn str_of<'v>(value: &'v Value, what: &str) -> Result<&'v Text, Fault> {
    match value {
        Value::Text(text) | Value::Safe(text) => Ok(text),
        other => Err(Fault::failed(format!("`{what}` needs a str, not {}", other.kind()))),
    }
}

/// What is left between the stripped ends.
pub(super) fn strip(text: &str, chars: Option<&Value>, left: bool, right: bool) -> Result<Range<usize>, Fault> {
    let set: Option<Vec<char>> = match chars {
        None | Some(Value::None) => None,
        Some(chars) => Some(str_of(chars, "strip")?.as_str().chars().collect()),
    };
    let goes = |c: char| set.as_ref().map_or_else(|| blank(c), |set| set.contains(&c));
    let end = if right { text.trim_end_matches(goes).len() } else { text.len() };
    let kept = &text[..end];
    let start = if left { end - kept.trim_start_matches(goes).len() } else { 0 };
    Ok(start..end)
}

fn split(
    budget: &Budget,
    text: &str,
    by: Option<&Value>,
    most: usize,
    from_right: bool,
) -> Result<Vec<Range<usize>>, Fault> {
    let mut parts = Vec::new();
    let (mut start, mut end) = (0, text.len());
    match by {
        None | Some(Value::None) => loop {
            let rest = &text[start..end];
            (start, end) = if from_right {
                (start, start + rest.trim_end_matches(blank).len())
            } else {
                (end - rest.trim_start_matches(blank).len(), end)
            };
            let rest = &text[start..end];
            if rest.is_empty() {
                break;
            }
            budget.steps(1)?;
            let cut = if from_right { rest.rfind(blank) } else { rest.find(blank) };
            let Some(at) = cut.filter(|_| parts.len() < most) else {
                parts.push(start..end);
                break;
            };
            if from_right {
                let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                parts.push(start + at + width..end);
                end = start + at;
            } else {
                parts.push(start..start + at);
                start += at;
            }
        },
        Some(by) => {
            let by = str_of(by, "split")?.as_str();
            if by.is_empty() {
                return Err(Fault::failed("empty separator"));
            }
            while parts.len() < most {
                budget.steps(1)?;
                let Some(at) = found(&text[start..end], by, from_right) else { break };
                if from_right {
                    parts.push(start + at + by.len()..end);
                    end = start + at;
                } else {
                    parts.push(start..start + at);
                    start += at + by.len();
                }
            }
            parts.push(start..end);
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

fn found(text: &str, part: &str, from_right: bool) -> Option<usize> {
    if from_right { text.rfind(part) } else { memchr::memmem::find(text.as_bytes(), part.as_bytes()) }
}

/// Python's `splitlines`, which knows more line breaks than most.
pub(super) fn lines(text: &str, keep: bool) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}') {
            continue;
        }
        let mut end = at + c.len_utf8();
        if c == '\r' && chars.peek().is_some_and(|(_, c)| *c == '\n') {
            chars.next();
            end += 1;
        }
        lines.push(start..if keep { end } else { at });
        start = end;
    }
    if start < text.len() {
        lines.push(start..text.len());
    }
    lines
}

/// Byte positions of `start` and `stop`, counted in characters.
fn window(text: &str, start: Option<&Value>, stop: Option<&Value>) -> Result<Option<Range<usize>>, Fault> {
    let length = text.chars().count() as i128;
    let bound = |given: Option<&Value>, default: i128| match given {
        None | Some(Value::None) => Ok(default),
        Some(given) => {
            let i = integer(given, "a bound")?;
            Ok(if i < 0 { i.saturating_add(length).max(0) } else { i })
        }
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, length)?.min(length));
    if start > stop {
        return Ok(None);
    }
    let byte = |at: i128| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    Ok(Some(byte(start)..byte(stop)))
}

fn affix(text: &str, name: &str, given: Given) -> Result<Value, Fault> {
    let [Some(wanted), start, stop] = given.unnamed(name, 1)? else { return Err(missing(name)) };
    let wanted: Vec<&Text> = match &wanted {
        Value::Tuple(items) => items.items.iter().map(|item| str_of(item, name)).collect::<Result<_, _>>()?,
        one => vec![str_of(one, name)?],
    };
    let Some(window) = window(text, start.as_ref(), stop.as_ref())? else { return Ok(Value::Bool(false)) };
    let text = &text[window];
    let fits = |w: &&Text| if name == "startswith" { text.starts_with(w.as_str()) } else { text.ends_with(w.as_str()) };
    Ok(Value::Bool(wanted.iter().any(fits)))
}

fn search(text: &str, name: &str, given: Given) -> Result<Value, Fault> {
    let [Some(part), start, stop] = given.unnamed(name, 1)? else { return Err(missing(name)) };
    let part = str_of(&part, name)?.as_str();
    let window = window(text, start.as_ref(), stop.as_ref())?;
    if name == "count" {
        let count = match window {
            None => 0,
            Some(window) if part.is_empty() => text[window].chars().count() + 1,
            Some(window) => text[window].matches(part).count(),
        };
        return Ok(Value::Int(count as i128));
    }
    let at = window.and_then(|window| Some(window.start + found(&text[window], part, name.starts_with('r'))?));
    match at {
        Some(at) => Ok(Value::Int(text[..at].chars().count() as i128)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Fault::failed("substring not found")),
    }
}

/// `text` with `new` in place of the first `count` times that `old` stands in it; a negative count: all of them.
pub(super) fn replace(budget: &Budget, text: &Text, old: &str, new: &Text, count: i128) -> Result<Text, Fault> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let mut out = Writer::new(budget);
    let chars = text.as_str();
    let mut from = 0;
    if old.is_empty() {
        let places = chars.char_indices().map(|(at, _)| at).chain([chars.len()]).take(most);
        for at in places {
            budget.steps(1)?;
            out.part(text, from..at)?;
            out.text(new)?;
            from = at;
        }
    } else {
        for at in memchr::memmem::find_iter(chars.as_bytes(), old.as_bytes()).take(most) {
            budget.steps(1)?;
            out.part(text, from..at)?;
            out.text(new)?;
            from = at + old.len();
        }
    }
    out.part(text, from..chars.len())?;
    Ok(out.finish())
}

/// `text` in a field of `width` characters.
pub(super) fn pad(budget: &Budget, text: &Text, width: i128, fill: &Text, how: &str) -> Result<Text, Fault> {
    if fill.as_str().chars().count() != 1 {
        return Err(Fault::failed("the fill must be one character"));
    }
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    let room = width.saturating_sub(text.as_str().chars().count());
    let left = match how {
        "ljust" => 0,
        "rjust" => room,
        // As Python does: the odd one goes left where the width is odd.
        _ => room / 2 + (room & width & 1),
    };
    let mut out = Writer::new(budget);
    out.repeat(fill, left)?;
    out.text(text)?;
    out.repeat(fill, room - left)?;
    Ok(out.finish())
}

fn zfill(budget: &Budget, text: &Text, width: i128) -> Result<Text, Fault> {
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    let room = width.saturating_sub(text.as_str().chars().count());
    let sign = usize::from(text.as_str().starts_with(['+', '-']));
    let mut out = Writer::new(budget);
    out.part(text, 0..sign)?;
    out.repeat(&Text::plain("0"), room)?;
    out.part(text, sign..text.as_str().len())?;
    Ok(out.finish())
}

fn expand_tabs(budget: &Budget, text: &Text, size: i128) -> Result<Text, Fault> {
    let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
    let mut out = Writer::new(budget);
    let mut column: usize = 0;
    for (_, c, origin) in text.each() {
        if c == '\t' {
            let blanks = if size == 0 { 0 } else { size - column % size };
            out.repeat(&Text::new(" ", origin), blanks)?;
            column = column.saturating_add(blanks);
        } else {
            out.push_char(c, origin)?;
            column = if c == '\n' || c == '\r' { 0 } else { column + 1 };
        }
    }
    Ok(out.finish())
}
