use std::{
    fs,
    num::NonZeroU64,
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use portcullis_at_rest::{
    DataKey, Head, Keyring, Realm,
    escrow::Identity,
    kek::{KeyEncryptionKey, SoftwareKek},
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::super::{
    EncryptedService, Foreign, Pending, Vault,
    pending::{Entry, Place},
};
use crate::{
    backend::{
        BackendService as _, ErrorKind,
        conformance::{Client, READ, REPLACE, WRITE},
        local::{LocalService, LocalSettings},
        memory::Memory,
        staging::UploadSettings,
    },
    operation::{Care, Operation, Tended},
    pace::Pace,
    path::VirtualPath,
};

const CONTENT: &[u8] = b"what was uploaded";

/// A directory, and keys that its files are wrapped to.
struct Disk {
    directory: TempDir,
    folder: TempDir,
    local: Arc<LocalService>,
    keys: [Arc<SoftwareKek>; 2],
    recipients: [Identity; 2],
}

/// By its number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(usize);

const OLD: Key = Key(0);
const NEW: Key = Key(1);

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalService::new(LocalSettings {
            directory: directory.path().to_owned(),
            uploads: UploadSettings::default(),
            timeout: Duration::from_secs(30),
        });
        let key = || Arc::new(SoftwareKek::new(&DataKey::random().unwrap()));
        Self {
            directory,
            folder: tempfile::tempdir().unwrap(),
            local: Arc::new(local.unwrap()),
            keys: [key(), key()],
            recipients: [Identity::generate().unwrap(), Identity::generate().unwrap()],
        }
    }

    fn ring(&self, active: Key, retired: &[Key]) -> Keyring {
        let key = |key: Key| Arc::clone(&self.keys[key.0]) as Arc<dyn KeyEncryptionKey>;
        let recipient = self.recipients[active.0].recipient().clone();
        let retired = retired.iter().copied().map(key).collect();
        Keyring::new(key(active), retired, Some(recipient))
    }

    fn pending(&self) -> Pending {
        Pending::new(self.folder.path().join("pending"))
    }

    fn client(&self, active: Key, retired: &[Key]) -> Client {
        self.client_with(active, retired, Foreign::Refuse)
    }

    fn client_with(&self, active: Key, retired: &[Key], foreign: Foreign) -> Client {
        self.paced_client(active, retired, foreign, &Pace::default())
    }

    fn paced_client(&self, active: Key, retired: &[Key], foreign: Foreign, pace: &Pace) -> Client {
        let vault = Vault {
            ring: self.ring(active, retired),
            realm: Realm::named("subject"),
            foreign,
            update_limit: 64 << 20,
            spool_directory: std::env::temp_dir(),
            pending: self.pending(),
            names: None,
            vouch: true,
        };
        let service = EncryptedService::new(Arc::clone(&self.local) as _, vault);
        let owner = crate::testing::owner().paced(pace.clone());
        Client::new(service.session(b"", &owner))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn head(&self, name: &str) -> Head {
        Head::parse(&fs::read(self.at(name)).unwrap()).unwrap()
    }
}

fn place(path: &str) -> Place {
    Place {
        directory: Box::default(),
        path: VirtualPath::clean(path.as_bytes()).unwrap(),
    }
}

#[tokio::test]
async fn a_rotation_changes_the_head_alone_and_the_old_key_is_not_needed_any_more() {
    let disk = Disk::new();
    let before = disk.client(OLD, &[]);
    for (name, mode) in [("a", 0o640), ("read-only", 0o400)] {
        before.put(format!("/{name}"), CONTENT).await;
        let file = disk.at(name);
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let opened = fs::File::open(&file).unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        opened.set_modified(long_ago).unwrap();
        let (about, stored) = (fs::metadata(&file).unwrap(), fs::read(&file).unwrap());
        assert!(disk.client(NEW, &[]).stat(format!("/{name}")).await.is_ok());

        let rotated = disk.client(NEW, &[OLD]);
        let path = format!("/{name}");
        assert_eq!(rotated.get(&path).await, CONTENT, "mixed ages");
        assert_eq!(
            rotated.tend(&path, Care::Rewrap).await.unwrap(),
            Tended::Rewrapped { bytes: 1024 }
        );
        assert_eq!(
            rotated.tend(&path, Care::Rewrap).await.unwrap(),
            Tended::Current
        );

        let now = fs::metadata(&file).unwrap();
        let facts = |about: &fs::Metadata| {
            let times = (about.mtime(), about.mtime_nsec());
            (about.ino(), about.len(), about.mode(), about.uid(), times)
        };
        assert_eq!(facts(&now), facts(&about));
        let stored_now = fs::read(&file).unwrap();
        assert!(stored_now[..Head::LENGTH] != stored[..Head::LENGTH]);
        assert!(stored_now[Head::LENGTH..] == stored[Head::LENGTH..]);
        assert_eq!(disk.client(NEW, &[]).get(&path).await, CONTENT);
        let refused = disk
            .client(OLD, &[])
            .refusal(before.open_operation(&path, READ))
            .await;
        assert_eq!(refused, ErrorKind::Failure, "the key is not there");
    }
    assert!(disk.pending().place().unwrap().is_none());
}

#[tokio::test]
async fn a_file_that_is_encrypted_is_held_to_the_pace_within() {
    let disk = Disk::new();
    fs::write(disk.at("a"), vec![7; 3 << 20]).unwrap();
    let slow = Pace::of(NonZeroU64::new(1));
    let client = disk.paced_client(NEW, &[], Foreign::Read, &slow);
    let tending = client.tend("/a", Care::Encrypt { expected: None });
    // Its first piece is due in an hour.
    let ended = tokio::time::timeout(Duration::from_millis(300), tending).await;
    assert!(ended.is_err());
    assert_eq!(slow.taken(), [4096]);
    client.end().await;
    assert_eq!(fs::read(disk.at("a")).unwrap(), [7; 3 << 20]);
    assert_eq!(fs::read_dir(disk.directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn another_escrow_recipient_is_a_reason_and_the_new_shares_open_the_file() {
    let disk = Disk::new();
    disk.client(OLD, &[]).put("/a", CONTENT).await;
    assert!(disk.head("a").rescue(&disk.recipients[1]).is_none());
    disk.client(NEW, &[OLD])
        .tend("/a", Care::Rewrap)
        .await
        .unwrap();
    assert!(disk.head("a").rescue(&disk.recipients[1]).unwrap().is_ok());
    assert!(disk.head("a").rescue(&disk.recipients[0]).is_none());
}

#[tokio::test]
async fn who_has_the_file_open_goes_on() {
    let disk = Disk::new();
    let (old, rotated) = (disk.client(OLD, &[NEW]), disk.client(NEW, &[OLD]));
    old.put("/a", CONTENT).await;
    let reader = old.open("/a", READ).await;
    let writer = old.open("/a", WRITE).await;
    old.write(writer, 0, "WHAT").await;
    assert_eq!(
        rotated.tend("/a", Care::Rewrap).await.unwrap(),
        Tended::Rewrapped { bytes: 1024 }
    );
    assert_eq!(old.read(reader, 0, 100).await, CONTENT);
    old.close(reader).await;
    old.close(writer).await;
    assert_eq!(old.get("/a").await, b"WHAT was uploaded");

    // Its nearest neighbour: somebody has put another file there.
    let writer = old.open("/a", WRITE).await;
    old.write(writer, 0, "lost").await;
    rotated.put("/a", "another file").await;
    assert_eq!(
        old.refusal(Operation::Close { handle: writer }).await,
        ErrorKind::Failure
    );
    assert_eq!(rotated.get("/a").await, b"another file");
}

#[tokio::test]
async fn an_interrupted_upload_that_goes_on_is_wrapped_to_the_new_key() {
    const KEPT: usize = 16 << 20;
    const PIECE: usize = 128 << 10;
    let disk = Disk::new();
    let mut random = fastrand::Rng::with_seed(5);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(KEPT + 2 * PIECE)
        .collect();
    let old = disk.client(OLD, &[]);
    let handle = old.open("/a", REPLACE).await;
    for (number, data) in content.chunks(PIECE).enumerate() {
        old.write(handle, (number * PIECE) as u64, data.to_vec())
            .await;
    }
    old.end().await;

    let new = disk.client(NEW, &[OLD]);
    assert_eq!(new.stat("/a").await.unwrap().size, Some(KEPT as u64));
    let handle = new.open("/a", WRITE).await;
    for (number, data) in content[KEPT..].chunks(PIECE).enumerate() {
        let offset = (KEPT + number * PIECE) as u64;
        new.write(handle, offset, data.to_vec()).await;
    }
    assert!(new.close_digested(handle).await.is_some());
    assert!(disk.client(NEW, &[]).get("/a").await == content);
}

#[tokio::test]
async fn a_head_that_is_not_authentic_or_of_an_unknown_key_is_left_as_it_is() {
    let disk = Disk::new();
    disk.client(OLD, &[]).put("/a", CONTENT).await;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(disk.at("a"))
        .unwrap();
    let sound = fs::read(disk.at("a")).unwrap();
    let unknown = disk
        .client(NEW, &[])
        .tend("/a", Care::Rewrap)
        .await
        .unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::Failure);
    assert!(unknown.message.contains("not configured"), "{unknown}");
    for at in [3, 8, 20, 40, 70, 100, 141, 200, 300, 500] {
        file.write_all_at(&[sound[at] ^ 1], at as u64).unwrap();
        let stored = fs::read(disk.at("a")).unwrap();
        let refused = disk.client(NEW, &[OLD]).tend("/a", Care::Rewrap).await;
        assert!(refused.is_err(), "byte {at}");
        assert!(fs::read(disk.at("a")).unwrap() == stored, "byte {at}");
        file.write_all_at(&[sound[at]], at as u64).unwrap();
    }
    assert!(
        disk.client(NEW, &[OLD])
            .tend("/a", Care::Rewrap)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_head_that_was_torn_at_any_byte_is_written_again_and_only_by_what_was_kept_for_that_file()
{
    let disk = Disk::new();
    disk.client(OLD, &[]).put("/a", CONTENT).await;
    let rotated = disk.client(NEW, &[OLD]);
    rotated.put("/another", CONTENT).await;
    let old = disk.head("a");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(disk.at("a"))
        .unwrap();
    let head = disk
        .ring(NEW, &[OLD])
        .rewrap(&old, &Realm::named("subject"))
        .unwrap();
    let entry = |path: &str| Entry {
        place: place(path),
        head: head.clone(),
        times: Some((1_000_000_000, 1_000_000_000)),
    };
    let of_another = Entry {
        head: disk.head("another"),
        ..entry("/a")
    };
    for cut in (0..=Head::LENGTH).step_by(16) {
        let torn = [&head.as_bytes()[..cut], &old.as_bytes()[cut..]].concat();
        file.write_all_at(&torn, 0).unwrap();
        let is_torn = {
            let reader = disk.client(OLD, &[NEW]);
            let open = reader.open_operation("/a", READ);
            reader.ask(open).await.is_err()
        };
        // Nothing that tells heads of one file apart stands in front of the key's id.
        assert_eq!(is_torn, cut > 64 && cut < Head::LENGTH, "byte {cut}");

        disk.pending().put(&of_another).unwrap();
        if is_torn {
            assert!(
                rotated.tend("/a", Care::Rewrap).await.is_err(),
                "byte {cut}"
            );
            assert!(fs::read(disk.at("a")).unwrap().starts_with(&torn));
        }
        disk.pending().put(&entry("/a")).unwrap();
        assert_eq!(
            rotated.tend("/a", Care::Rewrap).await.unwrap(),
            Tended::Rewrapped { bytes: 1024 }
        );
        assert_eq!(disk.client(NEW, &[]).get("/a").await, CONTENT, "byte {cut}");
        assert!(disk.pending().place().unwrap().is_none());
        if is_torn || cut == Head::LENGTH {
            assert_eq!(fs::metadata(disk.at("a")).unwrap().mtime(), 1_000_000_000);
        }
    }
    // What was kept for a file that was replaced since has nothing to say.
    disk.pending().put(&entry("/a")).unwrap();
    rotated.put("/a", "another").await;
    let stored = fs::read(disk.at("a")).unwrap();
    assert_eq!(
        rotated.tend("/a", Care::Rewrap).await.unwrap(),
        Tended::Current
    );
    assert!(fs::read(disk.at("a")).unwrap() == stored);
}

#[tokio::test]
async fn a_head_that_may_be_half_written_comes_before_all_others() {
    let disk = Disk::new();
    let old = disk.client(OLD, &[]);
    old.put("/a", CONTENT).await;
    old.put("/b", CONTENT).await;
    let entry = Entry {
        place: place("/b"),
        head: disk.head("b"),
        times: None,
    };
    disk.pending().put(&entry).unwrap();
    let rotated = disk.client(NEW, &[OLD]);
    let refused = rotated.tend("/a", Care::Rewrap).await.unwrap_err();
    assert!(refused.message.contains("half written"), "{refused}");
    assert_eq!(disk.pending().place().unwrap(), Some(place("/b")));
    for path in ["/b", "/a"] {
        let tended = rotated.tend(path, Care::Rewrap).await.unwrap();
        assert!(matches!(tended, Tended::Rewrapped { .. }), "{path}");
    }
}

#[test]
fn what_is_kept_is_whole_or_nothing() {
    let disk = Disk::new();
    let (_, head) = disk
        .ring(OLD, &[])
        .create(&Realm::named("subject"))
        .unwrap();
    let entry = Entry {
        place: place("/disk/a"),
        head,
        times: Some((1, 2)),
    };
    let (pending, file) = (disk.pending(), disk.folder.path().join("pending"));
    assert_eq!(pending.get().unwrap(), None);
    pending.put(&entry).unwrap();
    assert_eq!(pending.get().unwrap(), Some(entry));
    let whole = fs::read(&file).unwrap();
    for cut in 0..whole.len() {
        fs::write(&file, &whole[..cut]).unwrap();
        assert_eq!(pending.get().unwrap(), None, "{cut} bytes");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&file, &flipped).unwrap();
        assert_eq!(pending.get().unwrap(), None, "byte {at}");
    }
    pending.clear().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_finds_the_old_head_or_the_new_one_whenever_it_looks() {
    const ROTATIONS: usize = 150;
    let disk = Disk::new();
    let clients = [disk.client(OLD, &[NEW]), disk.client(NEW, &[OLD])];
    clients[0].put("/a", CONTENT).await;
    let reader = disk.client(NEW, &[OLD]);
    let reading = tokio::spawn(async move {
        for _ in 0..4 * ROTATIONS {
            assert_eq!(reader.get("/a").await, CONTENT);
        }
    });
    for number in 0..ROTATIONS {
        let by = &clients[(number + 1) % 2];
        assert_eq!(
            by.tend("/a", Care::Rewrap).await.unwrap(),
            Tended::Rewrapped { bytes: 1024 }
        );
    }
    reading.await.unwrap();
}

#[tokio::test]
async fn what_is_not_encrypted_is_said_to_be_plain_while_it_is_migrated_and_refused_otherwise() {
    let disk = Disk::new();
    fs::write(disk.at("plain"), CONTENT).unwrap();
    let migrating = disk.client_with(NEW, &[OLD], Foreign::Read);
    assert_eq!(
        migrating.tend("/plain", Care::Rewrap).await.unwrap(),
        Tended::Plain
    );
    let refused = disk.client(NEW, &[OLD]).tend("/plain", Care::Rewrap).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::NotAuthentic);
    assert!(fs::read(disk.at("plain")).unwrap() == CONTENT);
}

#[tokio::test]
async fn a_client_can_not_ask_for_it_and_a_backend_that_can_not_do_it_says_so() {
    let disk = Disk::new();
    let memory = Memory::new();
    let vault = Vault {
        ring: disk.ring(NEW, &[OLD]),
        realm: Realm::named("subject"),
        foreign: Foreign::Refuse,
        update_limit: 0,
        spool_directory: std::env::temp_dir(),
        pending: disk.pending(),
        names: None,
        vouch: true,
    };
    let service = EncryptedService::new(Arc::new(memory), vault);
    let client = Client::new(service.session(b"", &crate::testing::owner()));
    client.put("/a", CONTENT).await;
    let refused = client.tend("/a", Care::Rewrap).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unsupported);

    let denied = crate::policy::authorize(
        &Arc::new(crate::testing::requester()),
        &[crate::testing::everything("/", "subject")],
        portcullis_journal::OperationId(1),
        Operation::Tend {
            path: VirtualPath::clean(b"/a").unwrap(),
            care: Care::Rewrap,
        },
        crate::policy::Named::default(),
    );
    assert_eq!(denied.unwrap_err(), crate::policy::Denied::GatewayOnly);
}

const ENCRYPT: Care = Care::Encrypt { expected: None };

fn sha256(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

#[tokio::test]
async fn a_plain_file_is_encrypted_and_keeps_its_content_time_mode_and_owner() {
    let disk = Disk::new();
    let client = disk.client_with(NEW, &[], Foreign::Read);
    for (number, length) in [0, 1, 511, 512, 600, 1 << 20, (16 << 20) + 5]
        .into_iter()
        .enumerate()
    {
        let mut random = fastrand::Rng::with_seed(length as u64);
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(length)
            .collect();
        let file = disk.at("a");
        fs::write(&file, &content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
        std::os::unix::fs::chown(&file, Some(4711), Some(4712)).unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        fs::File::open(&file)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        let about = fs::metadata(&file).unwrap();

        let digest = sha256(&content);
        let expected = (number % 2 == 0).then_some(digest);
        let tended = client.tend("/a", Care::Encrypt { expected }).await.unwrap();
        let bytes = length as u64;
        let object = Head::parse(&fs::read(&file).unwrap()).unwrap().object();
        assert_eq!(
            tended,
            Tended::Encrypted {
                sha256: digest,
                bytes,
                object
            }
        );
        let now = fs::metadata(&file).unwrap();
        let facts = |about: &fs::Metadata| {
            let times = (about.mtime(), about.mtime_nsec());
            (about.mode(), about.uid(), about.gid(), times)
        };
        assert_eq!(facts(&now), facts(&about));
        assert!(
            disk.client(NEW, &[]).get("/a").await == content,
            "{length} bytes"
        );
        assert_eq!(client.tend("/a", ENCRYPT).await.unwrap(), Tended::Current);
    }
    assert_eq!(fs::read_dir(disk.directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_is_not_what_was_uploaded_or_was_an_encrypted_file_stays_as_it_is() {
    let disk = Disk::new();
    let client = disk.client_with(NEW, &[], Foreign::Read);
    fs::write(disk.at("altered"), CONTENT).unwrap();
    client.put("/damaged", CONTENT).await;
    let mut stored = fs::read(disk.at("damaged")).unwrap();
    stored[1] ^= 1;
    fs::write(disk.at("damaged"), &stored).unwrap();
    let expected = Some(sha256(b"something else"));
    for (path, care) in [
        ("altered", Care::Encrypt { expected }),
        ("damaged", ENCRYPT),
    ] {
        let before = fs::read(disk.at(path)).unwrap();
        let refused = client.tend(format!("/{path}"), care).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotAuthentic, "{refused}");
        assert!(fs::read(disk.at(path)).unwrap() == before);
    }
    client.end().await;
    let left = fs::read_dir(disk.directory.path()).unwrap().count();
    assert_eq!(left, 2, "nothing of the new file is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_upload_meanwhile_is_never_undone() {
    const ROUNDS: usize = 60;
    let disk = Disk::new();
    let content = vec![b'o'; 300_000];
    let uploader = Arc::new(disk.client_with(NEW, &[], Foreign::Read));
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..ROUNDS {
        fs::write(disk.at("a"), &content).unwrap();
        let migrating = disk.client_with(NEW, &[], Foreign::Read);
        let uploading = Arc::clone(&uploader);
        let delay = Duration::from_micros(random.u64(..15_000));
        let upload = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            match round % 3 {
                0 => uploading.put("/a", "new").await,
                1 => {
                    uploading.put("/b", "new").await;
                    let [from, to] = [b"/b", b"/a"].map(|path| VirtualPath::clean(path).unwrap());
                    uploading.done(Operation::PosixRename { from, to }).await;
                }
                _ => {
                    let path = VirtualPath::clean(b"/a").unwrap();
                    uploading.done(Operation::Remove { path }).await;
                }
            }
        });
        let _ = migrating.tend("/a", ENCRYPT).await;
        upload.await.unwrap();
        migrating.end().await;
        if round % 3 == 2 {
            assert!(!disk.at("a").exists(), "round {round}");
        } else {
            assert_eq!(uploader.get("/a").await, b"new", "round {round}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_destroyed_opens_by_no_key_also_where_it_has_another_name() {
    let disk = Disk::new();
    let client = disk.client(NEW, &[OLD]);
    client.put("/a", CONTENT).await;
    fs::hard_link(disk.at("a"), disk.at("other")).unwrap();
    let Tended::Identified { object } = client.tend("/a", Care::Identify).await.unwrap() else {
        panic!("it is an encrypted file");
    };
    assert_eq!(object, disk.head("a").object().0);
    // What was kept for a rotation that a crash interrupted holds wraps, too.
    let entry = Entry {
        place: place("/a"),
        head: disk.head("a"),
        times: None,
    };
    disk.pending().put(&entry).unwrap();

    let other = Care::Shred { object: [7; 16] };
    assert!(client.tend("/a", other).await.is_err(), "another file");
    assert_eq!(client.get("/a").await, CONTENT);
    let shredded = client.tend("/a", Care::Shred { object }).await;
    assert_eq!(shredded.unwrap(), Tended::Shredded);
    assert!(client.is_missing("/a").await);
    let left = fs::read(disk.at("other")).unwrap();
    assert!(left[64..Head::LENGTH].iter().all(|byte| *byte == 0));
    let open = client.open_operation("/other", READ);
    // No key has the number zero.
    assert_eq!(client.refusal(open).await, ErrorKind::Failure);
    assert!(disk.head("other").rescue(&disk.recipients[1]).is_none());
    assert!(disk.pending().place().unwrap().is_none());
}

#[tokio::test]
async fn what_is_not_encrypted_is_not_destroyed() {
    let disk = Disk::new();
    fs::write(disk.at("plain"), CONTENT).unwrap();
    let client = disk.client_with(NEW, &[], Foreign::Read);
    assert_eq!(
        client.tend("/plain", Care::Identify).await.unwrap(),
        Tended::Plain
    );
    let refused = client.tend("/plain", Care::Shred { object: [0; 16] }).await;
    assert!(refused.is_err());
    assert!(fs::read(disk.at("plain")).unwrap() == CONTENT);
}
