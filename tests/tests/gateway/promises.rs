//! The promises of the proxy, each with a count of violations.

mod changes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::wire::{Connection, log_in, open, status};
use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Mount};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use serde_json::Value;
use tokio::runtime::Runtime;

const KILLS: usize = 200;

fn body<'a>(record: &'a Value, field: &str) -> Option<&'a Value> {
    record.get("body")?.get(field)
}

fn is(record: &Value, event: &str) -> bool {
    record.get("event").and_then(Value::as_str) == Some(event)
}

/// What the journal announced of each path: the handles that it was opened under, by session.
#[derive(Debug, Default)]
struct Announced {
    opened: BTreeMap<String, Vec<(String, u64)>>,
    written: BTreeMap<(String, u64), u64>,
    closed: BTreeSet<(String, u64)>,
}

impl Announced {
    fn read(records: &[Value]) -> Self {
        let mut announced = Self::default();
        for record in records.iter().filter(|record| is(record, "op.intent")) {
            let text = |field| body(record, field).and_then(Value::as_str);
            let number = |field| body(record, field).and_then(Value::as_u64);
            let session = record
                .get("session_id")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            let handle = (session, number("handle_id").unwrap_or(u64::MAX));
            match text("sftp_op") {
                Some("open") => announced
                    .opened
                    .entry(text("path").unwrap_or_default().to_owned())
                    .or_default()
                    .push(handle),
                Some("write") => {
                    let end = number("offset").unwrap_or(0) + number("len").unwrap_or(0);
                    let known = announced.written.entry(handle).or_default();
                    *known = end.max(*known);
                }
                Some("close") => {
                    announced.closed.insert(handle);
                }
                _ => {}
            }
        }
        announced
    }

    /// Bytes that were announced for a path, if its opening was.
    fn bytes(&self, path: &str) -> Option<u64> {
        let handles = self.opened.get(path)?;
        handles
            .iter()
            .map(|handle| self.written.get(handle).copied().unwrap_or(0))
            .max()
    }

    fn close_of(&self, path: &str) -> bool {
        self.opened
            .get(path)
            .is_some_and(|handles| handles.iter().any(|handle| self.closed.contains(handle)))
    }
}

/// Session and operation of every intent that no outcome follows.
fn without_outcome(records: &[Value]) -> BTreeSet<(String, u64)> {
    let mut open_ended = BTreeSet::new();
    for record in records {
        let session = record.get("session_id").and_then(Value::as_str);
        let operation = record.get("op_id").and_then(Value::as_u64);
        if let (Some(session), Some(operation)) = (session, operation) {
            let operation = (session.to_owned(), operation);
            if is(record, "op.intent") {
                open_ended.insert(operation);
            } else if is(record, "op.outcome") {
                open_ended.remove(&operation);
            }
        }
    }
    open_ended
}

/// Uploads that go on until the server dies. Each file begins with its own path, so that whatever lies on the backend
/// tells which operation put it there.
async fn upload_without_end(
    proxy: std::net::SocketAddr,
    alice: &Account,
    round: usize,
) -> Result<()> {
    let connection = log_in(proxy, alice).await?;
    let mut wire = connection.sftp().await?;
    for number in 0.. {
        let path = format!("/inbox/{round:03}-{number:05}");
        let mut content = format!("{path}\n").into_bytes();
        content.resize(40 << 10, b'.');
        wire.put(path.as_bytes(), &content).await?;
    }
    Ok(())
}

