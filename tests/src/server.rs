//! Real peer servers: each runs in its own process and mount namespace, with accounts that exist
//! nowhere else, and is gone with its value, children included.

pub mod aiosmtpd;
pub mod azurite;
pub mod freeradius;
pub mod haproxy;
pub mod inetutils_ftpd;
pub mod mod_proxy;
pub mod openssh;
pub mod proftpd;
pub mod pure_ftpd;
pub mod pyftpdlib;
pub mod rsyslog;
pub mod seaweed;
pub mod slapd;
pub mod vsftpd;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;

use anyhow::{Context, Result};

use crate::files;
use crate::locate;
use crate::place::Place;

/// The account that every peer server has.
pub const USER: &str = "gateway";
/// Its password.
pub const PASSWORD: &str = "correct horse battery";
/// Its user and group id: no account of a Debian system.
const USER_ID: u32 = 47_110;

/// Makes the account's home below `scratch` and returns it.
fn home(scratch: &Path) -> Result<PathBuf> {
    let home = scratch.join("home");
    fs::create_dir_all(&home)?;
    std::os::unix::fs::chown(&home, Some(USER_ID), Some(USER_ID))
        .context("give the account its home (this needs root)")?;
    Ok(home)
}

/// The account's password for crypt(5).
fn password_hash() -> Result<String> {
    static MADE: Mutex<Option<String>> = Mutex::new(None);
    let mut openssl = Command::new("openssl");
    files::printed_once(&MADE, openssl.args(["passwd", "-6", PASSWORD]))
}

/// A command for a server that sees the accounts below `scratch` instead of the machine's, and
/// whose whole process tree ends with it.
fn isolated(place: Place<'_>, scratch: &Path, home: &Path, program: &Path) -> Result<Command> {
    let accounts = scratch.join("accounts");
    fs::create_dir_all(accounts.join("pam.d"))?;
    let hash = password_hash()?;
    fs::write(
        accounts.join("passwd"),
        format!(
            "root:x:0:0:root:/root:/bin/sh\n\
             nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n\
             sshd:x:47109:65534::/run/sshd:/usr/sbin/nologin\n\
             {USER}:x:{USER_ID}:{USER_ID}::{}:/bin/sh\n",
            home.display()
        ),
    )?;
    fs::write(
        accounts.join("group"),
        format!("root:x:0:\nnogroup:x:65534:\n{USER}:x:{USER_ID}:\n"),
    )?;
    files::secret(
        &accounts.join("shadow"),
        &format!(
            "root:*:19000:0:99999:7:::\n{USER}:{}:19000:0:99999:7:::\n",
            hash.trim()
        ),
    )?;
    fs::write(
        accounts.join("pam.d/vsftpd"),
        "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n",
    )?;
    let mut command = place.command("unshare");
    // The shell stays process 1: vsftpd takes orphans that it inherits for broken bookkeeping, and exits.
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-ec"])
        .arg(
            "for file in passwd group shadow pam.d; do mount --bind \"$0/$file\" \"/etc/$file\"; done
             mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/sshd; \"$@\"; exit $?",
        )
        .arg(&accounts)
        .arg(program);
    Ok(command)
}

/// `LD_LIBRARY_PATH` of a server whose own libraries were unpacked with it.
fn unpacked_libraries(folder: &str) -> OsString {
    let root = locate::target_folder().join("peers").join(folder);
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let places = [
        root.join("usr/lib").join(&triplet),
        root.join("lib").join(&triplet),
        root.join("usr/lib").join(folder),
    ];
    let mut joined = OsString::new();
    for place in places {
        joined.push(place);
        joined.push(":");
    }
    joined
}

/// One server for all tests of this process, which ends with the process. `start` gives it with its folder.
///
/// # Panics
/// When it does not start.
fn started_once<T: Send + Sync + 'static>(
    cell: &'static OnceLock<T>,
    name: &str,
    start: impl FnOnce() -> Result<(T, PathBuf)> + Send + 'static,
) -> &'static T {
    cell.get_or_init(|| {
        let (started, server) = std::sync::mpsc::sync_channel(1);
        // This thread never ends, and so the server is not killed with the test that asks first.
        thread::spawn(move || {
            let server = start();
            let _tidier = server
                .as_ref()
                .ok()
                .map(|(_, folder)| remove_at_exit(folder));
            let _ = started.send(server.map(|(server, _)| server));
            loop {
                thread::park();
            }
        });
        server
            .recv()
            .context("the starting thread ended")
            .and_then(|server| server)
            .with_context(|| format!("start {name}"))
            .expect("a server that tests share starts")
    })
}

/// Removes the folder when this process has ended, whose end of the pipe closes then.
fn remove_at_exit(folder: &Path) -> Result<Child> {
    Command::new("sh")
        .args([
            "-c",
            "read nothing; for try in 1 2 3; do rm -rf \"$0\" && exit; sleep 1; done",
        ])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start the shell that tidies up")
}
