//! The policy `machine`: a machine account logs in with a key alone, while every control that makes up for the second
//! factor is in place.
//!
//! A key and a place are not two factors. The records say `is_mfa: false` and name the controls.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use ipnet::IpNet;
use portcullis_journal::AccountKind;
use rusqlite::{OptionalExtension as _, Row};
use serde_json::{Value, json};

use super::{
    AccountName, Accounts, AccountsError, Administration, admission::Restrictions, damaged,
    kind_from, restrictions, uid_of,
};
use crate::{
    auth::flow::UserId,
    exception::Exception,
    policy::{Mount, Permissions},
};

/// The longest that the policy may be in force before someone approves it again.
pub const DAYS_MAX: TimeDelta = TimeDelta::days(90);

/// Which way files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Files come in: nothing can be read or removed.
    Put,
    /// Files go out: nothing can be changed.
    Get,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }

    /// True if the permissions reach no further.
    fn covers(self, permissions: &Permissions) -> bool {
        let Permissions {
            list: _,
            read,
            write,
            overwrite,
            append,
            rename,
            delete,
            mkdir,
            rmdir,
            setattr,
            symlink,
        } = *permissions;
        match self {
            // Clients write under another name, set the times and rename.
            Self::Put => !(read || delete || rmdir || symlink),
            Self::Get => {
                !(write
                    || overwrite
                    || append
                    || rename
                    || delete
                    || mkdir
                    || rmdir
                    || setattr
                    || symlink)
            }
        }
    }
}

/// The policy as an administrator set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachinePolicy {
    pub exception: Exception,
    pub direction: Direction,
    /// Bytes that all sessions together may move between two midnights, UTC.
    pub daily_bytes: u64,
}

/// What makes up for the second factor. All have to be in place at each login, and while a session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Control {
    /// The account is of the kind machine.
    Kind,
    /// Someone answers for it.
    Owner,
    /// Approved for at most [`DAYS_MAX`], and not yet over.
    Expiry,
    /// From single addresses only.
    Source,
    /// Every mount, also of a group, permits one direction only, and so does every rule by place.
    Operations,
    /// There is a mount, and none shows all of a backend.
    Paths,
    /// At certain hours only.
    Hours,
    /// The day's bytes are not used up.
    Volume,
    /// What is typed at a prompt never counts. Held by the flow itself.
    NoPrompts,
}

impl Control {
    pub const ALL: [Self; 9] = [
        Self::Kind,
        Self::Owner,
        Self::Expiry,
        Self::Source,
        Self::Operations,
        Self::Paths,
        Self::Hours,
        Self::Volume,
        Self::NoPrompts,
    ];

    /// The name in records and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kind => "machine-account",
            Self::Owner => "owner",
            Self::Expiry => "expiry",
            Self::Source => "single-source",
            Self::Operations => "one-direction",
            Self::Paths => "path-jail",
            Self::Hours => "hours",
            Self::Volume => "daily-volume",
            Self::NoPrompts => "no-prompts",
        }
    }

    /// The code in records of a login that lacks it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Kind => "machine_lacks_kind",
            Self::Owner => "machine_lacks_owner",
            Self::Expiry => "machine_policy_expired",
            Self::Source => "machine_lacks_single_source",
            Self::Operations => "machine_lacks_one_direction",
            Self::Paths => "machine_lacks_path_jail",
            Self::Hours => "machine_lacks_hours",
            Self::Volume => "machine_volume_used_up",
            Self::NoPrompts => "machine_prompted",
        }
    }

    /// What an administrator does about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Kind => "the policy is for accounts made with `account add --kind machine`",
            Self::Owner => "`account set NAME --owner`",
            Self::Expiry => {
                "`account policy NAME machine` with another --expires, at most 90 days away"
            }
            Self::Source => "`account set NAME --source` with single addresses",
            Self::Operations => {
                "`account mount` and `group mount` with permissions and rules of one direction only"
            }
            Self::Paths => "`account mount` with a --directory below the backend's own",
            Self::Hours => "`account set NAME --hours`",
            Self::Volume => "the bytes of this day are used up; a new day begins at midnight UTC",
            Self::NoPrompts => "nothing: it always holds",
        }
    }
}

