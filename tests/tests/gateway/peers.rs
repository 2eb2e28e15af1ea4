//! The peer servers themselves, reached by a real client without the gateway: when a backend test
//! fails, these tell whether the peer is to blame.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{succeed, wait_for};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use portcullis_tests::server::proftpd::{Proftpd, Protocol};
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use portcullis_tests::server::{PASSWORD, USER};

const CONTENT: &[u8] = b"patient list\n";

/// Uploads twice over FTP: servers that want TLS session reuse fail on a later data connection.
fn upload_with_lftp(port: u16, home: &Path, tls: bool) -> Result<()> {
    let scratch = files::folder("lftp")?;
    let file = scratch.path().join("list.txt");
    fs::write(&file, CONTENT)?;
    succeed(Command::new("lftp").env("HOME", scratch.path()).arg("--norc").arg("-c").arg(format!(
        "set cmd:fail-exit yes; set net:max-retries 1; set net:timeout 20; set ssl:verify-certificate no; \
         set ftp:ssl-force {tls}; open -u {USER},'{PASSWORD}' -p {port} ftp://127.0.0.1; \
         put {local} -o first.txt; put {local} -o second.txt",
        local = file.display()
    )))?;
    assert_eq!(fs::read(home.join("first.txt"))?, CONTENT);
    assert_eq!(fs::read(home.join("second.txt"))?, CONTENT);
    Ok(())
}

fn upload_with_sftp(port: u16, home: &Path, key: &Path, target: &str) -> Result<()> {
    let scratch = files::folder("sftp")?;
    let file = scratch.path().join("list.txt");
    fs::write(&file, CONTENT)?;
    let batch = scratch.path().join("batch");
    fs::write(&batch, format!("put {} {target}\n", file.display()))?;
    succeed(
        Command::new("sftp")
            .args(["-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o"])
            .arg(format!(
                "UserKnownHostsFile={}/known",
                scratch.path().display()
            ))
            .args(["-o", "IdentityAgent=none", "-P", &port.to_string(), "-i"])
            .arg(key)
            .arg("-b")
            .arg(&batch)
            .arg(format!("{USER}@127.0.0.1")),
    )?;
    assert_eq!(fs::read(home.join("list.txt"))?, CONTENT);
    Ok(())
}

#[test]
fn vsftpd_takes_uploads_without_tls() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::None)?;
    upload_with_lftp(server.address.port(), &server.home, false)
}

#[test]
fn vsftpd_takes_uploads_over_tls_with_session_reuse() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    upload_with_lftp(server.address.port(), &server.home, true)
}

#[test]
fn proftpd_takes_uploads_without_tls() -> Result<()> {
    let server = Proftpd::start(Place::Loopback, Protocol::Ftp, None)?;
    upload_with_lftp(server.address.port(), &server.home, false)
}

#[test]
fn proftpd_takes_uploads_over_tls() -> Result<()> {
    let server = Proftpd::start(Place::Loopback, Protocol::Ftps, None)?;
    upload_with_lftp(server.address.port(), &server.home, true)
}

#[test]
fn proftpd_takes_uploads_over_sftp() -> Result<()> {
    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    let server = Proftpd::start(Place::Loopback, Protocol::Sftp, Some(&key))?;
    upload_with_sftp(server.address.port(), &server.home, &key, "list.txt")
}

#[test]
fn openssh_takes_uploads() -> Result<()> {
    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    for subsystem in [Subsystem::Internal, Subsystem::External] {
        let server = Openssh::start(Place::Loopback, subsystem, &key)?;
        upload_with_sftp(server.address.port(), &server.home, &key, "list.txt")?;
    }
    Ok(())
}

#[test]
fn a_peer_server_leaves_no_process_behind() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::None)?;
    let processes = server.process.descendants();
    assert!(
        !processes.is_empty(),
        "the server runs below its namespaces' process"
    );
    drop(server);
    for id in processes {
        wait_for("the end of the server's process", || {
            (!Path::new(&format!("/proc/{id}")).exists()).then_some(())
        })?;
    }
    Ok(())
}
