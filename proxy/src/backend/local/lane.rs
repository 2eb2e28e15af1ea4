//! Blocking work off the runtime's threads: in order for a session, bounded for the whole backend, and not waited for longer
//! than a file system that works would take.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout_at},
};

/// Threads that may wait for the disk at once. A file system that hangs takes these and not the whole runtime.
const MAX_THREADS: usize = 64;

/// Why work has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Its thread panicked.
    Died,
    /// It, or what is queued before it, takes too long. It may still be carried out if it has begun, and not if it hasn't.
    Hangs,
}

/// The threads of one backend.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    threads: Arc<Semaphore>,
    patience: Duration,
}

impl Pool {
    /// `patience` is how long a piece of work may take without a sign of progress.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(MAX_THREADS)),
            patience,
        }
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Threads that nothing runs on.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.threads.available_permits()
    }

    /// Runs `work` on a thread where it may block. What nobody awaits any more when its turn comes is not begun.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Lost>> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        self.start(unless_given_up(sender, work));
        let pulse = Arc::new(Pulse::new(self.patience));
        wait(receiver, pulse)
    }

    /// Runs `work` on a thread where it may block, though nobody waits for it.
    pub(super) fn start(&self, work: impl FnOnce() + Send + 'static) {
        let on_thread = |permit: OwnedSemaphorePermit| {
            tokio::task::spawn_blocking(move || {
                work();
                drop(permit);
            })
        };
        match self.threads.clone().try_acquire_owned() {
            Ok(permit) => {
                on_thread(permit);
            }
            Err(_) => {
                let threads = self.threads.clone();
                tokio::spawn(async move {
                    if let Ok(permit) = threads.acquire_owned().await {
                        on_thread(permit);
                    }
                });
            }
        }
    }
}

/// Until when the piece of work that a lane is at counts as alive.
#[derive(Debug)]
pub(super) struct Pulse {
    begun: Instant,
    patience: Duration,
    /// Milliseconds after `begun`.
    alive_until: AtomicU64,
}

impl Pulse {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            begun: Instant::now(),
            patience,
            alive_until: AtomicU64::new(0),
        }
    }

    /// A sign of progress.
    pub(super) fn beat(&self) {
        self.expect(Duration::ZERO);
    }

    /// What begins may take so much longer than usual.
    pub(super) fn expect(&self, longer: Duration) {
        let until = self.begun.elapsed() + self.patience + longer;
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.alive_until.store(until, Ordering::Relaxed);
    }

    fn alive_until(&self) -> Instant {
        self.begun + Duration::from_millis(self.alive_until.load(Ordering::Relaxed))
    }
}

async fn wait<T>(mut result: oneshot::Receiver<T>, pulse: Arc<Pulse>) -> Result<T, Lost> {
    let queued = Instant::now() + pulse.patience;
    loop {
        let until = pulse.alive_until().max(queued);
        match timeout_at(until, &mut result).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(_)) => return Err(Lost::Died),
            Err(_) if pulse.alive_until() > until => {}
            Err(_) => return Err(Lost::Hangs),
        }
    }
}

fn unless_given_up<T>(sender: oneshot::Sender<T>, work: impl FnOnce() -> T) -> impl FnOnce() {
    move || {
        if !sender.is_closed() {
            let _ = sender.send(work());
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
    pulse: Arc<Pulse>,
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
            pulse: Arc::new(Pulse::new(pool.patience)),
            pool,
            queue: Mutex::default(),
        })
    }

    /// Where the work says that it is alive.
    pub(super) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Queues `work` behind all that was queued before. If nobody awaits it any more when its turn comes, it is left out.
    pub(super) fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Lost>> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        self.queue(Box::new(unless_given_up(sender, work)));
        wait(receiver, self.pulse())
    }

    /// As [`Lane::run`], but it is done whether or not somebody waits so long.
    pub(super) fn run_at_any_rate(
        self: &Arc<Self>,
        work: impl FnOnce() + Send + 'static,
    ) -> impl Future<Output = Result<(), Lost>> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        self.queue(Box::new(move || {
            work();
            let _ = sender.send(());
        }));
        wait(receiver, self.pulse())
    }

    fn queue(self: &Arc<Self>, work: Work) {
        let must_start = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.waiting.push_back(work);
            !std::mem::replace(&mut queue.served, true)
        };
        if must_start {
            self.serve();
        }
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
        lane.pulse.beat();
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

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn work_is_done_in_the_order_it_was_queued() {
        let lane = Lane::new(Pool::new(LONG));
        let (sender, order) = mpsc::sync_channel(1000);
        let mut queued = Vec::new();
        for number in 0..1000 {
            let sender = sender.clone();
            queued.push(lane.run(move || sender.send(number).unwrap()));
        }
        for result in queued {
            result.await.unwrap();
        }
        assert!(order.try_iter().eq(0..1000));
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_piece_of_work_and_not_the_next() {
        let lane = Lane::new(Pool::new(LONG));
        let broken = lane.run(|| panic!("this piece is broken"));
        let next = lane.run(|| 7);
        assert_eq!(broken.await, Err(Lost::Died));
        assert_eq!(next.await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_hangs_is_given_up_and_what_waited_behind_it_is_never_begun() {
        let pool = Pool::new(SHORT);
        let lane = Lane::new(pool.clone());
        let (release, held) = mpsc::sync_channel::<()>(0);
        let (begun, beginnings) = mpsc::sync_channel(2);
        let hanging = lane.run(move || held.recv());
        let behind = lane.run(move || begun.send("behind").unwrap());
        assert_eq!(hanging.await, Err(Lost::Hangs));
        assert_eq!(behind.await, Err(Lost::Hangs));
        assert_eq!(pool.free(), MAX_THREADS - 1, "its thread stays taken");
        // The lane is alive again once the work that hung returns, and only what is awaited is done.
        let later = lane.run(|| 7);
        release.send(()).unwrap();
        assert_eq!(later.await, Ok(7));
        assert!(beginnings.try_recv().is_err());
    }

    #[tokio::test]
    async fn work_that_shows_progress_may_take_longer() {
        let lane = Lane::new(Pool::new(SHORT));
        let pulse = lane.pulse();
        let (release, held) = mpsc::sync_channel::<()>(0);
        let begun = std::time::Instant::now();
        let slow = lane.run(move || {
            while held.try_recv() == Err(mpsc::TryRecvError::Empty) {
                pulse.beat();
                std::thread::yield_now();
            }
        });
        let watched = tokio::time::timeout(SHORT * 4, slow).await;
        assert!(watched.is_err(), "given up after {:?}", begun.elapsed());
        drop(release);
    }
}
