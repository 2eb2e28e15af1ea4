//! SIGHUP: the configuration is read again, and who is at work keeps what it works with.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy, UNENCRYPTED};
use serde_json::Value;
use tempfile::TempDir;

use crate::sessions::{body, ends_within, idle_session, text, wait_for_close, wait_for_record};
use crate::wire::{self, open, status};

/// A gateway with the backends `archive` and `other`, and Alice on both.
struct World {
    proxy: Proxy,
    alice: Account,
    archive: TempDir,
    _other: TempDir,
}

fn world() -> Result<World> {
    let (archive, other) = (files::folder("archive")?, files::folder("other")?);
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(archive.path()))
        .backend("other", Backend::local(other.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/archive", "archive", "/")])?;
    Ok(World {
        proxy,
        alice,
        archive,
        _other: other,
    })
}

/// Another deadline for the backend: the section is not what it was.
fn with_other_archive(text: &str) -> String {
    text.replacen(
        "[backends.archive]\n",
        "[backends.archive]\ntimeout_seconds = 31\n",
        1,
    )
}

fn with_server_key(line: &str) -> impl FnOnce(&str) -> String {
    let line = format!("[server]\n{line}\n");
    move |text| text.replacen("[server]\n", &line, 1)
}

fn ensure_applied(record: &Value) -> Result<()> {
    ensure!(text(record, "outcome") == "success", "{record}");
    Ok(())
}

/// Whether a new session gets as far as a listing, and what sftp printed.
fn lists(proxy: &Proxy, account: &mut Account, folder: &str) -> Result<(bool, String)> {
    let connection = OpensshConnection::new(proxy, account, Factors::KeyThenPassword)?;
    let output = connection.sftp(Place::Loopback, &format!("ls -1 {folder}\n"), PATIENCE)?;
    let printed = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    ))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 / 7 % 251) as u8).collect()
}

/// Starts the batch in a thread of its own.
fn in_background(
    connection: OpensshConnection,
    batch: String,
) -> std::thread::JoinHandle<Result<std::process::Output>> {
    std::thread::spawn(move || connection.sftp(Place::Loopback, &batch, 4 * PATIENCE))
}

