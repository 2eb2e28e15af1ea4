use std::{fs, net::Ipv4Addr};

use portcullis_journal::{
    Options,
    proof::prove_growth,
    tree::{
        checkpoint::{CHECKPOINTS, notes},
        cosignature::cosignatures,
        key::{public_key_path, read_verifier_keys},
    },
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    config::WitnessConfig,
    testing,
    witness::store::{StoreError, origin_hash, summaries},
};

/// The node, and the name of its log.
const ORIGIN: &str = "gw1/log";

/// A log, and requests for its witness.
struct Scene {
    folder: TempDir,
    log: Options,
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
        };
        scene.grow(3).await;
        scene
    }

    /// Adds so many records, and the two of a run.
    async fn grow(&self, records: usize) {
        testing::grow(&self.log, records).await;
    }

    fn config(&self) -> WitnessConfig {
        WitnessConfig {
            prefix: "/w".to_owned(),
            ..testing::witness_of(&self.log, ORIGIN, self.folder.path())
        }
    }

    fn newest(&self) -> Vec<u8> {
        let text = fs::read(self.log.directory.join(CHECKPOINTS)).unwrap();
        notes(&text).0.last().unwrap().to_vec()
    }

    fn first_request(&self) -> Vec<u8> {
        [b"old 0\n\n", &*self.newest()].concat()
    }

    /// Growth since a note.
    fn request(&self, since: &[u8]) -> Vec<u8> {
        let keys = read_verifier_keys(&public_key_path(&self.log.signing_key)).unwrap();
        prove_growth(&self.log.directory, since, &keys)
            .unwrap()
            .into_bytes()
    }
}

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(store: Store) -> Served {
    serve_with(store, PATIENCE).await
}

async fn serve_with(store: Store, patience: Duration) -> Served {
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let served = Served {
        address: listener.local_addr().unwrap(),
        stop: CancellationToken::new(),
    };
    let server = Server {
        store: Arc::new(store),
        prefix: "/w".to_owned(),
        tls: None,
        patience,
    };
    tokio::spawn(server.run(listener, served.stop.clone()));
    served
}

impl Served {
    /// Status, head and body of an answer.
    async fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // It may have been refused by then.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    async fn add(&self, body: &[u8]) -> (u16, String, String) {
        self.ask("POST", "/w/add-checkpoint", body).await
    }
}

#[tokio::test]
async fn each_answer_has_the_status_of_the_specification() {
    let scene = Scene::new().await;
    let store = Store::open(&scene.config()).unwrap();
    let key = [store.public().clone()];
    let witness = serve(store).await;
    let page = format!("/w/{}/checkpoint", origin_hash(ORIGIN));
    assert_eq!(witness.ask("GET", &page, b"").await.0, 404);

    let first = scene.newest();
    let (status, _, lines) = witness.add(&scene.first_request()).await;
    assert_eq!(status, 200);
    let cosigned = [&*first, lines.as_bytes()].concat();
    assert_eq!(cosignatures(&cosigned, &key).unwrap().len(), 1);
    let (status, _, shown) = witness.ask("GET", &page, b"").await;
    assert_eq!((status, shown.as_bytes()), (200, &*cosigned));

    scene.grow(4).await;
    // Nobody knows how far the witness is: 409 says it.
    let (status, head, size) = witness.add(&scene.first_request()).await;
    assert_eq!((status, size.as_str()), (409, "5\n"));
    assert!(head.contains("content-type: text/x.tlog.size"), "{head}");
    let request = scene.request(&first);
    let text = String::from_utf8(request.clone()).unwrap();
    let hash = text.lines().nth(1).unwrap();
    let other_proof = text.replacen(hash, &hash.replacen(&hash[..4], "AAAA", 1), 1);
    assert_eq!(witness.add(other_proof.as_bytes()).await.0, 422);
    assert_eq!(witness.add(&request).await.0, 200);

    let forged = text.replacen("\n11\n", "\n12\n", 1);
    assert_ne!(forged, text);
    assert_eq!(witness.add(forged.as_bytes()).await.0, 403);
    let unknown = text.replacen("\ngw1/log\n", "\ngw2/log\n", 1);
    assert_eq!(witness.add(unknown.as_bytes()).await.0, 404);
    assert_eq!(witness.add(b"old 1\n").await.0, 400);
    let above = text.replacen("old 5", "old 99", 1);
    assert_eq!(witness.add(above.as_bytes()).await.0, 400);
    assert_eq!(witness.add(&vec![b'x'; MOST_BYTES + 1]).await.0, 413);
    assert_eq!(witness.ask("GET", "/w/add-checkpoint", b"").await.0, 405);
    assert_eq!(witness.ask("POST", &page, b"").await.0, 405);
    assert_eq!(
        witness.ask("POST", "/add-checkpoint", &request).await.0,
        404
    );
}

