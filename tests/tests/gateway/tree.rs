//! What an account sees of several backends: mounts below mounts, limits, and backends that stand in for each other.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, wait_for};
use portcullis_tests::proxy::{self, Backend, Plan, Proxy};

/// Whether the batch went well, and what sftp printed.
fn sftp(proxy: &Proxy, account: &mut Account, batch: &str) -> Result<(bool, String)> {
    let connection = OpensshConnection::new(proxy, account, Factors::KeyThenPassword)?;
    let output = connection.sftp(Place::Loopback, batch, 4 * PATIENCE)?;
    let printed = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    ))
}

#[test]
fn a_mount_below_another_is_seen_used_and_stays() -> Result<()> {
    let (outer, inner, here) = (
        files::folder("outer")?,
        files::folder("inner")?,
        files::folder("partner")?,
    );
    let proxy = Plan::new(Place::Loopback)?
        .backend("outer", Backend::local(outer.path()))
        .backend("inner", Backend::local(inner.path()))
        .start()?;
    let mut alice = proxy.account(
        "alice",
        &[
            Mount::all("/", "outer", "/"),
            Mount::all("/in/lab", "inner", "/"),
        ],
    )?;
    fs::write(outer.path().join("readme"), "outer")?;
    let local = here.path().join("x");
    fs::write(&local, "for the lab")?;
    let (well, printed) = sftp(
        &proxy,
        &mut alice,
        &format!(
            "ls -1 /\nls -1 /in\nput {} /in/lab/x\n-rmdir /in/lab\n-rm /in/lab\n-rename /in /out\n-mkdir /in/lab\nls -1 /in/lab\n",
            local.display()
        ),
    )?;
    ensure!(well, "{printed}");
    for name in ["/readme", "/in", "/in/lab", "/in/lab/x"] {
        ensure!(
            printed.lines().any(|line| line.trim() == name),
            "{name} is not listed\n{printed}"
        );
    }
    ensure!(fs::read_to_string(inner.path().join("x"))? == "for the lab");
    let beside: Vec<_> = fs::read_dir(outer.path())?.collect::<Result<_, _>>()?;
    ensure!(
        beside.len() == 1,
        "the outer backend got something: {beside:?}"
    );
    Ok(())
}

#[test]
fn a_quota_and_a_rate_hold_over_sessions_and_other_mounts_go_on() -> Result<()> {
    let (storage, here) = (files::folder("storage")?, files::folder("partner")?);
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let mut alice = proxy.account("alice", &[Mount::all("/free", "archive", "/free")])?;
    for (at, directory, limit) in [
        ("/small", "/small", ["--quota", "100K"]),
        ("/slow", "/slow", ["--write-rate", "1M"]),
    ] {
        let mount = [
            "account",
            "mount",
            "alice",
            at,
            "--backend",
            "archive",
            "--directory",
            directory,
            "--permissions",
            "list,read,write,overwrite,delete",
        ];
        proxy.command(&[&mount[..], &limit].concat())?;
        fs::create_dir(storage.path().join(directory.trim_start_matches('/')))?;
    }
    fs::create_dir(storage.path().join("free"))?;
    let (some, much) = (here.path().join("some"), here.path().join("much"));
    fs::write(&some, vec![1; 60 * 1024])?;
    fs::write(&much, vec![2; 3 * 1024 * 1024])?;
    let put = |local: &std::path::Path, remote: &str| format!("put {} {remote}\n", local.display());

    let (well, printed) = sftp(&proxy, &mut alice, &put(&some, "/small/a"))?;
    ensure!(well, "{printed}");
    let (well, _) = sftp(&proxy, &mut alice, &put(&some, "/small/b"))?;
    ensure!(!well && !storage.path().join("small/b").exists());
    let room = format!("rm /small/a\n{}", put(&much, "/free/much"));
    let (well, printed) = sftp(&proxy, &mut alice, &room)?;
    ensure!(well, "{printed}");
    let (well, printed) = sftp(&proxy, &mut alice, &put(&some, "/small/b"))?;
    ensure!(well, "a new session measures again: {printed}");

    let begun = Instant::now();
    let (well, printed) = sftp(&proxy, &mut alice, &put(&much, "/slow/much"))?;
    ensure!(well, "{printed}");
    // The first of three seconds passes at once.
    ensure!(
        begun.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        begun.elapsed()
    );
    ensure!(fs::read(storage.path().join("slow/much"))? == fs::read(&much)?);
    Ok(())
}

