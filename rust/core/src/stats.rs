//! Lengths, counted as they come, in memory that does not grow with the data.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Lengths up to 2 · `FINE` are counted one by one; from there on every octave has `FINE` buckets.
const FINE: usize = 4096;

/// How many samples have each length: exact up to 8,192 tokens, to one part in 4,096 above; the tokens of each bucket
/// are exact everywhere. Stored as text, `length:samples`, with `:tokens` behind where a bucket holds several lengths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lengths {
    buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bucket {
    samples: u64,
    tokens: u64,
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

/// What a cutoff takes away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The cutoff.
    pub cutoff_len: u64,
    /// Samples that are longer.
    pub rows: u64,
    /// Their tokens behind it.
    pub tokens: u64,
}

impl Lengths {
    /// Counts a sample.
    pub fn add(&mut self, length: usize) {
        self.count(length, Bucket { samples: 1, tokens: length as u64 });
    }

    /// Counts all samples of `other` as well.
    pub fn append(&mut self, other: &Self) {
        for (index, bucket) in other.buckets.iter().enumerate().filter(|(_, b)| b.samples > 0) {
            self.count(first_length(index), *bucket);
        }
    }

    fn count(&mut self, length: usize, more: Bucket) {
        let index = bucket_of(length);
        if index >= self.buckets.len() {
            self.buckets.resize(index + 1, Bucket::default());
        }
        self.buckets[index].samples += more.samples;
        self.buckets[index].tokens += more.tokens;
    }

    /// Samples counted.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.buckets.iter().map(|b| b.samples).sum()
    }

    /// Their tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.buckets.iter().map(|b| b.tokens).sum()
    }

    /// Each length and its samples, ascending; a bucket of several lengths stands for their mean.
    pub fn histogram(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().filter(|b| b.samples > 0).map(|b| (b.tokens / b.samples, b.samples))
    }

    /// The percentiles of all samples.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let (samples, tokens) = (self.samples(), self.tokens());
        Summary {
            p50: self.percentile(50),
            p90: self.percentile(90),
            p95: self.percentile(95),
            p99: self.percentile(99),
            max: self.percentile(100),
            mean: if samples == 0 { 0.0 } else { tokens as f64 / samples as f64 },
        }
    }

    /// The mean length in the bucket of the sample that has this share of all samples at or below it.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.samples() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().find(|bucket| {
            seen += bucket.samples;
            seen >= rank
        });
        found.map_or(0, |b| b.tokens / b.samples)
    }

    /// What a cutoff takes away: exact up to 8,192, and for every multiple of 64 up to 524,288.
    #[must_use]
    pub fn loss_at(&self, cutoff: u64) -> Loss {
        let longer = self.buckets.iter().filter(|b| b.tokens > cutoff * b.samples);
        longer.fold(Loss { cutoff_len: cutoff, ..Loss::default() }, |loss, bucket| Loss {
            rows: loss.rows + bucket.samples,
            tokens: loss.tokens + bucket.tokens - cutoff * bucket.samples,
            ..loss
        })
    }
}

/// Buckets end at round lengths, so that a cutoff there parts them.
fn bucket_of(length: usize) -> usize {
    if length <= 2 * FINE {
        return length;
    }
    let octave = ((length - 1) / FINE).ilog2() as usize;
    (octave << FINE.ilog2()) + ((length - 1) >> octave) + 1
}

/// The shortest length of a bucket.
fn first_length(index: usize) -> usize {
    if index <= 2 * FINE {
        return index;
    }
    let octave = (index - 1) / FINE - 1;
    ((index - 1 - (octave << FINE.ilog2())) << octave) + 1
}

impl Serialize for Lengths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entries = Vec::new();
        for (index, Bucket { samples, tokens }) in self.buckets.iter().enumerate().filter(|(_, b)| b.samples > 0) {
            entries.push(match first_length(index) {
                length if length <= 2 * FINE => format!("{length}:{samples}"),
                length => format!("{length}:{samples}:{tokens}"),
            });
        }
        serializer.serialize_str(&entries.join(" "))
    }
}

impl<'de> Deserialize<'de> for Lengths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut lengths = Self::default();
        for entry in text.split_ascii_whitespace() {
            let (length, bucket) = parse(entry).ok_or_else(|| format!("`{entry}` is no `length:samples[:tokens]`"))?;
            lengths.count(length, bucket);
        }
        Ok(lengths)
    }
}

fn parse(entry: &str) -> Option<(usize, Bucket)> {
    let mut numbers = entry.split(':').map(str::parse::<u64>);
    let (length, samples) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let tokens = numbers.next().unwrap_or(Ok(length.checked_mul(samples)?)).ok()?;
    // A record is at most 64 MiB, so no sample has more tokens than fit 32 bits.
    (length <= u64::from(u32::MAX) && samples > 0 && numbers.next().is_none())
        .then_some((length as usize, Bucket { samples, tokens }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(lengths: &[usize]) -> Lengths {
        let mut counted = Lengths::default();
        lengths.iter().for_each(|&n| counted.add(n));
        counted
    }

    #[test]
    fn percentiles_are_of_nearest_rank() {
        let s = counted(&(1..=200).collect::<Vec<_>>()).summary();
        assert_eq!((s.p50, s.p90, s.p95, s.p99, s.max), (100, 180, 190, 198, 200));
        assert!((s.mean - 100.5).abs() < 1e-12);
        assert_eq!(Lengths::default().summary(), Summary::default());
    }

    #[test]
    fn the_stored_form_is_short_and_refuses_nonsense() {
        let text = serde_json::to_string(&counted(&[3, 3, 70, 100_001, 100_002])).unwrap();
        assert_eq!(text, r#""3:2 70:1 100001:2:200003""#);
        for nonsense in ["x", "1", "1:0", "1:2:3:4", "1:-2", "99999999999:1"] {
            assert!(serde_json::from_str::<Lengths>(&format!("\"{nonsense}\"")).is_err(), "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn parts_add_up_and_losses_are_exact(
            a in prop::collection::vec(0_usize..300_000, 0..60), b in prop::collection::vec(0_usize..9000, 0..60),
            step in 0_u64..4096,
        ) {
            let all: Vec<usize> = a.iter().chain(&b).copied().collect();
            let mut sum = counted(&a);
            sum.append(&counted(&b));
            prop_assert_eq!(&sum, &counted(&all));
            let stored = serde_json::to_string(&sum).unwrap();
            prop_assert_eq!(&sum, &serde_json::from_str::<Lengths>(&stored).unwrap());
            prop_assert_eq!(sum.tokens(), all.iter().sum::<usize>() as u64);
            for cutoff in [step, step * 64, all.first().map_or(1, |n| n / 64 * 64) as u64] {
                let longer = all.iter().map(|&n| n as u64).filter(|&n| n > cutoff);
                let expected = longer.fold((0, 0), |(rows, tokens), n| (rows + 1, tokens + n - cutoff));
                let loss = sum.loss_at(cutoff);
                prop_assert_eq!((loss.rows, loss.tokens), expected);
            }
            let exact = counted(&b).summary();
            let mut sorted = b.clone();
            sorted.sort_unstable();
            if let Some(index) = (b.len() * 95).div_ceil(100).checked_sub(1) {
                let error = exact.p95.abs_diff(sorted[index] as u64);
                prop_assert!(error * 4096 <= exact.p95, "{error}");
            }
        }
    }
}
