//! The updates of an epoch, as a pure function of lengths, options, seed and epoch.

use super::bfd::{Layout, LengthClasses};
use super::rng::{Purpose, SplitMix64};
use super::{PackError, at_least_one, check_lengths, exact};
use std::str::FromStr;

/// How an update's samples become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A window of samples in the fewest padding-free rows.
    Exact,
    /// Full rows over the whole epoch, so many an update.
    Dense,
    /// A window of samples, sorted by length, in padded micro-batches.
    Bucketed,
    /// A window of samples in padded micro-batches, as they come.
    None,
}

impl FromStr for Mode {
    type Err = PackError;

    fn from_str(name: &str) -> Result<Self, PackError> {
        match name {
            "exact" => Ok(Self::Exact),
            "dense" => Ok(Self::Dense),
            "bucketed" => Ok(Self::Bucketed),
            "none" => Ok(Self::None),
            _ => Err(PackError::UnknownMode { name: name.to_owned() }),
        }
    }
}

/// Everything but the samples that decides a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanOptions {
    /// How samples become rows.
    pub mode: Mode,
    /// Samples of an update, over all devices (not for `Dense`).
    pub samples_per_update: u32,
    /// Samples of a padded row (`Bucketed`, `None`).
    pub micro_batch_size: u32,
    /// Tokens of a packed row (`Exact`, `Dense`).
    pub max_tokens_per_row: u32,
    /// Rows of an update, over all devices (`Dense`).
    pub rows_per_update: u32,
    /// Devices that share the rows: row `j` of an update belongs to device `j mod world_size`.
    pub world_size: u32,
    /// The run's seed.
    pub seed: u64,
}

/// The updates of one epoch. Every sample is in exactly one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochPlan {
    /// Samples, row after row.
    pub sample_ids: Vec<i64>,
    /// Row `r` is `sample_ids[row_offsets[r]..row_offsets[r + 1]]`. Empty rows fill an update up to a multiple of
    /// `world_size`.
    pub row_offsets: Vec<i64>,
    /// Update `u` is rows `update_offsets[u]..update_offsets[u + 1]`.
    pub update_offsets: Vec<i64>,
    /// Learned tokens of each update: what its loss is divided by.
    pub supervised: Vec<i64>,
    /// Tokens of each update.
    pub tokens: Vec<i64>,
}

