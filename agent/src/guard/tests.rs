use ipnet::IpNet;

use super::*;
use crate::{
    entry::Entry,
    lists::{List, ListName, Step},
};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn entry(prefix: &str, scope: Option<&str>) -> Entry {
    Entry {
        scope: scope.map(|text| text.parse().unwrap()),
        ..Entry::allow(net(prefix))
    }
}

fn lists(entries: &[Entry]) -> Lists {
    let list: List = entries.iter().cloned().collect();
    [(ListName::manual(), list)].into_iter().collect()
}

fn peer(address: &str, port: u16) -> LivePeer {
    LivePeer {
        address: address.parse().unwrap(),
        protocol: TCP,
        local_port: port,
    }
}

/// What a change of the lists cuts, judged step by step and as a whole: both must agree.
fn cut(before: &Lists, after: &Lists, others: &[Rule], peers: &[LivePeer]) -> Impact {
    let edits = before.delta_to(after).rule_edits();
    let observed: Vec<ObservedSource> = peers
        .iter()
        .map(|peer| ObservedSource {
            address: peer.address,
            packets: u64::from(peer.local_port),
        })
        .collect();
    let session = peers.first().map(|peer| Session {
        client: peer.address,
        port: peer.local_port,
    });
    let [steps, whole] = [None, Some(after)].map(|after| {
        let change = ListChange {
            others,
            lists: before,
            edits: &edits,
            after,
        };
        impact(&change, session, peers, &observed)
    });
    assert_eq!(steps, whole);
    steps
}

#[test]
fn who_passes_and_would_not_is_cut_and_nobody_else_is() {
    let before = lists(&[entry("203.0.113.0/24", None)]);
    let after = lists(&[entry("203.0.113.0/25", None)]);
    let peers = [
        peer("203.0.113.1", 22),
        peer("203.0.113.200", 22),
        peer("198.51.100.1", 443),
    ];
    let cut = cut(&before, &after, &[], &peers);
    assert_eq!(cut.own_session, None);
    assert_eq!((cut.cut_flows, cut.flows), (1, vec![peers[1]]));
    assert_eq!(cut.sources.len(), 1);
}

#[test]
fn a_scope_that_loses_the_port_of_a_flow_cuts_it_and_one_that_keeps_it_does_not() {
    let before = lists(&[entry("203.0.113.0/24", None)]);
    let peers = [peer("203.0.113.1", 22)];
    let kept = lists(&[entry("203.0.113.0/24", Some("tcp/22"))]);
    assert_eq!(cut(&before, &kept, &[], &peers).cut_flows, 0);
    let lost = lists(&[entry("203.0.113.0/24", Some("tcp/443"))]);
    let cut = cut(&before, &lost, &[], &peers);
    assert_eq!(cut.cut_flows, 1);
    assert_eq!(cut.own_session, Some(peers[0].address));
    assert_eq!(
        cut.admit(10),
        Err(Refusal::OwnSession {
            address: peers[0].address
        })
    );
}

#[test]
fn a_protected_source_is_never_cut() {
    let before = lists(&[entry("203.0.113.0/24", None)]);
    let protect = Rule {
        prefix: net("203.0.113.1/32"),
        action: Action::Protect,
    };
    let cut = cut(
        &before,
        &Lists::default(),
        &[protect],
        &[peer("203.0.113.1", 22), peer("203.0.113.2", 22)],
    );
    assert_eq!(cut.own_session, None);
    assert_eq!(cut.cut_flows, 1);
}

#[test]
fn as_many_flows_as_the_limit_are_admitted_and_one_more_is_not() {
    let before = lists(&[entry("203.0.113.0/24", None)]);
    let peers: Vec<LivePeer> = (1..=4)
        .map(|host| peer(&format!("203.0.113.{host}"), 22))
        .collect();
    let change = ListChange {
        others: &[],
        lists: &before,
        edits: &before.delta_to(&Lists::default()).rule_edits(),
        after: None,
    };
    let impact = impact(&change, None, &peers, &[]);
    assert_eq!(impact.admit(4), Ok(()));
    assert!(matches!(
        impact.admit(3),
        Err(Refusal::Flows {
            flows: 4,
            limit: 3,
            ..
        })
    ));
}

#[test]
fn examples_say_which_list_and_what() {
    let step = Step::put(None, entry("203.0.113.0/24", Some("tcp/22"))).unwrap();
    let delta: Delta = [("file:a.txt".parse().unwrap(), vec![step])]
        .into_iter()
        .collect();
    assert_eq!(
        examples(&delta).added,
        ["file:a.txt: 203.0.113.0/24 tcp/22"]
    );
}
