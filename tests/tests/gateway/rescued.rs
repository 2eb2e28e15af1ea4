//! Stored files back in plaintext when the gateway is gone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::finish_within;
use portcullis_tests::proxy::Backend;
use portcullis_tests::server::azurite::{ACCOUNT, Azurite, CONTAINER, KEY};
use portcullis_tests::server::seaweed::{BUCKET, Seaweed};

use crate::at_rest::{CANARY, Gateway, NAMED, PATIENCE, named};

#[test]
fn two_shares_bring_the_files_back_when_the_gateway_is_gone() -> Result<()> {
    come_back(|storage| Backend::local(storage).encrypted())
}

#[test]
fn two_shares_bring_encrypted_names_back_when_the_gateway_is_gone() -> Result<()> {
    come_back(|storage| named(Backend::local(storage).encrypted()))
}

fn come_back(backend: impl FnOnce(&Path) -> Backend) -> Result<()> {
    let mut gateway = Gateway::start(backend)?;
    let large = files::random_bytes(17 << 20)?;
    fs::write(gateway.local("large"), &large)?;
    fs::write(gateway.local("small"), CANARY)?;
    gateway.succeed("mkdir sub\nput large sub/large\nput small before\nrename before after")?;
    gateway.proxy.process.kill()?;

    let (folder, rescued) = (gateway.proxy.folder(), gateway.local("rescued"));
    fs::remove_file(folder.join("at-rest.kek"))?;
    let rescue = |shares: &[&str]| {
        let mut command = Command::new(locate::binary("portcullis-rescue")?);
        command.arg("--from").arg(gateway.storage.path());
        command.arg("--to").arg(&rescued).args(["--journal"]);
        command.arg(&gateway.proxy.journal).arg("--journal-key");
        command.arg(folder.join("journal.key.pub"));
        for share in shares {
            command
                .arg("--share")
                .arg(folder.join("escrow").join(share));
        }
        finish_within(&mut command, PATIENCE)
    };
    let alone = rescue(&["share-2"])?;
    ensure!(
        alone.status.code() == Some(2),
        "one share is none: {alone:?}"
    );
    let output = rescue(&["share-1", "share-3"])?;
    let report = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{report}");
    ensure!(report.matches("verified").count() >= 2, "{report}");
    ensure!(fs::read(rescued.join("sub/large"))? == large);
    ensure!(fs::read(rescued.join("after"))? == CANARY);
    Ok(())
}

fn write_secret(file: &Path, secret: &str) -> Result<()> {
    fs::write(file, secret)?;
    Ok(fs::set_permissions(
        file,
        fs::Permissions::from_mode(0o600),
    )?)
}

/// `portcullis-rescue` with two shares of the gateway's: its exit code, and what it said.
fn rescue_from_bucket(
    gateway: &Path,
    from: &[&str],
    credentials: &Path,
    to: &Path,
    more: &[&str],
) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(locate::binary("portcullis-rescue")?);
    command.arg("--from").args(from);
    command.arg("--credentials").arg(credentials);
    command.arg("--to").arg(to).args(more);
    for share in ["share-1", "share-2"] {
        let share = gateway.join("escrow").join(share);
        command.arg("--share").arg(share);
    }
    let output = finish_within(&mut command, PATIENCE)?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output.status.code(), said))
}

#[test]
fn a_container_of_azure_comes_back_with_a_key_and_with_a_signature() -> Result<()> {
    let store = Azurite::start(Place::Loopback)?;
    let backend = Backend::azurite(&store)?.encrypted();
    let mut gateway = Gateway::over("/partners/alice", |_| backend)?;
    let large = files::random_bytes(20 << 20)?;
    fs::write(gateway.local("large"), &large)?;
    fs::write(gateway.local("small"), CANARY)?;
    gateway.succeed("mkdir sub\nput large sub/large\nput small m\u{fc}ller")?;
    gateway.proxy.process.kill()?;

    let folder = gateway.proxy.folder();
    let credentials = gateway.local("credentials");
    let from = format!("azure://{ACCOUNT}/{CONTAINER}/partners");
    let with = |secret: &str, to: &str| {
        write_secret(&credentials, secret)?;
        let from = [&from, "--endpoint", &store.endpoint()];
        rescue_from_bucket(folder, &from, &credentials, &gateway.local(to), &[])
    };
    let wrong = KEY.replacen('c', "d", 1);
    let (code, said) = with(&wrong, "none")?;
    ensure!(code == Some(2) && said.contains("403"), "{said}");
    let (code, said) = with(&format!("{ACCOUNT}\n{KEY}"), "none")?;
    ensure!(code == Some(2) && said.contains("one line"), "{said}");
    for (secret, to) in [(KEY, "by-key"), (&store.signature, "by-signature")] {
        let (code, said) = with(secret, to)?;
        ensure!(code == Some(0), "{said}");
        let files = gateway.local(to).join("alice");
        ensure!(fs::read(files.join("sub/large"))? == large);
        ensure!(fs::read(files.join("m\u{fc}ller"))? == CANARY);
    }
    Ok(())
}

#[test]
fn a_bucket_comes_back_without_the_gateway_and_without_a_copy_of_it() -> Result<()> {
    let store = Seaweed::start(Place::Loopback)?;
    let backend = named(Backend::seaweed(&store)?.encrypted());
    let mut gateway = Gateway::over("/partners/alice", |_| backend)?;
    let large = files::random_bytes(20 << 20)?;
    fs::write(gateway.local("large"), &large)?;
    fs::write(gateway.local("small"), CANARY)?;
    gateway.succeed(&format!(
        "mkdir sub\nmkdir empty\nput large sub/large\nput small \"sub/{NAMED}\"\nput small m\u{fc}ller"
    ))?;
    gateway.proxy.process.kill()?;

    let (folder, rescued) = (gateway.proxy.folder(), gateway.local("rescued"));
    let (id, secret) = store.key_files()?;
    let credentials = gateway.local("credentials");
    let write = |secret: &str| -> Result<()> {
        let id = fs::read_to_string(&id)?;
        write_secret(&credentials, &format!("{}\n{secret}\n", id.trim()))
    };
    let rescue = |from: &str, more: &[&str]| {
        let from = [from, "--endpoint", &store.endpoint()];
        rescue_from_bucket(folder, &from, &credentials, &rescued, more)
    };
    let whole = format!("s3://{BUCKET}");
    write("wrong")?;
    let (code, said) = rescue(&whole, &[])?;
    ensure!(code == Some(2) && said.contains("403"), "{said}");
    write(fs::read_to_string(&secret)?.trim())?;
    let (code, said) = rescue("s3://none", &[])?;
    ensure!(code == Some(2) && said.contains("NoSuchBucket"), "{said}");

    let journal = gateway.proxy.journal.display().to_string();
    let key = folder.join("journal.key.pub").display().to_string();
    let (code, said) = rescue(&whole, &["--journal", &journal, "--journal-key", &key])?;
    ensure!(code == Some(0), "{said}");
    let files = rescued.join("partners/alice");
    ensure!(fs::read(files.join("sub/large"))? == large);
    ensure!(fs::read(files.join("sub").join(NAMED))? == CANARY);
    ensure!(fs::read(files.join("m\u{fc}ller"))? == CANARY);
    ensure!(files.join("empty").is_dir());
    ensure!(said.matches("verified").count() >= 3, "{said}");
    let (code, said) = rescue(&whole, &["--only", "partners/alice/sub"])?;
    ensure!(
        code == Some(1) && said.contains("exists") && !said.contains("ller"),
        "{said}"
    );
    Ok(())
}
