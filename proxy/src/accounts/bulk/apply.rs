//! Entries from the database and into it: all, or none.

use std::collections::BTreeSet;

use rusqlite::{Connection, Transaction};

use super::{
    Fault,
    entry::{Entry, KeyLine},
    read::Located,
};
use crate::{
    accounts::{
        Account, AccountName, Accounts, AccountsError, Administration,
        administration::{end_sessions, timestamp},
        groups, kind_name, limits,
        mounts::{self, Holder},
        restrictions, schema, select_accounts,
    },
    auth::flow::{FactorPolicy, UserId},
};

/// After how many accounts progress is told.
const PROGRESS: usize = 1000;

/// What an import may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Accounts that exist already are made as the file has them.
    pub update: bool,
    /// Everything is tried and nothing is kept.
    pub dry_run: bool,
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub added: usize,
    pub updated: usize,
    pub unchanged: usize,
}

enum Done {
    Added,
    Updated,
    Unchanged,
}

impl Accounts {
    /// All accounts without their secrets, by name.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn export(&self) -> Result<Vec<Entry>, AccountsError> {
        let connection = self.connection();
        select_accounts(&connection, "ORDER BY account.name", [])?
            .into_iter()
            .map(|account| entry(&connection, account))
            .collect()
    }
}

impl Administration<'_> {
    /// Makes the accounts of a file: all, or none if there is any fault. `backends` are the names that mounts may use;
    /// `progress` hears of accounts done.
    ///
    /// # Errors
    /// If the database can't be written. Faults of the file are the inner error.
    pub fn import(
        &self,
        entries: &[Located],
        mode: Mode,
        backends: &[String],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Result<Counts, Vec<Fault>>, AccountsError> {
        let mut connection = self.accounts.connection();
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        schema::refuse_newer(&transaction)?;
        let mut counts = Counts::default();
        let mut faults = Vec::new();
        for (index, located) in entries.iter().enumerate() {
            if index > 0 && index % PROGRESS == 0 {
                progress(index);
            }
            let before = faults.len();
            refuse_unknown_backends(located, backends, &mut faults);
            if faults.len() > before {
                continue;
            }
            match self.import_one(&transaction, located, mode.update) {
                Ok(Ok(Done::Added)) => counts.added += 1,
                Ok(Ok(Done::Updated)) => counts.updated += 1,
                Ok(Ok(Done::Unchanged)) => counts.unchanged += 1,
                Ok(Err(fault)) => faults.push(fault),
                Err(error) => faults.push(Self::fault_of(located, error)?),
            }
        }
        if !faults.is_empty() {
            return Ok(Err(faults));
        }
        if mode.dry_run {
            transaction.rollback()?;
        } else {
            transaction.commit()?;
        }
        Ok(Ok(counts))
    }

    /// The fault of the file, if it is one.
    fn fault_of(located: &Located, error: AccountsError) -> Result<Fault, AccountsError> {
        let field = if matches!(error, AccountsError::KeyTaken { .. }) {
            "keys"
        } else if matches!(
            error,
            AccountsError::NoSuchGroup { .. } | AccountsError::GroupsConflict { .. }
        ) {
            "groups"
        } else {
            return Err(error);
        };
        Ok(located.fault(field, error.to_string()))
    }

    fn import_one(
        &self,
        transaction: &Transaction<'_>,
        located: &Located,
        update: bool,
    ) -> Result<Result<Done, Fault>, AccountsError> {
        let wanted = &located.entry;
        let found = select_accounts(
            transaction,
            "WHERE account.name = ?1",
            [wanted.name.as_str()],
        )?
        .pop();
        let (uid, done) = match found {
            None => {
                let created = "INSERT INTO account (name, kind, created) VALUES (?1, ?2, ?3)";
                transaction.prepare_cached(created)?.execute((
                    wanted.name.as_str(),
                    kind_name(wanted.kind),
                    timestamp(),
                ))?;
                (UserId(transaction.last_insert_rowid()), Done::Added)
            }
            Some(account) => {
                let uid = account.uid;
                if is_same(&entry(transaction, account)?, wanted) {
                    return Ok(Ok(Done::Unchanged));
                }
                if !update {
                    let problem = format!(
                        "account {} exists and is not as the file has it; --update changes it",
                        wanted.name
                    );
                    return Ok(Err(located.fault("name", problem)));
                }
                // Something may be taken from it.
                end_sessions(transaction, uid)?;
                (uid, Done::Updated)
            }
        };
        store(transaction, uid, wanted)?;
        let details = wanted.fields().into();
        self.note(transaction, "import", uid, &wanted.name, &details)?;
        Ok(Ok(done))
    }
}

fn refuse_unknown_backends(located: &Located, backends: &[String], faults: &mut Vec<Fault>) {
    for mount in &located.entry.mounts {
        if !backends.contains(&mount.backend) {
            let problem = format!(
                "the configuration has no [backends.{}]; it has: {}",
                mount.backend,
                backends.join(", ")
            );
            faults.push(located.fault("mounts", problem));
        }
    }
}

