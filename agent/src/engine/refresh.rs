//! Live facts that are read anew before a change that may cut somebody off.

use std::time::Duration;

use ipnet::IpNet;
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
    asks: mpsc::Sender<Ask>,
}

/// Where who reads the facts hears of it.
pub type Asks = mpsc::Receiver<Ask>;

/// Somebody waits for facts.
#[derive(Debug)]
pub struct Ask {
    /// Who the change may cut off; anybody if there is none.
    pub about: Option<IpNet>,
    /// Answered, or dropped, once the engine knows the facts.
    reply: oneshot::Sender<()>,
}

impl Ask {
    pub(crate) fn answer(self) {
        // Whoever has stopped waiting acts on older facts.
        let _ = self.reply.send(());
    }
}

impl Refresh {
    pub fn new() -> (Self, Asks) {
        let (asks, asked) = mpsc::channel(ASKS);
        (Self { asks }, asked)
    }

    /// Returns when the engine knows the facts of this moment, or nobody reads them in time.
    pub async fn done(&self) {
        self.ask(None).await;
    }

    /// The same for the sessions of one network only: quick, unless it has some.
    pub async fn done_about(&self, network: IpNet) {
        self.ask(Some(network)).await;
    }

    async fn ask(&self, about: Option<IpNet>) {
        let ask = async {
            let (reply, answer) = oneshot::channel();
            if self.asks.send(Ask { about, reply }).await.is_ok() {
                // Whoever is gone reads nothing any more.
                let _ = answer.await;
            }
        };
        if timeout(PATIENCE, ask).await.is_err() {
            tracing::warn!("live facts are not read in time: a change meets those read before");
        }
    }
}