/// A machine account with all that its controls are judged by.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    pub uid: UserId,
    pub name: String,
    pub kind: AccountKind,
    pub owner: Option<String>,
    pub disabled: bool,
    pub restrictions: Restrictions,
    pub mounts: Vec<Mount>,
    pub policy: Option<MachinePolicy>,
    /// Bytes moved since midnight, UTC.
    pub moved_today: u64,
    /// Bytes moved on all days.
    pub moved: u64,
    pub last_login: Option<DateTime<Utc>>,
}

impl Machine {
    /// The controls that are not in place at `now`; none is good. All, if the policy is not set.
    pub fn missing(&self, now: DateTime<Utc>) -> Vec<Control> {
        let Some(policy) = &self.policy else {
            return Control::ALL.to_vec();
        };
        Control::ALL
            .into_iter()
            .filter(|control| !self.has(*control, policy, now.date_naive()))
            .collect()
    }

    fn has(&self, control: Control, policy: &MachinePolicy, today: NaiveDate) -> bool {
        match control {
            Control::Kind => self.kind == AccountKind::Machine,
            Control::Owner => self
                .owner
                .as_deref()
                .is_some_and(|owner| !owner.trim().is_empty()),
            Control::Expiry => {
                let expires = policy.exception.expires;
                today <= expires && expires <= today + DAYS_MAX
            }
            Control::Source => {
                let sources = &self.restrictions.sources;
                !sources.is_empty() && sources.iter().all(is_single)
            }
            Control::Operations => self
                .mounts
                .iter()
                .flat_map(Mount::grants)
                .all(|permissions| policy.direction.covers(permissions)),
            Control::Paths => {
                !self.mounts.is_empty()
                    && self.mounts.iter().all(|mount| is_below(&mount.directory))
            }
            Control::Hours => self.restrictions.hours.is_some(),
            Control::Volume => self.moved_today < policy.daily_bytes,
            Control::NoPrompts => true,
        }
    }
}

fn is_single(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

/// True unless it is a backend's own directory, however written.
fn is_below(directory: &[u8]) -> bool {
    let mut parts = directory
        .split(|&byte| byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .peekable();
    parts.peek().is_some() && !parts.any(|part| part == b"..")
}

/// Why the policy can't be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("account {name} lacks what makes up for a second factor:{lacks}")]
pub struct MachineError {
    name: AccountName,
    lacks: String,
}

impl MachineError {
    fn new(name: &AccountName, missing: &[Control]) -> Self {
        let lacks = missing
            .iter()
            .map(|control| format!("\n  {}: {}", control.name(), control.remedy()))
            .collect();
        Self {
            name: name.clone(),
            lacks,
        }
    }
}

impl Administration<'_> {
    /// Lets a machine account log in with a key alone.
    ///
    /// # Errors
    /// If there is no such account, or a control is missing; the error names each.
    pub fn set_machine_policy(
        &self,
        name: &AccountName,
        policy: &MachinePolicy,
        now: DateTime<Utc>,
    ) -> Result<(), AccountsError> {
        let uid = self
            .accounts
            .transaction(|transaction| uid_of(transaction, name))?;
        let mut machine = self
            .accounts
            .machine(uid, now)?
            .ok_or_else(|| AccountsError::NoSuchAccount { name: name.clone() })?;
        machine.policy = Some(policy.clone());
        let missing = machine.missing(now);
        if !missing.is_empty() {
            return Err(MachineError::new(name, &missing).into());
        }
        let Exception {
            reason,
            approver,
            expires,
        } = &policy.exception;
        let bytes = i64::try_from(policy.daily_bytes).unwrap_or(i64::MAX);
        self.accounts.transaction(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO machine_policy (account, reason, approver, expires, direction, daily_bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (uid.0, reason, approver, expires.to_string(), policy.direction.name(), bytes),
            )?;
            super::administration::end_sessions(transaction, uid)?;
            let details = json!({
                "policy": "machine",
                "reason": reason,
                "approver": approver,
                "expires": expires.to_string(),
                "direction": policy.direction.name(),
                "daily_bytes": policy.daily_bytes,
            });
            self.note(transaction, "policy", uid, name, &details)
        })
    }
}

