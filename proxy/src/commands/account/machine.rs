//! `account machine-report`: what a yearly look at logins on one factor needs.

use std::io::Write;

use anyhow::{Context as _, ensure};
use chrono::{NaiveDate, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::{
    accounts::{
        Accounts,
        machine::{self, Control, Direction, Machine, MachinePolicy},
        mounts, restrictions,
    },
    exception::Exception,
};

/// Which way files go, on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum DirectionName {
    /// Files come in: list, write, overwrite, rename, mkdir, setattr
    Put,
    /// Files go out: list, read
    Get,
}

pub(super) fn policy(
    (reason, approver, expires): (Option<String>, Option<String>, Option<NaiveDate>),
    direction: Option<DirectionName>,
    daily_volume: Option<u64>,
) -> anyhow::Result<MachinePolicy> {
    let needed = "machine needs --reason, --approver, --expires, --direction and --daily-volume";
    let (reason, approver) = (reason.context(needed)?, approver.context(needed)?);
    ensure!(
        !reason.trim().is_empty() && !approver.trim().is_empty(),
        "--reason and --approver must say something"
    );
    let daily_bytes = daily_volume.context(needed)?;
    ensure!(daily_bytes > 0, "--daily-volume 0 would admit no login");
    Ok(MachinePolicy {
        exception: Exception {
            reason,
            approver,
            expires: expires.context(needed)?,
        },
        direction: match direction.context(needed)? {
            DirectionName::Put => Direction::Put,
            DirectionName::Get => Direction::Get,
        },
        daily_bytes,
    })
}

pub(super) fn report(
    accounts: &Accounts,
    json: bool,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let now = Utc::now();
    let machines = accounts.machines(now)?;
    if json {
        let all: Vec<Value> = machines
            .iter()
            .map(|machine| machine_form(machine, &machine.missing(now)))
            .collect();
        writeln!(output, "{}", Value::from(all))?;
        return Ok(());
    }
    for machine in &machines {
        let missing = machine.missing(now);
        writeln!(
            output,
            "{}{}: owner {}, last login {}",
            machine.name,
            if machine.disabled { " (disabled)" } else { "" },
            machine.owner.as_deref().unwrap_or("nobody"),
            last_login(machine).unwrap_or_else(|| "never".to_owned()),
        )?;
        let Some(policy) = &machine.policy else {
            writeln!(output, "  two factors of different classes")?;
            continue;
        };
        let Exception {
            reason,
            approver,
            expires,
        } = &policy.exception;
        writeln!(
            output,
            "  one factor until {expires}, {} only, approved by {approver}: {reason}",
            policy.direction.name()
        )?;
        writeln!(
            output,
            "  moved {} of {} bytes today, {} in all",
            machine.moved_today, policy.daily_bytes, machine.moved
        )?;
        for control in missing {
            writeln!(output, "  MISSING {}: {}", control.name(), control.remedy())?;
        }
    }
    Ok(())
}

fn machine_form(machine: &Machine, missing: &[Control]) -> Value {
    let in_place: Vec<_> = Control::ALL
        .iter()
        .filter(|control| !missing.contains(control))
        .map(|control| control.name())
        .collect();
    let missing: Vec<_> = missing.iter().map(|control| control.name()).collect();
    json!({
        "uid": machine.uid.0,
        "name": machine.name,
        "owner": machine.owner,
        "disabled": machine.disabled,
        "policy": machine.policy.as_ref().map(machine::describe),
        "restrictions": restrictions::describe(&machine.restrictions),
        "mounts": machine.mounts.iter().map(mounts::describe).collect::<Vec<_>>(),
        "controls": if machine.policy.is_some() { in_place } else { Vec::new() },
        "missing": if machine.policy.is_some() { missing } else { Vec::new() },
        "bytes_today": machine.moved_today,
        "bytes": machine.moved,
        "last_login": last_login(machine),
    })
}

fn last_login(machine: &Machine) -> Option<String> {
    let login = machine.last_login?;
    Some(login.to_rfc3339_opts(SecondsFormat::Secs, true))
}
