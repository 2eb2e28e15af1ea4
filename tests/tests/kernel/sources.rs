//! Lists that come from files and feeds, as they are enforced.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use portcullis_tests::{agent::Agent, process::wait_for};
use rcgen::{CertifiedKey, PublicKeyData as _, generate_simple_self_signed};
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::{
    stage::{STRANGER, Wire},
    wire::gets_through,
};

const ANOTHER: &str = "192.0.2.67";

fn write(directory: &Path, name: &str, text: &str) {
    let new = directory.join(format!("{name}.tmp"));
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(new, directory.join(name)).unwrap();
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    wait_for(what, || is_so().then_some(())).unwrap();
}

fn source(agent: &Agent, name: &str) -> Option<Value> {
    let status = agent.status().unwrap();
    let sources = status["sources"].as_array().unwrap();
    sources
        .iter()
        .find(|source| source["name"] == name)
        .cloned()
}

#[test]
fn list_files_are_enforced_together_and_one_broken_file_keeps_all_as_they_are() {
    let wire = Wire::new();
    wire.outside
        .add_address("out0", ANOTHER.parse().unwrap(), 24)
        .unwrap();
    let directory = TempDir::new().unwrap();
    let agent = wire.agent_with(&format!(
        "[lists]\ndirectory = \"{}\"\n",
        directory.path().display()
    ));
    assert!(!gets_through(&wire, STRANGER));

    write(
        directory.path(),
        "a.txt",
        &format!("{STRANGER} scope=icmp\n"),
    );
    until("the file is enforced", || gets_through(&wire, STRANGER));

    write(directory.path(), "a.txt", "198.51.100.0/24\n");
    write(
        directory.path(),
        "b.csv",
        &format!("prefix,owner\n{ANOTHER},lab\n192.0.2.7/24,lab\n"),
    );
    until("the fault is told", || {
        source(&agent, "file:b.csv").is_some_and(|source| {
            let error = source["last_error"].as_str().unwrap_or_default();
            source["state"] == "failing"
                && error.starts_with("b.csv:3:1: ")
                && error.contains("did you mean 192.0.2.0/24?")
        })
    });
    assert_eq!(source(&agent, "directory").unwrap()["state"], "failing");
    assert!(
        gets_through(&wire, STRANGER),
        "the list in force is the old one"
    );
    assert!(!gets_through(&wire, ANOTHER));

    write(
        directory.path(),
        "b.csv",
        &format!("prefix,owner\n{ANOTHER},lab\n"),
    );
    until("both files are enforced", || gets_through(&wire, ANOTHER));
    assert!(!gets_through(&wire, STRANGER));

    fs::remove_file(directory.path().join("b.csv")).unwrap();
    until("the file's list is ended", || !gets_through(&wire, ANOTHER));
}

/// An HTTPS server in the gateway's own namespace that says the same to everybody.
struct Server {
    url: String,
    pin: String,
    content: Arc<Mutex<String>>,
}

impl Server {
    fn new(wire: &Wire) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::from_pem_slice(signing_key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = wire
            .gateway
            .inside(|| TcpListener::bind("127.0.0.1:0").unwrap())
            .unwrap();
        let pin = Sha256::digest(signing_key.subject_public_key_info());
        let server = Self {
            url: format!("https://{}/list.txt", listener.local_addr().unwrap()),
            pin: format!("sha256//{}", BASE64_STANDARD.encode(pin)),
            content: Arc::default(),
        };
        let (config, content) = (Arc::new(config), Arc::clone(&server.content));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, stream.unwrap());
                // A client that gives up is no failure of the server.
                let _ = answer(&mut stream, &content.lock().unwrap().clone());
            }
        });
        server
    }

    fn serve(&self, content: &str) {
        content.clone_into(&mut self.content.lock().unwrap());
    }
}

fn answer<S: std::io::Read + std::io::Write>(
    stream: &mut StreamOwned<ServerConnection, S>,
    content: &str,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{content}",
        content.len()
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}

#[test]
fn a_feed_and_its_update_are_enforced_and_a_broken_one_changes_nothing() {
    let wire = Wire::new();
    let server = Server::new(&wire);
    server.serve(&format!("{STRANGER}\n"));
    let agent = wire.agent_with(&format!(
        "[[feeds]]\nname = \"partner\"\nurl = \"{}\"\npins = [\"{}\"]\nevery = \"10s\"\n",
        server.url, server.pin
    ));
    until("the feed is enforced", || gets_through(&wire, STRANGER));

    server.serve("198.51.100.0/24\nnonsense\n");
    until("the fault is told", || {
        source(&agent, "feed:partner").is_some_and(|source| {
            source["last_error"]
                .as_str()
                .unwrap_or_default()
                .starts_with("list.txt:2:1: ")
        })
    });
    assert!(
        gets_through(&wire, STRANGER),
        "the last good content is in force"
    );

    server.serve("198.51.100.0/24\n");
    until("the update is enforced", || !gets_through(&wire, STRANGER));
}
