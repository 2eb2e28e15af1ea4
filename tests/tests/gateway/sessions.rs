//! What an SSH session may be used for, and when it ends.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;

use crate::wire;

fn gateway(settings: &[(&'static str, &str)]) -> Result<(Proxy, Account, TempDir)> {
    let storage = files::folder("storage")?;
    let mut plan = Plan::new(Place::Loopback)?.backend("archive", Backend::local(storage.path()));
    for (key, value) in settings {
        plan = plan.server(key, value);
    }
    let proxy = plan.start()?;
    let alice = proxy.account("alice", &[Mount::all("/archive", "archive", "/")])?;
    Ok((proxy, alice, storage))
}

pub(crate) fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(crate) fn body<'a>(record: &'a Value, field: &str) -> &'a str {
    record.get("body").map_or("", |body| text(body, field))
}

pub(crate) fn wait_for_record(
    proxy: &Proxy,
    what: &str,
    is_wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    wait_for(what, || {
        proxy
            .records()
            .ok()?
            .into_iter()
            .find(|record| is_wanted(record))
    })
}

pub(crate) fn wait_for_close(proxy: &Proxy, reason: &str) -> Result<Value> {
    wait_for_record(proxy, &format!("conn.close {reason}"), |record| {
        text(record, "event") == "conn.close" && text(record, "reason") == reason
    })
}

#[test]
fn everything_but_the_sftp_subsystem_is_refused_at_once_and_recorded() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway(&[])?;
    for (arguments, request) in [
        (&["id"][..], "exec"),
        (&["-T"], "shell"),
        (&["-tt"], "pty-req"),
        (&["-s", "netconf"], "subsystem"),
        (&["-o", "SetEnv=LC_TEST=x", "id"], "env"),
        (&["-W", "127.0.0.1:22"], "direct-tcpip"),
        (
            &[
                "-N",
                "-o",
                "ExitOnForwardFailure=yes",
                "-R",
                "0:127.0.0.1:22",
            ],
            "tcpip-forward",
        ),
    ] {
        let connection = OpensshConnection::new(&proxy, &mut alice, Factors::KeyThenPassword)?;
        let begun = Instant::now();
        let output = connection.ssh(Place::Loopback, arguments)?;
        ensure!(
            !output.status.success(),
            "{request}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        ensure!(begun.elapsed() < Duration::from_secs(20), "{request} hangs");
        wait_for_record(&proxy, request, |record| {
            text(record, "event") == "channel.refused"
                && text(record, "outcome") == "deny"
                && body(record, "request") == request
                && record
                    .get("user")
                    .is_some_and(|user| text(user, "name") == "alice")
        })?;
    }
    Ok(())
}

#[test]
fn users_log_in_with_rsa_and_ecdsa_keys_but_not_with_sha1_or_short_ones() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway(&[])?;
    let folder = files::folder("keys")?;
    let generate = |name: &str, arguments: &[&str]| -> Result<std::path::PathBuf> {
        let path = folder.path().join(name);
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-f"])
                .arg(&path)
                .args(arguments),
        )?;
        Ok(path)
    };
    let rsa = generate("rsa", &["-t", "rsa", "-b", "3072"])?;
    let ecdsa = generate("ecdsa", &["-t", "ecdsa", "-b", "384"])?;
    let short = generate("short", &["-t", "rsa", "-b", "1024"])?;
    let add = |key: &Path| {
        let public = key.with_extension("pub").display().to_string();
        proxy.command(&["account", "add-key", "alice", "--key-file", &public])
    };
    add(&rsa)?;
    add(&ecdsa)?;
    ensure!(add(&short).is_err(), "a key of 1024 bits was added");

    let mut logs_in = |key: &Path, option: &str| -> Result<bool> {
        alice.key = key.to_path_buf();
        let connection = OpensshConnection::new(&proxy, &mut alice, Factors::KeyThenPassword)?
            .option(option)
            .option("RequiredRSASize=1024");
        // The request is refused either way; how far it came tells whether the login worked.
        let output = connection.ssh(Place::Loopback, &["id"])?;
        Ok(String::from_utf8_lossy(&output.stderr).contains("exec request failed"))
    };
    ensure!(logs_in(&rsa, "LogLevel=INFO")?);
    ensure!(logs_in(&ecdsa, "LogLevel=INFO")?);
    ensure!(!logs_in(&rsa, "PubkeyAcceptedAlgorithms=ssh-rsa")?);
    ensure!(!logs_in(&short, "LogLevel=INFO")?);
    Ok(())
}

