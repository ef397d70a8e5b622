//! The optimizer steps of an epoch, as a pure function of lengths, options, seed and epoch.

use super::bfd::{Layout, LengthClasses};
use super::error::{PackError, at_least_one, check_lengths};
use super::exact::{Windows, deal};
use super::rng::{Purpose, SplitMix64};
use serde::Deserialize;
use std::cmp::Reverse;
use strum::{EnumString, IntoStaticStr};

/// How the samples of an optimizer step become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = PackError, parse_err_fn = unknown_mode)]
pub enum Mode {
    /// A window of samples in the fewest padding-free rows.
    Exact,
    /// Full rows over the whole epoch, a fixed number per optimizer step.
    Dense,
    /// A window of samples, sorted by length, in padded micro-batches.
    Bucketed,
    /// A window of samples in padded micro-batches, as they come.
    None,
}

impl Mode {
    /// The name in options and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

fn unknown_mode(name: &str) -> PackError {
    PackError::UnknownMode { name: name.to_owned() }
}

/// Everything but the samples that decides a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanOptions {
    /// How samples become rows.
    #[serde(rename = "packing")]
    pub mode: Mode,
    /// Samples of an optimizer step, over all devices (not for `Dense`).
    pub samples_per_update: u32,
    /// Samples of a padded row (`Bucketed`, `None`).
    pub micro_batch_size: u32,
    /// Tokens of a packed row (`Exact`, `Dense`).
    pub max_tokens_per_row: u32,
    /// Rows of an optimizer step, over all devices (`Dense`).
    pub rows_per_update: u32,
    /// Devices that share the rows: row `j` of an optimizer step belongs to device `j mod world_size`.
    pub world_size: u32,
    /// The run's seed.
    pub seed: u64,
}

/// The optimizer steps of one epoch. Every sample is in exactly one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochPlan {
    /// Samples, row after row.
    pub sample_ids: Vec<i64>,
    /// Row `r` is `sample_ids[row_offsets[r]..row_offsets[r + 1]]`. Empty rows fill an optimizer step up to a multiple of
    /// `world_size`.
    pub row_offsets: Vec<i64>,
    /// Optimizer step `u` is rows `update_offsets[u]..update_offsets[u + 1]`.
    pub update_offsets: Vec<i64>,
    /// Supervised tokens of each optimizer step, by which its loss is divided.
    pub supervised: Vec<i64>,
    /// Tokens of each optimizer step.
    pub tokens: Vec<i64>,
}

impl EpochPlan {
    /// A hash of the whole plan: equal plans, equal digests, on every machine.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        // The hasher is fastest with thousands of bytes at a time.
        let mut bytes = Vec::with_capacity(8 * 4096);
        for column in [&self.sample_ids, &self.row_offsets, &self.update_offsets, &self.supervised, &self.tokens] {
            hasher.update(&(column.len() as u64).to_le_bytes());
            for values in column.chunks(4096) {
                bytes.clear();
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                hasher.update(&bytes);
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Plans an epoch. With the same seed and epoch, `Exact`, `Bucketed` and `None` put the same samples into each optimizer step.
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
        writer.plan.sample_ids = packing.sample_ids;
        for ends in packing.row_offsets[1..].chunks(options.rows_per_update as usize) {
            writer.plan.row_offsets.extend(ends);
            writer.end_update();
        }
        return Ok(writer.plan);
    }
    // `check` has seen that they can be counted in 32 bits.
    let order = SplitMix64::keyed(options.seed, epoch, Purpose::Order).permutation(lengths.len() as u32);
    let mut windows = Windows::new(options.max_tokens_per_row, options.world_size);
    writer.plan.sample_ids.reserve_exact(order.len());
    for window in order.chunks(options.samples_per_update as usize) {
        match options.mode {
            Mode::Exact => windows.rows(window, lengths).for_each(|row| writer.row(row)),
            Mode::Bucketed => {
                let mut sorted = window.to_vec();
                sorted.sort_unstable_by_key(|&id| (Reverse(lengths[id as usize]), id));
                bucketed(&sorted, lengths, options).for_each(|row| writer.row(row));
            }
            Mode::None | Mode::Dense => {
                window.chunks(options.micro_batch_size as usize).for_each(|row| writer.row(row));
            }
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
/// epoch, so that samples share rows with others.
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

/// Micro-batches of neighbours in length, distributed over the devices by their cost, which is their padded size.
///
/// A window whose batches cannot be shared evenly is split into the few more that can, if there are samples for them.
fn bucketed<'a>(
    sorted: &'a [u32],
    lengths: &[u32],
    options: &PlanOptions,
) -> impl Iterator<Item = &'a [u32]> + use<'a> {
    let n = sorted.len();
    let size = options.micro_batch_size as usize;
    let fewest = n.div_ceil(size);
    let even = fewest.next_multiple_of(options.world_size as usize);
    let batches: Vec<&[u32]> = if fewest == even || even > n {
        sorted.chunks(size).collect()
    } else {
        (0..even).map(|batch| &sorted[batch * n / even..(batch + 1) * n / even]).collect()
    };
    let padded = |batch: &&[u32]| u64::from(lengths[batch[0] as usize]) * batch.len() as u64;
    let costs: Vec<u64> = batches.iter().map(padded).collect();
    deal(&costs, options.world_size).into_iter().map(move |batch| batches[batch as usize])
}

struct Writer<'a> {
    lengths: &'a [u32],
    supervised: &'a [u32],
    world_size: usize,
    plan: EpochPlan,
}

impl<'a> Writer<'a> {
    fn new(lengths: &'a [u32], supervised: &'a [u32], world_size: u32) -> Self {
        let plan = EpochPlan {
            sample_ids: Vec::new(),
            row_offsets: vec![0],
            update_offsets: vec![0],
            supervised: Vec::new(),
            tokens: Vec::new(),
        };
        Self { lengths, supervised, world_size: world_size as usize, plan }
    }

    fn row(&mut self, samples: &[u32]) {
        self.plan.sample_ids.extend(samples.iter().map(|&id| i64::from(id)));
        self.plan.row_offsets.push(self.plan.sample_ids.len() as i64);
    }

    /// Ends the optimizer step over all rows since the last one: adds empty rows and sums up.
    fn end_update(&mut self) {
        let plan = &mut self.plan;
        let first_row = plan.update_offsets.last().map_or(0, |&row| row as usize);
        let (start, end) = (plan.row_offsets[first_row], plan.row_offsets.last().copied().unwrap_or(0));
        let n_rows = (plan.row_offsets.len() - 1 - first_row).next_multiple_of(self.world_size);
        plan.row_offsets.resize(first_row + n_rows + 1, end);
        plan.update_offsets.push((first_row + n_rows) as i64);

        let (mut tokens, mut supervised) = (0, 0);
        for &id in &plan.sample_ids[start as usize..end as usize] {
            tokens += i64::from(self.lengths[id as usize]);
            supervised += i64::from(self.supervised[id as usize]);
        }
        plan.tokens.push(tokens);
        plan.supervised.push(supervised);
    }
}
