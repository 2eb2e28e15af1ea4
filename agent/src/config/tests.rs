use super::*;
use crate::datapath::{MonitoredSet, RateLimit};

const SAMPLE: &str = include_str!("../../../deploy/portcullis-agent.toml");

fn faults(text: &str) -> Vec<String> {
    Config::parse(text)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_file_with_interfaces_only_has_every_default() {
    let config = Config::parse("interfaces = [\"eth0\"]").unwrap();
    assert_eq!(config.control.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(
        config.journal.directory,
        Path::new("/var/lib/portcullis/agent/journal")
    );
    assert_eq!(config.metrics, Some(DEFAULT_METRICS.parse().unwrap()));
    assert_eq!(config.datapath, datapath::Settings::default());
}

#[test]
fn the_sample_file_is_valid_and_its_settings_are_the_defaults() {
    let sample = Config::parse(SAMPLE).unwrap();
    let mut plain = Config::parse("interfaces = [\"eth0\"]").unwrap();
    plain.protected = sample.protected.clone();
    assert_eq!(sample, plain);
}

#[test]
fn all_faults_are_listed_at_once_with_their_keys() {
    let text = r#"
        interfaces = ["eth0", "lo", "name-that-is-too-long"]
        mode = "fast"
        monitor = "yes"
            table = "trie"
        surprise = 1
        protected = ["192.0.2.10/24", "192.0.2.1"]
        [control]
        socket = "relative.sock"
        admin_groups = ["no-such-group-here", -1]
        colour = "red"
        [bans]
        max_lifetime = "1 day"
        widest_ipv4 = 33
        never = ["198.51.100.1/24"]
        [guard]
        max_cut_flows = -1
        [control.tcp]
        certificate = "/etc/cert.pem"
        client_ca = "ca.pem"
        admins = ["ops"]
        [events]
        sample_one_in = 3
        [metrics]
        listen = "everywhere"
        [extra]
        key = 1
    "#;
    let faults = faults(text);
    for (key, words) in [
        ("interfaces[1]", "loopback"),
        ("interfaces[2]", "not an interface name"),
        ("mode", "\"native\", \"require-native\" or \"generic\""),
        ("monitor", "expected true or false"),
        ("table", "\"compiled\" or \"lpm\""),
        ("bans.never[0]", "did you mean"),
        ("guard.max_cut_flows", "whole number"),
        ("control.tcp.listen", "ADDRESS:PORT"),
        ("control.tcp.key", "PEM"),
        ("control.tcp.client_ca", "absolute path"),
        ("control.tcp.admins[0]", "CN=NAME"),
        ("surprise", "unknown key"),
        ("protected[0]", "did you mean 192.0.2.0/24?"),
        ("control.socket", "absolute path"),
        ("control.admin_groups[0]", "group"),
        ("control.admin_groups[1]", "group"),
        ("control.colour", "unknown key"),
        ("bans.max_lifetime", "duration"),
        ("bans.widest_ipv4", "8 to 32"),
        ("events.sample_one_in", "power of two"),
        ("metrics.listen", "ADDRESS:PORT"),
        ("extra", "unknown key"),
    ] {
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with(&format!("{key}: ")) && fault.contains(words)),
            "{key} with `{words}` in {faults:#?}"
        );
    }
    assert_eq!(faults.len(), 22, "{faults:#?}");
}

#[test]
fn no_interface_twice_and_none_at_all_are_faults() {
    assert_eq!(faults("").len(), 1);
    assert_eq!(faults("interfaces = []").len(), 1);
    assert_eq!(faults("interfaces = [\"a\", \"a\"]").len(), 1);
    assert!(Config::parse("interfaces = [\"a\", \"b\"]").is_ok());
}

#[test]
fn what_is_not_toml_is_one_fault_with_its_place() {
    let faults = faults("interfaces = [\"eth0\"\nmode");
    assert_eq!(faults.len(), 1);
    assert!(faults[0].contains("line"), "{faults:?}");
}

#[test]
fn groups_have_names_or_numbers() {
    let config =
        Config::parse("interfaces = [\"eth0\"]\n[control]\nadmin_groups = [\"root\", 1234]")
            .unwrap();
    assert_eq!(config.control.admin_groups, BTreeSet::from([0, 1234]));
}

#[test]
fn monitoring_is_for_all_interfaces_or_for_those_that_are_named() {
    let monitored = |value: &str| {
        Config::parse(&format!("interfaces = [\"a\", \"b\"]\nmonitor = {value}"))
            .map(|config| config.datapath.monitored)
    };
    assert_eq!(monitored("true"), Ok(MonitoredSet::All));
    assert_eq!(monitored("[]"), Ok(MonitoredSet::None));
    assert_eq!(
        monitored("[\"b\"]"),
        Ok(MonitoredSet::Interfaces(vec!["b".to_owned()]))
    );
    assert!(monitored("[\"c\"]").is_err());
}

#[test]
fn a_rate_of_zero_is_no_limit() {
    let rate = |text: &str| {
        Config::parse(&format!("interfaces = [\"a\"]\n[rate_limit]\n{text}"))
            .unwrap()
            .datapath
            .rate
    };
    assert_eq!(rate(""), None);
    assert_eq!(rate("packets_per_second = 0"), None);
    assert_eq!(
        rate("syns_per_second = 5"),
        Some(RateLimit {
            packets_per_second: 0,
            syns_per_second: 5
        })
    );
}

#[test]
fn tcp_needs_every_file_and_gives_roles_by_names() {
    let text = "interfaces = [\"a\"]\n[control.tcp]\nlisten = \"192.0.2.1:9465\"\ncertificate = \"/c\"\nkey = \"/k\"\nclient_ca = \"/a\"\nadmins = [\"CN=ops\"]";
    let tcp = Config::parse(text).unwrap().control.tcp.unwrap();
    assert_eq!(tcp.admins, BTreeSet::from(["CN=ops".to_owned()]));
    assert!(Config::parse(&text.replace("key =", "# key =")).is_err());
}
