use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;

struct Machine(TempDir);

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let machine = Self(TempDir::new().unwrap());
        for (path, text) in files {
            machine.write(path, text);
        }
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, text).unwrap();
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::new(Settings {
            ssh_ports: BTreeSet::new(),
            gateways: false,
            root: self.0.path().to_owned(),
            ..Settings::default()
        });
        facts.refresh();
        facts
    }

    fn told(&self) -> Vec<String> {
        self.facts()
            .all()
            .map(|fact| format!("{}: {}", fact.address, fact.origin))
            .collect()
    }
}

#[test]
fn dns_servers_are_those_of_resolv_conf() {
    let machine = Machine::new(&[(
        "etc/resolv.conf",
        "# nameserver 203.0.113.1\nsearch example.org\nnameserver 192.0.2.53\nnameserver\tfe80::53%eth0\nnameserver nonsense\nnameservers 192.0.2.54\n",
    )]);
    assert_eq!(
        machine.told(),
        [
            "192.0.2.53: DNS server (/etc/resolv.conf)",
            "fe80::53: DNS server (/etc/resolv.conf)"
        ]
    );
}

#[test]
fn behind_the_stub_of_resolved_are_its_own_servers() {
    let machine = Machine::new(&[
        ("etc/resolv.conf", "nameserver 127.0.0.53\n"),
        ("run/systemd/resolve/resolv.conf", "nameserver 192.0.2.53\n"),
    ]);
    assert_eq!(
        machine.told(),
        ["192.0.2.53: DNS server (/run/systemd/resolve/resolv.conf)"]
    );
    // Of another server on this host nobody knows whom it asks, and loopback is not protected for it.
    fs::remove_dir_all(machine.0.path().join("run")).unwrap();
    assert!(machine.told().is_empty());
}

#[test]
fn ntp_servers_count_if_they_are_given_by_address() {
    let machine = Machine::new(&[
        (
            "etc/chrony/chrony.conf",
            "pool 2.debian.pool.ntp.org iburst\nserver 192.0.2.123 iburst\n! server 192.0.2.1\n",
        ),
        ("etc/chrony/sources.d/local.sources", "peer 2001:db8::123\n"),
        ("etc/chrony/sources.d/local.off", "peer 192.0.2.2\n"),
        (
            "etc/ntp.conf",
            "server -4 192.0.2.124 prefer\nserver 127.127.1.0\nrestrict 192.0.2.3\n",
        ),
        (
            "etc/systemd/timesyncd.conf",
            "[Time]\n#NTP=192.0.2.4\nNTP=192.0.2.125 time.example.org\nFallbackNTP = 192.0.2.126\n",
        ),
    ]);
    let addresses: Vec<String> = machine
        .facts()
        .all()
        .map(|fact| fact.address.to_string())
        .collect();
    assert_eq!(
        addresses,
        [
            "192.0.2.123",
            "192.0.2.124",
            "192.0.2.125",
            "192.0.2.126",
            "2001:db8::123"
        ]
    );
}

#[test]
fn what_can_not_be_read_any_more_keeps_what_was_read() {
    let machine = Machine::new(&[("etc/resolv.conf", "nameserver 192.0.2.53\n")]);
    let mut facts = machine.facts();
    fs::remove_file(machine.0.path().join("etc/resolv.conf")).unwrap();
    fs::create_dir(machine.0.path().join("etc/resolv.conf")).unwrap();
    assert!(!facts.refresh());
    assert_eq!(facts.all().count(), 1);
    assert!(
        facts.problems()[0].contains("can't be read"),
        "{:?}",
        facts.problems()
    );
    fs::remove_dir(machine.0.path().join("etc/resolv.conf")).unwrap();
    assert!(facts.refresh(), "a file that is gone names nobody");
    assert_eq!((facts.all().count(), facts.problems().len()), (0, 0));
}

#[test]
fn mapped_addresses_are_ipv4_and_those_of_nobody_else_are_left_out() {
    let machine = Machine::new(&[(
        "etc/resolv.conf",
        "nameserver ::ffff:192.0.2.53\nnameserver 0.0.0.0\nnameserver ::1\nnameserver 224.0.0.1\n",
    )]);
    assert_eq!(
        machine.told(),
        ["192.0.2.53: DNS server (/etc/resolv.conf)"]
    );
}

#[test]
fn there_is_a_most_of_each_kind() {
    let lines = |count: u32| -> String {
        (0..count)
            .map(|index| {
                format!(
                    "nameserver {}\n",
                    std::net::Ipv4Addr::from(0xc633_6400 + index)
                )
            })
            .collect()
    };
    let most = u32::try_from(MAX_OF_A_KIND).unwrap();
    let machine = Machine::new(&[("etc/resolv.conf", &lines(most))]);
    assert_eq!(
        (
            machine.facts().all().count(),
            machine.facts().problems().len()
        ),
        (MAX_OF_A_KIND, 0)
    );
    machine.write("etc/resolv.conf", &lines(most + 1));
    assert_eq!(
        (
            machine.facts().all().count(),
            machine.facts().problems().len()
        ),
        (MAX_OF_A_KIND, 1)
    );
}

#[test]
fn facts_about_one_network_leave_the_sessions_of_others_as_they_were() {
    let machine = Machine::new(&[]);
    let mut facts = machine.facts();
    // Nobody is connected to this port, so whoever is looked for is gone.
    facts.settings.ssh_ports = BTreeSet::from([1]);
    facts.facts = ["192.0.2.7", "198.51.100.7"]
        .into_iter()
        .map(|address| Fact {
            address: address.parse().unwrap(),
            origin: Origin::Ssh { port: 1 },
        })
        .collect();
    assert!(facts.refresh_about(&"192.0.2.0/24".parse().unwrap()));
    let left: Vec<String> = facts.all().map(|fact| fact.address.to_string()).collect();
    assert_eq!(left, ["198.51.100.7"]);
    assert!(facts.refresh(), "now everybody is looked for");
    assert_eq!(facts.all().count(), 0);
}
