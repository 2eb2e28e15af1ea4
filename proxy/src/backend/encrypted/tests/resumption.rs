//! Interrupted uploads: what is kept of them, who goes on with it, and what is never published.

use std::{collections::HashSet, fs, path::PathBuf, time::Duration};

use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    backend::{
        ErrorKind, Owner,
        conformance::{Client, REPLACE, WRITE},
        local::{LocalService, LocalSettings},
        staging::UploadSettings,
    },
    operation::{Access, Operation},
    path::VirtualPath,
};

const EXTENT: usize = 16 << 20;
const KEPT: usize = 2 * EXTENT;
const SEGMENT: usize = 64 << 10;

/// As OpenSSH's `reput` opens a file.
const APPEND: Access = Access {
    create: true,
    append: true,
    ..WRITE
};

struct Lab {
    directory: tempfile::TempDir,
    service: Arc<dyn BackendService>,
    content: Vec<u8>,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalService::new(LocalSettings {
            directory: directory.path().to_owned(),
            uploads: UploadSettings::default(),
            timeout: Duration::from_secs(30),
        })
        .unwrap();
        let mut random = fastrand::Rng::with_seed(3);
        Self {
            directory,
            service: encrypted(Arc::new(local), Foreign::Refuse),
            content: std::iter::repeat_with(|| random.u8(..))
                .take(KEPT + 10 * SEGMENT + 17)
                .collect(),
        }
    }

    fn client(&self) -> Client {
        Client::new(self.service.session(b"", &crate::testing::owner()))
    }

    async fn send(&self, client: &Client, access: Access, from: usize, until: usize) -> Sent {
        let handle = client.open("/a", access).await;
        let mut offset = from;
        for data in self.content[from..until].chunks(200_000) {
            client.write(handle, offset as u64, data.to_vec()).await;
            offset += data.len();
        }
        Sent { handle }
    }

    async fn interrupt(&self, until: usize) {
        let client = self.client();
        self.send(&client, REPLACE, 0, until).await;
        client.end().await;
    }

    async fn shown(&self) -> Option<u64> {
        let client = self.client();
        match client.stat("/a").await {
            Ok(attributes) => attributes.size,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::NotFound);
                None
            }
        }
    }

    fn stored(&self) -> Vec<PathBuf> {
        fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    fn partial(&self) -> PathBuf {
        let mut stored = self.stored();
        assert_eq!(stored.len(), 1, "{stored:?}");
        stored.remove(0)
    }

    fn digest(&self) -> Option<[u8; 32]> {
        Some(Sha256::digest(&self.content).into())
    }
}

struct Sent {
    handle: crate::operation::HandleId,
}

fn remove() -> Operation {
    Operation::Remove {
        path: VirtualPath::clean(b"/a").unwrap(),
    }
}

/// The IVs of a stored file's whole segments, and of its extents.
fn ivs(stored: &[u8]) -> HashSet<Vec<u8>> {
    let mut ivs = HashSet::new();
    for extent in stored[512..].chunks(74 + 256 * (SEGMENT + 32)) {
        ivs.insert(extent[10..42].to_vec());
        for segment in extent[74..].chunks_exact(SEGMENT + 32) {
            ivs.insert(segment[4..16].to_vec());
        }
    }
    ivs
}

#[tokio::test]
async fn an_interrupted_upload_goes_on_behind_its_whole_extents_and_no_nonce_is_used_again() {
    let lab = Lab::new();
    for access in [
        WRITE,
        APPEND,
        Access {
            exclusive: true,
            ..APPEND
        },
    ] {
        lab.interrupt(lab.content.len() - SEGMENT).await;
        assert_eq!(lab.shown().await, Some(KEPT as u64));
        let stranger = Client::new(lab.service.session(b"", &Owner::new(*b"mallory")));
        assert!(stranger.is_missing("/a").await);
        let before = fs::read(lab.partial()).unwrap();

        let client = lab.client();
        let sent = lab.send(&client, access, KEPT, lab.content.len()).await;
        assert_eq!(client.close_digested(sent.handle).await, lab.digest());
        assert!(client.get("/a").await == lab.content);

        let after = fs::read(lab.partial()).unwrap();
        let kept = 512 + 2 * (74 + 256 * (SEGMENT + 32));
        assert!(after[..kept] == before[..kept], "written once");
        let used_again: Vec<_> = ivs(&before)
            .intersection(&ivs(&after))
            .filter(|iv| !ivs(&before[..kept]).contains(*iv))
            .cloned()
            .collect();
        assert_eq!(used_again, Vec::<Vec<u8>>::new());
        client.done(remove()).await;
    }
}