#[test]
fn a_new_session_gets_the_first_backend_that_is_there() -> Result<()> {
    let (first, second, here) = (
        files::folder("first")?,
        files::folder("second")?,
        files::folder("partner")?,
    );
    let proxy = Plan::new(Place::Loopback)?
        .backend("first", Backend::local(&first.path().join("data")))
        .backend("second", Backend::local(second.path()))
        .backend(
            "both",
            Backend::custom(
                "kind = \"failover\"\nmembers = [\"first\", \"second\"]\ncheck_seconds = 1\n",
            ),
        );
    let data = first.path().join("data");
    fs::create_dir(&data)?;
    let proxy = proxy.start()?;
    let mut alice = proxy.account("alice", &[Mount::all("/in", "both", "/")])?;
    let local = here.path().join("x");
    fs::write(&local, "x")?;
    let mut put = |name: &str| {
        sftp(
            &proxy,
            &mut alice,
            &format!("put {} /in/{name}\n", local.display()),
        )
    };
    ensure!(put("before")?.0 && data.join("before").exists());
    let aside = first.path().join("aside");
    fs::rename(&data, &aside)?;
    wait_for("a session on the second backend", || {
        put("while").ok()?;
        second.path().join("while").exists().then_some(())
    })?;
    fs::rename(&aside, &data)?;
    wait_for("a session on the first backend again", || {
        put("after").ok()?;
        data.join("after").exists().then_some(())
    })
}

/// Two members of a failover list with encrypted files, the second of which has copies of the first one's, made past the gateway.
#[test]
fn copies_of_encrypted_files_are_read_where_the_section_says_whose_they_are() -> Result<()> {
    for (line, is_read) in [("files_of = \"first\"", true), ("", false)] {
        let (first, second, here) = (
            files::folder("first")?,
            files::folder("second")?,
            files::folder("partner")?,
        );
        let data = first.path().join("data");
        fs::create_dir(&data)?;
        let proxy = Plan::new(Place::Loopback)?
            .backend("first", Backend::local(&data).encrypted())
            .backend(
                "second",
                Backend::local(second.path()).encrypted().with(line),
            )
            .backend(
                "both",
                Backend::custom(
                    "kind = \"failover\"\nmembers = [\"first\", \"second\"]\ncheck_seconds = 1\n",
                ),
            )
            .start()?;
        let mut alice = proxy.account("alice", &[Mount::all("/in", "both", "/")])?;
        let (local, copy) = (here.path().join("x"), here.path().join("copy"));
        for name in ["same", "lagging"] {
            for content in ["older", "newer"] {
                fs::write(&local, content)?;
                let put = format!("put {} /in/{name}\n", local.display());
                let (well, printed) = sftp(&proxy, &mut alice, &put)?;
                ensure!(well && data.join(name).exists(), "{printed}");
                if (name, content) != ("lagging", "newer") {
                    fs::copy(data.join(name), second.path().join(name))?;
                }
            }
        }
        fs::rename(&data, first.path().join("aside"))?;
        wait_for("a session on the second backend", || {
            let put = format!("put {} /in/while\n", local.display());
            sftp(&proxy, &mut alice, &put).ok()?;
            second.path().join("while").exists().then_some(())
        })?;
        let mut get = |name: &str| {
            let get = format!("get /in/{name} {}\n", copy.display());
            sftp(&proxy, &mut alice, &get)
        };
        let (well, printed) = get("same")?;
        ensure!(well == is_read, "{line}: {printed}");
        if is_read {
            ensure!(fs::read(&copy)? == b"newer");
            fs::remove_file(&copy)?;
        }
        let (well, printed) = get("lagging")?;
        ensure!(!well && !copy.exists(), "{line}: {printed}");
        let refused = proxy::records(&proxy.journal)?;
        let named = if is_read {
            "another file lies under this name"
        } else {
            "encrypted for another backend"
        };
        ensure!(
            refused
                .iter()
                .any(|record| record.to_string().contains(named)),
            "{line}"
        );
    }
    Ok(())
}
