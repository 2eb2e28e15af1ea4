//! What becomes of enforcement when an interface is not as it was, or can't do what is asked.

use portcullis_tests::{
    agent::Agent,
    netns::Namespace,
    process::{PATIENCE, finish_within, wait_for},
};
use serde_json::Value;

use crate::stage::{ADMIN, GATEWAY, PARTNER, STRANGER, Wire, address};

fn gets_through(wire: &Wire, from: &str) -> bool {
    let mut command = wire.outside.command("ping");
    command.args(["-c", "2", "-i", "0.2", "-W", "1", "-I", from, GATEWAY]);
    finish_within(&mut command, PATIENCE)
        .unwrap()
        .status
        .success()
}

fn interface(agent: &Agent, field: &str) -> Option<String> {
    let status = agent.status().unwrap();
    status
        .pointer(&format!("/interfaces/0/{field}"))
        .and_then(Value::as_str)
        .map(str::to_owned)
}

/// A veth whose peer takes frames larger than a page: its driver refuses programs.
fn with_huge_frames() -> Wire {
    let wire = Wire::new();
    wire.outside
        .ip(&["link", "set", "out0", "mtu", "9000"])
        .unwrap();
    wire.gateway
        .ip(&["link", "set", "gw0", "mtu", "9000"])
        .unwrap();
    wire
}

#[test]
fn a_driver_that_refuses_is_said_and_the_network_stack_takes_the_program() {
    let wire = with_huge_frames();
    let agent = wire.agent();
    assert_eq!(interface(&agent, "mode").as_deref(), Some("generic"));
    assert!(gets_through(&wire, PARTNER));
    assert!(!gets_through(&wire, STRANGER));
    let log = agent.process.log();
    assert!(log.contains("falling back to generic mode"), "{log}");
}

#[test]
fn a_driver_that_refuses_ends_the_start_where_native_is_required() {
    let wire = with_huge_frames();
    let error = Agent::start_configured(
        wire.place(),
        &["gw0"],
        &[address(ADMIN)],
        "mode = \"require-native\"",
        "",
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("gw0"), "{error}");
    assert_eq!(wire.attached(), None);
}

#[test]
fn a_renamed_interface_is_enforced_on_under_its_new_name_and_after_it_is_renamed_back() {
    let wire = Wire::new();
    let agent = wire.agent();
    let before = wire.attached();
    for (from, to) in [("gw0", "wan0"), ("wan0", "gw0")] {
        wire.gateway.ip(&["link", "set", from, "down"]).unwrap();
        wire.gateway.ip(&["link", "set", from, "name", to]).unwrap();
        wire.gateway.ip(&["link", "set", to, "up"]).unwrap();
        wait_for("the new name to be seen", || {
            let expected = (to != "gw0").then(|| to.to_owned());
            (interface(&agent, "renamed_to") == expected
                && interface(&agent, "state").as_deref() == Some("enforcing"))
            .then_some(())
        })
        .unwrap();
        wait_for("the partner to get through", || {
            gets_through(&wire, PARTNER).then_some(())
        })
        .unwrap();
        assert!(!gets_through(&wire, STRANGER));
        agent.command(&["allow", "add", STRANGER]).unwrap();
        assert!(gets_through(&wire, STRANGER), "changes reach it too");
        agent.command(&["allow", "remove", STRANGER]).unwrap();
    }
    assert_eq!(wire.attached(), before, "it was never attached anew");
}

#[test]
fn an_interface_that_was_away_in_another_namespace_is_held_again_on_its_return() {
    let wire = Wire::new();
    let agent = wire.agent();
    let elsewhere = Namespace::new("elsewhere").unwrap();
    wire.gateway
        .ip(&["link", "set", "gw0", "netns", elsewhere.name()])
        .unwrap();
    wait_for("the interface to be reported gone", || {
        (interface(&agent, "state").as_deref() == Some("gone")).then_some(())
    })
    .unwrap();
    elsewhere
        .ip(&["link", "set", "gw0", "netns", wire.gateway.name()])
        .unwrap();
    wire.gateway
        .add_address("gw0", address(GATEWAY), 24)
        .unwrap();
    wire.gateway.ip(&["link", "set", "gw0", "up"]).unwrap();
    wait_for("the interface to be held", || {
        (interface(&agent, "state").as_deref() == Some("enforcing")).then_some(())
    })
    .unwrap();
    wait_for("the partner to get through", || {
        gets_through(&wire, PARTNER).then_some(())
    })
    .unwrap();
    assert!(!gets_through(&wire, STRANGER));
}
