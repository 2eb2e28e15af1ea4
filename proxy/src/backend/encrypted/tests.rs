use std::sync::Arc;

use portcullis_at_rest::{DataKey, Keyring, Realm, escrow::Identity, kek::SoftwareKek};

use super::{EncryptedService, Foreign, Pending, Vault};
use crate::backend::{BackendService, memory::Memory};

mod destroyed;
mod names;
mod resumption;
mod untrue;

/// A vault with keys of its own.
fn vault(foreign: Foreign) -> Vault {
    let kek = SoftwareKek::new(&DataKey::random().unwrap());
    let escrow = Identity::generate().unwrap();
    Vault {
        ring: Keyring::new(Arc::new(kek), Vec::new(), Some(escrow.recipient().clone())),
        realm: Realm::named("subject"),
        foreign,
        update_limit: 64 << 20,
        spool_directory: std::env::temp_dir(),
        pending: Pending::new("/nonexistent/pending"),
        names: None,
        vouch: true,
    }
}

pub(in crate::backend) fn encrypted(
    service: Arc<dyn BackendService>,
    foreign: Foreign,
) -> Arc<dyn BackendService> {
    Arc::new(EncryptedService::new(service, vault(foreign)))
}

/// Over two services, with the same keys.
pub(in crate::backend) fn encrypted_alike(
    services: [Arc<dyn BackendService>; 2],
) -> [Arc<dyn BackendService>; 2] {
    let kek = Arc::new(SoftwareKek::new(&DataKey::random().unwrap()));
    services.map(|service| {
        let ring = Keyring::new(Arc::clone(&kek) as _, Vec::new(), None);
        let vault = Vault {
            ring,
            ..vault(Foreign::Refuse)
        };
        Arc::new(EncryptedService::new(service, vault)) as _
    })
}

mod over_memory {
    use super::*;
    use crate::backend::conformance::{Subject, suite};

    async fn start() -> Subject {
        Subject {
            service: encrypted(Arc::new(Memory::new()), Foreign::Refuse),
            directory: Vec::new(),
            disk: None,
            keep: Box::new(()),
        }
    }

    suite!(super::start);
}

mod over_a_disk {
    use super::*;
    use crate::backend::{
        conformance::{Subject, suite},
        local::{LocalService, LocalSettings},
        staging::UploadSettings,
    };

    async fn start() -> Subject {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalService::new(LocalSettings {
            directory: directory.path().to_owned(),
            uploads: UploadSettings::default(),
            timeout: std::time::Duration::from_secs(30),
        })
        .unwrap();
        Subject {
            service: encrypted(Arc::new(local), Foreign::Refuse),
            directory: Vec::new(),
            disk: Some(directory.path().to_owned()),
            keep: Box::new(directory),
        }
    }

    suite!(super::start);
}

