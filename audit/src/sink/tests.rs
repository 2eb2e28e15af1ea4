//! Sinks against collectors of this process.

mod smtp;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Instant,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use super::*;
use crate::format::syslog;

const PATIENCE: Duration = Duration::from_secs(20);

/// A log that a test writes.
struct Written {
    folder: TempDir,
    durable: Arc<AtomicU64>,
}

impl Written {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            durable: Arc::default(),
        }
    }

    fn directory(&self) -> PathBuf {
        let path = self.folder.path().join("log");
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Writes records up to and without `end` to the segment that begins with `first`.
    fn write(&self, first: u64, records: std::ops::Range<u64>) {
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory().join(format!("{first:012}.jsonl")))
            .unwrap();
        for seq in records {
            writeln!(file, "{}", record(seq)).unwrap();
        }
    }

    fn grow(&self, to: u64) {
        let from = self.durable.load(Ordering::SeqCst);
        self.write(0, from..to);
        self.durable.store(to, Ordering::SeqCst);
    }

    fn log(&self) -> Log {
        let durable = Arc::clone(&self.durable);
        Log {
            directory: self.directory(),
            node: "gw1".to_owned(),
            durable: Arc::new(move || durable.load(Ordering::SeqCst)),
        }
    }

    fn settings(&self, target: Target) -> Settings {
        Settings {
            name: "test".to_owned(),
            target,
            checkpoints: true,
            begin: Begin::Oldest,
            selection: Selection::All,
            timeout: Duration::from_millis(500),
            cursor: self.folder.path().join("sinks/test.cursor"),
            product: product(),
        }
    }

    fn cursor(&self) -> u64 {
        let text = fs::read(self.folder.path().join("sinks/test.cursor")).unwrap_or_default();
        serde_json::from_slice::<serde_json::Value>(&text)
            .ok()
            .and_then(|kept| kept["next"].as_u64())
            .unwrap_or(0)
    }
}

fn record(seq: u64) -> String {
    format!(
        r#"{{"body":{{"path":"/inbox/{seq}"}},"boot_id":"b","event":"op.intent","mono_ns":1,"node":"gw1","outcome":"allow","prev":"00","seq":{seq},"ts":"2026-11-22T01:02:03.000004Z","v":1}}"#
    )
}

fn product() -> Product {
    Product {
        name: "portcullis-proxy".to_owned(),
        version: "0".to_owned(),
    }
}

fn to_syslog(address: SocketAddr, tls: Option<Tls>) -> Target {
    Target::Syslog {
        host: address.ip().to_string(),
        port: address.port(),
        tls,
        syslog: Syslog {
            facility: syslog::FACILITY,
            enterprise: syslog::ENTERPRISE,
            message_bytes: syslog::MESSAGE_BYTES,
            format: Format::Json,
            is_synced: None,
            product: product(),
        },
    }
}

fn quiet(_: Notice) {}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_taken(written: &Written, records: u64) {
    wait_until("the cursor", || written.cursor() == records);
}

fn end(running: Running) {
    running.end().join();
}

/// What a collector does with one connection.
#[derive(Clone, Copy)]
enum Manner {
    Read,
    /// Reads so many bytes and resets.
    ResetAfter(usize),
    /// Never reads.
    Stand,
}

