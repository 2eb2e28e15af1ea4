use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use portcullis_tests::{
    files,
    place::Place,
    server::openssh::{Openssh, Subsystem},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use sha2::Digest as _;

use super::*;
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, READ, REPLACE, Subject, WRITE, suite},
    },
    operation::{Access, Operation},
    path::VirtualPath,
};

suite!(super::subject);

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(800);

async fn subject() -> Subject {
    let server = Server::start();
    Subject {
        service: Arc::new(SftpService::new(server.settings())),
        directory: Vec::new(),
        disk: Some(server.sshd.home.clone()),
        keep: Box::new(server),
    }
}

/// OpenSSH's sshd, and the key that its account logs in with.
struct Server {
    sshd: Openssh,
    key: ssh_key::PrivateKey,
    _keys: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let keys = files::folder("upstream-keys").unwrap();
        let path = files::ssh_key(keys.path(), "login").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        Self {
            sshd: Openssh::start(Place::Loopback, Subsystem::Internal, &path).unwrap(),
            key: ssh_key::PrivateKey::from_openssh(text.as_bytes()).unwrap(),
            _keys: keys,
        }
    }

    fn settings(&self) -> SftpSettings {
        SftpSettings {
            host: self.sshd.address.ip().to_string(),
            port: self.sshd.address.port(),
            user: portcullis_tests::server::USER.to_owned(),
            host_key: ssh_key::PublicKey::from_openssh(&self.sshd.host_key).unwrap(),
            credential: Credential::Key(Arc::new(self.key.clone())),
            uploads: UploadSettings::default(),
            publication: Publication::Rename,
            copy_limit: 1 << 20,
            timeout: PATIENCE,
        }
    }

    fn settings_through(&self, relay: &Relay, timeout: Duration) -> SftpSettings {
        SftpSettings {
            port: relay.address.port(),
            timeout,
            ..self.settings()
        }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.sshd.home)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// What a relay does with the connections through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Forward,
    /// Holds the connections and moves nothing.
    Silent,
    /// Ends them; new ones are served again once it forwards.
    Cut,
}

/// A wire to the server that can go silent or break.
struct Relay {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
}

impl Relay {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mood, moods) = watch::channel(Mood::Forward);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let upstream = TcpStream::connect(server).await.unwrap();
                tokio::spawn(Self::carry(client, upstream, moods.clone()));
            }
        });
        Self { address, mood }
    }

    async fn carry(
        mut client: TcpStream,
        mut upstream: TcpStream,
        mut moods: watch::Receiver<Mood>,
    ) {
        loop {
            let mood = *moods.borrow_and_update();
            match mood {
                Mood::Forward => tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => return,
                    changed = moods.changed() => if changed.is_err() { return },
                },
                Mood::Silent => {
                    if moods.changed().await.is_err() {
                        return;
                    }
                }
                Mood::Cut => return,
            }
        }
    }

    fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

fn client(settings: SftpSettings) -> Client {
    Client::new(SftpService::new(settings).session(b"", &crate::testing::owner()))
}

fn stat(name: &str) -> Operation {
    Operation::Stat {
        path: VirtualPath::clean(name.as_bytes()).unwrap(),
    }
}

async fn message(client: &Client, operation: Operation) -> (ErrorKind, String) {
    let error = client.ask(operation).await.unwrap_err();
    (error.kind, error.message)
}

#[tokio::test]
async fn a_server_with_another_host_key_is_refused_and_both_fingerprints_are_named() {
    let server = Server::start();
    assert!(client(server.settings()).stat("/").await.is_ok());
    let other = server.key.public_key().clone();
    let (kind, message) = message(
        &client(SftpSettings {
            host_key: other.clone(),
            ..server.settings()
        }),
        stat("/"),
    )
    .await;
    assert_eq!(kind, ErrorKind::Unavailable);
    for key in [other, server.settings().host_key] {
        let fingerprint = key.fingerprint(ssh_key::HashAlg::Sha256).to_string();
        assert!(message.contains(&fingerprint), "{message}");
    }
}

