//! The journal on its way to collectors.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files::{self, Certificate};
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, finish_within, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::rsyslog::{Message, Rsyslog};
use serde_json::Value;
use tempfile::TempDir;

use crate::sessions::text;

struct World {
    proxy: Proxy,
    alice: Account,
    here: TempDir,
    _storage: TempDir,
}

fn world(sinks: &str) -> Result<World> {
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .sections(sinks)
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/archive", "archive", "/")])?;
    Ok(World {
        proxy,
        alice,
        here: files::folder("partner")?,
        _storage: storage,
    })
}

impl World {
    /// Uploads a file, downloads it and compares.
    fn there_and_back(&mut self, name: &str, bytes: usize) -> Result<()> {
        let (up, down) = (self.here.path().join("up"), self.here.path().join("down"));
        fs::write(&up, vec![b'x'; bytes])?;
        let connection =
            OpensshConnection::new(&self.proxy, &mut self.alice, Factors::KeyThenPassword)?;
        let batch = format!(
            "put \"{}\" \"/archive/{name}\"\nget \"/archive/{name}\" \"{}\"\n",
            up.display(),
            down.display()
        );
        let output = connection.sftp(Place::Loopback, &batch, PATIENCE)?;
        ensure!(
            output.status.success() && fs::read(&up)? == fs::read(&down)?,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Ends the gateway and gives every record that it wrote.
    fn end(mut self) -> Result<Vec<Value>> {
        self.proxy.process.terminate()?;
        self.proxy.records()
    }
}

fn to_rsyslog(server: &Rsyslog, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"{}\"\ntimeout_seconds = 1\n\
         pinned_certificate_sha256 = \"{}\"\nmax_message_bytes = 65536\n{more}",
        server.address,
        server.certificate.sha256().unwrap_or_default(),
    )
}

fn to_file(name: &str, path: &Path, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"{name}\"\nkind = \"file\"\npath = \"{}\"\n{more}",
        path.display()
    )
}

/// The records among the messages, as JSON, in the order in which they came.
fn records_of(messages: &[Message]) -> Result<Vec<Value>> {
    messages
        .iter()
        .filter(|message| message.id != "log.checkpoint")
        .map(|message| serde_json::from_str(&message.text).with_context(|| format!("{message:?}")))
        .collect()
}

fn sequence(records: &[Value]) -> Vec<u64> {
    records
        .iter()
        .filter_map(|record| record.get("seq")?.as_u64())
        .collect()
}

/// What a file holds of JSON, a value in each line.
pub(crate) fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[test]
fn rsyslog_gets_every_record_over_tls_as_it_stands_in_the_journal() -> Result<()> {
    let server = Rsyslog::start(Place::Loopback)?;
    let mut world = world(&to_rsyslog(&server, ""))?;
    // What could end a field, a line or a message.
    world.there_and_back("a] [x@1 y=z] |CEF:0 <13>1 - = \u{e9}.csv", 70_000)?;
    let written = world.end()?;
    let messages = wait_for("the last record", || {
        let messages = server.messages().ok()?;
        let last = messages.iter().rfind(|message| message.id == "log.stop");
        last.is_some().then_some(messages)
    })?;
    let got = records_of(&messages)?;
    ensure!(got == written, "{} of {}", got.len(), written.len());
    for (message, record) in messages
        .iter()
        .filter(|message| message.id != "log.checkpoint")
        .zip(&got)
    {
        ensure!(message.id == text(record, "event"), "{message:?}");
        let seq = format!("[portcullis@32473 seq=\"{}\"", record["seq"]);
        ensure!(message.structured_data.starts_with(&seq), "{message:?}");
    }
    ensure!(
        messages
            .iter()
            .any(|message| message.id == "log.checkpoint"),
        "no checkpoint came"
    );
    Ok(())
}

