//! A client that asks a backend as the engine would, with every operation permitted and on record.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use portcullis_audit::catalogue::OnRecord;
use portcullis_journal::{Journal, OperationId, Recorded, Urgency};

use crate::{
    backend::{Backend, BackendError, Capabilities, ErrorKind, Execution, FileVersion, Settled},
    operation::{Access, Attributes, Care, Entry, HandleId, Operation, Outcome, Tended},
    path::VirtualPath,
    policy::{Named, OpenHandle, Permit, authorize},
    testing,
};

/// Open for reading.
pub(crate) const READ: Access = Access {
    read: true,
    write: false,
    append: false,
    create: false,
    truncate: false,
    exclusive: false,
};
/// Open what exists for writing.
pub(crate) const WRITE: Access = Access {
    read: false,
    write: true,
    ..READ
};
/// Create or replace.
pub(crate) const REPLACE: Access = Access {
    create: true,
    truncate: true,
    ..WRITE
};

/// One session of a backend.
#[derive(Debug)]
pub(crate) struct Client {
    backend: Arc<dyn Backend>,
    journal: Journal,
    next: AtomicU64,
    /// Closed ones too: what becomes of a request for one is a question to the backend.
    handles: Mutex<HashMap<HandleId, OpenHandle>>,
    _journal_directory: tempfile::TempDir,
}

pub(crate) fn path(name: impl AsRef<[u8]>) -> VirtualPath {
    VirtualPath::clean(name.as_ref()).expect("a test names clean paths")
}

/// The handle that an OPEN will stand under.
pub(crate) fn opened_handle(operation: &Operation) -> HandleId {
    let Operation::Open { handle, .. } = operation else {
        panic!("{operation:?} opens no file");
    };
    *handle
}

