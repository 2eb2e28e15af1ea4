//! Restrictions of accounts in the database, and when an account was last used.

use std::num::NonZeroU32;

use chrono::{DateTime, NaiveDate, Utc};
use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};
use serde_json::{Value, json};

use super::{
    AccountName, Accounts, AccountsError, Administration,
    admission::{Restrictions, Standing},
    audit, break_glass, damaged, kind_from, uid_of,
};
use crate::auth::flow::UserId;

/// Logins within so many seconds of the one on record are not written: clients open several connections at once.
const LOGIN_RESOLUTION: i64 = 60;

/// What `account set` changes; what is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    pub owner: Option<Option<String>>,
    pub expires: Option<Option<NaiveDate>>,
    pub idle_days: Option<Option<NonZeroU32>>,
    pub hours: Option<Option<super::hours::AllowedHours>>,
    pub sources: Option<Vec<IpNet>>,
}

/// When and how an account was used, as `account show` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub last_login: Option<DateTime<Utc>>,
    /// When it was made or enabled.
    pub active_since: DateTime<Utc>,
}

impl Usage {
    /// From when on it counts as idle.
    pub fn last_used(&self) -> DateTime<Utc> {
        self.last_login
            .map_or(self.active_since, |login| login.max(self.active_since))
    }
}

impl Accounts {
    /// How the account stands, if it is enabled.
    ///
    /// # Errors
    /// If the database can't be read or holds what no restriction is.
    pub fn standing(&self, uid: UserId) -> Result<Option<Standing>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT epoch, window_era, kind, expires, idle_days, hours, last_login, active_since
             FROM account WHERE id = ?1 AND disabled = 0",
        )?;
        let found = statement
            .query_row([uid.0], |row| Ok(standing(row)))
            .optional()?
            .transpose()?;
        // Asked in vain where there is no account: it takes as long.
        let sources = sources(&connection, uid)?;
        let open = break_glass::window(&connection, uid)?;
        Ok(found.map(|mut standing| {
            standing.restrictions.sources = sources;
            standing.open = open;
            standing
        }))
    }

    /// Notes that the account was used. On disk when this returns.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn note_login(&self, uid: UserId, now: DateTime<Utc>) -> Result<(), AccountsError> {
        let seconds = now.timestamp();
        let is_noted: bool = self
            .connection()
            .prepare_cached("SELECT 1 FROM account WHERE id = ?1 AND abs(last_login - ?2) < ?3")?
            .exists((uid.0, seconds, LOGIN_RESOLUTION))?;
        if is_noted {
            return Ok(());
        }
        self.transaction(|transaction| {
            transaction.execute(
                "UPDATE account SET last_login = ?2 WHERE id = ?1",
                (uid.0, seconds),
            )?;
            Ok(())
        })
    }
}

impl Administration<'_> {
    /// Changes who answers for the account and what narrows its use. Sessions that the new restrictions don't admit end
    /// within seconds, also those outside of new hours.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn set(&self, name: &AccountName, changes: &Changes) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = uid_of(transaction, name)?;
            let now = Utc::now();
            store(transaction, uid, changes)?;
            // Hours that end let a session finish; hours that are taken away don't.
            if let Some(Some(hours)) = &changes.hours
                && !hours.allow(now)
            {
                super::administration::end_sessions(transaction, uid)?;
            }
            audit::note(
                transaction,
                &super::administration::timestamp(),
                &self.actor,
                "set",
                uid,
                name,
                &describe_changes(changes),
            )
        })
    }
}

