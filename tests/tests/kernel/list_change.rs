//! No packet from outside the list reaches userspace, and none from inside is lost, while the list changes.

use std::fs;

use crate::{
    bad_input::Enforced,
    stage::{PARTNER, PARTNER6, STRANGER, STRANGER6, Wire},
    traffic::Traffic,
};

#[test]
fn replacing_the_list_again_and_again_under_traffic_has_no_violation() {
    let wire = Wire::new();
    let agent = wire.agent();
    let files = ["198.51.100.0/24", "203.0.113.0/24\n2001:db8:ffff::/48"].map(|others| {
        let file = agent.folder().join(format!("list-{}", others.len()));
        fs::write(&file, format!("{PARTNER}\n{PARTNER6}\n{others}\n")).unwrap();
        file.display().to_string()
    });
    let before = agent.status().unwrap()["generation"].as_u64().unwrap();
    let traffic = Traffic::start(&wire, &[PARTNER, PARTNER6], &[STRANGER, STRANGER6]);
    let rounds = 30;
    for round in 0..rounds {
        agent
            .command(&["allow", "replace", &files[round % 2]])
            .unwrap();
    }
    traffic.flows();
    let count = traffic.count();
    let after = agent.status().unwrap()["generation"].as_u64().unwrap();
    assert_eq!(
        after - before,
        rounds as u64,
        "every replacement was a generation of its own"
    );
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
fn a_list_file_with_one_bad_line_changes_nothing() {
    let wire = Wire::new();
    let agent = wire.agent();
    let before = agent.command(&["allow", "list"]).unwrap();
    let file = agent.folder().join("list");
    fs::write(&file, "203.0.113.0/24\n203.0.113.7/24\n").unwrap();
    let error = agent
        .command(&["allow", "replace", &file.display().to_string()])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("list:2:1: ") && error.contains("did you mean 203.0.113.0/24?"),
        "{error}"
    );
    fs::write(&file, "# nothing\n").unwrap();
    let error = agent
        .command(&["allow", "replace", &file.display().to_string()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("--empty"), "{error}");
    assert_eq!(agent.command(&["allow", "list"]).unwrap(), before);
}

#[test]
fn sources_that_are_seen_to_pass_and_would_be_cut_are_named_before_it_happens() {
    let wire = Wire::new();
    let agent = wire.agent();
    let before = Enforced::by(&agent);
    let file = agent.folder().join("list.txt");
    fs::write(&file, format!("{PARTNER6}\n")).unwrap();
    let file = file.display().to_string();
    let traffic = Traffic::start(&wire, &[PARTNER, PARTNER6], &[STRANGER, STRANGER6]);
    let arguments = ["allow", "replace", &file, "--observe", "2s", "--dry-run"];
    let said = agent.command(&arguments).unwrap();
    let (_, cut) = said
        .split_once("cuts sources that pass now")
        .unwrap_or_else(|| panic!("{said}"));
    assert!(cut.contains(PARTNER), "{said}");
    for other in [PARTNER6, STRANGER, STRANGER6] {
        assert!(!cut.contains(other), "{other}: {said}");
    }
    assert_eq!(Enforced::by(&agent), before);
    let count = traffic.count();
    assert_eq!(
        (count.forbidden_received, count.allowed_lost),
        (0, 0),
        "{count:?}"
    );
    agent.command(&arguments[..5]).unwrap();
    let list = agent.command(&["allow", "list"]).unwrap();
    assert!(list.contains(PARTNER6) && !list.contains(PARTNER), "{list}");
}
