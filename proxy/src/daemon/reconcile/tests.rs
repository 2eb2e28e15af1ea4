use portcullis_audit::hidden::{PathKey, PathVeil};
use portcullis_journal::{Options, Urgency, Veil};
use serde_json::json;

use super::*;
use crate::{
    backend::memory::Memory,
    operation::{Access, HandleId, Operation},
    policy::{Named, authorize},
    testing,
};

/// A gateway that died with operations under way.
struct Crashed {
    directory: tempfile::TempDir,
    accounts: Accounts,
    uid: i64,
    memory: Memory,
    veil: Option<Arc<dyn Veil>>,
    operations: u64,
}

impl Crashed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
        let alice = "alice".parse().unwrap();
        let admin = accounts.administer("test");
        let uid = admin.add(&alice, AccountKind::Human, None).unwrap();
        admin
            .mount(&alice, &testing::everything("/", "memory"))
            .unwrap();
        Self {
            directory,
            accounts,
            uid: uid.0,
            memory: Memory::new(),
            veil: None,
            operations: 0,
        }
    }

    /// Puts intents on record, and the outcomes of those that ended.
    async fn announce(&mut self, operations: impl IntoIterator<Item = (Operation, bool)>) {
        let journal = testing::journal_behind(self.veil.clone(), self.directory.path());
        let mut requester = testing::requester();
        requester.user.uid = Some(self.uid);
        let requester = Arc::new(requester);
        let mounts = [testing::everything("/", "memory")];
        let mut opened = HashMap::new();
        for (operation, has_ended) in operations {
            self.operations += 1;
            let id = OperationId(self.operations);
            let handle = operation.handle().and_then(|handle| opened.get(&handle));
            let named = Named::one(handle);
            let permit = authorize(&requester, &mounts, id, operation, named).unwrap();
            if let Some(handle) = permit.opens() {
                opened.insert(handle.id(), handle);
            }
            journal.record_intent(permit, Urgency::Now).await.unwrap();
            if has_ended {
                let mut event = requester.event(EventKind::OperationOutcome);
                event.operation = Some(id);
                journal.append(event).await.unwrap();
            }
        }
    }

    fn options(&self) -> Options {
        Options {
            node: "test".to_owned(),
            signing_key: self.directory.path().join("journal.key"),
            veil: self.veil.clone(),
            ..Options::default_in(self.directory.path().join("journal"))
        }
    }

    /// The bodies of the outcomes that the next start records, by operation.
    async fn restart(&self) -> HashMap<u64, Value> {
        let options = self.options();
        let (journal, recovery) = reopened(&options).await;
        let services = Arc::new(HashMap::from([(
            "memory".to_owned(),
            Arc::new(self.memory.clone()) as _,
        )]));
        left_unknown(
            &journal,
            &options.directory,
            &recovery,
            &self.accounts,
            &services,
        )
        .await
        .unwrap();
        journal.close().await.unwrap();
        let written = testing::records(self.directory.path());
        written
            .into_iter()
            .filter(|record| record["reason"] == "gateway_crashed")
            .map(|record| {
                assert_eq!(record["outcome"], "unknown");
                (record["op_id"].as_u64().unwrap(), record["body"].clone())
            })
            .collect()
    }
}

