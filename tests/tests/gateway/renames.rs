//! A gateway that is killed between the copy and the removal that a rename is on an object store.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::wire::{kind, log_in, status};
use anyhow::{Context, Result, ensure};
use portcullis_tests::account::Mount;
use portcullis_tests::place::Place;
use portcullis_tests::process::{succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy, UNENCRYPTED};
use portcullis_tests::server::seaweed::{BUCKET, Seaweed};
use serde_json::Value;
use tokio::runtime::Runtime;

/// A front before the object store, which lets no DELETE pass while it is told so.
struct Front {
    address: SocketAddr,
    holds: Arc<AtomicBool>,
    held: Arc<AtomicUsize>,
}

impl Front {
    fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let holds = Arc::new(AtomicBool::new(false));
        let held = Arc::new(AtomicUsize::new(0));
        let state = (Arc::clone(&holds), Arc::clone(&held));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (holds, held) = state.clone();
                // A client that was killed is what the test is about.
                std::thread::spawn(move || drop(serve(client, server, &holds, &held)));
            }
        });
        Ok(Self {
            address,
            holds,
            held,
        })
    }
}

/// One request, after which the connection is closed.
fn serve(
    mut client: TcpStream,
    server: SocketAddr,
    holds: &AtomicBool,
    held: &AtomicUsize,
) -> Result<()> {
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        more(&mut client, &mut received)?;
    };
    let head = String::from_utf8_lossy(received.get(..end).context("the head")?).into_owned();
    if head.starts_with("DELETE") && holds.load(Ordering::SeqCst) {
        held.fetch_add(1, Ordering::SeqCst);
        // Until the gateway dies.
        let _ = client.read(&mut [0]);
        return Ok(());
    }
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0_usize);
    while received.len() < end + length {
        more(&mut client, &mut received)?;
    }
    let mut upstream = TcpStream::connect(server)?;
    upstream.write_all(
        head.replacen("\r\n", "\r\nConnection: close\r\n", 1)
            .as_bytes(),
    )?;
    upstream.write_all(received.get(end..).unwrap_or_default())?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.shutdown(Shutdown::Write)?;
    Ok(())
}

fn more(client: &mut TcpStream, received: &mut Vec<u8>) -> Result<()> {
    let mut piece = [0; 16 << 10];
    let count = client.read(&mut piece)?;
    ensure!(count > 0, "the client ended in the midst of a request");
    received.extend_from_slice(piece.get(..count).unwrap_or_default());
    Ok(())
}

/// Where the rename of one trial leads from and to, and what is done to the bucket while the gateway is dead.
struct Trial {
    from: &'static str,
    to: &'static str,
    change: Option<&'static str>,
}

/// The outcome that the next start records of a rename.
fn outcome(proxy: &Proxy, from: &str) -> Result<Value> {
    proxy
        .records()?
        .into_iter()
        .find(|record| {
            let body = |field: &str| record.pointer(&format!("/body/{field}"));
            record.get("reason").and_then(Value::as_str) == Some("gateway_crashed")
                && body("sftp_op").and_then(Value::as_str) == Some("rename")
                && body("path").and_then(Value::as_str) == Some(from)
        })
        .with_context(|| format!("no record of the rename of {from}"))
}

