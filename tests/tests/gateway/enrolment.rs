//! A user enrols an authenticator with an unmodified SSH client and a token, and can do nothing else with it.

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{Client, OpensshConnection};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::PATIENCE;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::totp::Authenticator;
use serde_json::Value;
use tempfile::TempDir;

use crate::sessions::{body, text, wait_for_close, wait_for_record};

fn gateway() -> Result<(Proxy, Account, TempDir)> {
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/archive", "archive", "/")])?;
    Ok((proxy, alice, storage))
}

fn token(proxy: &Proxy) -> Result<String> {
    let issued = proxy.command(&["account", "issue-token", "alice", "--json"])?;
    let issued: Value = serde_json::from_str(&issued)?;
    Ok(text(&issued, "token").to_owned())
}

/// Password, then the token where a code is asked for.
fn with_token(proxy: &Proxy, alice: &Account, token: &str) -> Result<OpensshConnection> {
    let factors = Factors::PasswordThenCode;
    OpensshConnection::with_answers(proxy, alice, factors, &alice.password, token)
}

fn list(proxy: &Proxy, account: &mut Account) -> Result<bool> {
    let connection = OpensshConnection::new(proxy, account, Factors::PasswordThenCode)?;
    let output = connection.sftp(Place::Loopback, "ls /archive\n", PATIENCE)?;
    Ok(output.status.success())
}

#[test]
fn a_user_enrols_over_ssh_and_the_new_device_takes_the_place_of_the_old_one() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway()?;
    let token = token(&proxy)?;
    // It has the program that answers.
    let connection = with_token(&proxy, &alice, &token)?;
    let mut terminal = connection.start_terminal(Place::Loopback)?;
    let shown = terminal.wait_for("Code that the app shows: ")?;
    ensure!(
        shown.contains('\u{2580}') && shown.contains('\u{2588}'),
        "{shown}"
    );
    ensure!(shown.contains("otpauth://totp/"), "{shown}");
    let secret = shown
        .split_once("secret: ")
        .and_then(|(_, rest)| rest.lines().next())
        .context("the secret is shown")?;
    let mut phone = Authenticator::new(secret.trim())?;
    terminal.type_line(&phone.wrong_code())?;
    terminal.wait_for("not a code of this authenticator")?;
    phone.wait_for_time();
    let first = phone.next_code()?;
    terminal.type_line(&first)?;
    terminal.wait_for("Next code")?;
    terminal.type_line(&first)?;
    terminal.wait_for("same code again")?;
    terminal.type_line(&phone.next_code()?)?;
    let shown = terminal.wait_for("The authenticator is active")?;
    ensure!(!shown.contains(&first), "a code is echoed: {shown}");
    ensure!(terminal.finish()?.success(), "ssh ended with an error");
    wait_for_close(&proxy, "enrolled")?;

    ensure!(!list(&proxy, &mut alice)?, "the old device still logs in");
    alice.phone = phone;
    ensure!(list(&proxy, &mut alice)?, "the new device does not log in");
    let result = wait_for_record(&proxy, "auth.result of the enrolment", |record| {
        text(record, "event") == "auth.result" && text(record, "reason") == "enrolment"
    })?;
    ensure!(result["body"]["is_mfa"] == false, "{result}");
    wait_for_record(&proxy, "the change of the account", |record| {
        text(record, "event") == "admin.account" && body(record, "action") == "enroll-totp"
    })?;
    let all = proxy
        .records()?
        .iter()
        .map(Value::to_string)
        .collect::<String>();
    ensure!(
        !all.contains(secret.trim()) && !all.contains(&token),
        "a secret is on record"
    );
    Ok(())
}

#[test]
fn a_key_comes_before_the_token_and_an_enrolment_given_up_leaves_the_old_device() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway()?;
    let token = token(&proxy)?;
    let key = Factors::KeyThenPassword;
    // The token answers the prompt for the password.
    let connection = OpensshConnection::with_answers(&proxy, &alice, key, &token, "")?;
    let terminal = connection.start_terminal(Place::Loopback)?;
    terminal.wait_for("secret: ")?;
    terminal.close()?;
    wait_for_record(&proxy, "the end of the enrolment", |record| {
        text(record, "reason") == "abandoned"
    })?;
    let again = connection.ssh(Place::Loopback, &["-tt"])?;
    ensure!(!again.status.success(), "the token counts twice");
    ensure!(!String::from_utf8_lossy(&again.stdout).contains("secret"));
    ensure!(list(&proxy, &mut alice)?, "the old device does not log in");
    Ok(())
}

#[test]
fn an_enrolment_reaches_no_sftp_no_command_no_shell_without_a_terminal_and_no_forward() -> Result<()>
{
    let (proxy, mut alice, _storage) = gateway()?;
    for (arguments, request) in [
        (&["-s", "sftp"][..], "subsystem"),
        (&["-T"], "shell"),
        (&["-tt", "scp -t /archive"], "exec"),
        (&["-W", "127.0.0.1:22"], "direct-tcpip"),
    ] {
        let connection = with_token(&proxy, &alice, &token(&proxy)?)?;
        let output = if request == "subsystem" {
            connection.sftp(Place::Loopback, "ls /archive\n", PATIENCE)?
        } else {
            connection.ssh(Place::Loopback, arguments)?
        };
        ensure!(!output.status.success(), "{request} succeeded");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            !shown.contains("secret"),
            "{request} showed the secret: {shown}"
        );
        wait_for_record(&proxy, request, |record| {
            text(record, "event") == "channel.refused" && body(record, "request") == request
        })?;
    }
    let opened = |record: &Value| text(record, "event") == "op.intent";
    ensure!(
        !proxy.records()?.iter().any(opened),
        "a backend was reached"
    );
    let steps = [portcullis_tests::client::Step::List("/archive".to_owned())];
    let factors = Factors::PasswordThenCode;
    Client::Openssh.session(Place::Loopback, &proxy, &mut alice, factors, &steps)?;
    ensure!(
        proxy.records()?.iter().any(opened),
        "a full login reaches it"
    );
    Ok(())
}

#[test]
fn a_source_that_is_not_allowed_can_not_use_a_token_and_disabling_cuts_an_enrolment() -> Result<()>
{
    let (proxy, alice, _storage) = gateway()?;
    proxy.command(&["account", "set", "alice", "--source", "192.0.2.7"])?;
    let connection = with_token(&proxy, &alice, &token(&proxy)?)?;
    ensure!(!connection.ssh(Place::Loopback, &["-tt"])?.status.success());
    wait_for_record(&proxy, "source_not_allowed", |record| {
        text(record, "reason") == "source_not_allowed"
    })?;
    proxy.command(&["account", "set", "alice", "--source", "127.0.0.0/8"])?;
    let terminal = connection.start_terminal(Place::Loopback)?;
    terminal.wait_for("secret: ")?;
    proxy.command(&["account", "disable", "alice"])?;
    wait_for_close(&proxy, "revoked")?;
    terminal.close()
}
