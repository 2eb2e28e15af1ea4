//! Access ends within seconds of its being taken away, also in the middle of a transfer.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portcullis_tests::account::Mount;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::proxy::{Backend, Plan};
use serde_json::Value;

use crate::sessions::{body, text, wait_for_record};
use crate::wire::{self, open, status};

/// From the end of the administrator's command to the end of the session.
const BAR: Duration = Duration::from_secs(5);

/// What is taken away, how sessions end, why the next login fails, and what gives it back.
struct Case {
    account: &'static str,
    taken: &'static [&'static str],
    closed: &'static str,
    refused: &'static str,
    given: &'static [&'static str],
}

const CASES: [Case; 4] = [
    Case {
        account: "disabled",
        taken: &["account", "disable", "disabled"],
        closed: "revoked",
        refused: "no_enabled_account",
        given: &["account", "enable", "disabled"],
    },
    Case {
        account: "expired",
        taken: &["account", "set", "expired", "--expires", "2000-01-01"],
        closed: "account_expired",
        refused: "account_expired",
        given: &["account", "set", "expired", "--expires", "none"],
    },
    Case {
        account: "elsewhere",
        taken: &["account", "set", "elsewhere", "--source", "192.0.2.0/24"],
        closed: "source_not_allowed",
        refused: "source_not_allowed",
        given: &[
            "account",
            "set",
            "elsewhere",
            "--source",
            "192.0.2.0/24",
            "127.0.0.1",
        ],
    },
    Case {
        account: "unmounted",
        taken: &["account", "unmount", "unmounted", "/archive"],
        closed: "revoked",
        refused: "",
        given: &[],
    },
];

fn is_of(record: &Value, event: &str, account: &str) -> bool {
    let name = record.get("user").map(|user| text(user, "name"));
    text(record, "event") == event && name == Some(account)
}

#[tokio::test]
async fn what_is_taken_away_cuts_the_transfer_and_the_next_login_and_what_is_given_back_does_not()
-> Result<()> {
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    for case in CASES {
        let account = proxy.account(case.account, &[Mount::all("/archive", "archive", "/")])?;
        let connection = wire::log_in(proxy.address, &account).await?;
        let mut upload = connection.sftp().await?;
        let path = format!("/archive/{}", case.account);
        let handle = upload.open(path.as_bytes(), open::UPLOAD).await?;
        ensure!(upload.write(&handle, 0, b"half").await? == Some(status::OK));

        proxy.command(case.taken)?;
        let taken = Instant::now();
        while upload.next().await?.is_some() {}
        let lasted = taken.elapsed();
        ensure!(lasted < BAR, "{}: cut after {lasted:?}", case.account);
        let closed = wait_for_record(&proxy, "the end", |record| {
            is_of(record, "conn.close", case.account)
        })?;
        ensure!(text(&closed, "reason") == case.closed, "{closed}");
        let summary = wait_for_record(&proxy, "the transfer's end", |record| {
            is_of(record, "xfer.summary", case.account)
        })?;
        ensure!(text(&summary, "outcome") == "failure", "{summary}");
        ensure!(text(&summary, "reason") == "not_closed", "{summary}");
        ensure!(!body(&summary, "close_reason").is_empty(), "{summary}");
        ensure!(!storage.path().join(case.account).exists());

        if case.refused.is_empty() {
            continue;
        }
        ensure!(wire::log_in(proxy.address, &account).await.is_err());
        wait_for_record(&proxy, case.refused, |record| {
            is_of(record, "auth.step", case.account) && text(record, "reason") == case.refused
        })?;
        proxy.command(case.given)?;
        wire::log_in(proxy.address, &account).await?;
    }
    Ok(())
}
