//! The SSH port before anybody is logged in: what it offers, and what it does with those who don't play along.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_tests::client::ssh_answers;
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, finish_within, succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;

/// A gateway with one local backend and these keys of `[server]`.
fn gateway(settings: &[(&'static str, &str)]) -> Result<(Proxy, TempDir)> {
    let storage = files::folder("storage")?;
    let mut plan = Plan::new(Place::Loopback)?.backend("archive", Backend::local(storage.path()));
    for (key, value) in settings {
        plan = plan.server(key, value);
    }
    Ok((plan.start()?, storage))
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn read_line(stream: &mut TcpStream) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8(line)?)
}

/// True once the server has closed the connection; what it sends before is thrown away.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            }
        }
    }
}

/// A packet in clear with eight bytes of padding (RFC 4253 section 6).
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (5 + payload.len()) % 8 + 8;
    let length = u32::try_from(1 + payload.len() + padding).expect("a short packet");
    let mut packet = length.to_be_bytes().to_vec();
    packet.push(u8::try_from(padding).expect("at most sixteen"));
    packet.extend_from_slice(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

fn records(proxy: &Proxy, event: &str, reason: &str) -> Result<Vec<Value>> {
    Ok(proxy
        .records()?
        .into_iter()
        .filter(|record| {
            record.get("event").and_then(Value::as_str) == Some(event)
                && record.get("reason").and_then(Value::as_str) == Some(reason)
        })
        .collect())
}

fn wait_for_record(proxy: &Proxy, event: &str, reason: &str) -> Result<Value> {
    wait_for(&format!("{event} {reason}"), || {
        records(proxy, event, reason).ok()?.pop()
    })
}

#[test]
fn the_first_packet_offers_exactly_the_algorithms_of_the_policy() -> Result<()> {
    let (proxy, _storage) = gateway(&[])?;
    let mut stream = connect(proxy.address)?;
    assert_eq!(read_line(&mut stream)?, "SSH-2.0-Portcullis\r\n");
    stream.write_all(b"SSH-2.0-Test\r\n")?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut packet)?;
    let padding = usize::from(packet[0]);
    let payload = &packet[1..packet.len() - padding];

    let mut golden = Vec::new();
    for list in [
        "mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org,ext-info-s,kex-strict-s-v00@openssh.com",
        "ssh-ed25519",
        "aes256-gcm@openssh.com,aes256-ctr",
        "aes256-gcm@openssh.com,aes256-ctr",
        "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com",
        "none",
        "none",
        "",
        "",
    ] {
        golden.extend_from_slice(&u32::try_from(list.len())?.to_be_bytes());
        golden.extend_from_slice(list.as_bytes());
    }
    // No guessed packet follows; reserved.
    golden.extend_from_slice(&[0; 5]);
    assert_eq!(payload[0], 20, "SSH_MSG_KEXINIT");
    assert_eq!(
        String::from_utf8_lossy(&payload[17..]),
        String::from_utf8_lossy(&golden),
        "after the sixteen random bytes of the cookie"
    );
    Ok(())
}

