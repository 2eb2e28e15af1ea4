//! What tests of several modules need: a journal in a temporary directory, and an account that may do everything.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use portcullis_journal::{
    AccountKind, Actor, Event, EventKind, Journal, OperationId, Options, Recorded, SessionId,
    Urgency, Veil, tree::key::public_key_path,
};

use crate::{
    allowance::Allowance,
    backend::{Backend, BackendError, Owner},
    config::{WitnessConfig, WitnessedLog},
    extensions::Extensions,
    operation::{HandleId, Operation, Outcome},
    path::VirtualPath,
    policy::{Mount, Named, OpenHandle, PathRules, Permissions, Permit, Requester, authorize},
};

/// Takes operations on the usual way to a backend: authorised, recorded, executed.
#[derive(Debug)]
pub(crate) struct Fixture {
    journal: Journal,
    mounts: Vec<Mount>,
    requester: Arc<Requester>,
    open: Mutex<HashMap<HandleId, OpenHandle>>,
    next: AtomicU64,
    _directory: tempfile::TempDir,
}

impl Fixture {
    /// An account with every permission on a mount at `/`.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self {
            journal: journal(directory.path()),
            mounts: vec![with_extensions(everything("/", "memory"))],
            requester: Arc::new(requester()),
            open: Mutex::default(),
            next: AtomicU64::new(1),
            _directory: directory,
        }
    }

    /// The proof that `operation` is permitted and on record.
    pub(crate) async fn recorded(&self, operation: Operation) -> Recorded<Permit> {
        let id = OperationId(self.next.fetch_add(1, Ordering::Relaxed));
        let handle = operation
            .handle()
            .and_then(|handle| self.open().get(&handle).cloned());
        let permit = authorize(
            &self.requester,
            &self.mounts,
            id,
            operation,
            Named::one(handle.as_ref()),
        )
        .expect(
            "an account that may do everything is refused; open the handle through this fixture",
        );
        self.journal
            .record_intent(permit, Urgency::Now)
            .await
            .expect("the journal can be written")
    }

    /// Does `operation` and waits for its end.
    ///
    /// # Errors
    /// Those of the backend.
    pub(crate) async fn run(
        &self,
        backend: &dyn Backend,
        operation: Operation,
    ) -> Result<Outcome, BackendError> {
        let recorded = self.recorded(operation.clone()).await;
        let opens = recorded.intent().opens();
        let result = backend.execute(recorded).await;
        if result.is_ok() {
            if let Some(handle) = opens {
                self.open().insert(handle.id(), handle);
            }
            if let Operation::Close { handle } = operation {
                self.open().remove(&handle);
            }
        }
        result
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<HandleId, OpenHandle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every record of the journal in `directory`, of which all that was appended is durable.
pub(crate) fn records(directory: &std::path::Path) -> Vec<serde_json::Value> {
    let mut segments: Vec<_> = std::fs::read_dir(directory.join("journal"))
        .expect("the journal's directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .collect();
    segments.sort();
    segments
        .iter()
        .flat_map(|segment| {
            let text = std::fs::read_to_string(segment).expect("a segment is text");
            text.lines()
                .map(|line| serde_json::from_str(line).expect("a record is JSON"))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A journal that keeps its segments in `directory`.
pub(crate) fn journal(directory: &std::path::Path) -> Journal {
    journal_behind(None, directory)
}

/// As [`journal`], with what hides paths.
pub(crate) fn journal_behind(veil: Option<Arc<dyn Veil>>, directory: &std::path::Path) -> Journal {
    let (journal, _) = Journal::open(Options {
        veil,
        node: "test".to_owned(),
        signing_key: directory.join("journal.key"),
        max_delay: Duration::from_millis(1),
        reserve_bytes: 64 << 10,
        ..Options::default_in(directory.join("journal"))
    })
    .expect("a journal in a temporary directory opens");
    journal
}

/// Opens the log, adds so many records, and closes it; gives how many are durable.
pub(crate) async fn grow(log: &Options, records: usize) -> u64 {
    let (journal, _) = Journal::open(log.clone()).expect("the log opens");
    for _ in 0..records {
        let event = Event::new(EventKind::ConnectionOpen);
        journal.append(event).await.expect("the log takes a record");
    }
    close(journal).await
}

/// Closes a log; gives how many of its records are durable.
pub(crate) async fn close(journal: Journal) -> u64 {
    let status = journal.clone();
    journal.close().await.expect("the log closes");
    status.status().durable
}

/// What a witness on this machine is told of one log, with its files in `folder`.
pub(crate) fn witness_of(log: &Options, origin: &str, folder: &std::path::Path) -> WitnessConfig {
    WitnessConfig {
        listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        prefix: String::new(),
        name: "w.example/1".to_owned(),
        signing_key: folder.join("witness.key"),
        directory: folder.join("witness"),
        tls: None,
        metrics: None,
        logs: vec![WitnessedLog {
            origin: origin.to_owned(),
            key_file: public_key_path(&log.signing_key),
        }],
    }
}

pub(crate) fn requester() -> Requester {
    Requester {
        session: SessionId([7; 16]),
        user: Actor {
            uid: Some(1),
            name: "alice".to_owned(),
            kind: Some(AccountKind::Human),
        },
        source: ([192, 0, 2, 10], 50_022).into(),
        mfa_window: None,
    }
}

/// Whose uploads a test's are, where it is all the same.
pub(crate) fn owner() -> Owner {
    Owner::new(*b"alice")
}

/// A mount with every permission.
pub(crate) fn everything(at: &str, backend: &str) -> Mount {
    Mount {
        at: VirtualPath::clean(at.as_bytes()).expect("a clean path"),
        backend: backend.to_owned(),
        directory: b"/".to_vec(),
        permissions: Permissions {
            list: true,
            read: true,
            write: true,
            overwrite: true,
            rename: true,
            delete: true,
            mkdir: true,
            rmdir: true,
            setattr: true,
            symlink: true,
            append: true,
        },
        allowance: Allowance::default(),
        extensions: None,
        resume: None,
        rules: PathRules::default(),
        group: None,
    }
}

/// The mount with all that is off by default.
pub(crate) fn with_extensions(mount: Mount) -> Mount {
    Mount {
        extensions: Some(Extensions {
            hardlink: true,
            copy_data: true,
        }),
        ..mount
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{BackendService as _, memory::Memory},
        operation::{Access, Attributes},
    };

    #[tokio::test]
    async fn an_upload_is_seen_once_close_has_published_it_and_never_without() {
        let fixture = Fixture::new();
        let memory = Memory::new();
        let backend = memory.session(b"/", &owner());
        let open = |name: &str, handle| Operation::Open {
            path: VirtualPath::clean(name.as_bytes()).unwrap(),
            handle: HandleId(handle),
            access: Access {
                write: true,
                create: true,
                truncate: true,
                ..Access::default()
            },
            attributes: Attributes::default(),
        };
        for (name, handle) in [("/a", 1), ("/b", 2)] {
            fixture.run(&*backend, open(name, handle)).await.unwrap();
            let write = Operation::Write {
                handle: HandleId(handle),
                offset: 0,
                data: "content".into(),
            };
            fixture.run(&*backend, write).await.unwrap();
            assert_eq!(memory.file(&name.as_bytes()[1..]), None);
        }
        let close = Operation::Close {
            handle: HandleId(1),
        };
        fixture.run(&*backend, close).await.unwrap();
        backend.end().await;
        assert_eq!(memory.file(b"a").unwrap(), b"content");
        assert_eq!(memory.paths(), [b"a".to_vec()]);
    }
}
