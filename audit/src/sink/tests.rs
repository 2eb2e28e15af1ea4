//! Sinks against collectors of this process.

mod collector;
mod posts;
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

use self::collector::{Collector, Manner};
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

/// `log.alert` for one sink.
fn alert(seq: u64, to: &str) -> String {
    record(seq).replace("op.intent", "log.alert").replace(
        &format!("\"path\":\"/inbox/{seq}\""),
        &format!("\"to\":[\"{to}\"]"),
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
