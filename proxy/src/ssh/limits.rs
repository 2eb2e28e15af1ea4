//! How many connections there may be: together, not yet authenticated, and those from one source.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;

use crate::{
    agent_client::source_network,
    config::ServerConfig,
    metrics::{Present, Stage},
};

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
    most: Most,
    connections: usize,
    unauthenticated: usize,
    unauthenticated_by_source: HashMap<IpNet, usize>,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Connections,
    Unauthenticated,
    UnauthenticatedFromSource,
}

impl Refusal {
    /// The code in records and metrics.
    pub fn code(self) -> &'static str {
        match self {
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
    source: IpNet,
    _present: Present,
}

impl Limits {
    pub fn new(most: Most) -> Arc<Self> {
        Arc::new(Self {
            used: Mutex::new(Used {
                most,
                connections: 0,
                unauthenticated: 0,
                unauthenticated_by_source: HashMap::new(),
            }),
        })
    }

    /// Sets other limits. Connections that are beyond them stay, and no other is admitted in their place.
    pub fn set(&self, most: Most) {
        self.used().most = most;
    }

    /// Takes a place for a connection from `source`.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn admit(self: &Arc<Self>, source: IpAddr) -> Result<(Slot, UnauthenticatedSlot), Refusal> {
        let source = source_network(source);
        let mut used = self.used();
        let from_source = used
            .unauthenticated_by_source
            .get(&source)
            .copied()
            .unwrap_or(0);
        // The narrowest limit first: it names the source that is to blame.
        if from_source >= used.most.unauthenticated_per_source {
            return Err(Refusal::UnauthenticatedFromSource);
        }
        if used.unauthenticated >= used.most.unauthenticated {
            return Err(Refusal::Unauthenticated);
        }
        if used.connections >= used.most.connections {
            return Err(Refusal::Connections);
        }
        used.connections += 1;
        used.unauthenticated += 1;
        used.unauthenticated_by_source
            .insert(source, from_source + 1);
        drop(used);
        Ok((
            Slot(Arc::clone(self)),
            UnauthenticatedSlot {
                limits: Arc::clone(self),
                source,
                _present: Present::at(Stage::Unauthenticated),
            },
        ))
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used().connections -= 1;
    }
}

impl Drop for UnauthenticatedSlot {
    fn drop(&mut self) {
        let mut used = self.limits.used();
        used.unauthenticated -= 1;
        if let Some(count) = used.unauthenticated_by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                used.unauthenticated_by_source.remove(&self.source);
            }
        }
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
        let first = limits.admit(address("192.0.2.1")).unwrap();
        let _second = limits.admit(address("::ffff:192.0.2.1")).unwrap();
        assert_eq!(
            limits.admit(address("192.0.2.1")).unwrap_err(),
            Refusal::UnauthenticatedFromSource
        );
        let _other = limits.admit(address("192.0.2.2")).unwrap();
        drop(first);
        let _again = limits.admit(address("192.0.2.1")).unwrap();
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let limits = limits(10, 10, 1);
        let _first = limits.admit(address("2001:db8::1")).unwrap();
        assert_eq!(
            limits.admit(address("2001:db8::2")).unwrap_err(),
            Refusal::UnauthenticatedFromSource
        );
        let _other = limits.admit(address("2001:db8:0:1::1")).unwrap();
    }

    #[test]
    fn who_is_authenticated_makes_room_among_the_unauthenticated_only() {
        let limits = limits(2, 1, 5);
        let (_slot, unauthenticated) = limits.admit(address("192.0.2.1")).unwrap();
        assert_eq!(
            limits.admit(address("192.0.2.2")).unwrap_err(),
            Refusal::Unauthenticated
        );
        drop(unauthenticated);
        let (_second, unauthenticated) = limits.admit(address("192.0.2.2")).unwrap();
        drop(unauthenticated);
        assert_eq!(
            limits.admit(address("192.0.2.3")).unwrap_err(),
            Refusal::Connections
        );
    }

    #[test]
    fn lower_limits_let_stay_who_is_there_and_admit_nobody_else() {
        let limits = limits(2, 2, 2);
        let (_first, _waiting) = limits.admit(address("192.0.2.1")).unwrap();
        let (second, unauthenticated) = limits.admit(address("192.0.2.2")).unwrap();
        limits.set(Most {
            connections: 1,
            unauthenticated: 1,
            unauthenticated_per_source: 1,
        });
        assert!(limits.admit(address("192.0.2.3")).is_err());
        drop((second, unauthenticated));
        assert!(limits.admit(address("192.0.2.3")).is_err());
        limits.set(Most {
            connections: 2,
            unauthenticated: 2,
            unauthenticated_per_source: 1,
        });
        let _third = limits.admit(address("192.0.2.3")).unwrap();
        assert_eq!(
            limits.admit(address("192.0.2.1")).unwrap_err(),
            Refusal::UnauthenticatedFromSource
        );
    }

    #[test]
    fn nothing_is_remembered_of_sources_that_left() {
        let limits = limits(10, 10, 2);
        drop(limits.admit(address("192.0.2.1")));
        assert!(limits.used().unauthenticated_by_source.is_empty());
        assert_eq!(limits.used().connections, 0);
    }
}
