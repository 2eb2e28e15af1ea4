//! Public keys of accounts, and what narrows the use of each.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, SecondsFormat, SubsecRound as _, Utc};
use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Map, Value, json};
use ssh_key::PublicKey;

use super::{
    AccountName, Accounts, AccountsError, Administration,
    administration::{end_sessions, timestamp},
    damaged, uid_of,
};
use crate::auth::{flow::UserId, public_key};

/// Most networks of one key: more of them are a list for the agent.
pub const SOURCES_MAX: usize = 64;

/// Where and until when a key counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyTerms {
    /// Networks that it may be used from; none stands for anywhere.
    pub sources: Vec<IpNet>,
    /// The first moment at which it does not count, to the second.
    pub expires: Option<DateTime<Utc>>,
}

impl KeyTerms {
    /// True if they let pass all that `before` did.
    fn allow_all_of(&self, before: &Self) -> bool {
        let covered = |network: &IpNet| self.sources.iter().any(|other| other.contains(network));
        let sources = self.sources.is_empty()
            || (!before.sources.is_empty() && before.sources.iter().all(covered));
        let time = match (self.expires, before.expires) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(after), Some(before)) => after >= before,
        };
        sources && time
    }

    /// As records and `account list --json` show them.
    pub fn describe(&self) -> Map<String, Value> {
        let sources: Vec<_> = self.sources.iter().map(ToString::to_string).collect();
        let expires = self
            .expires
            .map(|moment| moment.to_rfc3339_opts(SecondsFormat::Secs, true));
        Map::from_iter([
            ("sources".to_owned(), sources.into()),
            ("expires".to_owned(), expires.into()),
        ])
    }
}

/// A key as `account list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountKey {
    /// `SHA256:...`
    pub fingerprint: String,
    pub comment: String,
    pub terms: KeyTerms,
}

/// Reads a day, which counts to its end in UTC, or a moment such as `2027-06-30T18:00:00Z`.
///
/// # Errors
/// One sentence for whoever typed it.
pub fn parse_expiry(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.with_timezone(&Utc).trunc_subsecs(0));
    }
    text.parse::<NaiveDate>()
        .ok()
        .and_then(|day| day.checked_add_days(Days::new(1)))
        .map(|next| next.and_time(NaiveTime::MIN).and_utc())
        .ok_or_else(|| {
            format!("{text:?} is neither a day such as 2027-06-30 nor a moment such as 2027-06-30T18:00:00Z")
        })
}

impl Accounts {
    /// The terms of the account's key, if it has that key.
    ///
    /// # Errors
    /// If the database can't be read or holds what no terms are.
    pub fn key_terms(
        &self,
        uid: UserId,
        fingerprint: &str,
    ) -> Result<Option<KeyTerms>, AccountsError> {
        let connection = self.connection();
        let found: Option<(String, Option<i64>)> = connection
            .prepare_cached(
                "SELECT sources, expires FROM public_key WHERE fingerprint = ?1 AND account = ?2",
            )?
            .query_row((fingerprint, uid.0), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        found
            .map(|(sources, expires)| terms(&sources, expires))
            .transpose()
    }

    /// Whose key it is, whether or not that account is enabled.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn key_holder(&self, fingerprint: &str) -> Result<Option<UserId>, AccountsError> {
        let connection = self.connection();
        Ok(connection
            .prepare_cached("SELECT account FROM public_key WHERE fingerprint = ?1")?
            .query_row([fingerprint], |row| row.get(0).map(UserId))
            .optional()?)
    }
}

