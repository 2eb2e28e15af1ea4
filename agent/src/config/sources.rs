//! Where lists and protected addresses come from: `[lists]`, `[[feeds]]`, `[[names]]`, `[protected_facts]`.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use toml::Value;

use super::{in_range, section::Section};
use crate::{
    entry::{Entry, MAX_TEXT},
    facts, prefix,
    rule::Scope,
    sources::{
        directory,
        feed::{self, DeltaLimit, Pin, PublicKey, Trust},
        format::{DEFAULT_MAX_BYTES, DEFAULT_MAX_ENTRIES, Limits},
        names::{DEFAULT_MAX_ADDRESSES, HostName, MAX_NAMES},
    },
};

/// A rename or two fit in, and an editor's save; whoever changes a list waits no longer than for a prompt.
const DEFAULT_QUIET: &str = "1s";
const DEFAULT_RESCAN: &str = "60s";
const DEFAULT_FEED_INTERVAL: &str = "15m";
const DEFAULT_FEED_TIMEOUT: &str = "60s";
const DEFAULT_CHANGE_PERCENT: i64 = 50;
const DEFAULT_CHANGE_ENTRIES: i64 = 100_000;
const DEFAULT_FACTS_INTERVAL: &str = "30s";
const SHORTEST_FEED_INTERVAL: Duration = Duration::from_secs(10);
const MAX_FEEDS: usize = 64;
const DNS_PORT: u16 = 53;

/// Sources of lists and of protected addresses besides the control interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    pub directory: Option<directory::Settings>,
    pub feeds: Vec<feed::Settings>,
    pub names: Vec<HostName>,
    /// DNS servers for the names; none are those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    pub facts: facts::Settings,
}

pub(super) fn read(root: &mut Section) -> Sources {
    let mut lists = root.section("lists");
    let limits = Limits {
        entries: entries(&mut lists, "max_entries", DEFAULT_MAX_ENTRIES),
        allow_default_route: lists.boolean("allow_default_route", false),
        ..Limits::default()
    };
    let path = lists.path("directory", "");
    let settings = directory::Settings {
        directory: path.clone(),
        owners: owners(&mut lists),
        quiet: duration(&mut lists, "quiet", DEFAULT_QUIET),
        rescan: duration(&mut lists, "rescan", DEFAULT_RESCAN),
        limits,
    };
    let directory = (path != PathBuf::new()).then_some(settings);
    let resolvers = lists.each_string("resolvers", |text| {
        text.parse::<SocketAddr>()
            .or_else(|_| {
                text.parse::<IpAddr>()
                    .map(|address| SocketAddr::new(address, DNS_PORT))
            })
            .map_err(|_| format!("`{text}` is neither ADDRESS nor ADDRESS:PORT"))
    });
    root.close(lists);

    let feeds = each_table(root, "feeds", MAX_FEEDS, |section| feed(section, limits));
    twice(
        root,
        "feeds",
        "name",
        feeds.iter().map(|feed| feed.name.as_str()),
    );
    let names = each_table(root, "names", MAX_NAMES, host_name);
    twice(
        root,
        "names",
        "host",
        names.iter().map(|name| name.host.as_str()),
    );

    let mut section = root.section("protected_facts");
    let facts = facts(&mut section);
    root.close(section);
    Sources {
        directory,
        feeds,
        names,
        resolvers,
        facts,
    }
}

fn each_table<T>(
    root: &mut Section,
    key: &str,
    most: usize,
    read: impl Fn(&mut Section) -> Option<T>,
) -> Vec<T> {
    let values = root.array(key);
    if values.len() > most {
        root.fault(key, &format!("at most {most} of them"));
    }
    let mut all = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let name = format!("{key}[{index}]");
        let Value::Table(table) = value else {
            root.fault(&name, "expected a section");
            continue;
        };
        let mut section = Section::new(name, table);
        all.extend(read(&mut section));
        root.close(section);
    }
    all
}

fn twice<'a>(root: &mut Section, key: &str, what: &str, names: impl Iterator<Item = &'a str>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            root.fault(key, &format!("{what} \"{name}\" is there twice"));
        }
    }
}

