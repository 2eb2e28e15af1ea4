//! Threads that carry connections, each with a runtime of its own.
//!
//! The tasks of a connection hand each other every packet. On one thread that is a function call; between threads it is a
//! wake-up and a cold cache. What blocks or computes for long (disk, passwords, digests) runs on threads beside.

use std::{
    io,
    num::NonZero,
    sync::Arc,
    thread::{self, available_parallelism},
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// One worker for each processor that the process may use.
#[derive(Debug)]
pub(super) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// One reference more than there are connections.
    load: Arc<()>,
    /// Dropped, it ends the thread.
    _keeps_running: oneshot::Sender<()>,
}

/// A connection's place on a thread.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) runtime: Handle,
    _load: Arc<()>,
}

impl Workers {
    /// # Errors
    /// If the system has no more threads or descriptors.
    pub(super) fn start() -> io::Result<Self> {
        let count = available_parallelism().map_or(1, NonZero::get);
        (0..count)
            .map(Worker::start)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// A place on the thread with the fewest connections.
    pub(super) fn place(&self) -> Option<Place> {
        self.0
            .iter()
            .min_by_key(|worker| Arc::strong_count(&worker.load))
            .map(|worker| Place {
                runtime: worker.runtime.clone(),
                _load: Arc::clone(&worker.load),
            })
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_name("blocking")
            .build()?;
        let handle = runtime.handle().clone();
        let (keeps_running, ended) = oneshot::channel::<()>();
        thread::Builder::new()
            .name(format!("connections-{number}"))
            .spawn(move || {
                // Never sent, only dropped.
                let _ = runtime.block_on(ended);
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            load: Arc::default(),
            _keeps_running: keeps_running,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_where_the_fewest_are() {
        let workers = Workers((0..3).map(|n| Worker::start(n).unwrap()).collect());
        let mut places: Vec<_> = (0..7).map(|_| workers.place().unwrap()).collect();
        let loads = || {
            let mut loads: Vec<_> = workers
                .0
                .iter()
                .map(|worker| Arc::strong_count(&worker.load) - 1)
                .collect();
            loads.sort_unstable();
            loads
        };
        assert_eq!(loads(), [2, 2, 3]);
        places.truncate(3);
        places.push(workers.place().unwrap());
        places.push(workers.place().unwrap());
        places.push(workers.place().unwrap());
        assert_eq!(loads(), [2, 2, 2]);
    }

    #[tokio::test]
    async fn the_tasks_of_a_place_run_on_its_thread_and_end_with_the_workers() {
        let workers = Workers(vec![Worker::start(0).unwrap()]);
        let place = workers.place().unwrap();
        let name = || thread::current().name().map(str::to_owned);
        let task = place
            .runtime
            .spawn(async move { (name(), tokio::spawn(async move { name() }).await.unwrap()) });
        let expected = Some("connections-0".to_owned());
        assert_eq!(task.await.unwrap(), (expected.clone(), expected));
        let endless = place.runtime.spawn(std::future::pending::<()>());
        drop(workers);
        assert!(endless.await.unwrap_err().is_cancelled());
    }
}
