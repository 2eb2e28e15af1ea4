//! Hosts that lack what the agent needs, and clocks that jump: each time a clear error or none at all, and enforcement goes on.

use std::{fs, path::PathBuf, process::Command};

use chrono::{DateTime, TimeDelta, Utc};
use portcullis_tests::{
    agent::Agent,
    process::{succeed, wait_for},
};
use serde_json::Value;

use crate::{
    bad_input::Enforced,
    preload,
    stage::{PARTNER, PARTNER6, STRANGER, STRANGER6, Wire},
    traffic::Traffic,
    wire::gets_through,
};

#[test]
fn a_start_without_what_it_needs_says_so_and_enforcement_goes_on() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    let traffic = Traffic::start(&wire, &[PARTNER, PARTNER6], &[STRANGER, STRANGER6]);
    let before = Enforced::by(&agent);
    let attached = wire.attached();
    agent.process.kill().unwrap();

    let pins = agent.pins();
    let mount = pins.parent().unwrap().to_owned();
    let remount = |how: &str| {
        succeed(
            Command::new("mount")
                .args(["-o", &format!("remount,{how}")])
                .arg(&mount),
        )
        .unwrap()
    };
    remount("ro");
    let error = agent.start_again(wire.place()).unwrap_err().to_string();
    remount("rw");
    assert!(
        error.contains("bpf/portcullis is on a BPF file system that is mounted read-only"),
        "{error}"
    );
    assert_eq!(wire.attached(), attached);

    // Another directory, on a file system that takes no pins.
    let config = fs::read_to_string(agent.config()).unwrap();
    let elsewhere = agent.folder().join("no-bpf");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(
        agent.config(),
        config.replace(
            &pins.display().to_string(),
            &elsewhere.display().to_string(),
        ),
    )
    .unwrap();
    let error = agent.start_again(wire.place()).unwrap_err().to_string();
    assert!(
        error.contains("not on a BPF file system") && error.contains("mount -t bpf"),
        "{error}"
    );
    fs::write(agent.config(), config).unwrap();
    assert_eq!(wire.attached(), attached);

    // What the kernel does not need since 5.11, and what this program does without.
    for wrapper in [
        &["prlimit", "--memlock=0"][..],
        &[
            "unshare",
            "--mount",
            "--propagation=private",
            "sh",
            "-c",
            "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"",
        ],
    ] {
        agent.start_again_under(wire.place(), wrapper).unwrap();
        traffic.flows();
        let now = Enforced::by(&agent);
        assert_eq!(
            (now.revision, now.list),
            (before.revision, before.list.clone())
        );
        agent.process.kill().unwrap();
    }
    agent.start_again(wire.place()).unwrap();
    let count = traffic.count();
    assert_eq!(
        (count.forbidden_received, count.allowed_lost),
        (0, 0),
        "{count:?}"
    );
}

/// Runs the daemon after this shell command in a mount namespace of its own.
fn after(setting: &str) -> [String; 6] {
    let script = format!("{setting}; exec \"$0\" \"$@\"");
    ["unshare", "--mount", "--propagation=private", "sh", "-ec"]
        .map(str::to_owned)
        .into_iter()
        .chain([script])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

#[test]
fn a_bpf_file_system_that_is_not_mounted_is_mounted_or_asked_for() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    assert!(agent.process.terminate().unwrap().success());
    // Its pins go, so that the hook is free for the ones below.
    let config = agent.config().display().to_string();
    agent
        .command(&["unload", "--config", &config, "--force"])
        .unwrap();
    let text = fs::read_to_string(agent.config()).unwrap();
    let pins = agent.pins().display().to_string();
    fs::write(
        agent.config(),
        text.replace(&pins, "/sys/fs/bpf/portcullis-not-mounted"),
    )
    .unwrap();

    let nowhere = after("mount -t tmpfs none /sys/fs");
    let error = agent
        .start_again_under(wire.place(), &nowhere.each_ref().map(String::as_str))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("mount the BPF file system on /sys/fs/bpf"),
        "{error}"
    );
    assert_eq!(wire.attached(), None);

    let missing = after("while umount /sys/fs/bpf 2>/dev/null; do :; done");
    agent
        .start_again_under(wire.place(), &missing.each_ref().map(String::as_str))
        .unwrap();
    assert!(
        agent
            .process
            .log()
            .contains("mounted it on /sys/fs/bpf; pins last until it is unmounted"),
        "{}",
        agent.process.log()
    );
    assert!(gets_through(&wire, PARTNER) && !gets_through(&wire, STRANGER));
}

/// Shifts the wall clock of a program by the seconds that a file says, whenever it asks for the time.
const SHIFTED_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("SHIFTED_BY"), "r") : NULL;
    if (file) {
        long seconds = 0;
        if (fscanf(file, "%ld", &seconds) == 1) time->tv_sec += seconds;
        fclose(file);
    }
    return result;
}
"#;

/// The wall clock of one daemon.
struct Clock {
    library: String,
    shift: PathBuf,
}

impl Clock {
    fn new(agent: &Agent) -> Self {
        let clock = Self {
            library: preload::library(agent, "clock", SHIFTED_CLOCK),
            shift: agent.folder().join("shift"),
        };
        clock.set(TimeDelta::zero());
        clock
    }

    /// What the daemon runs under.
    fn wrapper(&self) -> [String; 3] {
        [
            "env".to_owned(),
            self.library.clone(),
            format!("SHIFTED_BY={}", self.shift.display()),
        ]
    }

    /// Sets it, by so much from the machine's.
    fn set(&self, by: TimeDelta) {
        let new = self.shift.with_extension("new");
        fs::write(&new, by.num_seconds().to_string()).unwrap();
        fs::rename(new, &self.shift).unwrap();
    }
}

/// When the only ban ends.
fn end_of_ban(agent: &Agent) -> DateTime<Utc> {
    let bans: Value = serde_json::from_str(&agent.command(&["bans", "--json"]).unwrap()).unwrap();
    let bans = bans["bans"].as_array().unwrap();
    assert_eq!(bans.len(), 1, "{bans:?}");
    assert_eq!(bans[0]["source"], format!("{PARTNER6}/128"));
    bans[0]["expires"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_clock_that_jumps_forward_and_back_ends_no_entry_and_lifts_no_ban() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    let clock = Clock::new(&agent);
    agent.process.kill().unwrap();
    let wrapper = clock.wrapper();
    agent
        .start_again_under(wire.place(), &wrapper.each_ref().map(String::as_str))
        .unwrap();
    agent
        .command(&["allow", "add", "198.51.100.0/24", "--expires", "90d"])
        .unwrap();
    agent.command(&["ban", PARTNER6, "--for", "1h"]).unwrap();
    let before = Enforced::by(&agent);
    let end = end_of_ban(&agent);
    for days in [400, -400, 0] {
        let shift = TimeDelta::days(days);
        clock.set(shift);
        // The end goes with the clock, so that the time which is left stays the same.
        wait_for("the jump to be seen", || {
            let moved = end_of_ban(&agent) - end - shift;
            (moved.abs() <= TimeDelta::seconds(5)).then_some(())
        })
        .unwrap();
        let warnings = agent.status().unwrap()["warnings"].to_string();
        assert!(
            warnings.contains("the wall clock was set by a lot"),
            "{days}: {warnings}"
        );
        assert_eq!(Enforced::by(&agent), before, "{days}");
        assert!(gets_through(&wire, PARTNER), "{days}");
        assert!(!gets_through(&wire, PARTNER6), "{days}: banned");
    }
    assert!(agent.process.is_running());
}
