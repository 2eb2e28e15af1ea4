//! Files on servers and in a bucket are wrapped to other keys, encrypted and destroyed by a running gateway, and by one that is killed
//! while it does so.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Proxy};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use portcullis_tests::server::proftpd::{Proftpd, Protocol};
use portcullis_tests::server::seaweed::Seaweed;
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use serde_json::Value;

use crate::at_rest::Gateway;
use crate::migration::{done, names};
use crate::rotation::{Asked, all_read_as_uploaded, command, new_key, number, rotate, upload};
use crate::sessions::{body, text};
use crate::shredding::shred;
use crate::stored_elsewhere::Behind;
use crate::stored_files::{findings, verify};

const ON: &str = "encryption = \"on\"";
const MIGRATING: &str = "encryption = \"migrating\"";
const HEAD: &[u8] = b"\x89PCREST\n";
const FILES: usize = 60;
/// A bucket's; elsewhere none is needed.
const EXCEPTION: &str = "unencrypted_exception = { reason = \"lab\", approver = \"J. Doe\", expires = \"2099-12-31\" }\n";

pub(crate) fn openssh() -> Result<(Openssh, tempfile::TempDir, Backend)> {
    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    let server = Openssh::start(Place::Loopback, Subsystem::Internal, &key)?;
    let backend = Backend::openssh(&server, &key);
    Ok((server, keys, backend))
}

/// Files of which the key was exchanged, as the records have it.
fn rewrapped(proxy: &Proxy) -> Result<usize> {
    let is_one = |record: &Value| {
        text(record, "state") == "rewrapped" || body(record, "state") == "rewrapped"
    };
    Ok(proxy
        .records()?
        .iter()
        .filter(|record| is_one(record))
        .count())
}

/// Kills the gateway in a rotation several times, and lets it end.
fn outlives_kills(directory: &'static str, backend: Backend) -> Result<()> {
    let mut gateway = Gateway::over(directory, |_| backend)?;
    let written = upload(&mut gateway, FILES)?;
    let edit = new_key(&gateway)?;
    gateway.proxy.reload(&edit)?;
    for share in [1, 20, 40] {
        let asked = command(&gateway.proxy.config, &["--rate", "30KB/s"])?.spawn()?;
        let mut asked = Asked(asked);
        wait_for("some of the files", || {
            (rewrapped(&gateway.proxy).ok()? >= share).then_some(())
        })?;
        gateway.proxy.process.kill()?;
        asked.0.kill()?;
        gateway.proxy.start_again(Place::Loopback)?;
        all_read_as_uploaded(&mut gateway, &written)?;
    }
    ensure!(rewrapped(&gateway.proxy)? < FILES, "killed in the middle");
    let (answer, code) = rotate(&gateway.proxy.config)?;
    ensure!(code == Some(0), "{answer}");
    let (now, before) = (number(&answer, "rewrapped"), number(&answer, "current"));
    ensure!(
        now > 0 && before >= 40 && now + before == FILES as u64,
        "{answer}"
    );
    let unneeded = wait_for("the word that the old key is not needed", || {
        let (answer, _) = rotate(&gateway.proxy.config).ok()?;
        (names(&answer, "unneeded_keys").len() == 1).then_some(answer)
    })?;
    ensure!(number(&unneeded, "current") == FILES as u64, "{unneeded}");
    gateway.proxy.process.kill()?;
    fs::remove_file(gateway.proxy.folder().join("at-rest.kek"))?;
    let config = fs::read_to_string(&gateway.proxy.config)?;
    let lines = config
        .lines()
        .filter(|line| !line.starts_with("retired_key_files"));
    let config: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(&gateway.proxy.config, config)?;
    gateway.proxy.start_again(Place::Loopback)?;
    all_read_as_uploaded(&mut gateway, &written)?;
    let (found, code) = findings(&verify(
        &gateway.proxy.config,
        &["--json", "--backend", "disk"],
    )?)?;
    ensure!(found.is_empty() && code == Some(0), "{found:?}");
    gateway.proxy.journal_is_sound()
}

