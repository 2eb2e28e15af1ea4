//! The sources and networks that are remembered: bounded, with places of its own for each network.

use std::collections::{BTreeSet, HashMap, HashSet};

use ipnet::IpNet;

use super::{
    RestoreError, Row, network_around,
    source::{Millis, Penalty, Source},
};

/// Sources remembered at once, some 1 KiB each. An attacker needs a whole TCP and SSH handshake for each.
pub(super) const SOURCES_MAX: usize = 16_384;
/// Sources of one network: whoever has an IPv6 /48 pushes out his own, and nobody else's.
pub(super) const SOURCES_OF_NETWORK_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Table {
    sources: HashMap<IpNet, Source>,
    networks: HashMap<IpNet, Network>,
    /// All sources, the one that matters least first.
    order: BTreeSet<(Millis, IpNet)>,
    /// What the store does not have yet.
    changed: HashSet<IpNet>,
}

#[derive(Debug, Default)]
struct Network {
    penalty: Penalty,
    /// Its sources, the one that matters least first.
    order: BTreeSet<(Millis, IpNet)>,
}

impl Table {
    pub(super) fn source(&self, source: &IpNet) -> Option<&Source> {
        self.sources.get(source)
    }

    pub(super) fn network(&self, network: &IpNet) -> Option<&Penalty> {
        self.networks.get(network).map(|network| &network.penalty)
    }

    /// The state of a source, to be put back.
    pub(super) fn take(&mut self, source: &IpNet) -> Source {
        self.remove(source).unwrap_or_default()
    }

    /// Puts a source in; where there is no place, the one that matters least goes, first of the same network.
    pub(super) fn put(&mut self, source: IpNet, state: Source) {
        let around = network_around(&source);
        let of_network = self
            .networks
            .get(&around)
            .map_or(0, |known| known.order.len());
        let least = if of_network >= SOURCES_OF_NETWORK_MAX {
            self.networks
                .get(&around)
                .and_then(|known| known.order.first())
                .map(|(_, least)| *least)
        } else if self.sources.len() >= SOURCES_MAX {
            self.order.first().map(|(_, least)| *least)
        } else {
            None
        };
        if let Some(least) = least {
            self.forget(&least);
        }
        let place = (state.matters_until(), source);
        self.order.insert(place);
        self.networks.entry(around).or_default().order.insert(place);
        self.sources.insert(source, state);
        self.changed.insert(source);
    }

    /// Networks live as long as a source of theirs is remembered.
    pub(super) fn change_network(&mut self, network: &IpNet, change: impl FnOnce(&mut Penalty)) {
        if let Some(known) = self.networks.get_mut(network) {
            change(&mut known.penalty);
            self.changed.insert(*network);
        }
    }

    pub(super) fn restore(&mut self, network: &str, state: &str) -> Result<(), RestoreError> {
        let unknown = || RestoreError::Network {
            text: network.to_owned(),
        };
        let key: IpNet = network.parse().map_err(|_| unknown())?;
        let unreadable = |source| RestoreError::State {
            network: key,
            source,
        };
        if is_source(&key) {
            let state = serde_json::from_str(state).map_err(unreadable)?;
            self.remove(&key);
            self.put(key, state);
        } else if key == network_around(&key) {
            let penalty = serde_json::from_str(state).map_err(unreadable)?;
            self.networks.entry(key).or_default().penalty = penalty;
        } else {
            return Err(unknown());
        }
        self.changed.remove(&key);
        Ok(())
    }

    /// What the store does not have yet.
    pub(super) fn changes(&mut self) -> Vec<Row> {
        let changed: Vec<IpNet> = self.changed.drain().collect();
        changed
            .into_iter()
            .map(|network| Row {
                network,
                state: self.state(&network),
            })
            .collect()
    }

    pub(super) fn retry(&mut self, rows: &[Row]) {
        self.changed.extend(rows.iter().map(|row| row.network));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }

    fn state(&self, network: &IpNet) -> Option<String> {
        let text = if is_source(network) {
            serde_json::to_string(self.sources.get(network)?)
        } else {
            serde_json::to_string(&self.networks.get(network)?.penalty)
        };
        // Numbers and lists of numbers: there is always a text for them.
        text.ok()
    }

    fn forget(&mut self, source: &IpNet) {
        self.remove(source);
        let around = network_around(source);
        if self
            .networks
            .get(&around)
            .is_some_and(|known| known.order.is_empty())
        {
            self.networks.remove(&around);
            self.changed.insert(around);
        }
        self.changed.insert(*source);
    }

    fn remove(&mut self, source: &IpNet) -> Option<Source> {
        let state = self.sources.remove(source)?;
        let place = (state.matters_until(), *source);
        self.order.remove(&place);
        if let Some(known) = self.networks.get_mut(&network_around(source)) {
            known.order.remove(&place);
        }
        Some(state)
    }
}

fn is_source(network: &IpNet) -> bool {
    network.prefix_len()
        == match network {
            IpNet::V4(_) => 32,
            IpNet::V6(_) => 64,
        }
}
