//! What comes from a broken or hostile client, and what a broken backend or disk does: a clear answer, nothing half-done.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use crate::wire::{Frame, Wire, kind, log_in, open, status};
use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Mount};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A proxy over a folder, one account, and a runtime for its client.
struct Gateway {
    runtime: Runtime,
    alice: Account,
    proxy: Proxy,
    stored: TempDir,
}

impl Gateway {
    fn start() -> Result<Self> {
        let stored = files::folder("stored")?;
        let proxy = Plan::new(Place::Loopback)?
            .backend("peer", Backend::local(stored.path()))
            .start()?;
        let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", ".")])?;
        Ok(Self {
            runtime: Runtime::new()?,
            alice,
            proxy,
            stored,
        })
    }

    /// The gateway still does its work for a client that behaves.
    async fn still_serves(&self) -> Result<()> {
        let connection = log_in(self.proxy.address, &self.alice).await?;
        let mut wire = connection.sftp().await?;
        wire.put(b"/inbox/after.txt", b"still here").await?;
        ensure!(wire.path_status(kind::REMOVE, b"/inbox/after.txt").await? == Some(status::OK));
        Ok(())
    }

    fn denials(&self, reason: &str) -> Result<usize> {
        let records = self.proxy.records()?;
        Ok(records
            .iter()
            .filter(|record| {
                record.get("event").and_then(Value::as_str) == Some("op.denied")
                    && record
                        .get("reason")
                        .and_then(Value::as_str)
                        .is_some_and(|found| found.contains(reason))
            })
            .count())
    }
}

#[test]
fn a_frame_without_a_length_that_can_be_believed_ends_the_channel_and_only_the_channel()
-> Result<()> {
    let gateway = Gateway::start()?;
    gateway.runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut neighbour = connection.sftp().await?;
        for length in [0_u32, 1, (260 << 10) + 1, 300 << 10, 1 << 31, u32::MAX] {
            let mut wire = connection.sftp().await?;
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend_from_slice(&[kind::STAT; 64]);
            wire.send_raw(bytes).await?;
            while let Some(reply) = wire.next().await? {
                ensure!(reply.status().is_some(), "length {length}: {reply:?}");
            }
            let names = neighbour.list(b"/inbox").await?;
            ensure!(names.iter().all(|name| name.starts_with(b".")));
        }
        // A little more than is announced is a packet like any other.
        let mut wire = connection.sftp().await?;
        let longer: u32 = (256 << 10) + 1;
        let mut bytes = longer.to_be_bytes().to_vec();
        bytes.resize(4 + usize::try_from(longer)?, kind::STAT);
        wire.send_raw(bytes).await?;
        ensure!(wire.reply().await?.status() == Some(status::BAD_MESSAGE));
        let looked = wire
            .ask(kind::STAT, |frame| frame.string(b"/inbox"))
            .await?;
        ensure!(looked.kind == kind::ATTRS, "{looked:?}");
        gateway.still_serves().await
    })
}

