use std::path::PathBuf;

use super::*;
use crate::{
    doctor::{
        Severity,
        ethtool::{Channels, Features},
        program::Program,
    },
    interface::Attached,
};

fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mtu: 1500,
        kind: kind.map(str::to_owned),
        master: None,
        lower: None,
        is_up: true,
        has_carrier: true,
        is_loopback: false,
        is_ethernet: true,
        rx_queues: 1,
        attached: None,
        parent: None,
    }
}

/// A card with nothing to find fault with.
fn card() -> Observation {
    let link = link(2, "eth0", None);
    Observation {
        links: vec![link.clone()],
        link,
        driver: Some("mlx5_core".to_owned()),
        features: Some(Features::new()),
        channels: Some(Channels {
            combined: 4,
            combined_max: 8,
            ..Channels::default()
        }),
        xdp_features: Some(XDP_BASIC),
        program: None,
        host: Host {
            release: "6.12.1".to_owned(),
            version: (6, 12),
            cpus: 4,
            bpf_fs: BpfFs::Mounted,
            jit: Some(1),
            memlock: Some(65536),
            is_root: true,
        },
    }
}

fn with(change: impl FnOnce(&mut Observation)) -> Observation {
    let mut observation = card();
    change(&mut observation);
    observation
}

/// An interface that sits on, or has below it, the others.
fn placed(link: Link, others: Vec<Link>) -> Observation {
    with(|observation| {
        observation.driver = None;
        observation.links = [vec![link.clone()], others].concat();
        observation.link = link;
    })
}

/// Asserts that the topic has a finding of this severity with these words, and this in its fix.
#[track_caller]
fn finds(
    observation: &Observation,
    mode: AttachMode,
    severity: Severity,
    topic: &str,
    words: &str,
    fix: &str,
) {
    let findings = judge(observation, mode);
    assert!(
        findings.iter().any(|finding| {
            finding.severity == severity
                && finding.topic == topic
                && finding.message.contains(words)
                && finding.fix.as_deref().unwrap_or_default().contains(fix)
        }),
        "{severity} {topic} `{words}` `{fix}` in {findings:#?}"
    );
}

#[track_caller]
fn native(observation: &Observation, severity: Severity, topic: &str, words: &str, fix: &str) {
    finds(observation, AttachMode::Native, severity, topic, words, fix);
}

#[test]
fn a_good_card_has_nothing_that_needs_mending() {
    for finding in judge(&card(), AttachMode::Native) {
        assert!(finding.severity <= Severity::Info, "{finding:?}");
        assert_eq!(finding.fix, None, "{finding:?}");
    }
}

#[test]
fn what_the_driver_says_of_native_xdp_counts_before_what_is_known() {
    native(
        &card(),
        Severity::Ok,
        "native",
        "mlx5_core (XDP features 0x1)",
        "",
    );
    let without = with(|observation| observation.xdp_features = Some(0));
    native(
        &without,
        Severity::Warning,
        "native",
        "no native XDP on eth0",
        "",
    );
    finds(
        &without,
        AttachMode::RequireNative,
        Severity::Blocker,
        "native",
        "require-native",
        "mode = \"native\"",
    );
    finds(
        &without,
        AttachMode::Generic,
        Severity::Info,
        "native",
        "in the network stack",
        "",
    );
    let offload = with(|observation| observation.xdp_features = Some(XDP_BASIC | XDP_OFFLOAD));
    native(
        &offload,
        Severity::Ok,
        "native",
        "offload to the card is not used",
        "",
    );
}

#[test]
fn an_older_kernel_is_judged_by_driver_and_version() {
    let old = |driver: &str, version| {
        with(|observation| {
            observation.xdp_features = None;
            observation.driver = Some(driver.to_owned());
            observation.host.version = version;
        })
    };
    native(
        &old("igc", (5, 13)),
        Severity::Ok,
        "native",
        "from Linux 5.13 on",
        "",
    );
    native(
        &old("igc", (5, 12)),
        Severity::Warning,
        "native",
        "from Linux 5.13 on",
        "",
    );
    native(
        &old("e1000e", (6, 1)),
        Severity::Warning,
        "native",
        "is not known",
        "",
    );
}

#[test]
fn the_largest_mtu_fits_and_one_more_does_not() {
    let mtu = |mtu| with(|observation| observation.link.mtu = mtu);
    native(&mtu(3498), Severity::Ok, "mtu", "3498", "");
    native(
        &mtu(3499),
        Severity::Warning,
        "mtu",
        "3499 is more than",
        "ip link set dev eth0 mtu 3498",
    );
    finds(
        &mtu(9000),
        AttachMode::RequireNative,
        Severity::Blocker,
        "mtu",
        "9000",
        "mtu 3498",
    );
    assert!(
        judge(&mtu(9000), AttachMode::Generic)
            .iter()
            .all(|finding| finding.topic != "mtu")
    );
}

