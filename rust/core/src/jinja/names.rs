//! The names of Jinja2's filters and tests.

use super::ast::Comparison;

/// Filters that are here.
const HERE: [&str; 44] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
];
/// Filters of Jinja2 that nothing here implements: a template that comes to one is stopped there.
const NOT_HERE: [&str; 10] = [
    "filesizeformat",
    "groupby",
    "pprint",
    "random",
    "striptags",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// Whether Jinja2 has a filter of this name.
pub(super) fn is_filter(name: &str) -> bool {
    HERE.contains(&name) || NOT_HERE.contains(&name)
}

/// Tests that compare with a value.
pub(super) const COMPARISONS: [(&[&str], Comparison); 7] = [
    (&["==", "eq", "equalto"], Comparison::Equal),
    (&["!=", "ne"], Comparison::NotEqual),
    (&[">", "gt", "greaterthan"], Comparison::Greater),
    (&["ge", ">="], Comparison::GreaterOrEqual),
    (&["<", "lt", "lessthan"], Comparison::Less),
    (&["<=", "le"], Comparison::LessOrEqual),
    (&["in"], Comparison::In),
];
/// The other tests.
const OTHERS: [&str; 24] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
];

/// Whether Jinja2 has a test of this name.
pub(super) fn is_test(name: &str) -> bool {
    OTHERS.contains(&name) || COMPARISONS.iter().any(|(names, _)| names.contains(&name))
}
