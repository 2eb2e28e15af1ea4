//! Permissions by place and of groups, over the wire: what is refused never reaches the backend.

use std::fs;

use anyhow::{Result, ensure};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::proxy::{Backend, Plan};
use serde_json::Value;

use crate::sessions::{body, text, wait_for_record};
use crate::wire::{self, kind, open, status};

const PERMISSION_DENIED: u32 = 3;

#[tokio::test]
async fn rules_of_an_account_and_of_its_group_hold_on_the_wire_and_say_so_on_record() -> Result<()>
{
    let storage = files::folder("storage")?;
    for folder in ["in", "secret", "shared"] {
        fs::create_dir(storage.path().join(folder))?;
    }
    fs::write(storage.path().join("secret/key"), "hidden")?;
    fs::write(storage.path().join("shared/report"), "first ")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let alice = proxy.account("alice", &[])?;
    proxy.command(&[
        "account",
        "mount",
        "alice",
        "/box",
        "--backend",
        "archive",
        "--directory",
        "/",
        "--permissions",
        "list",
        "--rule",
        "*.tmp=delete",
        "--rule",
        "/in/**=list,read,write",
        "--rule",
        "/secret/**=none",
    ])?;
    proxy.command(&["group", "add", "lab"])?;
    proxy.command(&[
        "group",
        "mount",
        "lab",
        "/shared",
        "--backend",
        "archive",
        "--directory",
        "/shared",
        "--permissions",
        "read,append",
    ])?;
    proxy.command(&["group", "member", "lab", "--add", "alice"])?;

    let connection = wire::log_in(proxy.address, &alice).await?;
    let mut sftp = connection.sftp().await?;
    sftp.put(b"/box/in/a", b"data").await?;
    ensure!(fs::read(storage.path().join("in/a"))? == b"data");
    for (path, flags) in [
        (&b"/box/a"[..], open::UPLOAD),
        (b"/box/in/../a", open::UPLOAD),
        (b"/box/in/a.tmp", open::UPLOAD),
        (b"/box/in/a", open::WRITE),
        (b"/box/secret/key", open::READ),
        (b"/box/./in//../secret/key", open::READ),
        (b"/box/secret/caf\xe9", open::UPLOAD),
        (b"/shared/report", open::WRITE),
        (b"/shared/new", open::UPLOAD),
    ] {
        ensure!(
            sftp.open(path, flags).await.is_err(),
            "{:?} was opened",
            String::from_utf8_lossy(path)
        );
    }
    ensure!(sftp.list(b"/box/secret").await.is_err());
    ensure!(sftp.path_status(kind::REMOVE, b"/box/in/a").await? == Some(PERMISSION_DENIED));
    wait_for_record(&proxy, "the refusal", |record| {
        text(record, "event") == "op.denied"
            && text(record, "reason") == "missing_permission"
            && body(record, "path") == "/box/secret/key"
    })?;
    fs::write(storage.path().join("in/b.tmp"), "left over")?;
    ensure!(sftp.path_status(kind::REMOVE, b"/box/in/b.tmp").await? == Some(status::OK));

    // A file that may only grow: the offset does not count.
    let growing = sftp
        .open(b"/shared/report", open::WRITE | open::APPEND)
        .await?;
    ensure!(sftp.write(&growing, 0, b"second").await? == Some(status::OK));
    ensure!(sftp.close(&growing).await? == Some(status::OK));
    ensure!(fs::read(storage.path().join("shared/report"))? == b"first second");

    let told = proxy.command(&[
        "account",
        "effective",
        "alice",
        "--path",
        "/shared/report",
        "--json",
    ])?;
    let told: Value = serde_json::from_str(&told)?;
    let first = told.get(0).cloned().unwrap_or_default();
    ensure!(
        text(&first, "decided_by") == "group lab, mount /shared, permissions",
        "{told}"
    );
    ensure!(
        first.get("permissions") == Some(&serde_json::json!(["read", "append"])),
        "{told}"
    );

    proxy.command(&["group", "member", "lab", "--remove", "alice"])?;
    while sftp.next().await?.is_some() {}
    let connection = wire::log_in(proxy.address, &alice).await?;
    let mut sftp = connection.sftp().await?;
    ensure!(sftp.open(b"/shared/report", open::READ).await.is_err());
    Ok(())
}
