//! Zeroed tables with pre-faulted pages.
//!
//! New memory comes from the system a page at a time, when it is touched. A page that is read first is a page of zeros that all share, and
//! the first write to it has to replace it and to tell all other cores: that took a sixth of the time of two threads that had just
//! begun. So each page is written before anything looks at it.

use bytemuck::Zeroable;

/// Bytes in a page, or fewer.
const PAGE: usize = 4096;

/// So many zeros.
pub(super) fn zeros<T: Zeroable + Copy>(n: usize) -> Box<[T]> {
    let mut all = bytemuck::zeroed_slice_box(n);
    // A compiler that knew the contents would remove the writes.
    for first in std::hint::black_box(&mut all).iter_mut().step_by((PAGE / size_of::<T>()).max(1)) {
        *first = T::zeroed();
    }
    all
}