fn feed(section: &mut Section, limits: Limits) -> Option<feed::Settings> {
    let name = required(section, "name", |name| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        ((1..=64).contains(&name.len()) && name.chars().all(is_plain))
            .then(|| name.to_owned())
            .ok_or_else(|| {
                format!("`{name}` has more than letters, digits, - and _, or more than 64 of them")
            })
    });
    let url = required(section, "url", |text| {
        let url: hyper::Uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
        let has_user = url
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'));
        if url.scheme_str() == Some("https") && url.host().is_some() && !has_user {
            Ok(url)
        } else {
            Err(format!(
                "expected https://HOST/PATH without a user, found \"{text}\""
            ))
        }
    });
    let interval = duration(section, "every", DEFAULT_FEED_INTERVAL);
    if interval < SHORTEST_FEED_INTERVAL && !section.has_faults("every") {
        section.fault("every", "at least 10s");
    }
    let timeout = duration(section, "timeout", DEFAULT_FEED_TIMEOUT);
    let most = i64::try_from(DEFAULT_MAX_BYTES).unwrap_or(i64::MAX);
    let limits = Limits {
        bytes: in_range(section.integer("max_bytes", most, 1, most)),
        entries: entries(section, "max_entries", limits.entries),
        ..limits
    };
    let delta = DeltaLimit {
        percent: in_range(section.integer("max_change_percent", DEFAULT_CHANGE_PERCENT, 0, 100)),
        entries: in_range(section.integer(
            "max_change_entries",
            DEFAULT_CHANGE_ENTRIES,
            0,
            i64::from(u32::MAX),
        )),
    };
    let signed_by = optional(section, "public_key", |text| {
        text.parse::<PublicKey>().map_err(|error| error.to_string())
    });
    let pins = section.each_string("pins", |text| {
        text.parse::<Pin>().map_err(|error| error.to_string())
    });
    let authority = section.path("authority", "");
    let has_authority = authority != PathBuf::new();
    if !pins.is_empty() && has_authority {
        section.fault(
            "pins",
            "with pins the server's key is what counts; leave authority out",
        );
    }
    let has_pins = !pins.is_empty();
    let trust = if has_pins {
        Trust::Keys(pins)
    } else if has_authority {
        Trust::Authority(authority)
    } else {
        Trust::Web
    };
    let is_faulty = section.has_faults("public_key") || section.has_faults("pins");
    if signed_by.is_none() && !has_pins && !is_faulty {
        section.fault(
            "public_key",
            "a feed decides who reaches this host, so a web certificate alone is not enough: give the public_key that signs it, or pins of the server's key",
        );
    }
    Some(feed::Settings {
        name: name?,
        url: url?,
        interval,
        timeout,
        limits,
        delta,
        signed_by,
        trust,
    })
}

fn host_name(section: &mut Section) -> Option<HostName> {
    let host = required(section, "host", |text| {
        let host = text.trim_end_matches('.').to_ascii_lowercase();
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        let is_name = host.len() <= 253 && host.contains('.') && host.split('.').all(is_label);
        let is_address = host.parse::<IpAddr>().is_ok();
        match (is_name, is_address) {
            (_, true) => Err(format!("`{text}` is an address, which belongs on a list")),
            (true, false) => Ok(host),
            (false, false) => Err(format!(
                "`{text}` is not a fully qualified host name (other alphabets as xn--)"
            )),
        }
    });
    let scope = optional(section, "scope", |text| {
        text.parse::<Scope>().map_err(|error| error.to_string())
    });
    let owner = text(section, "owner");
    let ticket = text(section, "ticket");
    let most = i64::try_from(DEFAULT_MAX_ADDRESSES).unwrap_or(i64::MAX);
    Some(HostName {
        max_addresses: in_range(section.integer("max_addresses", most, 1, 256)),
        allow_private: section.boolean("allow_private", false),
        host: host?,
        scope,
        owner,
        ticket,
    })
}

/// A text that an entry can have.
fn text(section: &mut Section, key: &str) -> Option<String> {
    optional(section, key, |text| {
        let entry = Entry {
            owner: Some(text.to_owned()),
            ..Entry::allow(IpAddr::from([0; 4]).into())
        };
        entry
            .check()
            .map(|entry| entry.owner.unwrap_or_default())
            .map_err(|_| format!("longer than {MAX_TEXT} characters, or with control characters"))
    })
}

