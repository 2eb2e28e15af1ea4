//! Crashes, upgrades, downgrades and damaged pins under one steady traffic: no packet leaks, none is lost.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use agent_ebpf::layout::{FINGERPRINT, MAPS};
use aya::maps::{Array, MapData};
use portcullis_tests::agent::Agent;

use crate::{
    stage::{PARTNER, PARTNER6, STRANGER, STRANGER6, Wire},
    traffic::Traffic,
};

/// How often each fault is made.
const ROUNDS: u32 = 3;

#[test]
fn nothing_leaks_and_nothing_is_lost_through_crashes_upgrades_and_damaged_pins() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    let original = agent.program().to_owned();
    let other = another_version(&original, agent.folder());
    let traffic = Traffic::start(&wire, &[PARTNER, PARTNER6], &[STRANGER, STRANGER6]);
    let stage = Stage {
        wire: &wire,
        traffic: &traffic,
    };

    for _ in 0..ROUNDS {
        stage.kill_and_start(&mut agent);
    }
    for _ in 0..ROUNDS {
        assert!(agent.process.terminate().unwrap().success());
        stage.start(&mut agent);
    }
    for _ in 0..ROUNDS {
        let before = maps(&agent);
        agent.install(other.clone());
        stage.kill_and_start(&mut agent);
        let after = maps(&agent);
        assert_eq!((before.len(), after.len()), (1, 1), "the old maps are gone");
        assert_ne!(before, after, "the other version has maps of its own");
        agent.install(original.clone());
        assert!(agent.process.terminate().unwrap().success());
        stage.start(&mut agent);
        assert_eq!(maps(&agent), before);
    }
    // Killed while it takes over: whatever it had done by then.
    for round in 0..4 * ROUNDS {
        agent.process.kill().unwrap();
        agent.install(if round % 2 == 0 {
            other.clone()
        } else {
            original.clone()
        });
        agent.launch_only(wire.place(), &[]).unwrap();
        thread::sleep(Duration::from_millis(u64::from(round) * 25));
        agent.process.kill().unwrap();
        traffic.flows();
    }
    agent.install(original);
    stage.start(&mut agent);

    // Left behind by a version that is gone, and by nobody who is known.
    agent.process.kill().unwrap();
    let stale = agent.pins().join("maps-0123456789abcdef");
    fs::create_dir(&stale).unwrap();
    foreign_map(&stale.join("LISTS4"));
    foreign_map(&agent.pins().join("links/gone0"));
    stage.start(&mut agent);
    assert!(!stale.exists(), "maps of another layout are removed");

    // A pin of ours that is something else: the start is refused, and goes well once it is out of the way.
    agent.process.kill().unwrap();
    for name in [MAPS[0].name, MAPS[MAPS.len() - 1].name] {
        let pin = maps(&agent)[0].join(name);
        let aside = pin.with_file_name("aside");
        fs::rename(&pin, &aside).unwrap();
        foreign_map(&pin);
        let error = agent.start_again(wire.place()).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("unload --force"),
            "{error}"
        );
        traffic.flows();
        fs::remove_file(&pin).unwrap();
        fs::rename(&aside, &pin).unwrap();
    }
    stage.start(&mut agent);

    agent.process.kill().unwrap();
    let link = agent.pins().join("links/gw0");
    let aside = link.with_file_name("aside");
    fs::rename(&link, &aside).unwrap();
    foreign_map(&link);
    let before = wire.attached();
    assert!(
        agent.start_again(wire.place()).is_err(),
        "a map in the link's place is not taken for it"
    );
    assert_eq!(wire.attached(), before);
    traffic.flows();
    fs::remove_file(&link).unwrap();
    fs::rename(&aside, &link).unwrap();
    stage.start(&mut agent);

    let count = traffic.count();
    println!(
        "{ROUNDS} kills, {ROUNDS} restarts, {ROUNDS} upgrades, {ROUNDS} downgrades, {} kills during a takeover, 5 kinds of damaged pins: \
         {} of {} packets of allowed sources lost, {} of {} packets of strangers leaked",
        4 * ROUNDS,
        count.allowed_lost,
        count.allowed_sent,
        count.forbidden_received,
        count.forbidden_sent
    );
    assert_eq!(
        (count.forbidden_received, count.allowed_lost),
        (0, 0),
        "{count:?}"
    );
    assert!(
        count.forbidden_sent > 10_000 && count.allowed_sent > 10_000,
        "{count:?}"
    );
}

struct Stage<'a> {
    wire: &'a Wire,
    traffic: &'a Traffic,
}

impl Stage<'_> {
    fn kill_and_start(&self, agent: &mut Agent) {
        let before = self.wire.attached().unwrap();
        agent.process.kill().unwrap();
        self.traffic.flows();
        assert_eq!(self.wire.attached(), Some(before), "the program stays");
        self.start(agent);
    }

    fn start(&self, agent: &mut Agent) {
        agent.start_again(self.wire.place()).unwrap();
        self.traffic.flows();
        assert!(self.wire.attached().is_some());
    }
}

/// The directories of maps that are pinned.
fn maps(agent: &Agent) -> Vec<PathBuf> {
    fs::read_dir(agent.pins())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("maps-"))
        .map(|entry| entry.path())
        .collect()
}

/// A map that is none of the agent's, at this path.
fn foreign_map(pin: &Path) {
    let map: Array<MapData, u32> = Array::create(1, 0).unwrap();
    map.pin(pin).unwrap();
}

/// The same agent with another layout of its maps, as far as anyone can tell: its layout's fingerprint is another number.
fn another_version(program: &Path, folder: &Path) -> PathBuf {
    let mut bytes = fs::read(program).unwrap();
    let (ours, theirs) = (FINGERPRINT.to_ne_bytes(), (!FINGERPRINT).to_ne_bytes());
    let found: Vec<usize> = bytes
        .windows(ours.len())
        .enumerate()
        .filter_map(|(at, window)| (window == ours).then_some(at))
        .collect();
    assert!(!found.is_empty(), "the program names its layout");
    for at in found {
        bytes[at..at + theirs.len()].copy_from_slice(&theirs);
    }
    let path = folder.join("another-version");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
