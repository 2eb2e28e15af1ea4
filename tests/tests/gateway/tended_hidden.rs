//! Keys are rotated on a server whose directories the journal hides.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};

use anyhow::{Result, ensure};
use portcullis_tests::account::Mount;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::Plan;
use serde_json::Value;

use crate::at_rest::Gateway;
use crate::migration::names;
use crate::rotation::{new_key, number, rotate};
use crate::sessions::text;
use crate::tended_elsewhere::openssh;

fn unneeded(gateway: &Gateway) -> Result<(Value, usize)> {
    let (answer, code) = rotate(&gateway.proxy.config)?;
    ensure!(code == Some(0), "{answer}");
    let keys = names(&answer, "unneeded_keys").len();
    Ok((answer, keys))
}

#[test]
fn a_directory_that_is_hidden_and_not_mounted_any_more_counts_before_a_key_is_unneeded()
-> Result<()> {
    let (server, _keys, backend) = openssh()?;
    let owner = fs::metadata(&server.home)?;
    for name in ["mounted", "once"] {
        fs::create_dir(server.home.join(name))?;
        chown(server.home.join(name), Some(owner.uid()), Some(owner.gid()))?;
    }
    let proxy = Plan::new(Place::Loopback)?
        // The section before is the journal's.
        .sections("path_mode = \"hmac\"\n")
        .backend("disk", backend.with("encryption = \"on\""))
        .start()?;
    let mounts = [
        Mount::all("/inbox", "disk", "mounted"),
        Mount::all("/other", "disk", "once"),
    ];
    let alice = proxy.account("alice", &mounts)?;
    let mut gateway = Gateway {
        proxy,
        alice,
        storage: files::folder("storage")?,
        here: files::folder("here")?,
    };
    fs::write(gateway.local("file"), "the content")?;
    gateway.succeed("put file\ncd /other\nput file")?;
    gateway
        .proxy
        .command(&["account", "unmount", "alice", "/other"])?;
    // From here on no session has it.
    gateway.succeed("get file again")?;

    let edit = new_key(&gateway)?;
    gateway.proxy.reload(&edit)?;
    let head = || fs::read(server.home.join("once/file"));
    let before = head()?;
    let (answer, _) = unneeded(&gateway)?;
    // The record of the account's mount says which directory it was.
    ensure!(number(&answer, "rewrapped") == 2, "{answer}");
    ensure!(head()? != before);
    wait_for("the word that the old key is not needed", || {
        (unneeded(&gateway).ok()?.1 == 1).then_some(())
    })?;

    // Its nearest neighbour: nobody can tell any more what the tokens stand for.
    gateway.proxy.process.kill()?;
    for entry in fs::read_dir(gateway.proxy.folder())? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".pathkey") {
            fs::remove_file(path)?;
        }
    }
    gateway.proxy.start_again(Place::Loopback)?;
    let (answer, keys) = unneeded(&gateway)?;
    ensure!(number(&answer, "current") == 1 && keys == 0, "{answer}");
    let why = text(&answer, "keys_unknown");
    ensure!(why.contains("the journal hides"), "{answer}");
    Ok(())
}
