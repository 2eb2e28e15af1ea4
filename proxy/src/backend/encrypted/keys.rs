//! Keys that are waited for: a token may take its time, and nothing else on the thread of a connection waits for it.

use std::time::Duration;

use portcullis_at_rest::{DataKey, Head};
use tokio::{sync::Semaphore, time::timeout};

use super::{Vault, fault::Fault};

/// Longest wait for a token: one in the network needs tenths of a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls that wait for tokens at a time; one that hangs holds no more threads.
static THREADS: Semaphore = Semaphore::const_new(4);

/// Why a token gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    #[error("the token with the key-encryption key gave no answer within {} s", PATIENCE.as_secs())]
    Hangs,
    #[error("the thread that asks the token died")]
    ThreadDied,
}

/// Does `work` on a thread of its own.
///
/// # Errors
/// If there is no end of it in time. It may end later; nobody hears of it.
pub async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TokenFault> {
    within(&THREADS, PATIENCE, work).await
}

async fn within<T: Send + 'static>(
    threads: &'static Semaphore,
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TokenFault> {
    let done = async {
        // Never closed.
        let place = threads.acquire().await;
        let place = place.map_err(|_| TokenFault::ThreadDied)?;
        let thread = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        thread.await.map_err(|_| TokenFault::ThreadDied)
    };
    let done = timeout(patience, done).await;
    done.map_err(|_| TokenFault::Hangs)?
}

impl Vault {
    /// The key of a file of the backend.
    pub(super) async fn unwrap(&self, head: &Head) -> Result<DataKey, Fault> {
        if !self.ring.waits_to_unwrap(head) {
            return Ok(self.ring.unwrap(head, &self.realm)?);
        }
        let (ring, realm, head) = (self.ring.clone(), self.realm, head.clone());
        Ok(waiting(move || ring.unwrap(&head, &realm)).await??)
    }

    /// The same file's head, wrapped as new ones are.
    pub(super) async fn rewrap(&self, head: &Head) -> Result<Head, Fault> {
        if !self.ring.waits_to_unwrap(head) && !self.ring.waits_to_create() {
            return Ok(self.ring.rewrap(head, &self.realm)?);
        }
        let (ring, realm, head) = (self.ring.clone(), self.realm, head.clone());
        Ok(waiting(move || ring.rewrap(&head, &realm)).await??)
    }

    /// A new file's key and head, where they are waited for; others are made when they are needed.
    pub(super) async fn mint(&self) -> Result<Option<(DataKey, Head)>, Fault> {
        if !self.ring.waits_to_create() {
            return Ok(None);
        }
        let (ring, realm) = (self.ring.clone(), self.realm);
        Ok(Some(waiting(move || ring.create(&realm)).await??))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn what_hangs_is_given_up_holds_no_more_than_its_threads_and_leaves_them_in_the_end() {
        static TWO: Semaphore = Semaphore::const_new(2);
        let short = Duration::from_millis(50);
        let (end, ends) = mpsc::sync_channel::<()>(1);
        let ends = Arc::new(Mutex::new(ends));
        let hanging = (0..5).map(|_| {
            let ends = Arc::clone(&ends);
            within(&TWO, short, move || {
                drop(ends.lock().map(|ends| ends.recv()));
            })
        });
        for done in join_all(hanging).await {
            assert_eq!(done, Err(TokenFault::Hangs));
        }
        assert_eq!(TWO.available_permits(), 0);
        drop(end);
        assert_eq!(within(&TWO, PATIENCE, || 7).await, Ok(7), "it is back");
    }
}
