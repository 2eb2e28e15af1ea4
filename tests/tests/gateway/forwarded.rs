//! Behind a load balancer: whose connection it is comes in a PROXY header, from whom it may come.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::haproxy::Haproxy;
use serde_json::Value;
use tempfile::TempDir;

use crate::sessions::{text, wait_for_record};

const TEXT: &str = "PROXY TCP4 203.0.113.7 198.51.100.1 40000 22\r\n";

fn gateway(settings: &[(&'static str, &str)], sections: &str) -> Result<(Proxy, TempDir)> {
    let storage = files::folder("storage")?;
    let mut plan = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .sections(sections);
    for (key, value) in settings {
        plan = plan.server(key, value);
    }
    Ok((plan.start()?, storage))
}

fn behind_loopback(sections: &str) -> Result<(Proxy, TempDir)> {
    gateway(&[("proxy_protocol_from", "[\"127.0.0.0/8\"]")], sections)
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends the bytes and nothing more, and tells whether the gateway spoke SSH.
fn speaks_after(address: SocketAddr, bytes: &[u8]) -> Result<bool> {
    let mut stream = connect(address)?;
    let mut answer = Vec::new();
    let heard = stream
        .write_all(bytes)
        .and_then(|()| stream.shutdown(Shutdown::Write))
        .and_then(|()| stream.read_to_end(&mut answer));
    match heard {
        Ok(_) => {}
        // A gateway that has heard enough may hang up before all is sent.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected
            ) => {}
        Err(error) => bail!("the gateway neither answers nor ends the connection: {error}"),
    }
    ensure!(
        answer.is_empty() || answer.starts_with(b"SSH-2.0-"),
        "{answer:?}"
    );
    Ok(!answer.is_empty())
}

fn closed_from(proxy: &Proxy, source: &str) -> Result<Value> {
    wait_for_record(proxy, &format!("conn.close of {source}"), |record| {
        text(record, "event") == "conn.close" && source_of(record) == source
    })
}

fn source_of(record: &Value) -> String {
    let Some(source) = record.get("src") else {
        return String::new();
    };
    let field = |name: &str| source.get(name).cloned().unwrap_or_default();
    format!(
        "{}:{}",
        field("ip").as_str().unwrap_or_default(),
        field("port")
    )
}

fn refused(proxy: &Proxy, reason: &str) -> Result<Value> {
    wait_for_record(proxy, &format!("conn.open refused: {reason}"), |record| {
        text(record, "event") == "conn.open" && text(record, "reason") == reason
    })
}

/// A header of version 2 for TCP over IPv4.
fn binary(command: u8, body: &[u8]) -> Result<Vec<u8>> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11]);
    header.extend(u16::try_from(body.len())?.to_be_bytes());
    header.extend(body);
    Ok(header)
}

const ADDRESSES: [u8; 12] = [203, 0, 113, 8, 198, 51, 100, 1, 0x9c, 0x40, 0, 22];

#[test]
fn the_client_of_a_real_load_balancer_is_the_source_on_record_in_both_forms() -> Result<()> {
    let (proxy, _storage) = behind_loopback("")?;
    let balancer = Haproxy::start(Place::Loopback, proxy.address)?;
    for address in [balancer.text, balancer.binary] {
        let mut stream = connect(address)?;
        let mut banner = [0; 8];
        stream.read_exact(&mut banner)?;
        ensure!(&banner == b"SSH-2.0-", "{banner:?}");
        let client = stream.local_addr()?;
        drop(stream);
        let record = closed_from(&proxy, &client.to_string())?;
        let destination = record.get("dst").and_then(|dst| dst.get("port"));
        ensure!(
            destination.and_then(Value::as_u64) == Some(address.port().into()),
            "{record}"
        );
    }
    Ok(())
}

#[test]
fn a_header_gives_the_source_and_the_local_command_does_not() -> Result<()> {
    let (proxy, _storage) = behind_loopback("")?;
    for (header, source) in [
        (TEXT.as_bytes().to_vec(), "203.0.113.7:40000"),
        (binary(0x21, &ADDRESSES)?, "203.0.113.8:40000"),
    ] {
        ensure!(speaks_after(proxy.address, &header)?);
        closed_from(&proxy, source)?;
    }
    let mut check = connect(proxy.address)?;
    check.write_all(&binary(0x20, &ADDRESSES)?)?;
    let mut banner = [0; 8];
    check.read_exact(&mut banner)?;
    let own = check.local_addr()?.to_string();
    drop(check);
    closed_from(&proxy, &own)?;
    Ok(())
}

