//! A sealed account: two custodians open it, everything about it is loud, and its end cuts what is under way.

use std::time::Instant;

use anyhow::{Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::PATIENCE;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;

use crate::sessions::{body, text, wait_for_close, wait_for_record};

fn list(proxy: &Proxy, account: &mut Account) -> Result<bool> {
    let connection = OpensshConnection::new(proxy, account, Factors::PasswordThenCode)?;
    let output = connection.sftp(Place::Loopback, "ls /archive\n", PATIENCE)?;
    Ok(output.status.success())
}

fn state(proxy: &Proxy) -> Result<String> {
    let listed: Value =
        serde_json::from_str(&proxy.command(&["break-glass", "status", "--json"])?)?;
    let first = listed.get(0).unwrap_or(&Value::Null);
    Ok(text(first, "state").to_owned())
}

#[test]
fn a_sealed_account_admits_nobody_until_two_custodians_open_it_and_is_cut_when_it_closes()
-> Result<()> {
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let mut ann = proxy.account_of_kind("ann", "admin", &[])?;
    let mut ben = proxy.account_of_kind("ben", "admin", &[])?;
    let mounts = [Mount::all("/archive", "archive", "/")];
    let mut rescue = proxy.account_of_kind("rescue", "break-glass", &mounts)?;

    ensure!(!list(&proxy, &mut rescue)?, "sealed, and yet a login");
    wait_for_record(&proxy, "break_glass_sealed", |record| {
        text(record, "reason") == "break_glass_sealed"
    })?;

    let open = [
        "break-glass",
        "open",
        "rescue",
        "--reason",
        "the directory is down",
        "--until",
        "2h",
        "--custodian",
        "ann",
        "--custodian",
        "ben",
    ];
    let wrong = [&*ann.password, &ann.phone.wrong_code()];
    ensure!(proxy.command_at_terminal(&open, &wrong).is_err());
    wait_for_record(&proxy, "the refused custodian", |record| {
        text(record, "event") == "admin.break_glass"
            && body(record, "action") == "break-glass-refuse"
    })?;
    ensure!(state(&proxy)? == "sealed");

    let (first, second) = (ann.phone.next_code()?, ben.phone.next_code()?);
    let answers = [&*ann.password, &first, &ben.password, &second];
    proxy.command_at_terminal(&open, &answers)?;
    ensure!(state(&proxy)? == "open");
    let opened = wait_for_record(&proxy, "the opening", |record| {
        text(record, "event") == "admin.break_glass" && body(record, "action") == "break-glass-open"
    })?;
    ensure!(
        opened["body"]["custodians"] == serde_json::json!(["ann", "ben"]),
        "{opened}"
    );

    let factors = Factors::PasswordThenCode;
    let connection = OpensshConnection::new(&proxy, &mut rescue, factors)?;
    let mut session = connection.start_subsystem(Place::Loopback)?;
    let login = wait_for_record(&proxy, "the login", |record| {
        text(record, "event") == "auth.result" && record["body"]["break_glass"].is_object()
    })?;
    ensure!(login["user"]["type"] == "breakglass", "{login}");
    ensure!(login["body"]["is_mfa"] == true, "{login}");

    let closing = Instant::now();
    proxy.command(&["break-glass", "close", "rescue"])?;
    let end = wait_for_close(&proxy, "revoked")?;
    ensure!(closing.elapsed() < PATIENCE, "cut too late");
    ensure!(end["user"]["type"] == "breakglass", "{end}");
    session.kill()?;
    session.wait()?;
    ensure!(!list(&proxy, &mut rescue)?, "closed, and yet a login");

    ensure!(state(&proxy)? == "unreviewed");
    let (first, second) = (ann.phone.next_code()?, ben.phone.next_code()?);
    let answers = [&*ann.password, &first, &ben.password, &second];
    let again = proxy.command_at_terminal(&open, &answers);
    ensure!(again.is_err_and(|error| error.to_string().contains("not reviewed")));
    proxy.command(&[
        "break-glass",
        "review",
        "rescue",
        "--reviewer",
        "Dora",
        "--note",
        "one listing",
    ])?;
    ensure!(state(&proxy)? == "sealed");
    Ok(())
}
