//! How lists of files, feeds and host names reach the engine.

use tokio::sync::{mpsc, oneshot};

use super::{Change, Refresh, Request, Terms};
use crate::{
    control::peer::Peer,
    lists::ListName,
    sources::{Sink, SourceUpdate},
};

/// Puts whole lists in force.
#[derive(Debug, Clone)]
pub struct SourceSink {
    requests: mpsc::Sender<Request>,
    refresh: Refresh,
}

impl SourceSink {
    pub fn new(requests: mpsc::Sender<Request>, refresh: Refresh) -> Self {
        Self { requests, refresh }
    }
}

impl Sink for SourceSink {
    async fn apply(&self, update: SourceUpdate) -> Result<(), String> {
        let SourceUpdate { lists, reason } = update;
        let lists = lists
            .into_iter()
            .map(|(name, entries)| {
                let name: ListName = name.parse().map_err(|error| format!("{error}"))?;
                // Here and not in the engine, which others wait for.
                Ok((name, entries.unwrap_or_default().into_iter().collect()))
            })
            .collect::<Result<_, String>>()?;
        self.refresh.done().await;
        let (reply, answer) = oneshot::channel();
        let request = Request::Change {
            change: Change::Sync(lists),
            terms: Terms {
                reason: Some(reason),
                ..Terms::default()
            },
            by: Peer::agent("sources"),
            reply,
        };
        let stopping = || "the agent is stopping".to_owned();
        self.requests.send(request).await.map_err(|_| stopping())?;
        match answer.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failure)) => Err(failure.message),
            Err(_) => Err(stopping()),
        }
    }
}
