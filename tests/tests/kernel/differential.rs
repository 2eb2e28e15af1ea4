//! The loaded program, the verdict on the host and an oracle that shares no code with them are the same function.

use portcullis_agent::datapath::mode::TableChoice;
use portcullis_tests::differential::{Plan, Tally, run};

use crate::loaded::Loaded;

/// As many as a debug build judges in seconds, on both kinds of table.
const PLAN: Plan = Plan {
    seed: 0x9e37_79b9_7f4a_7c15,
    lists: 100,
    frames: 300,
    rules: 60,
};

#[test]
fn the_compiled_table_decides_as_the_host_and_the_oracle_do() {
    check(&mut Loaded::both_ways(TableChoice::Compiled).unwrap(), PLAN);
}

#[test]
fn the_kernels_own_tries_decide_as_the_host_and_the_oracle_do() {
    let plan = Plan {
        seed: PLAN.seed + 1,
        ..PLAN
    };
    check(&mut Loaded::both_ways(TableChoice::Lpm).unwrap(), plan);
}

fn check(loaded: &mut Loaded, plan: Plan) {
    let tally: Tally = run(plan, loaded).unwrap();
    println!("{tally}");
    assert_eq!(tally.mismatches, 0, "{tally}");
    assert!(
        tally.comparisons >= 2 * u64::from(plan.lists * plan.frames),
        "{tally}"
    );
    // The generators reach all that they are meant to reach. Shorter frames than an Ethernet header can't be fed to the kernel; no flow
    // is learned here and nothing limited.
    let expected = [
        "allowed",
        "arp",
        "bad_ipv4",
        "bad_ipv6",
        "banned",
        "denied",
        "fragment",
        "link_control",
        "long_extension_chain",
        "neighbour_discovery",
        "not_listed",
        "other_ethernet",
        "other_ethernet_passed",
        "out_of_scope",
        "protected",
        "short_ethernet",
        "short_ipv4",
        "short_ipv6",
        "too_many_tags",
        "unknown_extension_header",
    ];
    let seen: Vec<&str> = tally.reasons.keys().copied().collect();
    assert_eq!(seen, expected, "{tally}");
}
