//! Answers over a program that is the same code, run here.

use std::{cell::RefCell, net::IpAddr};

use super::*;
use crate::{
    answers::{question::WhyQuery, testing::report},
    bans::Ban,
    datapath::{Egress, RunsAs},
    entry::Entry,
    lists::ListName,
};

fn now() -> chrono::DateTime<chrono::Utc> {
    "2026-11-22T00:00:00Z".parse().unwrap()
}

fn entry(prefix: &str, change: impl FnOnce(&mut Entry)) -> Cover {
    listed("manual", prefix, change)
}

fn listed(list: &str, prefix: &str, change: impl FnOnce(&mut Entry)) -> Cover {
    let mut entry = Entry::allow(prefix.parse().unwrap());
    change(&mut entry);
    Cover::Entry {
        list: list.parse::<ListName>().unwrap(),
        entry,
        since: None,
    }
}

fn scoped(prefix: &str, scope: &str) -> Cover {
    entry(prefix, |entry| entry.scope = Some(scope.parse().unwrap()))
}

fn denied(prefix: &str) -> Cover {
    entry(prefix, |entry| entry.deny = true)
}

fn banned(prefix: &str) -> Cover {
    Cover::Ban(Ban {
        source: prefix.parse().unwrap(),
        expires: now() + chrono::TimeDelta::minutes(5),
        reason: "scan".to_owned(),
        by: "portcullis-proxy".to_owned(),
    })
}

fn protected(prefix: &str) -> Cover {
    Cover::Protected {
        prefix: prefix.parse().unwrap(),
        origin: "configuration".into(),
    }
}

fn interface(name: &str, index: u32) -> InterfaceStatus {
    InterfaceStatus {
        name: name.to_owned(),
        state: InterfaceState::Enforcing {
            index,
            mode: RunsAs::Native,
            program: 9,
            renamed_to: None,
        },
        egress: Egress::Off,
    }
}

fn known(covering: Vec<Cover>, interfaces: &[InterfaceStatus]) -> Known<'_> {
    Known {
        policy: Policy::default(),
        learns_replies: true,
        limits_rates: false,
        interfaces,
        covering,
        last_drop: None,
        lag: None,
    }
}

fn tcp(address: &str, port: u16) -> WhyQuery {
    WhyQuery {
        address: address.to_owned(),
        protocol: Some("tcp".to_owned()),
        port: Some(port),
        ..WhyQuery::default()
    }
}

/// The answer of a program that has the rules that this host has.
fn ask_with(query: &WhyQuery, known: Known<'_>) -> Result<WhyReply, WhyError> {
    let program = HostRules::new(&known)?;
    let question = Question::new(query, |_| None).unwrap();
    answer(&question, known, |frame, _| {
        let decision = decide(frame, &program);
        Ok(Probe {
            verdict: decision.verdict,
            class: decision.class,
            generation: 12,
            monitored: false,
        })
    })
}

fn ask(query: &WhyQuery, covering: Vec<Cover>) -> WhyReply {
    let interfaces = [interface("gw0", 2)];
    let reply = ask_with(query, known(covering, &interfaces)).unwrap();
    assert_eq!(reply.disagreement, None);
    reply
}

