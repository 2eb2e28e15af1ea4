//! Changes that wait for their confirmation, and daemons that die meanwhile.

use std::{fs, process::Command, time::Duration};

use portcullis_tests::{
    agent::Agent,
    locate,
    process::{PATIENCE, finish_within, wait_for},
};

use crate::{
    stage::{ADMIN, PARTNER, STRANGER, Wire},
    wire::gets_through,
};

/// Puts a list in force that has the stranger and lacks the partner.
fn swap(agent: &Agent, within: &str) {
    let file = agent.folder().join("swapped.txt");
    fs::write(&file, format!("{STRANGER}\n")).unwrap();
    let file = file.display().to_string();
    let said = agent
        .command(&["allow", "replace", &file, "--confirm-within", within])
        .unwrap();
    assert!(said.contains("TO BE CONFIRMED"), "{said}");
}

#[test]
fn a_confirmed_change_stays_and_one_that_is_not_confirmed_goes() {
    let wire = Wire::new();
    let agent = wire.agent();
    swap(&agent, "3s");
    assert!(gets_through(&wire, STRANGER));
    wait_for("the way back", || {
        gets_through(&wire, PARTNER).then_some(())
    })
    .unwrap();
    assert!(!gets_through(&wire, STRANGER));
    wait_for("the way back to be on record", || {
        let history = agent.command(&["allow", "history"]).ok()?;
        history.contains("taken back").then_some(())
    })
    .unwrap();

    swap(&agent, "60s");
    agent.command(&["allow", "confirm"]).unwrap();
    assert!(gets_through(&wire, STRANGER) && !gets_through(&wire, PARTNER));
    let list = agent.command(&["allow", "list"]).unwrap();
    assert!(list.contains(STRANGER) && !list.contains(PARTNER), "{list}");
}

#[test]
fn the_kernel_goes_back_by_itself_when_the_daemon_is_dead_and_the_next_daemon_agrees() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    swap(&agent, "3s");
    agent.process.kill().unwrap();
    assert!(!gets_through(&wire, PARTNER), "not yet");
    wait_for("the kernel to go back", || {
        gets_through(&wire, PARTNER).then_some(())
    })
    .unwrap();
    assert!(!gets_through(&wire, STRANGER));
    agent.start_again(wire.place()).unwrap();
    let list = agent.command(&["allow", "list"]).unwrap();
    assert!(list.contains(PARTNER) && !list.contains(STRANGER), "{list}");
    assert!(gets_through(&wire, PARTNER) && !gets_through(&wire, STRANGER));
}

#[test]
fn a_daemon_that_starts_inside_the_window_goes_back_at_once_and_for_good() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    swap(&agent, "5s");
    agent.process.kill().unwrap();
    agent.start_again(wire.place()).unwrap();
    assert!(gets_through(&wire, PARTNER) && !gets_through(&wire, STRANGER));
    agent.command(&["allow", "add", STRANGER]).unwrap();
    // Whatever was armed is over by then.
    std::thread::sleep(Duration::from_secs(6));
    assert!(gets_through(&wire, PARTNER) && gets_through(&wire, STRANGER));
}

#[test]
fn a_dead_daemon_is_told_with_the_time_and_what_still_holds() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    let config = agent.config().display().to_string();
    let status = || {
        let mut command = Command::new(locate::binary("portcullis-agent").unwrap());
        command
            .args(["status", "--config", &config, "--socket"])
            .arg(&agent.socket);
        finish_within(&mut command, PATIENCE).unwrap()
    };
    assert!(status().status.success());
    agent.process.kill().unwrap();
    let output = status();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(
        said.contains("NO DAEMON since") && said.contains("enforcement continues on gw0"),
        "{said}"
    );
    assert!(gets_through(&wire, ADMIN) && !gets_through(&wire, STRANGER));
}