/// A comment of a key is not a difference.
fn is_same(found: &Entry, wanted: &Entry) -> bool {
    let prints = |entry: &Entry| -> BTreeSet<String> {
        let keys = entry.keys.iter();
        keys.map(|key| key.fingerprint.clone()).collect()
    };
    let bare = |entry: &Entry| Entry {
        keys: Vec::new(),
        ..entry.clone()
    };
    prints(found) == prints(wanted) && bare(found) == bare(wanted)
}

fn entry(connection: &Connection, account: Account) -> Result<Entry, AccountsError> {
    let uid = account.uid;
    let keys = connection
        .prepare_cached(
            // A key with a source or an end of its own stays here: a file has no place for them.
            "SELECT fingerprint, line, comment FROM public_key
             WHERE account = ?1 AND sources = '' AND expires IS NULL ORDER BY fingerprint",
        )?
        .query_map([uid.0], |row| {
            Ok(KeyLine {
                fingerprint: row.get(0)?,
                line: row.get(1)?,
                comment: row.get(2)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    let groups: BTreeSet<AccountName> = groups::names_of(connection, uid)?
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_, _>>()?;
    Ok(Entry {
        name: account.name.parse()?,
        kind: account.kind,
        owner: account.owner,
        disabled: account.disabled,
        policy: account.policy,
        restrictions: account.restrictions,
        limits: limits::read(connection, uid)?,
        groups,
        keys,
        mounts: mounts::own(connection, uid)?,
    })
}

/// Makes the account as `wanted` has it.
fn store(transaction: &Transaction<'_>, uid: UserId, wanted: &Entry) -> Result<(), AccountsError> {
    let exception = match &wanted.policy {
        FactorPolicy::TwoClass => None,
        FactorPolicy::PossessionPair(exception) => Some(exception),
    };
    transaction
        .prepare_cached(
            "UPDATE account SET kind = ?2, disabled = ?3, policy = ?4, policy_reason = ?5, policy_approver = ?6,
                    policy_expires = ?7
             WHERE id = ?1",
        )?
        .execute((
            uid.0,
            kind_name(wanted.kind),
            wanted.disabled,
            wanted.policy.name(),
            exception.map(|exception| exception.reason.as_str()),
            exception.map(|exception| exception.approver.as_str()),
            exception.map(|exception| exception.expires.to_string()),
        ))?;
    let restrictions = &wanted.restrictions;
    let changes = restrictions::Changes {
        owner: Some(wanted.owner.clone()),
        expires: Some(restrictions.expires),
        idle_days: Some(restrictions.idle_days),
        hours: Some(restrictions.hours.clone()),
        sources: Some(restrictions.sources.clone()),
    };
    restrictions::store(transaction, uid, &changes)?;
    limits::store(transaction, uid, &wanted.limits)?;
    store_keys(transaction, uid, &wanted.keys)?;
    transaction
        .prepare_cached("DELETE FROM mount WHERE account = ?1")?
        .execute([uid.0])?;
    for mount in &wanted.mounts {
        mounts::store(transaction, Holder::Account(uid.0), mount)?;
    }
    for name in groups::names_of(transaction, uid)? {
        let name: AccountName = name.parse()?;
        if !wanted.groups.contains(&name) {
            groups::leave(transaction, groups::group_of(transaction, &name)?, uid)?;
        }
    }
    for name in &wanted.groups {
        groups::join(transaction, groups::group_of(transaction, name)?, uid)?;
    }
    Ok(())
}

fn store_keys(
    transaction: &Transaction<'_>,
    uid: UserId,
    wanted: &[KeyLine],
) -> Result<(), AccountsError> {
    let mut stored = transaction
        .prepare_cached(
            "SELECT fingerprint FROM public_key WHERE account = ?1 AND sources = '' AND expires IS NULL",
        )?
        .query_map([uid.0], |row| row.get(0))?
        .collect::<Result<BTreeSet<String>, _>>()?;
    for key in wanted {
        if stored.remove(&key.fingerprint) {
            continue;
        }
        let holder: Option<String> = transaction
            .prepare_cached(
                "SELECT name FROM account JOIN public_key ON account.id = account WHERE fingerprint = ?1",
            )?
            .query_map([&key.fingerprint], |row| row.get(0))?
            .next()
            .transpose()?;
        if let Some(owner) = holder {
            return Err(AccountsError::KeyTaken {
                fingerprint: key.fingerprint.clone(),
                owner,
            });
        }
        transaction
            .prepare_cached(
                "INSERT INTO public_key (fingerprint, account, line, comment, added) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((
                &key.fingerprint,
                uid.0,
                &key.line,
                &key.comment,
                timestamp(),
            ))?;
    }
    for fingerprint in stored {
        transaction
            .prepare_cached("DELETE FROM public_key WHERE fingerprint = ?1")?
            .execute([fingerprint])?;
    }
    Ok(())
}
