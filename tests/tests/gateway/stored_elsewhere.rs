//! Files that were changed past the gateway on the servers and in the bucket behind it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{Client, Step};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::succeed;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use portcullis_tests::server::seaweed::{BUCKET, Seaweed};
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use tempfile::TempDir;

use crate::stored_files::{Findings, findings, verify};

/// How to get past the gateway at what it stored.
pub(crate) enum Behind<'a> {
    Disk(PathBuf),
    /// A folder of the bucket.
    Bucket(&'a Seaweed, &'static str),
}

impl Behind<'_> {
    fn object(folder: &str, name: &str) -> String {
        format!("store:{BUCKET}/{folder}/{name}")
    }

    pub(crate) fn get(&self, name: &str) -> Result<Vec<u8>> {
        match self {
            Self::Disk(folder) => Ok(fs::read(folder.join(name))?),
            Self::Bucket(server, folder) => {
                let here = files::folder("object")?;
                let local = here.path().join("content");
                let mut rclone = server.rclone(Place::Loopback);
                let object = Self::object(folder, name);
                succeed(rclone.arg("copyto").arg(object).arg(&local))?;
                Ok(fs::read(local)?)
            }
        }
    }

    pub(crate) fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        match self {
            Self::Disk(folder) => Ok(fs::write(folder.join(name), content)?),
            Self::Bucket(server, folder) => {
                let here = files::folder("object")?;
                let local = here.path().join("content");
                fs::write(&local, content)?;
                let mut rclone = server.rclone(Place::Loopback);
                let copy = rclone.args(["copyto", "--ignore-times"]).arg(&local);
                succeed(copy.arg(Self::object(folder, name))).map(drop)
            }
        }
    }

    /// Puts all that a local folder holds into one there.
    pub(crate) fn put_folder(&self, name: &str, local: &Path) -> Result<()> {
        match self {
            Self::Disk(folder) => {
                let to = folder.join(name);
                succeed(Command::new("cp").arg("-r").arg(local).arg(&to))?;
                let owner = format!("--reference={}", folder.display());
                succeed(Command::new("chown").arg("-R").arg(owner).arg(&to))?;
                succeed(Command::new("chmod").arg("-R").arg("u+rwX,go+rX").arg(&to)).map(drop)
            }
            Self::Bucket(server, folder) => {
                let mut rclone = server.rclone(Place::Loopback);
                let copy = rclone.arg("copy").arg(local);
                succeed(copy.arg(Self::object(folder, name))).map(drop)
            }
        }
    }

    /// All files that lie in a folder there, by their paths below it; hidden ones too.
    pub(crate) fn get_folder(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        match self {
            Self::Disk(folder) => all_files(&folder.join(name)),
            Self::Bucket(server, folder) => {
                let here = files::folder("objects")?;
                let mut rclone = server.rclone(Place::Loopback);
                let copy = rclone.arg("copy").arg(Self::object(folder, name));
                succeed(copy.arg(here.path()))?;
                all_files(here.path())
            }
        }
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self {
            Self::Disk(folder) => Ok(fs::remove_file(folder.join(name))?),
            Self::Bucket(server, folder) => {
                let mut rclone = server.rclone(Place::Loopback);
                succeed(rclone.arg("deletefile").arg(Self::object(folder, name))).map(drop)
            }
        }
    }
}

/// By their paths below the folder.
pub(crate) fn all_files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            let below = all_files(&entry.path())?.into_iter();
            found.extend(below.map(|(below, content)| (format!("{name}/{below}"), content)));
        } else {
            found.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(found)
}

struct Gateway {
    proxy: Proxy,
    alice: Account,
    local: TempDir,
}

impl Gateway {
    fn start(backend: Backend, directory: &str) -> Result<Self> {
        let proxy = Plan::new(Place::Loopback)?
            .backend("peer", backend)
            .start()?;
        let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", directory)])?;
        Ok(Self {
            proxy,
            alice,
            local: files::folder("here")?,
        })
    }