impl Accounts {
    /// Account `uid` with all that the controls of the policy `machine` are judged by.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn machine(
        &self,
        uid: UserId,
        now: DateTime<Utc>,
    ) -> Result<Option<Machine>, AccountsError> {
        let mounts = self.mounts(uid)?;
        let sources = self
            .standing(uid)?
            .map(|standing| standing.restrictions.sources);
        let connection = self.connection();
        let found = connection
            .prepare_cached(SELECT)?
            .query_row((uid.0, day(now)), |row| Ok(machine(row)))
            .optional()?
            .transpose()?;
        Ok(found.map(|machine| Machine {
            mounts,
            restrictions: Restrictions {
                sources: sources.unwrap_or_default(),
                ..machine.restrictions
            },
            ..machine
        }))
    }

    /// Every account of the kind machine, or under its policy, by name.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn machines(&self, now: DateTime<Utc>) -> Result<Vec<Machine>, AccountsError> {
        let uids: Vec<i64> = {
            let connection = self.connection();
            let mut statement = connection.prepare_cached(
                "SELECT id FROM account WHERE kind = 'machine'
                 OR id IN (SELECT account FROM machine_policy) ORDER BY name",
            )?;
            statement
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?
        };
        let machines = uids
            .into_iter()
            .filter_map(|uid| self.machine(UserId(uid), now).transpose());
        machines.collect()
    }

    /// Adds to the bytes that the account moved on this day. On disk when this returns.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn add_volume(
        &self,
        uid: UserId,
        bytes: u64,
        now: DateTime<Utc>,
    ) -> Result<(), AccountsError> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.transaction(|transaction| {
            transaction.execute(
                "INSERT INTO machine_volume (account, day, bytes) VALUES (?1, ?2, ?3)
                 ON CONFLICT (account, day) DO UPDATE SET bytes = bytes + excluded.bytes",
                (uid.0, day(now), bytes),
            )?;
            Ok(())
        })
    }
}

/// What the policy says, as records and `--json` show it.
pub fn describe(policy: &MachinePolicy) -> Value {
    json!({
        "reason": policy.exception.reason,
        "approver": policy.exception.approver,
        "expires": policy.exception.expires.to_string(),
        "direction": policy.direction.name(),
        "daily_bytes": policy.daily_bytes,
    })
}

const SELECT: &str = "
    SELECT account.*, machine_policy.reason AS machine_reason, machine_policy.approver AS machine_approver,
           machine_policy.expires AS machine_expires, direction, daily_bytes,
           COALESCE((SELECT bytes FROM machine_volume WHERE account = id AND day = ?2), 0) AS moved_today,
           COALESCE((SELECT SUM(bytes) FROM machine_volume WHERE account = id), 0) AS moved
    FROM account LEFT JOIN machine_policy ON machine_policy.account = account.id
    WHERE account.id = ?1";

fn day(now: DateTime<Utc>) -> String {
    now.date_naive().to_string()
}

fn machine(row: &Row<'_>) -> Result<Machine, AccountsError> {
    let bytes = |column: &str| -> Result<u64, AccountsError> {
        let stored: i64 = row.get(column)?;
        u64::try_from(stored).map_err(|_| damaged(column, &stored.to_string()))
    };
    let direction: Option<String> = row.get("direction")?;
    let policy = match direction.as_deref() {
        None => None,
        Some(direction) => {
            let expires: String = row.get("machine_expires")?;
            Some(MachinePolicy {
                exception: Exception {
                    reason: row.get("machine_reason")?,
                    approver: row.get("machine_approver")?,
                    expires: expires
                        .parse()
                        .map_err(|_| damaged("machine_policy.expires", &expires))?,
                },
                direction: match direction {
                    "put" => Direction::Put,
                    "get" => Direction::Get,
                    other => return Err(damaged("machine_policy.direction", other)),
                },
                daily_bytes: bytes("daily_bytes")?,
            })
        }
    };
    Ok(Machine {
        uid: UserId(row.get("id")?),
        name: row.get("name")?,
        kind: kind_from(&row.get::<_, String>("kind")?)?,
        owner: row.get("owner")?,
        disabled: row.get("disabled")?,
        restrictions: restrictions::restrictions(row)?,
        mounts: Vec::new(),
        policy,
        moved_today: bytes("moved_today")?,
        moved: bytes("moved")?,
        last_login: restrictions::usage(row)?.last_login,
    })
}

#[cfg(test)]
mod tests;
