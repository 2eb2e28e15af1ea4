//! What the agent refuses to do, with an error that says what to do instead.

use std::{fs, process::Command};

use aya::{
    EbpfLoader,
    programs::{Xdp, XdpMode},
};
use portcullis_agent::datapath::xdp::OBJECT;
use portcullis_tests::{
    agent::Agent,
    locate,
    process::{PATIENCE, finish_within},
};

use crate::stage::{ADMIN, Wire, address};

#[test]
fn a_hook_with_another_program_is_named_and_left_alone() {
    let wire = Wire::new();
    // The same instructions under another name: a stranger's program as far as anyone can tell. The end of the name stays:
    // the object keeps the section's name in the same bytes.
    let mut object = OBJECT.to_vec();
    let [ours, theirs] = [b"portcullis_xdp", b"another_ns_xdp"];
    for at in 0..object.len() - ours.len() {
        if object[at..].starts_with(ours) {
            object[at..at + ours.len()].copy_from_slice(theirs);
        }
    }
    let mut loaded = EbpfLoader::new().load(&object).unwrap();
    let program: &mut Xdp = loaded
        .program_mut("another_ns_xdp")
        .unwrap()
        .try_into()
        .unwrap();
    program.load().unwrap();
    wire.gateway
        .inside(|| program.attach("gw0", XdpMode::Driver).map(drop))
        .unwrap()
        .unwrap();
    let before = wire.attached().unwrap();

    let error = Agent::start(wire.place(), &["gw0"], &[address(ADMIN)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("XDP program {}", before.program)),
        "{error}"
    );
    assert!(
        error.contains("another_ns_xdp") && error.contains("left alone"),
        "{error}"
    );
    assert_eq!(wire.attached(), Some(before));
}

#[test]
fn a_second_agent_is_refused_with_the_same_pins_and_with_others() {
    for table in ["compiled", "lpm"] {
        second_agent_is_refused(table);
    }
}

fn second_agent_is_refused(table: &str) {
    let wire = Wire::new();
    let table = format!("table = \"{table}\"");
    let first =
        Agent::start_configured(wire.place(), &["gw0"], &[address(ADMIN)], &table, "").unwrap();
    let before = wire.attached();

    let program = locate::binary("portcullis-agent").unwrap();
    let mut command = wire.gateway.command(&program.display().to_string());
    command.args(["run", "--config"]).arg(first.config());
    let output = finish_within(&mut command, PATIENCE).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("another portcullis-agent already runs"),
        "{error}"
    );

    let error = Agent::start(wire.place(), &["gw0"], &[address(ADMIN)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("held by another portcullis-agent"),
        "{error}"
    );

    assert_eq!(wire.attached(), before);
    assert!(first.status().is_ok(), "the first goes on");
}

#[test]
fn a_first_start_that_would_cut_everyone_off_is_refused() {
    let wire = Wire::new();
    let error = Agent::start(wire.place(), &["gw0"], &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("every packet would be dropped"), "{error}");
    assert_eq!(wire.attached(), None);
}

#[test]
fn a_bad_configuration_ends_with_78_and_every_fault() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml");
    fs::write(&config, "interfaces = []\nprotected = [\"192.0.2.1/24\"]\nsurprise = 1\n[bans]\nmax_lifetime = \"long\"\n").unwrap();
    let program = locate::binary("portcullis-agent").unwrap();
    for command in ["check", "run"] {
        let output = finish_within(
            Command::new(&program)
                .args([command, "--config"])
                .arg(&config),
            PATIENCE,
        )
        .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{error}");
        for key in [
            "interfaces: ",
            "protected[0]: ",
            "surprise: ",
            "bans.max_lifetime: ",
        ] {
            assert!(error.contains(key), "{key} in {error}");
        }
    }
    fs::write(&config, "interfaces = [\"eth9\"]\n").unwrap();
    let output = finish_within(
        Command::new(&program)
            .args(["check", "--config"])
            .arg(&config),
        PATIENCE,
    )
    .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let output = finish_within(Command::new(&program).arg("--no-such-flag"), PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_pinned_map_of_another_kind_is_refused_and_not_taken() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    agent.process.terminate().unwrap();
    let directory = fs::read_dir(agent.folder().join("bpf/portcullis"))
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("maps-"))
        .unwrap()
        .path();
    fs::remove_file(directory.join("CONTROL")).unwrap();
    aya::maps::Array::<_, u32>::create(1, 0)
        .map(|map: aya::maps::Array<aya::maps::MapData, u32>| {
            map.pin(directory.join("CONTROL")).unwrap()
        })
        .unwrap();
    let error = agent.start_again(wire.place()).unwrap_err().to_string();
    assert!(
        error.contains("CONTROL") && error.contains("unload --force"),
        "{error}"
    );
    assert!(wire.attached().is_some(), "enforcement goes on meanwhile");
}
