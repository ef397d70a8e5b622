//! Which amounts of free space some open row has: a set of small integers that answers "the
//! smallest member ≥ x" in a few word reads.
//!
//! A 64-ary tree of bits: a bit on one level says whether a word on the level below has any bit
//! set. 2,048 tokens per row need two levels, 262,144 need three.

/// A set of integers in `0..=largest`.
pub(super) struct FreeSpaces {
    /// `levels[0]` has one bit per integer; each further level one bit per word below it.
    levels: Vec<Vec<u64>>,
}

impl FreeSpaces {
    pub(super) fn up_to(largest: u32) -> Self {
        let mut levels = Vec::new();
        let mut bits = largest as usize + 1;
        loop {
            let words = bits.div_ceil(64);
            levels.push(vec![0; words]);
            if words == 1 {
                return Self { levels };
            }
            bits = words;
        }
    }

    pub(super) fn insert(&mut self, value: u32) {
        let mut index = value as usize;
        for level in &mut self.levels {
            let word = &mut level[index / 64];
            let was_empty = *word == 0;
            *word |= 1 << (index % 64);
            if !was_empty {
                return;
            }
            index /= 64;
        }
    }

    pub(super) fn remove(&mut self, value: u32) {
        let mut index = value as usize;
        for level in &mut self.levels {
            let word = &mut level[index / 64];
            *word &= !(1 << (index % 64));
            if *word != 0 {
                return;
            }
            index /= 64;
        }
    }

    /// The smallest member that is at least `value`.
    pub(super) fn at_least(&self, value: u32) -> Option<u32> {
        // Climb until a word has a member at or after `index`, then walk down its first bits.
        let mut index = value as usize;
        for (height, level) in self.levels.iter().enumerate() {
            let word = level.get(index / 64).copied().unwrap_or(0);
            let found = word & (!0 << (index % 64));
            if found != 0 {
                let mut at = (index / 64) * 64 + found.trailing_zeros() as usize;
                for below in self.levels[..height].iter().rev() {
                    at = at * 64 + below[at].trailing_zeros() as usize;
                }
                // `at` came from `insert`, so it fits.
                return u32::try_from(at).ok();
            }
            index = index / 64 + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::FreeSpaces;
    use std::collections::BTreeSet;

    #[test]
    fn agrees_with_a_sorted_set_on_every_level_border() {
        for largest in [0, 1, 62, 63, 64, 65, 4095, 4096, 4097, 262_143, 262_144, 300_000] {
            let mut spaces = FreeSpaces::up_to(largest);
            let mut reference = BTreeSet::new();
            let mut random = super::super::SplitMix64::new(u64::from(largest));
            for round in 0..500 {
                let value = random.below(largest + 1);
                if round % 3 == 2 {
                    spaces.remove(value);
                    reference.remove(&value);
                } else {
                    spaces.insert(value);
                    reference.insert(value);
                }
                for query in [0, value, value + 1, value.saturating_sub(1), largest, random.below(largest + 1)] {
                    assert_eq!(
                        spaces.at_least(query),
                        reference.range(query..).next().copied(),
                        "largest {largest}, query {query}"
                    );
                }
            }
        }
    }
}
