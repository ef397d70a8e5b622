//! Sample lengths in tokens, distributed as real instruction data is.
//!
//! Log-normal, by median and spread. The four shapes: short questions and answers (about 66 tokens on average),
//! Alpaca with a chat template, multi-turn dialogues, and the hard case for packers, where no two samples and no
//! three fill a row.

use qlora_fast_core::pack::SplitMix64;

/// How long samples are.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// One short question, one short answer.
    Short,
    /// Alpaca with a chat template, mostly one paragraph.
    Alpaca,
    /// Dialogues of several turns, long-tailed.
    Dialogue,
    /// Between 0.3 and 0.7 of a row.
    Hard,
}

impl Shape {
    /// Every shape, with its name in reports.
    pub const ALL: [(&'static str, Self); 4] =
        [("short", Self::Short), ("alpaca", Self::Alpaca), ("dialogue", Self::Dialogue), ("hard", Self::Hard)];

    /// `n` lengths of 3 to `row` tokens.
    #[must_use]
    pub fn lengths(self, n: usize, row: u32) -> Vec<u32> {
        let mut random = SplitMix64::new(n as u64 ^ u64::from(row));
        (0..n).map(|_| self.draw(&mut random, row)).collect()
    }

    fn draw(self, random: &mut SplitMix64, row: u32) -> u32 {
        let (median, sigma) = match self {
            Self::Short => (60.0, 0.45),
            Self::Alpaca => (145.0, 0.65),
            Self::Dialogue => (700.0, 0.9),
            Self::Hard => return row * 3 / 10 + random.below(row * 4 / 10 + 1),
        };
        let length: f64 = median * (sigma * normal(random)).exp();
        (length as u32).clamp(3, row)
    }
}

/// Box–Muller: one standard normal number from two even ones.
fn normal(random: &mut SplitMix64) -> f64 {
    let mut even = || (f64::from(random.next_u64() as u32) + 1.0) / 4_294_967_297.0;
    let (radius, angle) = (even(), even());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}
