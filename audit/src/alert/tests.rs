use chrono::TimeZone as _;
use portcullis_journal::record::untrusted;
use serde_json::json;

use super::*;

fn rule(watched: Watched) -> Rule {
    Rule {
        name: "rule".to_owned(),
        watched,
        window: TimeDelta::minutes(10),
        quiet: TimeDelta::minutes(60),
        to: vec!["pager".to_owned()],
    }
}

fn at(second: i64) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 23, 8, 0, 0).unwrap() + TimeDelta::seconds(second)
}

fn record(second: i64, event: EventKind, outcome: &str, user: &str, body: Value) -> Record {
    let time = at(second).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    serde_json::from_value(json!({
        "v": 1, "seq": second, "ts": time, "mono_ns": 1, "node": "gw1", "boot_id": "b", "prev": "00",
        "event": event.name(), "outcome": outcome, "reason": "why",
        "user": { "name": user, "type": "human", "uid": 3 },
        "src": { "ip": "192.0.2.7", "port": 5000 },
        "body": body,
    }))
    .unwrap()
}

fn failure(second: i64, user: &str) -> Record {
    record(second, EventKind::AuthStep, "failure", user, json!({}))
}

/// Alerts of records, in order.
fn alerts(watched: Watched, records: &[Record]) -> Vec<Alert> {
    let mut engine = Engine::new(vec![rule(watched)]);
    records
        .iter()
        .flat_map(|record| engine.hear(record))
        .collect()
}

fn brute(per: Per) -> Watched {
    Watched::BruteForce { failures: 3, per }
}

#[test]
fn the_third_failure_of_three_is_an_alert_and_the_second_is_none() {
    let two = [failure(1, "alice"), failure(2, "alice")];
    assert_eq!(alerts(brute(Per::User), &two), []);
    let three = [
        failure(1, "alice"),
        failure(2, "alice"),
        failure(3, "alice"),
    ];
    let found = alerts(brute(Per::User), &three);
    assert_eq!(found.len(), 1);
    let alert = &found[0];
    assert_eq!((alert.subject.as_str(), alert.count), ("alice", 3));
    assert_eq!((alert.first, alert.last, alert.held_back), (1, 3, 0));
    assert_eq!((alert.kind, alert.unit), ("brute_force", "failures"));
}

#[test]
fn a_right_password_is_no_failure() {
    let mut records = vec![failure(1, "alice"), failure(2, "alice")];
    records.push(record(
        3,
        EventKind::AuthStep,
        "success",
        "alice",
        json!({}),
    ));
    assert_eq!(alerts(brute(Per::User), &records), []);
}

#[test]
fn the_window_includes_its_last_second_and_nothing_after() {
    let within = [
        failure(0, "alice"),
        failure(1, "alice"),
        failure(600, "alice"),
    ];
    assert_eq!(alerts(brute(Per::User), &within).len(), 1);
    let beyond = [
        failure(0, "alice"),
        failure(1, "alice"),
        failure(601, "alice"),
    ];
    assert_eq!(alerts(brute(Per::User), &beyond), []);
}

#[test]
fn users_are_counted_apart_and_sources_across_users() {
    let records = [failure(1, "alice"), failure(2, "bob"), failure(3, "carol")];
    assert_eq!(alerts(brute(Per::User), &records), []);
    let found = alerts(brute(Per::Source), &records);
    assert_eq!(found[0].subject, "192.0.2.7");
}

#[test]
fn a_subject_is_quiet_for_its_time_and_the_next_alert_says_what_was_held_back() {
    let mut records: Vec<Record> = (1..=9).map(|second| failure(second, "alice")).collect();
    let last = 3 + 60 * 60;
    // The window begins anew: what was held back has been counted.
    records.extend((last - 3..last).map(|second| failure(second, "alice")));
    let found = alerts(brute(Per::User), &records);
    assert_eq!(found.len(), 1, "one second before the hour is over");
    records.extend((last..last + 3).map(|second| failure(second, "alice")));
    let found = alerts(brute(Per::User), &records);
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].held_back, 3);
}

#[test]
fn quiet_of_one_subject_is_not_that_of_another() {
    let mut records: Vec<Record> = (1..=3).map(|second| failure(second, "alice")).collect();
    records.extend((4..=6).map(|second| failure(second, "bob")));
    assert_eq!(alerts(brute(Per::User), &records).len(), 2);
}