fn ensure_well(name: &str, output: Result<std::process::Output>) -> Result<()> {
    let output = output?;
    ensure!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn wait_for_operation(proxy: &Proxy, name: &str) -> Result<Value> {
    wait_for_record(proxy, name, |record| {
        text(record, "event") == "op.intent" && body(record, "sftp_op") == name
    })
}

#[test]
fn a_download_and_an_upload_that_a_reload_meets_are_byte_identical() -> Result<()> {
    let mut world = world()?;
    let here = files::folder("partner")?;
    let content = pattern(6 << 20);
    fs::write(world.archive.path().join("big"), &content)?;
    let (up, down) = (here.path().join("up"), here.path().join("down"));
    fs::write(&up, &content)?;
    // Slow enough for the reload to come in the middle.
    world.proxy.command(&[
        "account",
        "mount",
        "alice",
        "/slow",
        "--backend",
        "archive",
        "--directory",
        "/",
        "--permissions",
        "list,read,write",
        "--read-rate",
        "1M",
        "--write-rate",
        "1M",
    ])?;
    let mut start = |batch: String| -> Result<_> {
        let connection =
            OpensshConnection::new(&world.proxy, &mut world.alice, Factors::KeyThenPassword)?;
        Ok(in_background(connection, batch))
    };
    let upload = start(format!("put {} /slow/up\n", up.display()))?;
    let download = start(format!("get /slow/big {}\n", down.display()))?;
    wait_for_operation(&world.proxy, "write")?;
    wait_for_operation(&world.proxy, "read")?;

    let record = world.proxy.reload(with_other_archive)?;
    ensure_applied(&record)?;
    ensure!(
        !upload.is_finished() && !download.is_finished(),
        "too fast to be met by the reload"
    );
    let (well, printed) = lists(&world.proxy, &mut world.alice, "/archive")?;
    ensure!(well, "a new session during the drain: {printed}");

    ensure_well("put", upload.join().ok().context("the upload")?)?;
    ensure_well("get", download.join().ok().context("the download")?)?;
    ensure!(fs::read(&down)? == content);
    ensure!(fs::read(world.archive.path().join("up"))? == content);
    Ok(())
}

#[tokio::test]
async fn a_session_on_a_changed_backend_ends_after_its_upload_and_one_on_another_goes_on()
-> Result<()> {
    let world = world()?;
    let World { proxy, alice, .. } = &world;
    let bob = proxy.account("bob", &[Mount::all("/other", "other", "/")])?;
    let uploading = wire::log_in(proxy.address, alice).await?;
    let mut upload = uploading.sftp().await?;
    let handle = upload.open(b"/archive/late", open::UPLOAD).await?;
    ensure!(upload.write(&handle, 0, b"first ").await? == Some(status::OK));
    let idle = wire::log_in(proxy.address, alice).await?;
    let mut idle_sftp = idle.sftp().await?;
    idle_sftp.list(b"/archive").await?;
    let elsewhere = wire::log_in(proxy.address, &bob).await?;
    let mut listing = elsewhere.sftp().await?;
    listing.list(b"/other").await?;

    let record = proxy.reload(with_other_archive)?;
    ensure_applied(&record)?;
    ensure!(
        record["body"]["changed"] == serde_json::json!(["backends.archive"]),
        "{record}"
    );
    // By the time the idle one is ended, the other two have been quiet for longer than it.
    while idle_sftp.next().await?.is_some() {}
    let closed = wait_for_close(proxy, "reload")?;
    ensure!(body(&closed, "changed") == "backends.archive", "{closed}");

    ensure!(upload.write(&handle, 6, b"second").await? == Some(status::OK));
    ensure!(upload.close(&handle).await? == Some(status::OK));
    ensure!(fs::read(world.archive.path().join("late"))? == b"first second");
    while upload.next().await?.is_some() {}
    let closes = || -> Result<usize> {
        let records = proxy.records()?;
        let closes = records
            .iter()
            .filter(|record| text(record, "event") == "conn.close");
        Ok(closes.count())
    };
    wait_for("the end of two sessions", || {
        (closes().ok()? >= 2).then_some(())
    })?;
    listing.list(b"/other").await?;
    ensure!(closes()? == 2, "the session on the other backend ended too");
    Ok(())
}

#[tokio::test]
async fn an_upload_under_way_and_one_of_the_same_name_after_the_reload_do_not_meet() -> Result<()> {
    let world = world()?;
    let World { proxy, alice, .. } = &world;
    let connection = wire::log_in(proxy.address, alice).await?;
    let mut early = connection.sftp().await?;
    let handle = early.open(b"/archive/same", open::UPLOAD).await?;
    ensure!(early.write(&handle, 0, b"begun ").await? == Some(status::OK));
    ensure_applied(&proxy.reload(with_other_archive)?)?;

    let other_connection = wire::log_in(proxy.address, alice).await?;
    let mut late = other_connection.sftp().await?;
    late.put(b"/archive/same", b"whole").await?;
    let published = world.archive.path().join("same");
    ensure!(fs::read(&published)? == b"whole");

    ensure!(early.write(&handle, 6, b"before").await? == Some(status::OK));
    ensure!(early.close(&handle).await? == Some(status::OK));
    ensure!(fs::read(&published)? == b"begun before");
    Ok(())
}

#[tokio::test]
async fn a_transfer_is_cut_when_its_grace_ends_and_not_before() -> Result<()> {
    let world = world()?;
    let World { proxy, alice, .. } = &world;
    let connection = wire::log_in(proxy.address, alice).await?;
    let mut upload = connection.sftp().await?;
    let handle = upload.open(b"/archive/held", open::UPLOAD).await?;
    ensure!(upload.write(&handle, 0, b"half").await? == Some(status::OK));
    let begun = std::time::Instant::now();
    let record = proxy
        .reload(|text| with_server_key("reload_grace_seconds = 4")(&with_other_archive(text)))?;
    ensure_applied(&record)?;
    while upload.next().await?.is_some() {}
    let lasted = begun.elapsed();
    ensure!(lasted >= Duration::from_secs(4), "cut after {lasted:?}");
    wait_for_close(proxy, "reload")?;
    ensure!(!world.archive.path().join("held").exists());
    Ok(())
}

#[tokio::test]
async fn an_account_that_is_disabled_does_not_have_the_grace() -> Result<()> {
    let world = world()?;
    let World { proxy, alice, .. } = &world;
    let connection = wire::log_in(proxy.address, alice).await?;
    let mut upload = connection.sftp().await?;
    upload.open(b"/archive/held", open::UPLOAD).await?;
    ensure_applied(&proxy.reload(with_other_archive)?)?;
    proxy.command(&["account", "disable", "alice"])?;
    wait_for_close(proxy, "revoked")?;
    Ok(())
}

#[tokio::test]
async fn a_new_backend_and_mount_are_there_for_a_new_session_and_not_for_an_old_one() -> Result<()>
{
    let mut world = world()?;
    let third = files::folder("third")?;
    let connection = wire::log_in(world.proxy.address, &world.alice).await?;
    let mut old = connection.sftp().await?;
    ensure!(old.list(b"/").await?.len() == 1);
    let record = world.proxy.reload(|text| {
        format!(
            "{text}\n[backends.third]\nkind = \"local\"\ndirectory = \"{}\"\n{UNENCRYPTED}",
            third.path().display()
        )
    })?;
    ensure_applied(&record)?;
    ensure!(body(&record, "config_sha256") != body(&record, "previous_config_sha256"));
    world.proxy.command(&[
        "account",
        "mount",
        "alice",
        "/third",
        "--backend",
        "third",
        "--directory",
        "/",
        "--permissions",
        "list,read",
    ])?;
    fs::write(third.path().join("report"), "new")?;
    let (well, printed) = lists(&world.proxy, &mut world.alice, "/third")?;
    ensure!(well && printed.contains("report"), "{printed}");
    ensure!(old.list(b"/").await? == [b"archive".to_vec()]);
    Ok(())
}

#[test]
fn a_file_with_faults_is_refused_whole_and_the_service_goes_on() -> Result<()> {
    let mut world = world()?;
    let good = fs::read_to_string(&world.proxy.config)?;
    let started = wait_for_record(&world.proxy, "the start", |record| {
        text(record, "event") == "app.start"
    })?;
    let in_force = body(&started, "config_sha256").to_owned();

    // One good change beside the fault: it must not come into force.
    let scp = with_server_key("scp = \"refuse\"");
    let record = world
        .proxy
        .reload(|text| format!("{}\n[backends.bad]\nkind = \"tape\"\n", scp(text)))?;
    ensure!(text(&record, "outcome") == "failure", "{record}");
    ensure!(text(&record, "reason") == "faulty", "{record}");
    ensure!(body(&record, "config_sha256") == in_force, "{record}");
    ensure!(
        record["body"]["faults"]
            .to_string()
            .contains("backends.bad.kind: expected"),
        "{record}"
    );
    ensure!(world.proxy.process.log().contains("backends.bad.kind"));

    let record = world.proxy.reload(|_| "not toml [".to_owned())?;
    ensure!(text(&record, "reason") == "faulty", "{record}");

    let moved = good.replacen(
        "[server]\nlisten = [\"127.0.0.1:",
        "[server]\nlisten = [\"127.0.0.2:",
        1,
    );
    ensure!(moved != good);
    let record = world
        .proxy
        .reload(|_| with_server_key("scp = \"refuse\"")(&moved))?;
    ensure!(text(&record, "reason") == "needs_restart", "{record}");
    ensure!(
        record["body"]["faults"]
            .to_string()
            .contains("server.listen"),
        "{record}"
    );

    let here = files::folder("partner")?;
    let local = here.path().join("x");
    fs::write(&local, "x")?;
    let mut scp = |name: &str| -> Result<bool> {
        let connection =
            OpensshConnection::new(&world.proxy, &mut world.alice, Factors::KeyThenPassword)?;
        let target = format!("HOST:/archive/{name}");
        let arguments = [local.display().to_string(), target];
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Ok(connection
            .scp(Place::Loopback, &arguments, PATIENCE)?
            .status
            .success())
    };
    ensure!(scp("before")?, "what was in force is not any more");
    let record = world
        .proxy
        .reload(|_| with_server_key("scp = \"refuse\"")(&good))?;
    ensure_applied(&record)?;
    ensure!(
        body(&record, "previous_config_sha256") == in_force,
        "{record}"
    );
    ensure!(!scp("after")?, "the good file is not in force");

    let ended = world.proxy.process.terminate()?;
    ensure!(ended.code() == Some(0), "{ended}");
    Ok(())
}

#[test]
fn timers_hold_for_live_sessions_at_once() -> Result<()> {
    let mut world = world()?;
    let (child, _connection) = idle_session(&world.proxy, &mut world.alice)?;
    wait_for_login(&world.proxy)?;
    let record = world
        .proxy
        .reload(with_server_key("idle_timeout_seconds = 3"))?;
    ensure_applied(&record)?;
    let printed = ends_within(child, Duration::from_secs(20))?;
    ensure!(printed.contains("Idle for too long"), "{printed}");
    Ok(())
}

#[test]
fn a_session_with_a_cipher_that_was_taken_away_ends_and_one_with_another_goes_on() -> Result<()> {
    let mut world = world()?;
    let mut start = |cipher: &str| -> Result<_> {
        let connection =
            OpensshConnection::new(&world.proxy, &mut world.alice, Factors::KeyThenPassword)?
                .option(&format!("Ciphers={cipher}"));
        Ok((connection.start_subsystem(Place::Loopback)?, connection))
    };
    let (mut stays, _connection) = start("aes256-gcm@openssh.com")?;
    let (ends, _other_connection) = start("aes256-ctr")?;
    wait_for("both logins", || {
        (logins(&world.proxy).ok()? == 2).then_some(())
    })?;
    let record = world.proxy.reload(|text| {
        text.replacen(
            "\n[accounts]\n",
            "\n[server.algorithms]\nciphers = [\"aes256-gcm@openssh.com\"]\n\n[accounts]\n",
            1,
        )
    })?;
    ensure_applied(&record)?;
    let printed = ends_within(ends, Duration::from_secs(20))?;
    ensure!(printed.contains("Configuration changed"), "{printed}");
    let closed = wait_for_close(&world.proxy, "reload")?;
    ensure!(body(&closed, "changed") == "server.algorithms", "{closed}");
    ensure!(stays.try_wait()?.is_none(), "the other session ended too");
    stays.kill()?;
    stays.wait()?;
    Ok(())
}

#[test]
fn another_password_file_under_the_same_name_is_a_change() -> Result<()> {
    let archive = files::folder("archive")?;
    let secrets = files::folder("secrets")?;
    let password = secrets.path().join("password");
    files::secret(&password, "one")?;
    let legacy = format!(
        "kind = \"ftp\"\naddress = \"127.0.0.1:9\"\nuser = \"gateway\"\npassword_file = \"{}\"\ntls = \"explicit\"\n",
        password.display()
    );
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(archive.path()))
        .backend("legacy", Backend::custom(&legacy))
        .start()?;
    let unchanged = proxy.reload(str::to_owned)?;
    ensure!(
        unchanged["body"]["changed"] == serde_json::json!([]),
        "{unchanged}"
    );
    files::secret(&password, "two")?;
    let changed = proxy.reload(str::to_owned)?;
    ensure!(
        changed["body"]["changed"] == serde_json::json!(["backends.legacy"]),
        "{changed}"
    );
    ensure!(!changed.to_string().contains("two"));
    Ok(())
}

fn logins(proxy: &Proxy) -> Result<usize> {
    Ok(proxy
        .records()?
        .iter()
        .filter(|record| {
            text(record, "event") == "auth.result" && text(record, "outcome") == "success"
        })
        .count())
}

fn wait_for_login(proxy: &Proxy) -> Result<()> {
    wait_for("the login", || (logins(proxy).ok()? > 0).then_some(()))
}
