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
    max_connections: usize,
    max_unauthenticated: usize,
    max_unauthenticated_per_source: usize,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
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
    pub fn new(config: &ServerConfig) -> Arc<Self> {
        Arc::new(Self {
            max_connections: config.max_connections,
            max_unauthenticated: config.max_unauthenticated,
            max_unauthenticated_per_source: config.max_unauthenticated_per_source,
            used: Mutex::default(),
        })
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
        if from_source >= self.max_unauthenticated_per_source {
            return Err(Refusal::UnauthenticatedFromSource);
        }
        if used.unauthenticated >= self.max_unauthenticated {
            return Err(Refusal::Unauthenticated);
        }
        if used.connections >= self.max_connections {
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
        Arc::new(Limits {
            max_connections: connections,
            max_unauthenticated: unauthenticated,
            max_unauthenticated_per_source: per_source,
            used: Mutex::default(),
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
    fn nothing_is_remembered_of_sources_that_left() {
        let limits = limits(10, 10, 2);
        drop(limits.admit(address("192.0.2.1")));
        assert!(limits.used().unauthenticated_by_source.is_empty());
        assert_eq!(limits.used().connections, 0);
    }
}
