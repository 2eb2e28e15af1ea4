//! Questions to the log of a gateway that real clients used.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{Client, Step};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::sessions::{body, text, wait_for_record};
use crate::wire::{kind, log_in, status};

/// A name that would be a page, a record and an order to a terminal, if anybody took it for one.
const EVIL: &str = "/inbox/<script>alert(1)\n{\"event\":\"auth.result\"}\x1b[2J\u{202e}";

struct Gateway {
    proxy: Proxy,
    alice: Account,
    storage: TempDir,
}

fn gateway() -> Result<Gateway> {
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("disk", Backend::local(storage.path()))
        // The section before is the journal's.
        .sections("digests = \"all\"\n")
        .start()?;
    let mount = Mount {
        permissions: vec!["list", "read", "write", "overwrite", "rename"],
        ..Mount::all("/inbox", "disk", ".")
    };
    let alice = proxy.account("alice", &[mount])?;
    Ok(Gateway {
        proxy,
        alice,
        storage,
    })
}

/// Uploads, renames and downloads with OpenSSH's client.
fn use_it(gateway: &mut Gateway) -> Result<()> {
    let folder = files::folder("here")?;
    let local = folder.path().join("a.csv");
    fs::write(&local, vec![b'x'; 100_000])?;
    let steps = [
        Step::Put {
            local,
            remote: "/inbox/a.csv".to_owned(),
        },
        Step::Rename {
            from: "/inbox/a.csv".to_owned(),
            to: "/inbox/b.csv".to_owned(),
        },
        Step::Get {
            remote: "/inbox/b.csv".to_owned(),
            local: folder.path().join("back"),
        },
    ];
    let factors = Factors::KeyThenPassword;
    Client::Openssh.session(
        Place::Loopback,
        &gateway.proxy,
        &mut gateway.alice,
        factors,
        &steps,
    )?;
    Ok(())
}

fn json_lines(text: &str) -> Result<Vec<Value>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("read {line}")))
        .collect()
}

#[test]
fn a_log_tells_who_did_what_and_who_asked() -> Result<()> {
    let mut gateway = gateway()?;
    use_it(&mut gateway)?;
    let proxy = &gateway.proxy;
    let end = wait_for_record(proxy, "the end of the session", |record| {
        text(record, "event") == "conn.close" && record["user"]["name"] == "alice"
    })?;
    let session = text(&end, "session_id").to_owned();

    let writes = proxy.command(&[
        "audit",
        "search",
        "--user",
        "alice",
        "--path",
        "/inbox/a.csv",
        "--op",
        "write",
        "--outcome",
        "success",
        "--json",
    ])?;
    let writes = json_lines(&writes)?;
    ensure!(
        !writes.is_empty(),
        "no write is found by the path of its file"
    );
    for found in &writes {
        ensure!(text(&found["record"], "event") == "op.outcome", "{found}");
        ensure!(found["about"]["path"] == "/inbox/a.csv", "{found}");
    }
    let others = proxy.command(&["audit", "search", "--user", "bob", "--json"])?;
    ensure!(others.is_empty(), "{others}");

    let story = proxy.command(&["audit", "session", &session[..8]])?;
    for told in [
        "127.0.0.1 connected",
        "alice is in, factors",
        "wrote \"/inbox/a.csv\": 97.7 KiB in",
        "without gaps",
        "\"/inbox/a.csv\" to \"/inbox/b.csv\"",
        "read \"/inbox/b.csv\": 97.7 KiB in",
        "ended",
    ] {
        ensure!(story.contains(told), "{told} is not in {story}");
    }

    // Somebody changes the file behind the gateway's back.
    fs::write(gateway.storage.path().join("b.csv"), vec![b'y'; 100_000])?;
    let back = files::folder("back")?;
    let get = [Step::Get {
        remote: "/inbox/b.csv".to_owned(),
        local: back.path().join("b.csv"),
    }];
    let factors = Factors::KeyThenPassword;
    Client::Openssh.session(Place::Loopback, proxy, &mut gateway.alice, factors, &get)?;
    let downloads = wait_for("the second download's record", || {
        let file = proxy
            .command(&["audit", "file", "/inbox/b.csv", "--json"])
            .ok()?;
        let touches = json_lines(&file).ok()?;
        let downloads: Vec<Value> = touches
            .into_iter()
            .filter(|touch| text(touch, "what") == "download")
            .collect();
        (downloads.len() == 2).then_some(downloads)
    })?;
    let result = |at: usize| {
        downloads
            .get(at)
            .map(|touch| touch["compared"]["result"].clone())
    };
    ensure!(result(0) == Some("same".into()), "{downloads:?}");
    ensure!(result(1) == Some("differs".into()), "{downloads:?}");
    let file = proxy.command(&["audit", "file", "/inbox/b.csv"])?;
    ensure!(
        file.contains("upload \"/inbox/a.csv\"") && file.contains("DIFFERS"),
        "{file}"
    );

    let reading = wait_for_record(proxy, "the record of the search", |record| {
        text(record, "event") == "log.read" && body(record, "command") == "search"
    })?;
    ensure!(
        reading["body"]["filters"]["path"] == "/inbox/a.csv",
        "{reading}"
    );
    ensure!(
        reading["user"]["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("uid:"))
    );
    Ok(())
}

#[test]
fn what_was_refused_is_found_and_no_name_deceives_who_reads() -> Result<()> {
    let gateway = gateway()?;
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut wire = connection.sftp().await?;
        wire.put(EVIL.as_bytes(), b"x").await?;
        // The mount grants no delete.
        let removed = wire.path_status(kind::REMOVE, EVIL.as_bytes()).await?;
        ensure!(removed != Some(status::OK), "removed");
        Ok(())
    })?;
    let proxy = &gateway.proxy;
    wait_for_record(proxy, "the denial", |record| {
        text(record, "event") == "op.denied"
    })?;
    let search = [
        "audit",
        "search",
        "--path",
        "/inbox",
        "--op",
        "remove",
        "--outcome",
        "deny",
    ];
    let found = proxy.command(&search)?;
    ensure!(found.lines().count() == 1, "{found}");
    ensure!(found.contains("<script>alert(1)\\u{a}{"), "{found}");
    let json = proxy.command(&[&search[..], &["--json"]].concat())?;
    for shown in [&found, &json] {
        let is_plain = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
        ensure!(shown.chars().all(is_plain), "{shown:?}");
    }
    ensure!(json_lines(&json)?.len() == 1, "{json}");
    Ok(())
}

