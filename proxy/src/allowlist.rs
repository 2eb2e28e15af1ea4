//! The networks of all accounts together: what the listener accepts from, and what the agent is offered.
//!
//! Pure: made of the accounts, asked for an address.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use chrono::NaiveDate;
use ipnet::IpNet;

use crate::accounts::sources::AccountSource;

/// Longest owner of an entry, in characters, as the agent takes it.
const OWNER_MAX: usize = 200;

/// One network and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSource {
    pub network: IpNet,
    /// The accounts, as many as fit.
    pub owner: String,
    /// The last day, UTC, of the account that lasts longest.
    pub expires: Option<NaiveDate>,
}

/// The networks of all accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowlist {
    entries: Vec<ListedSource>,
    by_network: HashMap<IpNet, usize>,
    /// Prefix lengths that occur: a look-up asks for those only.
    lengths: [BTreeSet<u8>; 2],
}

impl Allowlist {
    /// Of sources in the order of their networks, one entry for each network.
    pub fn new(sources: &[AccountSource]) -> Self {
        let mut list = Self::default();
        for of_network in sources.chunk_by(|one, other| one.network == other.network) {
            let Some(first) = of_network.first() else {
                continue;
            };
            let ends: Option<Vec<NaiveDate>> =
                of_network.iter().map(|source| source.expires).collect();
            let network = first.network;
            list.lengths_of(&network).insert(network.prefix_len());
            list.by_network.insert(network, list.entries.len());
            list.entries.push(ListedSource {
                network,
                owner: owner(of_network),
                // One account without an end keeps the network.
                expires: ends.and_then(|ends| ends.into_iter().max()),
            });
        }
        list
    }

    /// The most specific network of an account that has the address.
    pub fn covering(&self, address: IpAddr) -> Option<&ListedSource> {
        let address = address.to_canonical();
        let lengths = match address {
            IpAddr::V4(_) => self.lengths.first(),
            IpAddr::V6(_) => self.lengths.last(),
        };
        lengths?.iter().rev().find_map(|&length| {
            let network = IpNet::new(address, length).ok()?.trunc();
            self.entries.get(*self.by_network.get(&network)?)
        })
    }

    pub fn entries(&self) -> &[ListedSource] {
        &self.entries
    }

    fn lengths_of(&mut self, network: &IpNet) -> &mut BTreeSet<u8> {
        let [v4, v6] = &mut self.lengths;
        match network {
            IpNet::V4(_) => v4,
            IpNet::V6(_) => v6,
        }
    }
}

fn owner(sources: &[AccountSource]) -> String {
    let mut owner = String::new();
    for (named, source) in sources.iter().enumerate() {
        let rest = sources.len() - named;
        let room = OWNER_MAX.saturating_sub(owner.len() + " and 1000000 more".len() + 2);
        if source.account.len() > room {
            return format!("{owner} and {rest} more");
        }
        if named > 0 {
            owner.push_str(", ");
        }
        owner.push_str(&source.account);
    }
    owner
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(network: &str, account: &str, expires: Option<&str>) -> AccountSource {
        AccountSource {
            network: network.parse().unwrap(),
            account: account.to_owned(),
            expires: expires.map(|date| date.parse().unwrap()),
        }
    }

    #[test]
    fn an_address_is_covered_by_the_most_specific_network_in_either_form() {
        let list = Allowlist::new(&[
            source("192.0.2.0/24", "alice", None),
            source("192.0.2.7/32", "bob", None),
            source("2001:db8::/32", "carol", None),
        ]);
        let owner = |address: &str| {
            list.covering(address.parse().unwrap())
                .map(|entry| entry.owner.as_str())
        };
        assert_eq!(owner("192.0.2.7"), Some("bob"));
        assert_eq!(owner("::ffff:192.0.2.8"), Some("alice"));
        assert_eq!(owner("192.0.3.0"), None);
        assert_eq!(owner("2001:db8:ffff::1"), Some("carol"));
        assert_eq!(owner("2001:db9::1"), None);
        assert_eq!(Allowlist::default().covering([127, 0, 0, 1].into()), None);
    }

    #[test]
    fn a_network_of_several_accounts_lasts_as_long_as_the_last_of_them() {
        let list = Allowlist::new(&[
            source("192.0.2.0/24", "alice", Some("2027-01-31")),
            source("192.0.2.0/24", "bob", Some("2027-03-31")),
            source("192.0.3.0/24", "alice", Some("2027-01-31")),
            source("192.0.3.0/24", "carol", None),
        ]);
        let entries: Vec<_> = list
            .entries()
            .iter()
            .map(|entry| (entry.owner.as_str(), entry.expires))
            .collect();
        assert_eq!(
            entries,
            [
                ("alice, bob", "2027-03-31".parse().ok()),
                ("alice, carol", None)
            ]
        );
    }

    #[test]
    fn owners_that_do_not_fit_are_counted() {
        let sources: Vec<_> = (10..60)
            .map(|n| source("192.0.2.0/24", &format!("account-{n}"), None))
            .collect();
        let list = Allowlist::new(&sources);
        let owner = &list.entries()[0].owner;
        assert!(owner.len() <= OWNER_MAX, "{owner}");
        let named = owner.split(", ").count();
        assert!(
            owner.ends_with(&format!(" and {} more", 50 - named)),
            "{owner}"
        );
    }
}