#[test]
fn subjects_without_end_push_out_the_oldest_and_no_other() {
    let mut engine = Engine::new(vec![rule(brute(Per::User))]);
    engine.hear(&failure(1, "first"));
    engine.hear(&failure(1, "first"));
    for name in 0..10_000 {
        if name == 5_000 {
            engine.hear(&failure(2, "kept"));
            engine.hear(&failure(2, "kept"));
        }
        engine.hear(&failure(2, &format!("name{name}")));
    }
    assert_eq!(engine.hear(&failure(3, "first")), [], "forgotten");
    assert_eq!(engine.hear(&failure(3, "kept")).len(), 1);
}

fn transfer(second: i64, direction: &str, bytes: u64) -> Record {
    let body = json!({ "direction": direction, "bytes": bytes });
    record(second, EventKind::TransferSummary, "success", "alice", body)
}

#[test]
fn downloads_alert_by_bytes_or_by_files() {
    let watched = Watched::MassDownload {
        bytes: Some(1000),
        files: Some(3),
    };
    let less = [transfer(1, "download", 500), transfer(2, "download", 499)];
    assert_eq!(alerts(watched.clone(), &less), []);
    let bytes = [transfer(1, "download", 500), transfer(2, "download", 500)];
    assert_eq!(alerts(watched.clone(), &bytes)[0].unit, "bytes");
    let files = [1, 2, 3].map(|second| transfer(second, "download", 1));
    assert_eq!(alerts(watched.clone(), &files)[0].unit, "files");
    let uploads = [1, 2, 3].map(|second| transfer(second, "upload", 1000));
    assert_eq!(alerts(watched, &uploads), []);
}

#[test]
fn a_login_outside_the_hours_alerts_and_one_within_does_not() {
    let hours = Hours {
        text: "before nine".to_owned(),
        have: Arc::new(|moment| moment < at(3600)),
    };
    let login =
        |second, outcome| record(second, EventKind::AuthResult, outcome, "alice", json!({}));
    let watched = Watched::OffHours(hours);
    assert_eq!(alerts(watched.clone(), &[login(3599, "success")]), []);
    assert_eq!(alerts(watched.clone(), &[login(3600, "failure")]), []);
    let found = alerts(watched, &[login(3600, "success")]);
    assert_eq!(
        (found[0].subject.as_str(), found[0].unit),
        ("alice", "logins")
    );
}

#[test]
fn denials_alert_at_their_threshold() {
    let watched = Watched::DenialBurst {
        denials: 2,
        per: Per::User,
    };
    let denied = |second| {
        let body = json!({ "path": untrusted(b"/x") });
        record(second, EventKind::OperationDenied, "deny", "alice", body)
    };
    assert_eq!(alerts(watched.clone(), &[denied(1)]), []);
    assert_eq!(alerts(watched, &[denied(1), denied(2)]).len(), 1);
}

#[test]
fn an_exception_alerts_once_its_end_is_near_and_again_after_the_quiet_time() {
    let start = |expires: &str| {
        let body =
            json!({ "exceptions": [{ "sink": "siem", "what": "plaintext", "expires": expires }] });
        record(0, EventKind::AppStart, "success", "root", body)
    };
    let watched = Watched::RelaxationExpiring { days: 14 };
    assert_eq!(alerts(watched.clone(), &[start("2026-12-08")]), []);
    let found = alerts(watched.clone(), &[start("2026-12-07")]);
    assert_eq!(found[0].subject, "sink siem: plaintext");

    let mut engine = Engine::new(vec![rule(watched)]);
    assert_eq!(engine.hear(&start("2026-12-08")), []);
    assert_eq!(engine.tick(at(86_400)).len(), 1, "a day later");
    assert_eq!(engine.tick(at(86_400 + 3599)), []);
    assert_eq!(engine.tick(at(86_400 + 3600)).len(), 1);
    let gone = record(
        1,
        EventKind::ConfigChange,
        "success",
        "root",
        json!({ "exceptions": [] }),
    );
    engine.hear(&gone);
    assert_eq!(engine.tick(at(10 * 86_400)), []);
}

#[test]
fn failures_of_the_log_itself_alert_at_once_and_recoveries_do_not() {
    for (watched, event, body, subject) in [
        (
            Watched::VerifyFailed,
            EventKind::LogVerify,
            json!({ "segment": "000000000000.jsonl" }),
            "000000000000.jsonl",
        ),
        (
            Watched::SinkBehind {
                seconds: 300,
                records: 1000,
            },
            EventKind::LogSink,
            json!({ "sink": "siem" }),
            "siem",
        ),
        (Watched::Disk, EventKind::LogDisk, json!({}), "why"),
        (
            Watched::Disk,
            EventKind::ManifestWritten,
            json!({}),
            "manifest why",
        ),
    ] {
        let bad = record(1, event, "failure", "root", body.clone());
        assert_eq!(alerts(watched.clone(), &[bad])[0].subject, subject);
        let good = record(1, event, "success", "root", body);
        assert_eq!(alerts(watched, &[good]), []);
    }
}

