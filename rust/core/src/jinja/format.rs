//! Python's two ways to format: `'%s' % value` and `'{}'.format(value)`.

use super::arguments::Given;
use super::attributes::{attribute, item};
use super::budget::Budget;
use super::fault::Fault;
use super::numeric::{Number, number};
use super::print::{repr, write};
use super::text::{Origin, Text, Writer};
use super::value::{Key, Value};

/// How a value is laid out.
struct Layout {
    fill: char,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    comma: bool,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            fill: ' ',
            align: None,
            sign: None,
            alternate: false,
            width: 0,
            comma: false,
            precision: None,
            kind: None,
        }
    }
}

/// `format % values`.
pub(super) fn percent(budget: &Budget, format: &Text, values: &Value) -> Result<Text, Fault> {
    let list = match values {
        Value::Tuple(items) => items.items.clone(),
        other => vec![other.clone()],
    };
    let (mut out, mut used, mut named) = (Writer::new(budget), 0, false);
    let chars = format.as_str();
    let mut at = 0;
    while let Some(found) = chars[at..].find('%').map(|found| at + found) {
        out.part(format, at..found)?;
        let origin = format.origin(found);
        let mut rest = &chars[found + 1..];
        let mut value = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let (key, behind) = inner.split_once(')').ok_or_else(|| Fault::failed("a format key that never ends"))?;
            let Value::Dict(dict) = values else { return Err(Fault::failed("the format needs a mapping")) };
            let found = dict.get(&Key::Text(key.into())).ok_or_else(|| Fault::failed(format!("no key '{key}'")))?;
            value = Some(found.clone());
            named = true;
            rest = behind;
        }
        let mut layout = Layout { align: Some('>'), ..Layout::default() };
        let mut zero = false;
        while let Some(flag) = rest.chars().next().filter(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => layout.align = Some('<'),
                '0' => zero = true,
                '#' => layout.alternate = true,
                sign => layout.sign = if layout.sign == Some('+') { Some('+') } else { Some(sign) },
            }
            rest = &rest[1..];
        }
        if rest.starts_with('*') {
            return Err(Fault::unsupported("`*` in a format"));
        }
        (layout.width, rest) = digits(rest)?.map_or((0, rest), |(n, rest)| (n, rest));
        if let Some(behind) = rest.strip_prefix('.') {
            let (n, behind) = digits(behind)?.unwrap_or((0, behind));
            layout.precision = Some(n);
            rest = behind;
        }
        rest = rest.trim_start_matches(['l', 'h', 'L']);
        let kind = rest.chars().next().ok_or_else(|| Fault::failed("an incomplete format"))?;
        at = chars.len() - rest.len() + kind.len_utf8();
        if kind == '%' {
            out.push("%", origin)?;
            continue;
        }
        let value = match value {
            Some(value) => value,
            None => {
                used += 1;
                list.get(used - 1).cloned().ok_or_else(|| Fault::failed("not enough values for the format"))?
            }
        };
        if zero && layout.align != Some('<') && !matches!(kind, 's' | 'r' | 'c' | 'a') {
            (layout.fill, layout.align) = ('0', Some('='));
        }
        converted(&mut out, &value, kind, layout, origin)?;
    }
    out.part(format, at..chars.len())?;
    let mapping = matches!(values, Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_));
    if !named && used < list.len() && !mapping {
        return Err(Fault::failed("not all values are used in the format"));
    }
    Ok(out.finish())
}

/// One conversion of `%`.
fn converted(out: &mut Writer<'_>, value: &Value, kind: char, mut layout: Layout, origin: Origin) -> Result<(), Fault> {
    let wrong = || Fault::failed(format!("%{kind} of a {}", value.kind()));
    match kind {
        's' | 'r' => {
            let text = shown(out, value, kind == 'r')?;
            padded_text(out, &text, &layout, origin)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let whole = match number(value) {
                Some(Number::Int(i)) => i,
                Some(Number::Float(f)) if "diu".contains(kind) && f.is_finite() && f.abs() < 1e30 => f.trunc() as i128,
                _ => return Err(wrong()),
            };
            if layout.precision.is_some() || layout.alternate {
                return Err(Fault::unsupported("a precision of whole numbers in a format"));
            }
            layout.kind = Some(if "iu".contains(kind) { 'd' } else { kind });
            number_text(out, Number::Int(whole), &layout, origin)
        }
        'f' | 'F' => {
            let value = number(value).ok_or_else(wrong)?;
            layout.kind = Some('f');
            number_text(out, Number::Float(value.float()), &layout, origin)
        }
        'c' => match (value, number(value)) {
            (Value::Text(text), _) if text.as_str().chars().count() == 1 => padded_text(out, text, &layout, origin),
            (_, Some(Number::Int(i))) => {
                let c = u32::try_from(i).ok().and_then(char::from_u32).ok_or_else(wrong)?;
                padded_text(out, &Text::plain(c.to_string()), &layout, origin)
            }
            _ => Err(wrong()),
        },
        'e' | 'E' | 'g' | 'G' | 'a' => Err(Fault::unsupported(format!("%{kind} in a format"))),
        _ => Err(Fault::failed(format!("%{kind} is no format"))),
    }
}