/// A collector of octet-counted messages.
struct Collector {
    address: SocketAddr,
    /// The sequence numbers in the order in which they came.
    seen: Arc<Mutex<Vec<u64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    fn start(manners: &[Manner], tls: Option<Arc<ServerConfig>>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), manners, tls)
    }

    /// One connection after the other, each in its manner; the last manner is for all that follow.
    fn on(listener: TcpListener, manners: &[Manner], tls: Option<Arc<ServerConfig>>) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<u64>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let (manners, noted) = (manners.to_vec(), Arc::clone(&seen));
        listener.set_nonblocking(true).unwrap();
        let thread = thread::spawn(move || {
            let mut served = 0;
            let mut held = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_millis(20)))
                    .unwrap();
                let manner = manners[served.min(manners.len() - 1)];
                served += 1;
                match (manner, &tls) {
                    (Manner::Stand, _) => held.push(stream),
                    (Manner::ResetAfter(bytes), _) => reset_after(stream, bytes),
                    (Manner::Read, None) => serve(stream, &noted, &stopped),
                    (Manner::Read, Some(config)) => {
                        let session = ServerConnection::new(Arc::clone(config)).unwrap();
                        serve(StreamOwned::new(session, stream), &noted, &stopped);
                    }
                }
            }
        });
        Self {
            address,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    fn seen(&self) -> Vec<u64> {
        self.seen.lock().unwrap().clone()
    }

    fn has_all(&self, records: u64) {
        wait_until("all records", || {
            self.seen().into_iter().collect::<BTreeSet<_>>() == (0..records).collect()
        });
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn reset_after(mut stream: TcpStream, bytes: usize) {
    let mut buffer = vec![0; bytes];
    let _ = stream.read(&mut buffer);
    // Closing with unread bytes, or with none to wait for, sends a reset.
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

fn serve(mut stream: impl io::Read, noted: &Mutex<Vec<u64>>, stopped: &AtomicBool) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => text.extend_from_slice(&buffer[..read]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
            }
            Err(_) => return,
        }
        while let Some(message) = first_message(&mut text) {
            let message = String::from_utf8(message).unwrap();
            if let Some((_, rest)) = message.split_once("seq=\"") {
                let (seq, _) = rest.split_once('"').unwrap();
                noted.lock().unwrap().push(seq.parse().unwrap());
            }
        }
    }
}

/// Takes a whole message from the front.
fn first_message(text: &mut Vec<u8>) -> Option<Vec<u8>> {
    let space = text.iter().position(|&b| b == b' ')?;
    let length: usize = std::str::from_utf8(&text[..space])
        .unwrap()
        .parse()
        .unwrap();
    if text.len() <= space + length {
        return None;
    }
    let rest = text.split_off(space + 1 + length);
    let message = std::mem::replace(text, rest);
    Some(message[space + 1..].to_vec())
}

/// A certificate for 127.0.0.1 and its authority.
struct Identity {
    authority: CertificateDer<'static>,
    server: Arc<ServerConfig>,
}

fn identity() -> Identity {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, &authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    Identity {
        authority: authority.der().clone(),
        server: Arc::new(server),
    }
}

