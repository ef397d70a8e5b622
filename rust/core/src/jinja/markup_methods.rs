//! Methods of what the filter `safe` makes: those of any text, whose results are safe again.

use super::arguments::Given;
use super::budget::Budget;
use super::fault::Fault;
use super::markup::{escape, safe};
use super::operators::iterate;
use super::strings;
use super::text::Text;
use super::value::Value;

/// Methods of texts whose result is safe again, and which take nothing that must be escaped.
const SAFE: [&str; 13] = [
    "capitalize",
    "casefold",
    "expandtabs",
    "lower",
    "lstrip",
    "removeprefix",
    "removesuffix",
    "rstrip",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
/// Those that give parts, each of which is safe.
const PARTS: [&str; 5] = ["partition", "rpartition", "rsplit", "split", "splitlines"];
/// Those that give a number or a truth, as for any text.
const PLAIN: [&str; 7] = ["count", "endswith", "find", "index", "rfind", "rindex", "startswith"];

/// `text.name(…)`.
pub(super) fn method(budget: &Budget, text: &Text, name: &str, given: Given) -> Result<Value, Fault> {
    if SAFE.contains(&name) {
        return strings::method(budget, text, name, given).map(safe);
    }
    if PARTS.contains(&name) {
        let parts = strings::method(budget, text, name, given)?;
        let items = iterate(budget, &parts)?.into_iter().map(safe).collect();
        return if matches!(parts, Value::Tuple(_)) { Value::tuple(budget, items) } else { Value::list(budget, items) };
    }
    if PLAIN.contains(&name) || name.starts_with("is") {
        return strings::method(budget, text, name, given);
    }
    if !matches!(name, "join" | "replace" | "center" | "ljust" | "rjust") {
        return Err(Fault::unsupported(format!("the method `{name}` of what the filter `safe` returned")));
    }
    // The text to put in is escaped; the one to look for is not.
    let Given { positional, named } = given;
    let mut escaped = Vec::with_capacity(positional.len());
    for (at, value) in positional.into_iter().enumerate() {
        escaped.push(match value {
            Value::Text(_) if at == 1 && name != "join" => escape(budget, &value, false)?,
            items if at == 0 && name == "join" => {
                let items = iterate(budget, &items)?;
                let each = items.iter().map(|item| escape(budget, item, false)).collect::<Result<_, _>>()?;
                Value::list(budget, each)?
            }
            other => other,
        });
    }
    strings::method(budget, text, name, Given { positional: escaped, named }).map(safe)
}