/// `format.format(…)`.
pub(super) fn braces(budget: &Budget, format: &Text, given: &Given) -> Result<Text, Fault> {
    let (mut out, mut next) = (Writer::new(budget), 0);
    let (mut automatic, mut numbered) = (false, false);
    let chars = format.as_str();
    let mut at = 0;
    while let Some(found) = chars[at..].find(['{', '}']).map(|found| at + found) {
        out.part(format, at..found)?;
        let origin = format.origin(found);
        let (brace, rest) = chars[found..].split_at(1);
        if rest.starts_with(brace) {
            out.push(brace, origin)?;
            at = found + 2;
            continue;
        }
        let end = rest.find('}').filter(|_| brace == "{").ok_or_else(|| Fault::failed("a single brace in a format"))?;
        let field = &rest[..end];
        at = found + end + 2;
        if field.contains('{') {
            return Err(Fault::unsupported("braces in the braces of a format"));
        }
        let (field, spec) = field.split_once(':').unwrap_or((field, ""));
        let (path, conversion) = field.split_once('!').unwrap_or((field, ""));
        let name_ends = path.find(['.', '[']).unwrap_or(path.len());
        let first = &path[..name_ends];
        let value = if first.is_empty() || first.bytes().all(|b| b.is_ascii_digit()) {
            let index = if first.is_empty() {
                automatic = true;
                next += 1;
                next - 1
            } else {
                numbered = true;
                first.parse().map_err(|_| Fault::failed("an index that is too large"))?
            };
            given.positional.get(index).cloned()
        } else {
            given.named.iter().find(|(name, _)| **name == *first).map(|(_, value)| value.clone())
        };
        if automatic && numbered {
            return Err(Fault::failed("fields with and without numbers in one format"));
        }
        let value = value.ok_or_else(|| Fault::failed(format!("the format has no value for '{first}'")))?;
        let value = followed(budget, value, &path[name_ends..])?;
        let value = match conversion {
            "" => value,
            "s" | "r" => Value::Text(shown(&out, &value, conversion == "r")?),
            "a" => return Err(Fault::unsupported("!a in a format")),
            _ => return Err(Fault::failed("an unknown conversion in a format")),
        };
        formatted(&mut out, &value, spec, origin)?;
    }
    out.part(format, at..chars.len())?;
    Ok(out.finish())
}

/// `.name` and `[key]` behind a field's name.
fn followed(budget: &Budget, mut value: Value, mut path: &str) -> Result<Value, Fault> {
    while !path.is_empty() {
        if let Some(rest) = path.strip_prefix('.') {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            value = attribute(budget, &value, &rest[..end].into())?;
            path = &rest[end..];
        } else {
            let inner = path.strip_prefix('[').ok_or_else(|| Fault::failed("a field that makes no sense"))?;
            let (key, rest) = inner.split_once(']').ok_or_else(|| Fault::failed("a key that never ends"))?;
            let key = key.parse::<i128>().map_or_else(|_| Value::own(key), Value::Int);
            value = item(budget, &value, &key)?;
            path = rest;
        }
    }
    Ok(value)
}

/// One field of `format`.
fn formatted(out: &mut Writer<'_>, value: &Value, spec: &str, origin: Origin) -> Result<(), Fault> {
    if spec.is_empty() {
        return write(out, value);
    }
    let layout = layout(spec)?;
    let number = number(value);
    match (value, layout.kind) {
        (Value::Text(text), None | Some('s')) => {
            if layout.sign.is_some() || layout.comma || layout.alternate || layout.align == Some('=') {
                return Err(Fault::failed("a format for numbers, of a text"));
            }
            padded_text(out, text, &Layout { align: layout.align.or(Some('<')), ..layout }, origin)
        }
        (Value::Bool(_), None) => Err(Fault::unsupported("a layout of booleans")),
        (_, Some('d' | 'x' | 'X' | 'o' | 'b') | None) if matches!(number, Some(Number::Int(_))) => {
            if layout.precision.is_some() || layout.alternate {
                return Err(Fault::unsupported("a precision of whole numbers in a format"));
            }
            number_text(out, number.unwrap_or(Number::Int(0)), &layout, origin)
        }
        (_, Some('f' | 'F' | '%')) if number.is_some() => {
            number_text(out, Number::Float(number.map_or(0.0, Number::float)), &layout, origin)
        }
        (_, Some('e' | 'E' | 'g' | 'G' | 'n') | None) if number.is_some() => {
            Err(Fault::unsupported(format!("the format `{spec}`")))
        }
        _ => Err(Fault::failed(format!("the format `{spec}` of a {}", value.kind()))),
    }
}

