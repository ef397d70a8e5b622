//! Split patterns that this engine has no rules for: run by the regular expressions of the reference.

use onig::Regex;

/// GPT-2's, which `ByteLevel` has of its own.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Compiled, in the order in which they cut a text.
///
/// # Errors
///
/// What is wrong with one of them.
pub(super) fn compiled(splits: &[String]) -> Result<Vec<Regex>, String> {
    splits.iter().map(|split| Regex::new(split).map_err(|e| format!("its split pattern {split:?}: {e}"))).collect()
}

/// Where the pieces of a text end, ascending: at both ends of each match of the first, within those of the next, and so on.
pub(super) fn ends(splits: &[Regex], text: &str) -> Vec<usize> {
    let mut ends = vec![text.len()];
    for split in splits {
        let mut from = 0;
        let mut finer = Vec::with_capacity(ends.len() * 2);
        for end in ends {
            for (start, behind) in split.find_iter(&text[from..end]) {
                finer.extend([from + start, from + behind]);
            }
            finer.push(end);
            from = end;
        }
        finer.dedup();
        ends = finer;
    }
    ends
}
