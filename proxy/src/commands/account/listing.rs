//! How accounts are shown.

use std::io::Write;

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::{
    accounts::{
        Account, AccountName, Accounts, AccountsError, FactorState,
        admission::{AccountDefaults, is_expired, is_idle},
        kind_name, limits, login_options, mounts, restrictions,
    },
    allowance::AccountLimits,
    auth::flow::FactorPolicy,
    policy::Mount,
};

pub(super) fn print(
    accounts: &Accounts,
    defaults: &AccountDefaults,
    json: bool,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut listed = Vec::new();
    for account in accounts.list()? {
        let mounts = accounts.mounts(account.uid)?;
        let limits = accounts.limits(account.uid)?;
        let groups = Groups::of(accounts, &account)?;
        let remote = accounts.remote_states(account.uid)?;
        listed.push((account, mounts, limits, groups, remote));
    }
    if json {
        let all: Vec<Value> = listed
            .iter()
            .map(|(account, mounts, limits, groups, remote)| {
                machine_form(account, defaults, mounts, limits, groups, remote)
            })
            .collect();
        writeln!(output, "{}", Value::from(all))?;
        return Ok(());
    }
    writeln!(
        output,
        "{:<32} {:<11} {:<8} {:<40} MOUNTS",
        "NAME", "KIND", "STATE", "LOGIN WITH"
    )?;
    for (account, mounts, _, _, remote) in &listed {
        let places: Vec<_> = mounts
            .iter()
            .map(|mount| String::from_utf8_lossy(mount.at.as_bytes()))
            .collect();
        writeln!(
            output,
            "{:<32} {:<11} {:<8} {:<40} {}",
            account.name,
            kind_name(account.kind),
            state(account, defaults),
            ways(account, remote).join(", "),
            places.join(" ")
        )?;
    }
    Ok(())
}

/// Everything about one account but its secrets.
pub(super) fn show(
    accounts: &Accounts,
    defaults: &AccountDefaults,
    name: &AccountName,
    json: bool,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let account = accounts.account(name)?;
    let mounts = accounts.mounts(account.uid)?;
    let limits = accounts.limits(account.uid)?;
    let groups = Groups::of(accounts, &account)?;
    let remote = accounts.remote_states(account.uid)?;
    let shown = machine_form(&account, defaults, &mounts, &limits, &groups, &remote);
    if json {
        writeln!(output, "{shown}")?;
        return Ok(());
    }
    for (field, value) in shown.as_object().into_iter().flatten() {
        lines(field, value, output)?;
    }
    Ok(())
}

/// One line for each value, and one for each element of a list; what is not set is left out.
fn lines(field: &str, value: &Value, output: &mut dyn Write) -> anyhow::Result<()> {
    match value {
        Value::Null => {}
        Value::Array(values) => {
            for value in values {
                lines(field, value, output)?;
            }
        }
        Value::Object(values) => {
            let parts: Vec<String> = values
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| format!("{name}={}", plain(value)))
                .collect();
            if !parts.is_empty() {
                writeln!(output, "{field:<12} {}", parts.join(" "))?;
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            writeln!(output, "{field:<12} {}", plain(value))?;
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// In one word, at present.
fn state(account: &Account, defaults: &AccountDefaults) -> &'static str {
    let standing = account.standing();
    let now = Utc::now();
    if account.disabled {
        "disabled"
    } else if is_expired(&standing, now) {
        "expired"
    } else if is_idle(&standing, defaults, now) {
        "idle"
    } else {
        "enabled"
    }
}

/// RADIUS and the directory.
type RemoteStates = (FactorState, FactorState);

/// Names of the groups of an account.
struct Groups {
    own: Vec<String>,
    /// At its last login that a directory judged.
    by_directory: Vec<String>,
}

impl Groups {
    fn of(accounts: &Accounts, account: &Account) -> Result<Self, AccountsError> {
        Ok(Self {
            own: accounts.groups_of(account.uid)?,
            by_directory: accounts.directory_groups_of(account.uid)?,
        })
    }
}

fn machine_form(
    account: &Account,
    defaults: &AccountDefaults,
    mounts: &[Mount],
    limits: &AccountLimits,
    groups: &Groups,
    remote: &RemoteStates,
) -> Value {
    let policy = match &account.policy {
        FactorPolicy::TwoClass => json!({ "name": account.policy.name() }),
        FactorPolicy::PossessionPair(exception) => json!({
            "name": account.policy.name(),
            "reason": exception.reason,
            "approver": exception.approver,
            "expires": exception.expires.to_string(),
            "expired": !account.policy.allows_pair(Utc::now()),
        }),
    };
    let keys: Vec<_> = account
        .keys
        .iter()
        .map(|key| {
            let mut shown = key.terms.describe();
            shown.insert("fingerprint".to_owned(), key.fingerprint.as_str().into());
            shown.insert("comment".to_owned(), key.comment.as_str().into());
            shown
        })
        .collect();
    json!({
        "uid": account.uid.0,
        "name": account.name,
        "kind": kind_name(account.kind),
        "owner": account.owner,
        "disabled": account.disabled,
        "state": state(account, defaults),
        "created": account.created,
        "last_login": account.usage.last_login.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)),
        "restrictions": restrictions::describe(&account.restrictions),
        "policy": policy,
        "password": factor(account.password),
        "totp": factor(account.totp),
        "recovery_codes": account.recovery_codes,
        "radius": factor(remote.0),
        "directory": factor(remote.1),
        "keys": keys,
        "login_with": ways(account, remote),
        "login": login_options::describe(&account.login),
        "groups": groups.own,
        "directory_groups": groups.by_directory,
        "limits": limits::describe(limits),
        "mounts": mounts.iter().map(mounts::describe).collect::<Vec<_>>(),
    })
}

/// The ways in that the account's factors allow at present.
fn ways(account: &Account, &(radius, directory): &RemoteStates) -> Vec<&'static str> {
    let usable = |state| matches!(state, FactorState::Usable { .. });
    // What is judged elsewhere is judged there alone.
    let judged_by = |remote, local| match remote {
        FactorState::Absent => usable(local),
        FactorState::Usable { .. } | FactorState::Locked | FactorState::Lost => usable(remote),
    };
    let (password, totp, key) = (
        judged_by(directory, account.password),
        judged_by(radius, account.totp),
        account
            .keys
            .iter()
            .any(|key| key.terms.expires.is_none_or(|end| Utc::now() < end)),
    );
    let recovery = totp || account.totp == FactorState::Lost;
    let ways = [
        (password && totp, "password+code"),
        (
            password && recovery && account.recovery_codes > 0,
            "password+recovery-code",
        ),
        (password && key, "key+password"),
        (
            key && totp && account.policy.allows_pair(Utc::now()),
            "key+code",
        ),
    ];
    ways.into_iter()
        .filter_map(|(possible, way)| possible.then_some(way))
        .collect()
}

fn factor(state: FactorState) -> Value {
    match state {
        FactorState::Absent => json!({ "state": "absent" }),
        FactorState::Usable { failures } => json!({ "state": "usable", "failures": failures }),
        FactorState::Locked => json!({ "state": "locked" }),
        FactorState::Lost => json!({ "state": "lost" }),
    }
}
