use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use portcullis_journal::{
    Event, EventKind, Journal, Options,
    cosigned::COSIGNED,
    tree::{
        checkpoint::notes,
        cosignature::{CosigningKey, WitnessKey},
        key::{SigningKey, public_key_path, read_verifier_keys},
    },
    verify::{Witnesses, directory::verify_cosigned},
};
use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    config::{TrustAnchor, WitnessConfig},
    testing,
    witness::{
        server::{PATIENCE, Server, bind},
        store::{Store, origin_hash},
    },
};

/// A log on disk that a gateway would write.
struct Scene {
    folder: TempDir,
    log: Options,
    durable: Arc<AtomicU64>,
    told: Arc<Mutex<Vec<Notice>>>,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scene = Self {
            log: Options {
                node: "gw1".to_owned(),
                ..Options::default_in(folder.path().join("log"))
            },
            folder,
            durable: Arc::default(),
            told: Arc::default(),
        };
        scene.grow(3).await;
        scene
    }

    /// Adds so many records, and the two of a run.
    async fn grow(&self, records: usize) {
        let durable = testing::grow(&self.log, records).await;
        self.durable.store(durable, Ordering::SeqCst);
    }

    async fn close(&self, journal: Journal) {
        let durable = testing::close(journal).await;
        self.durable.store(durable, Ordering::SeqCst);
    }

    /// A witness that keeps what it knows in a folder of that name.
    async fn witness(&self, name: &str) -> (Served, WitnessKey) {
        self.witness_with(name, None).await
    }

    async fn witness_with(
        &self,
        name: &str,
        tls: Option<Arc<ServerConfig>>,
    ) -> (Served, WitnessKey) {
        let config = WitnessConfig {
            directory: self.folder.path().join(name),
            ..testing::witness_of(&self.log, "gw1/log", self.folder.path())
        };
        let store = Store::open(&config);
        let store = store.unwrap();
        let key = store.public().clone();
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let served = Served {
            address: listener.local_addr().unwrap(),
            stop: CancellationToken::new(),
        };
        let server = Server {
            store: Arc::new(store),
            prefix: String::new(),
            tls,
            patience: PATIENCE,
        };
        tokio::spawn(server.run(listener, served.stop.clone()));
        (served, key)
    }

    fn runner<'a>(&self, served: &Served, key: &WitnessKey, tell: &'a Tell) -> Runner<'a> {
        let durable = Arc::clone(&self.durable);
        let log = Log {
            directory: self.log.directory.clone(),
            durable: Arc::new(move || durable.load(Ordering::SeqCst)),
            cosigned: Arc::default(),
        };
        let peer = WitnessPeer {
            url: format!("http://{}", served.address),
            key: key.clone(),
            trust: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
        };
        Runner::new(peer, log, tell)
    }

    fn tell(&self) -> Box<Tell> {
        let told = Arc::clone(&self.told);
        Box::new(move |notice: &Notice| told.lock().unwrap().push(notice.clone()))
    }

    fn reasons(&self) -> Vec<&'static str> {
        let told = self.told.lock().unwrap();
        let reason = |notice: &Notice| match notice {
            Notice::Cosigns { .. } => "cosigned",
            Notice::Trouble { reason, .. } => reason.code(),
        };
        told.iter().map(reason).collect()
    }

    fn cosigned(&self) -> usize {
        let text = fs::read(self.log.directory.join(COSIGNED)).unwrap_or_default();
        notes(&text).0.len()
    }

    /// Records up to which the witness vouches for a log that is sound.
    fn vouched(&self, key: &WitnessKey) -> u64 {
        let keys = read_verifier_keys(&public_key_path(&self.log.signing_key)).unwrap();
        let witnesses = Witnesses {
            keys: vec![key.clone()],
            quorum: 1,
        };
        let report = verify_cosigned(&self.log.directory, keys, None, Some(witnesses)).unwrap();
        assert!(report.is_sound(), "{report:#?}");
        report.cosigned.unwrap().records
    }
}

