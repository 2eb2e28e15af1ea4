//! Rate limits, scopes and monitoring, by what comes through over a wire.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use portcullis_agent::{
    datapath::{Datapath as _, MonitoredSet, RateLimit, Settings, mode::TableChoice},
    rule::{Action, Rule},
};
use portcullis_tests::netns::Namespace;

use crate::{
    flows::{begin_to_connect, rule},
    loaded::Loaded,
    stage::{ADMIN, GATEWAY, PARTNER, STRANGER, Wire, address},
};

fn enforce(wire: &Wire, rules: &[Rule], settings: &Settings) -> Loaded {
    let mut loaded = Loaded::on(&["gw0"], TableChoice::Compiled).unwrap();
    loaded.datapath.switch(rules.into(), settings).unwrap();
    wire.gateway.inside(|| loaded.datapath.tend()).unwrap();
    assert!(wire.attached().is_some());
    loaded
}

fn socket(namespace: &Namespace, local: &str, port: u16) -> UdpSocket {
    let socket = namespace
        .inside(|| UdpSocket::bind(SocketAddr::new(address(local), port)))
        .unwrap()
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    socket
}

/// How many of these packets come through.
fn passed(wire: &Wire, from: &str, port: u16, count: usize) -> usize {
    let receiver = socket(&wire.gateway, GATEWAY, port);
    let sender = socket(&wire.outside, from, 0);
    let to = receiver.local_addr().unwrap();
    let mut passed = 0;
    for sent in 1..=count {
        sender.send_to(&[0; 32], to).unwrap();
        // A socket's buffer would not hold all of them.
        if sent % 10 == 0 {
            receiver.set_nonblocking(true).unwrap();
            while receiver.recv(&mut [0; 64]).is_ok() {
                passed += 1;
            }
        }
    }
    receiver.set_nonblocking(false).unwrap();
    while receiver.recv(&mut [0; 64]).is_ok() {
        passed += 1;
    }
    passed
}

#[test]
fn connections_are_limited_apart_from_packets() {
    let wire = Wire::new();
    let rules = [
        rule(ADMIN, Action::Protect),
        rule(PARTNER, Action::Allow(None)),
    ];
    let limited = Settings {
        rate: Some(RateLimit {
            packets_per_second: 0,
            syns_per_second: 3,
        }),
        ..Settings::default()
    };
    let loaded = enforce(&wire, &rules, &limited);
    let to = SocketAddr::new(address(GATEWAY), 22);
    let connect = |from: &str| {
        let clients: Vec<_> = (0..20)
            .map(|_| begin_to_connect(&wire.outside, from, 0, to))
            .collect();
        let dropped = loaded.datapath.counters().unwrap().dropped["syn_rate_limited"];
        drop(clients);
        dropped
    };
    assert_eq!(connect(ADMIN), 0);
    assert!(connect(PARTNER) >= 10);
    assert_eq!(
        passed(&wire, PARTNER, 4000, 200),
        200,
        "other packets go on"
    );
}

#[test]
fn an_allowed_source_is_limited_and_a_protected_one_is_not() {
    let wire = Wire::new();
    let rules = [
        rule(ADMIN, Action::Protect),
        rule(PARTNER, Action::Allow(None)),
    ];
    let limited = Settings {
        rate: Some(RateLimit {
            packets_per_second: 50,
            syns_per_second: 0,
        }),
        ..Settings::default()
    };
    let mut loaded = enforce(&wire, &rules, &limited);
    assert_eq!(passed(&wire, ADMIN, 4000, 200), 200);
    let through = passed(&wire, PARTNER, 4000, 200);
    assert!((50..150).contains(&through), "{through}");
    let counters = loaded.datapath.counters().unwrap();
    assert!(counters.dropped["rate_limited"] >= 50);

    loaded
        .datapath
        .switch(rules.into(), &Settings::default())
        .unwrap();
    assert_eq!(passed(&wire, PARTNER, 4000, 200), 200, "without a limit");
}

#[test]
fn a_scope_lets_its_port_in_and_not_the_next_one() {
    let wire = Wire::new();
    let scope = Arc::new("udp/4000,tcp/22".parse().unwrap());
    let rules = [
        rule(ADMIN, Action::Protect),
        rule(PARTNER, Action::Allow(Some(scope))),
    ];
    let loaded = enforce(&wire, &rules, &Settings::default());
    assert_eq!(passed(&wire, PARTNER, 4000, 20), 20);
    assert_eq!(passed(&wire, PARTNER, 4001, 20), 0);
    assert_eq!(passed(&wire, PARTNER, 22, 20), 0, "UDP to a port of TCP");
    let counters = loaded.datapath.counters().unwrap();
    assert_eq!(counters.dropped["out_of_scope"], 40);
}

#[test]
fn an_interface_that_is_monitored_by_name_drops_nothing_and_another_does() {
    let wire = Wire::new();
    let rules = [rule(ADMIN, Action::Protect)];
    let monitored = |name: &str| Settings {
        monitored: MonitoredSet::Interfaces(vec![name.to_owned()]),
        ..Settings::default()
    };
    let mut loaded = Loaded::on(&["gw0"], TableChoice::Compiled).unwrap();
    for (name, through) in [("gw0", 20), ("lo", 0)] {
        // Names mean interfaces of the namespace that the datapath works in.
        wire.gateway
            .inside(|| {
                loaded
                    .datapath
                    .switch(rules.as_slice().into(), &monitored(name))
                    .unwrap();
                loaded.datapath.tend();
            })
            .unwrap();
        assert_eq!(passed(&wire, STRANGER, 4000, 20), through, "{name}");
    }
    let counters = loaded.datapath.counters().unwrap();
    assert!(counters.would_drop["not_listed"] >= 20);
    assert!(counters.dropped["not_listed"] >= 20);
}
