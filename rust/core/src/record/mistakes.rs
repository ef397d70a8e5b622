//! What a text that is not JSON most likely is: messages name the mistake that was made, and not what a parser met.

/// What is wrong, and how to fix it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) problem: &'static str,
    pub(super) hint: &'static str,
}

const fn mistake(problem: &'static str, hint: &'static str) -> Mistake {
    Mistake { problem, hint }
}

/// Bytes of a file that are looked at to guess what it is.
const HEAD: usize = 4096;
const CONVERT: &str =
    "save the table as JSONL; in Python: pandas.read_csv(FILE).to_json(\"data.jsonl\", orient=\"records\", lines=True)";
const COMMENT: Mistake = mistake("there is a comment here, and JSON has none", "remove it");

/// What a file is whose first character opens neither an array nor an object.
pub(super) fn of_start(bytes: &[u8]) -> Mistake {
    let head = &bytes[..bytes.len().min(HEAD)];
    let text = String::from_utf8_lossy(head);
    let line = text.lines().next().unwrap_or_default();
    if head.iter().any(|&byte| byte < b' ' && !byte.is_ascii_whitespace()) || text.starts_with("%PDF") {
        return mistake("these bytes are not text", "supported are JSON and JSONL, plain, .gz or .zst, and Parquet");
    }
    if line.starts_with("version https://git-lfs") {
        return mistake("this is a pointer of Git LFS, not the data", "fetch the data with `git lfs pull`");
    }
    if text.starts_with('<') {
        return mistake("this is a web page or XML, not JSON", "did the download fail? open the file to see");
    }
    // The heading of a text in Markdown looks like a comment as well.
    if is_comment(&text) && text.lines().any(|line| line.trim_start().starts_with(['[', '{'])) {
        return COMMENT;
    }
    if line.starts_with("- ") || line.starts_with("---") {
        return mistake(
            "this looks like YAML",
            "save it as JSON; in Python: json.dump(yaml.safe_load(open(FILE)), OUT)",
        );
    }
    if line.contains(['[', '{']) {
        return mistake(
            "the data is embedded in other text, such as a program",
            "write the data from the program: json.dump in Python, JSON.stringify in JavaScript",
        );
    }
    if line.matches([',', '\t', ';']).count() > 0 && !line.ends_with('.') {
        return mistake("this looks like a table (CSV), which is not read", CONVERT);
    }
    mistake(
        "neither a JSON array nor JSONL starts like this",
        "the file must begin with `[` (an array of records) or `{` (one record per line)",
    )
}

/// What a record's fault is, from what stands where the parser stopped; `None` where its own words are the clearest.
///
/// `rest` is the text from the character that was not expected to the end of its line.
pub(super) fn of_record(error: &serde_json::Error, rest: &str) -> Option<Mistake> {
    let message = error.to_string();
    let said = |words: &str| message.starts_with(words);
    if error.is_eof() {
        return Some(mistake(
            "the text ends inside a record",
            "is the file incomplete, or a quote or bracket not closed? a file that begins with `{` is read as one record per line",
        ));
    }
    if said("recursion limit") {
        return Some(mistake(
            "a value that is read is nested in more than 127 brackets",
            "store such a value as text, or under a key that is not read",
        ));
    }
    if said("control character") {
        return Some(mistake(
            "there is a line break or another control character inside a quoted text",
            "write a line break as \\n and a tab as \\t; is a closing quote missing before it?",
        ));
    }
    if said("invalid escape") {
        return Some(mistake(
            "this backslash and the character after it are not an escape of JSON",
            "write a backslash as \\\\; JSON's escapes are \\\" \\\\ \\/ \\b \\f \\n \\r \\t and \\uXXXX",
        ));
    }
    if said("trailing characters") {
        return match rest.chars().next() {
            Some(',') => Some(mistake(
                "there is a comma after a record",
                "in JSONL, records are separated by line breaks alone; or enclose all of them in `[` and `]`",
            )),
            Some('{') => Some(mistake("there are two records on one line", "put each record on its own line")),
            _ => None,
        };
    }
    if rest.starts_with('\'') {
        return Some(mistake(
            "single quotes: this is how Python prints a dict",
            "write the file with json.dump, which uses JSON's double quotes",
        ));
    }
    if rest.starts_with(['“', '”', '„', '«', '‘', '’']) {
        return Some(mistake("these are typographic quotes; JSON has straight ones", "replace them with \""));
    }
    if is_comment(rest) {
        return Some(COMMENT);
    }
    if ["None", "True", "False"].iter().any(|word| rest.starts_with(word)) {
        return Some(mistake("this is how Python writes a value", "JSON has null, true and false; use json.dump"));
    }
    if rest.starts_with("undefined") {
        return Some(mistake("`undefined` is not a value of JSON", "write null, or remove the key"));
    }
    if said("key must be a string") {
        return Some(mistake("a key has no quotes", "put double quotes around each key"));
    }
    if said("expected `,` or `}`") || said("expected `,` or `]`") {
        return Some(mistake(
            "a comma or a closing bracket is missing before this position",
            "a quote inside a text is written \\\"",
        ));
    }
    None
}