#[test]
fn a_proxy_killed_at_200_random_points_leaves_no_backend_operation_without_its_intent() -> Result<()>
{
    let disk = files::folder("stored")?;
    let mut proxy = Plan::new(Place::Loopback)?
        .backend("disk", Backend::local(disk.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", ".")])?;
    let runtime = Runtime::new()?;
    let delays = files::random_bytes(KILLS)?;

    for (round, delay) in delays.iter().enumerate() {
        let address = proxy.address;
        let uploading = {
            let alice = alice.clone();
            runtime.spawn(async move { upload_without_end(address, &alice, round).await })
        };
        // The kill falls between the first file of the round and some forty milliseconds later.
        let first = disk.path().join(format!("{round:03}-00000"));
        wait_for("the first upload of the round", || {
            (first.exists() || uploading.is_finished()).then_some(())
        })?;
        ensure!(
            first.exists(),
            "round {round} ended early: {}",
            proxy.process.log()
        );
        std::thread::sleep(Duration::from_micros(u64::from(*delay) * 160));
        proxy.crash_and_restart()?;
        ensure!(
            runtime.block_on(uploading)?.is_err(),
            "the upload must have broken off"
        );
    }

    let records = proxy.records()?;
    let open_ended = without_outcome(&records);
    ensure!(
        open_ended.is_empty(),
        "after the last restart {} intents have no outcome, not even unknown: {open_ended:?}",
        open_ended.len()
    );
    let announced = Announced::read(&records);
    let (mut files_seen, mut partial, mut violations) = (0, 0, Vec::new());
    for entry in fs::read_dir(disk.path())? {
        let entry = entry?;
        let content = fs::read(entry.path())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files_seen += 1;
        let published = !name.starts_with(".portcullis-");
        let path = if published {
            format!("/inbox/{name}")
        } else if let Some(line) = content
            .split(|byte| *byte == b'\n')
            .next()
            .filter(|_| !content.is_empty())
        {
            partial += 1;
            String::from_utf8_lossy(line).into_owned()
        } else {
            continue;
        };
        let length = u64::try_from(content.len())?;
        match announced.bytes(&path) {
            None => violations.push(format!("{path} was opened without an intent")),
            Some(bytes) if bytes < length => {
                violations.push(format!("{path} has {length} bytes, {bytes} were announced"));
            }
            Some(_) if published && !announced.close_of(&path) => {
                violations.push(format!("{path} was published without an intent"));
            }
            Some(_) if published && length != 40 << 10 => {
                violations.push(format!("{path} was published with {length} bytes"));
            }
            Some(_) => {}
        }
    }
    ensure!(files_seen >= KILLS, "only {files_seen} files were seen");
    ensure!(
        violations.is_empty(),
        "{} violations among {files_seen} files, {partial} of them partial:\n{}",
        violations.len(),
        violations.join("\n")
    );
    proxy.journal_is_sound()
}

/// One try of a login.
#[derive(Debug, Clone, Copy)]
enum Try {
    Key,
    Password,
    WrongPassword,
    /// Keyboard-interactive with the right password and a wrong code.
    PasswordAndWrongCode,
    /// Keyboard-interactive with a wrong password and the right code.
    WrongPasswordAndCode,
    /// Keyboard-interactive as another user, whose password is right.
    PasswordOfAnother,
}

const TRIES: [Try; 6] = [
    Try::Key,
    Try::Password,
    Try::WrongPassword,
    Try::PasswordAndWrongCode,
    Try::WrongPasswordAndCode,
    Try::PasswordOfAnother,
];

/// Makes the tries on one connection; true when one of them logged in.
async fn logs_in(proxy: &Proxy, alice: &mut Account, bob: &Account, tries: &[Try]) -> Result<bool> {
    let mut connection = Connection::open(proxy.address).await?;
    for attempt in tries {
        let wrong = alice.phone.wrong_code();
        let outcome = match attempt {
            Try::Key => connection.key(&alice.name, &alice.key).await,
            Try::Password => connection.password(&alice.name, &alice.password).await,
            Try::WrongPassword => connection.password(&alice.name, "wrong-Secret-1234").await,
            Try::PasswordAndWrongCode => {
                connection
                    .keyboard_interactive(&alice.name, &alice.password, &wrong)
                    .await
            }
            Try::WrongPasswordAndCode => {
                let code = alice.phone.next_code()?;
                connection
                    .keyboard_interactive(&alice.name, "wrong-Secret-1234", &code)
                    .await
            }
            Try::PasswordOfAnother => {
                connection
                    .keyboard_interactive(&bob.name, &bob.password, &wrong)
                    .await
            }
        };
        match outcome {
            Ok((true, _)) => return Ok(true),
            Ok((false, _)) => {}
            // The server may end a connection that fails too often: nobody got in.
            Err(_) => return Ok(false),
        }
    }
    Ok(false)
}

/// Whether the tries show two classes to one account by some point: a possession and the password, whatever the order.
fn shows_two_classes(tries: &[Try]) -> bool {
    let (mut know, mut have) = (false, false);
    for attempt in tries {
        match attempt {
            Try::Key => have = true,
            // Keyboard-interactive asks only for what is missing, so the password there completes a key.
            Try::Password | Try::PasswordAndWrongCode => know = true,
            // Likewise the code completes a password that was right before; without one it proves nothing.
            Try::WrongPasswordAndCode => have |= know,
            Try::WrongPassword => {}
            Try::PasswordOfAnother => (know, have) = (false, false),
        }
        if know && have {
            return true;
        }
    }
    false
}

#[test]
fn one_factor_class_is_never_enough_over_any_method_order() -> Result<()> {
    let disk = files::folder("stored")?;
    let runtime = Runtime::new()?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("disk", Backend::local(disk.path()))
        .start()?;
    let mut orders: Vec<Vec<Try>> = TRIES.iter().map(|first| vec![*first]).collect();
    for first in TRIES {
        orders.extend(TRIES.map(|second| vec![first, second]));
        for second in [Try::Key, Try::Password] {
            orders.extend(TRIES.map(|third| vec![first, second, third]));
        }
    }

    let (mut violations, mut refused) = (Vec::new(), 0);
    // Wrong codes add up to a lock-out of the authenticator, so each batch has its own accounts.
    for (batch, orders) in orders.chunks(4).enumerate() {
        let mounts = [Mount::all("/inbox", "disk", ".")];
        let mut alice = proxy.account(&format!("alice{batch}"), &mounts)?;
        let bob = proxy.account(&format!("bob{batch}"), &mounts)?;
        for order in orders.iter().filter(|order| !shows_two_classes(order)) {
            // Two right codes are there at once; the third would have to wait for the clock.
            let takes_code = order
                .iter()
                .any(|attempt| matches!(attempt, Try::WrongPasswordAndCode));
            let mut fresh = alice.clone();
            let who = if takes_code { &mut fresh } else { &mut alice };
            if runtime.block_on(logs_in(&proxy, who, &bob, order))? {
                violations.push(format!("{order:?}"));
            }
            refused += 1;
        }
    }
    ensure!(
        violations.is_empty(),
        "{} of {refused} got in with one class:\n{}",
        violations.len(),
        violations.join("\n")
    );
    ensure!(refused >= 50, "only {refused} orders were tried");

    let mut carol = proxy.account("carol", &[Mount::all("/inbox", "disk", ".")])?;
    let dave = proxy.account("dave", &[])?;
    for order in [[Try::Key, Try::Password], [Try::Password, Try::Key]] {
        ensure!(
            runtime.block_on(logs_in(&proxy, &mut carol, &dave, &order))?,
            "two classes must be enough: {order:?}"
        );
    }
    Ok(())
}

#[test]
fn a_code_used_by_50_parallel_logins_lets_one_in() -> Result<()> {
    let disk = files::folder("stored")?;
    let proxy = Plan::new(Place::Loopback)?
        .server("max_unauthenticated_per_source", "64")
        .backend("disk", Backend::local(disk.path()))
        .start()?;
    let mut alice = proxy.account("alice", &[Mount::all("/inbox", "disk", ".")])?;
    let code = alice.phone.next_code()?;
    let alice = Arc::new(alice);

    let successes = Runtime::new()?.block_on(async {
        let mut logins = Vec::new();
        for _ in 0..50 {
            let (address, alice, code) = (proxy.address, Arc::clone(&alice), code.clone());
            logins.push(tokio::spawn(async move {
                let mut connection = Connection::open(address).await?;
                let (success, _) = connection
                    .keyboard_interactive(&alice.name, &alice.password, &code)
                    .await?;
                anyhow::Ok(success)
            }));
        }
        let mut successes = 0;
        for login in logins {
            successes += usize::from(login.await??);
        }
        anyhow::Ok(successes)
    })?;
    ensure!(successes == 1, "{successes} of 50 logins were let in");
    Ok(())
}

/// Uploads to `/inbox/report.csv` are cut after each number of writes; the final name must never show.
fn a_cut_upload_stays_invisible(proxy: &Proxy, alice: &Account, stored: &Path) -> Result<()> {
    let runtime = Runtime::new()?;
    let final_name = stored.join("report.csv");
    for writes in 0..15_u64 {
        runtime.block_on(async {
            let connection = log_in(proxy.address, alice).await?;
            let mut wire = connection.sftp().await?;
            let handle = wire.open(b"/inbox/report.csv", open::UPLOAD).await?;
            for number in 0..writes {
                let written = wire.write(&handle, number * 4096, &[b'x'; 4096]).await?;
                ensure!(written == Some(status::OK), "write {number}: {written:?}");
            }
            ensure!(!final_name.exists(), "visible after {writes} writes");
            let names = wire.list(b"/inbox").await?;
            ensure!(
                names.iter().all(|name| name == b"." || name == b".."),
                "the listing shows {names:?}"
            );
            Ok(())
        })?;
        // The connection has been dropped without a CLOSE.
        let kept = usize::from(writes > 0);
        wait_for("the withdrawal of the cut upload", || {
            let names = fs::read_dir(stored).ok()?.count();
            // A partial shows once no session uses it any more.
            let shown = runtime.block_on(async {
                let connection = log_in(proxy.address, alice).await?;
                connection.sftp().await?.size(b"/inbox/report.csv").await
            });
            let expected = (kept == 1).then(|| writes * 4096 - 1);
            (names == kept && shown.ok()? == expected).then_some(())
        })
        .with_context(|| format!("after {writes} writes: {}", proxy.process.log()))?;
        ensure!(!final_name.exists(), "published after {writes} writes");
    }
    // The neighbour: the same upload with its CLOSE is there, whole.
    runtime.block_on(async {
        let connection = log_in(proxy.address, alice).await?;
        let mut wire = connection.sftp().await?;
        wire.put(b"/inbox/report.csv", &[b'x'; 9000]).await
    })?;
    ensure!(fs::read(&final_name)? == [b'x'; 9000]);
    ensure!(fs::read_dir(stored)?.count() == 1, "something is left");
    Ok(())
}

#[test]
fn a_cut_upload_is_never_visible_under_its_final_name_on_a_local_disk() -> Result<()> {
    let disk = files::folder("stored")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("peer", Backend::local(disk.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", ".")])?;
    a_cut_upload_stays_invisible(&proxy, &alice, disk.path())
}

#[test]
fn a_cut_upload_is_never_visible_under_its_final_name_on_vsftpd() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::None)?;
    fs::create_dir(server.home.join("in"))?;
    own_like(&server.home.join("in"), &server.home)?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("peer", Backend::vsftpd(&server))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", "in")])?;
    a_cut_upload_stays_invisible(&proxy, &alice, &server.home.join("in"))
}

#[test]
fn a_cut_upload_is_never_visible_under_its_final_name_on_openssh() -> Result<()> {
    let folder = files::folder("upstream")?;
    let key = files::ssh_key(folder.path(), "gateway_ed25519")?;
    let server = Openssh::start(Place::Loopback, Subsystem::Internal, &key)?;
    let stored = server.home.join("in");
    fs::create_dir(&stored)?;
    own_like(&stored, &server.home)?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("peer", Backend::openssh(&server, &key))
        .start()?;
    let alice = proxy.account(
        "alice",
        &[Mount::all("/inbox", "peer", &stored.display().to_string())],
    )?;
    a_cut_upload_stays_invisible(&proxy, &alice, &stored)
}

fn own_like(path: &Path, model: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(model)?;
    std::os::unix::fs::chown(path, Some(metadata.uid()), Some(metadata.gid()))?;
    Ok(())
}