fn trusting(authority: &CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Arc::new(
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

fn tls(authority: &CertificateDer<'static>) -> Option<Tls> {
    Some(Tls {
        config: trusting(authority),
        server_name: server_name("127.0.0.1").unwrap(),
    })
}

#[test]
fn a_file_gets_what_is_durable_and_nothing_else_and_goes_on_after_a_restart() {
    let written = Written::new();
    written.grow(3);
    written.write(0, 3..4);
    let path = written.folder.path().join("out.jsonl");
    let target = || Target::File {
        path: path.clone(),
        format: Format::Json,
    };
    let running = start(written.settings(target()), written.log(), None, quiet).unwrap();
    is_taken(&written, 3);
    end(running);
    let expected = |records: u64| {
        (0..records)
            .map(|seq| record(seq) + "\n")
            .collect::<String>()
    };
    assert_eq!(fs::read_to_string(&path).unwrap(), expected(3));

    written.durable.store(4, Ordering::SeqCst);
    let running = start(written.settings(target()), written.log(), None, quiet).unwrap();
    is_taken(&written, 4);
    end(running);
    assert_eq!(fs::read_to_string(&path).unwrap(), expected(4));
}

#[test]
fn a_sink_that_takes_the_place_of_another_goes_on_with_its_cursor_and_counts() {
    let written = Written::new();
    written.grow(3);
    let path = written.folder.path().join("out");
    let target = |format| Target::File {
        path: path.clone(),
        format,
    };
    let first = start(
        written.settings(target(Format::Json)),
        written.log(),
        None,
        quiet,
    )
    .unwrap();
    is_taken(&written, 3);
    let second = start(
        written.settings(target(Format::Cef)),
        written.log(),
        Some(first.end()),
        quiet,
    )
    .unwrap();
    written.grow(5);
    is_taken(&written, 5);
    wait_until("the count", || second.meter().read(5, 0).sent == 5);
    end(second);
    let text = fs::read_to_string(&path).unwrap();
    let kinds: Vec<_> = text
        .lines()
        .map(|line| line.starts_with("CEF:0|"))
        .collect();
    assert_eq!(kinds, [false, false, false, true, true]);
}

#[test]
fn checkpoints_leave_with_the_records() {
    let written = Written::new();
    written.grow(1);
    let note = "gw1/log\n1\nAAAA\n\n\u{2014} gw1/log x\n";
    fs::write(written.directory().join("checkpoints"), note).unwrap();
    let path = written.folder.path().join("out.jsonl");
    let target = Target::File {
        path,
        format: Format::Ocsf,
    };
    let running = start(written.settings(target), written.log(), None, quiet).unwrap();
    let notes = written.folder.path().join("out.jsonl.checkpoints");
    wait_until("the note", || {
        fs::read_to_string(&notes).unwrap_or_default() == note
    });
    end(running);
}

#[test]
fn a_new_sink_may_begin_with_the_next_record() {
    let written = Written::new();
    written.grow(5);
    let path = written.folder.path().join("out.jsonl");
    let mut settings = written.settings(Target::File {
        path: path.clone(),
        format: Format::Json,
    });
    settings.begin = Begin::Now;
    let running = start(settings, written.log(), None, quiet).unwrap();
    is_taken(&written, 5);
    written.grow(6);
    is_taken(&written, 6);
    end(running);
    assert_eq!(fs::read_to_string(&path).unwrap(), record(5) + "\n");
}

#[test]
fn records_that_retention_removed_are_counted_and_named() {
    let written = Written::new();
    written.grow(2);
    let path = written.folder.path().join("out.jsonl");
    let target = || Target::File {
        path: path.clone(),
        format: Format::Json,
    };
    let running = start(written.settings(target()), written.log(), None, quiet).unwrap();
    is_taken(&written, 2);
    end(running);

    fs::remove_file(written.directory().join("000000000000.jsonl")).unwrap();
    written.write(7, 7..9);
    written.durable.store(9, Ordering::SeqCst);
    let (told, notices) = mpsc::sync_channel(8);
    let running = start(
        written.settings(target()),
        written.log(),
        None,
        move |notice| {
            told.send(notice).unwrap();
        },
    )
    .unwrap();
    is_taken(&written, 9);
    assert_eq!(notices.recv().unwrap(), Notice::Lost { first: 2, last: 6 });
    let reading = running.meter().read(9, 0);
    assert_eq!((reading.lost, reading.sent, reading.lag_records), (5, 2, 0));
    end(running);
}

#[test]
fn a_new_sink_of_an_old_log_has_lost_nothing() {
    let written = Written::new();
    written.write(7, 7..9);
    written.durable.store(9, Ordering::SeqCst);
    let target = Target::File {
        path: written.folder.path().join("out.jsonl"),
        format: Format::Json,
    };
    let running = start(written.settings(target), written.log(), None, |notice| {
        panic!("{notice:?}");
    })
    .unwrap();
    is_taken(&written, 9);
    assert_eq!(running.meter().read(9, 0).lost, 0);
    end(running);
}

#[test]
fn every_record_reaches_a_collector_over_tls_once() {
    let (written, identity) = (Written::new(), identity());
    let collector = Collector::start(&[Manner::Read], Some(identity.server));
    let target = to_syslog(collector.address, tls(&identity.authority));
    let running = start(written.settings(target), written.log(), None, quiet).unwrap();
    for to in [10, 700, 2000] {
        written.grow(to);
        collector.has_all(to);
    }
    is_taken(&written, 2000);
    assert_eq!(collector.seen().len(), 2000);
    end(running);
}

#[test]
fn a_collector_with_another_certificate_is_named_and_gets_nothing() {
    let (written, identity, other) = (Written::new(), identity(), identity());
    written.grow(5);
    let collector = Collector::start(&[Manner::Read], Some(identity.server));
    let settings = written.settings(to_syslog(collector.address, tls(&other.authority)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let Err(error) = runtime.block_on(connection::Connection::open(&settings)) else {
        panic!("connected");
    };
    assert!(matches!(error, SendError::Certificate { .. }), "{error}");
    assert!(error.to_string().contains("check ca_file"), "{error}");

    let running = start(settings, written.log(), None, quiet).unwrap();
    wait_until("attempts", || running.meter().read(5, 0).reconnects >= 2);
    end(running);
    assert_eq!((collector.seen(), written.cursor()), (Vec::new(), 0));
}

#[test]
fn what_a_collector_took_before_it_reset_the_connection_comes_again() {
    let written = Written::new();
    written.grow(300);
    let collector = Collector::start(
        &[
            Manner::ResetAfter(0),
            Manner::ResetAfter(1000),
            Manner::ResetAfter(20_000),
            Manner::Read,
        ],
        None,
    );
    let target = to_syslog(collector.address, None);
    let running = start(written.settings(target), written.log(), None, quiet).unwrap();
    collector.has_all(300);
    is_taken(&written, 300);
    assert!(running.meter().read(300, 0).reconnects >= 3);
    end(running);
}

#[test]
fn a_collector_that_comes_back_has_everything_and_duplicates_only_where_it_went() {
    let written = Written::new();
    written.grow(100);
    let first = Collector::start(&[Manner::Read], None);
    let address = first.address;
    let running = start(
        written.settings(to_syslog(address, None)),
        written.log(),
        None,
        quiet,
    )
    .unwrap();
    first.has_all(100);
    is_taken(&written, 100);
    written.grow(120);
    first.has_all(120);
    let mut seen = first.seen();
    drop(first);
    written.grow(400);
    wait_until("attempts", || running.meter().read(400, 0).reconnects >= 2);
    let reading = running.meter().read(400, 1_795_309_333_000);
    assert!(!reading.is_connected && reading.lag_records >= 280 && reading.lag_seconds == 10);

    let second = Collector::on(TcpListener::bind(address).unwrap(), &[Manner::Read], None);
    wait_until("the rest", || second.seen().last() == Some(&399));
    is_taken(&written, 400);
    end(running);
    let again = second.seen();
    assert!(again.is_sorted());
    assert!(again[0] >= 100, "what was sure came again");
    seen.extend(again);
    assert_eq!(
        seen.into_iter().collect::<BTreeSet<_>>(),
        (0..400).collect()
    );
}

#[test]
fn a_collector_that_stands_still_holds_up_nothing_but_its_sink() {
    let written = Written::new();
    let collector = Collector::start(&[Manner::Stand], None);
    let mut settings = written.settings(to_syslog(collector.address, None));
    settings.timeout = Duration::from_secs(3600);
    let running = start(settings, written.log(), None, quiet).unwrap();
    // More than the buffers of two kernels.
    written.grow(60_000);
    wait_until("the connection", || running.meter().read(0, 0).is_connected);
    assert_eq!(written.cursor(), 0);
    let begun = Instant::now();
    end(running);
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_sink_that_drains_waits_until_the_collector_has_read_everything() {
    let written = Written::new();
    let collector = Collector::start(&[Manner::Read], None);
    let running = start(
        written.settings(to_syslog(collector.address, None)),
        written.log(),
        None,
        quiet,
    )
    .unwrap();
    written.grow(50);
    running.drain();
    wait_until("the end", || running.is_over());
    assert_eq!(written.cursor(), 50);
    assert_eq!(collector.seen(), (0..50).collect::<Vec<_>>());
}

#[test]
fn a_sink_that_drains_does_not_wait_for_a_collector_that_is_not_there() {
    let written = Written::new();
    written.grow(5);
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let running = start(
        written.settings(to_syslog(closed, None)),
        written.log(),
        None,
        quiet,
    )
    .unwrap();
    running.drain();
    wait_until("the end", || running.is_over());
    assert_eq!(written.cursor(), 0);
}

/// Answers each request with the next status, and gives its head and body.
fn web_server(
    identity: &Identity,
    statuses: &[u16],
) -> (SocketAddr, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (config, statuses) = (Arc::clone(&identity.server), statuses.to_vec());
    let (told, requests) = mpsc::sync_channel(64);
    thread::spawn(move || {
        for status in statuses {
            let (stream, _) = listener.accept().unwrap();
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(session, stream);
            let mut text = Vec::new();
            let (head, body) = loop {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..read]);
                let so_far = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = so_far.split_once("\r\n\r\n") else {
                    continue;
                };
                let head = head.to_lowercase();
                let length: usize = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
                    .unwrap();
                if body.len() >= length {
                    break (head, body.to_owned());
                }
            };
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy"
            )
            .unwrap();
            stream.conn.send_close_notify();
            let _ = stream.flush();
            told.send((head, body)).unwrap();
        }
    });
    (address, requests)
}

#[test]
fn posts_are_repeated_until_the_collector_says_that_it_has_them() {
    let (written, identity) = (Written::new(), identity());
    written.grow(5);
    let (address, requests) = web_server(&identity, &[503, 302, 200, 204]);
    let target = Target::Https {
        url: Url::parse(&format!("https://{address}/ingest?source=gw1")).unwrap(),
        tls: trusting(&identity.authority),
        token: Token::new("t0ken"),
        format: Format::Json,
        batch: 3,
        signing: None,
    };
    let running = start(written.settings(target), written.log(), None, quiet).unwrap();
    let lines = |from: u64, to: u64| (from..to).map(|seq| record(seq) + "\n").collect::<String>();
    for expected in [lines(0, 3), lines(0, 3), lines(0, 3), lines(3, 5)] {
        let (head, body) = requests.recv_timeout(PATIENCE).unwrap();
        assert!(head.starts_with("post /ingest?source=gw1 "), "{head}");
        assert!(head.contains("authorization: bearer t0ken"), "{head}");
        assert!(
            head.contains("content-type: application/x-ndjson"),
            "{head}"
        );
        assert_eq!(body, expected);
    }
    is_taken(&written, 5);
    end(running);
}

/// `log.alert` for one sink.
fn alert(seq: u64, to: &str) -> String {
    record(seq).replace("op.intent", "log.alert").replace(
        &format!("\"path\":\"/inbox/{seq}\""),
        &format!("\"to\":[\"{to}\"]"),
    )
}

/// A webhook that may not take alerts for longer than an hour.
fn webhook(written: &Written, address: SocketAddr, identity: &Identity) -> Settings {
    let target = Target::Https {
        url: Url::parse(&format!("https://{address}/hook")).unwrap(),
        tls: trusting(&identity.authority),
        token: None,
        format: Format::Json,
        batch: 1,
        signing: Some(Signing::new("key")),
    };
    Settings {
        selection: Selection::Alerts {
            give_up: Duration::from_secs(3600),
        },
        checkpoints: false,
        ..written.settings(target)
    }
}

#[test]
fn a_webhook_gets_its_own_alerts_signed_and_nothing_else() {
    let (written, identity) = (Written::new(), identity());
    let now = chrono::Utc::now()
        .format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let young = alert(2, "test").replace("2026-11-22T01:02:03.000004Z", &now);
    let lines = [record(0), alert(1, "other"), young.clone(), record(3)];
    fs::write(
        written.directory().join("000000000000.jsonl"),
        lines.join("\n") + "\n",
    )
    .unwrap();
    written.durable.store(4, Ordering::SeqCst);
    let (address, requests) = web_server(&identity, &[503, 200]);
    let settings = webhook(&written, address, &identity);
    let running = start(settings, written.log(), None, quiet).unwrap();
    for _ in 0..2 {
        let (head, body) = requests.recv_timeout(PATIENCE).unwrap();
        assert_eq!(body, format!("{young}\n"));
        assert!(
            head.contains("content-type: application/json\r\n"),
            "{head}"
        );
        assert!(head.contains("x-portcullis-timestamp: "), "{head}");
        assert!(head.contains("x-portcullis-signature: v1="), "{head}");
    }
    is_taken(&written, 4);
    assert_eq!(running.meter().read(4, 0).sent, 1);
    end(running);
}

#[test]
fn an_alert_that_nobody_takes_is_given_up_with_notice_and_a_young_one_is_not() {
    let (written, identity) = (Written::new(), identity());
    let now = chrono::Utc::now()
        .format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let old = "2020-01-01T00:00:00.000000Z";
    let at = |seq, time: &str| alert(seq, "test").replace("2026-11-22T01:02:03.000004Z", time);
    let lines = [record(0), at(1, old), record(2), at(3, old), at(4, &now)];
    fs::write(
        written.directory().join("000000000000.jsonl"),
        lines.join("\n") + "\n",
    )
    .unwrap();
    written.durable.store(5, Ordering::SeqCst);
    let (address, requests) = web_server(&identity, &[500, 500, 200]);
    let (tell, told) = mpsc::sync_channel(16);
    let settings = webhook(&written, address, &identity);
    let running = start(settings, written.log(), None, move |notice| {
        tell.try_send(notice).unwrap();
    })
    .unwrap();
    let bodies: Vec<_> = (0..3)
        .map(|_| requests.recv_timeout(PATIENCE).unwrap().1)
        .collect();
    assert_eq!(
        bodies[0],
        at(1, old) + "\n",
        "even an old one is tried once"
    );
    assert_eq!(bodies[1..], [at(4, &now) + "\n", at(4, &now) + "\n"]);
    is_taken(&written, 5);
    let given_up: Vec<_> = told
        .try_iter()
        .map(|notice| {
            let Notice::GivenUp { seq, error } = notice else {
                panic!("{notice:?}")
            };
            assert!(error.contains("answered 500"), "{error}");
            seq
        })
        .collect();
    assert_eq!(given_up, [1, 3]);
    assert_eq!(running.meter().read(5, 0).lost, 2);
    end(running);
}

#[test]
fn a_signature_is_hmac_over_timestamp_and_body() {
    // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
    assert_eq!(
        Signing::new("key").sign("1700000000", b"{}").unwrap(),
        "v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    );
}

#[test]
fn addresses_for_posts_are_https_and_carry_no_password() {
    assert!(Url::parse("https://collector.example.org:8088/x").is_ok());
    for bad in [
        "http://collector.example.org/",
        "https://user:pw@host/",
        "host",
        "/x",
        "ftp://h/",
    ] {
        assert!(Url::parse(bad).is_err(), "{bad}");
    }
    assert!(
        Url::parse("http://h/")
            .unwrap_err()
            .to_string()
            .contains("in clear")
    );
}

#[test]
fn a_cursor_that_is_none_stops_the_sink_and_not_the_gateway() {
    let written = Written::new();
    written.grow(1);
    let path = written.folder.path().join("sinks");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("test.cursor"), "rubbish").unwrap();
    let out = written.folder.path().join("out");
    let target = Target::File {
        path: out.clone(),
        format: Format::Json,
    };
    let running = start(written.settings(target), written.log(), None, quiet).unwrap();
    wait_until("attempts", || running.meter().read(1, 0).reconnects >= 2);
    end(running);
    assert!(!Path::new(&out).exists());
    let kept = fs::read_to_string(path.join("test.cursor")).unwrap();
    assert_eq!(kept, "rubbish", "the evidence is gone");
}