#[test]
fn a_period_is_reported_and_its_reviewer_signs_on_record() -> Result<()> {
    let mut gateway = gateway()?;
    use_it(&mut gateway)?;
    let proxy = &gateway.proxy;
    wait_for_record(proxy, "the end of the session", |record| {
        text(record, "event") == "conn.close" && record["user"]["name"] == "alice"
    })?;
    let files =
        ["review.html", "review.json"].map(|name| proxy.folder().join(name).display().to_string());
    let [html, json] = &files;
    let report = [
        "audit",
        "report",
        "--period",
        "1d",
        "--bulk-files",
        "1",
        "--html",
        html,
        "--json",
        json,
    ];
    let summary = proxy.command(&report)?;
    ensure!(summary.contains("Bulk downloads: 1"), "{summary}");
    let report: Value = serde_json::from_str(&fs::read_to_string(json)?)?;
    for (count, expected) in [
        ("logins", 1),
        ("uploads", 1),
        ("downloads", 1),
        ("download_bytes", 100_000),
    ] {
        ensure!(
            report["people"]["alice"][count] == expected,
            "{count}: {report}"
        );
    }
    ensure!(fs::read_to_string(html)?.matches("<svg").count() == 3);

    let sign = [
        "audit",
        "review",
        "sign",
        "--period",
        "1d",
        "--reviewer",
        "Dora",
        "--note",
        "one upload",
    ];
    let signed = [&sign[..], &["--report", html]].concat();
    proxy.command(&signed)?;
    let reviews = |proxy: &Proxy| -> Result<Vec<Value>> {
        let mut records = proxy.records()?;
        records.retain(|record| text(record, "event") == "admin.review");
        Ok(records)
    };
    let found = reviews(proxy)?;
    let review = found
        .first()
        .context("the review is on record when the command ends")?;
    let sum = succeed(Command::new("sha256sum").arg(html))?;
    ensure!(sum.starts_with(body(review, "report_sha256")), "{review}");
    let covered = &review["body"]["covered"][0];
    let last = covered["last_seq"]
        .as_u64()
        .context("the last record covered")?;
    let next = proxy.records()?;
    let next = next.iter().find(|record| record["seq"] == last + 1);
    ensure!(
        next.is_some_and(|next| next["prev"] == covered["last_sha256"]),
        "{review}"
    );

    // Nobody is there who could put it on record.
    gateway.proxy.process.kill()?;
    let refused = gateway.proxy.command(&sign);
    ensure!(refused.is_err_and(|error| error.to_string().contains("nothing is signed")));
    gateway.proxy.start_again(Place::Loopback)?;
    wait_for_record(&gateway.proxy, "the next start", |record| {
        text(record, "event") == "app.start" && record["seq"].as_u64() > Some(last)
    })?;
    gateway
        .proxy
        .command(&["audit", "search", "--limit", "1"])?;
    // Notes keep their order: one that was left would come before.
    let limit = |record: &Value| {
        text(record, "event") == "log.read" && record["body"]["filters"] == serde_json::json!({})
    };
    wait_for_record(&gateway.proxy, "the record of the search", limit)?;
    ensure!(
        reviews(&gateway.proxy)?.len() == 1,
        "what was not signed is on record"
    );
    Ok(())
}

#[test]
fn a_search_that_follows_shows_what_comes() -> Result<()> {
    let mut gateway = gateway()?;
    let mut following = Command::new(locate::binary("portcullis-proxy")?)
        .args([
            "audit",
            "search",
            "--event",
            "xfer.summary",
            "--follow",
            "--limit",
            "2",
            "--json",
        ])
        .arg("--config")
        .arg(&gateway.proxy.config)
        .stdout(Stdio::piped())
        .spawn()
        .context("start the search")?;
    let used = use_it(&mut gateway);
    if used.is_err() {
        following.kill()?;
    }
    let output = following.wait_with_output()?;
    used?;
    let found = json_lines(&String::from_utf8(output.stdout)?)?;
    let directions: Vec<&str> = found
        .iter()
        .map(|found| body(&found["record"], "direction"))
        .collect();
    ensure!(directions == ["upload", "download"], "{found:?}");
    Ok(())
}
