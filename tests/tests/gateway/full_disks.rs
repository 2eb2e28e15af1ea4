//! Files are encrypted and wrapped to other keys on disks that have no room for a copy, and later when there is some.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use portcullis_tests::disk::SmallDisk;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::Backend;
use portcullis_tests::server::proftpd::{Proftpd, Protocol};
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use serde_json::Value;

use crate::at_rest::Gateway;
use crate::migration::{done, names};
use crate::rotation::{new_key, number, rotate};
use crate::sessions::text;
use crate::stored_elsewhere::all_files;
use crate::tended_elsewhere::openssh;

const MIGRATING: &str = "encryption = \"migrating\"";
const HEAD: &[u8] = b"\x89PCREST\n";
const DISK: u64 = 16 << 20;
/// Less than the largest file.
const ROOM: u64 = 1 << 20;
const LARGE: usize = 3 << 20;

/// What lies there from before.
fn from_before(disk: &SmallDisk) -> Result<BTreeMap<String, Vec<u8>>> {
    let root = disk.path();
    let about = fs::metadata(&root)?;
    let own = |path: &Path| chown(path, Some(about.uid()), Some(about.gid()));
    fs::create_dir(root.join("sub"))?;
    own(&root.join("sub"))?;
    let mut written = BTreeMap::new();
    // The directory is walked through after what is in the root.
    for (name, length) in [("large", LARGE), ("sub/1", 70_000), ("sub/2", 0)] {
        let content = files::random_bytes(length)?;
        fs::write(root.join(name), &content)?;
        own(&root.join(name))?;
        written.insert(name.to_owned(), content);
    }
    Ok(written)
}

fn are_read(gateway: &mut Gateway, written: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let back = gateway.local("back");
    let _ = fs::remove_dir_all(&back);
    fs::create_dir(&back)?;
    gateway.succeed("get -r . back")?;
    ensure!(
        all_files(&back)? == *written,
        "a client reads something else"
    );
    Ok(())
}

/// How a backend is.
#[derive(Clone, Copy)]
struct Kind {
    /// Keys are exchanged by a copy.
    copies: bool,
    /// It says that there is no room. Otherwise the one file fails, and the others are done.
    says_so: bool,
}

/// The large file is named, with the way out if it is known, and is as it was. No staging file stays.
fn had_no_room(
    kind: Kind,
    (answer, code): &(Value, Option<i32>),
    disk: &SmallDisk,
    before: &BTreeMap<String, Vec<u8>>,
) -> Result<()> {
    ensure!(*code == Some(1), "{answer}");
    let failures = answer.get("failures").and_then(Value::as_array);
    let failures = failures.context("failures")?;
    let [failure] = failures.as_slice() else {
        anyhow::bail!("not one: {answer}");
    };
    ensure!(text(failure, "path").ends_with("/large"), "{answer}");
    let way_out = "free as much as the largest file needs, and ask again";
    ensure!(
        text(failure, "reason").contains(way_out) == kind.says_so,
        "{answer}"
    );
    // A staging file goes with its session.
    wait_for("the old files and nothing else", || {
        let mut now = all_files(&disk.path()).ok()?;
        if !kind.says_so {
            now.retain(|name, _| name == "large" || !before.contains_key(name));
        }
        let is_old = now
            .iter()
            .all(|(name, stored)| before.get(name) == Some(stored));
        (is_old && (!kind.says_so || now.len() == before.len())).then_some(())
    })
}

fn waits_for_room(gateway: &mut Gateway, disk: &SmallDisk, kind: Kind) -> Result<()> {
    let written = from_before(disk)?;
    // Those that fit beside the large one.
    let fitting = if kind.says_so { 0 } else { 2 };
    disk.leave(ROOM)?;
    let answer = done(&gateway.proxy.config)?;
    had_no_room(kind, &answer, disk, &written)?;
    ensure!(number(&answer.0, "encrypted") == fitting, "{answer:?}");
    ensure!(names(&answer.0, "migrated").is_empty(), "{answer:?}");
    are_read(gateway, &written)?;
    disk.resize(DISK)?;
    let (answer, code) = done(&gateway.proxy.config)?;
    ensure!(
        code == Some(0) && number(&answer, "encrypted") == 3 - fitting,
        "{answer}"
    );
    ensure!(names(&answer, "migrated") == ["disk"], "{answer}");
    let stored = all_files(&disk.path())?;
    ensure!(stored.len() == 3 && stored.values().all(|stored| stored.starts_with(HEAD)));
    are_read(gateway, &written)?;

    let edit = new_key(gateway)?;
    gateway.proxy.reload(&edit)?;
    disk.leave(ROOM)?;
    let mut left = 3;
    if kind.copies {
        let answer = rotate(&gateway.proxy.config)?;
        had_no_room(kind, &answer, disk, &stored)?;
        ensure!(number(&answer.0, "rewrapped") == fitting, "{answer:?}");
        ensure!(names(&answer.0, "unneeded_keys").is_empty(), "{answer:?}");
        are_read(gateway, &written)?;
        disk.resize(DISK)?;
        left -= fitting;
    }
    let (answer, code) = rotate(&gateway.proxy.config)?;
    ensure!(
        code == Some(0) && number(&answer, "rewrapped") == left,
        "{answer}"
    );
    are_read(gateway, &written)?;
    ensure!(all_files(&disk.path())?.len() == 3);
    gateway.proxy.journal_is_sound()
}

const IN_PLACE: Kind = Kind {
    copies: false,
    says_so: true,
};

#[test]
fn a_full_disk_of_the_gateway_stops_a_migration_and_no_rotation() -> Result<()> {
    let folder = files::folder("small")?;
    let disk = SmallDisk::mount(&folder.path().join("disk"), DISK)?;
    let backend = Backend::local(&disk.path()).encrypted().with(MIGRATING);
    let mut gateway = Gateway::start(|_| backend)?;
    waits_for_room(&mut gateway, &disk, IN_PLACE)
}

#[test]
fn a_full_disk_of_an_sftp_server_stops_a_migration_and_no_rotation() -> Result<()> {
    let (server, _keys, backend) = openssh()?;
    let disk = SmallDisk::inside(&server.process, &server.home, DISK)?;
    let mut gateway = Gateway::start(|_| backend.with(MIGRATING))?;
    waits_for_room(&mut gateway, &disk, IN_PLACE)
}

#[test]
fn a_full_disk_of_vsftpd_stops_a_migration_and_a_rotation() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    let disk = SmallDisk::inside(&server.process, &server.home, DISK)?;
    let backend = Backend::vsftpd(&server).with(MIGRATING);
    let mut gateway = Gateway::over("/", |_| backend)?;
    let kind = Kind {
        copies: true,
        says_so: true,
    };
    waits_for_room(&mut gateway, &disk, kind)
}

/// It speaks of an input/output error.
#[test]
fn a_full_disk_of_proftpd_fails_what_does_not_fit() -> Result<()> {
    let server = Proftpd::start(Place::Loopback, Protocol::Ftps, None)?;
    let disk = SmallDisk::inside(&server.process, &server.home, DISK)?;
    let backend = Backend::proftpd(&server).with(MIGRATING);
    let mut gateway = Gateway::over("/", |_| backend)?;
    let kind = Kind {
        copies: true,
        says_so: false,
    };
    waits_for_room(&mut gateway, &disk, kind)
}
