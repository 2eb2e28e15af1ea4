//! What runs beside the engine and tells it: list files, feeds, host names, live facts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Sources,
    control::server::Remotes,
    engine::{Asks, LiveFacts, Refresh, Request, SourceSink},
    facts::{Facts, Origin},
    lists::ListName,
    sources::{
        Board, Sink as _, SourceUpdate, directory,
        feed::{self, Acceptance},
        names::{self, Resolver},
    },
};

/// Facts that are younger are not read again for a change: all processes are looked through for them.
const YOUNG: Duration = Duration::from_secs(1);

/// What they share.
pub(super) struct Shared {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) refresh: Refresh,
    pub(super) board: Board,
    pub(super) acceptance: Acceptance,
    pub(super) remotes: Remotes,
    /// Whether anybody may offer a list.
    pub(super) takes_offers: bool,
    pub(super) stop: CancellationToken,
}

/// Starts all that are configured. `lists` are those in force from before; `feeds` keeps copies of feeds.
///
/// # Errors
/// If a feed's trust can't be used, or no name server is known.
pub(super) fn follow(
    sources: &Sources,
    lists: BTreeMap<ListName, usize>,
    feeds: PathBuf,
    (facts, asks): (Facts, Asks),
    shared: &Shared,
) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let sink = SourceSink::new(shared.requests.clone(), shared.refresh.clone());
    let of_kind = |kind: &str| -> BTreeMap<String, usize> {
        lists
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(kind))
            .map(|(name, entries)| (name.to_string(), *entries))
            .collect()
    };
    let mut ended: BTreeSet<String> = BTreeSet::new();
    let (files, hosts) = (of_kind("file:"), of_kind("name:"));
    match &sources.directory {
        Some(settings) => drop(tasks.spawn(directory::run(
            settings.clone(),
            files,
            sink.clone(),
            shared.board.clone(),
            shared.stop.clone(),
        ))),
        None => ended.extend(files.into_keys()),
    }
    let wanted: BTreeSet<String> = sources
        .feeds
        .iter()
        .map(|feed| format!("feed:{}", feed.name))
        .collect();
    ended.extend(
        of_kind("feed:")
            .into_keys()
            .filter(|name| !wanted.contains(name)),
    );
    for settings in &sources.feeds {
        let name = settings.name.clone();
        let follower = feed::follow(
            settings.clone(),
            feeds.clone(),
            sink.clone(),
            shared.board.clone(),
            shared.acceptance.clone(),
            shared.stop.clone(),
        )
        .with_context(|| format!("follow feed {name}"))?;
        tasks.spawn(follower);
    }
    if sources.names.is_empty() {
        ended.extend(hosts.into_keys());
    } else {
        let resolver = Resolver::new(&sources.resolvers)
            .map_err(|message| anyhow!("{message}"))
            .context("find a name server for [[names]] (lists.resolvers)")?;
        tasks.spawn(names::run(
            sources.names.clone(),
            hosts,
            resolver,
            sink.clone(),
            shared.board.clone(),
            shared.stop.clone(),
        ));
    }
    if !shared.takes_offers {
        ended.extend(of_kind("offer:").into_keys());
    }
    tasks.spawn(end(sink, ended));
    tasks.spawn(protect(
        facts,
        asks,
        sources.facts.interval,
        shared.remotes.clone(),
        shared.requests.clone(),
        shared.stop.clone(),
    ));
    Ok(tasks)
}

/// Ends lists whose source is no longer configured.
async fn end(sink: SourceSink, lists: BTreeSet<String>) {
    if lists.is_empty() {
        return;
    }
    let update = SourceUpdate {
        lists: lists.iter().cloned().map(|name| (name, None)).collect(),
        reason: "no longer configured".to_owned(),
    };
    if let Err(error) = sink.apply(update).await {
        tracing::error!(
            error,
            ?lists,
            "lists whose source is no longer configured stay in force"
        );
    }
}