#[test]
fn what_has_a_better_place_is_told_it() {
    let vlan = Link {
        lower: Some(2),
        ..link(3, "eth0.7", Some("vlan"))
    };
    let eth0 = link(2, "eth0", None);
    native(
        &placed(vlan.clone(), vec![eth0.clone()]),
        Severity::Warning,
        "placement",
        "eth0.7 is a vlan on eth0",
        "interfaces = [\"eth0\"]",
    );
    native(
        &placed(eth0.clone(), vec![vlan]),
        Severity::Info,
        "placement",
        "frames of eth0.7 arrive through eth0",
        "",
    );
    let macvlan = Link {
        lower: Some(2),
        ..link(3, "mv0", Some("macvlan"))
    };
    native(
        &placed(macvlan, vec![eth0.clone()]),
        Severity::Warning,
        "placement",
        "mv0 is a macvlan on eth0",
        "interfaces = [\"eth0\"]",
    );
    // The interface below may be in another namespace.
    let orphan = Link {
        lower: Some(9),
        ..link(3, "eth0.7", Some("vlan"))
    };
    native(
        &placed(orphan, vec![]),
        Severity::Warning,
        "placement",
        "on the interface below",
        "",
    );

    let bridge = link(5, "br0", Some("bridge"));
    let port = Link {
        master: Some(5),
        ..eth0.clone()
    };
    native(
        &placed(bridge.clone(), vec![port.clone()]),
        Severity::Warning,
        "placement",
        "the port that faces the network (eth0)",
        "",
    );
    native(
        &placed(port, vec![bridge]),
        Severity::Warning,
        "placement",
        "machines behind the bridge are judged too",
        "",
    );

    let tunnel = Link {
        is_ethernet: false,
        ..link(6, "wg0", Some("wireguard"))
    };
    native(
        &placed(tunnel, vec![]),
        Severity::Blocker,
        "placement",
        "wg0 has no Ethernet frames (wireguard)",
        "",
    );
    let lo = Link {
        is_loopback: true,
        is_ethernet: false,
        ..link(1, "lo", None)
    };
    native(
        &placed(lo, vec![]),
        Severity::Blocker,
        "placement",
        "loopback has no strangers",
        "",
    );
}

#[test]
fn the_program_belongs_on_the_bond_from_the_kernel_on_that_can_do_it() {
    let bond = link(5, "bond0", Some("bond"));
    let slaves = ["eth0", "eth1"].map(|name| Link {
        master: Some(5),
        ..link(2, name, None)
    });
    let mut on_bond = placed(bond.clone(), slaves.to_vec());
    let mut on_slave = placed(slaves[0].clone(), vec![bond]);
    native(
        &on_bond,
        Severity::Ok,
        "placement",
        "onto its slaves (eth0, eth1)",
        "",
    );
    native(
        &on_slave,
        Severity::Warning,
        "placement",
        "a slave of the bond bond0",
        "interfaces = [\"bond0\"]",
    );
    on_bond.host.version = (5, 14);
    on_slave.host.version = (5, 14);
    native(
        &on_bond,
        Severity::Warning,
        "placement",
        "put it on the slaves: eth0, eth1",
        "",
    );
    native(
        &on_slave,
        Severity::Ok,
        "placement",
        "name the other slaves too",
        "",
    );
}

#[test]
fn another_program_is_a_blocker_that_says_whose_it_is_and_our_own_is_none() {
    let occupied = |name: Option<&str>, pins: &[&str]| {
        with(|observation| {
            observation.link.attached = Some(Attached {
                program: 7,
                mode: AttachedMode::Native,
            });
            observation.program = Some(Program {
                id: 7,
                name: name.map(str::to_owned),
                mode: AttachedMode::Native,
                pins: pins.iter().map(PathBuf::from).collect(),
            });
        })
    };
    native(
        &occupied(Some("xdp_dispatcher"), &[]),
        Severity::Blocker,
        "program",
        "XDP program 7 (xdp_dispatcher), native",
        "xdp-loader unload eth0",
    );
    native(
        &occupied(Some("cil_xdp_entry"), &[]),
        Severity::Blocker,
        "program",
        "cil_xdp_entry",
        "Cilium",
    );
    native(
        &occupied(Some("count"), &["/sys/fs/bpf/count"]),
        Severity::Blocker,
        "program",
        "pinned at /sys/fs/bpf/count",
        "rm /sys/fs/bpf/count",
    );
    native(
        &occupied(None, &[]),
        Severity::Blocker,
        "program",
        "ask as root",
        "ip link set dev eth0 xdp off",
    );
    for own in [agent_ebpf::layout::PROGRAM, agent_ebpf::layout::LPM_PROGRAM] {
        native(
            &occupied(Some(own), &[]),
            Severity::Ok,
            "program",
            "this agent's own",
            "",
        );
    }
    native(&card(), Severity::Ok, "program", "no other XDP program", "");
}