#[test]
fn a_rotation_on_an_sftp_server_outlives_kills() -> Result<()> {
    let (_server, _keys, backend) = openssh()?;
    outlives_kills(".", backend.with(ON))
}

#[test]
fn a_rotation_on_an_sftp_server_with_encrypted_names_outlives_kills() -> Result<()> {
    let (_server, _keys, backend) = openssh()?;
    outlives_kills("partner", backend.with(ON).with("encrypted_names = true"))
}

#[test]
fn a_rotation_on_an_ftp_server_outlives_kills() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    outlives_kills("/", Backend::vsftpd(&server).with(ON))
}

#[test]
fn a_rotation_in_a_bucket_with_encrypted_names_outlives_kills() -> Result<()> {
    let server = Seaweed::start(Place::Loopback)?;
    let backend = Backend::seaweed(&server)?.encrypted();
    outlives_kills("partners/alice", backend.with("encrypted_names = true"))
}

/// From plain files to encrypted ones under another key, and one destroyed.
fn is_tended(
    directory: &'static str,
    backend: Backend,
    behind: &Behind<'_>,
    remains: &str,
) -> Result<()> {
    let is_bucket = matches!(behind, Behind::Bucket(..));
    let off = if is_bucket {
        format!("encryption = \"off\"\n{EXCEPTION}")
    } else {
        "encryption = \"off\"\n".to_owned()
    };
    let migrating = format!("{MIGRATING}\n");
    let mut gateway = Gateway::over(directory, |_| backend.with(MIGRATING))?;
    gateway
        .proxy
        .reload(|text| text.replace(&migrating, &off))?;
    for name in ["sound", "altered"] {
        fs::write(gateway.local(name), format!("the content of {name}"))?;
        gateway.succeed(&format!("put {name}"))?;
    }
    let large = files::random_bytes(9 << 20)?;
    fs::write(gateway.local("large"), &large)?;
    gateway.succeed("put large")?;
    gateway
        .proxy
        .reload(|text| text.replace(&off, &migrating))?;
    fs::write(gateway.local("young"), "from after the change")?;
    gateway.succeed("put young")?;
    behind.put("altered", b"somebody else's content")?;
    behind.put("unknown", b"from before there was a gateway")?;

    let edit = new_key(&gateway)?;
    gateway.proxy.reload(&edit)?;
    let (answer, code) = rotate(&gateway.proxy.config)?;
    ensure!(
        code == Some(0) && number(&answer, "rewrapped") == 1,
        "{answer}"
    );
    ensure!(number(&answer, "plain") == 4, "{answer}");
    gateway.succeed("get young back-young\nget sound back-sound")?;
    ensure!(fs::read(gateway.local("back-young"))? == b"from after the change");

    let (answer, code) = done(&gateway.proxy.config)?;
    ensure!(
        code == Some(1) && number(&answer, "encrypted") == 3,
        "{answer}"
    );
    let failures = answer.get("failures").and_then(Value::as_array);
    let failures = failures.context("failures")?;
    let named: Vec<_> = failures.iter().map(|one| text(one, "path")).collect();
    ensure!(
        named.len() == 1 && named.iter().all(|path| path.ends_with("/altered")),
        "{answer}"
    );
    ensure!(behind.get("altered")? == b"somebody else's content");
    for name in ["sound", "large", "unknown", "young"] {
        ensure!(behind.get(name)?.starts_with(HEAD), "{name}");
    }
    behind.put("altered", b"the content of altered")?;
    let (answer, code) = done(&gateway.proxy.config)?;
    ensure!(
        code == Some(0) && number(&answer, "encrypted") == 1,
        "{answer}"
    );
    ensure!(names(&answer, "migrated") == ["disk"], "{answer}");
    let on = format!("{ON}\n");
    gateway.proxy.reload(|text| text.replace(&migrating, &on))?;
    gateway.succeed("get large back-large\nget unknown back-unknown\nget altered back-altered")?;
    ensure!(fs::read(gateway.local("back-large"))? == large);

    // A head that is not authentic is named, and nobody touches it.
    let mut stored = behind.get("unknown")?;
    if let Some(byte) = stored.get_mut(100) {
        *byte ^= 1;
    }
    behind.put("unknown", &stored)?;
    let (answer, code) = rotate(&gateway.proxy.config)?;
    ensure!(
        code == Some(1) && number(&answer, "failed") == 1,
        "{answer}"
    );
    ensure!(behind.get("unknown")? == stored, "it was touched");

    let below = format!("{}/sound", directory.trim_end_matches('/'));
    let config = gateway.proxy.config.clone();
    let output = shred(&config, &below, "J. Doe")?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(behind.get("sound").is_err(), "it is gone");
    let records = gateway.proxy.records()?;
    let tombstone = records
        .iter()
        .find(|record| text(record, "event") == "rest.tombstone")
        .context("a tombstone")?;
    ensure!(
        body(tombstone, "copies_may_remain") == remains,
        "{tombstone}"
    );
    ensure!(body(tombstone, "uploaded_by") == "alice", "{tombstone}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        said.contains("copies may remain") != remains.is_empty(),
        "{said}"
    );
    gateway.proxy.journal_is_sound()
}