fn facts(section: &mut Section) -> facts::Settings {
    let defaults = facts::Settings::default();
    let ports = section.array("ssh_ports");
    let is_given = !ports.is_empty() || section.boolean("ssh", true);
    let mut ssh_ports = BTreeSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        match port
            .as_integer()
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0)
        {
            Some(port) => drop(ssh_ports.insert(port)),
            None => section.fault(
                &format!("ssh_ports[{index}]"),
                &format!("expected a port, 1 to 65535, found {port}"),
            ),
        }
    }
    if ssh_ports.is_empty() && is_given {
        ssh_ports = defaults.ssh_ports;
    }
    facts::Settings {
        ssh_ports,
        gateways: section.boolean("gateways", true),
        dns: section.boolean("dns", true),
        ntp: section.boolean("ntp", true),
        interval: duration(section, "every", DEFAULT_FACTS_INTERVAL),
        root: defaults.root,
    }
}

fn optional<T>(
    section: &mut Section,
    key: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    match read(&section.string(key)?) {
        Ok(value) => Some(value),
        Err(message) => {
            section.fault(key, &message);
            None
        }
    }
}

fn required<T>(
    section: &mut Section,
    key: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let value = optional(section, key, read);
    if value.is_none() && !section.has_faults(key) {
        section.fault(key, "is missing");
    }
    value
}

fn duration(section: &mut Section, key: &str, default: &str) -> Duration {
    let text = section.string(key).unwrap_or_else(|| default.to_owned());
    match prefix::parse_duration(&text) {
        Ok(duration) => duration,
        Err(error) => {
            section.fault(key, &error.to_string());
            Duration::from_secs(1)
        }
    }
}

fn entries(section: &mut Section, key: &str, default: usize) -> usize {
    let default = i64::try_from(default).unwrap_or(i64::MAX);
    let most = i64::try_from(DEFAULT_MAX_ENTRIES).unwrap_or(i64::MAX);
    in_range(section.integer(key, default, 1, most))
}

/// Root, and the user who may write lists besides.
fn owners(section: &mut Section) -> BTreeSet<u32> {
    let mut owners = BTreeSet::from([0]);
    owners.extend(optional(section, "owner", |name| {
        user_id(name).ok_or_else(|| format!("`{name}` is not a user of this machine"))
    }));
    owners
}

