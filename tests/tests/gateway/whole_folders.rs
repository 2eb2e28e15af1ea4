//! Whole folders through clients that keep two places alike: nothing is lost, changed or left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{
    Client, OpensshConnection, RcloneRemote, SshfsMount, lftp_script, rclone,
};
use portcullis_tests::evidence::{self, Deed, Program};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, succeed, succeed_within, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
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
        let backend = Backend::local(storage.path());
        Self::before(backend, "/", storage)
    }

    /// In front of `directory` of the backend.
    fn before(backend: Backend, directory: &str, storage: TempDir) -> Result<Self> {
        let proxy = Plan::new(Place::Loopback)?
            .backend("archive", backend)
            .start()?;
        let account = proxy.account("alice", &[Mount::all("/inbox", "archive", directory)])?;
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

    /// By sshfs.
    fn mount(&mut self, factors: Factors) -> Result<SshfsMount> {
        let connection = OpensshConnection::new(&self.proxy, &mut self.account, factors)?;
        SshfsMount::new(connection, "/inbox")
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
        .set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_500_000_000))?;
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
    gateway.proxy.journal_is_sound()?;
    evidence::note(Program::Session(Client::Lftp), &[Deed::Folders])
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
    gateway.proxy.journal_is_sound()?;
    evidence::note(Program::Session(Client::Rclone), &[Deed::Folders])
}

#[test]
fn a_program_is_built_and_committed_inside_an_sshfs_mount() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let mount = gateway.mount(Factors::KeyThenPassword)?;
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

    let git = |folder: &Path, words: &[&str]| git(gateway.returned.path(), folder, words);
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
    gateway.proxy.journal_is_sound()?;
    evidence::note(
        Program::Sshfs,
        &[Deed::Upload, Deed::Download, Deed::List, Deed::Folders],
    )
}

/// A shell opens the file anew for each line, and sshfs closes from another thread.
#[test]
fn lines_that_are_appended_one_by_one_inside_an_sshfs_mount_are_all_there() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let mount = gateway.mount(Factors::KeyThenPassword)?;
    succeed_within(
        Command::new("sh")
            .args(["-ec", "for line in $(seq 200); do echo $line >> log; done"])
            .current_dir(mount.path()),
        2 * PATIENCE,
    )?;
    let expected: String = (1..=200).map(|line| format!("{line}\n")).collect();
    let log = gateway.storage.path().join("log");
    // The last CLOSE is sent after the shell has gone on, and lost with a mount that is taken away before.
    wait_for("all lines", || {
        (fs::read_to_string(&log).ok()? == expected).then_some(())
    })?;
    mount.unmount()?;
    gateway.proxy.journal_is_sound()
}

/// With nothing of this machine's settings but an empty `home`.
fn git(home: &Path, folder: &Path, words: &[&str]) -> Result<String> {
    let settings = [
        "user.name=alice",
        "user.email=alice@example.org",
        "init.defaultBranch=main",
        "safe.directory=*",
    ];
    succeed_within(
        Command::new("git")
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .arg("-C")
            .arg(folder)
            .args(words)
            .env("HOME", home)
            .env("GIT_CONFIG_NOSYSTEM", "1"),
        6 * PATIENCE,
    )
}