#[test]
fn a_finding_among_stored_files_alerts_and_a_look_that_found_none_does_not() {
    let body = json!({ "backend": "archive", "finding": "altered" });
    let finding = record(1, EventKind::RestFinding, "failure", "root", body);
    let found = alerts(Watched::FilesAltered, &[finding]);
    assert_eq!(found[0].subject, "archive");
    let sound = record(1, EventKind::RestVerify, "success", "root", json!({}));
    assert_eq!(alerts(Watched::FilesAltered, &[sound]), []);
}

#[test]
fn a_log_that_its_witness_refuses_alerts_and_a_witness_that_is_away_does_not() {
    let told = |reason: &str| {
        let body = json!({ "witness": "w.example/1" });
        let mut record = record(1, EventKind::LogWitness, "failure", "root", body);
        record.reason = Some(reason.to_owned());
        let alerts = alerts(Watched::VerifyFailed, &[record]);
        alerts.first().map(|alert| alert.subject.clone())
    };
    for alarm in ["shorter", "inconsistent", "altered"] {
        assert_eq!(told(alarm).as_deref(), Some("w.example/1"));
    }
    for trouble in ["down", "refused", "forgot", "deleted"] {
        assert_eq!(told(trouble), None);
    }
    assert!(Engine::hears(b"log.witness"));
}

#[test]
fn a_sink_is_behind_by_time_or_by_records() {
    let watched = Watched::SinkBehind {
        seconds: 300,
        records: 1000,
    };
    let behind = |seconds: u64, records: u64| {
        let body = json!({ "sink": "siem", "lag_seconds": seconds, "lag_records": records });
        let mut record = record(1, EventKind::LogSink, "failure", "root", body);
        record.reason = Some("behind".to_owned());
        alerts(watched.clone(), &[record]).len()
    };
    assert_eq!(behind(299, 999), 0);
    assert_eq!(behind(300, 0), 1);
    assert_eq!(behind(0, 1000), 1);
}

#[test]
fn what_time_alone_brings_is_said_after_a_restart_unless_it_is_on_record() {
    let body =
        json!({ "exceptions": [{ "sink": "siem", "what": "plaintext", "expires": "2026-12-01" }] });
    let start = record(0, EventKind::AppStart, "success", "root", body);
    let mut engine = Engine::new(vec![rule(Watched::RelaxationExpiring { days: 14 })]);
    engine.remember(&start);
    assert_eq!(engine.tick(at(1)).len(), 1, "nobody said it");

    let mut engine = Engine::new(vec![rule(Watched::RelaxationExpiring { days: 14 })]);
    engine.remember(&start);
    let said = json!({ "rule": "rule", "subject": "sink siem: plaintext" });
    engine.remember(&record(1, EventKind::LogAlert, "success", "root", said));
    assert_eq!(engine.tick(at(1)), []);
    assert_eq!(engine.tick(at(3601)).len(), 1);
}

#[test]
fn made_up_names_give_so_many_alerts_and_the_next_says_how_many_were_held_back() {
    let mut engine = Engine::new(vec![rule(brute(Per::User))]);
    let mut attack = |second: i64, name: &str| -> Vec<Alert> {
        let records = [0, 1, 2].map(|_| failure(second, name));
        records
            .iter()
            .flat_map(|record| engine.hear(record))
            .collect()
    };
    let given: usize = (0..60)
        .map(|name| attack(1, &format!("name{name}")).len())
        .sum();
    assert_eq!(given, 50);
    assert_eq!(attack(3600, "last"), [], "a second early");
    assert_eq!(attack(3601, "last")[0].held_back, 11);
}

#[test]
fn steady_work_below_the_threshold_is_no_alert_however_long_and_however_much() {
    let watched = Watched::MassDownload {
        bytes: None,
        files: Some(2000),
    };
    let mut engine = Engine::new(vec![rule(watched)]);
    // Three a second: 1800 in each window of ten minutes.
    for second in 0..3 * 600 {
        for _ in 0..3 {
            assert_eq!(engine.hear(&transfer(second, "download", 1)), []);
        }
    }
    let burst = (0..400).map(|_| engine.hear(&transfer(1800, "download", 1)).len());
    assert_eq!(burst.sum::<usize>(), 1);
}

