//! Jinja as transformers renders chat templates with it: its block rules, its functions, Python's string methods.

use crate::record::pyjson;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};
use std::borrow::Cow;

/// The date that `strftime_now` prints: the one that Llama's templates fall back to. Today's would give other bytes
/// tomorrow.
pub const FIXED_DATE: &str = "26 Jul 2024";

/// Marks what a template raised on purpose.
const RAISED: &str = "raise_exception: ";

/// An environment with the template under the name `chat`.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format));
    environment.add_filter("tojson", tojson);
    environment.add_template_owned("chat", without_generation_tags(source).into_owned())?;
    Ok(environment)
}

/// What a template said with `raise_exception`, if that is what happened.
pub(super) fn raised(error: &Error) -> Option<&str> {
    error.detail()?.strip_prefix(RAISED)
}

/// `{% generation %}` marks answers for transformers' masks; ours are found otherwise (and for every template).
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|end| start + end + 2) else { break };
        let tag = &rest[start..end];
        let plain = match tag[2..tag.len() - 2].trim_matches(['-', '+']).trim() {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        text.push_str(&rest[..start]);
        text.push_str(&plain);
        rest = &rest[end..];
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// transformers' `tojson`: Python's `json.dumps` with its four options, and not escaped for HTML as Jinja's own is.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands filters their options by value")]
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let fault = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let json = serde_json::to_value(value).map_err(fault)?;
    let style = pyjson::Style {
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent: options.get::<Option<usize>>("indent")?,
        separators: options.get::<Option<Vec<String>>>("separators")?.and_then(|s| <[String; 2]>::try_from(s).ok()),
    };
    options.assert_all_used()?;
    Ok(pyjson::dumps_as(&json, &style))
}

/// Python's `strftime` of 26 July 2024, midnight, a Friday.
fn strftime(format: &str) -> String {
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('-') => text.push_str(match chars.next() {
                Some('d') => "26",
                Some('m') => "7",
                _ => "0",
            }),
            Some(code) => text.push_str(match code {
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
                '%' => "%",
                _ => "",
            }),
            None => text.push('%'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(source: &str) -> String {
        let environment = environment(source).unwrap();
        let value: serde_json::Value = serde_json::from_str(r#"{"z": [1, "é\n"], "a": {"x": 1.0}, "e": []}"#).unwrap();
        environment
            .get_template("chat")
            .unwrap()
            .render(minijinja::context! { v => Value::from(minijinja::value::Serde(&value)) })
            .unwrap()
    }

    #[test]
    fn tojson_is_pythons() {
        assert_eq!(print("{{ v | tojson }}"), r#"{"z": [1, "é\n"], "a": {"x": 1.0}, "e": []}"#);
        assert_eq!(print("{{ v.z | tojson(ensure_ascii=true) }}"), r#"[1, "\u00e9\n"]"#);
        assert_eq!(print("{{ v.a | tojson(separators=[',', ':']) }}"), r#"{"x":1.0}"#);
        assert_eq!(print("{{ v | tojson(sort_keys=true) }}"), r#"{"a": {"x": 1.0}, "e": [], "z": [1, "é\n"]}"#);
        assert_eq!(
            print("{{ v | tojson(indent=2) }}"),
            "{\n  \"z\": [\n    1,\n    \"é\\n\"\n  ],\n  \"a\": {\n    \"x\": 1.0\n  },\n  \"e\": []\n}"
        );
    }

    #[test]
    fn what_transformers_adds_is_there() {
        assert_eq!(print("{{ strftime_now('%d %b %Y') }}"), FIXED_DATE);
        assert_eq!(print("a{%- generation %} b {%- endgeneration -%} c"), "a bc");
        assert_eq!(print("{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}"), "13");
        assert_eq!(print("{{ ' x '.strip() + 'a</think>b'.split('</think>')[-1] }}"), "xb");
        let refused = environment("{{ raise_exception('no') }}").unwrap();
        let error = refused.get_template("chat").unwrap().render(()).unwrap_err();
        assert_eq!(raised(&error), Some("no"));
    }
}