/// Keeps the engine told of the sources that live facts protect.
async fn protect(
    mut facts: Facts,
    mut asks: Asks,
    every: Duration,
    remotes: Remotes,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
) {
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut begun: Option<Instant> = None;
    loop {
        let mut asked = tokio::select! {
            _ = clock.tick() => None,
            () = remotes.changed() => None,
            Some(ask) = asks.recv() => Some(ask),
            () = stop.cancelled() => return,
        };
        let is_young = begun.is_some_and(|begun| begun.elapsed() < YOUNG);
        if let Some(ask) = asked.take_if(|_| is_young) {
            ask.answer();
            continue;
        }
        let about = asked.as_ref().and_then(|ask| ask.about);
        if about.is_none() {
            begun = Some(Instant::now());
        }
        let read = tokio::task::spawn_blocking(move || {
            match &about {
                Some(network) => facts.refresh_about(network),
                None => facts.refresh(),
            };
            facts
        });
        let Ok(read) = read.await else {
            tracing::error!("live facts are no longer read");
            return;
        };
        facts = read;
        for problem in facts.problems() {
            tracing::debug!(problem, "a live fact can't be read");
        }
        let (reply, answer) = oneshot::channel();
        let request = Request::Protect {
            facts: live(&facts, &remotes),
            reply,
        };
        if requests.send(request).await.is_err() {
            return;
        }
        // Logged where it happens.
        let _ = answer.await;
        if let Some(ask) = asked {
            ask.answer();
        }
    }
}

/// Why the far end of a connection over TLS is protected.
const ON_TLS: &str = "connected to the control interface over TLS";

/// What the facts protect, with those who are connected over TLS.
pub(super) fn live(facts: &Facts, remotes: &Remotes) -> LiveFacts {
    let remotes = remotes.all();
    LiveFacts {
        has_session: !remotes.is_empty()
            || facts
                .all()
                .any(|fact| matches!(fact.origin, Origin::Ssh { .. })),
        protected: facts
            .all()
            .map(|fact| (fact.prefix(), fact.origin.to_string()))
            .chain(
                remotes
                    .into_iter()
                    .map(|remote| (remote, ON_TLS.to_owned())),
            )
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use tokio::time;

    use super::*;
    use crate::facts::Settings;

    fn name_server(root: &Path, address: &str) {
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(
            root.join("etc/resolv.conf"),
            format!("nameserver {address}\n"),
        )
        .unwrap();
    }

    /// Takes the next facts that the engine is told.
    async fn told(queue: &mut mpsc::Receiver<Request>) -> Vec<String> {
        let Some(Request::Protect { facts, reply }) = queue.recv().await else {
            panic!("facts");
        };
        reply.send(Ok(())).unwrap();
        facts.protected.keys().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn facts_are_read_anew_when_a_change_asks_and_not_if_they_are_young() {
        let root = tempfile::tempdir().unwrap();
        name_server(root.path(), "192.0.2.53");
        let facts = Facts::new(Settings {
            ssh_ports: BTreeSet::new(),
            gateways: false,
            ntp: false,
            root: root.path().to_owned(),
            ..Settings::default()
        });
        let (refresh, asks) = Refresh::new();
        let (requests, mut queue) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let follower = tokio::spawn(protect(
            facts,
            asks,
            Duration::from_secs(3600),
            Remotes::default(),
            requests,
            stop.clone(),
        ));
        assert_eq!(told(&mut queue).await, ["192.0.2.53/32"]);

        name_server(root.path(), "192.0.2.54");
        refresh.done().await;
        assert!(queue.try_recv().is_err(), "they are young");

        time::sleep(YOUNG).await;
        let change = tokio::spawn({
            let refresh = refresh.clone();
            async move { refresh.done().await }
        });
        let Some(Request::Protect { facts, reply }) = queue.recv().await else {
            panic!("facts");
        };
        assert!(!change.is_finished(), "the engine does not know them yet");
        reply.send(Ok(())).unwrap();
        change.await.unwrap();
        assert_eq!(
            facts.protected.keys().next().unwrap().to_string(),
            "192.0.2.54/32"
        );
        stop.cancel();
        follower.await.unwrap();
        refresh.done().await;
    }
}