#[test]
fn a_truncated_or_overlong_request_gets_bad_message_and_the_channel_goes_on() -> Result<()> {
    let gateway = Gateway::start()?;
    gateway.runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut wire = connection.sftp().await?;
        for request in [
            kind::OPEN,
            kind::CLOSE,
            kind::READ,
            kind::WRITE,
            kind::LSTAT,
            kind::FSTAT,
            kind::SETSTAT,
            kind::FSETSTAT,
            kind::OPENDIR,
            kind::READDIR,
            kind::REMOVE,
            kind::MKDIR,
            kind::RMDIR,
            kind::REALPATH,
            kind::STAT,
            kind::RENAME,
            kind::READLINK,
            kind::SYMLINK,
            kind::EXTENDED,
        ] {
            for broken in [
                Frame::request(request, 7),
                Frame::request(request, 7).raw(&[0, 0]),
                Frame::request(request, 7).u32(u32::MAX).raw(b"x"),
                Frame::request(request, 7).u32(9).raw(b"short"),
            ] {
                wire.send(&broken).await?;
                let reply = wire.reply().await?;
                ensure!(reply.id == 7, "type {request}: {reply:?}");
                ensure!(
                    matches!(
                        reply.status(),
                        Some(status::BAD_MESSAGE | status::FAILURE | status::OP_UNSUPPORTED)
                    ),
                    "type {request}: {reply:?}"
                );
            }
        }
        let trailing = Frame::request(kind::REMOVE, 8)
            .string(b"/inbox/x")
            .raw(b"junk");
        wire.send(&trailing).await?;
        ensure!(wire.reply().await?.status() == Some(status::BAD_MESSAGE));
        wire.put(b"/inbox/good.txt", b"good").await?;
        anyhow::Ok(())
    })?;
    ensure!(gateway.denials("")? > 0, "refusals are on record");
    ensure!(fs::read(gateway.stored.path().join("good.txt"))? == b"good");
    Ok(())
}

#[test]
fn unknown_types_and_extensions_are_unsupported_and_recorded() -> Result<()> {
    let gateway = Gateway::start()?;
    gateway.runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut wire = connection.sftp().await?;
        for unknown in [21_u8, 99, 101, 150, 202, 255] {
            let reply = wire.ask(unknown, |frame| frame.string(b"/inbox")).await?;
            ensure!(
                reply.status() == Some(status::OP_UNSUPPORTED),
                "type {unknown}: {reply:?}"
            );
        }
        for extension in [
            &b"copy-data"[..],
            b"hardlink@openssh.com",
            b"rm-rf@example.com",
        ] {
            let reply = wire
                .ask(kind::EXTENDED, |frame| {
                    frame
                        .string(extension)
                        .string(b"/inbox/a")
                        .string(b"/inbox/b")
                })
                .await?;
            ensure!(reply.status() == Some(status::OP_UNSUPPORTED), "{reply:?}");
        }
        anyhow::Ok(())
    })?;
    wait_for("the records of the refusals", || {
        (gateway.denials("").ok()? >= 9).then_some(())
    })
}

#[test]
fn a_reused_request_id_gets_both_answers() -> Result<()> {
    let gateway = Gateway::start()?;
    gateway.runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut wire = connection.sftp().await?;
        for path in [&b"/inbox"[..], b"/inbox/missing"] {
            wire.send(&Frame::request(kind::STAT, 5).string(path))
                .await?;
        }
        let mut kinds =
            [wire.reply().await?, wire.reply().await?].map(|reply| (reply.id, reply.kind));
        kinds.sort_unstable();
        ensure!(kinds == [(5, kind::STATUS), (5, kind::ATTRS)], "{kinds:?}");
        Ok(())
    })
}

#[test]
fn names_are_bytes_from_the_client_to_the_disk() -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;

    let gateway = Gateway::start()?;
    gateway.runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut wire = connection.sftp().await?;
        for (name, content) in [(&b"caf\xe9.txt"[..], b"one"), (b"caf\xe8.txt", b"two")] {
            wire.put(&[b"/inbox/", name].concat(), content).await?;
            let stored = gateway
                .stored
                .path()
                .join(std::ffi::OsStr::from_bytes(name));
            ensure!(fs::read(&stored)? == content, "{}", stored.display());
        }
        let names = wire.list(b"/inbox").await?;
        ensure!(
            names.contains(&b"caf\xe9.txt".to_vec()) && names.contains(&b"caf\xe8.txt".to_vec())
        );
        Ok(())
    })
}

