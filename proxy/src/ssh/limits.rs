//! How many connections there may be: together, not yet authenticated, and those from one source.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::{
    agent_client::source_network,
    config::ServerConfig,
    metrics::{Present, Stage},
};

/// How long a connection has to show a first factor before it may have to give way to another: most programs need less than a
/// second, and persons who look for their code have shown a password or key.
const PATIENCE: Duration = Duration::from_secs(10);

/// The limits and what is used of them.
#[derive(Debug)]
pub struct Limits {
    used: Mutex<Used>,
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    pub connections: usize,
    pub unauthenticated: usize,
    pub unauthenticated_per_source: usize,
}

impl From<&ServerConfig> for Most {
    fn from(config: &ServerConfig) -> Self {
        Self {
            connections: config.max_connections,
            unauthenticated: config.max_unauthenticated,
            unauthenticated_per_source: config.max_unauthenticated_per_source,
        }
    }
}

#[derive(Debug)]
struct Used {
    is_held: bool,
    most: Most,
    connections: usize,
    /// Those that are not yet authenticated, in the order in which they came.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    waiting_by_source: HashMap<IpNet, usize>,
}

/// A connection that is not yet authenticated.
#[derive(Debug)]
struct Waiting {
    source: IpNet,
    since: Instant,
    /// Set once a factor was shown.
    proven: Arc<AtomicBool>,
    give_way: CancellationToken,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    JournalDisk,
    Connections,
    Unauthenticated,
    UnauthenticatedFromSource,
}

impl Refusal {
    /// The code in records and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::JournalDisk => "journal_disk_short",
            Self::Connections => "too_many_connections",
            Self::Unauthenticated => "too_many_unauthenticated",
            Self::UnauthenticatedFromSource => "too_many_unauthenticated_from_source",
        }
    }
}

/// A connection's place among all; given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Limits>);

/// A connection's place among those that are not yet authenticated; given back when dropped.
#[derive(Debug)]
pub struct UnauthenticatedSlot {
    limits: Arc<Limits>,
    number: u64,
    proven: Arc<AtomicBool>,
    give_way: CancellationToken,
    _present: Present,
}

impl UnauthenticatedSlot {
    /// To be set once a factor was shown: from then on the place is the connection's until its grace is over.
    pub fn proven(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.proven)
    }

    /// Resolves when the place was given to somebody else.
    pub async fn lost(&self) {
        self.give_way.cancelled().await;
    }
}

impl Limits {
    pub fn new(most: Most) -> Arc<Self> {
        Arc::new(Self {
            used: Mutex::new(Used {
                most,
                is_held: false,
                connections: 0,
                waiting: BTreeMap::new(),
                next: 0,
                waiting_by_source: HashMap::new(),
            }),
        })
    }

    /// Sets other limits. Connections that are beyond them stay, and no other is admitted in their place.
    pub fn set(&self, most: Most) {
        self.used().most = most;
    }

    /// Whether no connection is admitted for now, because the journal's disk is short of room. Those that are there stay.
    pub fn hold(&self, is_held: bool) {
        self.used().is_held = is_held;
    }