fn is_comment(text: &str) -> bool {
    ["//", "/*", "#"].iter().any(|mark| text.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(record: &str) -> Option<&'static str> {
        let error = serde_json::from_str::<serde_json::Value>(record).unwrap_err();
        let line = record.lines().nth(error.line().max(1) - 1).unwrap_or_default();
        let at = error.column().saturating_sub(1).min(line.len());
        of_record(&error, line.get(at..).unwrap_or_default()).map(|m| m.problem)
    }

    #[test]
    fn the_mistake_in_a_record_is_named() {
        for (record, words) in [
            (r#"{"a": "b""#, "ends inside"),
            ("{'a': 'b'}", "Python prints"),
            (r#"{"a": None}"#, "Python writes"),
            (r#"{"a": True}"#, "Python writes"),
            (r#"{"a": undefined}"#, "undefined"),
            (r#"{a: "b"}"#, "no quotes"),
            (r#"{"a": “b”}"#, "typographic"),
            (r#"{"a": "b"},"#, "comma after"),
            (r#"{"a": "b"}{"a": "b"}"#, "two records"),
            (r#"{"a": "b" "c": "d"}"#, "is missing before"),
            (r#"{"a": "he said "no""}"#, "is missing before"),
            ("{\"a\": \"b\nc\"}", "line break"),
            (r#"{"a": "C:\temp\x41"}"#, "backslash"),
            ("{\"a\": 1, // one\n\"b\": 2}", "comment"),
            ("{\"a\": # one\n 2}", "comment"),
        ] {
            assert!(of(record).unwrap_or("nothing").contains(words), "{record}: {:?}", of(record));
        }
        assert!(of(&"[".repeat(200)).is_some_and(|problem| problem.contains("127 brackets")));
        assert_eq!(of(r#"{"a": "b",}"#), None, "`trailing comma` says it");
    }

    #[test]
    fn what_a_file_is_that_is_not_json() {
        for (text, words) in [
            ("version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
            ("<!DOCTYPE html><html>", "web page"),
            ("# rows\n{}", "comment"),
            ("// rows\n{}", "comment"),
            ("- instruction: a\n", "YAML"),
            ("---\ninstruction: a\n", "YAML"),
            ("instruction,output\na,b\n", "CSV"),
            ("\"instruction\";\"output\"\n", "CSV"),
            ("instruction\toutput\n", "CSV"),
            ("data = [{\"a\": 1}]", "program"),
            ("module.exports = {", "program"),
            ("\u{1}\u{0}\u{3}", "not text"),
            ("%PDF-1.7", "not text"),
            ("### Instruction:\nhi", "neither"),
            ("# Title\n\nText", "neither"),
            ("Once upon a time, it rained.", "neither"),
            ("null", "neither"),
            ("\"a text\"", "neither"),
        ] {
            assert!(of_start(text.as_bytes()).problem.contains(words), "{text:?}: {:?}", of_start(text.as_bytes()));
        }
    }
}