#[tokio::test]
async fn what_was_cosigned_outlives_the_witness_and_damage_stops_it() {
    let scene = Scene::new().await;
    let config = scene.config();
    let first = scene.newest();
    let store = Store::open(&config).unwrap();
    assert!(matches!(
        Store::open(&config),
        Err(StoreError::InUse { .. })
    ));
    store.add(&scene.first_request(), 7).unwrap();
    drop(store);
    scene.grow(2).await;
    let store = Store::open(&config).unwrap();
    assert!(matches!(
        store.add(&scene.first_request(), 8),
        Err(AddError::Refused(Refusal::Conflict { cosigned: 5, .. }))
    ));
    store.add(&scene.request(&first), 9).unwrap();
    drop(store);
    let found = summaries(&config).unwrap();
    assert_eq!(
        (found[0].size, found[0].time, found[0].refused),
        (9, Some(9), 0)
    );
    let path = config
        .directory
        .join(format!("{}.cosigned", origin_hash(ORIGIN)));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\n9\n", "\n5\n", 1)).unwrap();
    let refused = Store::open(&config).unwrap_err();
    assert!(matches!(refused, StoreError::NotKept { .. }), "{refused}");
}

#[tokio::test]
async fn without_a_place_to_keep_it_nothing_is_cosigned() {
    let scene = Scene::new().await;
    let config = scene.config();
    let store = Store::open(&config).unwrap();
    let elsewhere = scene.folder.path().join("elsewhere");
    fs::rename(&config.directory, &elsewhere).unwrap();
    assert!(matches!(
        store.add(&scene.first_request(), 7),
        Err(AddError::Keep { .. })
    ));
    assert_eq!(store.sizes().next(), Some((ORIGIN, 0)));
    fs::rename(&elsewhere, &config.directory).unwrap();
    store.add(&scene.first_request(), 7).unwrap();
    assert_eq!(store.sizes().next(), Some((ORIGIN, 5)));
}

#[tokio::test]
async fn of_two_requests_at_once_one_is_cosigned() {
    let scene = Scene::new().await;
    let witness = serve(Store::open(&scene.config()).unwrap()).await;
    let first = scene.newest();
    assert_eq!(witness.add(&scene.first_request()).await.0, 200);
    scene.grow(1).await;
    let one = scene.request(&first);
    scene.grow(1).await;
    let other = scene.request(&first);
    for _ in 0..8 {
        let (one, other) = tokio::join!(witness.add(&one), witness.add(&other));
        let mut statuses = [one.0, other.0];
        statuses.sort_unstable();
        // After the first round neither continues what is cosigned.
        assert!(matches!(statuses, [200 | 409, 409]), "{statuses:?}");
    }
}

#[tokio::test]
async fn a_log_that_was_changed_is_kept_as_evidence_and_fails_the_status() {
    let scene = Scene::new().await;
    let config = scene.config();
    let before = scene.folder.path().join("before");
    let log = scene.log.directory.clone();
    copy(&log, &before);
    scene.grow(3).await;
    let store = Store::open(&config).unwrap();
    store.add(&scene.first_request(), 7).unwrap();
    assert_eq!(summaries(&config).unwrap()[0].refused, 0);
    // The log is put back to an earlier copy and goes on from there.
    fs::remove_dir_all(&log).unwrap();
    copy(&before, &log);
    scene.grow(3).await;
    let rewritten = [b"old 10\n\n", &*scene.newest()].concat();
    for _ in 0..2 {
        assert!(matches!(
            store.add(&rewritten, 8),
            Err(AddError::Refused(Refusal::Inconsistent { .. }))
        ));
    }
    let found = summaries(&config).unwrap();
    assert_eq!((found[0].size, found[0].refused), (10, 1));
    assert_eq!(fs::read(&found[0].evidence).unwrap(), scene.newest());
}

#[tokio::test]
async fn whoever_says_nothing_or_half_is_hung_up_on() {
    let scene = Scene::new().await;
    let store = Store::open(&scene.config()).unwrap();
    let witness = serve_with(store, Duration::from_millis(200)).await;
    let head = "POST /w/add-checkpoint HTTP/1.1\r\nhost: w\r\ncontent-length: 9\r\n\r\n";
    for (half, answer) in [
        ("", ""),
        ("POST /w/add", ""),
        (head, "HTTP/1.1 408"),
        (&format!("{head}old 0"), "HTTP/1.1 408"),
        // Answered, and then silent.
        (&format!("{head}old 0\n\n..."), "HTTP/1.1 400"),
    ] {
        let mut stream = TcpStream::connect(witness.address).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "{half:?} is still connected");
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with(answer), "{half:?}: {said}");
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
