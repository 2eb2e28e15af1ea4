use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use portcullis_at_rest::{
    DataKey, Keyring, Realm,
    kek::{KekError, KekId, KeyEncryptionKey, SoftwareKek, WRAPPED},
};

use super::{NamedService, NamesKeeper as _};
use crate::{
    backend::{
        BackendService, ErrorKind,
        conformance::Client,
        encrypted::{EncryptedService, Foreign, Pending, Vault},
        local::{LocalService, LocalSettings},
        memory::Memory,
        staging::UploadSettings,
    },
    gate::names::Keeper,
    operation::{Attributes, Care, Operation, Outcome, Tended},
    path::VirtualPath,
    testing,
};

fn ring() -> Keyring {
    let kek = SoftwareKek::new(&DataKey::random().unwrap());
    Keyring::new(Arc::new(kek), Vec::new(), None)
}

/// As the daemon builds it, with a journal in `log`.
fn named(service: Arc<dyn BackendService>, ring: &Keyring, log: &Path) -> Arc<dyn BackendService> {
    let journal = testing::journal(log);
    let realm = Realm::named("subject");
    let keeper = Keeper::new(
        journal,
        Arc::clone(&service),
        "subject",
        ring.clone(),
        realm,
    );
    let vault = Vault {
        ring: ring.clone(),
        realm,
        foreign: Foreign::Refuse,
        update_limit: 64 << 20,
        spool_directory: std::env::temp_dir(),
        pending: Pending::new(log.join("pending")),
        names: None,
        vouch: true,
    };
    let service = NamedService::new(service, Arc::new(keeper));
    Arc::new(EncryptedService::new(Arc::new(service), vault))
}

fn local(directory: &Path) -> Arc<dyn BackendService> {
    let settings = LocalSettings {
        directory: directory.to_owned(),
        uploads: UploadSettings::default(),
        timeout: Duration::from_secs(30),
    };
    Arc::new(LocalService::new(settings).unwrap())
}

mod over_memory {
    use super::*;
    use crate::backend::conformance::{Subject, suite};

    async fn start() -> Subject {
        let log = tempfile::tempdir().unwrap();
        Subject {
            service: named(Arc::new(Memory::new()), &ring(), log.path()),
            directory: b"/partners/alice".to_vec(),
            disk: None,
            keep: Box::new(log),
        }
    }

    suite!(super::start);
}

mod over_a_disk {
    use super::*;
    use crate::backend::conformance::{Subject, suite};

    async fn start() -> Subject {
        let (log, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Subject {
            service: named(local(directory.path()), &ring(), log.path()),
            directory: b"alice".to_vec(),
            disk: None,
            keep: Box::new((log, directory)),
        }
    }

    suite!(super::start);
}

/// A disk, and a gateway over it.
struct Bench {
    disk: tempfile::TempDir,
    logs: Vec<tempfile::TempDir>,
    ring: Keyring,
}

impl Bench {
    fn new() -> Self {
        Self {
            disk: tempfile::tempdir().unwrap(),
            logs: Vec::new(),
            ring: ring(),
        }
    }

    /// Another gateway, or the same one after a restart.
    fn gateway(&mut self) -> Arc<dyn BackendService> {
        let log = tempfile::tempdir().unwrap();
        let service = named(local(self.disk.path()), &self.ring, log.path());
        self.logs.push(log);
        service
    }

