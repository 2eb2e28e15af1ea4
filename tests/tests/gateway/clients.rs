//! The clients that partners use, unmodified, each with the two factors that it can show: login,
//! put, get, ls, rename, rm; the bytes arrive, and the journal tells it all.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{Client, Step, curl_list};
use portcullis_tests::evidence::{self, Deed, Offer, Program};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::{Value, json};

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
    let login = match factors {
        Factors::PasswordThenCode => Deed::PasswordThenCode,
        Factors::KeyThenPassword => Deed::KeyThenPassword,
        Factors::PasswordThenKey => Deed::PasswordThenKey,
    };
    evidence::note(
        Program::Session(client),
        &[
            login,
            Deed::Upload,
            Deed::Download,
            Deed::List,
            Deed::Rename,
        ],
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
    let alice = proxy.account("alice", &[Mount::all("/inbox", "archive", "/")])?;
    let output = curl_list(Place::Loopback, &proxy, &alice, "/inbox")?;
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
    evidence::note(Program::OldCurl, &[Deed::Refused])
}

/// The order of factors that needs a client which sends the key last; the rest of the session is tested above.
#[test]
fn clients_that_choose_their_order_work_with_password_and_then_key() -> Result<()> {
    let storage = files::folder("storage")?;
    fs::write(storage.path().join("report.csv"), "x")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let mut alice = proxy.account("alice", &[Mount::all("/inbox", "archive", "/")])?;
    for client in [
        Client::Openssh,
        Client::Paramiko,
        Client::Asyncssh,
        Client::Ssh2,
    ] {
        let printed = client
            .session(
                Place::Loopback,
                &proxy,
                &mut alice,
                Factors::PasswordThenKey,
                &[Step::List("/inbox".to_owned())],
            )
            .with_context(|| format!("{client:?}"))?;
        ensure!(printed.contains("report.csv"), "{client:?}: {printed}");
        let factors = last(&proxy, "auth.result")?
            .pointer("/body/factors")
            .cloned();
        ensure!(
            factors == Some(json!(["password", "publickey"])),
            "{client:?}: {factors:?}"
        );
        evidence::note(Program::Session(client), &[Deed::PasswordThenKey])?;
    }
    Ok(())
}

/// Each SSH implementation against two offers of algorithms: it logs in, or the record says what it lacks.
#[test]
fn a_client_agrees_with_the_offer_or_the_record_says_what_it_lacks() -> Result<()> {
    let storage = files::folder("storage")?;
    fs::write(storage.path().join("report.csv"), "x")?;
    for (offer, algorithms) in [
        (Offer::Hipaa, "{}"),
        (
            Offer::PostQuantum,
            "{ key_exchanges = [\"mlkem768x25519-sha256\"] }",
        ),
    ] {
        let proxy = Plan::new(Place::Loopback)?
            .backend("archive", Backend::local(storage.path()))
            .server("algorithms", algorithms)
            .start()?;
        let mut alice = proxy.account("alice", &[Mount::all("/inbox", "archive", "/")])?;
        for program in Program::IMPLEMENTATIONS {
            let found = outcome(program, &proxy, &mut alice)
                .with_context(|| format!("{program:?} with {offer:?}"))?;
            evidence::note_offer(program, offer, &found)?;
        }
    }
    Ok(())
}

/// `tested` for a login with key and password, or the list in which client and gateway have nothing in common.
fn outcome(program: Program, proxy: &Proxy, alice: &mut Account) -> Result<String> {
    let closed = || -> Result<Vec<Value>> {
        let mut records = proxy.records()?;
        records.retain(|record| record.get("event").and_then(Value::as_str) == Some("conn.close"));
        Ok(records)
    };
    let before = closed()?.len();
    let listed = match program {
        Program::Session(client) => client.session(
            Place::Loopback,
            proxy,
            alice,
            Factors::KeyThenPassword,
            &[Step::List("/inbox".to_owned())],
        ),
        Program::OldCurl => {
            let output = curl_list(Place::Loopback, proxy, alice, "/inbox")?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Program::Scp | Program::Pscp | Program::Sshfs => bail!("it brings no SSH of its own"),
    };
    if listed
        .as_ref()
        .is_ok_and(|printed| printed.contains("report.csv"))
    {
        return Ok("tested".to_owned());
    }
    let lacks = wait_for("the end of the connection on record", || {
        let closed = closed().ok()?.into_iter().nth(before)?;
        let lacks = closed.pointer("/body/no_common").and_then(Value::as_str);
        Some(lacks.map(str::to_owned))
    })?;
    // PuTTY may have read the gateway's lists before it sends its own, and then leaves without them.
    let said = format!("{listed:?}").contains("key exchange algorithm");
    let lacks = lacks
        .or(said.then(|| "kex".to_owned()))
        .with_context(|| format!("it was not for its algorithms: {listed:?}"))?;
    Ok(format!("no common `{lacks}`"))
}

/// The newest record of the event.
fn last(proxy: &Proxy, event: &str) -> Result<Value> {
    proxy
        .records()?
        .into_iter()
        .rfind(|record| record.get("event").and_then(Value::as_str) == Some(event))
        .with_context(|| format!("no {event} on record"))
}
