//! Work on many lines at once: what a line says and hashes to depends on no other.

use std::{num::NonZero, panic::resume_unwind, sync::LazyLock, thread};

/// Fewer are not worth a thread.
const WORTH_IT: usize = 256;
/// Threads at most; the rest of a check goes on in one.
const MOST_THREADS: usize = 4;

static THREADS: LazyLock<usize> = LazyLock::new(|| {
    thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MOST_THREADS)
});

/// Applies `work` to each item; the results are in the order of the items.
pub(super) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = (*THREADS).min(items.len() / WORTH_IT).max(1);
    if threads == 1 {
        return items.iter().map(work).collect();
    }
    let work = &work;
    let (own, others) = items.split_at(items.len() / threads);
    thread::scope(|scope| {
        let helpers: Vec<_> = others
            .chunks(others.len().div_ceil(threads - 1))
            .map(|part| {
                let helper = thread::Builder::new()
                    .spawn_scoped(scope, move || part.iter().map(work).collect::<Vec<_>>());
                (part, helper)
            })
            .collect();
        let mut results: Vec<R> = own.iter().map(work).collect();
        for (part, helper) in helpers {
            match helper.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(done)) => results.extend(done),
                Ok(Err(panic)) => resume_unwind(panic),
                // No thread is to be had.
                Err(_) => results.extend(part.iter().map(work)),
            }
        }
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_whatever_the_number() {
        for count in [0, 1, 255, 256, 511, 512, 513, 1023, 5000] {
            let items: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(map(&items, |item| item * 2), doubled, "{count}");
        }
    }
}