/// An SFTP session that sends nothing after its login but keepalives, each second.
pub(crate) fn idle_session(
    proxy: &Proxy,
    alice: &mut Account,
) -> Result<(Child, OpensshConnection)> {
    let connection = OpensshConnection::new(proxy, alice, Factors::KeyThenPassword)?
        .option("ServerAliveInterval=1");
    let child = connection.start_subsystem(Place::Loopback)?;
    Ok((child, connection))
}

pub(crate) fn ends_within(mut child: Child, patience: Duration) -> Result<String> {
    let deadline = Instant::now() + patience;
    let ended = wait_for("the client's end", || {
        (child.try_wait().ok()?.is_some() || Instant::now() > deadline).then_some(())
    });
    let is_running = child.try_wait()?.is_none();
    child.kill()?;
    child.wait()?;
    ended?;
    ensure!(!is_running, "the client still runs after {patience:?}");
    let mut printed = String::new();
    child
        .stderr
        .take()
        .context("the client's messages")?
        .read_to_string(&mut printed)?;
    Ok(printed)
}

#[test]
fn an_idle_session_is_logged_off_whatever_keepalives_it_sends() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway(&[("idle_timeout_seconds", "3")])?;
    let (child, _connection) = idle_session(&proxy, &mut alice)?;
    let printed = ends_within(child, Duration::from_secs(20))?;
    ensure!(printed.contains("Idle for too long"), "{printed}");
    wait_for_close(&proxy, "idle")?;
    Ok(())
}

#[test]
fn a_session_ends_at_its_limit() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway(&[("session_limit_seconds", "3")])?;
    let (child, _connection) = idle_session(&proxy, &mut alice)?;
    let printed = ends_within(child, Duration::from_secs(20))?;
    ensure!(printed.contains("Session limit reached"), "{printed}");
    wait_for_close(&proxy, "session_limit")?;
    Ok(())
}

#[test]
fn disabling_an_account_cuts_its_session_within_seconds() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway(&[])?;
    let (child, _connection) = idle_session(&proxy, &mut alice)?;
    wait_for_record(&proxy, "the login", |record| {
        text(record, "event") == "auth.result" && text(record, "outcome") == "success"
    })?;
    proxy.command(&["account", "disable", "alice"])?;
    let printed = ends_within(child, Duration::from_secs(5))?;
    ensure!(printed.contains("Account changed"), "{printed}");
    wait_for_close(&proxy, "revoked")?;
    Ok(())
}

#[test]
fn at_shutdown_idle_sessions_are_told_and_the_journal_has_an_end() -> Result<()> {
    let (mut proxy, mut alice, _storage) = gateway(&[])?;
    let (child, _connection) = idle_session(&proxy, &mut alice)?;
    wait_for_record(&proxy, "the login", |record| {
        text(record, "event") == "auth.result" && text(record, "outcome") == "success"
    })?;
    let status = proxy.process.terminate()?;
    ensure!(
        status.code() == Some(0),
        "{status}\n{}",
        proxy.process.log()
    );
    let printed = ends_within(child, Duration::from_secs(10))?;
    ensure!(printed.contains("shutting down"), "{printed}");
    let events: Vec<_> = proxy
        .records()?
        .iter()
        .map(|record| text(record, "event").to_owned())
        .collect();
    ensure!(
        events.ends_with(&["app.stop".to_owned(), "log.stop".to_owned()]),
        "{events:?}"
    );
    wait_for_close(&proxy, "shutdown")?;
    Ok(())
}

