//! Why lengths cannot be packed, planned, mixed or split.

/// Why lengths could not be packed, planned or split.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A sample without tokens would be a segment of no positions, which no attention accepts.
    #[error("sample {sample} has no tokens")]
    EmptySample {
        /// Its 0-based index.
        sample: usize,
    },
    /// The two columns do not describe the same samples.
    #[error("{lengths} lengths, but {supervised} supervised-token counts")]
    ColumnsDiffer {
        /// Entries in `lengths`.
        lengths: usize,
        /// Entries in `supervised`.
        supervised: usize,
    },
    /// More loss positions than tokens: the columns are of different datasets, or damaged.
    #[error("sample {sample} has {length} tokens, but {supervised} of them are said to be supervised")]
    TooManySupervised {
        /// Its 0-based index.
        sample: usize,
        /// Its tokens.
        length: u32,
        /// Its supervised tokens, as given.
        supervised: u32,
    },
    /// Sample indices are held in 32 bits.
    #[error("{samples} samples are more than one plan can hold (4,294,967,295)")]
    TooManySamples {
        /// As given.
        samples: usize,
    },
    /// A count that must be at least 1 is 0.
    #[error("`{option}` is 0, but must be at least 1")]
    Zero {
        /// The option's name.
        option: &'static str,
    },
    /// The free-space index is a table with one entry per token of a row.
    #[error("a row of {capacity} tokens is more than dense packing supports ({limit})")]
    CapacityTooLarge {
        /// As given.
        capacity: u32,
        /// The largest supported.
        limit: u32,
    },
    /// Not one of [`Mode`](super::Mode)'s names.
    #[error("unknown packing `{name}`")]
    UnknownMode {
        /// As given.
        name: String,
    },
    /// Neither a fraction nor a count of samples.
    #[error("`val_size` is {val_size}, which is neither a fraction below 1 nor a whole number of samples")]
    ValSize {
        /// As given.
        val_size: f64,
    },
    /// The share of each dataset is not a number above 0, or there is not one for each.
    #[error("{weights} shares for {datasets} datasets: there must be one for each, all above 0")]
    Weights {
        /// Shares given.
        weights: usize,
        /// Datasets there are.
        datasets: usize,
    },
    /// Not one of [`MixStrategy`](super::MixStrategy)'s names.
    #[error("unknown mix_strategy `{name}`")]
    UnknownMix {
        /// As given.
        name: String,
    },
    /// Every sample would be held out.
    #[error("`val_size` {val_size} holds out {held_out} of {rows} samples and leaves none to train on")]
    NothingToTrainOn {
        /// As given.
        val_size: f64,
        /// Samples it asks for.
        held_out: u64,
        /// Samples there are.
        rows: usize,
    },
}

impl PackError {
    /// How to fix it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::EmptySample { .. } | Self::ColumnsDiffer { .. } | Self::TooManySupervised { .. } => {
                Some("prepare the dataset again")
            }
            Self::TooManySamples { .. } => Some("split the dataset"),
            Self::Zero { .. } => None,
            Self::CapacityTooLarge { .. } => Some("lower `max_tokens_per_row`, or use `packing: exact`"),
            Self::UnknownMode { .. } => Some("use exact, dense, bucketed or none"),
            Self::ValSize { .. } => Some("0.1 holds out a tenth of the samples, 500 holds out 500 of them"),
            Self::Weights { .. } => Some("`interleave_probs: 0.7,0.3` draws from two datasets"),
            Self::UnknownMix { .. } => Some("use concat, interleave_under or interleave_over"),
            Self::NothingToTrainOn { .. } => Some("lower `val_size`, or set it to 0"),
        }
    }

    /// Whether the samples are at fault rather than a setting.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        matches!(
            self,
            Self::EmptySample { .. }
                | Self::ColumnsDiffer { .. }
                | Self::TooManySupervised { .. }
                | Self::TooManySamples { .. }
        )
    }
}

/// `lengths` can be packed: each at least one token, and few enough for 32-bit ids.
pub(super) fn check_lengths(lengths: &[u32]) -> Result<(), PackError> {
    if u32::try_from(lengths.len()).is_err() {
        return Err(PackError::TooManySamples { samples: lengths.len() });
    }
    match lengths.iter().position(|&length| length == 0) {
        Some(sample) => Err(PackError::EmptySample { sample }),
        None => Ok(()),
    }
}

pub(super) fn at_least_one(option: &'static str, value: u32) -> Result<(), PackError> {
    if value == 0 { Err(PackError::Zero { option }) } else { Ok(()) }
}
