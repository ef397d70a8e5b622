//! Python's `sorted`: stable, and values without an order are a fault.

use super::budget::Budget;
use super::fault::Fault;
use std::cmp::Ordering;

/// `items` in order. Where neither is less than the other (NaN), they stay as they are.
pub(super) fn sorted<T>(
    budget: &Budget,
    mut items: Vec<T>,
    mut compare: impl FnMut(&T, &T) -> Result<Option<Ordering>, Fault>,
) -> Result<Vec<T>, Fault> {
    merge_sort(budget, &mut items, &mut compare)?;
    Ok(items)
}

fn merge_sort<T>(
    budget: &Budget,
    items: &mut Vec<T>,
    compare: &mut impl FnMut(&T, &T) -> Result<Option<Ordering>, Fault>,
) -> Result<(), Fault> {
    budget.steps(items.len())?;
    if items.len() < 2 {
        return Ok(());
    }
    let mut right = items.split_off(items.len() / 2);
    merge_sort(budget, items, compare)?;
    merge_sort(budget, &mut right, compare)?;
    let (mut a, mut b) = (std::mem::take(items).into_iter().peekable(), right.into_iter().peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        let takes_right = compare(y, x)? == Some(Ordering::Less);
        items.extend(if takes_right { b.next() } else { a.next() });
    }
    items.extend(a);
    items.extend(b);
    Ok(())
}