#[test]
fn nothing_is_lost_while_rsyslog_is_down() -> Result<()> {
    let mut server = Rsyslog::start(Place::Loopback)?;
    let mut world = world(&to_rsyslog(&server, "checkpoints = false\n"))?;
    world.there_and_back("before", 40_000)?;
    wait_for("records", || {
        server
            .messages()
            .ok()
            .filter(|messages| messages.len() > 10)
    })?;
    server.process.kill()?;
    world.there_and_back("meanwhile", 40_000)?;
    server.start_again()?;
    world.there_and_back("after", 40_000)?;
    let written = world.end()?;
    wait_for("the last record", || {
        let messages = server.messages().ok()?;
        messages
            .last()
            .filter(|message| message.id == "log.stop")
            .cloned()
    })?;
    let got = records_of(&server.messages()?)?;
    let seen = sequence(&got);
    ensure!(
        seen.iter().collect::<BTreeSet<_>>() == sequence(&written).iter().collect(),
        "{} of {}",
        seen.len(),
        written.len()
    );
    let steps_back = seen.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    ensure!(steps_back <= 1, "duplicates at {steps_back} places");
    Ok(())
}

#[test]
fn a_collector_that_never_reads_holds_up_nothing() -> Result<()> {
    let collector = TcpListener::bind("127.0.0.1:0")?;
    // What its kernel takes for it is soon full.
    rustix::net::sockopt::set_socket_recv_buffer_size(&collector, 4096)?;
    let mut world = world(&format!(
        "[[sink]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"{}\"\ntls = \"none\"\ntimeout_seconds = 600\n\
         plaintext_exception = {{ reason = \"a test\", approver = \"test\", expires = \"2099-12-31\" }}\n",
        collector.local_addr()?
    ))?;
    // Accepted, held, and never read.
    let (_held, _) = collector.accept()?;
    for round in 0..3 {
        world.there_and_back(&format!("file{round}"), 8 << 20)?;
    }
    let begun = std::time::Instant::now();
    let written = world.end()?;
    ensure!(begun.elapsed() < Duration::from_secs(15), "the end waited");
    ensure!(written.len() > 300, "{} records", written.len());
    let said = written
        .iter()
        .find(|record| text(record, "event") == "app.start")
        .and_then(|record| record.pointer("/body/exceptions")?.as_array())
        .and_then(|all| all.iter().find_map(|one| one.get("sink")));
    ensure!(said.is_some_and(|sink| sink == "siem"), "{said:?}");
    Ok(())
}

#[test]
fn a_collector_with_another_certificate_is_named_and_gets_nothing() -> Result<()> {
    let server = Rsyslog::start(Place::Loopback)?;
    let elsewhere = files::folder("other")?;
    let other = Certificate::make(elsewhere.path(), "127.0.0.1")?;
    let pinned = server.certificate.sha256()?;
    let sink = to_rsyslog(&server, "").replace(&pinned, &other.sha256()?);
    let mut world = world(&sink)?;
    world.there_and_back("file", 1000)?;
    wait_for("the reason in the log", || {
        let log = world.proxy.process.log();
        (log.contains("shows a certificate that is not trusted")
            && log.contains("compare pinned_certificate_sha256"))
        .then_some(())
    })?;
    ensure!(server.messages()?.is_empty(), "it got records");
    // The pin is put right without a restart, and nothing is missing.
    let record = world
        .proxy
        .reload(|text| text.replace(&other.sha256().unwrap_or_default(), &pinned))?;
    ensure!(
        record["body"]["changed"] == serde_json::json!(["sink"]),
        "{record}"
    );
    let first = wait_for("records", || server.messages().ok()?.first().cloned())?;
    ensure!(
        first.id == "log.start" || first.id == "log.checkpoint",
        "{first:?}"
    );
    Ok(())
}

