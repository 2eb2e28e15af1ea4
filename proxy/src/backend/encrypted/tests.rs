use std::sync::Arc;

use portcullis_at_rest::{DataKey, Keyring, Realm, escrow::Identity, kek::SoftwareKek};

use super::{EncryptedService, Foreign, Vault};
use crate::backend::{BackendService, memory::Memory};

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
    }
}

fn encrypted(service: Arc<dyn BackendService>, foreign: Foreign) -> Arc<dyn BackendService> {
    Arc::new(EncryptedService::new(service, vault(foreign)))
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
        backend::conformance::{Client, READ, REPLACE},
        operation::{Operation, Outcome},
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
}