fn user_id(name: &str) -> Option<u32> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const KEY: &str = "minisign:RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const PIN: &str = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn parse(text: &str) -> Result<Sources, Vec<String>> {
        Config::parse(&format!("interfaces = [\"eth0\"]\n{text}"))
            .map(|config| config.sources)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[track_caller]
    fn fault(text: &str, key: &str, words: &str) {
        let faults = parse(text).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].starts_with(&format!("{key}: ")) && faults[0].contains(words),
            "{faults:?}"
        );
    }

    #[test]
    fn without_a_word_there_are_no_lists_and_all_facts() {
        let sources = parse("").unwrap();
        assert_eq!(
            (sources.directory, sources.feeds.len(), sources.names.len()),
            (None, 0, 0)
        );
        assert_eq!(sources.facts, facts::Settings::default());
    }

    #[test]
    fn every_source_can_be_set() {
        let sources = parse(&format!(
            "[lists]\ndirectory = \"/etc/portcullis/lists.d\"\nowner = \"root\"\nquiet = \"2s\"\nresolvers = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]\n\
             [[feeds]]\nname = \"partners\"\nurl = \"https://lists.example.org/a.txt\"\npublic_key = \"{KEY}\"\nmax_change_percent = 20\n\
             [[feeds]]\nname = \"other\"\nurl = \"https://lists.example.org/b.txt\"\npins = [\"{PIN}\"]\nevery = \"5m\"\n\
             [[names]]\nhost = \"VPN.example.org.\"\nscope = \"udp/51820\"\nmax_addresses = 4\n\
             [protected_facts]\nssh_ports = [22, 2222]\nntp = false\n"
        ))
        .unwrap();
        assert_eq!(sources.directory.unwrap().quiet, Duration::from_secs(2));
        assert_eq!(sources.feeds[0].delta.percent, 20);
        assert!(matches!(sources.feeds[1].trust, Trust::Keys(_)));
        assert_eq!(
            (
                sources.names[0].host.as_str(),
                sources.names[0].max_addresses
            ),
            ("vpn.example.org", 4)
        );
        assert_eq!(sources.resolvers[1], "[2001:db8::53]:5353".parse().unwrap());
        assert_eq!(sources.facts.ssh_ports, BTreeSet::from([22, 2222]));
        assert!(!sources.facts.ntp && sources.facts.dns);
    }

    #[test]
    fn sessions_can_be_left_out_of_the_facts() {
        assert_eq!(
            parse("[protected_facts]\nssh = false\n")
                .unwrap()
                .facts
                .ssh_ports,
            BTreeSet::new()
        );
    }

    #[test]
    fn a_feed_is_proven_by_a_signature_or_a_key_and_not_by_a_certificate_alone() {
        let feed = |more: &str| {
            format!("[[feeds]]\nname = \"a\"\nurl = \"https://example.org/a.txt\"\n{more}\n")
        };
        assert!(parse(&feed(&format!("public_key = \"{KEY}\""))).is_ok());
        assert!(
            parse(&feed(&format!(
                "public_key = \"{KEY}\"\nauthority = \"/etc/ca.pem\""
            )))
            .is_ok()
        );
        assert!(parse(&feed(&format!("pins = [\"{PIN}\"]"))).is_ok());
        fault(
            &feed(""),
            "feeds[0].public_key",
            "a web certificate alone is not enough",
        );
        fault(
            &feed("authority = \"/etc/ca.pem\""),
            "feeds[0].public_key",
            "alone is not enough",
        );
        fault(
            &feed(&format!("pins = [\"{PIN}\"]\nauthority = \"/etc/ca.pem\"")),
            "feeds[0].pins",
            "leave authority out",
        );
        fault(
            &feed("public_key = \"rsa:1\""),
            "feeds[0].public_key",
            "expected \"ed25519:\"",
        );
        fault(
            &feed("pins = [\"md5//1\"]"),
            "feeds[0].pins[0]",
            "expected \"sha256//\"",
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        let feed = |name: &str, url: &str| {
            format!("[[feeds]]\nname = \"{name}\"\nurl = \"{url}\"\npublic_key = \"{KEY}\"\n")
        };
        fault(
            &feed("../a", "https://example.org/"),
            "feeds[0].name",
            "letters, digits",
        );
        fault(
            &feed("a", "http://example.org/"),
            "feeds[0].url",
            "https://",
        );
        fault(
            &feed("a", "https://u:p@example.org/"),
            "feeds[0].url",
            "without a user",
        );
        fault(
            &feed("a", "https://example.org/").repeat(2),
            "feeds",
            "\"a\" is there twice",
        );
        fault(
            &format!("{}every = \"9s\"\n", feed("a", "https://example.org/")),
            "feeds[0].every",
            "at least 10s",
        );
        fault(
            "[[names]]\nhost = \"192.0.2.7\"\n",
            "names[0].host",
            "belongs on a list",
        );
        fault(
            "[[names]]\nhost = \"localhost\"\n",
            "names[0].host",
            "fully qualified",
        );
        fault(
            "[[names]]\nscope = \"tcp/22\"\n",
            "names[0].host",
            "is missing",
        );
        fault(
            "[[names]]\nhost = \"a.example\"\nscope = \"ssh\"\n",
            "names[0].scope",
            "not a protocol",
        );
        fault(
            "[lists]\ndirectory = \"lists\"\n",
            "lists.directory",
            "absolute path",
        );
        fault(
            "[lists]\nowner = \"no-such-user-here\"\n",
            "lists.owner",
            "not a user",
        );
        fault(
            "[lists]\nresolvers = [\"dns.example\"]\n",
            "lists.resolvers[0]",
            "ADDRESS:PORT",
        );
        fault(
            "[protected_facts]\nssh_ports = [0]\n",
            "protected_facts.ssh_ports[0]",
            "1 to 65535",
        );
        fault(
            "[protected_facts]\ncolour = \"red\"\n",
            "protected_facts.colour",
            "unknown key",
        );
    }
}
