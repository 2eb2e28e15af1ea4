//! Records as a gateway writes them on a working day: people and machines that log in, look around, fetch and bring files, and
//! now and then fail or are refused. The same seed gives the same records.

use std::{collections::VecDeque, net::SocketAddr};

use clap::ValueEnum;
use portcullis_journal::{
    AccountKind, Actor, Event, EventKind, OperationId, SessionId, Verdict, record::untrusted,
};
use serde_json::{Value, json};

/// Sessions at the same time.
const SESSIONS: usize = 64;
const PEOPLE: usize = 180;
const MACHINES: usize = 40;
/// Bytes of one READ or WRITE, as clients ask.
const LENGTHS: [u64; 4] = [32 << 10, 64 << 10, 128 << 10, 256 << 10];

/// Which records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mix {
    /// As they come
    Day,
    /// READ and WRITE
    Data,
    /// All but READ and WRITE
    Others,
}

/// Records without end.
pub(crate) struct Day {
    random: fastrand::Rng,
    mix: Mix,
    accounts: Vec<Account>,
    sessions: Vec<Session>,
    operations: u64,
}

#[derive(Clone)]
struct Account {
    actor: Actor,
    network: [u8; 3],
}

/// One connection and what it does next.
struct Session {
    id: SessionId,
    account: Account,
    source: SocketAddr,
    handles: u64,
    coming: VecDeque<Event>,
    /// Files that it still moves.
    files: u32,
}

impl Day {
    pub(crate) fn new(seed: u64, mix: Mix) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let accounts = (0..PEOPLE + MACHINES)
            .map(|number| Account::new(number, &mut random))
            .collect();
        Self {
            random,
            mix,
            accounts,
            sessions: Vec::new(),
            operations: 0,
        }
    }

    fn any(&mut self) -> Event {
        loop {
            if self.sessions.len() < SESSIONS {
                let session = self.session();
                self.sessions.push(session);
            }
            let at = self.random.usize(..self.sessions.len());
            let Some(session) = self.sessions.get_mut(at) else {
                continue;
            };
            if let Some(event) = session.coming.pop_front() {
                return event;
            }
            if session.files > 0 {
                session.files -= 1;
                session.next_file(&mut self.random, &mut self.operations);
            } else {
                self.sessions.swap_remove(at);
            }
        }
    }

    fn session(&mut self) -> Session {
        let random = &mut self.random;
        let at = random.usize(..self.accounts.len());
        let account = self.accounts.get(at).cloned();
        let account = account.unwrap_or_else(|| Account::new(0, random));
        let [a, b, c] = account.network;
        let mut session = Session {
            id: SessionId(random.u128(..).to_be_bytes()),
            source: ([a, b, c, random.u8(1..255)], random.u16(30_000..60_000)).into(),
            account,
            handles: 0,
            coming: VecDeque::new(),
            files: random.u32(0..12),
        };
        session.log_in(random);
        session.look_around(random, &mut self.operations);
        session
    }
}

impl Iterator for Day {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.any();
            let is_data = matches!(
                event.body.get("sftp_op").and_then(Value::as_str),
                Some("read" | "write")
            ) || event.body.contains_key("bytes");
            match self.mix {
                Mix::Day => return Some(event),
                Mix::Data if is_data => return Some(event),
                Mix::Others if !is_data => return Some(event),
                Mix::Data | Mix::Others => {}
            }
        }
    }
}

impl Account {
    fn new(number: usize, random: &mut fastrand::Rng) -> Self {
        let (kind, name) = if number < PEOPLE {
            (AccountKind::Human, format!("user{number:03}"))
        } else {
            (
                AccountKind::Machine,
                format!("partner-{:02}-export", number - PEOPLE),
            )
        };
        Self {
            actor: Actor {
                uid: i64::try_from(number).ok(),
                name,
                kind: Some(kind),
            },
            network: [10, random.u8(..), random.u8(..)],
        }
    }
}

impl Session {
    fn event(&self, kind: EventKind, outcome: Verdict) -> Event {
        let mut event = Event::new(kind);
        event.session = Some(self.id);
        event.user = Some(self.account.actor.clone());
        event.source = Some(self.source);
        event.outcome = Some(outcome);
        event
    }

    fn put(&mut self, mut event: Event, body: Value) {
        if let Value::Object(body) = body {
            event.body.extend(body);
        }
        self.coming.push_back(event);
    }

    fn log_in(&mut self, random: &mut fastrand::Rng) {
        let open = self.event(EventKind::ConnectionOpen, Verdict::Allow);
        self.put(
            open,
            json!({"client_version": "SSH-2.0-OpenSSH_9.6", "kex": "mlkem768x25519-sha256",
                "cipher": "aes256-gcm@openssh.com", "mac": "<implicit>", "host_key": "ssh-ed25519"}),
        );
        let is_machine = self.account.actor.kind == Some(AccountKind::Machine);
        for method in ["publickey", "keyboard-interactive"] {
            if method == "keyboard-interactive" && is_machine {
                continue;
            }
            if random.u8(..) < 12 {
                let mut failed = self.event(EventKind::AuthStep, Verdict::Failure);
                failed.reason = Some("bad_code".to_owned());
                self.put(failed, json!({"method": method}));
            }
            let step = self.event(EventKind::AuthStep, Verdict::Success);
            self.put(step, json!({"method": method, "factor": method}));
        }
        let result = self.event(EventKind::AuthResult, Verdict::Success);
        self.put(result, json!({"factors": ["publickey", "totp"]}));
    }