#[test]
fn each_verdict_names_what_decided_and_what_would_let_the_packet_in() {
    let address = "203.0.113.9";
    let wide = || entry("203.0.112.0/22", |_| {});
    for (covering, reason, decided_by, remedy) in [
        (
            vec![],
            "not_listed",
            None,
            Some("allow add 203.0.113.9 --scope tcp/443"),
        ),
        (vec![wide()], "allowed", Some(wide()), None),
        (
            vec![wide(), denied("203.0.113.0/24")],
            "denied",
            Some(denied("203.0.113.0/24")),
            Some("allow remove 203.0.113.0/24"),
        ),
        (
            vec![wide(), banned("203.0.113.9/32")],
            "banned",
            Some(banned("203.0.113.9/32")),
            Some("unban 203.0.113.9/32, or wait until 2026-11-22T00:05:00Z"),
        ),
        (
            vec![banned("203.0.113.0/24"), protected("203.0.113.9/32")],
            "protected",
            Some(protected("203.0.113.9/32")),
            None,
        ),
        (
            vec![scoped("203.0.113.0/24", "tcp/22,udp/53")],
            "out_of_scope",
            Some(scoped("203.0.113.0/24", "tcp/22,udp/53")),
            Some("allow add 203.0.113.9 --scope tcp/443"),
        ),
        (
            vec![
                scoped("203.0.113.0/24", "tcp/22"),
                scoped("203.0.112.0/22", "tcp/443"),
            ],
            "allowed",
            Some(scoped("203.0.112.0/22", "tcp/443")),
            None,
        ),
    ] {
        let reply = ask(&tcp(address, 443), covering.clone());
        assert_eq!(reply.reason, reason, "{covering:?}");
        assert_eq!(reply.decided_by, decided_by, "{covering:?}");
        assert_eq!(reply.passes, remedy.is_none(), "{covering:?}");
        match (&reply.remedy, remedy) {
            (Some(found), Some(wanted)) => assert!(found.contains(wanted), "{found}"),
            (found, wanted) => assert_eq!(found.as_deref(), wanted),
        }
        assert_eq!(reply.covering.len(), covering.len());
        assert_eq!(reply.generation, 12);
    }
}

#[test]
fn what_a_scoped_source_may_use_is_the_sum_of_its_entries() {
    let covering = || {
        vec![
            scoped("203.0.113.0/24", "tcp/22"),
            scoped("203.0.112.0/22", "tcp/443"),
        ]
    };
    for (port, passes) in [(22, true), (23, false), (443, true), (444, false)] {
        let reply = ask(&tcp("203.0.113.9", port), covering());
        assert_eq!(reply.passes, passes, "{port}");
        assert_eq!(reply.scope.unwrap().to_string(), "tcp/22,tcp/443");
        assert_eq!(reply.class, "scoped");
    }
    let query = WhyQuery {
        address: "203.0.113.9".to_owned(),
        ..WhyQuery::default()
    };
    let reply = ask(&query, covering());
    assert!(
        reply.notes.iter().any(|note| note.contains("--port")),
        "{reply:?}"
    );
}

#[test]
fn a_denial_in_a_file_is_to_be_taken_out_there() {
    let file = listed("file:partner.txt", "203.0.113.0/24", |entry| {
        entry.deny = true
    });
    let remedy = ask(&tcp("203.0.113.9", 22), vec![file]).remedy.unwrap();
    assert!(remedy.contains("out of file:partner.txt"), "{remedy}");
}

#[test]
fn a_program_with_other_rules_than_this_host_s_is_reported() {
    let interfaces = [interface("gw0", 2)];
    let question = Question::new(&tcp("203.0.113.9", 22), |_| None).unwrap();
    let with = |verdict, class| {
        let known = known(vec![entry("203.0.113.0/24", |_| {})], &interfaces);
        let probe = |_: &[u8], _| {
            Ok(Probe {
                verdict,
                class,
                generation: 12,
                monitored: false,
            })
        };
        answer(&question, known, probe).unwrap().disagreement
    };
    assert_eq!(with(Verdict::Pass(Pass::Allowed), Class::ALLOWED), None);
    let text = with(Verdict::Drop(Drop::NotListed), Class::NOT_LISTED).unwrap();
    assert!(
        text.contains("says not_listed") && text.contains("say allowed"),
        "{text}"
    );
    assert!(
        with(Verdict::Pass(Pass::Reply), Class::NOT_LISTED).is_some(),
        "a reply explains a source that is not listed, and not a listed one"
    );
}

