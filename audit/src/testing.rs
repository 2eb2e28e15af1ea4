//! Logs written by the real journal.

use std::{net::SocketAddr, path::PathBuf};

use portcullis_journal::{
    AccountKind, Actor, Event, EventKind, Journal, OperationId, Options, SessionId, Verdict,
    read::Part, record::untrusted,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::search::lines_of;

/// A log and what was put into it.
pub(crate) struct Log {
    directory: TempDir,
}

impl Log {
    /// Writes the events, in order, and ends the log.
    pub(crate) fn of(events: Vec<Event>) -> Self {
        let log = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        log.add(events);
        log
    }

    pub(crate) fn add(&self, events: Vec<Event>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut options = Options::default_in(self.path());
            options.node = "gw1".to_owned();
            let (journal, _) = Journal::open(options).unwrap();
            for event in events {
                journal.append(event).await.unwrap();
            }
            journal.close().await.unwrap();
        });
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    pub(crate) fn lines(&self) -> Vec<Vec<u8>> {
        let mut lines = lines_of(&self.path(), Part::default()).unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.next(&mut |_| true).unwrap() {
            all.push(line.to_vec());
        }
        all
    }
}

/// Events of one session of one user.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) id: u8,
    pub(crate) user: &'static str,
    pub(crate) source: &'static str,
}

pub(crate) const ALICE: Session = Session {
    id: 0xa1,
    user: "alice",
    source: "192.0.2.7:5000",
};
pub(crate) const BOB: Session = Session {
    id: 0xb0,
    user: "bob",
    source: "198.51.100.4:6000",
};

impl Session {
    pub(crate) fn event(&self, kind: EventKind, outcome: Verdict, body: Value) -> Event {
        let mut event = Event::new(kind);
        event.outcome = Some(outcome);
        event.session = Some(SessionId([self.id; 16]));
        event.user = Some(Actor {
            uid: Some(3),
            name: self.user.to_owned(),
            kind: Some(AccountKind::Human),
        });
        event.source = Some(self.source.parse::<SocketAddr>().unwrap());
        let Value::Object(body) = body else {
            panic!("a body is an object")
        };
        event.body = body;
        event
    }

    pub(crate) fn intent(&self, operation: u64, body: Value) -> Event {
        let mut event = self.event(EventKind::OperationIntent, Verdict::Allow, body);
        event.operation = Some(OperationId(operation));
        event
    }

    pub(crate) fn outcome(&self, operation: u64, outcome: Verdict, body: Value) -> Event {
        let mut event = self.event(EventKind::OperationOutcome, outcome, body);
        event.operation = Some(OperationId(operation));
        event
    }

    /// An operation on a path that succeeds.
    pub(crate) fn done(&self, operation: u64, name: &str, path: &[u8]) -> Vec<Event> {
        vec![
            self.intent(
                operation,
                json!({ "sftp_op": name, "path": untrusted(path) }),
            ),
            self.outcome(operation, Verdict::Success, json!({ "status": "ok" })),
        ]
    }

    pub(crate) fn open(&self, operation: u64, path: &[u8], handle: u64, flags: &str) -> Vec<Event> {
        let body = json!({
            "sftp_op": "open", "path": untrusted(path), "handle_id": handle, "flags": flags, "attrs": {},
        });
        vec![
            self.intent(operation, body),
            self.outcome(operation, Verdict::Success, json!({ "status": "ok" })),
        ]
    }

    /// A READ or a WRITE.
    pub(crate) fn moved(
        &self,
        operation: u64,
        name: &str,
        handle: u64,
        offset: u64,
        bytes: u64,
    ) -> Vec<Event> {
        let body = json!({ "sftp_op": name, "handle_id": handle, "offset": offset, "len": bytes });
        let done = json!({ "status": "ok", "bytes": bytes });
        vec![
            self.intent(operation, body),
            self.outcome(operation, Verdict::Success, done),
        ]
    }

    pub(crate) fn close(&self, operation: u64, handle: u64, summary: Value) -> Vec<Event> {
        let body = json!({ "sftp_op": "close", "handle_id": handle });
        vec![
            self.intent(operation, body),
            self.event(EventKind::TransferSummary, Verdict::Success, summary),
            self.outcome(operation, Verdict::Success, json!({ "status": "ok" })),
        ]
    }
}
