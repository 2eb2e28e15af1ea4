//! The sections of the file, one function each.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use agent_ebpf::verdict::Policy;

use super::{
    Control, DEFAULT_SIGNING_KEY, DEFAULT_SOCKET, prefixes,
    section::Section,
    values::{certificate_names, groups, host_name, in_range, lifetime},
};
use crate::{bans, control::server::Rate, datapath::RateLimit, rule::Scope, state::HistoryLimits};

const DEFAULT_MAX_BANS: i64 = 16_384;
/// What the kernel's tables hold beside a list of a million prefixes.
const MOST_BANS: i64 = 1_000_000;
const DEFAULT_WIDEST_IPV4: i64 = 24;
const DEFAULT_WIDEST_IPV6: i64 = 48;
/// A quarter of an IPv4 /24: beyond it the network is the attacker, or somebody is being framed.
const DEFAULT_BANS_IN_NETWORK: i64 = 64;
/// Every drop is a candidate: a single stray packet is seen, and the cap holds under a flood.
const DEFAULT_SAMPLE: i64 = 1;
const DEFAULT_EVENTS: i64 = 500;
/// Far above people and scripts, far below what would keep the daemon busy.
const DEFAULT_REQUESTS: i64 = 500;
const DEFAULT_BURST: i64 = 1000;
/// Sources of some thousand accounts.
const DEFAULT_MAX_OFFERED: i64 = 65_536;
/// A whole provider's network, and not half of the Internet.
const DEFAULT_WIDEST_OFFERED: i64 = 8;
const DEFAULT_WIDEST_OFFERED_IPV6: i64 = 16;
const DEFAULT_REVISIONS: i64 = 1000;
const DEFAULT_HISTORY_MEBIBYTES: i64 = 256;

/// The control interface over TCP, always with mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpControl {
    pub listen: SocketAddr,
    /// PEM: the server's certificate and those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM: the server's private key.
    pub key: PathBuf,
    /// PEM: the authorities that sign clients' certificates.
    pub client_ca: PathBuf,
    /// Names of certificates, such as `CN=ops` or `DNS:controller.example`.
    pub admins: BTreeSet<String>,
    pub banners: BTreeSet<String>,
    pub readers: BTreeSet<String>,
}

/// What another daemon's list may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offers {
    /// What every entry lets in, whatever the daemon wishes; all if absent.
    pub scope: Option<Scope>,
    pub max_entries: usize,
    pub widest_ipv4: u8,
    pub widest_ipv6: u8,
}

/// How many drops are reported one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    pub sample_one_in: u32,
    pub per_second: u32,
}

/// Where changes are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalSettings {
    pub directory: PathBuf,
    pub signing_key: PathBuf,
    pub node: String,
}

pub(super) fn control(root: &mut Section) -> Control {
    let mut section = root.section("control");
    let control = Control {
        socket: section.path("socket", DEFAULT_SOCKET),
        admin_groups: groups(&mut section, "admin_groups"),
        ban_groups: groups(&mut section, "ban_groups"),
        read_groups: groups(&mut section, "read_groups"),
        offer_groups: groups(&mut section, "offer_groups"),
        offers: offers(&mut section),
        rate: Rate {
            per_second: in_range(section.integer(
                "requests_per_second",
                DEFAULT_REQUESTS,
                1,
                1_000_000,
            )),
            burst: in_range(section.integer("burst", DEFAULT_BURST, 1, 1_000_000)),
        },
        tcp: section.has("tcp").then(|| tcp(&mut section)).flatten(),
    };
    root.close(section);
    control
}

/// `[control.offers]`
fn offers(control: &mut Section) -> Offers {
    let mut section = control.section("offers");
    let scope = section.string("scope").and_then(|text| {
        text.parse::<Scope>()
            .map_err(|error| section.fault("scope", &error.to_string()))
            .ok()
    });
    let offers = Offers {
        scope,
        max_entries: in_range(section.integer("max_entries", DEFAULT_MAX_OFFERED, 1, 1_000_000)),
        widest_ipv4: in_range(section.integer("widest_ipv4", DEFAULT_WIDEST_OFFERED, 1, 32)),
        widest_ipv6: in_range(section.integer("widest_ipv6", DEFAULT_WIDEST_OFFERED_IPV6, 1, 128)),
    };
    control.close(section);
    offers
}