impl EpochPlan {
    /// A hash of the whole plan: equal plans, equal digests, on every machine.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for column in [&self.sample_ids, &self.row_offsets, &self.update_offsets, &self.supervised, &self.tokens] {
            hasher.update(&(column.len() as u64).to_le_bytes());
            column.iter().for_each(|value| {
                hasher.update(&value.to_le_bytes());
            });
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Plans an epoch. With the same seed and epoch, `Exact`, `Bucketed` and `None` put the same samples into each update.
///
/// # Errors
///
/// Any [`PackError`] about lengths and options.
pub fn plan_epoch(
    lengths: &[u32],
    supervised: &[u32],
    options: &PlanOptions,
    epoch: u64,
) -> Result<EpochPlan, PackError> {
    check(lengths, supervised, options)?;
    let mut writer = Writer::new(lengths, supervised, options.world_size);
    if options.mode == Mode::Dense {
        let packing = dense(lengths, options, epoch)?;
        let rows: Vec<&[i64]> =
            packing.row_offsets.windows(2).map(|w| &packing.sample_ids[w[0] as usize..w[1] as usize]).collect();
        rows.chunks(options.rows_per_update as usize).for_each(|update| {
            update.iter().for_each(|row| writer.row(row.iter().copied()));
            writer.end_update();
        });
        return Ok(writer.plan);
    }
    let order = SplitMix64::keyed(options.seed, epoch, Purpose::Order).permutation(lengths.len() as u32);
    let mut own = Vec::new();
    for window in order.chunks(options.samples_per_update as usize) {
        own.clear();
        own.extend(window.iter().map(|&id| lengths[id as usize]));
        match options.mode {
            Mode::Exact => {
                for row in exact::rows(&own, options.max_tokens_per_row, options.world_size)? {
                    writer.row(row.iter().map(|&i| i64::from(window[i as usize])));
                }
            }
            Mode::Bucketed => {
                let mut sorted = window.to_vec();
                sorted.sort_by_key(|&id| std::cmp::Reverse(lengths[id as usize]));
                writer.micro_batches(&sorted, options.micro_batch_size);
            }
            Mode::None | Mode::Dense => writer.micro_batches(window, options.micro_batch_size),
        }
        writer.end_update();
    }
    Ok(writer.plan)
}

fn check(lengths: &[u32], supervised: &[u32], options: &PlanOptions) -> Result<(), PackError> {
    check_lengths(lengths)?;
    if lengths.len() != supervised.len() {
        return Err(PackError::ColumnsDiffer { lengths: lengths.len(), supervised: supervised.len() });
    }
    if let Some(sample) = (0..lengths.len()).find(|&i| supervised[i] > lengths[i]) {
        return Err(PackError::TooManySupervised { sample, length: lengths[sample], supervised: supervised[sample] });
    }
    at_least_one("samples_per_update", options.samples_per_update)?;
    at_least_one("micro_batch_size", options.micro_batch_size)?;
    at_least_one("max_tokens_per_row", options.max_tokens_per_row)?;
    at_least_one("rows_per_update", options.rows_per_update)?;
    at_least_one("world_size", options.world_size)
}

/// Best-fit decreasing over the epoch. Which samples of a length go where, and the order of the rows, change with the
/// epoch, so that rows find new partners.
fn dense(lengths: &[u32], options: &PlanOptions, epoch: u64) -> Result<super::Packing, PackError> {
    let mut classes = LengthClasses::new(lengths, options.max_tokens_per_row)?;
    let layout = Layout::best_fit_decreasing(&classes.counts, classes.capacity);
    let mut random = SplitMix64::keyed(options.seed, epoch, Purpose::Classes);
    let mut rest = &mut classes.sample_ids[..];
    for &count in classes.counts.iter().rev() {
        let (class, behind) = rest.split_at_mut(count as usize);
        random.shuffle(class);
        rest = behind;
    }
    let order = SplitMix64::keyed(options.seed, epoch, Purpose::Rows).permutation(layout.n_rows());
    Ok(layout.write(&classes.sample_ids, Some(&order)))
}

struct Writer<'a> {
    lengths: &'a [u32],
    supervised: &'a [u32],
    world: usize,
    plan: EpochPlan,
    first_row: usize,
    tokens: i64,
    learned: i64,
}

impl<'a> Writer<'a> {
    fn new(lengths: &'a [u32], supervised: &'a [u32], world_size: u32) -> Self {
        let plan = EpochPlan {
            sample_ids: Vec::with_capacity(lengths.len()),
            row_offsets: vec![0],
            update_offsets: vec![0],
            supervised: Vec::new(),
            tokens: Vec::new(),
        };
        Self { lengths, supervised, world: world_size as usize, plan, first_row: 0, tokens: 0, learned: 0 }
    }

    fn row(&mut self, samples: impl Iterator<Item = i64>) {
        for id in samples {
            self.tokens += i64::from(self.lengths[id as usize]);
            self.learned += i64::from(self.supervised[id as usize]);
            self.plan.sample_ids.push(id);
        }
        self.plan.row_offsets.push(self.plan.sample_ids.len() as i64);
    }

    fn micro_batches(&mut self, samples: &[u32], size: u32) {
        for batch in samples.chunks(size as usize) {
            self.row(batch.iter().map(|&id| i64::from(id)));
        }
    }

    fn end_update(&mut self) {
        while !(self.plan.row_offsets.len() - 1 - self.first_row).is_multiple_of(self.world) {
            self.row(std::iter::empty());
        }
        self.first_row = self.plan.row_offsets.len() - 1;
        self.plan.update_offsets.push(self.first_row as i64);
        self.plan.supervised.push(std::mem::take(&mut self.learned));
        self.plan.tokens.push(std::mem::take(&mut self.tokens));
    }
}