#[tokio::test]
async fn what_is_less_than_an_extent_is_begun_anew() {
    let lab = Lab::new();
    for sent in [SEGMENT, EXTENT, EXTENT + SEGMENT] {
        lab.interrupt(sent).await;
        assert_eq!(lab.shown().await, None, "{sent}");
        let client = lab.client();
        let opened = client.open_operation("/a", WRITE);
        assert_eq!(client.refusal(opened).await, ErrorKind::NotFound);
        let handle = client.open("/a", APPEND).await;
        client.write(handle, 0, "anew").await;
        client.close(handle).await;
        assert_eq!(client.get("/a").await, b"anew");
        client.done(remove()).await;
    }
    lab.interrupt(EXTENT + 2 * SEGMENT).await;
    assert_eq!(lab.shown().await, Some(EXTENT as u64));
}

#[tokio::test]
async fn one_that_is_interrupted_twice_goes_on_twice() {
    let lab = Lab::new();
    lab.interrupt(EXTENT + 3 * SEGMENT).await;
    let client = lab.client();
    lab.send(&client, APPEND, EXTENT, KEPT + 3 * SEGMENT).await;
    client.end().await;
    assert_eq!(lab.shown().await, Some(KEPT as u64));
    let client = lab.client();
    let sent = lab.send(&client, APPEND, KEPT, lab.content.len()).await;
    assert_eq!(client.close_digested(sent.handle).await, lab.digest());
    assert!(client.get("/a").await == lab.content);
}

#[tokio::test]
async fn a_client_may_begin_again_and_not_in_the_middle() {
    let lab = Lab::new();
    lab.interrupt(lab.content.len()).await;
    let client = lab.client();
    let sent = lab.send(&client, WRITE, 0, SEGMENT * 20).await;
    let digest = Sha256::digest(&lab.content[..SEGMENT * 20]);
    let closed = client.close_digested(sent.handle).await;
    assert_eq!(closed, Some(digest.into()));
    assert!(client.get("/a").await == lab.content[..SEGMENT * 20]);
    client.done(remove()).await;

    lab.interrupt(lab.content.len()).await;
    let handle = client.open("/a", WRITE).await;
    let elsewhere = Operation::Write {
        handle,
        offset: EXTENT as u64,
        data: b"elsewhere".as_slice().into(),
    };
    assert_eq!(client.refusal(elsewhere).await, ErrorKind::Unsupported);
    client.refusal(Operation::Close { handle }).await;
    client.end().await;
    assert_eq!(lab.shown().await, None, "nobody goes on with what failed");
    assert_eq!(lab.stored(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_upload_that_failed_is_not_gone_on_with() {
    let lab = Lab::new();
    let client = lab.client();
    let sent = lab.send(&client, REPLACE, 0, KEPT + 3 * SEGMENT).await;
    let again = Operation::Write {
        handle: sent.handle,
        offset: 5,
        data: b"again".as_slice().into(),
    };
    assert_eq!(client.refusal(again).await, ErrorKind::Unsupported);
    client.end().await;
    assert_eq!(lab.shown().await, None);
    assert_eq!(lab.stored(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn one_that_is_closed_unwritten_stays_what_it_was() {
    let lab = Lab::new();
    lab.interrupt(lab.content.len()).await;
    let client = lab.client();
    let handle = client.open("/a", APPEND).await;
    client.refusal(Operation::Close { handle }).await;
    assert_eq!(lab.shown().await, Some(KEPT as u64));
}

#[tokio::test]
async fn what_was_changed_meanwhile_is_found_and_not_published() {
    let lab = Lab::new();
    // The object, the wrapped key, the authentication of the head: found at once.
    for at in [20, 100, 500] {
        lab.interrupt(KEPT + 3 * SEGMENT).await;
        let partial = lab.partial();
        let mut stored = fs::read(&partial).unwrap();
        stored[at] ^= 1;
        fs::write(&partial, stored).unwrap();
        let client = lab.client();
        let open = client.open_operation("/a", APPEND);
        let refused = client.ask(open).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotAuthentic, "{at}");
        assert!(refused.message.contains("remove it"), "{refused}");
        client.end().await;
        lab.client().done(remove()).await;
    }
    // An extent's IV, a segment: found before it is published.
    for at in [530, 600, 512 + EXTENT] {
        lab.interrupt(KEPT + 3 * SEGMENT).await;
        let partial = lab.partial();
        let mut stored = fs::read(&partial).unwrap();
        stored[at] ^= 1;
        fs::write(&partial, stored).unwrap();
        let client = lab.client();
        let sent = lab.send(&client, APPEND, KEPT, lab.content.len()).await;
        let close = Operation::Close {
            handle: sent.handle,
        };
        assert_eq!(client.refusal(close).await, ErrorKind::NotAuthentic, "{at}");
        client.end().await;
        assert_eq!(lab.shown().await, None);
        assert_eq!(lab.stored(), Vec::<PathBuf>::new());
    }
}
