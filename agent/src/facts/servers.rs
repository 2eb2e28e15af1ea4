//! DNS and NTP servers, as far as configuration files name them by address. Servers given by name belong on a list of host names.

use std::{fs, net::IpAddr};

use super::{Fact, Origin, Settings, read};

/// Where systemd-resolved writes the servers that it asks itself.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Files of chrony and of both NTP daemons: `server`, `peer` and `pool` lines.
const NTP_FILES: [&str; 4] = [
    "/etc/chrony/chrony.conf",
    "/etc/chrony.conf",
    "/etc/ntpsec/ntp.conf",
    "/etc/ntp.conf",
];
const NTP_DIRECTORIES: [(&str, &str); 4] = [
    ("/etc/chrony/conf.d", "conf"),
    ("/etc/chrony/sources.d", "sources"),
    ("/etc/chrony.d", "conf"),
    ("/run/chrony-dhcp", "sources"),
];
const TIMESYNCD: &str = "/etc/systemd/timesyncd.conf";
const TIMESYNCD_DIRECTORIES: [&str; 2] = [
    "/etc/systemd/timesyncd.conf.d",
    "/run/systemd/timesyncd.conf.d",
];
/// Files of one directory that are read.
const MAX_FILES: usize = 64;

pub(super) fn dns(settings: &Settings) -> Result<Vec<Fact>, String> {
    let mut file = RESOLV_CONF;
    let mut servers = name_servers(&read(settings, file)?.unwrap_or_default());
    // A server on this host asks others; only resolved tells whom.
    if servers.iter().any(IpAddr::is_loopback)
        && let Some(text) = read(settings, RESOLVED)?
    {
        file = RESOLVED;
        servers = name_servers(&text);
    }
    let origin = Origin::Dns {
        file: file.to_owned(),
    };
    Ok(facts(servers, &origin))
}

fn name_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver"))
                .then(|| words.next())
                .flatten()
        })
        .filter_map(address)
        .collect()
}

pub(super) fn ntp(settings: &Settings) -> Result<Vec<Fact>, String> {
    let mut all = Vec::new();
    let mut files: Vec<String> = NTP_FILES.map(str::to_owned).to_vec();
    for (directory, ending) in NTP_DIRECTORIES {
        files.extend(list(settings, directory, ending));
    }
    for file in files {
        let text = read(settings, &file)?.unwrap_or_default();
        all.extend(facts(ntp_servers(&text), &Origin::Ntp { file }));
    }
    let mut files = vec![TIMESYNCD.to_owned()];
    for directory in TIMESYNCD_DIRECTORIES {
        files.extend(list(settings, directory, "conf"));
    }
    for file in files {
        let text = read(settings, &file)?.unwrap_or_default();
        all.extend(facts(timesyncd_servers(&text), &Origin::Ntp { file }));
    }
    Ok(all)
}

fn ntp_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            matches!(words.next(), Some("server" | "peer" | "pool"))
                .then(|| words.find(|word| !word.starts_with('-')))
                .flatten()
        })
        .filter_map(address)
        .collect()
}

fn timesyncd_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(key, _)| matches!(key.trim(), "NTP" | "FallbackNTP"))
        .flat_map(|(_, servers)| servers.split_whitespace())
        .filter_map(address)
        .collect()
}

/// An address, without the zone that a link-local one has.
fn address(word: &str) -> Option<IpAddr> {
    let word = word.split('%').next().unwrap_or_default();
    // The reference clocks of ntpd have loopback addresses; those are left out with all others of loopback.
    word.trim_matches(['[', ']']).parse().ok()
}

fn facts(servers: Vec<IpAddr>, origin: &Origin) -> Vec<Fact> {
    servers
        .into_iter()
        .map(|address| Fact {
            address,
            origin: origin.clone(),
        })
        .collect()
}

/// The files of a directory with this ending, as paths from the root; none if it can't be listed.
fn list(settings: &Settings, directory: &str, ending: &str) -> Vec<String> {
    let path = settings.root.join(directory.trim_start_matches('/'));
    let Ok(files) = fs::read_dir(path) else {
        return Vec::new();
    };
    let mut names: Vec<String> = files
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name.rsplit_once('.')
                .is_some_and(|(_, found)| found == ending)
        })
        .map(|name| format!("{directory}/{name}"))
        .collect();
    names.sort();
    names.truncate(MAX_FILES);
    names
}
