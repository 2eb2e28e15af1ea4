//! Codes and passwords against the running daemon: spent for good, recovered once, and refused with the database.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::account::{Account, Mount};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::sessions::{body, text, wait_for_record};
use crate::wire::Connection;

fn gateway() -> Result<(Proxy, Account, TempDir)> {
    let stored = files::folder("stored")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("peer", Backend::local(stored.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", ".")])?;
    Ok((proxy, alice, stored))
}

/// True if password and code let the account in.
async fn logs_in(proxy: &Proxy, account: &Account, code: &str) -> Result<bool> {
    let mut connection = Connection::open(proxy.address).await?;
    let (success, _) = connection
        .keyboard_interactive(&account.name, &account.password, code)
        .await?;
    Ok(success)
}

fn steps_with_reason(records: &[Value], reason: &str) -> usize {
    let of_reason =
        |record: &&Value| text(record, "event") == "auth.step" && text(record, "reason") == reason;
    records.iter().filter(of_reason).count()
}

fn right_codes(records: &[Value]) -> usize {
    let right = |record: &&Value| {
        text(record, "event") == "auth.step"
            && body(record, "factor") == "totp"
            && text(record, "outcome") == "success"
    };
    records.iter().filter(right).count()
}

#[test]
fn a_code_is_spent_although_the_daemon_is_killed_at_the_moment_of_success() -> Result<()> {
    let (mut proxy, mut alice, _stored) = gateway()?;
    let runtime = Runtime::new()?;
    for round in 0..3 {
        let code = alice.phone.next_code()?;
        ensure!(runtime.block_on(logs_in(&proxy, &alice, &code))?);
        proxy.crash_and_restart()?;
        ensure!(
            !runtime.block_on(logs_in(&proxy, &alice, &code))?,
            "round {round}: the code was accepted twice"
        );
    }
    ensure!(steps_with_reason(&proxy.records()?, "code_replayed") == 3);
    Ok(())
}

#[test]
fn a_code_is_spent_although_the_daemon_is_killed_before_it_answers() -> Result<()> {
    let (mut proxy, mut alice, _stored) = gateway()?;
    let runtime = Runtime::new()?;
    for round in 0..3 {
        let code = alice.phone.next_code()?;
        let before = right_codes(&proxy.records()?);
        let (address, account, shown) = (proxy.address, alice.clone(), code.clone());
        let login = runtime.spawn(async move {
            let mut connection = Connection::open(address).await?;
            connection
                .keyboard_interactive(&account.name, &account.password, &shown)
                .await
        });
        // The step is on record before the client hears of it.
        wait_for("the record of the right code", || {
            (right_codes(&proxy.records().ok()?) > before).then_some(())
        })?;
        proxy.crash_and_restart()?;
        // The answer may have been on its way.
        let _ = runtime.block_on(login)?;
        ensure!(
            !runtime.block_on(logs_in(&proxy, &alice, &code))?,
            "round {round}: the code was accepted twice"
        );
    }
    Ok(())
}

#[test]
fn a_recovery_code_replaces_a_lost_authenticator_once_and_is_on_record() -> Result<()> {
    let (proxy, mut alice, _stored) = gateway()?;
    let runtime = Runtime::new()?;
    let issued = proxy.command(&["account", "issue-recovery-codes", "alice", "--json"])?;
    let codes: Vec<String> = serde_json::from_str(&issued)?;
    let code = codes.first().context("ten codes are issued")?;
    let one_time = alice.phone.next_code()?;
    ensure!(runtime.block_on(logs_in(&proxy, &alice, code))?);
    ensure!(!runtime.block_on(logs_in(&proxy, &alice, code))?);
    ensure!(!runtime.block_on(logs_in(&proxy, &alice, &one_time))?);
    let records = proxy.records()?;
    ensure!(steps_with_reason(&records, "recovery_code_replayed") == 1);
    ensure!(steps_with_reason(&records, "authenticator_lost") == 1);
    ensure!(
        records
            .iter()
            .any(|record| body(record, "alert") == "recovery_code_used")
    );
    wait_for_record(&proxy, "the note of the use", |record| {
        text(record, "event") == "admin.account" && body(record, "action") == "use-recovery-code"
    })?;
    Ok(())
}

#[test]
fn a_dearer_hash_takes_the_place_of_the_old_one_at_the_next_login() -> Result<()> {
    let (mut proxy, alice, _stored) = gateway()?;
    let config = fs::read_to_string(&proxy.config)?;
    let list = proxy.folder().join("known.txt");
    fs::write(&list, "known to everybody\n")?;
    let stricter = format!(
        "{config}\n[auth.password]\nmemory_mib = 24\npasses = 3\nword_list = \"{}\"\n",
        list.display()
    );
    let refused = proxy.reload(|_| stricter.clone())?;
    ensure!(text(&refused, "reason") == "needs_restart", "{refused}");
    proxy.crash_and_restart()?;
    for _ in 0..2 {
        let runtime = Runtime::new()?;
        runtime.block_on(crate::wire::log_in(proxy.address, &alice))?;
    }
    let upgrades = proxy
        .process
        .log()
        .matches("password hash upgraded")
        .count();
    ensure!(
        upgrades == 1,
        "{upgrades} upgrades: {}",
        proxy.process.log()
    );
    Ok(())
}

/// A file that can't be written, not even by root.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn mount(file: &'a Path) -> Result<Self> {
        succeed(Command::new("mount").arg("--bind").arg(file).arg(file))?;
        let mounted = Self(file);
        succeed(
            Command::new("mount")
                .args(["-o", "remount,ro,bind"])
                .arg(file),
        )?;
        Ok(mounted)
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_damaged_newer_or_read_only_database_keeps_the_daemon_from_starting_and_says_so() -> Result<()>
{
    let (mut proxy, alice, _stored) = gateway()?;
    let database: PathBuf = proxy.folder().join("accounts.db");
    proxy.process.terminate()?;
    // Whoever closes the database last moves its log into the file.
    proxy.command(&["account", "list"])?;
    let log = database.with_extension("db-wal");
    ensure!(!log.exists(), "{} is still there", log.display());
    let good = fs::read(&database)?;

    let mut newer = good.clone();
    // `user_version` of SQLite's file format, section 1.3.
    newer
        .get_mut(60..64)
        .context("a header")?
        .copy_from_slice(&99_u32.to_be_bytes());
    let damaged = vec![b'x'; good.len()];
    for (content, message) in [
        (&newer, "run the newer program"),
        (&damaged, "no SQLite database or damaged"),
    ] {
        fs::write(&database, content)?;
        let error = proxy.crash_and_restart().err().context("it started")?;
        ensure!(format!("{error:#}").contains(message), "{error:#}");
    }
    fs::write(&database, &good)?;
    let read_only = ReadOnly::mount(&database)?;
    let error = proxy.crash_and_restart().err().context("it started")?;
    ensure!(
        format!("{error:#}").contains("can't be written"),
        "{error:#}"
    );
    drop(read_only);

    proxy.crash_and_restart()?;
    let runtime = Runtime::new()?;
    runtime.block_on(crate::wire::log_in(proxy.address, &alice))?;
    Ok(())
}