#[test]
fn files_on_an_sftp_server_are_tended() -> Result<()> {
    let (server, _keys, backend) = openssh()?;
    let behind = Behind::Disk(server.home.clone());
    is_tended(".", backend, &behind, "")
}

#[test]
fn files_on_vsftpd_are_tended() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    let behind = Behind::Disk(server.home.clone());
    is_tended(
        "/",
        Backend::vsftpd(&server),
        &behind,
        "freed blocks of the server",
    )
}

#[test]
fn files_on_proftpd_are_tended() -> Result<()> {
    let server = Proftpd::start(Place::Loopback, Protocol::Ftps, None)?;
    let behind = Behind::Disk(server.home.clone());
    is_tended(
        "/",
        Backend::proftpd(&server),
        &behind,
        "freed blocks of the server",
    )
}

#[test]
fn files_in_a_bucket_are_tended() -> Result<()> {
    let server = Seaweed::start(Place::Loopback)?;
    let behind = Behind::Bucket(&server, "partners");
    let backend = Backend::seaweed(&server)?.encrypted();
    is_tended("partners", backend, &behind, "bucket versioning")
}

/// A client that replaces a file again and again while its key is exchanged.
#[test]
fn a_client_that_replaces_a_file_in_a_rotation_wins() -> Result<()> {
    let server = Seaweed::start(Place::Loopback)?;
    let backend = Backend::seaweed(&server)?.encrypted();
    let mut gateway = Gateway::over("partners", |_| backend)?;
    let written = upload(&mut gateway, FILES)?;
    let edit = new_key(&gateway)?;
    gateway.proxy.reload(&edit)?;
    let asked = command(&gateway.proxy.config, &["--rate", "30KB/s"])?.spawn()?;
    let mut asked = Asked(asked);
    fs::write(gateway.local("new"), "replaced in the middle")?;
    for _ in 0..4 {
        gateway.succeed("put new many/0/0\nput new many/3/59\nput new many/6/48")?;
        std::thread::sleep(Duration::from_millis(200));
    }
    wait_for("the end of the rotation", || asked.0.try_wait().ok()?)?;
    let mut written = written;
    for name in ["0/0", "3/59", "6/48"] {
        written.insert(name.to_owned(), b"replaced in the middle".to_vec());
    }
    all_read_as_uploaded(&mut gateway, &written)?;
    gateway.proxy.journal_is_sound()
}