/// `[[fill]align][sign][#][0][width][,][.precision][kind]`.
fn layout(spec: &str) -> Result<Layout, Fault> {
    let mut layout = Layout::default();
    let mut rest = spec;
    let mut two = rest.chars();
    let (first, second) = (two.next(), two.next());
    match (first, second) {
        (Some(fill), Some(align)) if "<>^=".contains(align) => {
            (layout.fill, layout.align) = (fill, Some(align));
            rest = &rest[fill.len_utf8() + 1..];
        }
        (Some(align), _) if "<>^=".contains(align) => {
            layout.align = Some(align);
            rest = &rest[1..];
        }
        _ => {}
    }
    if let Some(sign) = rest.chars().next().filter(|c| "+- ".contains(*c)) {
        layout.sign = Some(sign);
        rest = &rest[1..];
    }
    if let Some(behind) = rest.strip_prefix('#') {
        layout.alternate = true;
        rest = behind;
    }
    if rest.starts_with('0') && layout.align.is_none() {
        (layout.fill, layout.align) = ('0', Some('='));
    }
    (layout.width, rest) = digits(rest)?.unwrap_or((0, rest));
    if let Some(behind) = rest.strip_prefix(',') {
        layout.comma = true;
        rest = behind;
    }
    if let Some(behind) = rest.strip_prefix('.') {
        let (n, behind) = digits(behind)?.ok_or_else(|| Fault::failed("a precision without digits"))?;
        layout.precision = Some(n);
        rest = behind;
    }
    let mut kinds = rest.chars();
    layout.kind = kinds.next();
    if kinds.next().is_some() || rest.starts_with('_') {
        return Err(Fault::failed(format!("`{spec}` is no format")));
    }
    Ok(layout)
}

fn digits(text: &str) -> Result<Option<(usize, &str)>, Fault> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 {
        return Ok(None);
    }
    let n = text[..end].parse().map_err(|_| Fault::budget("it makes too much text"))?;
    Ok(Some((n, &text[end..])))
}

fn shown(out: &Writer<'_>, value: &Value, as_repr: bool) -> Result<Text, Fault> {
    let mut text = Writer::new(out.budget());
    if as_repr {
        repr(&mut text, value)?;
    } else {
        write(&mut text, value)?;
    }
    Ok(text.finish())
}

fn padded_text(out: &mut Writer<'_>, text: &Text, layout: &Layout, origin: Origin) -> Result<(), Fault> {
    let chars = text.as_str();
    let end = layout.precision.and_then(|n| chars.char_indices().nth(n)).map_or(chars.len(), |(at, _)| at);
    let length = chars[..end].chars().count();
    let (before, behind) = padding(layout, length);
    let fill = Text::new(layout.fill.to_string(), origin);
    out.repeat(&fill, before)?;
    out.part(text, 0..end)?;
    out.repeat(&fill, behind)
}

fn padding(layout: &Layout, length: usize) -> (usize, usize) {
    let room = layout.width.saturating_sub(length);
    match layout.align {
        Some('<') => (0, room),
        Some('^') => (room / 2, room - room / 2),
        _ => (room, 0),
    }
}

fn number_text(out: &mut Writer<'_>, value: Number, layout: &Layout, origin: Origin) -> Result<(), Fault> {
    let precision = layout.precision.unwrap_or(6);
    if precision > 10_000 {
        return Err(Fault::budget("it makes too much text"));
    }
    let (negative, mut digits) = match value {
        Number::Int(i) => {
            let size = i.unsigned_abs();
            let digits = match layout.kind {
                Some('x') => format!("{size:x}"),
                Some('X') => format!("{size:X}"),
                Some('o') => format!("{size:o}"),
                Some('b') => format!("{size:b}"),
                _ => size.to_string(),
            };
            (i < 0, digits)
        }
        Number::Float(f) if !f.is_finite() => return Err(Fault::unsupported("a layout of infinite numbers")),
        Number::Float(f) => match layout.kind {
            Some('%') => (f.is_sign_negative(), format!("{:.precision$}%", f.abs() * 100.0)),
            _ => (f.is_sign_negative(), format!("{:.precision$}", f.abs())),
        },
    };
    if layout.comma {
        if layout.fill == '0' && layout.align == Some('=') {
            return Err(Fault::unsupported("commas between leading zeros"));
        }
        let whole = digits.find(['.', '%']).unwrap_or(digits.len());
        for at in (1..whole).rev().filter(|at| (whole - at).is_multiple_of(3)) {
            digits.insert(at, ',');
        }
    }
    let sign = match (negative, layout.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let fill = Text::new(layout.fill.to_string(), origin);
    let (before, behind) = padding(layout, sign.len() + digits.len());
    if layout.align == Some('=') {
        out.push(sign, origin)?;
        out.repeat(&fill, before)?;
    } else {
        out.repeat(&fill, before)?;
        out.push(sign, origin)?;
    }
    out.push(&digits, origin)?;
    out.repeat(&fill, behind)
}
