//! One list of operations over every backend, each on a real server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use portcullis_tests::account::{Factors, Mount};
use portcullis_tests::client::{Client, OpensshConnection, Step};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, succeed};
use portcullis_tests::proxy::{Backend, Plan};
use portcullis_tests::server::azurite::{Azurite, CONTAINER};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use portcullis_tests::server::proftpd::{Proftpd, Protocol};
use portcullis_tests::server::seaweed::{BUCKET, Seaweed};
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};

const SIZE: usize = 1024 * 1024 + 17;

/// The partner works in `directory` of the backend, which is `stored` on this machine's disk.
fn works(backend: Backend, directory: &str, stored: &Path) -> Result<()> {
    works_where(backend, directory, || Ok(stored.to_path_buf()))
}

/// As [`works`]; `stored` says where on this machine's disk to look afterwards.
fn works_where(
    backend: Backend,
    directory: &str,
    stored: impl FnOnce() -> Result<PathBuf>,
) -> Result<()> {
    let here = files::folder("partner")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("peer", backend)
        .start()?;
    let mut alice = proxy.account("alice", &[Mount::all("/inbox", "peer", directory)])?;
    let content = files::random_bytes(SIZE)?;
    let local = here.path().join("original.bin");
    let returned = here.path().join("returned.bin");
    fs::write(&local, &content)?;
    fs::write(here.path().join("empty"), b"")?;

    let put = |remote: &str| Step::Put {
        local: local.clone(),
        remote: remote.to_owned(),
    };
    // Several uploads in a row: servers that want TLS session reuse refuse a later one otherwise.
    let printed = Client::Openssh.session(
        Place::Loopback,
        &proxy,
        &mut alice,
        Factors::PasswordThenCode,
        &[
            Step::MakeFolder("/inbox/november".to_owned()),
            put("/inbox/november/a.bin"),
            put("/inbox/november/b.bin"),
            put("/inbox/november/c.bin"),
            put("/inbox/november/d.bin"),
            Step::Put {
                local: here.path().join("empty"),
                remote: "/inbox/november/empty".to_owned(),
            },
            Step::List("/inbox/november".to_owned()),
            Step::Rename {
                from: "/inbox/november/a.bin".to_owned(),
                to: "/inbox/november/renamed.bin".to_owned(),
            },
            Step::Get {
                remote: "/inbox/november/renamed.bin".to_owned(),
                local: returned.clone(),
            },
            Step::Remove("/inbox/november/b.bin".to_owned()),
            Step::MakeFolder("/inbox/short-lived".to_owned()),
            Step::RemoveFolder("/inbox/short-lived".to_owned()),
        ],
    )?;

    for name in ["a.bin", "b.bin", "c.bin", "d.bin", "empty"] {
        ensure!(
            printed.contains(name),
            "the listing lacks {name}\n{printed}"
        );
    }
    ensure!(
        printed.contains(&SIZE.to_string()),
        "the listing lacks the size {SIZE}\n{printed}"
    );
    ensure!(
        fs::read(&returned)? == content,
        "the download differs from the upload"
    );
    let stored = stored()?;
    let folder = stored.join("november");
    let mut names: Vec<String> = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    ensure!(
        names == ["c.bin", "d.bin", "empty", "renamed.bin"],
        "the backend holds {names:?}"
    );
    for name in ["c.bin", "d.bin", "renamed.bin"] {
        ensure!(
            fs::read(folder.join(name))? == content,
            "{name} differs on the backend"
        );
    }
    ensure!(
        fs::read(folder.join("empty"))?.is_empty(),
        "the empty file isn't empty"
    );
    ensure!(
        !stored.join("short-lived").exists(),
        "the removed folder is there"
    );

    // What the backend refuses reaches the client as a failure, and the session goes on.
    let refused = Client::Openssh.session(
        Place::Loopback,
        &proxy,
        &mut alice,
        Factors::PasswordThenCode,
        &[Step::Get {
            remote: "/inbox/november/never-was".to_owned(),
            local: returned,
        }],
    );
    let Err(error) = refused else {
        anyhow::bail!("a file that never was could be downloaded");
    };
    ensure!(
        format!("{error:#}").contains("not found") || format!("{error:#}").contains("No such file"),
        "a missing file is reported as {error}"
    );
    Ok(())
}