    /// Takes a place for a connection from `source`. Where all places of those that are not yet authenticated are taken, one
    /// that has shown nothing gives way: the oldest of the source that holds most of them, if that are more than `source` would
    /// hold, or else the oldest of all, if it had its time.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn admit(
        self: &Arc<Self>,
        source: IpAddr,
        now: Instant,
    ) -> Result<(Slot, UnauthenticatedSlot), Refusal> {
        let source = source_network(source);
        let mut used = self.used();
        if used.is_held {
            return Err(Refusal::JournalDisk);
        }
        let from_source = used.waiting_from(source);
        // The narrowest limit first: it names the source that is to blame.
        if from_source >= used.most.unauthenticated_per_source {
            return Err(Refusal::UnauthenticatedFromSource);
        }
        if used.connections >= used.most.connections {
            return Err(Refusal::Connections);
        }
        if used.waiting.len() >= used.most.unauthenticated {
            let last = used
                .who_gives_way(from_source + 1, now)
                .and_then(|number| used.leave(number))
                .ok_or(Refusal::Unauthenticated)?;
            last.give_way.cancel();
        }
        used.connections += 1;
        let number = used.next;
        used.next += 1;
        let waiting = Waiting {
            source,
            since: now,
            proven: Arc::default(),
            give_way: CancellationToken::new(),
        };
        let slot = UnauthenticatedSlot {
            limits: Arc::clone(self),
            number,
            proven: Arc::clone(&waiting.proven),
            give_way: waiting.give_way.clone(),
            _present: Present::at(Stage::Unauthenticated),
        };
        used.waiting.insert(number, waiting);
        *used.waiting_by_source.entry(source).or_default() += 1;
        drop(used);
        Ok((Slot(Arc::clone(self)), slot))
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    fn waiting_from(&self, source: IpNet) -> usize {
        self.waiting_by_source.get(&source).copied().unwrap_or(0)
    }

    /// `held`: how many places the source of the newcomer would hold.
    fn who_gives_way(&self, held: usize, now: Instant) -> Option<u64> {
        let can_go = || {
            let all = self.waiting.iter();
            all.filter(|(_, waiting)| !waiting.proven.load(Ordering::Relaxed))
        };
        // Of equal ones the oldest.
        let (greatest, crowd) = can_go()
            .map(|(number, waiting)| (number, self.waiting_from(waiting.source)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        if crowd > held {
            return Some(*greatest);
        }
        let (oldest, waiting) = can_go().next()?;
        (now.saturating_duration_since(waiting.since) >= PATIENCE).then_some(*oldest)
    }

    fn leave(&mut self, number: u64) -> Option<Waiting> {
        let left = self.waiting.remove(&number)?;
        if let Some(count) = self.waiting_by_source.get_mut(&left.source) {
            *count -= 1;
            if *count == 0 {
                self.waiting_by_source.remove(&left.source);
            }
        }
        Some(left)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used().connections -= 1;
    }
}

impl Drop for UnauthenticatedSlot {
    fn drop(&mut self) {
        // Nothing is left of one that gave way.
        let _ = self.limits.used().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, unauthenticated: usize, per_source: usize) -> Arc<Limits> {
        Limits::new(Most {
            connections,
            unauthenticated,
            unauthenticated_per_source: per_source,
        })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_can_not_take_the_places_of_the_others() {
        let limits = limits(10, 10, 2);
        let first = limits.admit(address("192.0.2.1"), Instant::now()).unwrap();
        let _second = limits
            .admit(address("::ffff:192.0.2.1"), Instant::now())
            .unwrap();
        assert_eq!(
            limits
                .admit(address("192.0.2.1"), Instant::now())
                .unwrap_err(),
            Refusal::UnauthenticatedFromSource
        );
        let _other = limits.admit(address("192.0.2.2"), Instant::now()).unwrap();
        drop(first);
        let _again = limits.admit(address("192.0.2.1"), Instant::now()).unwrap();
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let limits = limits(10, 10, 1);
        let _first = limits
            .admit(address("2001:db8::1"), Instant::now())
            .unwrap();
        assert_eq!(
            limits
                .admit(address("2001:db8::2"), Instant::now())
                .unwrap_err(),
            Refusal::UnauthenticatedFromSource
        );
        let _other = limits
            .admit(address("2001:db8:0:1::1"), Instant::now())
            .unwrap();
    }

    #[test]
    fn who_is_authenticated_makes_room_among_the_unauthenticated_only() {
        let limits = limits(2, 1, 5);
        let (_slot, unauthenticated) = limits.admit(address("192.0.2.1"), Instant::now()).unwrap();
        assert_eq!(
            limits
                .admit(address("192.0.2.2"), Instant::now())
                .unwrap_err(),
            Refusal::Unauthenticated
        );
        drop(unauthenticated);
        let (_second, unauthenticated) =
            limits.admit(address("192.0.2.2"), Instant::now()).unwrap();
        drop(unauthenticated);
        assert_eq!(
            limits
                .admit(address("192.0.2.3"), Instant::now())
                .unwrap_err(),
            Refusal::Connections
        );
    }

    #[test]
    fn lower_limits_let_stay_who_is_there_and_admit_nobody_else() {
        let limits = limits(2, 2, 2);
        let (_first, _waiting) = limits.admit(address("192.0.2.1"), Instant::now()).unwrap();
        let (second, unauthenticated) = limits.admit(address("192.0.2.2"), Instant::now()).unwrap();
        limits.set(Most {
            connections: 1,
            unauthenticated: 1,
            unauthenticated_per_source: 1,
        });
        assert!(limits.admit(address("192.0.2.3"), Instant::now()).is_err());
        drop((second, unauthenticated));
        assert!(limits.admit(address("192.0.2.3"), Instant::now()).is_err());
        limits.set(Most {
            connections: 2,
            unauthenticated: 2,
            unauthenticated_per_source: 1,
        });
        let _third = limits.admit(address("192.0.2.3"), Instant::now()).unwrap();
        assert_eq!(
            limits
                .admit(address("192.0.2.1"), Instant::now())
                .unwrap_err(),
            Refusal::UnauthenticatedFromSource
        );
    }

    #[test]
    fn nothing_is_remembered_of_sources_that_left() {
        let limits = limits(10, 10, 2);
        drop(limits.admit(address("192.0.2.1"), Instant::now()));
        assert!(limits.used().waiting_by_source.is_empty());
        assert_eq!(limits.used().connections, 0);
    }

    /// Whether the place was given to somebody else.
    fn is_lost(slot: &UnauthenticatedSlot) -> bool {
        slot.give_way.is_cancelled()
    }

    #[test]
    fn the_oldest_of_the_greatest_crowd_gives_way_and_one_that_showed_a_factor_does_not() {
        let limits = limits(10, 4, 4);
        let now = Instant::now();
        let mut crowd = Vec::new();
        let (_alone, single) = limits.admit(address("192.0.2.1"), now).unwrap();
        for _ in 0..3 {
            crowd.push(limits.admit(address("198.51.100.1"), now).unwrap());
        }
        crowd[0].1.proven().store(true, Ordering::Relaxed);
        let _second = limits.admit(address("192.0.2.2"), now).unwrap();
        let lost: Vec<_> = crowd.iter().map(|(_, slot)| is_lost(slot)).collect();
        assert_eq!(lost, [false, true, false]);
        assert!(!is_lost(&single));
        // Two hold places, and the crowd would hold three.
        assert_eq!(
            limits.admit(address("198.51.100.1"), now).unwrap_err(),
            Refusal::Unauthenticated
        );
        drop(crowd);
        assert_eq!(limits.used().waiting.len(), 2);
    }

    #[test]
    fn among_equals_the_oldest_gives_way_once_it_had_its_time() {
        let limits = limits(10, 2, 2);
        let begun = Instant::now();
        let (_first, oldest) = limits.admit(address("192.0.2.1"), begun).unwrap();
        let (_second, younger) = limits.admit(address("192.0.2.2"), begun).unwrap();
        let early = begun + PATIENCE - Duration::from_millis(1);
        assert_eq!(
            limits.admit(address("192.0.2.3"), early).unwrap_err(),
            Refusal::Unauthenticated
        );
        let _third = limits
            .admit(address("192.0.2.3"), begun + PATIENCE)
            .unwrap();
        assert!(is_lost(&oldest) && !is_lost(&younger));
    }
}
