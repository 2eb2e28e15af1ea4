//! Values that need more than one line to be read.

use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};

use super::{
    DEFAULT_MAX_LIFETIME, DEFAULT_METRICS, MAX_INTERFACE_NAME, MAX_INTERFACES, section::Section,
};
use crate::{datapath::MonitoredSet, prefix};

/// A number whose range was checked.
pub(super) fn in_range<T: TryFrom<i64> + Default>(number: i64) -> T {
    T::try_from(number).unwrap_or_default()
}

pub(super) fn interfaces(root: &mut Section) -> Vec<String> {
    let interfaces = root.each_string("interfaces", |name| {
        let is_name = !name.is_empty()
            && name.len() <= MAX_INTERFACE_NAME
            && !matches!(name, "." | "..")
            && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        match name {
            "lo" => Err("loopback has no strangers; name the interfaces that face the network".to_owned()),
            _ if !is_name => Err(format!("`{name}` is not an interface name (1 to {MAX_INTERFACE_NAME} characters, no `/`, `:` or space)")),
            _ => Ok(name.to_owned()),
        }
    });
    if !root.has_faults("interfaces") {
        if interfaces.is_empty() {
            root.fault(
                "interfaces",
                "expected at least one interface, such as [\"eth0\"]",
            );
        }
        if interfaces.len() > MAX_INTERFACES {
            root.fault(
                "interfaces",
                &format!("at most {MAX_INTERFACES} interfaces"),
            );
        }
        if interfaces.iter().collect::<BTreeSet<_>>().len() < interfaces.len() {
            root.fault("interfaces", "an interface is named twice");
        }
    }
    interfaces
}

pub(super) fn lifetime(section: &mut Section) -> Duration {
    let text = section
        .string("max_lifetime")
        .unwrap_or_else(|| DEFAULT_MAX_LIFETIME.to_owned());
    match prefix::parse_duration(&text) {
        Ok(lifetime) => lifetime,
        Err(error) => {
            section.fault("max_lifetime", &error.to_string());
            Duration::ZERO
        }
    }
}

pub(super) fn listen(section: &mut Section) -> Option<SocketAddr> {
    let text = section
        .string("listen")
        .unwrap_or_else(|| DEFAULT_METRICS.to_owned());
    if text == "off" {
        return None;
    }
    let address = text.parse().ok();
    if address.is_none() {
        section.fault(
            "listen",
            &format!("`{text}` is neither ADDRESS:PORT nor \"off\""),
        );
    }
    address
}

pub(super) fn groups(section: &mut Section, key: &str) -> BTreeSet<u32> {
    let mut groups = BTreeSet::new();
    for (index, value) in section.array(key).into_iter().enumerate() {
        let group = match &value {
            toml::Value::Integer(id) => u32::try_from(*id).ok(),
            toml::Value::String(name) => group_id(name),
            toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_)
            | toml::Value::Table(_) => None,
        };
        match group {
            Some(group) => drop(groups.insert(group)),
            None => section.fault(
                &format!("{key}[{index}]"),
                &format!("{value} is neither a group of this machine nor a group id"),
            ),
        }
    }
    groups
}

fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

pub(super) fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

/// `true`, `false`, or the interfaces on which drops are only counted.
pub(super) fn monitored(root: &mut Section, interfaces: &[String]) -> MonitoredSet {
    if root.is_list("monitor") {
        let names = root.each_string("monitor", |name| {
            if interfaces.iter().any(|known| known == name) {
                Ok(name.to_owned())
            } else {
                Err(format!("`{name}` is not one of `interfaces`"))
            }
        });
        if names.is_empty() {
            MonitoredSet::None
        } else {
            MonitoredSet::Interfaces(names)
        }
    } else if root.boolean("monitor", false) {
        MonitoredSet::All
    } else {
        MonitoredSet::None
    }
}

/// Names of certificates, each with the kind of name in front.
pub(super) fn certificate_names(section: &mut Section, key: &str) -> BTreeSet<String> {
    let names = section.each_string(key, |name| {
        let is_known = ["CN=", "DNS:", "EMAIL:", "URI:"]
            .iter()
            .any(|kind| name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()));
        if is_known {
            Ok(name.to_owned())
        } else {
            Err(format!(
                "`{name}` is not CN=NAME, DNS:NAME, EMAIL:NAME or URI:NAME"
            ))
        }
    });
    names.into_iter().collect()
}