/// A program in 200 files, with a history, and a makefile that builds it.
fn plant_sources(home: &Path, root: &Path) -> Result<()> {
    fs::create_dir(root.join("parts"))?;
    let mut main = "#include <stdio.h>\n".to_owned();
    let mut sum = String::new();
    for number in 0..200 {
        fs::write(
            root.join(format!("parts/part{number}.h")),
            format!("static inline int part{number}(void) {{ return {number}; }}\n"),
        )?;
        main += &format!("#include \"parts/part{number}.h\"\n");
        sum += &format!(" + part{number}()");
    }
    main += "int main(void) { printf(\"%d\\n\", 0";
    fs::write(root.join("main.c"), main + &sum + "); return 0; }\n")?;
    fs::write(
        root.join("Makefile"),
        "sum: main.o\n\tcc -o $@ $<\nmain.o: main.c $(wildcard parts/*.h)\n\tcc -O1 -c -o $@ $<\n",
    )?;
    // Compressed and transferred as it is: a pack of more than one packet.
    fs::write(root.join("image.bin"), files::random_bytes(1_500_000)?)?;
    git(home, root, &["init", "-q"])?;
    git(home, root, &["add", "-A"])?;
    git(home, root, &["commit", "-q", "-m", "a program"])?;
    // Similar to what is there: the pack has deltas, which git resolves by reading what it is still writing.
    for number in (0..200).step_by(7) {
        let part = root.join(format!("parts/part{number}.h"));
        let text = fs::read_to_string(&part)?;
        fs::write(part, format!("/* reviewed */\n{text}"))?;
    }
    fs::write(
        root.join("main.c"),
        fs::read_to_string(root.join("main.c"))? + "/* reviewed */\n",
    )?;
    git(home, root, &["commit", "-q", "-a", "-m", "reviewed"])?;
    git(home, root, &["gc", "-q"])?;
    Ok(())
}

/// What a developer does in a mounted folder: `stored` is where it is on this machine's disk.
fn is_cloned_and_built(mut gateway: Gateway, stored: &Path, factors: Factors) -> Result<()> {
    let home = files::folder("home")?;
    let origin = files::folder("origin")?;
    plant_sources(home.path(), origin.path())?;
    let mount = gateway.mount(factors)?;
    let work = mount.path().join("work");
    let from = format!("file://{}", origin.path().display());
    let to = work.to_str().context("a path in UTF-8")?;
    // Threads open the pack anew, each for itself, also where the machine has one processor.
    git(
        home.path(),
        &mount.path(),
        &["-c", "pack.threads=3", "clone", "-q", &from, to],
    )?;
    git(home.path(), &work, &["fsck", "--strict"])?;
    assert_eq!(git(home.path(), &work, &["status", "--porcelain"])?, "");
    succeed_within(Command::new("make").current_dir(&work), 6 * PATIENCE)?;
    assert_eq!(succeed(&mut Command::new(work.join("sum")))?, "19900\n");
    fs::write(
        work.join("parts/part0.h"),
        "static inline int part0(void) { return 100; }\n",
    )?;
    // Version 3 has whole seconds, so what was made a moment ago may look as new as its source.
    succeed_within(
        Command::new("make").arg("-B").current_dir(&work),
        6 * PATIENCE,
    )?;
    assert_eq!(succeed(&mut Command::new(work.join("sum")))?, "20000\n");
    git(home.path(), &work, &["checkout", "-q", "parts/part0.h"])?;
    mount.unmount()?;

    let stored = stored.join("work");
    git(home.path(), &stored, &["fsck", "--strict"])?;
    assert_eq!(
        git(home.path(), &stored, &["rev-list", "--count", "HEAD"])?,
        "2\n"
    );
    let untracked = git(home.path(), &stored, &["status", "--porcelain"])?;
    assert_eq!(
        untracked, "?? main.o\n?? sum\n",
        "what make made, and nothing else"
    );
    gateway.proxy.journal_is_sound()?;
    evidence::note(Program::Sshfs, &[Deed::Rename])
}

// One after the other: each keeps both of a small machine's processors busy for a minute.
#[test]
fn a_repository_is_cloned_and_built_inside_an_sshfs_mount() -> Result<()> {
    let gateway = Gateway::start()?;
    let stored = gateway.storage.path().to_path_buf();
    is_cloned_and_built(gateway, &stored, Factors::PasswordThenCode).context("local")?;

    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    let server = Openssh::start(Place::Loopback, Subsystem::Internal, &key)?;
    let directory = server.home.display().to_string();
    let gateway = Gateway::before(
        Backend::openssh(&server, &key),
        &directory,
        files::folder("storage")?,
    )?;
    is_cloned_and_built(gateway, &server.home, Factors::KeyThenPassword).context("sftp")
}