#[test]
fn a_packet_of_length_zero_or_four_gigabytes_ends_its_connection_and_costs_no_memory() -> Result<()>
{
    let (mut proxy, _storage) = gateway(&[("max_unauthenticated_per_source", "100")])?;
    let before = resident_kilobytes(&proxy)?;
    for length in [0_u32, 1, 2, 3, 7, 256 * 1024 + 1, 1 << 31, u32::MAX] {
        let mut stream = connect(proxy.address)?;
        stream.write_all(b"SSH-2.0-Test\r\n")?;
        stream.write_all(&length.to_be_bytes())?;
        // The length may have been enough for it to hang up.
        let _ = stream
            .write_all(&[0; 64])
            .and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        assert!(is_closed(&mut stream), "length {length}");
    }
    // Those that announce the longest packet which is read, and then send nothing.
    let waiting: Vec<_> = (0..64)
        .map(|_| {
            let mut stream = connect(proxy.address)?;
            stream.write_all(b"SSH-2.0-Test\r\n")?;
            stream.write_all(&(256_u32 * 1024 - 8).to_be_bytes())?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    assert!(ssh_answers(Place::Loopback, proxy.address, PATIENCE)?);
    assert!(proxy.process.is_running());
    let grown = resident_kilobytes(&proxy)?.saturating_sub(before);
    assert!(
        grown < 64 * 512,
        "{grown} KiB for {} connections",
        waiting.len()
    );
    Ok(())
}

fn resident_kilobytes(proxy: &Proxy) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.process.id()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("the kernel says how much memory is used")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

#[test]
fn who_only_keeps_the_line_busy_is_cut_when_the_login_took_too_long() -> Result<()> {
    let (proxy, _storage) = gateway(&[("login_grace_seconds", "2")])?;
    let begun = Instant::now();

    let mut silent = connect(proxy.address)?;
    let mut dripping = connect(proxy.address)?;
    dripping.write_all(b"SSH-2.0-Test\r\n")?;
    dripping.set_read_timeout(Some(Duration::from_millis(200)))?;
    let ignore = packet(&[2, 0, 0, 0, 0]);
    while !is_closed(&mut dripping) {
        // It may be closed between the two.
        let _ = dripping.write_all(&ignore);
        assert!(begun.elapsed() < PATIENCE, "SSH_MSG_IGNORE keeps it open");
    }
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(is_closed(&mut silent));
    assert!(begun.elapsed() < Duration::from_secs(15));
    wait_for("both records", || {
        (records(&proxy, "conn.close", "login_grace").ok()?.len() == 2).then_some(())
    })
}

/// After the key exchange and before any login: opens a channel.
const OPEN_BEFORE_LOGIN: &str = r#"
import sys, time, paramiko
transport = paramiko.Transport((sys.argv[1], int(sys.argv[2])))
transport.start_client(timeout=20)
begun = time.monotonic()
try:
    transport.open_session(timeout=60)
    print("opened")
except (paramiko.SSHException, EOFError):
    print("refused after", time.monotonic() - begun)
"#;

#[test]
fn before_the_login_no_channel_opens_and_who_tries_is_cut() -> Result<()> {
    let (proxy, _storage) = gateway(&[])?;
    let output = finish_within(
        Command::new(locate::python_tool("python")?)
            .args(["-c", OPEN_BEFORE_LOGIN])
            .arg(proxy.address.ip().to_string())
            .arg(proxy.address.port().to_string()),
        PATIENCE,
    )?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(printed.starts_with("refused after"), "{printed}{output:?}");
    let closed = wait_for_record(&proxy, "conn.close", "unexpected_message")?;
    ensure!(closed["body"]["message"] == 90, "{closed}");
    let session = closed.get("session_id").context("a session")?;
    let events: Vec<_> = proxy
        .records()?
        .into_iter()
        .filter(|record| record.get("session_id") == Some(session))
        .filter_map(|record| record.get("event")?.as_str().map(str::to_owned))
        .collect();
    // It never asked for the authentication service, so that it was never open.
    assert_eq!(events, ["conn.close"]);
    Ok(())
}

#[test]
fn one_source_gets_no_more_unauthenticated_connections_than_its_share() -> Result<()> {
    let (proxy, _storage) = gateway(&[("max_unauthenticated_per_source", "3")])?;
    let mut admitted: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut stream = connect(proxy.address)?;
            read_line(&mut stream)?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    let mut refused = connect(proxy.address)?;
    assert!(is_closed(&mut refused));
    let record = wait_for_record(&proxy, "conn.open", "too_many_unauthenticated_from_source")?;
    assert_eq!(record.get("outcome").and_then(Value::as_str), Some("deny"));

    drop(admitted.pop());
    wait_for("a place that became free", || {
        let mut stream = connect(proxy.address).ok()?;
        read_line(&mut stream).ok()
    })?;
    Ok(())
}

/// A connection from another address of this machine.
fn connect_from(source: &str, address: SocketAddr) -> Result<TcpStream> {
    let stream = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )?;
    let source: std::net::SocketAddrV4 = format!("{source}:0").parse()?;
    rustix::net::bind(&stream, &source)?;
    rustix::net::connect(&stream, &address)?;
    let stream = TcpStream::from(stream);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[test]
fn all_unauthenticated_connections_together_have_a_limit() -> Result<()> {
    let (proxy, _storage) = gateway(&[("max_unauthenticated", "3")])?;
    let mut admitted = Vec::new();
    for source in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        let mut stream = connect_from(source, proxy.address)?;
        read_line(&mut stream)?;
        admitted.push(stream);
    }
    assert!(is_closed(&mut connect_from("127.0.0.4", proxy.address)?));
    wait_for_record(&proxy, "conn.open", "too_many_unauthenticated")?;
    Ok(())
}

#[test]
fn a_crowd_that_shows_nothing_makes_room_for_another_source_and_not_for_itself() -> Result<()> {
    let (proxy, _storage) = gateway(&[("max_unauthenticated", "3")])?;
    let mut crowd = Vec::new();
    for _ in 0..3 {
        let mut stream = connect_from("127.0.0.1", proxy.address)?;
        read_line(&mut stream)?;
        crowd.push(stream);
    }
    assert!(is_closed(&mut connect_from("127.0.0.1", proxy.address)?));
    let mut other = connect_from("127.0.0.2", proxy.address)?;
    read_line(&mut other)?;
    assert!(is_closed(&mut crowd[0]));
    wait_for_record(&proxy, "conn.close", "gave_way")?;
    // The other two keep theirs.
    for kept in &mut crowd[1..] {
        kept.set_read_timeout(Some(Duration::from_millis(1)))?;
        assert!(!is_closed(kept));
    }
    Ok(())
}

#[test]
fn a_shortage_of_file_descriptors_passes() -> Result<()> {
    let (mut proxy, _storage) = gateway(&[("max_unauthenticated_per_source", "200")])?;
    let open = fs::read_dir(format!("/proc/{}/fd", proxy.process.id()))?.count();
    succeed(
        Command::new("prlimit")
            .arg("--pid")
            .arg(proxy.process.id().to_string())
            .arg(format!("--nofile={}", open + 8)),
    )?;
    let crowd: Vec<_> = (0..60)
        .map(|_| connect(proxy.address))
        .collect::<Result<_>>()?;
    proxy
        .process
        .wait_until_printed("connections can't be accepted")?;
    drop(crowd);
    let answered = wait_for("an answer after the shortage", || {
        ssh_answers(Place::Loopback, proxy.address, PATIENCE)
            .ok()
            .filter(|&answered| answered)
    });
    ensure!(
        answered.is_ok() && proxy.process.is_running(),
        "{}",
        proxy.process.log()
    );
    Ok(())
}
