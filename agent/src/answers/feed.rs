//! From the engine to those who watch: every report goes into the memory of recent drops and to each watcher that wants it.

use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, sync::Arc, time::Instant};

use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::{
    filter::Filter,
    recent::{LastDrop, Recent, TopReply},
    report::DropReport,
};
use crate::datapath::Counters;

/// Reports that a slow watcher may fall behind before it misses some.
const REPORTS: usize = 1024;

/// Sums since the daemon started, or in a [`Tally`] since the watcher came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Packets that the kernel counted as dropped, or as what would have been.
    pub drops: u64,
    /// Those of them that were reported one by one: the others were left out by the sample, the cap or a full buffer.
    pub reported: u64,
}

/// How much of what happened a watcher was shown: a line of `GET /v1/events`, at least once a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    #[serde(flatten)]
    pub sums: Sums,
    /// Reports that the filter admitted.
    pub shown: u64,
    /// Reports that were lost since this watcher was too slow.
    pub missed: u64,
}

/// A line of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Tally { tally: Tally },
    Report(Box<DropReport>),
}

/// The engine's end.
#[derive(Debug)]
pub struct Reporter {
    recent: Recent,
    reports: broadcast::Sender<Arc<DropReport>>,
    sums: watch::Sender<Sums>,
    reported: u64,
    /// Drops that were counted before the daemon started.
    drops_before: Option<u64>,
}

impl Reporter {
    /// Without a watcher yet.
    pub fn new(began: Instant) -> Self {
        Self {
            recent: Recent::new(began),
            reports: broadcast::channel(REPORTS).0,
            sums: watch::channel(Sums::default()).0,
            reported: 0,
            drops_before: None,
        }
    }

    /// Where reports can be had.
    pub fn feed(&self) -> Feed {
        Feed {
            reports: self.reports.clone(),
            sums: self.sums.subscribe(),
        }
    }

    /// Something was dropped.
    pub fn report(&mut self, report: DropReport, now: Instant) {
        self.recent.note(&report, now);
        self.reported += 1;
        // Without a watcher there is nobody to tell.
        let _ = self.reports.send(Arc::new(report));
    }

    /// Takes the counters as they are; to be called at least once a second, when all events were read. Watchers get a
    /// [`Tally`] then.
    pub fn sample(&mut self, counters: Counters, now: Instant) {
        let drops = drops(&counters);
        let before = *self.drops_before.get_or_insert(drops);
        self.recent.sample(counters, now);
        self.sums.send_replace(Sums {
            drops: drops.saturating_sub(before),
            reported: self.reported,
        });
    }

    /// The last drop of a source, if it was reported and is still remembered.
    pub fn last(&self, source: IpAddr) -> Option<&LastDrop> {
        self.recent.last(source)
    }

    /// Rates, and who is dropped most.
    pub fn top(&mut self, now: Instant) -> TopReply {
        self.recent.top(now)
    }
}

/// Packets dropped, or that would have been.
fn drops(counters: &Counters) -> u64 {
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    sum(&counters.dropped).saturating_add(sum(&counters.would_drop))
}

/// The watchers' end.
#[derive(Debug, Clone)]
pub struct Feed {
    reports: broadcast::Sender<Arc<DropReport>>,
    sums: watch::Receiver<Sums>,
}

impl Feed {
    /// The lines of one watcher, until it goes or `stop` says so.
    pub fn lines(
        &self,
        filter: Filter,
        with_head: bool,
        stop: CancellationToken,
    ) -> impl Stream<Item = Result<String, Infallible>> + use<> {
        let mut sums = self.sums.clone();
        let from = *sums.borrow_and_update();
        let watcher = Watcher {
            reports: self.reports.subscribe(),
            from,
            sums,
            filter,
            with_head,
            stop,
            shown: 0,
            missed: 0,
        };
        stream::unfold(watcher, async |mut watcher| {
            let line = watcher.next().await?;
            // Serialising what has no maps does not fail.
            let mut text = serde_json::to_string(&line).ok()?;
            text.push('\n');
            Some((Ok(text), watcher))
        })
    }
}

