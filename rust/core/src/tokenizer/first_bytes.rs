//! Whether any of some texts may stand in another, by their first bytes alone.

/// The bytes that some texts begin with. Added tokens mostly begin with `<` or `[`, and most of the data has neither, which is
/// found out several times faster than by a search for the tokens.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstBytes {
    None,
    One(u8),
    Two(u8, u8),
    Three(u8, u8, u8),
    /// Too many to look for, or nothing to begin with.
    Many,
}

impl FirstBytes {
    pub(super) fn of<'t>(texts: impl Iterator<Item = &'t str>) -> Self {
        let mut firsts: Vec<Option<u8>> = texts.map(|text| text.bytes().next()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        match firsts[..] {
            [] => Self::None,
            [Some(a)] => Self::One(a),
            [Some(a), Some(b)] => Self::Two(a, b),
            [Some(a), Some(b), Some(c)] => Self::Three(a, b, c),
            _ => Self::Many,
        }
    }

    /// Whether one of the texts may stand in this one.
    #[inline]
    pub(super) fn may_stand_in(&self, text: &str) -> bool {
        let text = text.as_bytes();
        match *self {
            Self::None => false,
            Self::One(a) => memchr::memchr(a, text).is_some(),
            Self::Two(a, b) => memchr::memchr2(a, b, text).is_some(),
            Self::Three(a, b, c) => memchr::memchr3(a, b, c, text).is_some(),
            Self::Many => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_none_of_the_first_bytes_has_none_of_the_texts() {
        for (texts, without, with) in
            [(&["<a>", "<b>"][..], "a> b", "x <"), (&["<a>", "[b]"], "a>b]", "["), (&["<", "[", "é"], "aeiou", "mé")]
        {
            let firsts = FirstBytes::of(texts.iter().copied());
            assert!(
                !firsts.may_stand_in(without) && !firsts.may_stand_in("") && firsts.may_stand_in(with),
                "{texts:?}"
            );
        }
        assert!(!FirstBytes::of([].into_iter()).may_stand_in("<"));
        for many in [&["a", "b", "c", "d"][..], &["<", ""]] {
            assert!(FirstBytes::of(many.iter().copied()).may_stand_in(""), "{many:?}");
        }
    }
}
