//! One update's samples in the fewest rows, evenly filled.
//!
//! Longest-processing-time (Graham 1969): longest sample first, each into the emptiest row. With a fixed number of rows
//! that balances them to a few percent; the number is the smallest for which it works, and never above best-fit
//! decreasing's.

use super::{PackError, bfd, bound};

/// Rows of indices into `lengths`, each longest first; the rows with the most tokens come first.
///
/// There are a multiple of `world` rows where there are samples enough; a sample longer than `budget` is alone in its row.
pub(super) fn rows(lengths: &[u32], budget: u32, world: u32) -> Result<Vec<Vec<u32>>, PackError> {
    let mut order: Vec<u32> = (0..lengths.len() as u32).collect();
    // Stable: equal lengths keep the order of the window.
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i as usize]));
    let over = order.partition_point(|&i| lengths[i as usize] > budget);
    let (over, rest) = order.split_at(over);

    let lone = over.len() as u32;
    let fewest = bound::lower_bound(lengths, budget)?.saturating_sub(u64::from(lone)) as u32;
    let best_fit = bfd::pack(lengths, budget)?;
    let most = (best_fit.row_offsets.len() - 1) as u32 - lone;
    let mut rows = (fewest..=most)
        .map(|n| even(n, lone, world, lengths.len() as u32))
        .find_map(|n| longest_processing_time(rest, lengths, budget, n))
        .unwrap_or_else(|| by_best_fit(&best_fit, lengths, budget));
    rows.extend(over.iter().map(|&i| vec![i]));

    let tokens = |row: &[u32]| row.iter().map(|&i| u64::from(lengths[i as usize])).sum::<u64>();
    rows.sort_by_key(|row| std::cmp::Reverse(tokens(row)));
    Ok(rows)
}

/// `n` rows, or a few more so that with the lone ones every device gets as many.
fn even(n: u32, lone: u32, world: u32, samples: u32) -> u32 {
    let all = (n + lone).next_multiple_of(world);
    if all <= samples { all - lone } else { n }
}

fn longest_processing_time(order: &[u32], lengths: &[u32], budget: u32, n: u32) -> Option<Vec<Vec<u32>>> {
    if n == 0 {
        return order.is_empty().then(Vec::new);
    }
    let mut rows = vec![Vec::new(); n as usize];
    let mut tokens = vec![0_u32; n as usize];
    for &i in order {
        let emptiest = tokens.iter().enumerate().min_by_key(|(_, tokens)| **tokens)?.0;
        // `budget` ≥ the length, so this cannot overflow before it is refused.
        let filled = tokens[emptiest].checked_add(lengths[i as usize]).filter(|t| *t <= budget)?;
        tokens[emptiest] = filled;
        rows[emptiest].push(i);
    }
    Some(rows)
}

fn by_best_fit(packing: &bfd::Packing, lengths: &[u32], budget: u32) -> Vec<Vec<u32>> {
    packing
        .row_offsets
        .windows(2)
        .map(|w| packing.sample_ids[w[0] as usize..w[1] as usize].iter().map(|&i| i as u32).collect::<Vec<_>>())
        .filter(|row| row.iter().all(|&i| lengths[i as usize] <= budget))
        .collect()
}