#[tokio::test]
async fn a_password_logs_in_and_a_wrong_one_or_an_unknown_key_is_told_from_it() {
    let server = Server::start();
    let password = |text: &str| Credential::Password(text.to_owned().into());
    let good = SftpSettings {
        credential: password(portcullis_tests::server::PASSWORD),
        ..server.settings()
    };
    assert!(client(good.clone()).stat("/").await.is_ok());
    let keys = files::folder("stranger").unwrap();
    let stranger = files::ssh_key(keys.path(), "stranger").unwrap();
    let stranger = std::fs::read_to_string(stranger).unwrap();
    let stranger = ssh_key::PrivateKey::from_openssh(stranger.as_bytes()).unwrap();
    for credential in [password("wrong"), Credential::Key(Arc::new(stranger))] {
        let settings = SftpSettings {
            credential,
            ..good.clone()
        };
        let (kind, message) = message(&client(settings), stat("/")).await;
        assert_eq!(kind, ErrorKind::Unavailable);
        assert!(message.contains("refused the login"), "{message}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let key = ssh_key::PublicKey::from_openssh(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ",
    )
    .unwrap();
    let settings = SftpSettings {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
        user: "gateway".to_owned(),
        host_key: key,
        credential: Credential::Password("unused".to_owned().into()),
        uploads: UploadSettings::default(),
        publication: Publication::Rename,
        copy_limit: 1 << 20,
        timeout: SHORT,
    };
    let begun = Instant::now();
    let (kind, _) = message(&client(settings.clone()), stat("/")).await;
    assert_eq!(kind, ErrorKind::TimedOut);
    assert!(begun.elapsed() < SHORT * 4);
    drop(listener);
    let (kind, message) = message(&client(settings), stat("/")).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(message.contains("can't be reached"), "{message}");
}

#[tokio::test]
async fn a_connection_that_breaks_within_an_upload_publishes_nothing_and_the_next_request_opens_another()
 {
    let server = Server::start();
    let relay = Relay::to(server.sshd.address).await;
    let client = client(server.settings_through(&relay, PATIENCE));
    client.put("/before", "whole").await;
    let reading = client.open("/before", READ).await;
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, vec![7; 100_000]).await;
    relay.set(Mood::Cut);
    let write = Operation::Write {
        handle,
        offset: 100_000,
        data: "more".into(),
    };
    assert_eq!(client.refusal(write).await, ErrorKind::Unavailable);
    relay.set(Mood::Forward);
    assert_eq!(client.get("/before").await, b"whole");
    let read = Operation::Read {
        handle: reading,
        offset: 0,
        length: 1,
    };
    assert_eq!(
        client.refusal(read).await,
        ErrorKind::Unavailable,
        "an old handle belongs to the old connection"
    );
    let close = Operation::Close { handle };
    assert_eq!(client.refusal(close).await, ErrorKind::Unavailable);
    assert!(stranger(server.settings()).is_missing("/a").await);
    // What the server had taken is there, for its account alone.
    let size = client.stat("/a").await.unwrap().size.unwrap();
    assert_eq!(size, 99_999);
    let handle = client.open("/a", APPEND).await;
    client.write(handle, 0, vec![7; 50_001]).await;
    client.close(handle).await;
    assert!(client.get("/a").await == vec![7; 150_000]);
    client.end().await;
    assert_eq!(server.names(), ["a", "before"]);
}

const APPEND: Access = Access {
    append: true,
    create: true,
    ..WRITE
};

fn stranger(settings: SftpSettings) -> Client {
    let owner = Owner::new(*b"mallory");
    Client::new(SftpService::new(settings).session(b"", &owner))
}

#[tokio::test]
async fn a_session_that_ends_after_its_connection_broke_comes_back_for_its_staging_files() {
    let server = Server::start();
    let relay = Relay::to(server.sshd.address).await;
    let client = client(server.settings_through(&relay, PATIENCE));
    let handle = client.open("/a", REPLACE).await;
    // With a gap, so that nobody can resume it.
    client.write(handle, 7, "half").await;
    assert_eq!(server.names().len(), 1);
    relay.set(Mood::Cut);
    let fstat = Operation::Fstat { handle };
    assert_eq!(client.refusal(fstat).await, ErrorKind::Unavailable);
    relay.set(Mood::Forward);
    client.end().await;
    assert!(server.names().is_empty());
}

#[tokio::test]
async fn a_server_that_falls_silent_within_a_transfer_is_given_up_at_the_deadline() {
    let server = Server::start();
    let relay = Relay::to(server.sshd.address).await;
    let client = client(server.settings_through(&relay, SHORT));
    client.put("/a", "content").await;
    let reading = client.open("/a", READ).await;
    let uploading = client.open("/b", REPLACE).await;
    client.write(uploading, 0, "half").await;
    relay.set(Mood::Silent);
    let begun = Instant::now();
    let read = Operation::Read {
        handle: reading,
        offset: 0,
        length: 1,
    };
    let close = client.start(Operation::Close { handle: uploading }).await;
    assert_eq!(client.refusal(read).await, ErrorKind::TimedOut);
    assert_eq!(close.await.unwrap_err().kind, ErrorKind::TimedOut);
    assert!(begun.elapsed() < SHORT * 4);
    relay.set(Mood::Cut);
    relay.set(Mood::Forward);
    assert_eq!(client.get("/a").await, b"content");
    assert_eq!(client.stat("/b").await.unwrap().size, Some(3));
    client.end().await;
    assert!(stranger(server.settings()).is_missing("/b").await);
}

