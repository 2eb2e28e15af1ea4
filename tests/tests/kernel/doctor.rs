//! `doctor` on interfaces of the kinds that every kernel can make. It needs no daemon.

use std::process::Command;

use portcullis_tests::{
    locate,
    netns::Namespace,
    process::{PATIENCE, finish_within},
};
use serde_json::Value;

use crate::stage::Wire;

/// The report as JSON, or what went wrong.
fn doctor(namespace: &Namespace, interface: &str) -> Result<Value, String> {
    let program = locate::binary("portcullis-agent").unwrap();
    let mut command: Command = namespace.command(&program.display().to_string());
    command.args(["--json", "doctor", interface]);
    let output = finish_within(&mut command, PATIENCE).unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[track_caller]
fn finds(report: &Value, severity: &str, topic: &str, words: &str) {
    let findings = report["findings"].as_array().unwrap();
    assert!(
        findings.iter().any(|finding| {
            finding["severity"] == severity
                && finding["topic"] == topic
                && finding["message"].as_str().unwrap().contains(words)
        }),
        "{severity} {topic} `{words}` in {report:#}"
    );
}

#[test]
fn a_veth_pair_is_good_for_native_mode_as_long_as_its_frames_fit() {
    let wire = Wire::new();
    let report = doctor(&wire.gateway, "gw0").unwrap();
    assert_eq!(
        (&report["interface"], &report["driver"]),
        (&"gw0".into(), &"veth".into())
    );
    finds(&report, "ok", "native", "native XDP");
    finds(&report, "ok", "program", "no other XDP program");
    finds(&report, "ok", "kernel", "Linux");
    wire.gateway
        .ip(&["link", "set", "gw0", "mtu", "9000"])
        .unwrap();
    finds(
        &doctor(&wire.gateway, "gw0").unwrap(),
        "warning",
        "mtu",
        "9000 is more than native mode takes",
    );
}

#[test]
fn bridges_ports_and_macvlans_are_told_the_better_place() {
    let wire = Wire::new();
    for command in [
        ["link", "add", "mv0", "link", "gw0", "type", "macvlan"].as_slice(),
        &["link", "add", "br0", "type", "bridge"],
        &["link", "add", "in0", "type", "veth", "peer", "name", "in1"],
        &["link", "set", "in0", "master", "br0"],
    ] {
        wire.gateway.ip(command).unwrap();
    }
    let report = |interface| doctor(&wire.gateway, interface).unwrap();
    finds(
        &report("mv0"),
        "warning",
        "placement",
        "mv0 is a macvlan on gw0",
    );
    finds(
        &report("gw0"),
        "info",
        "placement",
        "frames of mv0 arrive through gw0",
    );
    finds(
        &report("br0"),
        "warning",
        "placement",
        "the port that faces the network (in0)",
    );
    finds(
        &report("in0"),
        "warning",
        "placement",
        "a port of the bridge br0",
    );
    finds(&report("in0"), "info", "placement", "the interface is down");
    finds(
        &report("lo"),
        "blocker",
        "placement",
        "loopback has no strangers",
    );
    assert_eq!(report("lo")["worst"], "blocker");
}

#[test]
fn the_agents_own_program_is_recognised_with_its_pin() {
    let wire = Wire::new();
    let _agent = wire.agent();
    let report = doctor(&wire.gateway, "gw0").unwrap();
    finds(&report, "ok", "program", "this agent's own: XDP program");
    finds(&report, "ok", "program", ", native, pinned at /");
}

#[test]
fn an_interface_that_is_not_there_is_an_error_that_names_those_that_are() {
    let wire = Wire::new();
    let error = doctor(&wire.gateway, "eth7").unwrap_err();
    assert!(
        error.contains("there is no interface eth7; there are lo, gw0"),
        "{error}"
    );
}
