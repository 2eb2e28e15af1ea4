//! The gateway's own work on stored files: they are wrapped to other keys, encrypted, destroyed, and clients go on meanwhile.

use std::{
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_at_rest::{
    DataKey, Head, Keyring, Realm,
    kek::{KeyEncryptionKey, SoftwareKek},
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{Client, READ, REPLACE, Subject};
use crate::{
    backend::{
        ErrorKind,
        encrypted::{EncryptedService, Foreign, Pending, Vault},
    },
    operation::{Attributes, Care, Operation, Tended},
    pace::Pace,
    path::VirtualPath,
    testing,
};

pub(crate) const OLD: usize = 0;
pub(crate) const NEW: usize = 1;
/// Of one plaintext segment, of some, and of more than a server takes in one part.
const LENGTHS: [usize; 4] = [0, 17, 200_000, (9 << 20) + 5];
const ROUNDS: usize = 24;

/// Two keys, of which files are wrapped to one.
#[derive(Debug)]
pub(crate) struct Keys {
    keys: [Arc<SoftwareKek>; 2],
    folder: TempDir,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let key = || Arc::new(SoftwareKek::new(&DataKey::random().unwrap()));
        Self {
            keys: [key(), key()],
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// True if no head may be half written.
    pub(crate) fn are_settled(&self) -> bool {
        Pending::new(self.folder.path().join("pending"))
            .place()
            .unwrap()
            .is_none()
    }

    pub(crate) fn client(
        &self,
        subject: &Subject,
        active: usize,
        retired: Option<usize>,
    ) -> Client {
        self.paced_client(subject, (active, retired), &Pace::default())
    }

    fn paced_client(
        &self,
        subject: &Subject,
        (active, retired): (usize, Option<usize>),
        pace: &Pace,
    ) -> Client {
        let key = |number: usize| Arc::clone(&self.keys[number]) as Arc<dyn KeyEncryptionKey>;
        let vault = Vault {
            ring: Keyring::new(key(active), retired.map(key).into_iter().collect(), None),
            realm: Realm::named("subject"),
            foreign: Foreign::Read,
            update_limit: 64 << 20,
            spool_directory: std::env::temp_dir(),
            pending: Pending::new(self.folder.path().join("pending")),
            names: None,
            vouch: true,
        };
        let service = EncryptedService::new(Arc::clone(&subject.service), vault);
        Client::new(crate::backend::BackendService::session(
            &service,
            &subject.directory,
            &testing::owner().paced(pace.clone()),
        ))
    }
}

/// True if nothing of the kind is possible, also since files of unknown size can't be encrypted.
async fn can_not(subject: &Subject) -> bool {
    let raw = subject.client();
    if !raw.can_be_tended() {
        return true;
    }
    raw.put("/probe", "x").await;
    let is_told = raw.stat("/probe").await.unwrap().size.is_some();
    let path = VirtualPath::clean(b"/probe").unwrap();
    raw.done(Operation::Remove { path }).await;
    raw.end().await;
    !is_told
}

fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..))
        .take(length)
        .collect()
}