/// The partner logs in, but the upload fails.
fn refuses_an_upload(backend: Backend, directory: &str) -> Result<()> {
    let here = files::folder("partner")?;
    let local = here.path().join("list.txt");
    fs::write(&local, b"patient list")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("peer", backend)
        .start()?;
    let mut alice = proxy.account("alice", &[Mount::all("/inbox", "peer", directory)])?;
    let connection = OpensshConnection::new(&proxy, &mut alice, Factors::PasswordThenCode)?;
    let batch = format!("pwd\nput {} /inbox/list.txt\n", local.display());
    let output = connection.sftp(Place::Loopback, &batch, PATIENCE)?;
    ensure!(
        String::from_utf8_lossy(&output.stdout).contains("Remote working directory"),
        "the login failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!output.status.success(), "the upload was accepted");
    Ok(())
}

#[test]
fn a_local_folder_serves_every_operation() -> Result<()> {
    let storage = files::folder("storage")?;
    works(Backend::local(storage.path()), "/", storage.path())
}

#[test]
fn vsftpd_serves_every_operation_without_tls() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::None)?;
    works(Backend::vsftpd(&server), "/", &server.home)
}

#[test]
fn vsftpd_serves_every_operation_over_tls_with_session_reuse() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    works(Backend::vsftpd(&server), "/", &server.home)
}

#[test]
fn proftpd_serves_every_operation_without_tls() -> Result<()> {
    let server = Proftpd::start(Place::Loopback, Protocol::Ftp, None)?;
    works(Backend::proftpd(&server), "/", &server.home)
}

#[test]
fn proftpd_serves_every_operation_over_tls_with_session_reuse() -> Result<()> {
    let server = Proftpd::start(Place::Loopback, Protocol::Ftps, None)?;
    works(Backend::proftpd(&server), "/", &server.home)
}

#[test]
fn openssh_serves_every_operation() -> Result<()> {
    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    let server = Openssh::start(Place::Loopback, Subsystem::Internal, &key)?;
    let directory = server.home.display().to_string();
    works(Backend::openssh(&server, &key), &directory, &server.home)
}

#[test]
fn proftpd_serves_every_operation_over_sftp() -> Result<()> {
    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    let server = Proftpd::start(Place::Loopback, Protocol::Sftp, Some(&key))?;
    let host_key = server.host_key.clone().unwrap_or_default();
    works(
        Backend::sftp(server.address, &host_key, &key),
        "/",
        &server.home,
    )
}

#[test]
fn seaweedfs_serves_every_operation() -> Result<()> {
    let server = Seaweed::start(Place::Loopback)?;
    let copy = files::folder("bucket")?;
    works_where(Backend::seaweed(&server)?, "/partners/alice", || {
        let mut rclone = server.rclone(Place::Loopback);
        succeed(
            rclone
                .args(["copy", &format!("store:{BUCKET}/partners/alice")])
                .arg(copy.path()),
        )?;
        Ok(copy.path().to_path_buf())
    })
}

#[test]
fn azurite_serves_every_operation() -> Result<()> {
    let server = Azurite::start(Place::Loopback)?;
    let copy = files::folder("container")?;
    works_where(Backend::azurite(&server)?, "/partners/alice", || {
        let mut rclone = server.rclone(Place::Loopback);
        succeed(
            rclone
                .args(["copy", &format!("store:{CONTAINER}/partners/alice")])
                .arg(copy.path()),
        )?;
        Ok(copy.path().to_path_buf())
    })
}

#[test]
fn a_server_with_another_host_key_is_refused() -> Result<()> {
    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    let server = Openssh::start(Place::Loopback, Subsystem::Internal, &key)?;
    let other = files::public_key(&files::ssh_key(keys.path(), "impostor")?)?;
    let directory = server.home.display().to_string();
    refuses_an_upload(Backend::sftp(server.address, &other, &key), &directory)?;
    ensure!(
        fs::read_dir(&server.home)?.next().is_none(),
        "the impostor got a file"
    );
    Ok(())
}

#[test]
fn a_tls_server_with_an_untrusted_certificate_is_refused() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    let elsewhere = files::folder("certificate")?;
    let untrusted = files::Certificate::make(elsewhere.path(), "127.0.0.1")?;
    fs::set_permissions(&untrusted.certificate, fs::Permissions::from_mode(0o644))?;
    let backend = Backend::custom(&format!(
        "kind = \"ftp\"\naddress = \"{}\"\nuser = \"gateway\"\npassword_file = \"PASSWORD_FILE\"\n\
         tls = \"explicit\"\nca_file = \"{}\"\nserver_name = \"localhost\"\n",
        server.address,
        untrusted.certificate.display()
    ));
    refuses_an_upload(backend, "/")?;
    ensure!(
        !server.commands().contains("PASS"),
        "the password was sent to a server with an untrusted certificate"
    );
    Ok(())
}