impl Administration<'_> {
    /// Adds a key that [`public_key::parse`] accepted, for any source and without end; returns its fingerprint.
    ///
    /// # Errors
    /// As [`add_key_on`](Self::add_key_on).
    pub fn add_key(&self, name: &AccountName, key: &PublicKey) -> Result<String, AccountsError> {
        self.add_key_on(name, key, &KeyTerms::default())
    }

    /// Adds a key that [`public_key::parse`] accepted; returns its fingerprint. Adding it again changes nothing.
    ///
    /// # Errors
    /// If another account has the key, or this one has it on other terms.
    pub fn add_key_on(
        &self,
        name: &AccountName,
        key: &PublicKey,
        terms: &KeyTerms,
    ) -> Result<String, AccountsError> {
        let fingerprint = public_key::fingerprint(key);
        let bare = PublicKey::from(key.key_data().clone());
        let line = bare.to_openssh().map_err(|error| AccountsError::Damaged {
            what: format!("key {fingerprint} can't be written: {error}"),
        })?;
        let comment = String::from_utf8_lossy(key.comment().as_bytes()).into_owned();
        self.accounts.transaction(|transaction| {
            let uid = uid_of(transaction, name)?;
            let holder: Option<(i64, String)> = transaction
                .query_row(
                    "SELECT account.id, account.name FROM public_key
                     JOIN account ON account.id = public_key.account WHERE fingerprint = ?1",
                    [&fingerprint],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            match holder {
                Some((holder, _)) if holder == uid.0 => {
                    let present = stored_terms(transaction, uid, name, &fingerprint)?;
                    return if present == *terms {
                        Ok(())
                    } else {
                        Err(AccountsError::KeyPresent {
                            name: name.clone(),
                            fingerprint: fingerprint.clone(),
                        })
                    };
                }
                Some((_, owner)) => {
                    return Err(AccountsError::KeyTaken {
                        fingerprint: fingerprint.clone(),
                        owner,
                    });
                }
                None => {}
            }
            transaction.execute(
                "INSERT INTO public_key (fingerprint, account, line, comment, added, sources, expires)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (
                    &fingerprint,
                    uid.0,
                    &line,
                    &comment,
                    timestamp(),
                    joined(&terms.sources),
                    terms.expires.map(|moment| moment.timestamp()),
                ),
            )?;
            let details = json!({
                "key_fp": fingerprint,
                "key_type": key.algorithm().as_str(),
                "terms": terms.describe(),
            });
            self.note(transaction, "add-key", uid, name, &details)
        })?;
        Ok(fingerprint)
    }

    /// Gives a key other terms; `change` gets those that it has. Sessions of the account end if they become narrower.
    ///
    /// # Errors
    /// If the account has no such key.
    pub fn change_key(
        &self,
        name: &AccountName,
        fingerprint: &str,
        change: impl FnOnce(KeyTerms) -> KeyTerms,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = uid_of(transaction, name)?;
            let before = stored_terms(transaction, uid, name, fingerprint)?;
            let after = change(before.clone());
            transaction.execute(
                "UPDATE public_key SET sources = ?3, expires = ?4 WHERE account = ?1 AND fingerprint = ?2",
                (
                    uid.0,
                    fingerprint,
                    joined(&after.sources),
                    after.expires.map(|moment| moment.timestamp()),
                ),
            )?;
            if !after.allow_all_of(&before) {
                end_sessions(transaction, uid)?;
            }
            let details = json!({ "key_fp": fingerprint, "terms": after.describe() });
            self.note(transaction, "key", uid, name, &details)
        })
    }

    /// # Errors
    /// If the account has no such key.
    pub fn remove_key(&self, name: &AccountName, fingerprint: &str) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = uid_of(transaction, name)?;
            let removed = transaction.execute(
                "DELETE FROM public_key WHERE account = ?1 AND fingerprint = ?2",
                (uid.0, fingerprint),
            )?;
            if removed == 0 {
                return Err(no_such_key(name, fingerprint));
            }
            end_sessions(transaction, uid)?;
            let details = json!({ "key_fp": fingerprint });
            self.note(transaction, "remove-key", uid, name, &details)
        })
    }
}

/// The account's keys, the oldest first.
pub(super) fn of_account(
    connection: &Connection,
    uid: UserId,
) -> Result<Vec<AccountKey>, AccountsError> {
    connection
        .prepare_cached(
            "SELECT fingerprint, comment, sources, expires FROM public_key
             WHERE account = ?1 ORDER BY added, fingerprint",
        )?
        .query_map([uid.0], |row| {
            let (sources, expires): (String, Option<i64>) = (row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, row.get(1)?, terms(&sources, expires)))
        })?
        .map(|row| {
            let (fingerprint, comment, terms) = row?;
            Ok(AccountKey {
                fingerprint,
                comment,
                terms: terms?,
            })
        })
        .collect()
}

fn stored_terms(
    connection: &Connection,
    uid: UserId,
    name: &AccountName,
    fingerprint: &str,
) -> Result<KeyTerms, AccountsError> {
    let found: Option<(String, Option<i64>)> = connection
        .query_row(
            "SELECT sources, expires FROM public_key WHERE account = ?1 AND fingerprint = ?2",
            (uid.0, fingerprint),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let (sources, expires) = found.ok_or_else(|| no_such_key(name, fingerprint))?;
    terms(&sources, expires)
}

fn no_such_key(name: &AccountName, fingerprint: &str) -> AccountsError {
    AccountsError::NoSuchKey {
        name: name.clone(),
        fingerprint: fingerprint.to_owned(),
    }
}

fn joined(sources: &[IpNet]) -> String {
    let texts: Vec<_> = sources.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// What can't be read must not come to mean "anywhere".
fn terms(sources: &str, expires: Option<i64>) -> Result<KeyTerms, AccountsError> {
    let networks = sources
        .split(',')
        .filter(|_| !sources.is_empty())
        .map(|text| text.parse().map_err(|_| damaged("sources", sources)))
        .collect::<Result<_, _>>()?;
    let moment = |seconds| {
        DateTime::from_timestamp(seconds, 0)
            .ok_or_else(|| damaged("expires", &i64::to_string(&seconds)))
    };
    Ok(KeyTerms {
        sources: networks,
        expires: expires.map(moment).transpose()?,
    })
}
