//! Lengths, counted as they come: exact percentiles in memory that does not grow with the data.

use serde::{Deserialize, Serialize};

/// How many samples have each length; lengths never exceed `cutoff_len`.
#[derive(Debug, Default)]
pub struct Lengths {
    counts: Vec<u64>,
}

/// Percentiles by nearest rank, in tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Summary {
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    pub max: u64,
    pub mean: f64,
}

impl Lengths {
    /// Counts a sample.
    pub fn add(&mut self, length: usize) {
        if length >= self.counts.len() {
            self.counts.resize(length + 1, 0);
        }
        self.counts[length] += 1;
    }

    /// The percentiles of all samples.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let n: u64 = self.counts.iter().sum();
        let tokens: u64 = self.counts.iter().zip(0_u64..).map(|(count, length)| count * length).sum();
        let percentile = |percent: u64| {
            let rank = (n * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let found = self.counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            found.unwrap_or(0) as u64
        };
        Summary {
            p50: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
            max: percentile(100),
            mean: if n == 0 { 0.0 } else { tokens as f64 / n as f64 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_nearest_rank() {
        let mut lengths = Lengths::default();
        (1..=200).for_each(|n| lengths.add(n));
        let s = lengths.summary();
        assert_eq!((s.p50, s.p90, s.p95, s.p99, s.max), (100, 180, 190, 198, 200));
        assert!((s.mean - 100.5).abs() < 1e-12);
        assert_eq!(Lengths::default().summary(), Summary::default());
    }
}
