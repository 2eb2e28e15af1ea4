//! A backend that gives less than it has, or what was there before.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use portcullis_journal::Recorded;

use super::*;
use crate::{
    backend::{
        Backend, BackendError, Capabilities, ErrorKind, Execution, Owner,
        conformance::{Client, READ, WRITE},
    },
    operation::{Operation, Outcome},
    policy::Permit,
};

/// What it does to the READs of a file.
#[derive(Debug, Clone)]
enum Untruth {
    None,
    /// At most so many bytes at once, which is no untruth.
    Pieces(usize),
    /// It ends there, whatever its size is said to be.
    End(u64),
    /// Bytes of another version from there on.
    Stale(u64, Arc<[u8]>),
}

#[derive(Debug, Clone)]
struct Untrue {
    service: Arc<dyn BackendService>,
    does: Arc<Mutex<Untruth>>,
}

impl Untrue {
    fn does(&self, untruth: Untruth) {
        *self.does.lock().unwrap() = untruth;
    }
}

#[derive(Debug)]
struct Session {
    backend: Arc<dyn Backend>,
    does: Arc<Mutex<Untruth>>,
}

impl BackendService for Untrue {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        Arc::new(Session {
            backend: self.service.session(directory, owner),
            does: Arc::clone(&self.does),
        })
    }
}

impl Backend for Session {
    fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        let asked = recorded.intent().operation().clone();
        let execution = self.backend.execute(recorded);
        let Operation::Read { offset, .. } = asked else {
            return execution;
        };
        let does = self.does.lock().unwrap().clone();
        async move {
            let outcome = execution.await?;
            let Outcome::Data(data) = outcome else {
                return Ok(outcome);
            };
            Ok(match does {
                Untruth::None => Outcome::Data(data),
                Untruth::Pieces(most) => Outcome::Data(data.slice(..data.len().min(most))),
                Untruth::End(end) if end <= offset => Outcome::End,
                Untruth::End(end) => {
                    let left = usize::try_from(end - offset).unwrap();
                    Outcome::Data(data.slice(..data.len().min(left)))
                }
                Untruth::Stale(from, older) => {
                    let bytes = data.iter().zip(offset..).map(|(byte, at)| {
                        let before = older.get(usize::try_from(at).unwrap());
                        *before.filter(|_| at >= from).unwrap_or(byte)
                    });
                    Outcome::Data(bytes.collect::<Bytes>())
                }
            })
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        self.backend.end()
    }
}

const SEGMENT: usize = 64 << 10;

/// All that a client gets of a file, and what ends it.
async fn read(
    client: &Client,
    access: crate::operation::Access,
) -> (Vec<u8>, Option<BackendError>) {
    let opened = client.ask(client.open_operation("/a", access)).await;
    if let Err(error) = opened {
        return (Vec::new(), Some(error));
    }
    let handle = client.open("/a", access).await;
    let mut content = Vec::new();
    loop {
        let length = 50_000;
        let offset = content.len() as u64;
        let read = Operation::Read {
            handle,
            offset,
            length,
        };
        match client.ask(read).await {
            Ok(Outcome::Data(data)) => content.extend_from_slice(&data),
            Ok(_) => return (content, None),
            Err(error) => return (content, Some(error)),
        }
    }
}

#[tokio::test]
async fn what_is_short_or_stale_is_named_and_nothing_of_it_is_given_out() {
    let memory = Memory::new();
    let service = Untrue {
        service: Arc::new(memory.clone()),
        does: Arc::new(Mutex::new(Untruth::None)),
    };
    let encrypted = encrypted(Arc::new(service.clone()), Foreign::Refuse);
    let client = Client::new(encrypted.session(b"", &crate::testing::owner()));
    let content = |byte: u8| vec![byte; 3 * SEGMENT];
    client.put("/a", content(b'o')).await;
    let older: Arc<[u8]> = memory.file(b"a").unwrap().into();
    client.put("/a", content(b'n')).await;
    let stored = older.len() as u64;

    for true_enough in [Untruth::None, Untruth::Pieces(777), Untruth::End(stored)] {
        service.does(true_enough);
        let (given, ended) = read(&client, READ).await;
        assert!(given == content(b'n') && ended.is_none(), "{ended:?}");
    }
    let segment = |number: u64| 512 + 74 + number * (65_536 + 32);
    let stale = |from| Untruth::Stale(from, Arc::clone(&older));
    for (untruth, named) in [
        (Untruth::End(0), "empty"),
        (Untruth::End(100), "head"),
        (Untruth::End(segment(0)), "bytes: the file was cut off"),
        (Untruth::End(segment(1)), "bytes: the file was cut off"),
        (Untruth::End(segment(1) + 9), "bytes: the file was cut off"),
        (Untruth::End(stored - 1), "bytes: the file was cut off"),
        (stale(segment(0)), "segment 0 was changed"),
        (stale(segment(2)), "segment 2 was changed"),
        (stale(512), "extent 0 was changed"),
        (stale(100), "does not open it"),
    ] {
        service.does(untruth);
        for access in [READ, WRITE] {
            let (given, ended) = read(&client, access).await;
            let error = ended.unwrap_or_else(|| panic!("{named} is not noticed"));
            assert_eq!(error.kind, ErrorKind::NotAuthentic, "{named}: {error}");
            assert!(error.message.contains(named), "{named}: {error}");
            assert!(given.iter().all(|byte| *byte == b'n'), "{named}");
            assert!(given.len() % SEGMENT == 0 || given.len() % 50_000 == 0);
        }
    }
    // All of an older version is authentic: which one belongs there, names tell.
    service.does(stale(0));
    assert!(read(&client, READ).await.0 == content(b'o'));
}