fn sha256(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// What stays of a file's attributes where a backend keeps it.
async fn kept(raw: &Client, name: &str) -> (Option<u32>, Option<u32>) {
    let found = raw.stat(name).await.unwrap();
    // What a server can't is known once it was asked.
    let can = raw.can();
    let modified = found.times.map(|(_, modified)| modified);
    (
        modified.filter(|_| can.shows.exact_times && can.set_times),
        found
            .permissions
            .filter(|_| can.shows.permissions && can.set_permissions),
    )
}

async fn long_ago(raw: &Client, name: &str) {
    if raw.can().set_times {
        let set = Operation::Setstat {
            path: VirtualPath::clean(name.as_bytes()).unwrap(),
            attributes: Attributes {
                times: Some((1_000_000_000, 1_000_000_000)),
                ..Attributes::default()
            },
        };
        // A server that can't says so when it is asked.
        let _ = raw.ask(set).await;
    }
}

async fn only(subject: &Subject, names: &[&[u8]]) {
    assert_eq!(
        subject.client().names("/").await,
        names,
        "nothing is left over"
    );
    let expected: Vec<_> = names
        .iter()
        .map(|name| std::str::from_utf8(name).unwrap())
        .collect();
    subject.expect_on_disk(&expected);
}

pub(crate) async fn a_rotation_changes_the_head_of_a_file_and_nothing_else(subject: &Subject) {
    if can_not(subject).await {
        return;
    }
    let (keys, raw) = (Keys::new(), subject.client());
    for length in LENGTHS {
        let content = content(length, 1);
        let old = keys.client(subject, OLD, None);
        put(&old, "/a", &content).await;
        old.end().await;
        long_ago(&raw, "/a").await;
        let (stored, about) = (raw.get("/a").await, kept(&raw, "/a").await);

        let both = keys.client(subject, NEW, Some(OLD));
        assert!(both.get("/a").await == content, "mixed ages");
        let tended = both.tend("/a", Care::Rewrap).await.unwrap();
        assert!(matches!(tended, Tended::Rewrapped { .. }), "{tended:?}");
        let again = both.tend("/a", Care::Rewrap).await.unwrap();
        assert_eq!(again, Tended::Current);
        both.end().await;

        let now = raw.get("/a").await;
        assert!(now[..64] == stored[..64], "the same file");
        assert!(now[64..Head::LENGTH] != stored[64..Head::LENGTH]);
        assert!(now[Head::LENGTH..] == stored[Head::LENGTH..], "{length}");
        assert_eq!(kept(&raw, "/a").await, about);
        let new = keys.client(subject, NEW, None);
        assert!(new.get("/a").await == content, "{length}");
        let without = keys.client(subject, OLD, None);
        let open = without.open_operation("/a", READ);
        assert_eq!(without.refusal(open).await, ErrorKind::Failure);
    }
    only(subject, &[b"a"]).await;
}

pub(crate) async fn a_file_that_is_not_authentic_is_not_touched(subject: &Subject) {
    if can_not(subject).await {
        return;
    }
    let (keys, raw) = (Keys::new(), subject.client());
    let both = keys.client(subject, NEW, Some(OLD));
    put(&keys.client(subject, OLD, None), "/a", b"what was uploaded").await;
    let sound = raw.get("/a").await;
    for at in [3, 40, 70, 100, 500] {
        let mut altered = sound.clone();
        altered[at] ^= 1;
        raw.put("/a", altered.clone()).await;
        let cares = [Care::Rewrap, Care::Encrypt { expected: None }];
        for care in cares.into_iter().take(if at == 3 { 2 } else { 1 }) {
            let done = both.tend("/a", care).await;
            // Without its first bytes nobody can tell it from a plain one.
            let is_plain = at == 3 && care == Care::Rewrap;
            assert!(
                done.is_err() || is_plain && matches!(done, Ok(Tended::Plain)),
                "{at}: {done:?}"
            );
        }
        assert!(raw.get("/a").await == altered, "{at}");
    }
    raw.put("/a", sound).await;
    assert!(both.tend("/a", Care::Rewrap).await.is_ok());
    both.end().await;
    only(subject, &[b"a"]).await;
}

pub(crate) async fn a_plain_file_is_encrypted_in_its_place_if_it_is_the_expected_one(
    subject: &Subject,
) {
    if can_not(subject).await {
        return;
    }
    let (keys, raw) = (Keys::new(), subject.client());
    for length in LENGTHS {
        let content = content(length, 2);
        put(&raw, "/a", &content).await;
        long_ago(&raw, "/a").await;
        let about = kept(&raw, "/a").await;
        let migrating = keys.client(subject, NEW, None);
        let expected = Some(sha256(b"something else"));
        let other = migrating.tend("/a", Care::Encrypt { expected }).await;
        assert_eq!(other.unwrap_err().kind, ErrorKind::NotAuthentic);
        migrating.end().await;
        assert!(raw.get("/a").await == content, "it stays");
        only(subject, &[b"a"]).await;

        let migrating = keys.client(subject, NEW, None);
        let expected = Some(sha256(&content));
        let tended = migrating.tend("/a", Care::Encrypt { expected }).await;
        let object = Head::parse(&raw.get("/a").await).unwrap().object();
        let done = Tended::Encrypted {
            sha256: sha256(&content),
            bytes: length as u64,
            object,
        };
        assert_eq!(tended.unwrap(), done);
        assert_eq!(kept(&raw, "/a").await, about);
        let again = migrating.tend("/a", Care::Encrypt { expected: None }).await;
        assert_eq!(again.unwrap(), Tended::Current);
        assert!(migrating.get("/a").await == content);
        migrating.end().await;
    }
    only(subject, &[b"a"]).await;
}

pub(crate) async fn what_is_copied_takes_its_share_of_the_pace_piece_by_piece(subject: &Subject) {
    if can_not(subject).await {
        return;
    }
    let (keys, raw) = (Keys::new(), subject.client());
    for length in LENGTHS {
        put(&raw, "/a", &content(length, 5)).await;
        for (keyring, care) in [
            ((OLD, None), Care::Encrypt { expected: None }),
            ((NEW, Some(OLD)), Care::Rewrap),
        ] {
            // Nobody waits for it.
            let pace = Pace::of(NonZeroU64::new(1 << 50));
            let client = keys.paced_client(subject, keyring, &pace);
            let tended = client.tend("/a", care).await.unwrap();
            let (Tended::Encrypted { bytes: moved, .. } | Tended::Rewrapped { bytes: moved }) =
                tended
            else {
                panic!("{tended:?}");
            };
            client.end().await;
            let taken = pace.taken();
            assert_eq!(taken.iter().sum::<u64>(), moved, "{length} {care:?}");
            assert!(taken.iter().all(|taken| *taken <= 1 << 20), "{taken:?}");
        }
    }
    only(subject, &[b"a"]).await;
}

pub(crate) async fn what_clients_do_while_files_are_tended_is_never_undone(subject: &Subject) {
    if can_not(subject).await {
        return;
    }
    let (keys, raw) = (Keys::new(), subject.client());
    let before = content(70_000, 3);
    // Of the same length, and within the same second.
    let after = content(70_000, 4);
    let mut random = fastrand::Rng::with_seed(11);
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        let care = if round % 2 == 0 {
            put(&keys.client(subject, OLD, None), "/a", &before).await;
            Care::Rewrap
        } else {
            put(&raw, "/a", &before).await;
            Care::Encrypt { expected: None }
        };
        let tending = keys.client(subject, NEW, Some(OLD));
        let client = keys.client(subject, NEW, Some(OLD));
        assert!(client.stat("/a").await.is_ok(), "it is logged in");
        let delay = Duration::from_micros(random.u64(..=longest.as_micros() as u64));
        let work = async {
            let begun = Instant::now();
            let _ = tending.tend("/a", care).await;
            longest = longest.max(begun.elapsed().min(Duration::from_millis(300)));
        };
        let is_removed = round % 3 == 2;
        let change = async {
            tokio::time::sleep(delay).await;
            if is_removed {
                let path = VirtualPath::clean(b"/a").unwrap();
                client.done(Operation::Remove { path }).await;
            } else {
                put(&client, "/a", &after).await;
            }
        };
        futures_util::future::join(work, change).await;
        if is_removed {
            assert!(client.is_missing("/a").await, "round {round}");
        } else {
            assert!(client.get("/a").await == after, "round {round}");
        }
        tending.end().await;
        client.end().await;
    }
    // The last one is removed.
    only(subject, &[]).await;
}