#[tokio::test]
async fn at_shutdown_an_open_upload_may_finish_although_it_is_quiet_and_an_idle_session_may_not()
-> Result<()> {
    let (mut proxy, alice, storage) = gateway(&[("shutdown_grace_seconds", "60")])?;
    let uploading = wire::log_in(proxy.address, &alice).await?;
    let mut upload = uploading.sftp().await?;
    let handle = upload.open(b"/archive/late", 0x1a).await?;
    ensure!(upload.write(&handle, 0, b"first ").await? == Some(0));
    let idle = wire::log_in(proxy.address, &alice).await?;
    let mut listing = idle.sftp().await?;
    listing.list(b"/archive").await?;
    let ending = std::thread::spawn(move || {
        let status = proxy.process.terminate();
        (proxy, status)
    });
    // The later of the two is cut: by then the earlier has been quiet for longer.
    while listing.next().await?.is_some() {}
    ensure!(upload.write(&handle, 6, b"second").await? == Some(0));
    ensure!(upload.close(&handle).await? == Some(0));
    ensure!(std::fs::read(storage.path().join("late"))? == b"first second");
    drop((upload, uploading));
    let (_proxy, status) = ending.join().ok().context("the proxy's end")?;
    ensure!(status?.code() == Some(0));
    Ok(())
}

#[test]
fn a_connection_is_on_record_with_its_algorithms_and_its_end() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway(&[])?;
    let connection = OpensshConnection::new(&proxy, &mut alice, Factors::KeyThenPassword)?
        .option("Ciphers=aes256-gcm@openssh.com")
        .option("KexAlgorithms=curve25519-sha256");
    let output = connection.sftp(Place::Loopback, "ls /archive\n", PATIENCE)?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let closed = wait_for_close(&proxy, "client")?;
    let opened = wait_for_record(&proxy, "conn.open", |record| {
        text(record, "event") == "conn.open" && record.get("session_id") == closed.get("session_id")
    })?;
    assert!(body(&opened, "client_version").starts_with("SSH-2.0-OpenSSH"));
    assert_eq!(body(&opened, "kex"), "curve25519-sha256");
    assert_eq!(body(&opened, "hostkey"), "ssh-ed25519");
    assert_eq!(body(&opened, "cipher"), "aes256-gcm@openssh.com");
    let field =
        |record: &Value, name: &str| record.get("body").and_then(|body| body.get(name)).cloned();
    assert_eq!(field(&opened, "mac"), Some(Value::Null));
    assert_eq!(field(&opened, "pq"), Some(Value::Bool(false)));
    assert_eq!(field(&opened, "strict_kex"), Some(Value::Bool(true)));
    for counter in ["bytes_in", "bytes_out", "duration_ms"] {
        let value = field(&closed, counter).and_then(|value| value.as_u64());
        assert!(value.is_some_and(|value| value > 0), "{counter}: {value:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_has_at_most_ten_channels() -> Result<()> {
    let (proxy, alice, _storage) = gateway(&[])?;
    let connection = wire::log_in(proxy.address, &alice).await?;
    let mut channels = Vec::new();
    for _ in 0..10 {
        channels.push(connection.sftp().await?);
    }
    assert!(connection.channel().await.is_err());
    drop(channels.pop());
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_nobody_vouched_for_is_no_factor() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway(&[])?;
    let folder = files::folder("certificate")?;
    let authority = files::ssh_key(folder.path(), "authority")?;
    succeed(
        Command::new("ssh-keygen")
            .args(["-q", "-s"])
            .arg(&authority)
            .args(["-I", "forged", "-n", "alice"])
            .arg(alice.key.with_extension("pub")),
    )?;
    let certificate = alice.key.with_file_name(format!(
        "{}-cert.pub",
        alice.key.file_name().context("a name")?.to_string_lossy()
    ));
    ensure!(certificate.is_file());
    let connection = OpensshConnection::new(&proxy, &mut alice, Factors::KeyThenPassword)?
        .option("PubkeyAcceptedAlgorithms=ssh-ed25519-cert-v01@openssh.com");
    let output = connection.ssh(Place::Loopback, &["id"])?;
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(printed.contains("Permission denied"), "{printed}");
    Ok(())
}
