//! Files that lie on servers and in a bucket from before are encrypted by a gateway that is killed while it does so.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::Backend;
use portcullis_tests::server::seaweed::Seaweed;
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use serde_json::Value;

use crate::at_rest::Gateway;
use crate::migration::{done, migrate, names};
use crate::rotation::{Asked, all_read_as_uploaded, number};
use crate::sessions::{body, text};
use crate::stored_elsewhere::Behind;
use crate::stored_files::{findings, verify};
use crate::tended_elsewhere::openssh;

const MIGRATING: &str = "encryption = \"migrating\"";
const HEAD: &[u8] = b"\x89PCREST\n";
const FILES: usize = 12;
/// More than a second's worth, so that each file is copied in pieces with a wait between them.
const LENGTH: usize = 70_000;
const RATE: &str = "60KB/s";
/// Older than interrupted uploads are kept.
const LONG: Duration = Duration::from_secs(3 * 24 * 60 * 60);

fn from_before(behind: &Behind<'_>) -> Result<BTreeMap<String, Vec<u8>>> {
    let here = files::folder("before")?;
    let mut written = BTreeMap::new();
    for number in 0..FILES {
        let name = format!("{}/{number}", number % 2);
        let content = files::random_bytes(LENGTH + number)?;
        let file = here.path().join(&name);
        fs::create_dir_all(file.parent().context("a folder")?)?;
        fs::write(file, &content)?;
        written.insert(name, content);
    }
    behind.put_folder("many", here.path())?;
    Ok(written)
}

/// Below the folder that files were put into: which are encrypted, and what staging files there are. Each of the others is as it was.
fn look(behind: &Behind<'_>, written: &BTreeMap<String, Vec<u8>>) -> Result<(usize, Vec<String>)> {
    let mut encrypted = 0;
    let mut staged = Vec::new();
    let mut seen = 0;
    for (name, stored) in behind.get_folder("many")? {
        match written.get(&name) {
            None => staged.push(name),
            Some(content) => {
                let is_new = stored.starts_with(HEAD);
                ensure!(
                    is_new || stored == *content,
                    "{name} is neither old nor new"
                );
                encrypted += usize::from(is_new);
                seen += 1;
            }
        }
    }
    ensure!(seen == written.len(), "{seen} files are there");
    Ok((encrypted, staged))
}

/// Files that were encrypted, as the records have it.
fn recorded(gateway: &Gateway) -> Result<usize> {
    let is_one = |record: &Value| {
        text(record, "state") == "encrypted" || body(record, "state") == "encrypted"
    };
    let records = gateway.proxy.records()?;
    Ok(records.iter().filter(|record| is_one(record)).count())
}

fn make_old(folder: &Path, staged: &[String]) -> Result<()> {
    for name in staged {
        let file = fs::File::options().write(true).open(folder.join(name))?;
        file.set_modified(SystemTime::now() - LONG)?;
    }
    Ok(())
}

fn outlives_kills(directory: &'static str, backend: Backend, behind: &Behind<'_>) -> Result<()> {
    let mut gateway = Gateway::over(directory, |_| backend.with(MIGRATING))?;
    let written = from_before(behind)?;
    let home = match behind {
        Behind::Disk(home) => Some(home.join("many")),
        Behind::Bucket(..) => None,
    };
    let has_staged = || {
        let Some(home) = &home else { return true };
        ["0", "1"].iter().any(|folder| {
            let entries = fs::read_dir(home.join(folder))
                .into_iter()
                .flatten()
                .flatten();
            let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.any(|name| name.starts_with(".portcullis-"))
        })
    };
    let mut before = 0;
    for share in [1, 2, 4] {
        let mut asked = migrate(&gateway.proxy.config, &["--rate", RATE])?;
        let mut asked = Asked(asked.stdout(Stdio::null()).spawn()?);
        wait_for("some of the files, and the middle of another", || {
            (recorded(&gateway).ok()? >= share && has_staged()).then_some(())
        })?;
        gateway.proxy.process.kill()?;
        asked.0.kill()?;
        let (now, staged) = look(behind, &written)?;
        ensure!(
            now >= before.max(share) && now < FILES,
            "killed in the middle: {now}"
        );
        ensure!(
            home.is_none() || !staged.is_empty(),
            "killed between two files"
        );
        before = now;
        gateway.proxy.start_again(Place::Loopback)?;
        all_read_as_uploaded(&mut gateway, &written)?;
    }
    let (answer, code) = done(&gateway.proxy.config)?;
    ensure!(code == Some(0), "{answer}");
    let (now, earlier) = (number(&answer, "encrypted"), number(&answer, "current"));
    ensure!(
        earlier == before as u64 && now + earlier == FILES as u64,
        "{answer}"
    );
    ensure!(names(&answer, "migrated") == ["disk"], "{answer}");
    all_read_as_uploaded(&mut gateway, &written)?;

    let (encrypted, staged) = look(behind, &written)?;
    ensure!(encrypted == FILES);
    if let Some(home) = &home {
        // Whoever uses the directories later finds what the kills have left, and that it is old.
        gateway.proxy.process.kill()?;
        make_old(home, &staged)?;
        gateway.proxy.start_again(Place::Loopback)?;
        gateway.succeed("ls many/0\nls many/1")?;
        wait_for("the end of the staging files", || {
            look(behind, &written).ok()?.1.is_empty().then_some(())
        })?;
    } else {
        ensure!(staged.is_empty(), "{staged:?}");
    }
    let (found, code) = findings(&verify(
        &gateway.proxy.config,
        &["--json", "--backend", "disk"],
    )?)?;
    // Nobody uploaded them through the gateway.
    ensure!(found.len() == FILES && code == Some(1), "{found:?}");
    ensure!(found.iter().all(|(_, kind)| kind == "unknown"), "{found:?}");
    gateway.proxy.journal_is_sound()
}

#[test]
fn a_migration_on_an_sftp_server_outlives_kills() -> Result<()> {
    let (server, _keys, backend) = openssh()?;
    outlives_kills(".", backend, &Behind::Disk(server.home.clone()))
}

#[test]
fn a_migration_on_an_ftp_server_outlives_kills() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    let behind = Behind::Disk(server.home.clone());
    outlives_kills("/", Backend::vsftpd(&server), &behind)
}

#[test]
fn a_migration_in_a_bucket_outlives_kills() -> Result<()> {
    let server = Seaweed::start(Place::Loopback)?;
    let backend = Backend::seaweed(&server)?.encrypted();
    outlives_kills("partners", backend, &Behind::Bucket(&server, "partners"))
}
