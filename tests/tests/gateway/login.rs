//! Logins of clients that can do little, and requests that no good client sends.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use portcullis_tests::account::{Account, Mount};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, finish_within};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::sessions::{body, text, wait_for_record};
use crate::wire::Connection;

const PARAMIKO: &str = include_str!("paramiko.py");

fn gateway(server: &[(&'static str, &str)]) -> Result<(Proxy, TempDir)> {
    let storage = files::folder("storage")?;
    let plan = Plan::new(Place::Loopback)?.backend("disk", Backend::local(storage.path()));
    let plan = server
        .iter()
        .fold(plan, |plan, (key, value)| plan.server(key, value));
    Ok((plan.start()?, storage))
}

fn account(proxy: &Proxy, name: &str) -> Result<Account> {
    proxy.account(name, &[Mount::all("/inbox", "disk", "/")])
}

/// What paramiko, as it comes, prints of one way to log in.
fn paramiko(proxy: &Proxy, account: &Account, code: &str, flow: &str) -> Result<String> {
    let orders = json!({
        "host": proxy.address.ip().to_string(),
        "port": proxy.address.port(),
        "user": account.name,
        "password": account.password,
        "key": account.key.display().to_string(),
        "code": code,
        "database": proxy.folder().join("accounts.db").display().to_string(),
        "flow": flow,
    });
    let scratch = files::folder("orders")?;
    let input = scratch.path().join("orders.json");
    fs::write(&input, orders.to_string())?;
    let output = finish_within(
        Command::new(locate::python_tool("python")?)
            .args(["-c", PARAMIKO])
            .stdin(Stdio::from(File::open(&input)?)),
        4 * PATIENCE,
    )?;
    ensure!(
        output.status.success(),
        "{flow}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn login_record(proxy: &Proxy, policy: &str) -> Result<Value> {
    wait_for_record(proxy, policy, |record| {
        text(record, "event") == "auth.result" && body(record, "policy") == policy
    })
}

#[test]
fn plain_paramiko_logs_in_with_a_code_behind_the_password_and_with_both_prompts_at_once()
-> Result<()> {
    let (proxy, _storage) = gateway(&[])?;
    let mut alice = account(&proxy, "alice")?;
    proxy.command(&["account", "appended-code", "alice", "on"])?;
    let code = alice.phone.next_code()?;
    let printed = paramiko(&proxy, &alice, &code, "password_with_code")?;
    ensure!(printed.contains("inbox"), "{printed}");

    let mut bob = account(&proxy, "bob")?;
    proxy.command(&["account", "prompts", "bob", "one-round"])?;
    let code = bob.phone.next_code()?;
    let printed = paramiko(&proxy, &bob, &code, "both_prompts_at_once")?;
    ensure!(
        printed.starts_with("[['Password: ', 'One-time password: ']]") && printed.contains("inbox"),
        "{printed}"
    );
    Ok(())
}

#[test]
fn plain_paramiko_logs_in_with_its_key_alone_while_the_window_is_open() -> Result<()> {
    let (proxy, _storage) = gateway(&[])?;
    let alice = account(&proxy, "alice")?;
    proxy.command(&["account", "mfa-window", "alice", "15m"])?;
    let printed = paramiko(&proxy, &alice, "", "wrong_password_after_key")?;
    ensure!(printed.trim() == "in", "{printed}");
    let opened = login_record(&proxy, "two-class")?;
    ensure!(
        !body(&opened, "opens_mfa_window_until").is_empty(),
        "{opened}"
    );

    let printed = paramiko(&proxy, &alice, "", "key_alone")?;
    ensure!(printed.contains("inbox"), "{printed}");
    let continued = login_record(&proxy, "mfa-window")?;
    let began = body(&continued, "mfa_window");
    ensure!(!began.is_empty(), "{continued}");
    let session = continued.get("session_id");
    wait_for_record(&proxy, "the end of the session", |record| {
        text(record, "event") == "conn.close" && record.get("session_id") == session
    })?;
    let records = proxy.records()?;
    let of_session = |record: &&Value| record.get("session_id") == session;
    let after_login = records
        .iter()
        .filter(of_session)
        .skip_while(|record| text(record, "event") != "auth.result");
    let mut seen = 0;
    for record in after_login {
        ensure!(body(record, "mfa_window") == began, "{record}");
        seen += 1;
    }
    ensure!(seen >= 4, "only {seen} records");
    Ok(())
}

#[test]
fn a_wrong_password_after_a_key_takes_away_neither_the_method_nor_the_key() -> Result<()> {
    let (proxy, _storage) = gateway(&[])?;
    let alice = account(&proxy, "alice")?;
    let printed = paramiko(&proxy, &alice, "", "wrong_password_after_key")?;
    ensure!(printed.trim() == "in", "{printed}");
    Ok(())
}

#[test]
fn with_a_single_verdict_nothing_is_told_before_all_is_answered() -> Result<()> {
    let (proxy, _storage) = gateway(&[])?;
    let alice = account(&proxy, "alice")?;
    let reloaded = proxy.reload(|text| format!("{text}\n[auth]\nverdict = \"single\"\n"))?;
    ensure!(text(&reloaded, "outcome") == "success", "{reloaded}");
    Runtime::new()?.block_on(async {
        let wrong_code = alice.phone.wrong_code();
        for (code, is_in) in [(wrong_code.as_str(), false), ("", true)] {
            let mut connection = Connection::open(proxy.address).await?;
            let told = connection.password(&alice.name, &alice.password).await?;
            ensure!(told == (false, false), "a right password alone: {told:?}");
            let told = connection.key(&alice.name, &alice.key).await?;
            ensure!(told == (false, false), "a right key alone: {told:?}");
            let told = connection
                .keyboard_interactive(&alice.name, &alice.password, code)
                .await?;
            ensure!(told == (is_in, false), "code {code:?}: {told:?}");
        }
        Ok(())
    })
}

#[test]
fn a_request_for_another_service_ends_the_connection_with_what_was_shown() -> Result<()> {
    let (proxy, _storage) = gateway(&[])?;
    let alice = account(&proxy, "alice")?;
    let printed = paramiko(&proxy, &alice, "", "another_service_after_key")?;
    ensure!(printed.trim() == "closed", "{printed}");
    let ended = wait_for_record(&proxy, "the end", |record| {
        text(record, "event") == "auth.result"
    })?;
    ensure!(text(&ended, "outcome") == "failure", "{ended}");
    Ok(())
}

#[test]
fn a_check_that_can_not_end_does_not_outlast_the_login_grace() -> Result<()> {
    let (proxy, _storage) = gateway(&[("login_grace_seconds", "5")])?;
    let alice = account(&proxy, "alice")?;
    let printed = paramiko(&proxy, &alice, "", "password_while_locked")?;
    ensure!(printed.starts_with("cut after"), "{printed}");
    wait_for_record(&proxy, "the cut", |record| {
        text(record, "event") == "conn.close" && text(record, "reason") == "login_grace"
    })?;
    Ok(())
}
