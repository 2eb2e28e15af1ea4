//! What was dropped of late, in bounded memory: the last drop of each source, and who is dropped most.
//!
//! It is fed by the events from the kernel, which are a sample under load: a source that is not here may still have been dropped.

use std::{
    borrow::Cow,
    collections::hash_map::RandomState,
    net::IpAddr,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::{
    rates::{Rate, Rates},
    report::DropReport,
    sketch::{Frequency, Frequent},
};
use crate::datapath::Counters;

/// Sources whose last drop is remembered: some 20 MiB when they are all used.
const SOURCES: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// The most dropped are those of the last one to two times this.
const SPAN: Duration = Duration::from_secs(30);
/// Most dropped sources, and prefixes, in one answer.
const TOP: usize = 50;
/// The prefixes that dropped sources are summed up by.
const IPV4_LENGTH: u8 = 24;
const IPV6_LENGTH: u8 = 48;

/// The last drop of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDrop {
    pub report: DropReport,
    /// Drops of this source that were reported since it was first remembered.
    pub reported: u64,
}

/// One line of the most dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped<K> {
    pub source: K,
    /// Of all drops reported in the same time, from 0 to 1. A sample: the counters have the sums.
    pub share: f64,
    /// Reported drops.
    pub reported: u64,
    /// So many of `reported` may be another source's: the sketch forgets rare ones.
    pub error: u64,
    /// The reason of the last one, where it is still remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
}

/// Answer of `GET /v1/top`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopReply {
    /// By reason, from counters that count every packet.
    pub rates: Vec<Rate>,
    /// The most dropped sources, from the sampled events of the last `sampled_seconds`.
    pub sources: Vec<Dropped<IpAddr>>,
    /// The same by /24 and /48.
    pub prefixes: Vec<Dropped<IpNet>>,
    pub sampled_seconds: u64,
    /// Drops reported in that time.
    pub reported: u64,
}

/// What was dropped of late.
#[derive(Debug)]
pub struct Recent {
    began: Instant,
    last: LruCache<IpAddr, LastDrop, RandomState>,
    sources: Frequent<IpAddr>,
    prefixes: Frequent<IpNet>,
    all: Frequent<()>,
    rates: Rates,
}

impl Recent {
    /// Nothing yet.
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            last: LruCache::with_hasher(SOURCES, RandomState::new()),
            sources: Frequent::new(SPAN),
            prefixes: Frequent::new(SPAN),
            all: Frequent::new(SPAN),
            rates: Rates::default(),
        }
    }

    /// A drop was reported.
    pub fn note(&mut self, report: &DropReport, now: Instant) {
        let now = now.saturating_duration_since(self.began);
        self.all.add((), now);
        let Some(source) = report.source else { return };
        self.sources.add(source, now);
        self.prefixes.add(group(source), now);
        let reported = self.last.peek(&source).map_or(0, |last| last.reported);
        self.last.push(
            source,
            LastDrop {
                report: report.without_head(),
                reported: reported + 1,
            },
        );
    }

    /// Takes the counters as they are; to be called at least once a second.
    pub fn sample(&mut self, counters: Counters, now: Instant) {
        self.rates
            .sample(counters, now.saturating_duration_since(self.began));
    }

    /// The last drop of a source, if it was reported and is still remembered.
    pub fn last(&self, source: IpAddr) -> Option<&LastDrop> {
        self.last.peek(&source)
    }

    /// Rates, and who is dropped most.
    pub fn top(&mut self, now: Instant) -> TopReply {
        let now = now.saturating_duration_since(self.began);
        let (all, since) = self.all.top(1, now);
        let reported = all.first().map_or(0, |((), frequency)| frequency.count);
        let (sources, _) = self.sources.top(TOP, now);
        let (prefixes, _) = self.prefixes.top(TOP, now);
        let reason = |source: &IpAddr| {
            self.last
                .peek(source)
                .map(|last| last.report.reason.clone())
        };
        TopReply {
            rates: self.rates.rates(),
            sources: sources
                .into_iter()
                .map(|(source, frequency)| line(source, frequency, reported, reason(&source)))
                .collect(),
            prefixes: prefixes
                .into_iter()
                .map(|(prefix, frequency)| line(prefix, frequency, reported, None))
                .collect(),
            sampled_seconds: now.saturating_sub(since).as_secs(),
            reported,
        }
    }
}

fn line<K>(
    source: K,
    frequency: Frequency,
    all: u64,
    reason: Option<Cow<'static, str>>,
) -> Dropped<K> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share needs no more than 53 bits"
    )]
    let share = frequency.count as f64 / all.max(1) as f64;
    Dropped {
        source,
        share,
        reported: frequency.count,
        error: frequency.error,
        reason,
    }
}

fn group(source: IpAddr) -> IpNet {
    let length = if source.is_ipv4() {
        IPV4_LENGTH
    } else {
        IPV6_LENGTH
    };
    IpNet::new(source, length).map_or_else(|_| IpNet::from(source), |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::testing::report;

    #[test]
    fn the_last_drop_of_a_source_is_remembered_with_how_many_there_were() {
        let began = Instant::now();
        let mut recent = Recent::new(began);
        recent.note(&report("198.51.100.7"), began);
        let last = DropReport {
            destination_port: 443,
            ..report("198.51.100.7")
        };
        recent.note(&last, began);
        let found = recent.last("198.51.100.7".parse().unwrap()).unwrap();
        assert_eq!((&found.report, found.reported), (&last, 2));
        assert_eq!(recent.last("198.51.100.8".parse().unwrap()), None);
    }

    #[test]
    fn a_flood_of_sources_costs_a_bounded_memory_and_the_latest_stay() {
        let began = Instant::now();
        let mut recent = Recent::new(began);
        let address = |index: u32| IpAddr::from(index.to_be_bytes());
        let mut flood = report("198.51.100.7");
        for index in 0..70_000 {
            flood.source = Some(address(index));
            recent.note(&flood, began);
        }
        assert_eq!(recent.last.len(), SOURCES.get());
        assert!(recent.last(address(69_999)).is_some());
        assert!(recent.last(address(0)).is_none());
    }

    #[test]
    fn the_most_dropped_come_first_with_their_share_and_by_prefix() {
        let began = Instant::now();
        let mut recent = Recent::new(began);
        for source in [
            "198.51.100.7",
            "198.51.100.7",
            "198.51.100.9",
            "2001:db8:1:2::3",
        ] {
            recent.note(&report(source), began);
        }
        let top = recent.top(began + Duration::from_secs(2));
        assert_eq!(top.reported, 4);
        let first = &top.sources[0];
        assert_eq!(first.source.to_string(), "198.51.100.7");
        assert!((first.share - 0.5).abs() < 1e-9);
        assert_eq!(first.reason.as_deref(), Some("not_listed"));
        let prefixes: Vec<(String, u64)> = top
            .prefixes
            .iter()
            .map(|line| (line.source.to_string(), line.reported))
            .collect();
        assert_eq!(
            prefixes,
            [
                ("198.51.100.0/24".to_owned(), 3),
                ("2001:db8:1::/48".to_owned(), 1)
            ]
        );
    }

    #[test]
    fn a_packet_without_a_source_counts_in_the_sum_only() {
        let began = Instant::now();
        let mut recent = Recent::new(began);
        let mut malformed = report("198.51.100.7");
        malformed.source = None;
        recent.note(&malformed, began);
        let top = recent.top(began);
        assert_eq!((top.reported, top.sources.len()), (1, 0));
    }
}