#[tokio::test]
async fn a_server_that_copies_serves_updates_of_any_size_and_a_change_meanwhile_is_noticed() {
    let server = Server::start();
    let client = client(SftpSettings {
        copy_limit: 0,
        ..server.settings()
    });
    // More than one request to copy.
    let mut content = vec![1; 40 << 20];
    std::fs::write(server.sshd.home.join("a"), &content).unwrap();
    let handle = client.open("/a", APPEND).await;
    client.write(handle, 0, "end").await;
    client.close(handle).await;
    content.extend(b"end");
    assert!(std::fs::read(server.sshd.home.join("a")).unwrap() == content);
    let handle = client.open("/a", WRITE).await;
    client.write(handle, 0, "lost").await;
    std::fs::write(server.sshd.home.join("a"), "someone else's").unwrap();
    let close = Operation::Close { handle };
    assert_eq!(client.refusal(close).await, ErrorKind::Failure);
    assert_eq!(client.get("/a").await, b"someone else's");
    assert_eq!(server.names(), ["a"]);
}

#[tokio::test]
async fn a_direct_upload_stands_under_its_name_from_the_first_byte_on_and_others_do_not() {
    let server = Server::start();
    let direct = SftpSettings {
        publication: Publication::Direct,
        ..server.settings()
    };
    let writer = client(direct.clone());
    let handle = writer.open("/a", REPLACE).await;
    writer.write(handle, 0, "half").await;
    assert_eq!(server.names(), ["a"]);
    assert_eq!(writer.get("/a").await, b"half");
    writer.end().await;
    let writer = client(direct);
    assert_eq!(writer.stat("/a").await.unwrap().size, Some(4));
    let handle = writer.open("/a", APPEND).await;
    writer.write(handle, 4, ", whole").await;
    assert_eq!(
        writer.close_digested(handle).await,
        Some(sha2::Sha256::digest(b"half, whole").into())
    );
    let handle = client(server.settings()).open("/b", REPLACE).await;
    assert!(!server.names().contains(&"b".to_owned()), "{handle:?}");
    assert_eq!(writer.get("/a").await, b"half, whole");
}