    fn look_around(&mut self, random: &mut fastrand::Rng, operations: &mut u64) {
        self.operation(
            random,
            operations,
            json!({"sftp_op": "realpath", "path": "/"}),
            None,
        );
        for _ in 0..random.u32(0..3) {
            self.handles += 1;
            let handle = self.handles;
            let folder = random.u8(..20);
            self.operation(
                random,
                operations,
                json!({"sftp_op": "opendir", "path": format!("/outbox/{folder:02}"), "handle_id": handle,
                    "mount": 0, "decision": "as_asked"}),
                None,
            );
            for step in ["readdir", "readdir", "close"] {
                let what = json!({"sftp_op": step, "handle_id": handle, "mount": 0, "decision": "as_asked"});
                self.operation(random, operations, what, None);
            }
            for _ in 0..random.u32(0..8) {
                let path = file_name(random, folder);
                let what =
                    json!({"sftp_op": "lstat", "path": path, "mount": 0, "decision": "as_asked"});
                self.operation(random, operations, what, None);
            }
        }
    }

    /// A file from the first OPEN to the summary, or a refusal.
    fn next_file(&mut self, random: &mut fastrand::Rng, operations: &mut u64) {
        let folder = random.u8(..20);
        let path = file_name(random, folder);
        if random.u8(..) < 3 {
            *operations += 1;
            let mut denied = self.event(EventKind::OperationDenied, Verdict::Deny);
            denied.operation = Some(OperationId(*operations));
            denied.reason = Some("missing_permission".to_owned());
            let what = json!({"sftp_op": "remove", "path": path, "error": "the account lacks the permission delete on the mount"});
            self.put(denied, what);
            return;
        }
        let is_upload = random.bool();
        self.handles += 1;
        let handle = self.handles;
        let flags = if is_upload {
            "write,create,truncate"
        } else {
            "read"
        };
        self.operation(
            random,
            operations,
            json!({"sftp_op": "open", "path": path, "handle_id": handle, "flags": flags, "attrs": {}, "mount": 0,
                "decision": "as_asked"}),
            None,
        );
        // Most files are small, and some are long.
        let size = 1_u64 << random.u32(9..26);
        let length = random.choice(LENGTHS).unwrap_or(32 << 10);
        let step = if is_upload { "write" } else { "read" };
        let mut offset = 0;
        while offset < size {
            let bytes = length.min(size - offset);
            let what =
                json!({"sftp_op": step, "handle_id": handle, "offset": offset, "len": length});
            self.operation(random, operations, what, Some(bytes));
            offset += length;
        }
        let what =
            json!({"sftp_op": "close", "handle_id": handle, "mount": 0, "decision": "as_asked"});
        self.operation(random, operations, what, None);
        let summary = self.event(EventKind::TransferSummary, Verdict::Success);
        let digest: String = (0..64).map(|_| random.digit(16)).collect();
        self.put(
            summary,
            json!({"path": path, "direction": if is_upload { "upload" } else { "download" }, "size": size,
                "sha256": digest, "handle_id": handle}),
        );
        if is_upload && random.bool() {
            let moved = format!("{path}.done");
            let what = json!({"sftp_op": "rename", "path": path, "path2": moved, "mount": 0, "decision": "as_asked"});
            self.operation(random, operations, what, None);
        }
    }

    /// An intent and its outcome.
    fn operation(
        &mut self,
        random: &mut fastrand::Rng,
        operations: &mut u64,
        what: Value,
        bytes: Option<u64>,
    ) {
        *operations += 1;
        let id = Some(OperationId(*operations));
        let mut intent = self.event(EventKind::OperationIntent, Verdict::Allow);
        intent.operation = id;
        self.put(intent, what);
        let fails = bytes.is_none() && random.u8(..) < 3;
        let verdict = if fails {
            Verdict::Failure
        } else {
            Verdict::Success
        };
        let mut outcome = self.event(EventKind::OperationOutcome, verdict);
        outcome.operation = id;
        let latency = random.u64(80..20_000);
        if fails {
            outcome.reason = Some("not_found".to_owned());
            outcome
                .body
                .insert("error".into(), untrusted(b"no such file"));
            outcome.body.insert("origin".into(), "backend".into());
        }
        if let Some(bytes) = bytes {
            outcome.body.insert("bytes".into(), bytes.into());
        }
        let status = if fails { "no_such_file" } else { "ok" };
        self.put(outcome, json!({"latency_us": latency, "status": status}));
    }
}

fn file_name(random: &mut fastrand::Rng, folder: u8) -> String {
    format!(
        "/outbox/{folder:02}/claims-2026-01-{:02}-{:05}.edi",
        random.u8(1..29),
        random.u32(..100_000)
    )
}