#[test]
fn offloads_that_disturb_are_named_with_the_command_that_ends_them() {
    let on = |name: &str, can_change| {
        with(|observation| {
            let feature = Feature {
                is_on: true,
                can_change,
            };
            observation.features = Some(Features::from([(name.to_owned(), feature)]));
        })
    };
    native(
        &on("rx-lro", true),
        Severity::Warning,
        "lro",
        "LRO is on",
        "ethtool -K eth0 lro off",
    );
    native(
        &on("rx-lro", false),
        Severity::Warning,
        "lro",
        "doesn't let it be turned off",
        "",
    );
    native(
        &on("rx-gro-hw", true),
        Severity::Warning,
        "rx-gro-hw",
        "hardware GRO is on",
        "ethtool -K eth0 rx-gro-hw off",
    );
    native(
        &on("rx-vlan-hw-parse", true),
        Severity::Info,
        "rxvlan",
        "takes the outer VLAN tag off",
        "ethtool -K eth0 rxvlan off",
    );
    native(&card(), Severity::Ok, "lro", "off", "");
    native(&card(), Severity::Ok, "rxvlan", "tags stay", "");
}

#[test]
fn fewer_queues_than_cpus_are_too_few_only_if_more_are_possible() {
    let queues = |combined, combined_max| {
        with(|observation| {
            observation.channels = Some(Channels {
                combined,
                combined_max,
                ..Channels::default()
            })
        })
    };
    native(
        &queues(1, 8),
        Severity::Warning,
        "queues",
        "1 receive queues for 4 CPUs",
        "ethtool -L eth0 combined 4",
    );
    native(
        &queues(2, 2),
        Severity::Ok,
        "queues",
        "2 receive queues",
        "",
    );
    let split = with(|observation| {
        observation.channels = Some(Channels {
            rx: 1,
            rx_max: 2,
            ..Channels::default()
        })
    });
    native(
        &split,
        Severity::Warning,
        "queues",
        "1 receive queues",
        "ethtool -L eth0 rx 2",
    );
    let mut ena = queues(8, 8);
    ena.driver = Some("ena".to_owned());
    native(
        &ena,
        Severity::Warning,
        "queues",
        "half of its channels",
        "ethtool -L eth0 combined 4",
    );
    ena.channels = Some(Channels {
        combined: 4,
        combined_max: 8,
        ..Channels::default()
    });
    assert!(
        judge(&ena, AttachMode::Native)
            .iter()
            .all(|finding| finding.severity < Severity::Warning)
    );
    let unhashed = with(|observation| {
        let off = Feature {
            is_on: false,
            can_change: true,
        };
        observation.features = Some(Features::from([("rx-hashing".to_owned(), off)]));
    });
    native(
        &unhashed,
        Severity::Warning,
        "rss",
        "receive hashing is off",
        "rxhash on",
    );
}

#[test]
fn drivers_that_reset_the_link_are_told_before_and_others_are_not() {
    native(
        &card(),
        Severity::Info,
        "attach",
        "mlx5_core resets the device",
        "",
    );
    let veth = placed(link(2, "veth0", Some("veth")), vec![]);
    native(&veth, Severity::Ok, "attach", "doesn't disturb", "");
}

#[test]
fn a_host_that_can_not_run_the_agent_is_told_why() {
    let host = |change: fn(&mut Host)| with(|observation| change(&mut observation.host));
    native(
        &host(|host| host.version = (5, 14)),
        Severity::Blocker,
        "kernel",
        "needs 5.15",
        "",
    );
    native(
        &host(|host| host.version = (5, 15)),
        Severity::Ok,
        "kernel",
        "clsact",
        "",
    );
    native(
        &host(|host| host.bpf_fs = BpfFs::ReadOnly),
        Severity::Blocker,
        "bpffs",
        "read-only",
        "remount,rw",
    );
    native(
        &host(|host| host.bpf_fs = BpfFs::Missing),
        Severity::Info,
        "bpffs",
        "the agent mounts it",
        "mount -t bpf",
    );
    native(
        &host(|host| host.jit = Some(0)),
        Severity::Warning,
        "jit",
        "interpreted",
        "bpf_jit_enable=1",
    );
    native(
        &host(|host| host.is_root = false),
        Severity::Info,
        "rights",
        "not asked as root",
        "",
    );
}
