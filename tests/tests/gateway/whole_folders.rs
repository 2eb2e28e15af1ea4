//! Whole folders through clients that keep two places alike: nothing is lost, changed or left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{OpensshConnection, RcloneRemote, SshfsMount, lftp_script, rclone};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, succeed, succeed_within};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use tempfile::TempDir;

struct Gateway {
    proxy: Proxy,
    account: Account,
    storage: TempDir,
    /// What the partner has.
    tree: TempDir,
    /// What comes back.
    returned: TempDir,
}

impl Gateway {
    fn start() -> Result<Self> {
        let storage = files::folder("storage")?;
        let proxy = Plan::new(Place::Loopback)?
            .backend("archive", Backend::local(storage.path()))
            .start()?;
        let account = proxy.account("alice", &[Mount::all("/inbox", "archive", "/")])?;
        let tree = files::folder("tree")?;
        plant(tree.path())?;
        Ok(Self {
            proxy,
            account,
            storage,
            tree,
            returned: files::folder("returned")?,
        })
    }

    fn is_on_record(&self) -> Result<()> {
        let verdict = self.proxy.verify(&self.proxy.journal)?;
        ensure!(
            verdict.status.success(),
            "portcullis-verify: {}",
            String::from_utf8_lossy(&verdict.stdout)
        );
        Ok(())
    }
}

/// Folders in folders, empty files, names that a shell or a parser would trip over, and one file of several megabytes.
fn plant(root: &Path) -> Result<()> {
    for folder in ["empty", "in/2026/11", "names"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::write(
        root.join("in/2026/11/scan.dcm"),
        files::random_bytes(5_000_011)?,
    )?;
    fs::write(root.join("in/nothing"), b"")?;
    for (number, name) in [
        "two words",
        "it's",
        "M\u{fc}ller \u{1f3e5}.csv",
        "-dash",
        "#hash;semi",
    ]
    .iter()
    .enumerate()
    {
        fs::write(root.join("names").join(name), vec![b'x'; number * 40_000])?;
    }
    for number in 0..60 {
        fs::write(
            root.join(format!("in/2026/{number:03}.txt")),
            format!("report {number}\n"),
        )?;
    }
    let old = root.join("in/2026/000.txt");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o640))?;
    fs::File::options()
        .write(true)
        .open(&old)?
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000))?;
    Ok(())
}

fn are_alike(one: &Path, other: &Path) -> Result<()> {
    succeed(Command::new("diff").arg("-r").args([one, other])).map(drop)
}

fn modified(path: &Path) -> Result<u64> {
    let time = fs::metadata(path)?.modified()?;
    Ok(time.duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

#[test]
fn lftp_mirrors_a_folder_there_and_back_and_removes_what_is_gone() -> Result<()> {
    let gateway = Gateway::start()?;
    let Gateway {
        proxy,
        account,
        storage,
        tree,
        returned,
    } = &gateway;
    let mirror = |options: &str, from: &Path, to: &Path| {
        let commands = format!("mirror {options} {} {}\n", from.display(), to.display());
        lftp_script(Place::Loopback, proxy, account, &commands)
    };
    let there = Path::new("/inbox/tree");
    mirror("-R --parallel=3", tree.path(), there)?;
    let stored = storage.path().join("tree");
    are_alike(tree.path(), &stored)?;
    assert_eq!(modified(&stored.join("in/2026/000.txt"))?, 1_500_000_000);
    fs::remove_file(tree.path().join("in/2026/001.txt"))?;
    fs::write(
        tree.path().join("in/2026/002.txt"),
        "another, longer report\n",
    )?;
    mirror("-R --delete", tree.path(), there)?;
    are_alike(tree.path(), &stored)?;
    mirror("--parallel=3", there, returned.path())?;
    are_alike(tree.path(), returned.path())?;
    gateway.is_on_record()
}

#[test]
fn rclone_syncs_a_folder_there_and_back_and_finds_both_alike() -> Result<()> {
    let gateway = Gateway::start()?;
    let Gateway {
        proxy,
        account,
        storage,
        tree,
        returned,
    } = &gateway;
    let remote = RcloneRemote::new(proxy, account)?.path("/inbox/tree");
    let run = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        rclone(Place::Loopback, proxy, &words)
    };
    let here = tree.path().to_str().context("a path in UTF-8")?;
    let back = returned.path().to_str().context("a path in UTF-8")?;
    run(&["sync", "--create-empty-src-dirs", here, &remote])?;
    are_alike(tree.path(), &storage.path().join("tree"))?;
    // Compares the bytes, since no hash is served over exec.
    run(&["check", "--download", here, &remote])?;
    fs::remove_file(tree.path().join("names/it's"))?;
    run(&["sync", "--create-empty-src-dirs", here, &remote])?;
    are_alike(tree.path(), &storage.path().join("tree"))?;
    run(&["sync", "--create-empty-src-dirs", &remote, back])?;
    are_alike(tree.path(), returned.path())?;
    fs::write(storage.path().join("tree/in/nothing"), b"something")?;
    assert!(
        run(&["check", "--download", here, &remote]).is_err(),
        "a file that differs is found"
    );
    gateway.is_on_record()
}

#[test]
fn a_program_is_built_and_committed_inside_an_sshfs_mount() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let connection = OpensshConnection::new(
        &gateway.proxy,
        &mut gateway.account,
        Factors::KeyThenPassword,
    )?;
    let mount = SshfsMount::new(connection, "/inbox")?;
    let work = mount.path().join("work");
    succeed_within(
        Command::new("cp")
            .arg("-rp")
            .args([gateway.tree.path(), &work]),
        2 * PATIENCE,
    )?;
    are_alike(gateway.tree.path(), &work)?;
    fs::write(
        work.join("hello.c"),
        "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n",
    )?;
    succeed_within(
        Command::new("cc")
            .args(["-O1", "-o", "hello", "hello.c"])
            .current_dir(&work),
        2 * PATIENCE,
    )?;
    assert_eq!(succeed(&mut Command::new(work.join("hello")))?, "hello\n");

    let git = |folder: &Path, words: &[&str]| {
        succeed_within(
            Command::new("git")
                .args([
                    "-c",
                    "user.name=alice",
                    "-c",
                    "user.email=alice@example.org",
                ])
                .args([
                    "-c",
                    "init.defaultBranch=main",
                    "-c",
                    "safe.directory=*",
                    "-C",
                ])
                .arg(folder)
                .args(words)
                .env("HOME", gateway.returned.path())
                .env("GIT_CONFIG_NOSYSTEM", "1"),
            2 * PATIENCE,
        )
    };
    git(&work, &["init", "-q"])?;
    git(&work, &["add", "-A"])?;
    git(&work, &["commit", "-q", "-m", "built"])?;
    fs::write(work.join("in/nothing"), "a correction")?;
    git(&work, &["commit", "-q", "-a", "-m", "corrected"])?;
    assert_eq!(
        git(&work, &["status", "--porcelain"])?,
        "",
        "nothing is left over"
    );
    mount.unmount()?;

    let stored = gateway.storage.path().join("work");
    git(&stored, &["fsck", "--strict"])?;
    assert_eq!(git(&stored, &["rev-list", "--count", "HEAD"])?, "2\n");
    assert_eq!(git(&stored, &["status", "--porcelain"])?, "");
    gateway.is_on_record()
}