impl Client {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self {
            backend,
            journal: testing::journal(directory.path()),
            next: AtomicU64::new(1),
            handles: Mutex::default(),
            _journal_directory: directory,
        }
    }

    pub(crate) fn can(&self) -> Capabilities {
        self.backend.capabilities()
    }

    /// The gateway can change its stored files.
    pub(crate) fn can_be_tended(&self) -> bool {
        self.backend.tending().is_some()
    }

    /// Starts an operation; what must be in order is in the order of these calls.
    pub(crate) async fn start(&self, operation: Operation) -> Execution {
        let recorded = self.recorded(operation).await;
        self.backend.execute(recorded)
    }

    /// What the journal says of what is open under the handle.
    pub(crate) fn on_record(&self, handle: HandleId) -> Option<OnRecord> {
        self.backend.on_record(handle)
    }

    /// What the backend says of a rename that was under way at a crash; `None` where it is one step.
    pub(crate) async fn settle(
        &self,
        rename: Operation,
        announced: i64,
    ) -> Option<Result<Settled, BackendError>> {
        let renames = self.backend.halfway_renames()?;
        let recorded = self.recorded(rename).await;
        Some(renames.settle(recorded, announced).await)
    }

    /// What the gateway does by itself to a stored file.
    pub(crate) async fn tend(
        &self,
        name: impl AsRef<[u8]>,
        care: Care,
    ) -> Result<Tended, BackendError> {
        let recorded = self.recorded_tending(name, care).await;
        let outcome = self.backend.execute(recorded).await?;
        let Outcome::Tended(tended) = outcome else {
            panic!("it gave {outcome:?}");
        };
        Ok(tended)
    }

    /// What stands there; the backend can be tended.
    pub(crate) async fn version(&self, name: impl AsRef<[u8]>) -> FileVersion {
        let recorded = self.recorded_tending(name, Care::Rewrap).await;
        let tending = self.backend.tending().expect("it can be tended");
        tending.version(recorded).await.expect("the file is open")
    }

    /// Publishes an upload in the place of that version.
    pub(crate) async fn close_over(
        &self,
        handle: HandleId,
        version: FileVersion,
    ) -> Result<Outcome, BackendError> {
        let recorded = self.recorded(Operation::Close { handle }).await;
        let tending = self.backend.tending().expect("it can be tended");
        tending.close_over(recorded, version).await
    }

    async fn recorded_tending(&self, name: impl AsRef<[u8]>, care: Care) -> Recorded<Permit> {
        let permit = Permit::tending(
            &Arc::new(testing::requester()),
            &testing::everything("/", "subject"),
            OperationId(self.number()),
            &path(name),
            care,
        )
        .expect("the path is on the mount");
        self.journal
            .record_intent(permit, Urgency::Now)
            .await
            .expect("the journal can be written")
    }

    async fn recorded(&self, operation: Operation) -> Recorded<Permit> {
        let handle = operation
            .handle()
            .and_then(|handle| self.handles.lock().unwrap().get(&handle).cloned());
        let permit = authorize(
            &Arc::new(testing::requester()),
            &[testing::with_extensions(testing::everything(
                "/", "subject",
            ))],
            OperationId(self.number()),
            operation,
            Named::one(handle.as_ref()),
        )
        .expect("an account that may do everything is refused");
        if let Some(opened) = permit.opens() {
            self.handles.lock().unwrap().insert(opened.id(), opened);
        }
        self.journal
            .record_intent(permit, Urgency::Now)
            .await
            .expect("the journal can be written")
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) async fn ask(&self, operation: Operation) -> Result<Outcome, BackendError> {
        self.start(operation).await.await
    }

    /// The kind of error that an operation ends with.
    pub(crate) async fn refusal(&self, operation: Operation) -> ErrorKind {
        let asked = format!("{operation:?}");
        match self.ask(operation).await {
            Ok(outcome) => panic!("{asked} gave {outcome:?}"),
            Err(error) => {
                assert!(!error.message.is_empty(), "an error says what happened");
                error.kind
            }
        }
    }

    pub(crate) async fn done(&self, operation: Operation) {
        let asked = format!("{operation:?}");
        match self.ask(operation).await {
            // A size makes another file where files are encrypted.
            Ok(Outcome::Done | Outcome::Published { .. }) => {}
            other => panic!("{asked} gave {other:?}"),
        }
    }

    pub(crate) fn open_operation(&self, name: impl AsRef<[u8]>, access: Access) -> Operation {
        self.open_with(name, access, Attributes::default())
    }

    pub(crate) fn open_with(
        &self,
        name: impl AsRef<[u8]>,
        access: Access,
        attributes: Attributes,
    ) -> Operation {
        Operation::Open {
            path: path(name),
            handle: HandleId(self.number()),
            access,
            attributes,
        }
    }

    pub(crate) async fn open(&self, name: impl AsRef<[u8]>, access: Access) -> HandleId {
        let operation = self.open_operation(name, access);
        let handle = opened_handle(&operation);
        let asked = format!("{operation:?}");
        match self.ask(operation).await {
            Ok(Outcome::Opened) => handle,
            other => panic!("{asked} gave {other:?}"),
        }
    }

    pub(crate) async fn write(&self, handle: HandleId, offset: u64, data: impl Into<Bytes>) {
        self.done(Operation::Write {
            handle,
            offset,
            data: data.into(),
        })
        .await;
    }

    /// The bytes of one READ; none at the end.
    pub(crate) async fn read(&self, handle: HandleId, offset: u64, length: u32) -> Bytes {
        let read = Operation::Read {
            handle,
            offset,
            length,
        };
        match self.ask(read).await {
            Ok(Outcome::Data(data)) => {
                assert!(!data.is_empty() && data.len() <= usize::try_from(length).unwrap());
                data
            }
            Ok(Outcome::End) => Bytes::new(),
            other => panic!("READ gave {other:?}"),
        }
    }

    pub(crate) async fn close(&self, handle: HandleId) {
        self.close_digested(handle).await;
    }

    /// The SHA-256 with which CLOSE answers if the backend had to read an upload again.
    pub(crate) async fn close_digested(&self, handle: HandleId) -> Option<[u8; 32]> {
        match self.ask(Operation::Close { handle }).await {
            Ok(Outcome::Done) => None,
            Ok(Outcome::Published { sha256, .. }) => sha256,
            other => panic!("CLOSE gave {other:?}"),
        }
    }

    pub(crate) async fn put(&self, name: impl AsRef<[u8]>, content: impl Into<Bytes>) {
        let handle = self.open(name, REPLACE).await;
        let content = content.into();
        if !content.is_empty() {
            self.write(handle, 0, content).await;
        }
        self.close(handle).await;
    }

    pub(crate) async fn get(&self, name: impl AsRef<[u8]>) -> Vec<u8> {
        let handle = self.open(name, READ).await;
        let mut content = Vec::new();
        loop {
            let chunk = self
                .read(handle, u64::try_from(content.len()).unwrap(), 255 * 1024)
                .await;
            if chunk.is_empty() {
                break;
            }
            content.extend_from_slice(&chunk);
        }
        self.close(handle).await;
        content
    }

    pub(crate) async fn stat(&self, name: impl AsRef<[u8]>) -> Result<Attributes, BackendError> {
        let outcome = self.ask(Operation::Stat { path: path(name) }).await?;
        let Outcome::Attributes(attributes) = outcome else {
            panic!("STAT gave {outcome:?}");
        };
        Ok(attributes)
    }

    /// Fails the test if STAT tells another size, or none though the backend shows sizes.
    pub(crate) async fn expect_size(&self, name: impl AsRef<[u8]>, expected: u64) {
        let size = self.stat(name).await.unwrap().size;
        // What a server doesn't tell is known once it was asked.
        assert_eq!(size, self.can().shows.sizes.then_some(expected));
    }

    pub(crate) async fn is_missing(&self, name: impl AsRef<[u8]>) -> bool {
        match self.stat(name).await {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
                true
            }
        }
    }

    pub(crate) async fn mkdir(&self, name: impl AsRef<[u8]>) {
        self.done(Operation::Mkdir {
            path: path(name),
            attributes: Attributes::default(),
        })
        .await;
    }

    pub(crate) async fn list(&self, name: impl AsRef<[u8]>) -> Vec<Entry> {
        let handle = HandleId(self.number());
        let opendir = Operation::Opendir {
            path: path(name),
            handle,
        };
        match self.ask(opendir).await {
            Ok(Outcome::Opened) => {}
            other => panic!("OPENDIR gave {other:?}"),
        }
        let mut entries = Vec::new();
        loop {
            match self.ask(Operation::Readdir { handle }).await {
                Ok(Outcome::Names(names)) => {
                    assert!(!names.is_empty());
                    entries.extend(names);
                }
                Ok(Outcome::End) => break,
                other => panic!("READDIR gave {other:?}"),
            }
        }
        match self.ask(Operation::Readdir { handle }).await {
            Ok(Outcome::End) => {}
            other => panic!("READDIR after the end gave {other:?}"),
        }
        self.close(handle).await;
        entries
    }

    /// The names of a directory, sorted.
    pub(crate) async fn names(&self, name: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
        let mut names: Vec<_> = self
            .list(name)
            .await
            .into_iter()
            .map(|entry| entry.name.to_vec())
            .collect();
        names.sort();
        names
    }

    pub(crate) async fn end(&self) {
        self.backend.end().await;
    }
}
