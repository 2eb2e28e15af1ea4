//! The answers of `why`, `watch` and `top`, as they are described.

use super::*;
use crate::answers::{recent::TopReply, report::DropReport, why::WhyReply};

fn report() -> Value {
    json!({
        "time": "2026-11-22T02:50:16.242Z", "interface": "gw0", "reason": "not_listed", "source": "198.51.100.7",
        "ethertype": 0x0800, "protocol": 6, "source_port": 40000, "destination_port": 22, "vlan": 7, "length": 60,
        "generation": 4, "monitored": false, "head": "00ff"
    })
}

/// An answer as it would be written: with what is read from `value`.
fn answer<T: Serialize + serde::de::DeserializeOwned>(mut value: Value, without: &[&str]) -> Value {
    for name in without {
        value.as_object_mut().unwrap().remove(*name);
    }
    serde_json::to_value(serde_json::from_value::<T>(value).unwrap()).unwrap()
}

#[test]
fn a_report_of_a_drop_is_described() {
    check(
        "DropReport",
        &answer::<DropReport>(report(), &[]),
        Some(&answer::<DropReport>(report(), &["source", "vlan", "head"])),
    );
}

#[test]
fn an_answer_of_why_is_described_with_everything_that_covers() {
    let covers = json!([
        {
            "kind": "entry", "list": "manual", "prefix": "198.51.100.0/24", "deny": true, "owner": "a", "ticket": "b",
            "comment": "c", "expires": "2026-12-31T00:00:00Z",
            "since": { "revision": 4, "time": "2026-11-20T08:00:00Z", "by": "alice" }
        },
        { "kind": "entry", "list": "manual", "prefix": "198.51.0.0/16", "scope": "tcp/22" },
        { "kind": "ban", "source": "198.51.100.7/32", "expires": "2026-11-22T03:00:00Z", "reason": "scan", "by": "root" },
        { "kind": "protected", "prefix": "198.51.100.7/32", "origin": "configuration" }
    ]);
    let full = json!({
        "address": "64:ff9b::c633:6407", "judged_as": "198.51.100.7",
        "packet": {
            "protocol": 6, "protocol_name": "tcp", "source_port": 50000, "destination": "192.0.2.1",
            "destination_port": 22, "vlans": [7], "syn": true, "later_fragment": false
        },
        "passes": false, "reason": "out_of_scope", "meaning": "The source is allowed.", "class": "scoped", "generation": 12,
        "interfaces": [{ "name": "eth0", "judged": true, "monitored": false }],
        "decided_by": covers[0], "covering": covers, "scope": "tcp/22",
        "last_drop": { "report": report(), "reported": 3 },
        "remedy": "allow add", "notes": ["look"], "disagreement": "drift"
    });
    let absent = [
        "judged_as",
        "decided_by",
        "scope",
        "last_drop",
        "remedy",
        "disagreement",
    ];
    check(
        "WhyReply",
        &answer::<WhyReply>(full.clone(), &[]),
        Some(&answer::<WhyReply>(full, &absent)),
    );
}

#[test]
fn rates_and_the_most_dropped_are_described() {
    let line = |source: &str| json!({ "source": source, "share": 0.25, "reported": 3, "error": 1, "reason": "banned" });
    let full = json!({
        "rates": [{ "fate": "would_drop", "reason": "banned", "per_second": 1.5, "per_second_of_ten": 0.5, "total": 9 }],
        "sources": [line("198.51.100.7")], "prefixes": [line("198.51.100.0/24")], "sampled_seconds": 42, "reported": 12
    });
    let full = answer::<TopReply>(full, &[]);
    check("TopReply", &full, Some(&full));
}
