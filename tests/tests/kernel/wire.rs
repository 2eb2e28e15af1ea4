//! Who gets through over a real wire, and what is counted.

use std::process::Output;

use portcullis_tests::process::{PATIENCE, finish_within, wait_for};
use serde_json::Value;

use crate::stage::{
    ADMIN, ADMIN_NEIGHBOUR, GATEWAY, GATEWAY6, PARTNER, PARTNER6, STRANGER, STRANGER6, Wire,
};

fn ping(wire: &Wire, from: &str) -> Output {
    let gateway = if from.contains(':') {
        GATEWAY6
    } else {
        GATEWAY
    };
    let mut command = wire.outside.command("ping");
    command.args(["-c", "2", "-i", "0.2", "-W", "1", "-I", from, gateway]);
    finish_within(&mut command, PATIENCE).unwrap()
}

pub(crate) fn gets_through(wire: &Wire, from: &str) -> bool {
    ping(wire, from).status.success()
}

#[test]
fn the_allowed_and_the_protected_get_through_and_strangers_do_not() {
    let wire = Wire::new();
    assert!(
        gets_through(&wire, STRANGER) && gets_through(&wire, STRANGER6),
        "without an agent anyone does"
    );
    let agent = wire.agent();
    // The outside's own multicast reports come uninvited, and are dropped too.
    let before = agent.dropped("not_listed").unwrap();
    for from in [PARTNER, PARTNER6, ADMIN] {
        assert!(gets_through(&wire, from), "{from}");
    }
    for from in [STRANGER, STRANGER6, ADMIN_NEIGHBOUR] {
        assert!(!gets_through(&wire, from), "{from}");
    }
    assert!(agent.dropped("not_listed").unwrap() >= before + 6);
    let status = agent.status().unwrap();
    assert_eq!(
        status.pointer("/interfaces/0/mode").and_then(Value::as_str),
        Some("native")
    );
    assert!(
        status
            .pointer("/counters/passed/allowed")
            .and_then(Value::as_u64)
            .unwrap()
            >= 4
    );
    assert_eq!(
        status
            .pointer("/counters/passed/protected")
            .and_then(Value::as_u64),
        Some(2)
    );
}

#[test]
fn an_addition_lets_in_and_a_removal_cuts_off() {
    let wire = Wire::new();
    let agent = wire.agent();
    assert!(!gets_through(&wire, STRANGER));
    agent.command(&["allow", "add", STRANGER]).unwrap();
    assert!(gets_through(&wire, STRANGER));
    agent.command(&["allow", "remove", STRANGER]).unwrap();
    assert!(!gets_through(&wire, STRANGER));
}

#[test]
fn a_ban_holds_on_the_wire_until_it_expires_and_no_longer() {
    let wire = Wire::new();
    let agent = wire.agent();
    agent
        .command(&["ban", PARTNER, "--for", "2s", "--reason", "test"])
        .unwrap();
    agent.command(&["ban", PARTNER6, "--for", "10m"]).unwrap();
    assert!(!gets_through(&wire, PARTNER));
    assert!(!gets_through(&wire, PARTNER6));
    assert!(agent.dropped("banned").unwrap() >= 4);
    wait_for("the ban to expire", || {
        gets_through(&wire, PARTNER).then_some(())
    })
    .unwrap();
    assert!(!gets_through(&wire, PARTNER6), "the other ban still holds");
    agent.command(&["unban", PARTNER6]).unwrap();
    assert!(gets_through(&wire, PARTNER6));
}

#[test]
fn a_banned_network_is_cut_off_and_the_protected_in_it_could_not_be() {
    let wire = Wire::new();
    let agent = wire.agent();
    agent
        .command(&["ban", "192.0.2.16/28", "--for", "10m"])
        .unwrap();
    assert!(!gets_through(&wire, PARTNER));
    assert!(agent.dropped("banned").unwrap() >= 2);
    agent.command(&["unban", "192.0.2.16/28"]).unwrap();
    assert!(gets_through(&wire, PARTNER));
}

#[test]
fn monitor_mode_counts_and_drops_nothing() {
    let wire = Wire::new();
    // The key stands before any section, so it can't be added behind them: edit the file and start again.
    let mut agent = wire.agent();
    let text = std::fs::read_to_string(agent.config()).unwrap();
    std::fs::write(agent.config(), format!("monitor = true\n{text}")).unwrap();
    agent.process.terminate().unwrap();
    agent.start_again(wire.place()).unwrap();
    let before = agent.dropped("not_listed").unwrap();
    assert!(gets_through(&wire, STRANGER));
    let status = agent.status().unwrap();
    assert!(
        status
            .pointer("/counters/would_drop/not_listed")
            .and_then(Value::as_u64)
            .unwrap()
            >= 2
    );
    assert_eq!(agent.dropped("not_listed").unwrap(), before);
}

#[test]
fn watch_shows_who_was_dropped_and_why() {
    let wire = Wire::new();
    let agent = wire.agent();
    let socket = agent.socket.clone();
    let watching = std::thread::spawn(move || {
        let program = portcullis_tests::locate::binary("portcullis-agent").unwrap();
        let mut command = std::process::Command::new(program);
        command
            .args(["watch", "--json", "--count", "20", "--socket"])
            .arg(socket);
        finish_within(&mut command, PATIENCE).unwrap()
    });
    wait_for("the reports", || {
        ping(&wire, STRANGER);
        watching.is_finished().then_some(())
    })
    .unwrap();
    let output = watching.join().unwrap();
    // The kernel's own multicast listener reports (RFC 3810) are dropped and reported too.
    let report = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter::<Value>()
        .map(Result::unwrap)
        .find(|report| report["source"] == STRANGER)
        .expect("the stranger is among twenty reports");
    assert_eq!(report["reason"], "not_listed");
    assert_eq!(report["interface"], "gw0");
}
