//! Ways to lock oneself out, walked to their end: each ends with access, and the forbidden neighbour stays out all along.
//!
//! Missed confirmations and daemons that die while one is awaited are in `confirm`.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use portcullis_tests::{
    agent::Agent,
    process::{PATIENCE, finish_within, wait_for},
};
use rustix::process::Signal;

use crate::{
    stage::{ADMIN, GATEWAY, PARTNER, Wire, address},
    wire::gets_through,
};

/// Next to the partner, who works on the machine in these drills.
const NEIGHBOUR: &str = "192.0.2.21";
/// Who takes the partner's place on a list.
const SOMEBODY_ELSE: &str = "198.51.100.0/24";

struct Drill {
    wire: Wire,
    agent: Agent,
}

impl Drill {
    /// The administrator is protected, and the partner is on the list.
    fn new() -> Self {
        let wire = Wire::new();
        wire.outside
            .add_address("out0", address(NEIGHBOUR), 24)
            .unwrap();
        // What live facts protect might save the partner by itself.
        let more = "[protected_facts]\nssh = false\ngateways = false\ndns = false\nntp = false\n";
        let agent = Agent::start_with(wire.place(), &["gw0"], &[address(ADMIN)], more).unwrap();
        agent.command(&["allow", "add", PARTNER]).unwrap();
        let drill = Self { wire, agent };
        drill.has_access();
        drill
    }

    fn has_access(&self) {
        assert!(gets_through(&self.wire, PARTNER), "the partner gets in");
        self.neighbour_is_out();
    }

    fn is_locked_out(&self) {
        assert!(!gets_through(&self.wire, PARTNER), "the partner is out");
        self.neighbour_is_out();
    }

    fn gets_access_back(&self) {
        wait_for("access", || gets_through(&self.wire, PARTNER).then_some(())).unwrap();
        self.neighbour_is_out();
    }

    fn neighbour_is_out(&self) {
        assert!(!gets_through(&self.wire, NEIGHBOUR), "the neighbour is out");
    }

    /// A list file with this one entry.
    fn list(&self, entry: &str) -> String {
        let file = self.agent.folder().join("list.txt");
        fs::write(&file, format!("{entry}\n")).unwrap();
        file.display().to_string()
    }

    /// Runs the command line as the partner does, over SSH.
    fn over_ssh(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.agent.program());
        command
            .args(arguments)
            .arg("--socket")
            .arg(&self.agent.socket)
            .env("SSH_CONNECTION", format!("{PARTNER} 50022 {GATEWAY} 22"));
        finish_within(&mut command, PATIENCE).unwrap()
    }

    /// Takes the protected out of the configuration.
    fn protect_nobody(&mut self) {
        let text = fs::read_to_string(self.agent.config()).unwrap();
        let changed = text.replace(&format!("\"{ADMIN}\""), "");
        assert_ne!(text, changed);
        fs::write(self.agent.config(), changed).unwrap();
        assert!(self.agent.process.terminate().unwrap().success());
        self.agent.start_again(self.wire.place()).unwrap();
        self.has_access();
    }

    fn generation(&self) -> u64 {
        self.agent.status().unwrap()["generation"].as_u64().unwrap()
    }

    /// Puts a list in force that locks the partner out, for so long.
    fn lock_out(&self, seconds: u32) {
        let list = self.list(SOMEBODY_ELSE);
        let within = format!("{seconds}s");
        let output = self.over_ssh(&[
            "allow",
            "replace",
            &list,
            "--force",
            "--confirm-within",
            &within,
        ]);
        assert!(output.status.success(), "{}", error(&output));
        self.is_locked_out();
    }
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_list_without_the_callers_own_address_is_refused_and_forced_only_for_a_time() {
    let drill = Drill::new();
    let before = drill.generation();
    let list = drill.list(SOMEBODY_ELSE);
    let output = drill.over_ssh(&["allow", "replace", &list]);
    assert!(!output.status.success());
    let message = error(&output);
    assert!(
        message.contains(PARTNER) && message.contains("--force"),
        "{message}"
    );
    assert_eq!(drill.generation(), before);
    drill.has_access();
    for removal in [
        &["allow", "remove", PARTNER][..],
        &["ban", PARTNER, "--for", "1h"],
        &["ban", "192.0.2.16/28", "--for", "1h"],
    ] {
        let output = drill.over_ssh(removal);
        assert!(!output.status.success(), "{removal:?}");
        assert!(error(&output).contains("--force"), "{}", error(&output));
        drill.has_access();
    }
    drill.lock_out(8);
    drill.gets_access_back();
    drill.lock_out(600);
    drill.agent.command(&["allow", "revert"]).unwrap();
    drill.has_access();
}

#[test]
fn the_kernel_goes_back_by_itself_when_the_daemon_hangs() {
    let drill = Drill::new();
    drill.lock_out(8);
    drill.agent.process.signal(Signal::STOP).unwrap();
    drill.gets_access_back();
    drill.agent.process.signal(Signal::CONT).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    drill.has_access();
    assert!(
        drill
            .agent
            .command(&["allow", "list"])
            .unwrap()
            .contains(PARTNER)
    );
}

#[test]
fn the_last_entry_does_not_end_while_nobody_else_could_get_in() {
    let mut drill = Drill::new();
    drill.agent.command(&["allow", "remove", PARTNER]).unwrap();
    drill
        .agent
        .command(&["allow", "add", PARTNER, "--expires", "8s"])
        .unwrap();
    drill.has_access();
    wait_for("the entry to end", || {
        (!gets_through(&drill.wire, PARTNER)).then_some(())
    })
    .unwrap();
    assert!(gets_through(&drill.wire, ADMIN), "the protected stays in");

    drill.agent.command(&["allow", "add", PARTNER]).unwrap();
    drill.protect_nobody();
    drill
        .agent
        .command(&["allow", "add", PARTNER, "--expires", "3s"])
        .unwrap();
    wait_for("the end to be held back", || {
        drill
            .agent
            .process
            .log()
            .contains("stay in force")
            .then_some(())
    })
    .unwrap();
    drill.has_access();
}

#[test]
fn default_deny_without_a_list_and_without_the_protected_is_refused() {
    let mut drill = Drill::new();
    drill.protect_nobody();
    let empty = drill.agent.folder().join("empty.txt");
    fs::write(&empty, "# nobody\n").unwrap();
    let empty = empty.display().to_string();
    for arguments in [
        &["allow", "replace", &empty, "--empty"][..],
        &["allow", "remove", PARTNER],
    ] {
        let output = finish_within(
            Command::new(drill.agent.program())
                .args(arguments)
                .arg("--socket")
                .arg(&drill.agent.socket),
            PATIENCE,
        )
        .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        let message = error(&output);
        assert!(
            message.contains("every packet would be dropped"),
            "{message}"
        );
        drill.has_access();
    }
}
