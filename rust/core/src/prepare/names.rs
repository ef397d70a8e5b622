//! Names out of the data in reports and messages: there may be any number of them, each of any length.

/// Keys that a message names, of rows that cannot be used.
pub(super) const KEYS_SHOWN: usize = 8;
/// Characters of a name that are shown.
const LONGEST_NAME: usize = 100;

/// The beginning of a name out of the data: a key of megabytes must not be in a report as a whole.
pub(super) fn beginning(name: &str) -> &str {
    name.char_indices().nth(LONGEST_NAME).map_or(name, |(at, _)| &name[..at])
}
