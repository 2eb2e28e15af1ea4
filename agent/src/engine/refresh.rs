//! Live facts that are read anew before a change that may cut somebody off.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// A change waits no longer than this; then it meets the facts as they were read last.
const PATIENCE: Duration = Duration::from_secs(2);
/// Changes that may wait at a time; one more waits for its turn.
const ASKS: usize = 64;

/// Has live facts read anew.
#[derive(Debug, Clone)]
pub struct Refresh {
    asks: mpsc::Sender<oneshot::Sender<()>>,
}

/// Where who reads the facts hears of it; each is answered once the engine knows them.
pub type Asks = mpsc::Receiver<oneshot::Sender<()>>;

impl Refresh {
    pub fn new() -> (Self, Asks) {
        let (asks, asked) = mpsc::channel(ASKS);
        (Self { asks }, asked)
    }

    /// Returns when the engine knows the facts of this moment, or nobody reads them in time.
    pub async fn done(&self) {
        let ask = async {
            let (reply, answer) = oneshot::channel();
            if self.asks.send(reply).await.is_ok() {
                // Whoever is gone reads nothing any more.
                let _ = answer.await;
            }
        };
        if timeout(PATIENCE, ask).await.is_err() {
            tracing::warn!("live facts are not read in time: a change meets those read before");
        }
    }
}