type Tell = dyn Fn(&Notice);

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Attempts until there is nothing to do.
async fn work(runner: &mut Runner<'_>) -> Result<(), Reason> {
    loop {
        match runner.attempt().await {
            Ok(Done::Nothing) => return Ok(()),
            Ok(Done::Cosigned) => {}
            Err(trouble) => {
                runner.failed(&trouble);
                return Err(trouble.reason);
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn each_newest_head_is_cosigned_and_kept_and_a_change_of_the_key_too() {
    let scene = Scene::new().await;
    let tell = scene.tell();
    let (served, key) = scene.witness("witness").await;
    let mut runner = scene.runner(&served, &key, &tell);
    assert_eq!(work(&mut runner).await, Ok(()));
    assert_eq!((scene.cosigned(), scene.vouched(&key)), (1, 5));
    for _ in 0..2 {
        scene.grow(20).await;
        assert_eq!(work(&mut runner).await, Ok(()));
    }
    assert_eq!((scene.cosigned(), scene.vouched(&key)), (3, 49));

    let (journal, _) = Journal::open(scene.log.clone()).unwrap();
    SigningKey::prepare_next(&scene.log.signing_key).unwrap();
    assert!(journal.change_key().await.unwrap());
    let event = Event::new(EventKind::ConnectionOpen);
    journal.append(event).await.unwrap();
    scene.close(journal).await;
    scene.grow(1).await;
    // Another run, which knows what was cosigned from the file.
    let mut runner = scene.runner(&served, &key, &tell);
    assert_eq!(work(&mut runner).await, Ok(()));
    assert_eq!((scene.cosigned(), scene.vouched(&key)), (5, 56));
    // A start asks once, though nothing is new.
    let mut runner = scene.runner(&served, &key, &tell);
    assert_eq!(work(&mut runner).await, Ok(()));
    assert_eq!((scene.cosigned(), scene.vouched(&key)), (6, 56));
    assert_eq!(scene.reasons(), ["cosigned"; 3]);
}

#[tokio::test]
async fn a_witness_that_was_away_goes_on_with_what_it_missed() {
    let scene = Scene::new().await;
    let tell = scene.tell();
    let (served, key) = scene.witness("witness").await;
    let mut runner = scene.runner(&served, &key, &tell);
    assert_eq!(work(&mut runner).await, Ok(()));
    let address = served.address;
    drop(served);
    scene.grow(5).await;
    // Its socket closes soon.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(work(&mut runner).await, Err(Reason::Down));
    let store = scene.folder.path().join("witness");
    while fs::File::open(store.join("lock")).is_ok_and(|lock| {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
    }) {
        time::sleep(Duration::from_millis(5)).await;
    }
    let (served, _) = scene.witness("witness").await;
    runner.peer.url = format!("http://{}", served.address);
    assert_eq!(work(&mut runner).await, Ok(()));
    assert_eq!(scene.vouched(&key), 12);
    // A minute has not passed.
    assert_eq!(scene.reasons(), ["cosigned"]);
}

#[tokio::test]
async fn a_log_that_is_put_back_to_an_earlier_copy_is_found_by_its_witness() {
    let scene = Scene::new().await;
    let tell = scene.tell();
    let (served, key) = scene.witness("witness").await;
    let mut runner = scene.runner(&served, &key, &tell);
    assert_eq!(work(&mut runner).await, Ok(()));
    let (log, before) = (&scene.log.directory, scene.folder.path().join("before"));
    copy(log, &before);
    scene.grow(30).await;
    assert_eq!(work(&mut runner).await, Ok(()));
    fs::remove_dir_all(log).unwrap();
    copy(&before, log);
    scene.durable.store(5, Ordering::SeqCst);
    // Nothing has been signed since, and it shows at the start all the same.
    let mut runner = scene.runner(&served, &key, &tell);
    assert_eq!(work(&mut runner).await, Err(Reason::Shorter));
    scene.grow(2).await;
    assert_eq!(work(&mut runner).await, Err(Reason::Shorter));
    // It has grown beyond what was cosigned, and is another log all the same.
    scene.grow(60).await;
    assert_eq!(work(&mut runner).await, Err(Reason::Inconsistent));
    assert_eq!(scene.reasons(), ["cosigned", "shorter", "inconsistent"]);
    let evidence = format!("{}.refused", origin_hash("gw1/log"));
    assert!(scene.folder.path().join("witness").join(evidence).exists());
}

#[tokio::test]
async fn what_was_cosigned_here_says_too_that_a_log_was_cut() {
    let scene = Scene::new().await;
    let tell = scene.tell();
    let (served, key) = scene.witness("witness").await;
    assert_eq!(work(&mut scene.runner(&served, &key, &tell)).await, Ok(()));
    drop(served);
    scene.durable.store(4, Ordering::SeqCst);
    let (other, _) = scene.witness("other").await;
    let mut runner = scene.runner(&other, &key, &tell);
    assert_eq!(work(&mut runner).await, Err(Reason::Shorter));
}

#[tokio::test]
async fn a_witness_that_forgot_is_told_and_begins_anew() {
    let scene = Scene::new().await;
    let tell = scene.tell();
    let (served, key) = scene.witness("witness").await;
    assert_eq!(work(&mut scene.runner(&served, &key, &tell)).await, Ok(()));
    scene.grow(1).await;
    let (empty, _) = scene.witness("another folder").await;
    let mut runner = scene.runner(&empty, &key, &tell);
    assert_eq!(work(&mut runner).await, Ok(()));
    assert_eq!(scene.vouched(&key), 8);
    assert_eq!(scene.reasons(), ["cosigned", "forgot", "cosigned"]);
}

#[tokio::test]
async fn an_answer_of_another_key_is_none_and_another_log_is_refused() {
    let scene = Scene::new().await;
    let tell = scene.tell();
    let (served, _) = scene.witness("witness").await;
    let other = CosigningKey::open(&scene.folder.path().join("other.key"), "w.example/1").unwrap();
    let mut runner = scene.runner(&served, other.public(), &tell);
    assert_eq!(work(&mut runner).await, Err(Reason::Refused));
    assert_eq!(scene.cosigned(), 0);
    let elsewhere = Scene::new().await;
    let (served, key) = elsewhere.witness("witness").await;
    let mut runner = scene.runner(&served, &key, &tell);
    assert_eq!(work(&mut runner).await, Err(Reason::Refused));
    assert_eq!(scene.reasons(), ["refused", "refused"]);
}

#[tokio::test]
async fn a_witness_with_tls_has_the_certificate_that_is_expected_or_none_is_asked() {
    let scene = Scene::new().await;
    let tell = scene.tell();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let path = |name: &str| scene.folder.path().join(name).display().to_string();
    fs::write(path("tls.pem"), made.cert.pem()).unwrap();
    fs::write(path("tls.key"), made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(path("tls.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "listen = \"127.0.0.1:1\"\nsigning_key = \"/key\"\ndirectory = \"/logs\"\n\
         [tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n[[log]]\nkey_file = \"{}\"\n",
        path("tls.pem"),
        path("tls.key"),
        public_key_path(&scene.log.signing_key).display()
    );
    let identity = WitnessConfig::parse(&text).unwrap().tls.unwrap();
    let tls = crate::witness::server::tls(&identity).unwrap();
    let (served, key) = scene.witness_with("witness", Some(tls)).await;
    let mut pin: [u8; 32] = Sha256::digest(made.cert.der()).into();
    let mut runner = scene.runner(&served, &key, &tell);
    runner.peer.url = format!("https://{}", served.address);
    runner.peer.trust = Some(TrustAnchor::Pinned(pin));
    assert_eq!(work(&mut runner).await, Ok(()));
    assert_eq!(scene.vouched(&key), 5);
    scene.grow(1).await;
    pin[0] ^= 1;
    runner.peer.trust = Some(TrustAnchor::Pinned(pin));
    runner.caller = None;
    assert_eq!(work(&mut runner).await, Err(Reason::Down));
    assert_eq!(scene.vouched(&key), 5);
}

#[tokio::test]
async fn a_log_that_was_edited_is_not_sent() {
    let scene = Scene::new().await;
    let tell = scene.tell();
    let (served, key) = scene.witness("witness").await;
    let path = scene.log.directory.join("000000000000.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("conn.open", "conn.opem", 1)).unwrap();
    let mut runner = scene.runner(&served, &key, &tell);
    assert_eq!(work(&mut runner).await, Err(Reason::Altered));
    assert_eq!(scene.reasons(), ["altered"]);
}
