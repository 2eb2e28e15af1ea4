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
