use chrono::{TimeDelta, Utc};
use portcullis_journal::{AccountKind, Actor, Event, Verdict, read::Part};
use serde_json::json;

use super::*;
use crate::{
    merge::Merge,
    testing::{ALICE, BOB, Log},
};

const SCRIPT: &str = "<script>alert('x')</script>\"&\u{202e}";

fn report_of(log: &Log, period: Period, is_business: &dyn Fn(DateTime<Utc>) -> bool) -> Report {
    let logs = [log.path()];
    let scope = Scope {
        period,
        zone: chrono_tz::Europe::Berlin,
        hours: "Mon-Fri 07:00-19:00".to_owned(),
        is_business,
        bulk_files: 3,
        bulk_bytes: 1 << 20,
    };
    let mut counting = Counting::new(scope, &logs);
    let mut merge = Merge::of(&logs, &Part::default()).unwrap();
    while let Some((log, record)) = merge.next(&|line| counting.matters(line)).unwrap() {
        counting.hear(log, &record);
    }
    counting.finish()
}

fn today() -> Period {
    let now = Utc::now();
    Period {
        from: now - TimeDelta::hours(1),
        until: now + TimeDelta::hours(1),
    }
}

fn admin(kind: EventKind, body: Value) -> Event {
    let mut event = Event::new(kind);
    event.outcome = Some(Verdict::Success);
    event.user = Some(Actor {
        uid: None,
        name: "uid:0".to_owned(),
        kind: Some(AccountKind::Admin),
    });
    let Value::Object(body) = body else {
        panic!("a body is an object")
    };
    event.body = body;
    event
}

fn download(bytes: u64) -> Event {
    let body = json!({ "direction": "download", "path": "/a", "handle_id": 1, "bytes": bytes });
    BOB.event(EventKind::TransferSummary, Verdict::Success, body)
}

fn login() -> Event {
    ALICE.event(
        EventKind::AuthResult,
        Verdict::Success,
        json!({ "is_mfa": true }),
    )
}

#[test]
fn what_happened_is_counted_and_nothing_from_outside_the_period() {
    let mut failed = ALICE.event(
        EventKind::AuthStep,
        Verdict::Failure,
        json!({ "method": "password" }),
    );
    failed.reason = Some("bad_password".to_owned());
    let log = Log::of(
        [
            vec![login(), failed, download(5), download(6)],
            ALICE.done(1, "stat", b"/x"),
            vec![
                ALICE.event(
                    EventKind::OperationDenied,
                    Verdict::Deny,
                    json!({ "sftp_op": "open", "path": "/x" }),
                ),
                admin(
                    EventKind::BanChange,
                    json!({ "action": "ban", "source": "192.0.2.9/32" }),
                ),
                admin(
                    EventKind::AllowChange,
                    json!({ "action": "apply", "added": 1 }),
                ),
                admin(EventKind::LogRead, json!({ "command": "search" })),
            ],
        ]
        .concat(),
    );
    let report = report_of(&log, today(), &|_| true);
    let totals = Totals {
        logins: 1,
        failures: 1,
        denials: 1,
        downloads: 2,
        download_bytes: 11,
        ..Totals::default()
    };
    assert_eq!(report.totals, totals);
    assert!(report.days.values().any(|day| *day == totals));
    assert_eq!(report.people["bob"].downloads, 2);
    assert_eq!(report.week.iter().flatten().sum::<u64>(), 1);
    assert_eq!(report.failures_by_reason.top(), [("bad_password", 1)]);
    assert_eq!(report.failures_by_source.top(), [("192.0.2.7", 1)]);
    assert_eq!(report.bans.entries[0].what, "ban 192.0.2.9/32");
    assert_eq!(report.list_changes.entries.len(), 1);
    assert_eq!(report.readings.top(), [("uid:0 search", 1)]);
    assert!(report.bulk_downloads.entries.is_empty());
    let before = Period {
        from: Utc::now() - TimeDelta::hours(3),
        until: Utc::now() - TimeDelta::hours(2),
    };
    assert_eq!(report_of(&log, before, &|_| true).totals, Totals::default());
}

#[test]
fn a_day_on_which_nothing_happened_is_shown() {
    let log = Log::of(Vec::new());
    let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
    let period = Period {
        from: at("2001-03-01T00:00:00Z"),
        until: at("2001-03-04T00:00:00Z"),
    };
    let report = report_of(&log, period, &|_| true);
    // In Berlin the period ends an hour after midnight.
    let days: Vec<_> = report.days.keys().map(String::as_str).collect();
    assert_eq!(
        days,
        ["2001-03-01", "2001-03-02", "2001-03-03", "2001-03-04"]
    );
    assert!(report.html().unwrap().contains("03-02"));
}

