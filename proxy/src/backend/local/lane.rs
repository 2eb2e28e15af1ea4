//! Blocking work off the runtime's threads: in order for a session, bounded for the whole backend.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Threads that may wait for the disk at once. A file system that hangs takes these and not the whole runtime.
const MAX_THREADS: usize = 64;

/// The threads of one backend.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<Semaphore>);

impl Pool {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_THREADS)))
    }

    /// Runs `work` on a thread where it may block. It runs to its end even if the result is no longer awaited.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.start(move || {
            let _ = sender.send(work());
        });
        receiver
    }

    fn start(&self, work: impl FnOnce() + Send + 'static) {
        let on_thread = |permit: OwnedSemaphorePermit| {
            tokio::task::spawn_blocking(move || {
                work();
                drop(permit);
            })
        };
        match self.0.clone().try_acquire_owned() {
            Ok(permit) => {
                on_thread(permit);
            }
            Err(_) => {
                let threads = self.0.clone();
                tokio::spawn(async move {
                    if let Ok(permit) = threads.acquire_owned().await {
                        on_thread(permit);
                    }
                });
            }
        }
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// Work that is done one piece after the other, in the order it was queued. One thread serves it while there is any, so
/// a stream of writes costs one hand-over and not one each.
///
/// The queue is as long as the engine's limit on unanswered requests and their bytes allows.
#[derive(Debug)]
pub(super) struct Lane {
    pool: Pool,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    served: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("waiting", &self.waiting.len())
            .field("served", &self.served)
            .finish()
    }
}

impl Lane {
    pub(super) fn new(pool: Pool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            queue: Mutex::default(),
        })
    }

    /// Queues `work` behind all that was queued before.
    pub(super) fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let must_start = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.waiting.push_back(Box::new(move || {
                let _ = sender.send(work());
            }));
            !std::mem::replace(&mut queue.served, true)
        };
        if must_start {
            self.serve();
        }
        receiver
    }

    fn serve(self: &Arc<Self>) {
        let lane = self.clone();
        self.pool.start(move || {
            let mut server = Server(Some(lane));
            while let Some(work) = server.next() {
                work();
            }
        });
    }
}

/// The thread that serves a lane. If a piece of work panics, another takes over with the next piece.
struct Server(Option<Arc<Lane>>);

impl Server {
    fn next(&mut self) -> Option<Work> {
        let lane = self.0.as_ref()?;
        let work = {
            let mut queue = lane.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let work = queue.waiting.pop_front();
            queue.served = work.is_some();
            work
        };
        if work.is_none() {
            self.0 = None;
        }
        work
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(lane) = self.0.take() {
            lane.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_is_done_in_the_order_it_was_queued() {
        let lane = Lane::new(Pool::new());
        let (sender, order) = mpsc::sync_channel(1000);
        let mut last = None;
        for number in 0..1000 {
            let sender = sender.clone();
            last = Some(lane.run(move || sender.send(number).unwrap()));
        }
        last.unwrap().await.unwrap();
        assert!(order.try_iter().eq(0..1000));
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_piece_of_work_and_not_the_next() {
        let lane = Lane::new(Pool::new());
        let broken = lane.run(|| panic!("this piece is broken"));
        let next = lane.run(|| 7);
        assert!(broken.await.is_err());
        assert_eq!(next.await, Ok(7));
    }
}