#[test]
fn no_path_leaves_the_mount_wherever_its_dots_stand() -> Result<()> {
    let gateway = Gateway::start()?;
    let outside = gateway
        .stored
        .path()
        .parent()
        .context("a parent")?
        .join("outside-the-mount");
    let _ = fs::remove_dir(&outside);
    gateway.runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut wire = connection.sftp().await?;
        for path in [
            &b"/inbox/../outside-the-mount"[..],
            b"../outside-the-mount",
            b"/../outside-the-mount",
            b"/inbox/../../outside-the-mount",
            b"/inbox/x/../../../outside-the-mount",
            b"/inbox/./.././outside-the-mount",
            b"//inbox//..//..//outside-the-mount",
            b"inbox/../..//outside-the-mount/.",
            b"/inbox/..\0/outside-the-mount",
            b"/inbox\0/../outside-the-mount",
        ] {
            let made = wire
                .ask(kind::MKDIR, |frame| frame.string(path).u32(0))
                .await?
                .status();
            ensure!(
                made != Some(status::OK) && made.is_some(),
                "{path:?} was made: {made:?}"
            );
        }
        // The neighbour: dots that stay below the mount.
        let inside = wire
            .ask(kind::MKDIR, |frame| {
                frame.string(b"/inbox/a/../../inbox/./inside").u32(0)
            })
            .await?
            .status();
        ensure!(inside == Some(status::OK), "{inside:?}");
        ensure!(gateway.stored.path().join("inside").is_dir());
        ensure!(!outside.exists(), "made {}", outside.display());
        Ok(())
    })
}

#[test]
fn paths_of_64_kibibytes_and_names_with_nul_are_refused_and_the_channel_goes_on() -> Result<()> {
    let gateway = Gateway::start()?;
    gateway.runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut wire = connection.sftp().await?;
        let long = [b"/inbox/".as_slice(), &vec![b'a'; 64 << 10]].concat();
        let deep = b"/inbox"
            .iter()
            .copied()
            .chain(b"/a".repeat(32 << 10))
            .collect::<Vec<_>>();
        for path in [long.as_slice(), &deep, b"/inbox/a\0b", b"\0"] {
            for request in [
                kind::STAT,
                kind::LSTAT,
                kind::REMOVE,
                kind::OPENDIR,
                kind::REALPATH,
                kind::READLINK,
            ] {
                let reply = wire.ask(request, |frame| frame.string(path)).await?;
                ensure!(
                    reply.status().is_some_and(|code| code != status::OK),
                    "type {request}, {} bytes: {reply:?}",
                    path.len()
                );
            }
        }
        wire.put(b"/inbox/good.txt", b"good").await
    })
}

/// Starts an operation while the journal's disk is full and gets its status.
async fn open_status(wire: &mut Wire, path: &[u8]) -> Result<Option<u32>> {
    Ok(wire
        .ask(kind::OPEN, |frame| {
            frame.string(path).u32(open::UPLOAD).u32(0)
        })
        .await?
        .status())
}

