use std::{fs, path::Path};

use chrono::TimeDelta;
use portcullis_journal::{SessionId, read::records};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::config::Config;

/// A journal with a folder for manifests.
struct Bench {
    folder: TempDir,
    journal_config: JournalConfig,
    journal: Journal,
    stop: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("proxy.toml");
        let log = folder.path().join("log");
        let text = format!(
            "[journal]\ndirectory = \"{}\"\nsigning_key = \"{}.key\"\n",
            log.display(),
            log.display()
        );
        fs::write(&config, text).unwrap();
        let journal_config = Config::load_audit(&config).journal.unwrap();
        let (journal, _) = Journal::open(journal_config.options()).unwrap();
        Self {
            folder,
            journal_config,
            journal,
            stop: CancellationToken::new(),
        }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, directory: &Path) -> io::Result<Manifests> {
        let config = ManifestsConfig {
            directory: directory.to_owned(),
            keep: TimeDelta::try_days(30),
        };
        let (journal, stop) = (self.journal.clone(), self.stop.clone());
        Manifests::start(&config, &self.journal_config, journal, stop)
    }

    /// A session that delivers one file.
    async fn deliver(&self, number: u8) {
        let event = |kind: EventKind, body: serde_json::Value| {
            let mut event = Event::new(kind);
            event.session = Some(SessionId([number; 16]));
            event.outcome = Some(Verdict::Success);
            event.body = body.as_object().unwrap().clone();
            event
        };
        let mounts = json!({ "mounts": [{ "at": "/inbox", "backend": "disk", "directory": "/" }] });
        let open = json!({ "sftp_op": "open", "path": "/inbox/a", "mount": 0, "handle_id": 1, "flags": "write,create", "attrs": {} });
        let summary = json!({ "direction": "upload", "handle_id": 1, "path": "/inbox/a", "bytes": 1, "sha256": "5a".repeat(32), "sha256_source": "stream" });
        let operation = |kind, body| {
            let mut event = event(kind, body);
            event.operation = Some(portcullis_journal::OperationId(7));
            event
        };
        for event in [
            event(EventKind::ConnectionOpen, json!({})),
            event(EventKind::SessionMounts, mounts),
            operation(EventKind::OperationIntent, open),
            operation(EventKind::OperationOutcome, json!({})),
            event(EventKind::TransferSummary, summary),
            event(EventKind::ConnectionClose, json!({})),
        ] {
            self.journal.append(event).await.unwrap();
        }
    }

    fn written(&self) -> Vec<(Option<String>, serde_json::Value)> {
        let records = records(&self.journal_config.directory).unwrap();
        records
            .map(Result::unwrap)
            .filter(|record| record.event == "manifest.written")
            .map(|record| (record.outcome, record.body))
            .collect()
    }

    /// Waits for the last ones, as the end of the gateway does.
    async fn end(&mut self, manifests: Manifests) {
        manifests.finish().await;
        self.stop.cancel();
        manifests.end().await;
        self.stop = CancellationToken::new();
    }
}

#[tokio::test]
async fn what_ended_before_the_gateway_did_is_written_and_on_record() {
    let mut bench = Bench::new();
    let folder = bench.at("manifests");
    // From before there were any.
    bench.deliver(1).await;
    let manifests = bench.start(&folder).unwrap();
    bench.deliver(2).await;
    bench.end(manifests).await;
    let written = bench.written();
    assert_eq!(written.len(), 1, "{written:?}");
    let (outcome, body) = &written[0];
    assert_eq!(outcome.as_deref(), Some("success"));
    assert_eq!(body["session"], "02".repeat(16));
    assert_eq!(body["files"], 1);
    let text = fs::read(folder.join(body["file"].as_str().unwrap())).unwrap();
    assert_eq!(hex::encode(Sha256::digest(&text)), body["sha256"]);

    // While nobody wrote them.
    bench.deliver(3).await;
    for _ in 0..2 {
        let manifests = bench.start(&folder).unwrap();
        bench.end(manifests).await;
        assert_eq!(bench.written().len(), 2);
    }
    assert_eq!(bench.written()[1].1["session"], "03".repeat(16));
}

#[tokio::test]
async fn a_mark_that_is_damaged_is_begun_anew() {
    let mut bench = Bench::new();
    let folder = bench.at("manifests");
    let manifests = bench.start(&folder).unwrap();
    bench.end(manifests).await;
    bench.deliver(1).await;
    fs::write(folder.join("position"), "damaged").unwrap();
    let manifests = bench.start(&folder).unwrap();
    bench.deliver(2).await;
    bench.end(manifests).await;
    let written = bench.written();
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(written[0].1["session"], "02".repeat(16));
}

#[tokio::test]
async fn old_days_go_unless_a_hold_keeps_records() {
    for is_held in [false, true] {
        let mut bench = Bench::new();
        let folder = bench.at("manifests");
        let today = Utc::now().date_naive().to_string();
        for day in ["2020-01-01", &today] {
            fs::create_dir_all(folder.join(day)).unwrap();
        }
        if is_held {
            let holds = bench.journal_config.holds();
            fs::create_dir(&holds).unwrap();
            let hold = json!({ "since": null, "until": null, "reason": "a case", "by": "J. Doe" });
            fs::write(holds.join("case.hold.json"), hold.to_string()).unwrap();
        }
        let manifests = bench.start(&folder).unwrap();
        tokio::time::sleep(2 * LOOK).await;
        bench.end(manifests).await;
        assert_eq!(folder.join("2020-01-01").exists(), is_held);
        assert!(folder.join(today).exists());
    }
}

#[tokio::test]
async fn there_is_no_start_where_nothing_can_be_written() {
    let bench = Bench::new();
    fs::write(bench.at("file"), "").unwrap();
    assert!(bench.start(&bench.at("file")).is_err());
    assert!(bench.start(&bench.at("file/below")).is_err());
}