#[test]
fn a_reply_passes_where_replies_are_learned_and_nowhere_else() {
    let interfaces = [interface("gw0", 2)];
    let question = Question::new(&tcp("203.0.113.9", 22), |_| None).unwrap();
    for learns_replies in [true, false] {
        let known = Known {
            learns_replies,
            ..known(vec![], &interfaces)
        };
        let probe = |_: &[u8], _| {
            Ok(Probe {
                verdict: Verdict::Pass(Pass::Reply),
                class: Class::NOT_LISTED,
                generation: 12,
                monitored: false,
            })
        };
        let reply = answer(&question, known, probe).unwrap();
        assert_eq!(reply.disagreement.is_none(), learns_replies);
        assert!(reply.passes && reply.notes[0].contains("only as a reply"));
    }
}

#[test]
fn each_interface_is_asked_for_and_a_monitored_one_is_named() {
    let interfaces = [
        interface("gw0", 2),
        interface("gw1", 3),
        InterfaceStatus {
            name: "gw2".to_owned(),
            state: InterfaceState::Gone,
            egress: Egress::Off,
        },
    ];
    let asked = RefCell::new(Vec::new());
    let probe = |_: &[u8], index: Option<u32>| {
        asked.borrow_mut().push(index);
        Ok(Probe {
            verdict: Verdict::Drop(Drop::NotListed),
            class: Class::NOT_LISTED,
            generation: 12,
            monitored: index == Some(3),
        })
    };
    let question = Question::new(&tcp("203.0.113.9", 22), |_| None).unwrap();
    let reply = answer(&question, known(vec![], &interfaces), probe).unwrap();
    assert_eq!(*asked.borrow(), [Some(2), Some(3)]);
    let states: Vec<(bool, bool)> = reply
        .interfaces
        .iter()
        .map(|interface| (interface.judged, interface.monitored))
        .collect();
    assert_eq!(states, [(true, false), (true, true), (false, false)]);
    let notes = reply.notes.join("\n");
    assert!(notes.contains("gw1 is monitored") && notes.contains("gw2 is not enforced"));

    let only = |name: &str| Question {
        interface: Some(name.to_owned()),
        ..question.clone()
    };
    let reply = answer(&only("gw1"), known(vec![], &interfaces), probe).unwrap();
    assert_eq!(reply.interfaces.len(), 1);
    assert!(matches!(
        answer(&only("gw3"), known(vec![], &interfaces), probe),
        Err(WhyError::NoSuchInterface { .. })
    ));
}

#[test]
fn a_nat64_source_is_looked_up_as_the_ipv4_address_in_it_if_that_is_configured() {
    let address: IpAddr = "64:ff9b::203.0.113.9".parse().unwrap();
    for (nat64, judged) in [(true, "203.0.113.9"), (false, "64:ff9b::cb00:7109")] {
        let policy = Policy {
            nat64,
            ..Policy::default()
        };
        assert_eq!(judged_address(address, policy).to_string(), judged);
        let known = Known {
            policy,
            ..known(vec![entry("203.0.113.0/24", |_| {})], &[])
        };
        let reply = ask_with(&tcp(&address.to_string(), 22), known).unwrap();
        assert_eq!(reply.passes, nat64);
        assert_eq!(reply.judged_as.is_some(), nat64);
        assert!(reply.notes[0].contains("no interface is enforced on"));
    }
}

#[test]
fn what_is_known_beside_the_verdict_is_told() {
    let interfaces = [interface("gw0", 2)];
    let last_drop = LastDrop {
        report: report("203.0.113.9"),
        reported: 7,
    };
    let known = Known {
        last_drop: Some(last_drop.clone()),
        lag: Some("no memory".to_owned()),
        ..known(vec![], &interfaces)
    };
    let reply = ask_with(&tcp("203.0.113.9", 22), known).unwrap();
    assert_eq!(reply.last_drop, Some(last_drop));
    assert!(reply.notes[0].contains("no memory"));
    let text = serde_json::to_string(&reply).unwrap();
    assert_eq!(serde_json::from_str::<WhyReply>(&text).unwrap(), reply);
}