#[test]
fn nothing_reaches_the_backend_while_the_journals_disk_is_full_and_service_returns_by_itself()
-> Result<()> {
    const DISK: u64 = 12 << 20;
    let stored = files::folder("stored")?;
    let proxy = Plan::new(Place::Loopback)?
        .journal_disk(DISK)
        .backend("peer", Backend::local(stored.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", ".")])?;
    Runtime::new()?.block_on(async {
        let connection = log_in(proxy.address, &alice).await?;
        let mut wire = connection.sftp().await?;
        wire.put(b"/inbox/before.txt", b"before").await?;

        let filler = proxy.journal.join("filler");
        let mut file = fs::File::create(&filler)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        // What is left of the last page and of the reserve may take a few records more.
        let deadline = Instant::now() + Duration::from_secs(30);
        while open_status(&mut wire, b"/inbox/filling").await? != Some(status::FAILURE) {
            ensure!(Instant::now() < deadline, "the disk never got full");
        }
        let before: Vec<_> = fs::read_dir(stored.path())?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .collect();
        for number in 0..50 {
            let path = format!("/inbox/refused-{number}");
            let made = wire
                .ask(kind::MKDIR, |frame| frame.string(path.as_bytes()).u32(0))
                .await?;
            ensure!(made.status() == Some(status::FAILURE), "{made:?}");
            ensure!(
                wire.path_status(kind::REMOVE, b"/inbox/before.txt").await?
                    == Some(status::FAILURE)
            );
        }
        let after: Vec<_> = fs::read_dir(stored.path())?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .collect();
        ensure!(
            before == after,
            "the backend was touched: {before:?} became {after:?}"
        );
        ensure!(fs::read(stored.path().join("before.txt"))? == b"before");

        drop(file);
        fs::remove_file(&filler)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while wire
            .ask(kind::MKDIR, |frame| frame.string(b"/inbox/back").u32(0))
            .await?
            .status()
            != Some(status::OK)
        {
            ensure!(Instant::now() < deadline, "service doesn't return");
        }
        Ok(())
    })?;
    proxy.journal_is_sound()
}

#[test]
fn new_sessions_wait_while_the_journals_disk_is_nearly_full_and_old_ones_go_on() -> Result<()> {
    const DISK: u64 = 12 << 20;
    let stored = files::folder("stored")?;
    let proxy = Plan::new(Place::Loopback)?
        .journal_disk(DISK)
        .backend("peer", Backend::local(stored.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", ".")])?;
    let reasons = || -> Result<Vec<String>> {
        let records = proxy.records()?;
        let of_disk = records
            .iter()
            .filter(|record| record["event"] == "log.disk");
        Ok(of_disk
            .map(|record| record["reason"].as_str().unwrap_or_default().to_owned())
            .collect())
    };
    Runtime::new()?.block_on(async {
        let connection = log_in(proxy.address, &alice).await?;
        let mut wire = connection.sftp().await?;
        let filler = proxy.journal.join("filler");
        for (share, reason) in [(84, "space_low"), (93, "space_short")] {
            fs::write(&filler, vec![0; (DISK * share / 100) as usize - (1 << 20)])?;
            wait_for("the record of the disk", || {
                reasons()
                    .ok()?
                    .iter()
                    .any(|told| told == reason)
                    .then_some(())
            })?;
            let path = format!("/inbox/{reason}");
            let made = wire
                .ask(kind::MKDIR, |frame| frame.string(path.as_bytes()).u32(0))
                .await?;
            ensure!(made.status() == Some(status::OK), "{made:?}");
            ensure!(log_in(proxy.address, &alice).await.is_ok() == (share == 84));
        }
        fs::remove_file(&filler)?;
        wait_for("the room to be seen", || {
            (reasons().ok()?.last()? == "space_enough").then_some(())
        })?;
        log_in(proxy.address, &alice).await.map(drop)
    })?;
    ensure!(reasons()? == ["space_low", "space_short", "space_enough"]);
    Ok(())
}

/// A server that says what it is told to for each line that it reads, and nothing after that.
fn scripted_ftp(
    greeting: Option<&'static str>,
    answers: &'static [&'static str],
) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut out = stream.try_clone()?;
                if let Some(greeting) = greeting {
                    out.write_all(greeting.as_bytes())?;
                }
                let mut answers = answers.iter();
                for line in BufReader::new(stream).lines() {
                    line?;
                    if let Some(answer) = answers.next() {
                        out.write_all(answer.as_bytes())?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ok(address)
}

fn plain_ftp(address: SocketAddr) -> Backend {
    Backend::custom(&format!(
        "kind = \"ftp\"\naddress = \"{address}\"\nuser = \"lab\"\npassword_file = \"PASSWORD_FILE\"\ntls = \"none\"\n\
         plaintext_exception = {{ reason = \"test\", approver = \"test\", expires = \"2099-12-31\" }}\n\
         timeout_seconds = 2\n"
    ))
}

#[test]
fn a_backend_that_refuses_or_hangs_gives_a_failure_in_time_and_the_other_mount_works() -> Result<()>
{
    let stored = files::folder("stored")?;
    let refusing = scripted_ftp(Some("220 ready\r\n"), &["331 password?\r\n", "530 no\r\n"])?;
    let silent = scripted_ftp(None, &[])?;
    let hanging = scripted_ftp(
        Some("220 ready\r\n"),
        &["331 password?\r\n", "230 welcome\r\n"],
    )?;
    let nobody = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.local_addr()?
    };
    let mut plan = Plan::new(Place::Loopback)?.backend("disk", Backend::local(stored.path()));
    let mut mounts = vec![Mount::all("/disk", "disk", ".")];
    for (name, address) in [
        ("refusing", refusing),
        ("silent", silent),
        ("hanging", hanging),
        ("nobody", nobody),
    ] {
        plan = plan.backend(name, plain_ftp(address));
        mounts.push(Mount::all(&format!("/{name}"), name, "."));
    }
    let proxy = plan.start()?;
    let alice = proxy.account("alice", &mounts)?;
    Runtime::new()?.block_on(async {
        let connection = log_in(proxy.address, &alice).await?;
        for name in ["refusing", "silent", "hanging", "nobody"] {
            let mut wire = connection.sftp().await?;
            let asked = Instant::now();
            let path = format!("/{name}/report.csv");
            let refused = open_status(&mut wire, path.as_bytes()).await?;
            ensure!(refused == Some(status::FAILURE), "{name}: {refused:?}");
            ensure!(
                asked.elapsed() < Duration::from_secs(15),
                "{name} took {:?}",
                asked.elapsed()
            );
            wire.put(format!("/disk/{name}").as_bytes(), b"works")
                .await?;
        }
        anyhow::Ok(())
    })?;
    let records = proxy.records()?;
    for name in ["refusing", "silent", "hanging", "nobody"] {
        let path = format!("/{name}/report.csv");
        let opened = |record: &&Value| {
            record.pointer("/body/path").and_then(Value::as_str) == Some(path.as_str())
        };
        let intent = records
            .iter()
            .find(opened)
            .with_context(|| format!("no intent for {path}"))?;
        let outcome = records
            .iter()
            .find(|record| {
                record.get("event") == Some(&"op.outcome".into())
                    && record.get("op_id") == intent.get("op_id")
            })
            .with_context(|| format!("no outcome for {path}"))?;
        ensure!(
            outcome.get("outcome") == Some(&"failure".into()),
            "{outcome}"
        );
        ensure!(
            outcome
                .pointer("/body/error")
                .and_then(Value::as_str)
                .is_some_and(|error| !error.is_empty()),
            "the record says why: {outcome}"
        );
    }
    Ok(())
}

#[test]
fn a_backend_that_dies_in_the_middle_of_an_upload_leaves_nothing_under_the_final_name() -> Result<()>
{
    let mut server = Vsftpd::start(Place::Loopback, Tls::None)?;
    let home = server.home.clone();
    let proxy = Plan::new(Place::Loopback)?
        .backend("peer", Backend::vsftpd(&server))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", ".")])?;
    Runtime::new()?.block_on(async {
        let connection = log_in(proxy.address, &alice).await?;
        let mut wire = connection.sftp().await?;
        let handle = wire.open(b"/inbox/report.csv", open::UPLOAD).await?;
        ensure!(wire.write(&handle, 0, &[b'x'; 32 << 10]).await? == Some(status::OK));
        server.process.kill_with_children()?;
        // Some writes may still fit the buffers of the dead connection; the close must not succeed.
        for number in 1..20_u64 {
            if wire
                .write(&handle, number * (32 << 10), &[b'x'; 32 << 10])
                .await?
                != Some(status::OK)
            {
                break;
            }
        }
        let closed = wire.close(&handle).await?;
        ensure!(closed.is_some_and(|code| code != status::OK), "{closed:?}");
        ensure!(!home.join("report.csv").exists(), "published");
        let next = wire.path_status(kind::REMOVE, b"/inbox/report.csv").await?;
        ensure!(next.is_some_and(|code| code != status::OK), "{next:?}");
        Ok(())
    })
}
