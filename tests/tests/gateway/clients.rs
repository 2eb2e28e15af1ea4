//! The clients that partners use, unmodified, each with the two factors that it can show: login,
//! put, get, ls, rename, rm; the bytes arrive, and the journal tells it all.

use std::fs;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Factors, Mount};
use portcullis_tests::client::{Client, Step, curl_list};
use portcullis_tests::evidence::{self, Deed, Program};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::proxy::{Backend, Plan};
use serde_json::Value;

/// More than one SFTP packet, and no multiple of any packet size.
const SIZE: usize = 3 * 1024 * 1024 + 4_711;

/// One session with everything that the matrix asks for.
fn works(client: Client, factors: Factors) -> Result<()> {
    let storage = files::folder("storage")?;
    let here = files::folder("partner")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let mut alice = proxy.account("alice", &[Mount::all("/inbox", "archive", "/")])?;
    let content = files::random_bytes(SIZE)?;
    let (original, returned) = (
        here.path().join("original.bin"),
        here.path().join("returned.bin"),
    );
    fs::write(&original, &content)?;

    let printed = client.session(
        Place::Loopback,
        &proxy,
        &mut alice,
        factors,
        &[
            Step::Put {
                local: original.clone(),
                remote: "/inbox/results.bin".to_owned(),
            },
            Step::Put {
                local: original,
                remote: "/inbox/mistake.bin".to_owned(),
            },
            Step::List("/inbox".to_owned()),
            Step::Rename {
                from: "/inbox/results.bin".to_owned(),
                to: "/inbox/november.bin".to_owned(),
            },
            Step::Get {
                remote: "/inbox/november.bin".to_owned(),
                local: returned.clone(),
            },
            Step::Remove("/inbox/mistake.bin".to_owned()),
        ],
    )?;

    ensure!(
        fs::read(&returned)? == content,
        "the download differs from the upload"
    );
    ensure!(
        fs::read(storage.path().join("november.bin"))? == content,
        "the stored file differs from the upload"
    );
    let stored: Vec<_> = fs::read_dir(storage.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    ensure!(stored == ["november.bin"], "the storage holds {stored:?}");
    for name in ["results.bin", "mistake.bin"] {
        ensure!(
            printed.contains(name),
            "the listing lacks {name}\n{printed}"
        );
    }

    let records = proxy.records()?;
    every_intent_has_its_outcome(&records)?;
    let verdict = proxy.verify(&proxy.journal)?;
    ensure!(
        verdict.status.success(),
        "portcullis-verify: {}{}",
        String::from_utf8_lossy(&verdict.stdout),
        String::from_utf8_lossy(&verdict.stderr)
    );
    evidence::note(
        Program::Session(client),
        &[Deed::Upload, Deed::Download, Deed::List, Deed::Rename],
    )
}

fn every_intent_has_its_outcome(records: &[Value]) -> Result<()> {
    let numbers = |event: &str| -> Vec<String> {
        let mut found: Vec<String> = records
            .iter()
            .filter(|record| record.get("event").and_then(Value::as_str) == Some(event))
            .filter_map(|record| {
                Some(format!(
                    "{} {}",
                    record.get("session_id")?,
                    record.get("op_id")?
                ))
            })
            .collect();
        found.sort();
        found
    };
    let intents = numbers("op.intent");
    ensure!(!intents.is_empty(), "the journal has no intent");
    let outcomes = numbers("op.outcome");
    let open: Vec<_> = intents.iter().filter(|id| !outcomes.contains(id)).collect();
    ensure!(open.is_empty(), "intents without outcome: {open:?}");
    records
        .iter()
        .find(|record| record.get("event").and_then(Value::as_str) == Some("auth.result"))
        .context("the journal has no authentication")?;
    Ok(())
}

#[test]
fn openssh_works_with_password_and_code() -> Result<()> {
    works(Client::Openssh, Factors::PasswordThenCode)
}

#[test]
fn openssh_works_with_key_and_password() -> Result<()> {
    works(Client::Openssh, Factors::KeyThenPassword)
}

#[test]
fn psftp_works_with_password_and_code() -> Result<()> {
    works(Client::Psftp, Factors::PasswordThenCode)
}

#[test]
fn psftp_works_with_key_and_password() -> Result<()> {
    works(Client::Psftp, Factors::KeyThenPassword)
}

#[test]
fn paramiko_works_with_password_and_code() -> Result<()> {
    works(Client::Paramiko, Factors::PasswordThenCode)
}

#[test]
fn paramiko_works_with_key_and_password() -> Result<()> {
    works(Client::Paramiko, Factors::KeyThenPassword)
}

#[test]
fn asyncssh_works_with_password_and_code() -> Result<()> {
    works(Client::Asyncssh, Factors::PasswordThenCode)
}

#[test]
fn asyncssh_works_with_key_and_password() -> Result<()> {
    works(Client::Asyncssh, Factors::KeyThenPassword)
}

#[test]
fn lftp_works_with_key_and_password() -> Result<()> {
    works(Client::Lftp, Factors::KeyThenPassword)
}

#[test]
fn rclone_works_with_key_and_password() -> Result<()> {
    works(Client::Rclone, Factors::KeyThenPassword)
}

#[test]
fn libcurl_works_with_key_and_password() -> Result<()> {
    works(Client::Curl, Factors::KeyThenPassword)
}

#[test]
fn ssh2_works_with_password_and_code() -> Result<()> {
    works(Client::Ssh2, Factors::PasswordThenCode)
}

#[test]
fn ssh2_works_with_key_and_password() -> Result<()> {
    works(Client::Ssh2, Factors::KeyThenPassword)
}

/// Debian 12's `curl` has neither AES-GCM nor encrypt-then-MAC.
#[test]
fn curl_with_libssh2_1_10_is_turned_away_before_it_shows_a_factor() -> Result<()> {
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let mut alice = proxy.account("alice", &[Mount::all("/inbox", "archive", "/")])?;
    let output = curl_list(
        Place::Loopback,
        &proxy,
        &mut alice,
        Factors::KeyThenPassword,
        "/inbox",
    )?;
    let said = String::from_utf8_lossy(&output.stderr);
    // CURLE_FAILED_INIT and CURLE_SSH: no session came about. A login that fails is 67.
    ensure!(
        matches!(output.status.code(), Some(2 | 79)),
        "curl ended with {}: {said}",
        output.status
    );
    let records = proxy.records()?;
    let tried = records.iter().any(|record| {
        let event = record.get("event").and_then(Value::as_str);
        event.is_some_and(|event| event.starts_with("auth."))
    });
    ensure!(!tried, "a factor was shown");
    evidence::note(Program::OldCurl, &[])
}