pub(crate) async fn a_file_is_destroyed_if_it_is_the_one_that_was_meant(subject: &Subject) {
    if can_not(subject).await {
        return;
    }
    let (keys, raw) = (Keys::new(), subject.client());
    let client = keys.client(subject, NEW, None);
    put(&client, "/a", b"what was uploaded").await;
    raw.put("/plain", "not encrypted").await;
    let plain = client.tend("/plain", Care::Identify).await.unwrap();
    assert_eq!(plain, Tended::Plain);
    let Tended::Identified { object } = client.tend("/a", Care::Identify).await.unwrap() else {
        panic!("it is an encrypted file");
    };
    for (name, object) in [("/a", [7; 16]), ("/plain", object)] {
        let other = client.tend(name, Care::Shred { object }).await;
        assert!(other.is_err(), "{name}");
    }
    assert_eq!(client.get("/a").await, b"what was uploaded");
    let destroyed = client.tend("/a", Care::Shred { object }).await;
    assert_eq!(destroyed.unwrap(), Tended::Shredded);
    assert!(client.is_missing("/a").await);
    only(subject, &[b"plain"]).await;
}

/// In pieces as clients send them.
async fn put(client: &Client, name: &str, content: &[u8]) {
    let handle = client.open(name, REPLACE).await;
    for (number, data) in content.chunks(128 << 10).enumerate() {
        client
            .write(handle, (number * (128 << 10)) as u64, data.to_vec())
            .await;
    }
    client.close(handle).await;
}
