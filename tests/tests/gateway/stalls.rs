//! What has made SFTP servers and gateways stand still for ever: each of these must end.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::netns::Namespace;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, succeed};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::wire::{self, Connection, Frame, Wire, kind, open, status};

/// More than the 27 MiB after which servers with one task for a channel have been seen to stop.
const LARGE: usize = 32 << 20;

/// The gateway on a folder of this machine.
fn local() -> Result<(Proxy, Account, TempDir)> {
    let stored = files::folder("stored")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("disk", Backend::local(stored.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", "/")])?;
    Ok((proxy, alice, stored))
}

/// The gateway before an sshd with these lines in its configuration.
fn proxied(settings: &str) -> Result<(Proxy, Account, Openssh)> {
    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    let upstream = Openssh::start_with(Place::Loopback, Subsystem::Internal, &key, settings)?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("upstream", Backend::openssh(&upstream, &key))
        .start()?;
    let home = upstream.home.display().to_string();
    let alice = proxy.account("alice", &[Mount::all("/inbox", "upstream", &home)])?;
    Ok((proxy, alice, upstream))
}

/// Uploads and downloads with OpenSSH's sftp as it comes, and compares.
fn there_and_back(proxy: &Proxy, alice: &mut Account, option: &str) -> Result<()> {
    let here = files::folder("here")?;
    let (sent, received) = (here.path().join("sent"), here.path().join("received"));
    fs::write(&sent, files::random_bytes(LARGE)?)?;
    let output = OpensshConnection::new(proxy, alice, Factors::KeyThenPassword)?
        .option(option)
        .sftp(
            Place::Loopback,
            &format!(
                "put {} /inbox/copy\nget /inbox/copy {}\n",
                sent.display(),
                received.display()
            ),
            4 * PATIENCE,
        )?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(fs::read(&sent)? == fs::read(&received)?, "the file differs");
    Ok(())
}

#[test]
fn a_client_with_its_own_buffers_transfers_a_large_file_on_a_local_disk() -> Result<()> {
    let (proxy, mut alice, _stored) = local()?;
    there_and_back(&proxy, &mut alice, "Compression=no")
}

#[test]
fn keys_are_renewed_every_5_mebibytes_on_both_sides_of_a_transfer() -> Result<()> {
    let (proxy, mut alice, upstream) = proxied("RekeyLimit 5M\nLogLevel DEBUG1\n")?;
    there_and_back(&proxy, &mut alice, "RekeyLimit=5M")?;
    let renewed = upstream
        .process
        .log()
        .lines()
        .filter(|line| line.contains("rekey"))
        .count();
    ensure!(
        renewed >= 2 * LARGE / (5 << 20),
        "the upstream renewed its keys only {renewed} times"
    );
    Ok(())
}

/// Sends the READs at once, each at its own place in the file, and checks every answer.
async fn all_are_answered(wire: &mut Wire, file: &[u8], reads: u32, length: u32) -> Result<()> {
    let handle = wire.open(b"/inbox/file", open::READ).await?;
    let place = |id: u32| u64::from(id) * u64::from(length) % file.len() as u64;
    let requests: Vec<u8> = (0..reads)
        .flat_map(|id| {
            Frame::request(kind::READ, id)
                .string(&handle)
                .u64(place(id))
                .u32(length)
                .bytes()
        })
        .collect();
    wire.send_raw(requests).await?;
    let mut open_ended: Vec<bool> = vec![true; usize::try_from(reads)?];
    for _ in 0..reads {
        let reply = wire.reply().await?;
        let slot = open_ended
            .get_mut(usize::try_from(reply.id)?)
            .context("the answer to a READ that was sent")?;
        ensure!(std::mem::take(slot), "READ {} was answered twice", reply.id);
        let start = usize::try_from(place(reply.id))?;
        let end = file.len().min(start + usize::try_from(length)?);
        ensure!(
            file.get(start..end) == Some(&reply.string()?[..]),
            "READ {} got other bytes",
            reply.id
        );
    }
    ensure!(wire.close(&handle).await? == Some(status::OK));
    Ok(())
}

fn pipelined_reads(proxy: &Proxy, alice: &Account, stored: &Path) -> Result<()> {
    let file = files::random_bytes(1 << 20)?;
    fs::write(stored.join("file"), &file)?;
    Runtime::new()?.block_on(async {
        let connection = wire::log_in(proxy.address, alice).await?;
        // 255 KiB is the most that the gateway announces; the others are what a debug build serves in seconds.
        for (reads, length) in [(300, 255 << 10), (1_500, 32 << 10), (6_000, 8 << 10)] {
            all_are_answered(&mut connection.sftp().await?, &file, reads, length)
                .await
                .with_context(|| format!("{reads} READs of {length} bytes"))?;
        }
        Ok(())
    })
}

#[test]
fn thousands_of_reads_sent_at_once_are_all_answered_from_a_local_disk() -> Result<()> {
    let (proxy, alice, stored) = local()?;
    pipelined_reads(&proxy, &alice, stored.path())
}

#[test]
fn thousands_of_reads_sent_at_once_are_all_answered_from_an_upstream() -> Result<()> {
    let (proxy, alice, upstream) = proxied("")?;
    pipelined_reads(&proxy, &alice, &upstream.home)
}

/// Uploads without waiting for each answer, at most 64 in flight as OpenSSH's sftp has them.
async fn upload(wire: &mut Wire, content: &[u8]) -> Result<()> {
    const CHUNK: usize = 64 << 10;
    const IN_FLIGHT: u32 = 64;
    let handle = wire.open(b"/inbox/up", open::UPLOAD).await?;
    let (mut sent, mut answered) = (0_u32, 0_u32);
    for (index, chunk) in content.chunks(CHUNK).enumerate() {
        let write = Frame::request(kind::WRITE, sent)
            .string(&handle)
            .u64(u64::try_from(index * CHUNK)?)
            .string(chunk);
        wire.send(&write).await?;
        sent += 1;
        while sent - answered >= IN_FLIGHT {
            ensure!(wire.reply().await?.status() == Some(status::OK));
            answered += 1;
        }
    }
    while answered < sent {
        ensure!(wire.reply().await?.status() == Some(status::OK));
        answered += 1;
    }
    ensure!(wire.close(&handle).await? == Some(status::OK));
    Ok(())
}

#[test]
fn both_directions_are_busy_over_socket_buffers_of_64_kibibytes() -> Result<()> {
    let namespace = Namespace::new("narrow")?;
    // Least, default and most: the kernel doesn't widen them, for the gateway neither.
    for buffers in ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"] {
        succeed(namespace.command("sysctl").args([
            "-q",
            "-w",
            &format!("{buffers}=4096 65536 65536"),
        ]))?;
    }
    let place = Place::Namespace(&namespace, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let stored = files::folder("stored")?;
    let proxy = Plan::new(place)?
        .backend("disk", Backend::local(stored.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", "/")])?;
    let file = files::random_bytes(1 << 20)?;
    fs::write(stored.path().join("file"), &file)?;
    let content = files::random_bytes(8 << 20)?;

    let address = proxy.address;
    let stream = namespace.inside(|| std::net::TcpStream::connect(address))??;
    stream.set_nonblocking(true)?;
    Runtime::new()?.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let connection = wire::log_in_over(Connection::over(stream).await?, &alice).await?;
        let (mut up, mut down) = (connection.sftp().await?, connection.sftp().await?);
        let (sent, received) = tokio::join!(
            upload(&mut up, &content),
            all_are_answered(&mut down, &file, 300, 32 << 10)
        );
        sent.context("the upload")?;
        received.context("the download")
    })?;
    ensure!(fs::read(stored.path().join("up"))? == content);
    Ok(())
}

#[test]
fn a_hundred_and_fifty_files_are_open_at_once() -> Result<()> {
    const FILES: usize = 150;
    let (proxy, alice, stored) = local()?;
    let content = |number: usize| format!("file {number}").into_bytes();
    for number in 0..FILES {
        fs::write(stored.path().join(number.to_string()), content(number))?;
    }
    Runtime::new()?.block_on(async {
        let connection = wire::log_in(proxy.address, &alice).await?;
        let mut wire = connection.sftp().await?;
        let mut handles = Vec::new();
        for number in 0..FILES {
            let path = format!("/inbox/{number}");
            handles.push(wire.open(path.as_bytes(), open::READ).await?);
        }
        for (number, handle) in handles.iter().enumerate() {
            let reply = wire
                .ask(kind::READ, |frame| frame.string(handle).u64(0).u32(100))
                .await?;
            ensure!(reply.string()? == content(number), "file {number}");
        }
        for handle in handles {
            ensure!(wire.close(&handle).await? == Some(status::OK));
        }
        Ok(())
    })
}

#[test]
fn a_channel_that_is_never_read_does_not_stop_the_others_of_its_connection() -> Result<()> {
    // 20 MiB: the gateway holds 9 of them and OpenSSH's window 2.
    const READS: u32 = 80;
    let (proxy, mut alice, stored) = local()?;
    File::create(stored.path().join("file"))?.set_len(255 << 10)?;
    let shared = format!("ControlPath={}", stored.path().join("shared").display());
    let first = OpensshConnection::new(&proxy, &mut alice, Factors::KeyThenPassword)?
        .option(&shared)
        .option("ControlMaster=yes");
    // Without the shared connection this one has no way in.
    let second = OpensshConnection::new(&proxy, &mut alice, Factors::KeyThenPassword)?
        .option(&shared)
        .option("ProxyCommand=false");

    let mut unread = Unread::start(&first, READS)?;
    let here = files::folder("here")?;
    let (sent, received) = (here.path().join("sent"), here.path().join("received"));
    fs::write(&sent, files::random_bytes(4 << 20)?)?;
    let output = second.sftp(
        Place::Loopback,
        &format!(
            "put {} /inbox/copy\nget /inbox/copy {}\n",
            sent.display(),
            received.display()
        ),
        2 * PATIENCE,
    )?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(fs::read(&sent)? == fs::read(&received)?, "the file differs");
    ensure!(
        unread.client.try_wait()?.is_none(),
        "the unread channel ended"
    );

    // Whoever reads at last gets all that was asked for.
    for _ in 0..READS {
        let data = frame(&mut unread.output)?;
        ensure!(data.first() == Some(&kind::DATA), "{:?}", data.get(..20));
    }
    Ok(())
}

/// One channel of a connection that OpenSSH's client shares among several: what it doesn't read stays in its window, and
/// the other channels go on.
struct Unread {
    client: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Unread {
    /// Asks for more than any window holds, and reads no byte of it.
    fn start(connection: &OpensshConnection, reads: u32) -> Result<Self> {
        let mut client = connection.start_subsystem(Place::Loopback)?;
        let (input, output) = (client.stdin.take(), client.stdout.take());
        let mut unread = Self {
            client,
            input: input.context("the client's input")?,
            output: output.context("the client's output")?,
        };
        let open = Frame::request(kind::OPEN, 1)
            .string(b"/inbox/file")
            .u32(open::READ)
            .u32(0);
        unread.send(&[Frame::new(kind::INIT).u32(3), open])?;
        ensure!(frame(&mut unread.output)?.first() == Some(&kind::VERSION));
        let opened = frame(&mut unread.output)?;
        ensure!(opened.first() == Some(&kind::HANDLE), "{opened:?}");
        // Type, id and the handle's length stand before it.
        let handle = opened.get(9..).context("a handle")?;
        let reads: Vec<Frame> = (0..reads)
            .map(|id| {
                Frame::request(kind::READ, id)
                    .string(handle)
                    .u64(0)
                    .u32(255 << 10)
            })
            .collect();
        unread.send(&reads)?;
        Ok(unread)
    }

    fn send(&mut self, frames: &[Frame]) -> Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        Ok(self.input.write_all(&bytes)?)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// The next frame without its length.
fn frame(output: &mut impl Read) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    output.read_exact(&mut length)?;
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    output.read_exact(&mut frame)?;
    Ok(frame)
}