/// The journal whose writer was dropped ends a moment later.
async fn reopened(options: &Options) -> (Journal, Recovery) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Journal::open(options.clone()) {
            Ok(opened) => return opened,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

fn path(text: &str) -> VirtualPath {
    VirtualPath::clean(text.as_bytes()).unwrap()
}

fn upload(name: &str, handle: u64) -> Operation {
    Operation::Open {
        path: path(name),
        handle: HandleId(handle),
        access: Access {
            write: true,
            create: true,
            truncate: true,
            ..Access::default()
        },
        attributes: Attributes::default(),
    }
}

#[tokio::test]
async fn the_outcome_unknown_says_what_the_backend_shows_now() {
    let mut crashed = Crashed::new();
    crashed.memory.put(b"renamed", b"four");
    crashed.memory.put(b"kept", b"12");
    crashed.memory.put(b"uploaded", b"content");
    crashed
        .announce([
            (
                Operation::Rename {
                    from: path("/old"),
                    to: path("/renamed"),
                },
                false,
            ),
            (
                Operation::Remove {
                    path: path("/kept"),
                },
                false,
            ),
            (
                Operation::Mkdir {
                    path: path("/made"),
                    attributes: Attributes::default(),
                },
                false,
            ),
            (upload("/uploaded", 5), true),
            (
                Operation::Write {
                    handle: HandleId(5),
                    offset: 0,
                    data: "content".into(),
                },
                false,
            ),
            (
                Operation::Close {
                    handle: HandleId(5),
                },
                false,
            ),
        ])
        .await;
    let states = crashed.restart().await;
    assert_eq!(states.len(), 5, "{states:#?}");
    let without_time = |operation: u64| {
        let mut body = states[&operation].clone();
        body.as_object_mut()
            .unwrap()
            .retain(|field, _| !field.starts_with("modified"));
        body
    };
    assert_eq!(
        without_time(1),
        json!({"sftp_op": "rename", "path": "/old", "state": "absent",
            "path2": "/renamed", "state2": "present", "size2": 4})
    );
    assert_eq!(
        without_time(2),
        json!({"sftp_op": "remove", "path": "/kept", "state": "present", "size": 2})
    );
    assert_eq!(
        without_time(3),
        json!({"sftp_op": "mkdir", "path": "/made", "state": "absent"})
    );
    assert_eq!(without_time(5), json!({"sftp_op": "write"}));
    assert_eq!(
        without_time(6),
        json!({"sftp_op": "close", "path": "/uploaded", "state": "present", "size": 7})
    );
}

#[tokio::test]
async fn every_look_is_on_record_before_the_backend_sees_it_and_has_an_outcome() {
    let mut crashed = Crashed::new();
    crashed
        .announce([(Operation::Remove { path: path("/a") }, false)])
        .await;
    crashed.restart().await;
    assert_eq!(crashed.memory.arrivals(), 1);
    let records = testing::records(crashed.directory.path());
    let looks: Vec<_> = records
        .iter()
        .filter(|record| record["body"]["decision"] == "reconciling")
        .collect();
    let [look] = looks[..] else {
        panic!("{looks:#?}")
    };
    assert_eq!(look["body"]["sftp_op"], "lstat");
    assert_eq!(look["user"]["name"], "alice");
    let of_crash = testing::requester().session;
    assert_ne!(look["session_id"], hex::encode(of_crash.0));
    assert!(records.iter().any(|record| {
        record["event"] == "op.outcome"
            && record["session_id"] == look["session_id"]
            && record["op_id"] == look["op_id"]
    }));
    let (journal, recovery) = reopened(&crashed.options()).await;
    assert_eq!(
        recovery.unknown,
        [],
        "the next start has nothing left to ask"
    );
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_backend_that_hangs_holds_the_start_up_for_seconds_only() {
    let mut crashed = Crashed::new();
    crashed.memory.pause();
    crashed
        .announce([(Operation::Remove { path: path("/a") }, false)])
        .await;
    let begun = Instant::now();
    let states = crashed.restart().await;
    assert!(begun.elapsed() < LOOK_DEADLINE + READ_DEADLINE + Duration::from_secs(3));
    assert_eq!(
        states[&1],
        json!({"sftp_op": "remove", "path": "/a", "state": "unknown", "state_error": "timed_out"})
    );
}

#[tokio::test]
async fn without_a_mount_nothing_is_asked() {
    let mut crashed = Crashed::new();
    crashed
        .announce([(Operation::Remove { path: path("/a") }, false)])
        .await;
    let alice = "alice".parse().unwrap();
    crashed
        .accounts
        .administer("test")
        .unmount(&alice, &path("/"))
        .unwrap();
    let states = crashed.restart().await;
    assert_eq!(
        states[&1],
        json!({"sftp_op": "remove", "path": "/a", "state": "unknown", "state_error": "unavailable"})
    );
    assert_eq!(crashed.memory.arrivals(), 0);
}

#[tokio::test]
async fn with_hidden_paths_nothing_is_asked_and_the_outcome_says_why() {
    let key = PathKey::new(&[7; 32]);
    let hidden = Arc::new(PathVeil::new(key.clone(), None)) as Arc<dyn Veil>;
    // The second start may have another mode than the one that crashed.
    for later in [Some(Arc::clone(&hidden)), None] {
        let mut crashed = Crashed::new();
        crashed.veil = Some(Arc::clone(&hidden));
        crashed.memory.put(b"renamed", b"four");
        let rename = Operation::Rename {
            from: path("/old"),
            to: path("/renamed"),
        };
        let close = Operation::Close {
            handle: HandleId(5),
        };
        crashed
            .announce([
                (rename, false),
                (upload("/uploaded.csv", 5), true),
                (close, false),
            ])
            .await;
        crashed.veil = later;
        let states = crashed.restart().await;
        assert_eq!(
            states[&1],
            json!({"sftp_op": "rename",
                "path": key.token(b"/old"), "state": "unknown", "state_error": "paths_hidden",
                "path2": key.token(b"/renamed"), "state2": "unknown", "state_error2": "paths_hidden"})
        );
        assert_eq!(
            states[&3],
            json!({"sftp_op": "close", "path": key.token(b"/uploaded.csv"), "state": "unknown",
                "state_error": "paths_hidden"})
        );
        assert_eq!(crashed.memory.arrivals(), 0);
    }
}
