//! How accounts are shown.

use std::io::Write;

use chrono::Utc;
use portcullis_journal::AccountKind;
use serde_json::{Value, json};

use crate::{
    accounts::{Account, Accounts, FactorState, limits, mounts},
    allowance::AccountLimits,
    auth::flow::FactorPolicy,
    policy::Mount,
};

pub(super) fn print(accounts: &Accounts, json: bool, output: &mut dyn Write) -> anyhow::Result<()> {
    let mut listed = Vec::new();
    for account in accounts.list()? {
        let mounts = accounts.mounts(account.uid)?;
        let limits = accounts.limits(account.uid)?;
        listed.push((account, mounts, limits));
    }
    if json {
        let all: Vec<Value> = listed
            .iter()
            .map(|(account, mounts, limits)| machine_form(account, mounts, limits))
            .collect();
        writeln!(output, "{}", Value::from(all))?;
        return Ok(());
    }
    writeln!(
        output,
        "{:<32} {:<8} {:<8} {:<40} MOUNTS",
        "NAME", "KIND", "STATE", "LOGIN WITH"
    )?;
    for (account, mounts, _) in &listed {
        let places: Vec<_> = mounts
            .iter()
            .map(|mount| String::from_utf8_lossy(mount.at.as_bytes()))
            .collect();
        writeln!(
            output,
            "{:<32} {:<8} {:<8} {:<40} {}",
            account.name,
            kind(account),
            if account.disabled {
                "disabled"
            } else {
                "enabled"
            },
            ways(account).join(", "),
            places.join(" ")
        )?;
    }
    Ok(())
}

fn machine_form(account: &Account, mounts: &[Mount], limits: &AccountLimits) -> Value {
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
        .map(|(fingerprint, comment)| json!({ "fingerprint": fingerprint, "comment": comment }))
        .collect();
    json!({
        "uid": account.uid.0,
        "name": account.name,
        "kind": kind(account),
        "owner": account.owner,
        "disabled": account.disabled,
        "created": account.created,
        "policy": policy,
        "password": factor(account.password),
        "totp": factor(account.totp),
        "keys": keys,
        "login_with": ways(account),
        "limits": limits::describe(limits),
        "mounts": mounts.iter().map(mounts::describe).collect::<Vec<_>>(),
    })
}

/// The ways in that the account's factors allow at present.
fn ways(account: &Account) -> Vec<&'static str> {
    let usable = |state| matches!(state, FactorState::Usable { .. });
    let (password, totp, key) = (
        usable(account.password),
        usable(account.totp),
        !account.keys.is_empty(),
    );
    let ways = [
        (password && totp, "password+code"),
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

fn kind(account: &Account) -> &'static str {
    match account.kind {
        AccountKind::Human => "human",
        AccountKind::Machine => "machine",
        AccountKind::Admin => "admin",
        AccountKind::BreakGlass => "breakglass",
    }
}

fn factor(state: FactorState) -> Value {
    match state {
        FactorState::Absent => json!({ "state": "absent" }),
        FactorState::Usable { failures } => json!({ "state": "usable", "failures": failures }),
        FactorState::Locked => json!({ "state": "locked" }),
    }
}