/// What one READ of a client costs the backend below.
mod reads {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    };

    use bytes::Bytes;

    use super::*;
    use crate::{
        backend::{
            ErrorKind,
            conformance::{Client, READ, REPLACE},
        },
        operation::{HandleId, Operation, Outcome},
    };

    #[tokio::test]
    async fn a_small_read_fetches_the_segments_that_it_needs_and_each_once() {
        const SEGMENT: u64 = 64 << 10;
        let memory = Memory::new();
        let service = encrypted(Arc::new(memory.clone()), Foreign::Refuse);
        let client = Client::new(service.session(b"", &crate::testing::owner()));
        let handle = client.open("/a", REPLACE).await;
        let mut random = fastrand::Rng::with_seed(1);
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(40 << 20)
            .collect();
        for (number, data) in content.chunks(250_000).enumerate() {
            let write = Operation::Write {
                handle,
                offset: number as u64 * 250_000,
                data: Bytes::copy_from_slice(data),
            };
            assert_eq!(client.ask(write).await.unwrap(), Outcome::Done);
        }
        client.close(handle).await;

        let (segments, headers) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(0)));
        let (counted, counted_headers) = (Arc::clone(&segments), Arc::clone(&headers));
        let handle = client.open("/a", READ).await;
        memory.observe(move |recorded| {
            if let Operation::Read { length, .. } = recorded.intent().operation() {
                if *length < 100 {
                    *counted_headers.lock().unwrap() += 1;
                } else {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        for _ in 0..300 {
            let offset = random.u64(..content.len() as u64 - 4096);
            let before = segments.load(Ordering::SeqCst);
            let data = client.read(handle, offset, 4096).await;
            let from = usize::try_from(offset).unwrap();
            assert!(data == content[from..from + 4096]);
            let spanned = (offset + 4095) / SEGMENT - offset / SEGMENT + 1;
            assert!(segments.load(Ordering::SeqCst) - before <= spanned);
        }
        assert!(*headers.lock().unwrap() <= 3, "one for each extent");
        let before = segments.load(Ordering::SeqCst);
        client.read(handle, 0, 4096).await;
        client.read(handle, 4096, 4096).await;
        client.read(handle, 8192, 32_768).await;
        assert!(segments.load(Ordering::SeqCst) - before <= 1);
    }

    /// A file of so many segments, open for reading, and the READs that it costs the backend below: offset, length.
    async fn watched(
        segments: usize,
        changed: Option<u64>,
    ) -> (Client, HandleId, Arc<Mutex<Vec<(u64, u32)>>>) {
        let memory = Memory::new();
        let service = encrypted(Arc::new(memory.clone()), Foreign::Refuse);
        let client = Client::new(service.session(b"", &crate::testing::owner()));
        client.put("/a", content(segments)).await;
        if let Some(segment) = changed {
            let mut stored = memory.file(b"a").unwrap();
            stored[usize::try_from(stored_at(segment)).unwrap() + 1000] ^= 1;
            memory.put(b"a", &stored);
        }
        let handle = client.open("/a", READ).await;
        let reads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&reads);
        memory.observe(move |recorded| {
            if let Operation::Read { offset, length, .. } = recorded.intent().operation() {
                seen.lock().unwrap().push((*offset, *length));
            }
        });
        (client, handle, reads)
    }

    fn content(segments: usize) -> Vec<u8> {
        (0..segments * SEGMENT)
            .map(|at| (at / 1000 % 251) as u8)
            .collect()
    }

    /// Where a segment of the first extent is stored.
    fn stored_at(segment: u64) -> u64 {
        512 + 74 + segment * u64::from(STORED)
    }

    const SEGMENT: usize = 64 << 10;
    const STORED: u32 = 65_536 + 32;

    #[tokio::test]
    async fn whole_segments_behind_each_other_are_one_read_below() {
        let (client, handle, reads) = watched(40, None).await;
        let content = content(40);
        let mut expected = vec![(512, 74 + 3 * STORED)];
        for run in 0..4 {
            let from = run * 3 * SEGMENT;
            let data = client.read(handle, from as u64, 3 << 16).await;
            assert!(data == content[from..from + 3 * SEGMENT]);
            match run {
                0 => {}
                // With what opens the extent.
                1 => expected.extend([(512, 74), (stored_at(3), 3 * STORED)]),
                _ => expected.push((stored_at(run as u64 * 3), 3 * STORED)),
            }
        }
        // The last one is there, and what is longer than a READ below may be takes two.
        let data = client.read(handle, 11 << 16, 255 << 10).await;
        assert!(data == content[11 * SEGMENT..][..255 << 10]);
        expected.push((stored_at(12), 3 * STORED));
        let data = client.read(handle, 16 << 16, 255 << 10).await;
        assert!(data == content[16 * SEGMENT..][..255 << 10]);
        expected.extend([(stored_at(16), 3 * STORED), (stored_at(19), STORED)]);
        // Between two that are there.
        client.read(handle, 14 << 16, 3 << 16).await;
        expected.push((stored_at(15), STORED));
        // The file's end.
        client.read(handle, 39 << 16, 255 << 10).await;
        expected.push((stored_at(39), STORED));
        assert_eq!(*reads.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn the_last_two_mebibytes_that_were_fetched_are_kept_and_no_more() {
        let (client, handle, reads) = watched(66, None).await;
        for run in 0..22 {
            client.read(handle, (run * 3) << 16, 3 << 16).await;
        }
        let fetched = reads.lock().unwrap().len();
        for segment in 36..66 {
            client.read(handle, segment << 16, 4096).await;
        }
        assert_eq!(reads.lock().unwrap().len(), fetched);
        client.read(handle, 35 << 16, 4096).await;
        assert_eq!(reads.lock().unwrap().len(), fetched + 1);
    }

    #[tokio::test]
    async fn of_segments_fetched_together_only_the_changed_one_is_refused() {
        let (client, handle, reads) = watched(9, Some(4)).await;
        let read = |segment: u64, count: u32| Operation::Read {
            handle,
            offset: segment << 16,
            length: count << 16,
        };
        let refused = client.ask(read(3, 3)).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotAuthentic);
        assert!(refused.message.contains("segment 4"), "{refused}");
        let fetched = reads.lock().unwrap().len();
        let content = content(9);
        for segment in [3, 5] {
            let data = client.read(handle, (segment as u64) << 16, 65_536).await;
            assert!(data == content[segment * SEGMENT..][..SEGMENT]);
        }
        assert_eq!(reads.lock().unwrap().len(), fetched);
        // It is looked at again: the fault may have been on the way.
        let refused = client.ask(read(4, 1)).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotAuthentic);
        assert_eq!(reads.lock().unwrap()[fetched..], [(stored_at(4), STORED)]);
    }
}

/// In which orders a file can be written, and what becomes of one that was written in another.
mod orders {
    use bytes::Bytes;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::{
        backend::{
            ErrorKind,
            conformance::{Client, READ, REPLACE, WRITE},
        },
        operation::{Attributes, HandleId, Operation, Outcome},
        path::VirtualPath,
    };

    const PIECE: usize = 64 << 10;
    const LIMIT: u64 = 3 << 20;

    fn client(memory: &Memory) -> Client {
        let vault = Vault {
            update_limit: LIMIT,
            ..vault(Foreign::Refuse)
        };
        let service = EncryptedService::new(Arc::new(memory.clone()), vault);
        Client::new(service.session(b"", &crate::testing::owner()))
    }

    fn content(pieces: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        std::iter::repeat_with(|| random.u8(..))
            .take(pieces * PIECE)
            .collect()
    }

    async fn write(
        client: &Client,
        handle: HandleId,
        content: &[u8],
        piece: usize,
    ) -> Result<Outcome, crate::backend::BackendError> {
        let from = piece * PIECE;
        let data = Bytes::copy_from_slice(&content[from..from + PIECE]);
        let offset = from as u64;
        client
            .ask(Operation::Write {
                handle,
                offset,
                data,
            })
            .await
    }

    #[tokio::test]
    async fn a_file_that_was_written_from_its_end_is_whole_and_digested() {
        let client = client(&Memory::new());
        let content = content(40);
        let handle = client.open("/a", REPLACE).await;
        for piece in (0..40).rev() {
            write(&client, handle, &content, piece).await.unwrap();
        }
        let digest: [u8; 32] = Sha256::digest(&content).into();
        assert_eq!(client.close_digested(handle).await, Some(digest));
        assert!(client.get("/a").await == content);
    }

    #[tokio::test]
    async fn what_comes_a_little_early_finds_its_place_and_what_comes_elsewhere_is_not_published() {
        let client = client(&Memory::new());
        let content = content(60);
        let handle = client.open("/a", REPLACE).await;
        for pair in (0..60).step_by(2) {
            for piece in [pair + 1, pair] {
                write(&client, handle, &content, piece).await.unwrap();
            }
        }
        let digest: [u8; 32] = Sha256::digest(&content).into();
        assert_eq!(client.close_digested(handle).await, Some(digest));
        assert!(client.get("/a").await == content);

        // Bytes that are there already, and more early ones than are kept.
        for elsewhere in [vec![0], (11..11 + 33).collect()] {
            let handle = client.open("/b", REPLACE).await;
            for piece in 0..10 {
                write(&client, handle, &content, piece).await.unwrap();
            }
            let mut refused = None;
            for piece in elsewhere {
                refused = write(&client, handle, &content, piece).await.err();
            }
            let refused = refused.unwrap();
            assert_eq!(refused.kind, ErrorKind::Unsupported);
            assert!(refused.message.contains("at byte 655360"), "{refused}");
            assert!(client.ask(Operation::Close { handle }).await.is_err());
            assert!(client.is_missing("/b").await);
        }
        // A gap that stays one.
        let handle = client.open("/b", REPLACE).await;
        for piece in (0..10).chain([12]) {
            write(&client, handle, &content, piece).await.unwrap();
        }
        let refused = client.ask(Operation::Close { handle }).await.unwrap_err();
        assert!(refused.message.contains("lacks the bytes"), "{refused}");
        assert!(client.is_missing("/b").await);
    }

    #[tokio::test]
    async fn a_file_up_to_the_limit_can_be_changed_and_a_larger_one_is_refused_and_stays() {
        let client = client(&Memory::new());
        let pieces = usize::try_from(LIMIT).unwrap() / PIECE;
        for (pieces, is_allowed) in [(pieces, true), (pieces + 1, false)] {
            let mut content = content(pieces);
            client.put("/a", content.clone()).await;
            let opened = client.ask(client.open_operation("/a", WRITE)).await;
            let size = Operation::Setstat {
                path: VirtualPath::clean(b"/a").unwrap(),
                attributes: Attributes {
                    size: Some(content.len() as u64 - 10),
                    ..Attributes::default()
                },
            };
            if is_allowed {
                assert_eq!(opened.unwrap(), Outcome::Opened);
                client.done(size).await;
                content.truncate(content.len() - 10);
            } else {
                assert_eq!(opened.unwrap_err().kind, ErrorKind::Unsupported);
                let refused = client.ask(size).await.unwrap_err();
                assert!(refused.message.contains("update_limit_bytes"), "{refused}");
            }
            assert!(client.get("/a").await == content);
        }
    }

    #[tokio::test]
    async fn an_update_of_what_somebody_else_replaced_is_withdrawn() {
        let memory = Memory::new();
        let vault = vault(Foreign::Refuse);
        let service = EncryptedService::new(Arc::new(memory), vault);
        let session = || Client::new(service.session(b"", &crate::testing::owner()));
        let (one, two) = (session(), session());
        one.put("/a", "first").await;
        let handle = one.open("/a", WRITE).await;
        one.write(handle, 0, "F").await;
        two.put("/a", "second").await;
        let refused = one.ask(Operation::Close { handle }).await.unwrap_err();
        assert!(refused.message.contains("meanwhile"), "{refused}");
        assert_eq!(two.get("/a").await, b"second");
        let reader = two.open("/a", READ).await;
        two.close(reader).await;
    }
}
