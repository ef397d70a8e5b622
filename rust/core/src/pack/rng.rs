//! The one source of randomness of the plan: SplitMix64, started separately for every purpose.
//!
//! Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014). Its state
//! is a counter, so a stream is a pure function of its key: epoch 7 is planned without epochs 1–6,
//! and a resumed run draws what the killed one would have drawn.

/// What a stream of numbers is for. Two purposes never share one, so that using more numbers for
/// one of them leaves the other as it was. The values are part of the format of a plan.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// The order of the samples in an epoch.
    Order = 1,
    /// Which samples of one length go where (`dense`).
    Classes = 2,
    /// The order of the rows in an epoch (`dense`).
    Rows = 3,
    /// Which samples are held out.
    Split = 4,
    /// Which samples of several datasets are taken.
    Mix = 5,
}

/// SplitMix64. Not for secrets.
#[derive(Debug, Clone)]
pub struct SplitMix64 {
    state: u64,
}

const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl SplitMix64 {
    /// The generator with this state.
    #[must_use]
    pub fn new(state: u64) -> Self {
        Self { state }
    }

    /// The stream of `purpose` in `epoch` under `seed`.
    pub(super) fn keyed(seed: u64, epoch: u64, purpose: Purpose) -> Self {
        // Each part is mixed in before the next is added: neighbouring seeds and epochs, which is
        // what people use, must not give shifted copies of one sequence.
        let mut state = 0;
        for part in [seed, epoch, purpose as u64] {
            state = Self::new(part ^ state).next_u64();
        }
        Self::new(state)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`, each equally likely; 0 for `bound` 0.
    ///
    /// Multiply and shift, drawing again in the few cases that would favour small numbers (Lemire,
    /// "Fast random integer generation in an interval", 2019).
    #[must_use]
    pub fn below(&mut self, bound: u32) -> u32 {
        let bound = u128::from(bound);
        loop {
            let product = u128::from(self.next_u64()) * bound;
            let (high, low) = ((product >> 64) as u64, product as u64);
            // The exact threshold costs a division; almost every draw is far above `bound`.
            if u128::from(low) >= bound || u128::from(low) >= (1 << 64) % bound.max(1) {
                // `high < bound`, which came from 32 bits.
                return high as u32;
            }
        }
    }

    /// Puts `items` into a random order, each equally likely (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        // Lengths are below 2³² everywhere in `pack`.
        for last in (1..items.len()).rev() {
            let other = self.below(last as u32 + 1) as usize;
            items.swap(last, other);
        }
    }

    /// `0..n` in a random order.
    #[must_use]
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::{Purpose, SplitMix64};
    use std::collections::HashSet;

    #[test]
    fn draws_the_published_sequence() {
        // The test vector that accompanies the reference implementation in C.
        let mut random = SplitMix64::new(1_234_567);
        let drawn: Vec<u64> = (0..5).map(|_| random.next_u64()).collect();
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
    }

    #[test]
    fn bounded_draws_are_in_range_and_even() {
        let mut random = SplitMix64::new(5);
        for bound in [1, 2, 3, 7, 64, 1000, u32::MAX] {
            assert!((0..200).all(|_| random.below(bound) < bound));
        }
        assert_eq!(random.below(0), 0);
        let mut seen = [0_u32; 6];
        for _ in 0..60_000 {
            seen[random.below(6) as usize] += 1;
        }
        // Six standard deviations of a fair die.
        assert!(seen.iter().all(|&n| (9_450..=10_550).contains(&n)), "{seen:?}");
    }

    #[test]
    fn every_order_of_four_is_equally_likely() {
        let mut random = SplitMix64::new(11);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..24_000 {
            *seen.entry(random.permutation(4)).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 24);
        assert!(seen.values().all(|n| (810..=1_190).contains(n)), "{seen:?}");
    }

    #[test]
    fn neighbouring_keys_share_no_numbers() {
        let mut seen = HashSet::new();
        let mut drawn = 0;
        for seed in 0..8 {
            for epoch in 0..8 {
                for purpose in [Purpose::Order, Purpose::Classes, Purpose::Rows, Purpose::Split] {
                    let mut random = SplitMix64::keyed(seed, epoch, purpose);
                    for _ in 0..100 {
                        seen.insert(random.next_u64());
                        drawn += 1;
                    }
                }
            }
        }
        assert_eq!(seen.len(), drawn);
    }
}