pub(super) fn store(
    transaction: &Transaction<'_>,
    uid: UserId,
    changes: &Changes,
) -> Result<(), AccountsError> {
    let Changes {
        owner,
        expires,
        idle_days,
        hours,
        sources,
    } = changes;
    if let Some(owner) = owner {
        transaction
            .prepare_cached("UPDATE account SET owner = ?2 WHERE id = ?1")?
            .execute((uid.0, owner))?;
    }
    if let Some(expires) = expires {
        let expires = expires.map(|date| date.to_string());
        transaction
            .prepare_cached("UPDATE account SET expires = ?2 WHERE id = ?1")?
            .execute((uid.0, expires))?;
    }
    if let Some(days) = idle_days {
        transaction
            .prepare_cached("UPDATE account SET idle_days = ?2 WHERE id = ?1")?
            .execute((uid.0, days.map(NonZeroU32::get)))?;
    }
    if let Some(hours) = hours {
        let hours = hours.as_ref().map(ToString::to_string);
        transaction
            .prepare_cached("UPDATE account SET hours = ?2 WHERE id = ?1")?
            .execute((uid.0, hours))?;
    }
    if let Some(sources) = sources {
        transaction
            .prepare_cached("DELETE FROM account_source WHERE account = ?1")?
            .execute([uid.0])?;
        let mut insert = transaction.prepare_cached(
            "INSERT OR IGNORE INTO account_source (account, network) VALUES (?1, ?2)",
        )?;
        for network in sources {
            insert.execute((uid.0, network.to_string()))?;
        }
    }
    Ok(())
}

/// The networks from which the account may be used, in the order of their texts.
pub(super) fn sources(connection: &Connection, uid: UserId) -> Result<Vec<IpNet>, AccountsError> {
    connection
        .prepare_cached("SELECT network FROM account_source WHERE account = ?1 ORDER BY network")?
        .query_map([uid.0], |row| row.get::<_, String>(0))?
        .map(|network| {
            let network = network?;
            network
                .parse()
                .map_err(|_| damaged("account_source.network", &network))
        })
        .collect()
}

/// Of a row of `account`; the sources are rows of their own.
pub(super) fn restrictions(row: &Row<'_>) -> Result<Restrictions, AccountsError> {
    let expires: Option<String> = row.get("expires")?;
    let hours: Option<String> = row.get("hours")?;
    let days: Option<u32> = row.get("idle_days")?;
    Ok(Restrictions {
        expires: expires
            .map(|text| text.parse().map_err(|_| damaged("account.expires", &text)))
            .transpose()?,
        idle_days: days.and_then(NonZeroU32::new),
        hours: hours
            .map(|text| text.parse().map_err(|_| damaged("account.hours", &text)))
            .transpose()?,
        sources: Vec::new(),
    })
}

/// Of a row of `account`.
pub(super) fn usage(row: &Row<'_>) -> Result<Usage, AccountsError> {
    let time = |column: &str, seconds: i64| {
        DateTime::from_timestamp(seconds, 0).ok_or_else(|| damaged(column, &seconds.to_string()))
    };
    let last_login: Option<i64> = row.get("last_login")?;
    Ok(Usage {
        last_login: last_login
            .map(|seconds| time("account.last_login", seconds))
            .transpose()?,
        active_since: time("account.active_since", row.get("active_since")?)?,
    })
}

fn standing(row: &Row<'_>) -> Result<Standing, AccountsError> {
    Ok(Standing {
        epoch: row.get("epoch")?,
        window_era: row.get("window_era")?,
        kind: kind_from(&row.get::<_, String>("kind")?)?,
        restrictions: restrictions(row)?,
        last_used: usage(row)?.last_used(),
        open: None,
    })
}

/// Restrictions as records and `--json` show them: `null` is none.
pub fn describe(restrictions: &Restrictions) -> Value {
    let Restrictions {
        expires,
        idle_days,
        hours,
        sources,
    } = restrictions;
    json!({
        "expires": expires.map(|date| date.to_string()),
        "idle_days": idle_days.map(NonZeroU32::get),
        "hours": hours.as_ref().map(ToString::to_string),
        "sources": sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn describe_changes(changes: &Changes) -> Value {
    let Changes {
        owner,
        expires,
        idle_days,
        hours,
        sources,
    } = changes;
    let mut shown = serde_json::Map::new();
    if let Some(owner) = owner {
        shown.insert("owner".to_owned(), json!(owner));
    }
    if let Some(expires) = expires {
        shown.insert(
            "expires".to_owned(),
            json!(expires.map(|date| date.to_string())),
        );
    }
    if let Some(days) = idle_days {
        shown.insert("idle_days".to_owned(), json!(days.map(NonZeroU32::get)));
    }
    if let Some(hours) = hours {
        shown.insert(
            "hours".to_owned(),
            json!(hours.as_ref().map(ToString::to_string)),
        );
    }
    if let Some(sources) = sources {
        let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
        shown.insert("sources".to_owned(), json!(sources));
    }
    shown.into()
}