#[test]
fn a_rename_that_was_copied_and_not_removed_at_a_kill_is_on_record_and_ended() -> Result<()> {
    let server = Seaweed::start(Place::Loopback)?;
    let front = Front::start(server.address)?;
    let (id, secret) = server.key_files()?;
    let backend = Backend::custom(&format!(
        "kind = \"s3\"\nendpoint = \"http://{}\"\nbucket = \"{BUCKET}\"\naccess_key_file = \"{}\"\n\
         secret_key_file = \"{}\"\ntimeout_seconds = 20\n{UNENCRYPTED}",
        front.address,
        id.display(),
        secret.display()
    ));
    let mut proxy = Plan::new(Place::Loopback)?
        .backend("bucket", backend)
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "bucket", "alice")])?;
    let runtime = Runtime::new()?;
    let stored = |name: &str| -> Result<Option<String>> {
        let listed = succeed(
            server
                .rclone(Place::Loopback)
                .args(["lsf", &format!("store:{BUCKET}/alice")]),
        )?;
        if !listed.lines().any(|line| line == name) {
            return Ok(None);
        }
        let read = format!("store:{BUCKET}/alice/{name}");
        succeed(server.rclone(Place::Loopback).args(["cat", &read])).map(Some)
    };

    for trial in [
        Trial {
            from: "a",
            to: "b",
            change: None,
        },
        // Somebody else writes to the bucket before the gateway is back.
        Trial {
            from: "c",
            to: "d",
            change: Some("theirs!"),
        },
    ] {
        let (from, to) = (
            format!("/inbox/{}", trial.from),
            format!("/inbox/{}", trial.to),
        );
        let address = proxy.address;
        let held = front.held.load(Ordering::SeqCst);
        let renaming = {
            let (alice, from, to) = (alice.clone(), from.clone(), to.clone());
            let holds = Arc::clone(&front.holds);
            runtime.spawn(async move {
                let connection = log_in(address, &alice).await?;
                let mut wire = connection.sftp().await?;
                wire.put(from.as_bytes(), b"content").await?;
                holds.store(true, Ordering::SeqCst);
                wire.ask(kind::RENAME, |frame| {
                    frame.string(from.as_bytes()).string(to.as_bytes())
                })
                .await
            })
        };
        wait_for("the removal that follows the copy", || {
            (front.held.load(Ordering::SeqCst) > held || renaming.is_finished()).then_some(())
        })?;
        ensure!(!renaming.is_finished(), "{}", proxy.process.log());
        proxy.process.kill()?;
        ensure!(runtime.block_on(renaming)?.is_err(), "nobody was told");
        ensure!(stored(trial.from)?.is_some() && stored(trial.to)?.is_some());
        if let Some(theirs) = trial.change {
            let target = format!("store:{BUCKET}/alice/{}", trial.from);
            let local = portcullis_tests::files::folder("theirs")?;
            let file = local.path().join("file");
            std::fs::write(&file, theirs)?;
            succeed(
                server
                    .rclone(Place::Loopback)
                    .arg("copyto")
                    .arg(&file)
                    .arg(&target),
            )?;
        }
        front.holds.store(false, Ordering::SeqCst);
        proxy.start_again(Place::Loopback)?;

        let record = outcome(&proxy, &from)?;
        let body = |field: &str| record.pointer(&format!("/body/{field}")).cloned();
        let text = |field: &str| body(field).and_then(|value| Some(value.as_str()?.to_owned()));
        let original = stored(trial.from)?;
        ensure!(text("path2") == Some(to) && text("state2").as_deref() == Some("present"));
        if let Some(theirs) = trial.change {
            ensure!(
                text("rename").as_deref() == Some("both_present"),
                "{record}"
            );
            ensure!(text("content").as_deref() == Some("different"), "{record}");
            ensure!(body("recovered") == Some(false.into()), "{record}");
            ensure!(text("state").as_deref() == Some("present"), "{record}");
            ensure!(original.as_deref() == Some(theirs), "{original:?}");
            let log = proxy.process.log();
            ensure!(log.contains("compare them and remove one"), "{log}");
        } else {
            ensure!(
                text("rename").as_deref() == Some("copied_not_removed"),
                "{record}"
            );
            ensure!(text("content").as_deref() == Some("same"), "{record}");
            ensure!(body("recovered") == Some(true.into()), "{record}");
            ensure!(text("state").as_deref() == Some("absent"), "{record}");
            ensure!(original.is_none(), "{original:?}");
        }
        ensure!(stored(trial.to)?.as_deref() == Some("content"));
        // What the gateway did by itself is on record as any other change.
        let records = proxy.records()?;
        let own = records.iter().find(|record| {
            let body = |field: &str| record.pointer(&format!("/body/{field}"));
            body("decision").and_then(Value::as_str) == Some("reconciling")
                && body("sftp_op").and_then(Value::as_str) == Some("rename")
                && body("path").and_then(Value::as_str) == Some(&from)
        });
        let own = own.context("the recovery was announced")?;
        ensure!(records.iter().any(|record| {
            record.get("event").and_then(Value::as_str) == Some("op.outcome")
                && record.get("session_id") == own.get("session_id")
                && record.get("op_id") == own.get("op_id")
        }));
    }

    // The account goes on where it was.
    let answered = runtime.block_on(async {
        let connection = log_in(proxy.address, &alice).await?;
        let mut wire = connection.sftp().await?;
        wire.ask(kind::RENAME, |frame| {
            frame.string(b"/inbox/b").string(b"/inbox/e")
        })
        .await
    })?;
    ensure!(answered.status() == Some(status::OK));
    proxy.journal_is_sound()
}
