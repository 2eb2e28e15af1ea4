//! How a custodian of break-glass accounts proves who it is: with both factors of an account of the kind admin, at a
//! terminal, checked and counted as at a login.

use chrono::{DateTime, TimeDelta, Utc};
use portcullis_journal::AccountKind;

use super::{Secret, flow::UserId, password::Hasher, totp::Code};
use crate::accounts::{
    AccountName, Accounts, AccountsError, CodeVerdict, PasswordTry, admission::is_expired,
};

/// Someone who showed the password and a code of an admin account. Only [`prove`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custodian {
    uid: UserId,
    name: String,
}

/// Why someone is no custodian.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    #[error("{name} can't be a custodian: not an enabled account of the kind admin")]
    NotAnAdmin { name: AccountName },
    #[error("{name}: wrong password or code, or a code that was used before")]
    Wrong { name: AccountName },
    #[error(
        "{name}: after too many wrong tries nothing is looked at; wait, or set the factor anew"
    )]
    Locked { name: AccountName },
    #[error("{name}: the password is too old; `account set-password` sets another")]
    Expired { name: AccountName },
    #[error(transparent)]
    Accounts(#[from] AccountsError),
}

impl ProofError {
    /// The code in records.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAnAdmin { .. } => "not_an_admin",
            Self::Wrong { .. } => "wrong_factor",
            Self::Locked { .. } => "locked",
            Self::Expired { .. } => "password_expired",
            Self::Accounts(_) => "accounts_unavailable",
        }
    }
}

impl Custodian {
    pub fn uid(&self) -> UserId {
        self.uid
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Checks both factors, the password's age against `max_age` too. Wrong tries count as those of a login do, on disk; a right code is spent.
///
/// # Errors
/// If one is wrong, the account is not an enabled admin's, or the database can't be used.
pub fn prove(
    accounts: &Accounts,
    hasher: &Hasher,
    name: &AccountName,
    (password, code): (&Secret, &Secret),
    max_age: Option<TimeDelta>,
    now: DateTime<Utc>,
) -> Result<Custodian, ProofError> {
    let profile = accounts
        .profile(name.as_str())?
        .filter(|profile| profile.kind == AccountKind::Admin)
        .map(|profile| Ok::<_, AccountsError>((accounts.standing(profile.uid)?, profile)))
        .transpose()?
        .and_then(|(standing, profile)| Some((standing?, profile)))
        .filter(|(standing, _)| !is_expired(standing, now))
        .map(|(_, profile)| profile)
        .ok_or_else(|| ProofError::NotAnAdmin { name: name.clone() })?;
    let uid = profile.uid;
    let wrong = || ProofError::Wrong { name: name.clone() };
    let phc = match accounts.try_password(uid, true, now, max_age)? {
        PasswordTry::Open { phc, .. } => phc,
        PasswordTry::Delayed | PasswordTry::Disabled => {
            return Err(ProofError::Locked { name: name.clone() });
        }
        PasswordTry::Expired => return Err(ProofError::Expired { name: name.clone() }),
        PasswordTry::NotSet => return Err(wrong()),
    };
    if !hasher.verify(Some(&phc), password) {
        return Err(wrong());
    }
    accounts.password_was_right(uid)?;
    match accounts.redeem_code(uid, Code::parse(code.expose()), now)? {
        CodeVerdict::Right => Ok(Custodian {
            uid,
            name: profile.name,
        }),
        CodeVerdict::Wrong { .. }
        | CodeVerdict::Replayed
        | CodeVerdict::Lost
        | CodeVerdict::NotEnrolled => Err(wrong()),
        CodeVerdict::Delayed | CodeVerdict::Disabled => {
            Err(ProofError::Locked { name: name.clone() })
        }
    }
}

#[cfg(test)]
impl Custodian {
    pub(crate) fn for_test(uid: UserId, name: &str) -> Self {
        Self {
            uid,
            name: name.to_owned(),
        }
    }
}