#[test]
fn a_subject_costs_little_however_often_it_comes() {
    let mut recent = Recent::default();
    let rule = rule(Watched::DenialBurst {
        denials: u64::MAX,
        per: Per::User,
    });
    for event in 0..100_000_u32 {
        let moment = at(0) + TimeDelta::milliseconds(i64::from(event) * 20);
        recent.add(&rule, "mallory", Seen::once(moment, event.into()));
    }
    assert!(recent.held() <= 130, "{}", recent.held());
}

/// Starts a watch over `log`, lets it see everything and gives what it recorded.
fn watched(
    folder: &std::path::Path,
    durable: &Arc<std::sync::atomic::AtomicU64>,
) -> (Watching, std::sync::mpsc::Receiver<Alert>) {
    let (tell, told) = std::sync::mpsc::sync_channel(64);
    let durable = Arc::clone(durable);
    let log = crate::sink::Log {
        directory: folder.join("log"),
        node: "gw1".to_owned(),
        durable: Arc::new(move || durable.load(std::sync::atomic::Ordering::SeqCst)),
    };
    let record: Recorder = Box::new(move |alert| tell.send(alert.clone()).is_ok());
    let rules = vec![rule(brute(Per::User))];
    let watching = watch(rules, log, folder.join("alerts.cursor"), 0, None, record).unwrap();
    (watching, told)
}

/// A log of one segment.
struct Logged {
    folder: tempfile::TempDir,
    file: std::fs::File,
    durable: Arc<std::sync::atomic::AtomicU64>,
}

impl Logged {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("log")).unwrap();
        let path = folder.path().join("log/000000000000.jsonl");
        Self {
            folder,
            file: std::fs::File::create(path).unwrap(),
            durable: Arc::default(),
        }
    }

    /// The next failure of alice.
    fn fail(&mut self, at: DateTime<Utc>) {
        use std::{io::Write as _, sync::atomic::Ordering::SeqCst};
        let (seq, time) = (self.durable.load(SeqCst), crate::time::as_recorded(at));
        writeln!(self.file, r#"{{"body":{{}},"boot_id":"b","event":"auth.step","mono_ns":1,"node":"gw1","outcome":"failure","prev":"00","seq":{seq},"ts":"{time}","user":{{"name":"alice","type":"human","uid":3}},"v":1}}"#).unwrap();
        self.durable.store(seq + 1, SeqCst);
    }

    fn watched(&self) -> (Watching, std::sync::mpsc::Receiver<Alert>) {
        watched(self.folder.path(), &self.durable)
    }

    fn wait_for_cursor(&self, next: u64) {
        let begun = std::time::Instant::now();
        let wanted = format!("\"next\":{next}}}");
        let path = self.folder.path().join("alerts.cursor");
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&wanted)) {
            assert!(begun.elapsed().as_secs() < 20, "{wanted}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_was_counted_before_a_restart_counts_and_no_alert_is_repeated() {
    let mut log = Logged::new();
    let (watching, told) = log.watched();
    log.wait_for_cursor(0);
    log.fail(Utc::now());
    log.fail(Utc::now());
    log.wait_for_cursor(2);
    watching.join();
    assert!(told.try_recv().is_err(), "two of three");

    let (watching, told) = log.watched();
    log.fail(Utc::now());
    let alert = told
        .recv_timeout(std::time::Duration::from_secs(20))
        .unwrap();
    assert_eq!((alert.first, alert.last), (0, 2));
    log.wait_for_cursor(3);
    watching.join();

    let (watching, told) = log.watched();
    log.fail(Utc::now());
    log.wait_for_cursor(4);
    watching.join();
    assert!(told.try_recv().is_err(), "repeated");
}

#[test]
fn what_waited_for_longer_than_the_window_counts_with_what_came_before_it() {
    let mut log = Logged::new();
    let then = Utc::now() - TimeDelta::days(3);
    let (watching, _) = log.watched();
    log.wait_for_cursor(0);
    log.fail(then);
    log.fail(then);
    log.wait_for_cursor(2);
    watching.join();

    log.fail(then + TimeDelta::seconds(1));
    let (watching, told) = log.watched();
    log.wait_for_cursor(3);
    watching.join();
    let alert = told.try_recv().unwrap();
    assert_eq!((alert.first, alert.last), (0, 2));
}