    fn session(&mut self, steps: &[Step]) -> Result<()> {
        let factors = Factors::KeyThenPassword;
        let (proxy, alice) = (&self.proxy, &mut self.alice);
        Client::Openssh.session(Place::Loopback, proxy, alice, factors, steps)?;
        Ok(())
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<Step> {
        let local = format!("{}-{}", name.replace('/', "-"), content.len());
        let local = self.local.path().join(local);
        fs::write(&local, content)?;
        Ok(Step::Put {
            local,
            remote: format!("/inbox/{name}"),
        })
    }

    fn look(&self, arguments: &[&str]) -> Result<Findings> {
        findings(&verify(
            &self.proxy.config,
            &[&["--json"], arguments].concat(),
        )?)
    }
}

const ASKED: [&str; 2] = ["--backend", "peer"];

/// Uploads, tampers and looks; `directory` is where the mount leads on the backend.
fn finds_what_was_changed(
    backend: Backend,
    directory: &str,
    behind: &Behind<'_>,
) -> Result<Gateway> {
    let mut gateway = Gateway::start(backend, directory)?;
    let uploads = [
        Step::MakeFolder("/inbox/sub".to_owned()),
        gateway.put("altered", b"as it was")?,
        gateway.put("removed", b"something")?,
        gateway.put("back", b"the first version")?,
        gateway.put("sound", b"nobody touches it")?,
        gateway.put("sub/large", &vec![b'l'; 1_500_000])?,
        gateway.put("large", &vec![b'b'; 1_500_000])?,
        Step::Rename {
            from: "/inbox/large".to_owned(),
            to: "/inbox/renamed".to_owned(),
        },
    ];
    gateway.session(&uploads)?;
    let first = behind.get("back")?;
    let again = gateway.put("back", b"the second version")?;
    gateway.session(&[again])?;
    let (found, code) = gateway.look(&ASKED)?;
    ensure!(found.is_empty() && code == Some(0), "{found:?} {code:?}");

    behind.put("altered", b"as it isn't")?;
    behind.remove("removed")?;
    behind.put("added", b"by whom?")?;
    behind.put("back", &first)?;
    for name in ["renamed", "sub/large"] {
        let mut large = behind.get(name)?;
        *large.last_mut().context("it is not empty")? ^= 1;
        behind.put(name, &large)?;
    }
    let place = format!("/peer/{}", directory.trim_matches('/'));
    let place = place.trim_end_matches('/');
    let expected = [
        ("added", "unknown"),
        ("altered", "altered"),
        ("back", "rolled_back"),
        ("removed", "missing"),
        ("renamed", "altered"),
        ("sub/large", "altered"),
    ];
    let expected = expected.map(|(name, kind)| (format!("{place}/{name}"), kind.to_owned()));
    let (found, code) = gateway.look(&ASKED)?;
    ensure!(found == expected && code == Some(1), "{found:?} {code:?}");
    let (by_mount, _) = gateway.look(&[&ASKED[..], &["--mount", "/inbox"]].concat())?;
    ensure!(by_mount == expected, "{by_mount:?}");
    gateway.proxy.journal_is_sound()?;
    Ok(gateway)
}

#[test]
fn a_bucket_is_compared_without_being_asked_for() -> Result<()> {
    let server = Seaweed::start(Place::Loopback)?;
    let backend = Backend::seaweed(&server)?.encrypted();
    let behind = Behind::Bucket(&server, "partners/alice");
    let gateway = finds_what_was_changed(backend, "/partners/alice", &behind)?;
    let (found, code) = gateway.look(&[])?;
    ensure!(found.len() == 6 && code == Some(1), "{found:?} {code:?}");
    Ok(())
}

#[test]
fn an_ftp_server_is_compared_when_it_is_asked_for() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    let behind = Behind::Disk(server.home.clone());
    let gateway = finds_what_was_changed(Backend::vsftpd(&server), "/", &behind)?;
    // Others may put files there.
    let (found, code) = gateway.look(&[])?;
    ensure!(found.is_empty() && code == Some(0), "{found:?} {code:?}");
    Ok(())
}

#[test]
fn an_sftp_server_is_compared_and_named_once_if_it_is_gone() -> Result<()> {
    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    let server = Openssh::start(Place::Loopback, Subsystem::Internal, &key)?;
    let directory = server.home.display().to_string();
    let backend = Backend::openssh(&server, &key).with("encryption = \"on\"");
    let behind = Behind::Disk(server.home.clone());
    let gateway = finds_what_was_changed(backend, &directory, &behind)?;
    drop(server);
    let (found, code) = gateway.look(&ASKED)?;
    let expected = [(format!("/peer{directory}"), "unreadable".to_owned())];
    ensure!(found == expected && code == Some(1), "{found:?} {code:?}");
    Ok(())
}
