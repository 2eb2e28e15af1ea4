//! Two gateways serve one directory: one encrypts what lies there and wraps it to other keys, while clients of the other one write,
//! replace, rename and remove.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::Mount;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Plan};

use crate::at_rest::Gateway;
use crate::migration::{done, migrate, names};
use crate::rotation::{Asked, all_read_as_uploaded, command, new_key, number, rotate};
use crate::stored_elsewhere::all_files;

const MIGRATING: &str = "encryption = \"migrating\"";
const HEAD: &[u8] = b"\x89PCREST\n";
const FILES: usize = 60;

/// Both have the same keys, and neither takes its own journal for all that happened.
fn both() -> Result<(Gateway, Gateway)> {
    let one = Gateway::start(|storage| Backend::local(storage).encrypted().with(MIGRATING))?;
    let backend = Backend::local(one.storage.path()).encrypted();
    let proxy = Plan::new(Place::Loopback)?
        .backend("disk", backend.with(MIGRATING))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", ".")])?;
    let other = Gateway {
        proxy,
        alice,
        storage: files::folder("storage")?,
        here: files::folder("here")?,
    };
    let section = "\n[encryption]\n";
    let with_checks_off =
        |text: &str| text.replace(section, &format!("{section}check_names = false\n"));
    one.proxy.reload(with_checks_off)?;
    other.proxy.reload(|text| {
        let mut text = with_checks_off(text);
        for name in ["at-rest.kek", "escrow/recipient"] {
            let own = other.proxy.folder().join(name).display().to_string();
            let shared = one.proxy.folder().join(name).display().to_string();
            text = text.replace(&own, &shared);
        }
        text
    })?;
    Ok((one, other))
}

/// A client that changes files until the gateway's own work has ended, and what there is then.
fn changes_until(
    gateway: &mut Gateway,
    mut work: Asked,
    written: &mut BTreeMap<String, Vec<u8>>,
) -> Result<()> {
    let mut round = 0;
    let mut is_over = false;
    while !is_over {
        // One more round when it has ended.
        is_over = work.0.try_wait()?.is_some();
        round += 1;
        let mut batch = String::new();
        let all: Vec<String> = written.keys().cloned().collect();
        let chosen = all.iter().skip(round % 3).step_by(7).take(8).enumerate();
        for (number, name) in chosen {
            let content = written.get(name).cloned().context("it is there")?;
            let fresh = format!("round {round}, file {number}").into_bytes();
            let local = format!("new-{round}-{number}");
            fs::write(gateway.local(&local), &fresh)?;
            match number % 4 {
                0 => {
                    let _ = writeln!(batch, "put {local} many/{name}");
                    written.insert(name.clone(), fresh);
                }
                1 => {
                    let other = format!("{round}-{number}");
                    let _ = writeln!(batch, "rename many/{name} many/{other}");
                    written.remove(name);
                    written.insert(other, content);
                }
                2 => {
                    let other = format!("fresh-{round}-{number}");
                    let _ = writeln!(batch, "rm many/{name}\nput {local} many/{other}");
                    written.remove(name);
                    written.insert(other, fresh);
                }
                _ => {
                    // It takes the place of another one.
                    let over = all.get(number).filter(|over| *over != name);
                    let Some(over) = over.filter(|over| written.contains_key(*over)) else {
                        continue;
                    };
                    let _ = writeln!(batch, "rename many/{name} many/{over}");
                    written.remove(name);
                    written.insert(over.clone(), content);
                }
            }
        }
        gateway.succeed(&batch)?;
    }
    ensure!(round > 2, "it ended before anybody changed anything");
    Ok(())
}

fn in_the_background(command: &mut Command) -> Result<Child> {
    Ok(command.stdout(Stdio::null()).spawn()?)
}

#[test]
fn nothing_that_clients_of_the_other_gateway_do_is_lost_or_half() -> Result<()> {
    let (mut one, mut other) = both()?;
    let mut written = BTreeMap::new();
    fs::create_dir(one.stored("many"))?;
    for number in 0..FILES {
        let name = format!("{number}");
        let content = files::random_bytes(1000 * number)?;
        fs::write(one.stored("many").join(&name), &content)?;
        written.insert(name, content);
    }
    let mut asked = migrate(&one.proxy.config, &["--rate", "500KB/s"])?;
    let work = Asked(in_the_background(&mut asked)?);
    changes_until(&mut other, work, &mut written)?;
    let answer = wait_for("the word that no plain file is left", || {
        let (answer, _) = done(&one.proxy.config).ok()?;
        (names(&answer, "migrated") == ["disk"]).then_some(answer)
    })?;
    let stored = all_files(&one.stored("many"))?;
    ensure!(
        stored.keys().eq(written.keys()),
        "{:?} {:?}",
        stored.keys(),
        written.keys()
    );
    let plain = stored.iter().find(|(_, stored)| !stored.starts_with(HEAD));
    ensure!(
        plain.is_none(),
        "{:?} of {answer}",
        plain.map(|(name, _)| name)
    );
    all_read_as_uploaded(&mut one, &written)?;
    all_read_as_uploaded(&mut other, &written)?;

    // The other one has the new key before the first file is wrapped to it.
    let edit = new_key(&one)?;
    other.proxy.reload(&edit)?;
    one.proxy.reload(&edit)?;
    let mut asked = command(&one.proxy.config, &["--rate", "20KB/s"])?;
    let work = Asked(in_the_background(&mut asked)?);
    changes_until(&mut other, work, &mut written)?;
    let answer = wait_for("the word that the old key is not needed", || {
        let (answer, _) = rotate(&one.proxy.config).ok()?;
        (names(&answer, "unneeded_keys").len() == 1).then_some(answer)
    })?;
    ensure!(
        number(&answer, "current") == written.len() as u64,
        "{answer}"
    );
    for gateway in [&one, &other] {
        gateway.proxy.reload(|text| {
            let lines = text
                .lines()
                .filter(|line| !line.starts_with("retired_key_files"));
            lines.map(|line| format!("{line}\n")).collect()
        })?;
    }
    all_read_as_uploaded(&mut one, &written)?;
    all_read_as_uploaded(&mut other, &written)?;
    one.proxy.journal_is_sound()?;
    other.proxy.journal_is_sound()
}
