//! What an account and a mount have of their own: limits over all sessions, extensions, and whether uploads resume.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use tempfile::TempDir;

use crate::sessions::{ends_within, idle_session, text, wait_for_close, wait_for_record};
use crate::wire::{self, open, status};

fn gateway() -> Result<(Proxy, Account, TempDir)> {
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/archive", "archive", "/")])?;
    Ok((proxy, alice, storage))
}

/// Whether the batch went well, and what sftp printed.
fn sftp(proxy: &Proxy, account: &mut Account, batch: &str) -> Result<(bool, String)> {
    let connection = OpensshConnection::new(proxy, account, Factors::KeyThenPassword)?;
    let output = connection.sftp(Place::Loopback, batch, 4 * PATIENCE)?;
    let printed = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    ))
}

fn wait_for_login(proxy: &Proxy) -> Result<()> {
    wait_for_record(proxy, "the login", |record| {
        text(record, "event") == "auth.result" && text(record, "outcome") == "success"
    })?;
    Ok(())
}

#[test]
fn an_account_has_so_many_sessions_at_a_time_and_the_next_one_is_told_and_recorded() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway()?;
    let mut bob = proxy.account("bob", &[Mount::all("/archive", "archive", "/")])?;
    proxy.command(&["account", "limit", "alice", "--sessions", "1"])?;
    let (mut first, _connection) = idle_session(&proxy, &mut alice)?;
    wait_for_login(&proxy)?;
    let (well, printed) = sftp(&proxy, &mut alice, "ls /archive\n")?;
    ensure!(!well, "a second session: {printed}");
    ensure!(
        printed.contains("Too many sessions of this account"),
        "{printed}"
    );
    let closed = wait_for_close(&proxy, "too_many_sessions")?;
    ensure!(
        closed
            .get("user")
            .is_some_and(|user| text(user, "name") == "alice"),
        "{closed}"
    );
    let (well, printed) = sftp(&proxy, &mut bob, "ls /archive\n")?;
    ensure!(well, "another account: {printed}");
    first.kill()?;
    first.wait()?;
    wait_for("a session in the place of the first", || {
        sftp(&proxy, &mut alice, "ls /archive\n")
            .ok()?
            .0
            .then_some(())
    })
}

#[test]
fn a_narrower_limit_ends_live_sessions_and_a_wider_one_does_not() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway()?;
    proxy.command(&["account", "limit", "alice", "--read-rate", "1M"])?;
    let (mut session, _connection) = idle_session(&proxy, &mut alice)?;
    wait_for_login(&proxy)?;
    proxy.command(&["account", "limit", "alice", "--read-rate", "2M"])?;
    // Once its record is there, sessions have been looked at.
    wait_for_record(&proxy, "the wider limit", |record| {
        text(record, "event") == "admin.account" && record["body"]["read_rate"] == 2 << 20
    })?;
    ensure!(session.try_wait()?.is_none(), "the session ended");
    proxy.command(&["account", "limit", "alice", "--sessions", "5"])?;
    let printed = ends_within(session, Duration::from_secs(10))?;
    ensure!(printed.contains("Account changed"), "{printed}");
    wait_for_close(&proxy, "revoked")?;
    Ok(())
}

#[test]
fn the_rate_of_an_account_holds_over_its_mounts_and_sessions() -> Result<()> {
    let (proxy, mut alice, storage) = gateway()?;
    proxy.command(&["account", "limit", "alice", "--write-rate", "1M"])?;
    let here = files::folder("partner")?;
    let local = here.path().join("x");
    fs::write(&local, vec![3; 2 << 20])?;
    let begun = Instant::now();
    let uploads: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let connection = OpensshConnection::new(&proxy, &mut alice, Factors::KeyThenPassword)?;
            let batch = format!("put {} /archive/{name}\n", local.display());
            Ok(std::thread::spawn(move || {
                connection.sftp(Place::Loopback, &batch, 4 * PATIENCE)
            }))
        })
        .collect::<Result<_>>()?;
    for upload in uploads {
        let Ok(output) = upload.join() else {
            anyhow::bail!("an upload panicked");
        };
        let output = output?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // Four seconds' worth, of which the first passes at once.
    ensure!(
        begun.elapsed() >= Duration::from_millis(2_700),
        "{:?}",
        begun.elapsed()
    );
    for name in ["a", "b"] {
        ensure!(fs::read(storage.path().join(name))? == fs::read(&local)?);
    }
    Ok(())
}

fn left_behind(folder: &Path) -> Result<usize> {
    Ok(fs::read_dir(folder)?
        .filter_map(Result::ok)
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(".portcullis-")
        })
        .count())
}

// The connection that is dropped is closed by a task beside the one that waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_mount_that_does_not_resume_keeps_nothing_of_an_interrupted_upload_and_another_does()
-> Result<()> {
    let (proxy, alice, storage) = gateway()?;
    for (at, resume) in [("/keeps", "true"), ("/drops", "false")] {
        fs::create_dir(storage.path().join(&at[1..]))?;
        proxy.command(&[
            "account",
            "mount",
            "alice",
            at,
            "--backend",
            "archive",
            "--directory",
            at,
            "--permissions",
            "list,read,write",
            "--resume",
            resume,
        ])?;
    }
    let connection = wire::log_in(proxy.address, &alice).await?;
    let mut sftp = connection.sftp().await?;
    for path in [&b"/keeps/x"[..], b"/drops/x"] {
        let handle = sftp.open(path, open::UPLOAD).await?;
        ensure!(sftp.write(&handle, 0, b"half").await? == Some(status::OK));
    }
    drop((sftp, connection));
    wait_for_record(&proxy, "the end", |record| {
        text(record, "event") == "conn.close"
    })?;
    ensure!(left_behind(&storage.path().join("keeps"))? == 1);
    ensure!(left_behind(&storage.path().join("drops"))? == 0);
    Ok(())
}