struct Watcher {
    reports: broadcast::Receiver<Arc<DropReport>>,
    sums: watch::Receiver<Sums>,
    from: Sums,
    filter: Filter,
    with_head: bool,
    stop: CancellationToken,
    shown: u64,
    missed: u64,
}

impl Watcher {
    async fn next(&mut self) -> Option<Line> {
        loop {
            let received = tokio::select! {
                // What was reported before the sums is shown before them.
                biased;
                () = self.stop.cancelled() => return None,
                received = self.reports.recv() => received,
                changed = self.sums.changed() => {
                    changed.ok()?;
                    return Some(Line::Tally { tally: self.tally() });
                }
            };
            match received {
                Ok(report) if self.filter.admits(&report) => {
                    self.shown += 1;
                    let report = if self.with_head {
                        DropReport::clone(&report)
                    } else {
                        report.without_head()
                    };
                    return Some(Line::Report(Box::new(report)));
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => self.missed += missed,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn tally(&mut self) -> Tally {
        let now = *self.sums.borrow_and_update();
        Tally {
            sums: Sums {
                drops: now.drops.saturating_sub(self.from.drops),
                reported: now.reported.saturating_sub(self.from.reported),
            },
            shown: self.shown,
            missed: self.missed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::StreamExt as _;

    use super::*;
    use crate::answers::{filter::EventQuery, testing::report};

    fn parse(line: Option<Result<String, Infallible>>) -> Line {
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_watcher_gets_what_it_asked_for_and_the_sums_of_all() {
        let now = Instant::now();
        let mut reporter = Reporter::new(now);
        let counters = |drops| Counters {
            dropped: BTreeMap::from([("not_listed".to_owned(), drops)]),
            ..Counters::default()
        };
        // Of before the watcher, and of before the daemon.
        reporter.report(report("198.51.100.7"), now);
        reporter.sample(counters(1_000), now);
        let filter = Filter::new(&EventQuery {
            source: Some("198.51.100.8".to_owned()),
            ..EventQuery::default()
        })
        .unwrap();
        let stop = CancellationToken::new();
        let mut lines = pin!(reporter.feed().lines(filter, false, stop.clone()));
        for source in ["198.51.100.7", "198.51.100.8", "198.51.100.9"] {
            reporter.report(report(source), now);
        }
        reporter.sample(counters(1_040), now + Duration::from_secs(1));
        let line = parse(lines.next().await);
        assert_eq!(line, Line::Report(Box::new(report("198.51.100.8"))));
        let tally = Tally {
            sums: Sums {
                drops: 40,
                reported: 3,
            },
            shown: 1,
            missed: 0,
        };
        assert_eq!(parse(lines.next().await), Line::Tally { tally });
        stop.cancel();
        assert!(lines.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watcher_that_is_too_slow_is_told_how_much_it_missed() {
        let now = Instant::now();
        let mut reporter = Reporter::new(now);
        let mut lines = pin!(reporter.feed().lines(
            Filter::default(),
            false,
            CancellationToken::new()
        ));
        for _ in 0..REPORTS + 10 {
            reporter.report(report("198.51.100.7"), now);
        }
        reporter.sample(Counters::default(), now);
        let tally = loop {
            if let Line::Tally { tally } = parse(lines.next().await) {
                break tally;
            }
        };
        assert_eq!(tally.shown + tally.missed, REPORTS as u64 + 10);
        assert_eq!(tally.missed, 10);
    }

    #[tokio::test]
    async fn the_first_bytes_go_only_to_those_who_ask() {
        let now = Instant::now();
        let mut reporter = Reporter::new(now);
        let whole = DropReport {
            head: vec![1, 2, 3],
            ..report("198.51.100.7")
        };
        for (with_head, wanted) in [(true, whole.clone()), (false, report("198.51.100.7"))] {
            let mut lines = pin!(reporter.feed().lines(
                Filter::default(),
                with_head,
                CancellationToken::new()
            ));
            reporter.report(whole.clone(), now);
            assert_eq!(parse(lines.next().await), Line::Report(Box::new(wanted)));
        }
    }
}