    fn client(&mut self) -> Client {
        Client::new(self.gateway().session(b"", &testing::owner()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    /// What stands at the root, but for the key.
    fn stored(&self) -> Vec<String> {
        let names = fs::read_dir(self.disk.path()).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".portcullis-names")
            .collect();
        names.sort();
        names
    }
}

fn path(name: &str) -> VirtualPath {
    VirtualPath::clean(name.as_bytes()).unwrap()
}

fn lstat(name: &str) -> Operation {
    Operation::Lstat { path: path(name) }
}

#[tokio::test]
async fn the_disk_has_no_name_that_a_client_gave_and_the_same_ones_come_back_after_a_restart() {
    let mut bench = Bench::new();
    let client = bench.client();
    client.mkdir("/Jane Doe").await;
    client.put("/Jane Doe/HIV.csv", "a").await;
    client.put("/.hidden", "b").await;
    let longest = format!("/{}", "x".repeat(143));
    client.put(&longest, "c").await;
    let stored = bench.stored();
    assert_eq!(stored.len(), 3);
    let below: Vec<_> = stored
        .iter()
        .filter_map(|name| fs::read_dir(bench.path(name)).ok())
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in stored.iter().chain(&below) {
        assert!(
            name.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{name}"
        );
        assert!(name.len() >= 28 && name.len() <= 255);
    }
    let client = bench.client();
    let mut names = client.names("/").await;
    names.sort();
    assert_eq!(
        names,
        [&b".hidden"[..], b"Jane Doe", &longest.as_bytes()[1..]]
    );
    assert_eq!(client.get("/Jane Doe/HIV.csv").await, b"a");
    let too_long = format!("/{}", "x".repeat(144));
    let asked = client.open_operation(&too_long, crate::backend::conformance::REPLACE);
    assert_eq!(client.refusal(asked).await, ErrorKind::Unsupported);
    assert_eq!(client.refusal(lstat(&too_long)).await, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_name_that_was_changed_or_put_there_by_somebody_else_is_not_shown_and_not_found() {
    let mut bench = Bench::new();
    let client = bench.client();
    client.put("/kept", "a").await;
    client.put("/lost", "b").await;
    let kept = bench.stored();
    client
        .done(Operation::Remove {
            path: path("/lost"),
        })
        .await;
    let kept_name = bench.stored().remove(0);
    let lost = kept.into_iter().find(|name| *name != kept_name).unwrap();
    client.put("/lost", "b").await;
    let changed = format!("0{}", &lost[1..]);
    let changed = if changed == lost {
        format!("1{}", &lost[1..])
    } else {
        changed
    };
    fs::rename(bench.path(&lost), bench.path(&changed)).unwrap();
    for other in ["plain.txt", &kept_name[1..], &kept_name.to_uppercase()] {
        fs::write(bench.path(other), "x").unwrap();
    }
    fs::create_dir(bench.path("lost+found")).unwrap();
    assert_eq!(client.names("/").await, [b"kept"]);
    for name in ["/lost", "/plain.txt", "/lost+found"] {
        assert_eq!(
            client.refusal(lstat(name)).await,
            ErrorKind::NotFound,
            "{name}"
        );
    }
    // Its stored name is a name like any other.
    let by_stored = client.refusal(lstat(&format!("/{kept_name}"))).await;
    assert_eq!(by_stored, ErrorKind::NotFound);
    // A directory of nothing else is an empty one.
    client
        .done(Operation::Remove {
            path: path("/kept"),
        })
        .await;
    assert!(client.names("/").await.is_empty());
}

#[tokio::test]
async fn what_lies_in_two_directories_under_one_name_has_one_stored_name_and_moves_with_them() {
    let mut bench = Bench::new();
    let client = bench.client();
    for directory in ["/one", "/two"] {
        client.mkdir(directory).await;
        client.put(format!("{directory}/a"), directory).await;
    }
    client
        .done(Operation::Rename {
            from: path("/one"),
            to: path("/three"),
        })
        .await;
    assert_eq!(client.get("/three/a").await, b"/one");
    let below: Vec<_> = bench
        .stored()
        .iter()
        .map(|name| {
            let mut names = fs::read_dir(bench.path(name)).unwrap();
            names.next().unwrap().unwrap().file_name()
        })
        .collect();
    assert_eq!(below[0], below[1]);
}

#[tokio::test]
async fn mounts_of_one_backend_meet_and_their_directories_are_made() {
    let mut bench = Bench::new();
    let gateway = bench.gateway();
    let below = Client::new(gateway.session(b"/partners/acme", &testing::owner()));
    below.put("/a", "a").await;
    let whole = Client::new(gateway.session(b".", &testing::owner()));
    assert_eq!(whole.names("/partners").await, [b"acme"]);
    assert_eq!(whole.get("/partners/acme/a").await, b"a");
    let again = Client::new(gateway.session(b"partners/acme/", &testing::owner()));
    assert_eq!(again.names("/").await, [b"a"]);
    let out = Client::new(gateway.session(b"partners/../acme", &testing::owner()));
    assert_eq!(out.refusal(lstat("/a")).await, ErrorKind::Unsupported);
    assert_eq!(bench.stored().len(), 1);
}

#[tokio::test]
async fn the_key_is_made_once_and_never_a_second_one_where_names_are_encrypted() {
    let mut bench = Bench::new();
    // Of which one makes it.
    let clients: Vec<_> = (0..8).map(|_| bench.client()).collect();
    let entered = clients.iter().map(|client| client.stat("/"));
    for stat in futures_util::future::join_all(entered).await {
        assert!(stat.unwrap().is_directory());
    }
    for (number, client) in clients.iter().enumerate() {
        client.put(format!("/{number}"), "a").await;
    }
    assert_eq!(clients[0].names("/").await.len(), 8);

    let key = bench.path(".portcullis-names");
    let content = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let client = bench.client();
    let error = client.ask(lstat("/1")).await.unwrap_err();
    assert!(
        error.message.contains("restore it from a backup"),
        "{error}"
    );
    assert!(!key.exists());
    // It is asked for anew each time.
    fs::write(&key, &content).unwrap();
    assert_eq!(client.get("/1").await, b"a");

    let mut changed = content.clone();
    changed[600] ^= 1;
    for broken in [&changed[..], &content[..649], b""] {
        fs::write(&key, broken).unwrap();
        let error = bench.client().ask(lstat("/1")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Failure);
        assert!(error.message.contains(".portcullis-names"), "{error}");
    }
    fs::write(&key, &content).unwrap();
    bench.ring = ring();
    let error = bench.client().ask(lstat("/1")).await.unwrap_err();
    assert!(error.message.contains("not configured"), "{error}");
}

#[tokio::test]
async fn after_a_rotation_the_old_key_is_not_needed_for_the_names() {
    let mut bench = Bench::new();
    let secrets = [(); 2].map(|()| SoftwareKek::new(&DataKey::random().unwrap()));
    let [old, new] = secrets.map(|kek| Arc::new(kek) as Arc<dyn KeyEncryptionKey>);
    bench.ring = Keyring::new(Arc::clone(&old), Vec::new(), None);
    bench.client().put("/a", "a").await;
    let key = bench.path(".portcullis-names");
    let before = fs::read(&key).unwrap();

    bench.ring = Keyring::new(Arc::clone(&new), vec![old], None);
    let client = bench.client();
    assert_eq!(client.names("/").await, [b"a"]);
    let tended = client.tend("/a", Care::Rewrap).await.unwrap();
    assert_eq!(tended, Tended::Rewrapped { bytes: 1024 });
    let after = fs::read(&key).unwrap();
    assert!(after[..512] != before[..512] && after[512..] == before[512..]);
    bench.ring = Keyring::new(new, Vec::new(), None);
    let client = bench.client();
    assert_eq!(client.names("/").await, [b"a"]);
    assert!(fs::read(&key).unwrap() == after, "once");
    let tended = client.tend("/a", Care::Rewrap).await.unwrap();
    assert_eq!(tended, Tended::Current);
}

/// A token that unwraps, and is full.
#[derive(Debug)]
struct Full(Arc<dyn KeyEncryptionKey>);

impl KeyEncryptionKey for Full {
    fn id(&self) -> KekId {
        self.0.id()
    }

    fn wrap(&self, _: &DataKey, _: &[u8]) -> Result<[u8; WRAPPED], KekError> {
        Err(KekError::Token("it is full".to_owned()))
    }

    fn unwrap(&self, wrapped: &[u8; WRAPPED], context: &[u8]) -> Result<DataKey, KekError> {
        self.0.unwrap(wrapped, context)
    }
}

#[tokio::test]
async fn the_key_of_the_names_is_current_once_it_needs_no_retired_one() {
    let bench = Bench::new();
    let logs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let secrets = [(); 2].map(|()| SoftwareKek::new(&DataKey::random().unwrap()));
    let [old, new] = secrets.map(|kek| Arc::new(kek) as Arc<dyn KeyEncryptionKey>);
    let full: Arc<dyn KeyEncryptionKey> = Arc::new(Full(Arc::clone(&new)));
    let rings = [
        (Keyring::new(Arc::clone(&old), Vec::new(), None), true),
        (Keyring::new(full, vec![Arc::clone(&old)], None), false),
        (Keyring::new(new, vec![old], None), true),
    ];
    for (log, (ring, is_current)) in logs.iter().zip(rings) {
        let (journal, below) = (testing::journal(log.path()), local(bench.disk.path()));
        let keeper = Keeper::new(journal, below, "subject", ring, Realm::named("subject"));
        assert!(!keeper.is_current(), "it was not read yet");
        keeper.prepare().await;
        assert_eq!(keeper.is_current(), is_current);
        assert!(keeper.entered(b"").is_some(), "the names can be read");
    }
}

#[tokio::test]
async fn what_a_client_uploaded_is_no_key_and_clients_do_not_reach_it() {
    let mut bench = Bench::new();
    let client = bench.client();
    client.put("/key", vec![7; 64]).await;
    assert_eq!(client.names("/").await, [b"key"]);
    let stored = bench.stored().remove(0);
    assert!(VirtualPath::clean(b"/.portcullis-names").is_err());
    let key = bench.path(".portcullis-names");
    fs::copy(bench.path(&stored), key).unwrap();
    let error = bench.client().ask(lstat("/key")).await.unwrap_err();
    assert!(error.message.contains("another backend"), "{error}");
}

#[tokio::test]
async fn links_lead_where_they_did_and_foreign_ones_nowhere() {
    let mut bench = Bench::new();
    let client = bench.client();
    client.mkdir("/d").await;
    client.put("/d/a", "a").await;
    client
        .done(Operation::Symlink {
            target: "d/a".into(),
            link: path("/l"),
        })
        .await;
    assert_eq!(client.get("/l").await, b"a");
    let readlink = Operation::Readlink { path: path("/l") };
    let read = client.ask(readlink.clone()).await.unwrap();
    assert_eq!(read, Outcome::Target("d/a".into()));
    let mut stored = bench.stored().into_iter().map(|name| bench.path(&name));
    let link = stored.find(|path| path.is_symlink()).unwrap();
    let target = fs::read_link(&link).unwrap();
    for foreign in [Path::new("d/a"), &Path::new("/").join(&target)] {
        fs::remove_file(&link).unwrap();
        symlink(foreign, &link).unwrap();
        let refused = client.refusal(readlink.clone()).await;
        assert_eq!(refused, ErrorKind::NotAuthentic);
    }
}

#[tokio::test]
async fn a_file_system_tells_how_long_names_may_be() {
    let mut bench = Bench::new();
    let client = bench.client();
    let outcome = client.ask(Operation::Statvfs { path: path("/") }).await;
    let Ok(Outcome::FilesystemStatus(status)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(status.name_max, 143);
    let refused = Operation::Mkdir {
        path: path(&"x".repeat(144)),
        attributes: Attributes::default(),
    };
    assert_eq!(client.refusal(refused).await, ErrorKind::Unsupported);
}