#[test]
fn a_reload_adds_changes_and_removes_sinks() -> Result<()> {
    let out = files::folder("out")?;
    let path = |name: &str| out.path().join(name);
    let keep = to_file("keep", &path("keep"), "");
    let gone = to_file("gone", &path("gone"), "");
    let world = world(&[keep.as_str(), &gone].concat())?;
    wait_for("both", || {
        (!lines(&path("keep")).is_empty() && !lines(&path("gone")).is_empty()).then_some(())
    })?;
    let added = to_file("added", &path("added"), "format = \"ocsf\"\n");
    world.proxy.reload(|text| text.replace(&gone, &added))?;
    wait_for("the new one", || {
        let events = lines(&path("added"));
        (events.last()?["metadata"]["event_code"] == "config.change").then_some(())
    })?;
    ensure!(
        lines(&path("added"))[0]["class_uid"] == 1008,
        "it begins with the log"
    );

    let before = lines(&path("gone")).len();
    let cef = to_file("keep", &path("keep.cef"), "format = \"cef\"\n");
    world.proxy.reload(|text| text.replace(&keep, &cef))?;
    let written = world.end()?;
    ensure!(lines(&path("gone")).len() == before, "it is not gone");
    // Where the one before stopped, the changed one went on.
    let json = lines(&path("keep")).len();
    let cef = fs::read_to_string(path("keep.cef"))?;
    ensure!(cef.contains("|log.stop|"), "{cef}");
    let cef = cef.lines().count();
    ensure!(
        json + cef == written.len(),
        "{json} and {cef} of {}",
        written.len()
    );
    Ok(())
}

#[test]
fn a_sink_with_a_fault_keeps_the_configuration_out_and_the_gateway_up() -> Result<()> {
    let out = files::folder("out")?;
    let path = out.path().join("records");
    let good = to_file("keep", &path, "");
    let world = world(&good)?;
    let record = world
        .proxy
        .reload(|text| text.replace(&good, "[[sink]]\nname = \"keep\"\nkind = \"file\"\n"))?;
    ensure!(text(&record, "outcome") == "failure", "{record}");
    ensure!(
        record.to_string().contains("sink[0].path: missing"),
        "{record}"
    );
    wait_for("the refusal in the sink that stayed", || {
        lines(&path)
            .iter()
            .any(|record| text(record, "event") == "config.change")
            .then_some(())
    })?;
    Ok(())
}

#[test]
fn checkpoints_that_left_the_host_convict_a_log_that_was_cut() -> Result<()> {
    let out = files::folder("out")?;
    let path = out.path().join("records");
    let mut world = world(&to_file("worm", &path, ""))?;
    world.there_and_back("file", 1000)?;
    let journal = world.proxy.journal.clone();
    let key = world.proxy.folder().join("journal.key.pub");
    let notes = out.path().join("records.checkpoints");
    world.proxy.process.terminate()?;
    let verifier = portcullis_tests::locate::binary("portcullis-verify")?;
    let verify = |log: &Path| {
        finish_within(
            std::process::Command::new(&verifier)
                .arg(log)
                .arg("--key")
                .arg(&key)
                .arg("--checkpoint")
                .arg(&notes),
            PATIENCE,
        )
    };
    let sound = verify(&journal)?;
    ensure!(
        sound.status.success(),
        "{}",
        String::from_utf8_lossy(&sound.stdout)
    );

    // Somebody cuts the log and its checkpoints together: the copy elsewhere knows better.
    let copy = files::folder("copy")?;
    for entry in fs::read_dir(&journal)? {
        let entry = entry?;
        fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
    }
    fs::remove_file(copy.path().join("checkpoints"))?;
    let segment = copy.path().join("000000000000.jsonl");
    let text = fs::read_to_string(&segment)?;
    let kept: String = text
        .lines()
        .take(3)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&segment, kept)?;
    let found = verify(copy.path())?;
    ensure!(
        found.status.code() == Some(1),
        "{}",
        String::from_utf8_lossy(&found.stdout)
    );
    Ok(())
}
