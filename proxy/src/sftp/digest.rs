//! SHA-256 of a stream, computed beside the task that feeds it.
//!
//! Hashing costs about as much as decrypting and writing together. Done in the channel's task it would hold up every
//! request behind it, so a blocking thread does it as soon as a batch has come together.

use std::{
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// Bytes worth a hand-over to another thread.
const BATCH: usize = 256 << 10;
/// Most bytes that wait; whoever brings more waits for the thread, or does its work if it has not begun.
const MAX_WAITING: usize = 8 << 20;

/// A SHA-256 under way. Dropped, it leaves its thread at most [`MAX_WAITING`] bytes to finish.
#[derive(Debug)]
pub(crate) struct Digest(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The hasher has come back.
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    /// `None` while a thread works with it.
    hasher: Option<Sha256>,
    waiting: Vec<Bytes>,
    bytes: usize,
    /// A thread has been asked for and has not taken the hasher yet.
    is_asked: bool,
}

impl Digest {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                hasher: Some(Sha256::new()),
                waiting: Vec::new(),
                bytes: 0,
                is_asked: false,
            }),
            returned: Condvar::new(),
        }))
    }

    /// The next bytes of the stream. Needs a runtime.
    pub(crate) fn add(&self, data: Bytes) {
        let mut state = self.0.lock();
        state.bytes += data.len();
        state.waiting.push(data);
        if state.bytes > MAX_WAITING {
            drop(self.0.catch_up(state));
        } else if state.bytes >= BATCH && state.hasher.is_some() && !state.is_asked {
            state.is_asked = true;
            drop(state);
            let shared = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || shared.work());
        }
    }

    /// Waits for what was added, some milliseconds at most.
    pub(crate) fn finish(self) -> [u8; 32] {
        let mut state = self.0.catch_up(self.0.lock());
        state.hasher.take().unwrap_or_default().finalize().into()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes what waits, here if no thread has begun to: with every blocking thread busy none might for long.
    fn catch_up<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        loop {
            if let Some(mut hasher) = state.hasher.take() {
                state.bytes = 0;
                for data in mem::take(&mut state.waiting) {
                    hasher.update(&data);
                }
                state.hasher = Some(hasher);
                return state;
            }
            state = self
                .returned
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hashes until nothing waits.
    fn work(&self) {
        let mut state = self.lock();
        state.is_asked = false;
        let Some(mut hasher) = state.hasher.take() else {
            return;
        };
        while !state.waiting.is_empty() {
            let waiting = mem::take(&mut state.waiting);
            state.bytes = 0;
            drop(state);
            for data in waiting {
                hasher.update(&data);
            }
            state = self.lock();
        }
        state.hasher = Some(hasher);
        drop(state);
        self.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(lengths: &[usize]) -> Vec<Bytes> {
        lengths
            .iter()
            .enumerate()
            .map(|(index, &length)| Bytes::from(vec![index as u8; length]))
            .collect()
    }

    fn whole(parts: &[Bytes]) -> [u8; 32] {
        Sha256::digest(parts.concat()).into()
    }

    #[tokio::test]
    async fn the_digest_is_that_of_all_bytes_in_their_order() {
        for lengths in [&[][..], &[0], &[1, BATCH, 3], &[MAX_WAITING + 1, 5, BATCH]] {
            let parts = parts(lengths);
            let digest = Digest::new();
            for part in &parts {
                digest.add(part.clone());
            }
            assert_eq!(digest.finish(), whole(&parts));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_digests_at_once_stay_apart() {
        let tasks = (1..=8).map(|number| {
            tokio::spawn(async move {
                let parts = parts(&vec![60_000 + number; 200]);
                let digest = Digest::new();
                for part in &parts {
                    digest.add(part.clone());
                    tokio::task::yield_now().await;
                }
                assert_eq!(digest.finish(), whole(&parts));
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    }

    #[test]
    fn without_a_free_thread_the_feeder_hashes_and_memory_stays_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (free, blocked) = std::sync::mpsc::sync_channel::<()>(0);
            let holder = tokio::task::spawn_blocking(move || blocked.recv());
            let parts = parts(&[1 << 20; 40]);
            let digest = Digest::new();
            for part in &parts {
                digest.add(part.clone());
                assert!(digest.0.lock().bytes <= MAX_WAITING);
            }
            assert_eq!(digest.finish(), whole(&parts));
            drop(free);
            holder.await.unwrap().unwrap_err();
        });
    }
}