#[test]
fn many_downloads_or_large_ones_of_a_day_are_bulk() {
    for (downloads, expected) in [
        (vec![download(1); 2], 0),
        (vec![download(1); 3], 1),
        (vec![download(1 << 20)], 1),
    ] {
        let log = Log::of(downloads);
        let report = report_of(&log, today(), &|_| true);
        assert_eq!(report.bulk_downloads.entries.len(), expected);
        assert!(
            report
                .bulk_downloads
                .entries
                .iter()
                .all(|entry| entry.who == "bob")
        );
    }
}

#[test]
fn a_login_outside_business_hours_is_named() {
    let log = Log::of(vec![login()]);
    assert_eq!(
        report_of(&log, today(), &|_| false).off_hours.entries.len(),
        1
    );
    assert_eq!(
        report_of(&log, today(), &|_| true).off_hours.entries.len(),
        0
    );
}

#[test]
fn a_relaxation_from_before_the_period_counts_until_it_is_taken_back() {
    let started =
        |exceptions: Value| admin(EventKind::AppStart, json!({ "exceptions": exceptions }));
    let plain = json!({
        "backend": "old", "what": "plaintext", "reason": "no TLS there", "approver": "carol", "expires": "2027-01-31",
    });
    let pair = json!({
        "action": "policy", "account": "alice", "policy": "possession-pair", "reason": "token", "approver": "dora",
        "expires": "2026-12-31",
    });
    let strict = json!({ "action": "policy", "account": "alice", "policy": "two-class" });
    let later = Period {
        from: Utc::now() + TimeDelta::hours(1),
        until: Utc::now() + TimeDelta::hours(2),
    };
    let set = [
        started(json!([plain])),
        admin(EventKind::AdminAccount, pair),
    ];
    let log = Log::of(set.to_vec());
    for period in [today(), later] {
        let report = report_of(&log, period, &|_| true);
        let owners: Vec<_> = report
            .relaxations
            .all()
            .map(|found| found.owner.as_str())
            .collect();
        assert_eq!(owners, ["dora", "carol"]);
        assert!(report.relaxations.all().all(|found| found.ended.is_none()));
    }
    log.add(vec![
        started(json!([])),
        admin(EventKind::AdminAccount, strict),
    ]);
    let report = report_of(&log, today(), &|_| true);
    assert!(
        report.relaxations.all().count() == 2
            && report.relaxations.all().all(|found| found.ended.is_some())
    );
    assert_eq!(
        report_of(&log, later, &|_| true).relaxations.all().count(),
        0
    );
}

#[test]
fn nothing_that_a_peer_wrote_is_a_part_of_the_page_or_moves_the_terminal() {
    let mut claimed = login();
    if let Some(user) = &mut claimed.user {
        user.name = format!("{SCRIPT}\x1b[2J\n");
    }
    let denied = json!({ "sftp_op": SCRIPT, "path": format!("/{SCRIPT}\n") });
    let mut step = ALICE.event(EventKind::AuthStep, Verdict::Failure, json!({}));
    step.reason = Some(SCRIPT.to_owned());
    step.user.clone_from(&claimed.user);
    let relaxed =
        json!({ "action": "policy", "account": SCRIPT, "policy": SCRIPT, "reason": SCRIPT });
    let log = Log::of(vec![
        claimed,
        step,
        ALICE.event(EventKind::OperationDenied, Verdict::Deny, denied),
        admin(EventKind::AdminAccount, relaxed),
        admin(
            EventKind::BanChange,
            json!({ "action": SCRIPT, "source": SCRIPT }),
        ),
    ]);
    let report = report_of(&log, today(), &|_| false);
    let html = report.html().unwrap();
    assert!(
        html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;"),
        "escaped"
    );
    assert!(
        !html.to_ascii_lowercase().contains("<script"),
        "not escaped"
    );
    assert!(!html.contains('\u{202e}') && !html.contains('\x1b'));
    assert_eq!(html.matches("<svg").count(), 3);
    for outside in [
        "http-equiv=\"refresh\"",
        "<img",
        "<link",
        "<iframe",
        "src=",
        "href=",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
    let summary = report.summary();
    assert!(
        summary.chars().all(|c| c == '\n' || !c.is_control()),
        "{summary}"
    );
    assert!(!summary.contains('\u{202e}'), "{summary}");
    let back: Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(back["totals"]["logins"], 1);
}
