//! What happens to packets while the agent is away.

use portcullis_tests::process::wait_for;
use serde_json::Value;

use crate::{
    stage::{PARTNER, PARTNER6, STRANGER, STRANGER6, Wire},
    traffic::Traffic,
};

#[test]
fn a_killed_agent_leaves_enforcement_and_the_next_one_takes_it_over_without_a_gap() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    let traffic = Traffic::start(&wire, &[PARTNER, PARTNER6], &[STRANGER, STRANGER6]);
    for _ in 0..3 {
        let dropped = agent.dropped("not_listed").unwrap();
        let before = wire.attached().unwrap();
        agent.process.kill().unwrap();
        traffic.flows();
        assert_eq!(wire.attached(), Some(before), "the program stays");
        agent.start_again(wire.place()).unwrap();
        traffic.flows();
        let after = wire.attached().unwrap();
        assert_ne!(
            after.program, before.program,
            "the new agent's own program runs"
        );
        assert_eq!(after.mode, before.mode);
        assert!(
            agent.dropped("not_listed").unwrap() > dropped,
            "the counters go on"
        );
    }
    let count = traffic.count();
    assert_eq!(
        (count.forbidden_received, count.allowed_lost),
        (0, 0),
        "{count:?}"
    );
    assert!(
        count.forbidden_sent > 1_000 && count.allowed_sent > 1_000,
        "{count:?}"
    );
}

#[test]
fn a_stopped_agent_leaves_enforcement_until_it_is_unloaded() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    let traffic = Traffic::start(&wire, &[PARTNER], &[STRANGER]);
    assert!(agent.process.terminate().unwrap().success());
    traffic.flows();
    let count = traffic.count();
    assert_eq!(
        (count.forbidden_received, count.allowed_lost),
        (0, 0),
        "{count:?}"
    );

    let config = agent.config().display().to_string();
    let error = agent
        .command(&["unload", "--config", &config])
        .unwrap_err()
        .to_string();
    assert!(error.contains("--force"), "{error}");
    assert!(wire.attached().is_some());
    agent
        .command(&["unload", "--config", &config, "--force"])
        .unwrap();
    wait_for("the program to go", || {
        wire.attached().is_none().then_some(())
    })
    .unwrap();
}

#[test]
fn lists_and_bans_are_the_same_after_a_restart() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    agent
        .command(&["ban", STRANGER, "--for", "10m", "--reason", "test"])
        .unwrap();
    agent
        .command(&["ban", "198.51.100.0/24", "--for", "10m"])
        .unwrap();
    let before = [
        agent.command(&["allow", "list"]).unwrap(),
        agent.command(&["bans"]).unwrap(),
    ];
    agent.process.kill().unwrap();
    agent.start_again(wire.place()).unwrap();
    assert_eq!(
        [
            agent.command(&["allow", "list"]).unwrap(),
            agent.command(&["bans"]).unwrap()
        ],
        before
    );
}

#[test]
fn maps_of_another_layout_are_removed_once_the_new_program_runs() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    agent.process.terminate().unwrap();
    let stale = agent.folder().join("bpf/portcullis/maps-0123456789abcdef");
    std::fs::create_dir(&stale).unwrap();
    agent.start_again(wire.place()).unwrap();
    assert!(!stale.exists());
}

#[test]
fn an_interface_that_vanishes_is_reported_and_held_again_when_it_returns() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    let state = |agent: &portcullis_tests::agent::Agent| {
        let status = agent.status().unwrap();
        status
            .pointer("/interfaces/0/state")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    wire.gateway.ip(&["link", "delete", "gw0"]).unwrap();
    wait_for("the interface to be reported gone", || {
        (state(&agent).as_deref() == Some("gone")).then_some(())
    })
    .unwrap();
    assert!(agent.process.is_running());
    wire.connect();
    wait_for("the interface to be held", || {
        (state(&agent).as_deref() == Some("enforcing")).then_some(())
    })
    .unwrap();
    let count = {
        let traffic = Traffic::start(&wire, &[PARTNER], &[STRANGER]);
        traffic.flows();
        traffic.count()
    };
    assert_eq!(
        (count.forbidden_received, count.allowed_lost),
        (0, 0),
        "{count:?}"
    );
}
