use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use rcgen::{CertifiedKey, PublicKeyData as _, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// An HTTPS server on loopback that answers what it is told to.
struct Server {
    address: SocketAddr,
    /// Its certificate, to be trusted as an authority.
    pem: String,
    pin: String,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    replies: BTreeMap<String, Vec<u8>>,
    requests: Vec<String>,
    /// Nothing is said before.
    delay: Duration,
}

impl Server {
    async fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pin = format!(
            "sha256//{}",
            BASE64_STANDARD.encode(Sha256::digest(signing_key.subject_public_key_info()))
        );
        let key = PrivateKeyDer::from_pem_slice(signing_key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            pem: cert.pem(),
            pin,
            script: Arc::default(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let script = Arc::clone(&server.script);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        request.push(byte);
                    }
                    let request = String::from_utf8(request).unwrap();
                    let path = request.split(' ').nth(1).unwrap().to_owned();
                    let (reply, delay) = {
                        let mut script = script.lock().unwrap();
                        script.requests.push(request);
                        let reply = script.replies.get(&path).cloned();
                        (
                            reply.unwrap_or_else(|| response("404 Not Found", "", b"")),
                            script.delay,
                        )
                    };
                    tokio::time::sleep(delay).await;
                    let _ = stream.write_all(&reply).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        server
    }

    fn set(&self, path: &str, reply: Vec<u8>) {
        self.script
            .lock()
            .unwrap()
            .replies
            .insert(path.to_owned(), reply);
    }

    fn serve(&self, list: &str) {
        self.set("/list.txt", response("200 OK", "", list.as_bytes()));
    }

    fn url(&self, path: &str) -> Uri {
        format!("https://localhost:{}{path}", self.address.port())
            .parse()
            .unwrap()
    }

    fn last_request(&self) -> String {
        self.script
            .lock()
            .unwrap()
            .requests
            .last()
            .unwrap()
            .to_lowercase()
    }

    fn settings(&self) -> Settings {
        Settings {
            name: "partner".to_owned(),
            url: self.url("/list.txt"),
            interval: Duration::from_secs(3600),
            timeout: Duration::from_secs(10),
            limits: Limits::default(),
            delta: DeltaLimit {
                percent: 50,
                entries: 1000,
            },
            signed_by: None,
            trust: Trust::Keys(vec![self.pin.parse().unwrap()]),
        }
    }
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn list(hosts: std::ops::Range<u8>) -> String {
    hosts.map(|host| format!("203.0.113.{host}\n")).collect()
}

#[derive(Clone, Default)]
struct Taker {
    updates: Arc<Mutex<Vec<SourceUpdate>>>,
    refusal: Arc<Mutex<Option<String>>>,
}

impl Sink for Taker {
    async fn apply(&self, update: SourceUpdate) -> Result<(), String> {
        match self.refusal.lock().unwrap().clone() {
            Some(refusal) => Err(refusal),
            None => {
                self.updates.lock().unwrap().push(update);
                Ok(())
            }
        }
    }
}

struct Stage {
    feed: Feed,
    taker: Taker,
    directory: TempDir,
}

impl Stage {
    fn new(settings: Settings) -> Self {
        let directory = TempDir::new().unwrap();
        Self {
            feed: Self::feed(settings, &directory),
            taker: Taker::default(),
            directory,
        }
    }

    fn feed(settings: Settings, directory: &TempDir) -> Feed {
        Feed {
            fetcher: Fetcher::new(&settings).unwrap(),
            store: Store::new(directory.path().to_owned(), &settings.name),
            settings,
            entries: Vec::new(),
            copy: None,
            held: None,
        }
    }

    async fn fetch(&mut self) -> Result<Outcome, String> {
        self.feed.fetch(&self.taker).await
    }

    async fn takes(&mut self) {
        assert!(matches!(self.fetch().await, Ok(Outcome::Taken)));
    }

    #[track_caller]
    fn refused(outcome: Result<Outcome, String>, words: &str) {
        let Err(error) = outcome else {
            panic!("it was not refused")
        };
        assert!(error.contains(words), "`{words}` in {error}");
    }

    fn in_force(&self) -> usize {
        self.taker
            .updates
            .lock()
            .unwrap()
            .last()
            .map_or(0, |update| {
                update.lists["feed:partner"].as_ref().map_or(0, Vec::len)
            })
    }
}

#[tokio::test]
async fn a_list_is_fetched_once_and_only_asked_about_after_that() {
    let server = Server::new().await;
    server.set(
        "/list.txt",
        response("200 OK", "ETag: \"one\"\r\n", list(0..3).as_bytes()),
    );
    let mut stage = Stage::new(server.settings());
    stage.takes().await;
    assert_eq!(stage.in_force(), 3);
    server.set("/list.txt", response("304 Not Modified", "", b""));
    assert!(matches!(stage.fetch().await, Ok(Outcome::Unchanged)));
    assert!(server.last_request().contains("if-none-match: \"one\"\r\n"));
    assert_eq!(stage.taker.updates.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn without_a_tag_the_date_asks() {
    let server = Server::new().await;
    let date = "Sun, 22 Nov 2026 04:00:00 GMT";
    server.set(
        "/list.txt",
        response(
            "200 OK",
            &format!("Last-Modified: {date}\r\n"),
            list(0..3).as_bytes(),
        ),
    );
    let mut stage = Stage::new(server.settings());
    stage.takes().await;
    stage.takes().await;
    assert!(
        server
            .last_request()
            .contains(&format!("if-modified-since: {}\r\n", date.to_lowercase()))
    );
}

#[tokio::test]
async fn a_server_with_another_key_is_not_believed() {
    let (server, other) = (Server::new().await, Server::new().await);
    server.serve(&list(0..3));
    let mut settings = server.settings();
    settings.trust = Trust::Keys(vec![other.pin.parse().unwrap()]);
    Stage::refused(
        Stage::new(settings.clone()).fetch().await,
        "is not the server that is meant",
    );
    // One of several pins is enough: keys are changed with both in the configuration.
    settings.trust = Trust::Keys(vec![
        other.pin.parse().unwrap(),
        server.pin.parse().unwrap(),
    ]);
    Stage::new(settings).takes().await;
}

#[tokio::test]
async fn a_certificate_counts_if_its_authority_is_trusted_and_its_name_is_right() {
    let server = Server::new().await;
    server.serve(&list(0..3));
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("authority.pem");
    std::fs::write(&path, &server.pem).unwrap();
    let mut settings = server.settings();
    settings.trust = Trust::Authority(path);
    Stage::new(settings.clone()).takes().await;
    settings.url = format!("https://127.0.0.1:{}/list.txt", server.address.port())
        .parse()
        .unwrap();
    Stage::refused(
        Stage::new(settings.clone()).fetch().await,
        "is not the server that is meant",
    );
    settings.url = server.url("/list.txt");
    settings.trust = Trust::Web;
    Stage::refused(
        Stage::new(settings).fetch().await,
        "is not the server that is meant",
    );
}

#[tokio::test]
async fn a_signed_list_is_taken_with_its_signature_and_not_without() {
    let server = Server::new().await;
    let key = SigningKey::from_bytes(&[7; 32]);
    let mut settings = server.settings();
    let public = BASE64_STANDARD.encode(key.verifying_key().as_bytes());
    settings.signed_by = Some(format!("ed25519:{public}").parse().unwrap());
    let mut stage = Stage::new(settings);
    server.serve(&list(0..3));
    Stage::refused(stage.fetch().await, "/list.txt.sig answers 404");
    server.set(
        "/list.txt.sig",
        response("200 OK", "", &key.sign(list(0..4).as_bytes()).to_bytes()),
    );
    Stage::refused(stage.fetch().await, "the signature does not match");
    assert_eq!(stage.in_force(), 0);
    server.set(
        "/list.txt.sig",
        response("200 OK", "", &key.sign(list(0..3).as_bytes()).to_bytes()),
    );
    stage.takes().await;
    server.set("/list.txt.sig", response("200 OK", "", &[b'x'; 5000]));
    Stage::refused(stage.fetch().await, "more than 4096 bytes");
}

/// What minisign writes for this content at this time.
fn minisign(key: &SigningKey, content: &str, time: u64) -> Vec<u8> {
    let signature = key.sign(content.as_bytes()).to_bytes();
    let comment = format!("timestamp:{time}");
    let whole = key.sign(&[&signature[..], comment.as_bytes()].concat());
    let [first, last] = [
        BASE64_STANDARD.encode([b"Ed", &[1; 8][..], &signature].concat()),
        BASE64_STANDARD.encode(whole.to_bytes()),
    ];
    format!("untrusted comment: -\n{first}\ntrusted comment: {comment}\n{last}\n").into_bytes()
}

#[tokio::test]
async fn a_list_that_was_signed_before_the_one_in_force_is_refused_and_a_later_one_is_not() {
    let server = Server::new().await;
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = [b"Ed", &[1; 8][..], key.verifying_key().as_bytes()].concat();
    let mut settings = server.settings();
    let public = BASE64_STANDARD.encode(public);
    settings.signed_by = Some(format!("minisign:{public}").parse().unwrap());
    let mut stage = Stage::new(settings);
    let serve = |content: &str, time| {
        let signature = minisign(&key, content, time);
        server.serve(content);
        server.set("/list.txt.minisig", response("200 OK", "", &signature));
    };
    serve(&list(0..3), 1_700_000_000);
    stage.takes().await;
    serve(&list(0..4), 1_699_999_999);
    Stage::refused(stage.fetch().await, "an old copy is being served");
    assert_eq!(stage.in_force(), 3);
    serve(&list(0..4), 1_700_000_001);
    stage.takes().await;
    assert_eq!(stage.in_force(), 4);
}

#[tokio::test]
async fn a_list_that_is_too_large_is_not_read_to_its_end() {
    let server = Server::new().await;
    let mut settings = server.settings();
    settings.limits.bytes = 100;
    let mut stage = Stage::new(settings);
    server.serve(&format!("{:100}", "203.0.113.7\n"));
    stage.takes().await;
    server.serve(&format!("{:101}", "203.0.113.7\n"));
    Stage::refused(stage.fetch().await, "more than 100 bytes");
    // Without a length, in pieces.
    let piece = format!("50\r\n{:80}\r\n", "203.0.113.7\n");
    let body =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{piece}{piece}0\r\n\r\n");
    server.set("/list.txt", body.into_bytes());
    Stage::refused(stage.fetch().await, "more than 100 bytes");
    assert_eq!(stage.in_force(), 1);
}

#[tokio::test]
async fn a_list_with_too_many_entries_is_refused_and_named() {
    let server = Server::new().await;
    let mut settings = server.settings();
    settings.limits.entries = 3;
    let mut stage = Stage::new(settings);
    server.serve(&list(0..3));
    stage.takes().await;
    server.serve(&list(0..4));
    Stage::refused(stage.fetch().await, "list.txt:4:1: more than 3 entries");
}

#[tokio::test]
async fn a_server_that_is_too_slow_is_given_up() {
    let server = Server::new().await;
    server.serve(&list(0..3));
    server.script.lock().unwrap().delay = Duration::from_secs(60);
    let mut settings = server.settings();
    settings.timeout = Duration::from_secs(1);
    Stage::refused(
        Stage::new(settings).fetch().await,
        "no whole answer within 1 seconds",
    );
}

#[tokio::test]
async fn half_a_list_is_none() {
    let server = Server::new().await;
    let mut stage = Stage::new(server.settings());
    let whole = response("200 OK", "", list(0..9).as_bytes());
    server.set("/list.txt", whole[..whole.len() - 12].to_vec());
    Stage::refused(stage.fetch().await, "breaks off");
    assert_eq!(stage.in_force(), 0);
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_by_https_only() {
    let server = Server::new().await;
    server.set("/new.txt", response("200 OK", "", list(0..3).as_bytes()));
    let mut stage = Stage::new(server.settings());
    let port = server.address.port();
    let redirect = |to: &str| response("302 Found", &format!("Location: {to}\r\n"), b"");
    for to in ["/new.txt", &format!("https://localhost:{port}/new.txt")] {
        server.set("/list.txt", redirect(to));
        stage.takes().await;
    }
    for to in [
        format!("http://localhost:{port}/new.txt"),
        "https://elsewhere.example/new.txt".to_owned(),
        "https://localhost:1/new.txt".to_owned(),
        "//elsewhere.example/new.txt".to_owned(),
        "file:///etc/passwd".to_owned(),
        String::new(),
    ] {
        server.set("/list.txt", redirect(&to));
        Stage::refused(
            stage.fetch().await,
            "only https on the same host is followed",
        );
    }
    server.set("/list.txt", redirect("/list.txt"));
    Stage::refused(stage.fetch().await, "more than 3 times");
}

#[tokio::test]
async fn an_invalid_list_changes_nothing_and_is_named_with_its_place() {
    let server = Server::new().await;
    let mut stage = Stage::new(server.settings());
    server.serve(&list(0..3));
    stage.takes().await;
    server.serve("203.0.113.1\n203.0.113.7/24\n");
    Stage::refused(stage.fetch().await, "list.txt:2:1: ");
    server.set("/list.txt", response("500 Internal Server Error", "", b""));
    Stage::refused(stage.fetch().await, "answers 500");
    server.set("/list.txt", response("304 Not Modified", "", b""));
    assert_eq!(stage.in_force(), 3);
    // Who has nothing can't be told that it is unchanged.
    Stage::refused(Stage::new(server.settings()).fetch().await, "answers 304");
}

#[tokio::test]
async fn a_large_change_waits_for_an_operator_and_a_small_one_does_not() {
    let server = Server::new().await;
    let mut stage = Stage::new(server.settings());
    server.serve(&list(0..100));
    stage.takes().await;
    server.serve(&list(0..50));
    stage.takes().await;
    server.serve(&list(0..24));
    assert!(
        matches!(stage.fetch().await, Ok(Outcome::Held(reason)) if reason.contains("remove 26 of 50"))
    );
    server.serve(&list(0..76));
    assert!(
        matches!(stage.fetch().await, Ok(Outcome::Held(reason)) if reason.contains("add 26 of 50"))
    );
    assert_eq!(stage.in_force(), 50);
    server.serve(&list(0..75));
    stage.takes().await;
    assert!(stage.feed.held.is_none(), "what was held is superseded");
}

#[tokio::test]
async fn what_the_engine_refuses_is_not_kept() {
    let server = Server::new().await;
    let mut stage = Stage::new(server.settings());
    server.serve(&list(0..3));
    *stage.taker.refusal.lock().unwrap() = Some("it would cut 5 live flows".to_owned());
    Stage::refused(stage.fetch().await, "it would cut 5 live flows");
    assert!(stage.feed.store.load().unwrap().is_none());
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_running_feed_starts_from_its_copy_and_takes_what_is_accepted() {
    let server = Server::new().await;
    let mut stage = Stage::new(server.settings());
    server.serve(&list(0..100));
    stage.takes().await;

    server.serve(&list(0..20));
    let (board, acceptance, stop) = (
        Board::default(),
        Acceptance::default(),
        CancellationToken::new(),
    );
    let taker = Taker::default();
    let task = tokio::spawn(
        follow(
            server.settings(),
            stage.directory.path().to_owned(),
            taker.clone(),
            board.clone(),
            acceptance.clone(),
            stop.clone(),
        )
        .unwrap(),
    );
    let status = || board.all().into_iter().next();
    until("the change is held", || {
        status().is_some_and(|status| status.state == SourceState::Held)
    })
    .await;
    assert_eq!(
        status().unwrap().entries,
        100,
        "the copy from before the start is in force"
    );
    assert_eq!(taker.updates.lock().unwrap().len(), 1);
    acceptance.accept("another");
    acceptance.accept("partner");
    until("the change is in force", || {
        status().is_some_and(|status| status.state == SourceState::Good && status.entries == 20)
    })
    .await;
    assert!(
        taker.updates.lock().unwrap()[1]
            .reason
            .contains("accepted by an operator")
    );
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_copy_that_its_key_did_not_sign_is_not_used_after_a_start() {
    let server = Server::new().await;
    let mut stage = Stage::new(server.settings());
    server.serve(&list(0..3));
    stage.takes().await;
    let mut settings = server.settings();
    let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
    settings.signed_by = Some(PublicKey::Ed25519(key));
    let mut feed = Stage::feed(settings, &stage.directory);
    let board = Board::default();
    feed.restore(&stage.taker, &board).await;
    assert_eq!(stage.taker.updates.lock().unwrap().len(), 1);
    let status = board.all().remove(0);
    assert!(
        status
            .last_error
            .unwrap()
            .contains("not used: the signature file is not"),
        ""
    );
}

#[tokio::test]
async fn waits_differ_within_their_bounds() {
    let server = Server::new().await;
    let stage = Stage::new(server.settings());
    let waits: BTreeSet<Duration> = (0..100).map(|_| stage.feed.wait(true)).collect();
    assert!(waits.len() > 5);
    assert!(
        waits
            .iter()
            .all(|wait| (3240..=3960).contains(&wait.as_secs())),
        "{waits:?}"
    );
    assert!(stage.feed.wait(false) <= Duration::from_secs(66));
}
