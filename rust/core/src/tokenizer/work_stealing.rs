//! Work stealing: each thread processes neighbouring items, which are alike, so that its caches stay warm.

use rayon::ThreadPool;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Neighbouring items, of which the ones before `next` are taken.
struct Lane {
    next: AtomicUsize,
    end: usize,
}

impl Lane {
    fn left(&self) -> usize {
        self.end.saturating_sub(self.next.load(Ordering::Relaxed))
    }

    fn take(&self) -> Option<usize> {
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < self.end)
    }
}

/// The results of `work` in the order of the items. The calling thread has the first lane, so it gets the same items as the last time; a thread
/// whose own lane is finished takes items from the longest remaining one.
pub(super) fn each<T: Sync, R: Send>(pool: &ThreadPool, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (n, threads) = (items.len(), pool.current_num_threads());
    let lane = |i: usize| Lane { next: AtomicUsize::new(n * i / threads), end: n * (i + 1) / threads };
    let lanes: Vec<Lane> = (0..threads).map(lane).collect();
    let go_through = |own: usize, done: mpsc::Sender<(usize, R)>| {
        let mut lane = &lanes[own];
        while lane.left() > 0 {
            while let Some(i) = lane.take() {
                // The reader at the other end waits for all.
                let _ = done.send((i, work(&items[i])));
            }
            lane = lanes.iter().max_by_key(|lane| lane.left()).unwrap_or(lane);
        }
    };
    let (done, all) = mpsc::channel();
    pool.in_place_scope(|scope| {
        for own in 1..threads {
            let (done, go_through) = (done.clone(), &go_through);
            scope.spawn(move |_| go_through(own, done));
        }
        go_through(0, done);
    });
    let mut all: Vec<(usize, R)> = all.into_iter().collect();
    all.sort_unstable_by_key(|&(i, _)| i);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_done_once_and_stays_in_order() {
        for threads in [1, 2, 5] {
            let pool = crate::threads::pool(threads).unwrap();
            for n in [0, 1, 4, 1000] {
                let items: Vec<usize> = (0..n).collect();
                let calls = AtomicUsize::new(0);
                let found = each(&pool, &items, |&i| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    // The first lane takes longest.
                    if i < n / 8 {
                        std::thread::sleep(std::time::Duration::from_micros(50));
                    }
                    2 * i
                });
                assert_eq!(found, items.iter().map(|i| 2 * i).collect::<Vec<_>>());
                assert_eq!(calls.into_inner(), n);
            }
        }
    }

    #[test]
    fn who_has_nothing_left_helps() {
        let pool = crate::threads::pool(2).unwrap();
        let items: Vec<usize> = (0..40).collect();
        let caller = std::thread::current().id();
        let own = each(&pool, &items, |&i| {
            std::thread::sleep(std::time::Duration::from_millis(if i < 20 { 5 } else { 0 }));
            std::thread::current().id() == caller
        });
        assert!(own[..20].iter().any(|&own| own) && own[..20].iter().any(|&own| !own), "{own:?}");
    }
}