fn tcp(control: &mut Section) -> Option<TcpControl> {
    let mut section = control.section("tcp");
    let listen = section.string("listen");
    let address = listen.as_deref().and_then(|text| text.parse().ok());
    if address.is_none() {
        section.fault(
            "listen",
            &match listen {
                Some(text) => format!("`{text}` is not ADDRESS:PORT"),
                None => "expected ADDRESS:PORT, such as \"192.0.2.1:9465\"".to_owned(),
            },
        );
    }
    let mut file = |key: &str| {
        let path = section.path(key, "");
        if path.as_os_str().is_empty() {
            section.fault(key, "expected the path of a PEM file");
        }
        path
    };
    let [certificate, key, client_ca] = [file("certificate"), file("key"), file("client_ca")];
    let [admins, banners, readers] =
        ["admins", "banners", "readers"].map(|key| certificate_names(&mut section, key));
    let tcp = address.map(|listen| TcpControl {
        listen,
        certificate,
        key,
        client_ca,
        admins,
        banners,
        readers,
    });
    control.close(section);
    tcp
}

pub(super) fn bans(root: &mut Section) -> bans::Limits {
    let mut section = root.section("bans");
    let limits = bans::Limits {
        max_lifetime: lifetime(&mut section),
        max_entries: in_range(section.integer("max_entries", DEFAULT_MAX_BANS, 1, MOST_BANS)),
        widest_ipv4: in_range(section.integer("widest_ipv4", DEFAULT_WIDEST_IPV4, 8, 32)),
        widest_ipv6: in_range(section.integer("widest_ipv6", DEFAULT_WIDEST_IPV6, 16, 128)),
        max_in_ipv4_24: in_range(section.integer(
            "max_in_ipv4_24",
            DEFAULT_BANS_IN_NETWORK,
            1,
            256,
        )),
        max_in_ipv6_48: in_range(section.integer(
            "max_in_ipv6_48",
            DEFAULT_BANS_IN_NETWORK,
            1,
            MOST_BANS,
        )),
        never: prefixes(&mut section, "never"),
    };
    root.close(section);
    limits
}

pub(super) fn uncertain(root: &mut Section) -> Policy {
    let mut section = root.section("uncertain");
    let by_source = [("by-source", false), ("drop", true)];
    let drop = [("drop", false), ("by-source", true)];
    let policy = Policy {
        drop_fragments: section.choice("fragments", &by_source),
        drop_long_extension_chains: section.choice("extension_headers", &by_source),
        drop_unknown_extension_headers: section.choice("unknown_extension_headers", &by_source),
        judge_deep_tags: section.choice("deep_tags", &drop),
        pass_other_ethernet: section.choice("other_ethernet", &[("drop", false), ("pass", true)]),
        nat64: section.boolean("nat64", false),
    };
    root.close(section);
    policy
}

pub(super) fn rate_limit(root: &mut Section) -> Option<RateLimit> {
    let mut section = root.section("rate_limit");
    let mut rate = |key| in_range(section.integer(key, 0, 0, i64::from(u32::MAX)));
    let limit = RateLimit {
        packets_per_second: rate("packets_per_second"),
        syns_per_second: rate("syns_per_second"),
    };
    root.close(section);
    Some(limit).filter(|limit| limit.packets_per_second > 0 || limit.syns_per_second > 0)
}

pub(super) fn events(root: &mut Section) -> Events {
    let mut section = root.section("events");
    let sample_one_in = section.integer("sample_one_in", DEFAULT_SAMPLE, 1, 1 << 20);
    if u32::try_from(sample_one_in).is_ok_and(|sample| !sample.is_power_of_two()) {
        section.fault("sample_one_in", "expected a power of two");
    }
    let per_second = section.integer("per_second", DEFAULT_EVENTS, 1, 100_000);
    root.close(section);
    Events {
        sample_one_in: in_range(sample_one_in),
        per_second: in_range(per_second),
    }
}

pub(super) fn history(root: &mut Section) -> HistoryLimits {
    let mut section = root.section("history");
    let keep = section.integer("keep", DEFAULT_REVISIONS, 1, 1_000_000);
    let mebibytes = section.integer("max_mebibytes", DEFAULT_HISTORY_MEBIBYTES, 1, 1 << 20);
    root.close(section);
    HistoryLimits {
        keep: in_range(keep),
        max_bytes: in_range::<u64>(mebibytes) << 20,
    }
}

pub(super) fn journal(root: &mut Section, state_dir: &Path) -> JournalSettings {
    let mut section = root.section("journal");
    let directory = section.path("directory", "");
    let settings = JournalSettings {
        directory: if directory.as_os_str().is_empty() {
            state_dir.join("journal")
        } else {
            directory
        },
        signing_key: section.path("signing_key", DEFAULT_SIGNING_KEY),
        node: section.string("node").unwrap_or_else(host_name),
    };
    root.close(section);
    settings
}
