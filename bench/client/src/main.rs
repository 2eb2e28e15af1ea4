//! The SSH client of `cargo xtask bench sftp`, for what no partner's client does: hundreds of logins, sessions that stay
//! idle, requests whose replies nobody reads.
//!
//! A program of its own, so that xtask needs no SSH library. What it has to say is one line of JSON, or `ready`; after
//! `ready` it stays as it is until a line comes on its standard input, or the end of it.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "a command line tool: its output is its result"
)]

// The gateway tests' own: it sends exactly the bytes it is told to.
#[path = "../../../tests/tests/gateway/wire.rs"]
#[allow(dead_code, reason = "the gateway tests use more of it")]
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use serde_json::json;
use tokio::task::JoinSet;

use crate::wire::{Connection, Frame, kind, open, status};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    login: Login,
    #[command(subcommand)]
    command: Command,
}

/// Who logs in where.
#[derive(clap::Args)]
struct Login {
    /// Where the server listens
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    user: String,
    /// Private key
    #[arg(long)]
    key: PathBuf,
    /// What answers the prompt, where the key is not enough
    #[arg(long, env = "PORTCULLIS_BENCH_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Log in so many times, each over a new connection that is left at once; prints the seconds
    Logins {
        #[arg(long)]
        count: u32,
        #[arg(long, default_value_t = 1)]
        at_once: u32,
    },
    /// Log in so many times, look at PATH over SFTP each time, and stay
    Idle {
        #[arg(long)]
        count: u32,
        path: String,
    },
    /// Send so many READs of a file at once and read all replies; prints the seconds
    Reads {
        #[command(flatten)]
        reads: Reads,
    },
    /// Send so many READs of a file at once when a line comes on standard input, read nothing, and stay
    UnreadReads {
        #[command(flatten)]
        reads: Reads,
    },
    /// Open a file, write to it without end once a line comes on standard input, and never read a reply
    EndlessWrites { path: String },
    /// Send one READ anywhere in a file for each line that comes on standard input
    SingleReads {
        /// Bytes that each READ asks for
        #[arg(long)]
        length: u32,
        /// Bytes of the file
        #[arg(long)]
        span: u64,
        path: String,
    },
    /// Open so many files when a line comes on standard input, read or write some of each, and stay
    OpenFiles {
        #[arg(long)]
        count: u32,
        /// New files, of which 2 MiB are written before what comes in front of them
        #[arg(long)]
        write: bool,
        /// With --write the beginning of the names
        path: String,
    },
}

#[derive(clap::Args)]
struct Reads {
    #[arg(long)]
    count: u32,
    /// Bytes that each READ asks for
    #[arg(long, default_value_t = 261_120)]
    length: u32,
    path: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { login, command } = Arguments::parse();
    match command {
        Command::Logins { count, at_once } => logins(Arc::new(login), count, at_once).await,
        Command::Idle { count, path } => idle(&login, count, &path).await,
        Command::Reads { reads } => read_all(&login, &reads).await,
        Command::UnreadReads { reads } => {
            let connection = login.connect().await?;
            say_ready();
            wait_for_line();
            let wire = send_reads(&connection, &reads).await?;
            say_ready();
            wait_for_line();
            drop(wire);
            Ok(())
        }
        Command::EndlessWrites { path } => endless_writes(&login, &path).await,
        Command::SingleReads { length, span, path } => {
            single_reads(&login, length, span, &path).await
        }
        Command::OpenFiles { count, write, path } => open_files(&login, count, write, &path).await,
    }
}

impl Login {
    async fn connect(&self) -> Result<Connection> {
        let mut connection = Connection::open(self.address).await?;
        let (success, partial) = connection.key(&self.user, &self.key).await?;
        if success {
            return Ok(connection);
        }
        ensure!(partial, "the key was refused");
        let password = self
            .password
            .as_deref()
            .context("the server wants more than the key")?;
        let (success, _) = connection
            .keyboard_interactive(&self.user, password, "")
            .await?;
        ensure!(success, "the password was refused");
        Ok(connection)
    }
}

