//! What a preparation reports while it works.

use std::collections::BTreeMap;
use std::time::Duration;

/// Called with (stage, bytes done, bytes in all) a few times a second; returns whether to go on.
pub type Tick<'a> = dyn FnMut(&'static str, u64, u64) -> bool + 'a;

/// Wall time by stage.
pub(super) type Seconds = BTreeMap<&'static str, f64>;

/// How often a process looks whether another has finished.
pub(super) const WAIT: Duration = Duration::from_millis(100);
