//! The far ends of the connections over TLS: they are protected while they are there.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;
use tokio::sync::Notify;

/// Addresses of callers with a role, and how many connections each has.
#[derive(Debug, Clone, Default)]
pub struct Remotes(Arc<State>);

#[derive(Debug, Default)]
struct State {
    connections: Mutex<BTreeMap<IpAddr, usize>>,
    changed: Notify,
}

impl Remotes {
    /// The addresses as prefixes.
    pub fn all(&self) -> Vec<IpNet> {
        self.lock().keys().copied().map(IpNet::from).collect()
    }

    /// Resolves when an address has come or gone since the last time.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Notes a connection until what is returned is dropped.
    pub(super) fn enter(&self, address: IpAddr) -> Presence {
        let address = address.to_canonical();
        *self.lock().entry(address).or_default() += 1;
        self.0.changed.notify_one();
        Presence {
            remotes: self.clone(),
            address,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is there.
#[derive(Debug)]
pub(super) struct Presence {
    remotes: Remotes,
    address: IpAddr,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut connections = self.remotes.lock();
        if let Some(count) = connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.address);
            }
        }
        drop(connections);
        self.remotes.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_there_until_its_last_connection_ends() {
        let remotes = Remotes::default();
        let mapped = remotes.enter("::ffff:192.0.2.1".parse().unwrap());
        let plain = remotes.enter("192.0.2.1".parse().unwrap());
        assert_eq!(remotes.all(), ["192.0.2.1/32".parse().unwrap()]);
        drop(mapped);
        assert_eq!(remotes.all().len(), 1);
        drop(plain);
        assert!(remotes.all().is_empty());
    }
}