#[tokio::test]
async fn a_staging_file_is_swept_when_its_directory_is_used_once_nobody_has_touched_it_for_long() {
    let server = Server::start();
    let age = |name: &str, hours: u64| {
        let path = server.sshd.home.join(name);
        let file = std::fs::File::create(&path).unwrap();
        let modified = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(modified).unwrap();
    };
    let (old, young) = (
        ".portcullis-0123456789abcdef.part",
        ".portcullis-fedcba9876543210.part",
    );
    for name in [old, "old.csv", ".portcullis-notes"] {
        age(name, 30);
    }
    age(young, 20);
    let kept = [young, ".portcullis-notes", "old.csv"];
    let client = client(server.settings());
    assert_eq!(client.names("/").await, [b"old.csv"]);
    client.end().await;
    assert_eq!(server.names(), kept);
    // An upload has its directory searched too.
    age(old, 30);
    let uploader =
        Client::new(SftpService::new(server.settings()).session(b"", &crate::testing::owner()));
    uploader.put("/old.csv", "new").await;
    let deadline = Instant::now() + PATIENCE;
    while server.names() != kept {
        assert!(Instant::now() < deadline, "{:?}", server.names());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_the_mount_names_is_below_the_login_directory_or_absolute() {
    let server = Server::start();
    let service = SftpService::new(server.settings());
    client(server.settings()).mkdir("/inbox").await;
    let absolute = server.sshd.home.join("inbox");
    for directory in [
        &b"inbox"[..],
        b"./inbox/",
        absolute.as_os_str().as_encoded_bytes(),
    ] {
        let client = Client::new(service.session(directory, &crate::testing::owner()));
        client.put("/a", directory.to_vec()).await;
        assert_eq!(std::fs::read(absolute.join("a")).unwrap(), directory);
        assert!(client.stat("/").await.unwrap().is_directory());
        assert_eq!(client.names("/").await, [b"a"]);
    }
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode_and_an_upload_over_a_link_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start();
    let client = client(server.settings());
    client.put("/a", "old").await;
    let on_disk = server.sshd.home.join("a");
    std::fs::set_permissions(&on_disk, std::fs::Permissions::from_mode(0o606)).unwrap();
    client.put("/a", "new").await;
    let mode = std::fs::metadata(&on_disk).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o606);
    std::os::unix::fs::symlink("a", server.sshd.home.join("link")).unwrap();
    for access in [REPLACE, WRITE] {
        let open = client.open_operation("/link", access);
        assert_eq!(client.refusal(open).await, ErrorKind::Unsupported);
    }
    let exclusive = Access {
        exclusive: true,
        ..REPLACE
    };
    let open = client.open_operation("/link", exclusive);
    assert_eq!(client.refusal(open).await, ErrorKind::AlreadyExists);
    assert_eq!(client.get("/link").await, b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transfers_in_both_directions_at_once_do_not_wait_for_each_other() {
    const CHUNK: usize = 255 * 1024;
    const CHUNKS: u64 = 128;
    let server = Server::start();
    let client = client(server.settings());
    let upload = async |name: &str| {
        let handle = client.open(name, REPLACE).await;
        let mut writes = Vec::new();
        for number in 0..CHUNKS {
            let write = Operation::Write {
                handle,
                offset: number * CHUNK as u64,
                data: vec![number as u8; CHUNK].into(),
            };
            writes.push(client.start(write).await);
        }
        for outcome in futures_util::future::join_all(writes).await {
            outcome.unwrap();
        }
        client.close(handle).await;
    };
    let download = async |name: &str| {
        let handle = client.open(name, READ).await;
        let mut reads = Vec::new();
        for number in 0..CHUNKS {
            let read = Operation::Read {
                handle,
                offset: number * CHUNK as u64,
                length: CHUNK as u32,
            };
            reads.push(client.start(read).await);
        }
        let mut outcomes = futures_util::future::join_all(reads).await.into_iter();
        for number in 0..CHUNKS {
            let Ok(Outcome::Data(data)) = outcomes.next().unwrap() else {
                panic!("READ {number} gave no data");
            };
            assert!(data.len() == CHUNK && data.iter().all(|&byte| byte == number as u8));
        }
        client.close(handle).await;
    };
    let both = async {
        upload("/one").await;
        tokio::join!(upload("/two"), download("/one"));
        download("/two").await;
    };
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("neither direction waits for the other");
}

/// An older server with other habits: no `limits@openssh.com`, no fsync, no RENAME over an existing file.
mod proftpd {
    use portcullis_tests::server::proftpd::{Proftpd, Protocol};

    use super::*;

    // READLINK makes every target absolute.
    suite!(super::subject, without links_are_stored_as_they_were_given);

    async fn subject() -> Subject {
        let (server, settings) = start();
        Subject {
            service: Arc::new(SftpService::new(settings)),
            directory: Vec::new(),
            disk: Some(server.home.clone()),
            keep: Box::new(server),
        }
    }

    #[tokio::test]
    async fn a_server_that_can_not_copy_serves_updates_up_to_the_limit() {
        let (server, settings) = start();
        let client = client(SftpSettings {
            copy_limit: 10,
            ..settings
        });
        std::fs::write(server.home.join("small"), "0123456789").unwrap();
        std::fs::write(server.home.join("large"), "0123456789a").unwrap();
        let handle = client.open("/small", WRITE).await;
        client.write(handle, 0, "ZERO").await;
        client.close(handle).await;
        assert_eq!(client.get("/small").await, b"ZERO456789");
        let open = client.open_operation("/large", WRITE);
        let (kind, message) = message(&client, open).await;
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(message.contains("copy_limit_bytes"), "{message}");
        client.put("/large", "replaced").await;
        assert_eq!(client.get("/large").await, b"replaced");
        client.end().await;
        let mut names: Vec<_> = std::fs::read_dir(&server.home)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["large", "small"]);
    }

    fn start() -> (Proftpd, SftpSettings) {
        let keys = files::folder("upstream-keys").unwrap();
        let path = files::ssh_key(keys.path(), "login").unwrap();
        let server = Proftpd::start(Place::Loopback, Protocol::Sftp, Some(&path)).unwrap();
        let key = std::fs::read_to_string(&path).unwrap();
        let key = ssh_key::PrivateKey::from_openssh(key.as_bytes()).unwrap();
        let settings = SftpSettings {
            host: server.address.ip().to_string(),
            port: server.address.port(),
            user: portcullis_tests::server::USER.to_owned(),
            host_key: ssh_key::PublicKey::from_openssh(server.host_key.as_deref().unwrap())
                .unwrap(),
            credential: Credential::Key(Arc::new(key)),
            uploads: UploadSettings::default(),
            publication: Publication::Rename,
            copy_limit: 1 << 20,
            timeout: PATIENCE,
        };
        (server, settings)
    }
}
