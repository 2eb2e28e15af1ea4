//! Rules, searched one after the other.

use std::net::IpAddr;

use ipnet::IpNet;

/// One rule of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub prefix: IpNet,
    pub action: Action,
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Protect,
    Ban,
    Deny,
    /// Everything, or only what lies in one of these.
    Allow(Option<Vec<Span>>),
}

/// Destination ports of a protocol; 0 to 65535 is all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub protocol: u8,
    pub first: u16,
    pub last: u16,
}

impl Span {
    /// Whether a packet of this protocol may pass. One whose port can't be read goes by its protocol.
    pub fn permits(&self, protocol: u8, port: Option<u16>) -> bool {
        self.protocol == protocol
            && port.is_none_or(|port| (self.first..=self.last).contains(&port))
    }
}

/// How an address stands under a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Protected,
    Banned,
    Denied,
    Allowed,
    /// Only what lies in one of these.
    Scoped(Vec<Span>),
    NotListed,
}

/// How `address` stands: protection beats a ban, and a ban the rest, whatever their lengths. A denial cuts off the permissions that are
/// not longer than it; those that remain add up.
pub fn standing(rules: &[Rule], address: IpAddr) -> Standing {
    let covering: Vec<&Rule> = rules
        .iter()
        .filter(|rule| rule.prefix.contains(&address))
        .collect();
    let has = |action: &Action| covering.iter().any(|rule| rule.action == *action);
    if has(&Action::Protect) {
        return Standing::Protected;
    }
    if has(&Action::Ban) {
        return Standing::Banned;
    }
    let denied = covering
        .iter()
        .filter(|rule| rule.action == Action::Deny)
        .map(|rule| rule.prefix.prefix_len())
        .max();
    let mut permits = covering.iter().filter_map(|rule| match &rule.action {
        Action::Allow(scope) if denied.is_none_or(|length| rule.prefix.prefix_len() > length) => {
            Some(scope)
        }
        Action::Allow(_) | Action::Protect | Action::Ban | Action::Deny => None,
    });
    let mut sum = Vec::new();
    let mut is_permitted = false;
    if permits.any(|scope| {
        is_permitted = true;
        match scope {
            Some(spans) => {
                sum.extend_from_slice(spans);
                false
            }
            None => true,
        }
    }) {
        return Standing::Allowed;
    }
    match (is_permitted, denied) {
        (true, _) => Standing::Scoped(sum),
        (false, Some(_)) => Standing::Denied,
        (false, None) => Standing::NotListed,
    }
}
