//! `account effective`: what an account may do at a path, and which rule says so.

use std::io::Write;

use anyhow::ensure;
use serde_json::{Value, json};

use super::place;
use crate::{
    accounts::{AccountName, Accounts},
    path::VirtualPath,
    policy::{Denied, Effective, Mount, effective},
};

/// Shows what holds at `path`, or what each mount gives.
pub(super) fn print(
    accounts: &Accounts,
    name: &AccountName,
    path: Option<&str>,
    json: bool,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let account = accounts.account(name)?;
    let mounts = accounts.mounts_by_directory(account.uid)?;
    let shown = match path {
        Some(path) => vec![at(&mounts, &place(path)?)],
        None => mounts.iter().flat_map(of_mount).collect(),
    };
    if json {
        writeln!(output, "{}", Value::from(shown))?;
        return Ok(());
    }
    ensure!(
        !shown.is_empty(),
        "account {name} has no mounts, neither its own nor of a group"
    );
    for line in shown {
        let text = |field: &str| {
            line.get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let list = |field: &str| match line.get(field).and_then(Value::as_array) {
            Some(names) if !names.is_empty() => {
                let names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
                names.join(",")
            }
            Some(_) | None => "nothing".to_owned(),
        };
        writeln!(
            output,
            "{:<30} {:<60} {}",
            text("path"),
            list("permissions"),
            text("decided_by")
        )?;
    }
    Ok(())
}

/// One line for each rule of the mount and one for its own permissions.
fn of_mount(mount: &Mount) -> Vec<Value> {
    let at = String::from_utf8_lossy(mount.at.as_bytes()).into_owned();
    let rules = (0..)
        .map_while(|number| Some((number, mount.rule(number)?)))
        .map(|(number, rule)| {
            json!({
                "path": format!("{at}: {}", rule.pattern()),
                "permissions": rule.permissions().names(),
                "decided_by": mount.origin(Some(number)),
                "mount": at,
            })
        });
    let rest = json!({
        "path": at,
        "permissions": mount.permissions.names(),
        "decided_by": mount.origin(None),
        "mount": at,
    });
    rules.chain([rest]).collect()
}

/// What holds at one path, and for each permission what decides.
fn at(mounts: &[Mount], path: &VirtualPath) -> Value {
    let shown = String::from_utf8_lossy(path.as_bytes()).into_owned();
    let nothing = |reason: &Denied| {
        json!({
            "path": shown,
            "permissions": [],
            "decided_by": reason.to_string(),
            "denied": reason.code(),
        })
    };
    let (mount, is_fixed, permissions) = match effective(mounts, path) {
        Err(denied) => return nothing(&denied),
        Ok(Effective::Above) => {
            return json!({
                "path": shown,
                "permissions": ["list"],
                "decided_by": Denied::AboveMounts.to_string(),
            });
        }
        Ok(Effective::Mount {
            mount,
            is_fixed,
            permissions,
        }) => (mount, is_fixed, permissions),
    };
    let Some(mount) = mounts.get(mount.0) else {
        return nothing(&Denied::Nowhere);
    };
    let held: Vec<_> = permissions
        .iter()
        .filter(|(_, holds, _)| *holds)
        .map(|(permission, ..)| permission.name())
        .collect();
    let each: serde_json::Map<String, Value> = permissions
        .iter()
        .map(|(permission, holds, rule)| {
            let ruling = json!({ "holds": holds, "decided_by": mount.origin(*rule) });
            (permission.name().to_owned(), ruling)
        })
        .collect();
    let mut origins: Vec<_> = permissions
        .iter()
        .map(|(_, _, rule)| mount.origin(*rule))
        .collect();
    origins.dedup();
    json!({
        "path": shown,
        "permissions": held,
        "decided_by": origins.join("; "),
        "each": each,
        "mount": String::from_utf8_lossy(mount.at.as_bytes()),
        "backend": mount.backend,
        // Its content may change, it may not.
        "fixed": is_fixed,
    })
}