async fn logins(login: Arc<Login>, count: u32, at_once: u32) -> Result<()> {
    let left = Arc::new(AtomicU32::new(count));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (login, left) = (Arc::clone(&login), Arc::clone(&left));
        workers.spawn(async move {
            let take = |left: u32| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                login.connect().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    println!("{}", json!({ "seconds": started.elapsed().as_secs_f64() }));
    Ok(())
}

async fn idle(login: &Login, count: u32, path: &str) -> Result<()> {
    let mut sessions = Vec::new();
    for _ in 0..count {
        let connection = login.connect().await?;
        let mut wire = connection.sftp().await?;
        let reply = wire
            .ask(kind::STAT, |frame| frame.string(path.as_bytes()))
            .await?;
        ensure!(
            reply.kind == kind::ATTRS,
            "{path} has no attributes: {reply:?}"
        );
        sessions.push((connection, wire));
    }
    say_ready();
    wait_for_line();
    drop(sessions);
    Ok(())
}

async fn read_all(login: &Login, reads: &Reads) -> Result<()> {
    let connection = login.connect().await?;
    let started = Instant::now();
    let mut wire = send_reads(&connection, reads).await?;
    let mut answered = vec![false; usize::try_from(reads.count)?];
    for _ in 0..reads.count {
        let reply = wire.reply().await?;
        let length = u32::try_from(reply.string()?.len())?;
        ensure!(
            length == reads.length,
            "READ {} got {length} bytes",
            reply.id
        );
        let first = answered
            .get_mut(usize::try_from(reply.id)?)
            .context("a reply to a READ that was not sent")?;
        ensure!(!*first, "READ {} was answered twice", reply.id);
        *first = true;
    }
    println!("{}", json!({ "seconds": started.elapsed().as_secs_f64() }));
    Ok(())
}

/// Opens the file and sends READs of its beginning with the ids from 0 on, all in one piece.
async fn send_reads(connection: &Connection, reads: &Reads) -> Result<wire::Wire> {
    let mut wire = connection.sftp().await?;
    let handle = wire.open(reads.path.as_bytes(), open::READ).await?;
    let requests: Vec<u8> = (0..reads.count)
        .flat_map(|id| {
            Frame::request(kind::READ, id)
                .string(&handle)
                .u64(0)
                .u32(reads.length)
                .bytes()
        })
        .collect();
    wire.send_raw(requests).await?;
    Ok(wire)
}

async fn endless_writes(login: &Login, path: &str) -> Result<()> {
    const LENGTH: usize = 255 << 10;
    let connection = login.connect().await?;
    let mut wire = connection.sftp().await?;
    let handle = wire.open(path.as_bytes(), open::UPLOAD).await?;
    // The first one makes sure that the server behind takes data at all.
    let data = vec![0x5a; LENGTH];
    let written = wire.write(&handle, 0, &data).await?;
    ensure!(
        written == Some(status::OK),
        "the first WRITE got {written:?}"
    );
    say_ready();
    wait_for_line();
    for number in 1_u32.. {
        let frame = Frame::request(kind::WRITE, number)
            .string(&handle)
            .u64(u64::from(number) * u64::try_from(LENGTH)?)
            .string(&data);
        // Once nobody takes any more it waits until this program is ended from outside, or its patience.
        wire.send(&frame).await?;
    }
    bail!("no number is left")
}

async fn single_reads(login: &Login, length: u32, span: u64, path: &str) -> Result<()> {
    let connection = login.connect().await?;
    let mut wire = connection.sftp().await?;
    let handle = wire.open(path.as_bytes(), open::READ).await?;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    say_ready();
    while wait_for_line() {
        // Xorshift: the same places in every run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let offset = seed % (span - u64::from(length));
        let reply = wire
            .ask(kind::READ, |frame| {
                frame.string(&handle).u64(offset).u32(length)
            })
            .await?;
        let found = reply.string()?.len();
        ensure!(
            found == length as usize,
            "a READ at {offset} got {found} bytes"
        );
        say_ready();
    }
    Ok(())
}

async fn open_files(login: &Login, count: u32, write: bool, path: &str) -> Result<()> {
    const LENGTH: u32 = 128 << 10;
    const PIECES: u32 = 16;
    const LEFT_OUT: u32 = 3;
    let connection = login.connect().await?;
    let mut wire = connection.sftp().await?;
    say_ready();
    wait_for_line();
    let data = vec![0x5a; LENGTH as usize];
    for number in 0..count {
        if !write {
            let handle = wire.open(path.as_bytes(), open::READ).await?;
            for piece in 0..PIECES * 2 {
                let offset = u64::from(piece * LENGTH);
                let asked = wire.ask(kind::READ, |frame| {
                    frame.string(&handle).u64(offset).u32(LENGTH)
                });
                let found = asked.await?.string()?.len();
                ensure!(found == data.len(), "a READ got {found} bytes");
            }
            continue;
        }
        let name = format!("{path}-{number}");
        let handle = wire.open(name.as_bytes(), open::UPLOAD).await?;
        // Enough to go straight on to the disk; then a piece is left out, and what comes behind it has to wait.
        for piece in (0..=LEFT_OUT + PIECES).filter(|piece| *piece != LEFT_OUT) {
            let offset = u64::from(piece * LENGTH);
            let written = wire.write(&handle, offset, &data).await?;
            ensure!(written == Some(status::OK), "a WRITE got {written:?}");
        }
    }
    say_ready();
    wait_for_line();
    Ok(())
}

fn say_ready() {
    println!("ready");
}

/// False if none will come any more.
fn wait_for_line() -> bool {
    let mut line = String::new();
    matches!(std::io::stdin().read_line(&mut line), Ok(1..))
}
