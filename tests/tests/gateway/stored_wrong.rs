//! What goes wrong with stored files and their keys by nobody's hand in the files: each has a named error and a record.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use portcullis_tests::place::Place;
use portcullis_tests::proxy::Backend;
use tokio::runtime::Runtime;

use crate::at_rest::Gateway;
use crate::sessions::{body, text, wait_for_record};
use crate::wire::{kind, log_in, open, status};

#[test]
fn a_key_file_that_others_may_read_is_refused_on_record_and_by_a_start() -> Result<()> {
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    fs::write(gateway.local("file"), "content")?;
    gateway.succeed("put file")?;
    let key = gateway.proxy.folder().join("at-rest.kek");
    let rights = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode));
    for mode in [0o640, 0o604] {
        rights(mode)?;
        let refusal = gateway.proxy.reload(str::to_owned)?;
        ensure!(text(&refusal, "outcome") == "failure", "{refusal}");
        let why = refusal.to_string();
        ensure!(why.contains("others than its owner have rights"), "{why}");
        // What is in force stays.
        gateway.succeed("get file back")?;
    }
    rights(0o600)?;
    let change = |config: &str| format!("{config}update_limit_bytes = 1000000\n");
    let taken = gateway.proxy.reload(change)?;
    ensure!(text(&taken, "outcome") != "failure", "{taken}");
    gateway.succeed("get file back")?;

    rights(0o640)?;
    let refused = gateway.proxy.crash_and_restart();
    let refused = refused.err().context("it does not start")?.to_string();
    ensure!(refused.contains("chmod 600"), "{refused}");
    rights(0o600)?;
    gateway.proxy.start_again(Place::Loopback)?;
    gateway.succeed("get file back")?;
    Ok(())
}

#[test]
fn of_two_who_change_one_file_the_second_hears_that_it_was_changed_and_nothing_is_mixed()
-> Result<()> {
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    fs::write(gateway.local("file"), "as it was")?;
    gateway.succeed("put file")?;
    Runtime::new()?.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let (mut one, mut two) = (connection.sftp().await?, connection.sftp().await?);
        let changing = one.open(b"/inbox/file", open::READ | open::WRITE).await?;
        let other = two.open(b"/inbox/file", open::READ | open::WRITE).await?;
        for (wire, handle, data) in [(&mut one, &changing, b"AS"), (&mut two, &other, b"no")] {
            let written = wire
                .ask(kind::WRITE, |frame| {
                    frame.string(handle).u64(0).string(data)
                })
                .await?;
            ensure!(written.status() == Some(status::OK), "{written:?}");
        }
        for (wire, handle, expected) in [
            (&mut one, &changing, status::OK),
            (&mut two, &other, status::FAILURE),
        ] {
            let closed = wire.ask(kind::CLOSE, |frame| frame.string(handle)).await?;
            ensure!(closed.status() == Some(expected), "{closed:?}");
        }
        Ok(())
    })?;
    wait_for_record(&gateway.proxy, "the second", |record| {
        text(record, "event") == "op.outcome"
            && body(record, "error").contains("somebody else has changed the file meanwhile")
    })?;
    wait_for_record(&gateway.proxy, "its summary", |record| {
        text(record, "event") == "xfer.summary" && text(record, "outcome") == "failure"
    })?;
    gateway.succeed("get file back")?;
    ensure!(fs::read(gateway.local("back"))? == b"AS it was");
    Ok(())
}