#[test]
fn a_header_that_is_cut_or_wrong_at_any_byte_never_gets_an_answer() -> Result<()> {
    let (proxy, _storage) = behind_loopback("")?;
    let binary = binary(0x21, &ADDRESSES)?;
    for header in [TEXT.as_bytes(), &binary] {
        for end in 0..header.len() {
            let cut = header.get(..end).context("a part")?;
            ensure!(!speaks_after(proxy.address, cut)?, "cut at {end}");
        }
    }
    for at in 0..TEXT.len() {
        let mut wrong = TEXT.as_bytes().to_vec();
        *wrong.get_mut(at).context("a byte")? = 0xff;
        ensure!(!speaks_after(proxy.address, &wrong)?, "byte {at}");
    }
    // Behind its first sixteen bytes any address is as good as another.
    for at in 0..16 {
        let mut wrong = binary.clone();
        *wrong.get_mut(at).context("a byte")? ^= 0x80;
        ensure!(!speaks_after(proxy.address, &wrong)?, "byte {at}");
    }
    // Of so many in a second not all are on record.
    for (bytes, reason) in [
        (&b"SSH-2.0-client\r\n"[..], "proxy_header_missing"),
        (b"PROXY TCP4 nonsense\r\n", "proxy_header_invalid"),
    ] {
        wait_for("a record of the refusal", || {
            speaks_after(proxy.address, bytes).ok()?;
            let records = proxy.records().ok()?;
            let is_wanted = |record: &&Value| text(record, "reason") == reason;
            records.iter().find(is_wanted).map(|_| ())
        })?;
    }
    ensure!(
        speaks_after(proxy.address, TEXT.as_bytes())?,
        "and then a good one"
    );
    Ok(())
}

#[test]
fn who_is_named_must_send_a_header_and_who_is_not_may_not() -> Result<()> {
    let (named, _storage) = behind_loopback("")?;
    ensure!(!speaks_after(named.address, b"SSH-2.0-client\r\n")?);
    refused(&named, "proxy_header_missing")?;

    let (unnamed, _storage) = gateway(&[("proxy_protocol_from", "[\"192.0.2.10/32\"]")], "")?;
    let mut stream = connect(unnamed.address)?;
    let own = stream.local_addr()?.to_string();
    stream.write_all(TEXT.as_bytes())?;
    stream.write_all(b"SSH-2.0-client\r\n")?;
    let mut answer = Vec::new();
    // The gateway's own identification comes first; then it ends the connection.
    let _ = stream.read_to_end(&mut answer);
    let record = closed_from(&unnamed, &own)?;
    ensure!(text(&record, "outcome") == "failure", "{record}");
    let of_it = unnamed
        .records()?
        .iter()
        .filter(|record| source_of(record) == own)
        .count();
    ensure!(of_it == 1, "{of_it} records");
    Ok(())
}

#[test]
fn the_client_behind_a_load_balancer_pays_for_its_failures_and_its_neighbour_does_not() -> Result<()>
{
    let (proxy, _storage) =
        behind_loopback("[penalties]\nno_auth_seconds = 3600\nmax_seconds = 3600\n")?;
    ensure!(speaks_after(proxy.address, TEXT.as_bytes())?);
    closed_from(&proxy, "203.0.113.7:40000")?;
    ensure!(!speaks_after(proxy.address, TEXT.as_bytes())?, "no penalty");
    refused(&proxy, "source_penalty")?;
    let neighbour = TEXT.replace("203.0.113.7", "203.0.114.7");
    ensure!(speaks_after(proxy.address, neighbour.as_bytes())?);
    Ok(())
}

#[test]
fn penalties_hold_over_a_crash_of_the_gateway() -> Result<()> {
    let (mut proxy, _storage) =
        behind_loopback("[penalties]\nno_auth_seconds = 3600\nmax_seconds = 3600\n")?;
    let store = proxy.folder().join("throttles.db-wal");
    let before = std::fs::metadata(&store)?.len();
    ensure!(speaks_after(proxy.address, TEXT.as_bytes())?);
    closed_from(&proxy, "203.0.113.7:40000")?;
    wait_for("the count on disk", || {
        (std::fs::metadata(&store).ok()?.len() > before).then_some(())
    })?;
    proxy.crash_and_restart()?;
    ensure!(!speaks_after(proxy.address, TEXT.as_bytes())?, "forgotten");
    Ok(())
}

#[test]
fn a_source_of_no_account_is_refused_at_accept_and_one_of_an_account_is_not() -> Result<()> {
    let (proxy, _storage) = gateway(
        &[
            ("proxy_protocol_from", "[\"127.0.0.0/8\"]"),
            ("accept", "\"listed-sources\""),
        ],
        "",
    )?;
    let alice = proxy.account("alice", &[])?;
    ensure!(
        !speaks_after(proxy.address, TEXT.as_bytes())?,
        "nobody is listed"
    );
    proxy.command(&["account", "set", &alice.name, "--source", "203.0.113.0/29"])?;
    wait_for("the source to be listed", || {
        speaks_after(proxy.address, TEXT.as_bytes())
            .ok()?
            .then_some(())
    })?;
    let mapped = "PROXY TCP6 ::ffff:203.0.113.6 ::ffff:198.51.100.1 40000 22\r\n";
    ensure!(speaks_after(proxy.address, mapped.as_bytes())?);
    let neighbour = TEXT.replace("203.0.113.7", "203.0.113.8");
    ensure!(!speaks_after(proxy.address, neighbour.as_bytes())?);
    refused(&proxy, "source_not_listed")?;
    proxy.command(&["account", "disable", &alice.name])?;
    wait_for("the disabled account's source to be refused", || {
        (!speaks_after(proxy.address, TEXT.as_bytes()).ok()?).then_some(())
    })
}
