//! Threads for work that nobody waits for at once: they have the lowest priority, and end when the daemon does.

use std::{
    io,
    thread::{self, JoinHandle},
};

use tokio_util::sync::CancellationToken;

/// Of Linux: the lowest.
const PRIORITY: i32 = 19;

/// A thread that does one thing until it is told to stop.
#[derive(Debug)]
pub(super) struct Quiet(JoinHandle<()>);

impl Quiet {
    /// `work` is left where it is once `stop` comes. `otherwise` is said if there is no work at all.
    ///
    /// # Errors
    /// If there can't be another thread.
    pub(super) fn start<F: Future<Output = ()>>(
        name: &str,
        otherwise: &'static str,
        stop: CancellationToken,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self> {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Without the right to it, the work competes with the daemon.
                let _ = rustix::process::setpriority_process(None, PRIORITY);
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => runtime.block_on(async {
                        tokio::select! {
                            () = work() => {}
                            () = stop.cancelled() => {}
                        }
                    }),
                    Err(error) => tracing::error!(%error, "{otherwise}"),
                }
            })?;
        Ok(Self(thread))
    }

    /// Waits for its end, once it has been told to stop.
    pub(super) async fn end(self) {
        // Its panic was its own.
        let _ = tokio::task::spawn_blocking(|| self.0.join()).await;
    }
}
