//! Verifies what a request claims: on blocking threads, with the same work whether or not there is such an account.

mod code;
mod key;
mod password;

pub(super) use key::acceptable_key;

use std::sync::Arc;

use super::{Attempt, LookupError, Shared};
use crate::{
    accounts::{AccountName, AccountsError},
    auth::flow::{Evidence, Profile},
};

/// A verified request.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) account: Option<Profile>,
    pub(super) evidence: Evidence,
    /// Why the evidence is wrong, for the record.
    pub(super) reason: Option<&'static str>,
    /// Counts against the source.
    pub(super) guess: bool,
    /// Wrong tries of the factor in a row.
    pub(super) factor_failures: Option<u32>,
    /// This try locked the factor.
    pub(super) locked: bool,
}

impl Checked {
    fn new(account: Option<Profile>, evidence: Evidence, reason: Option<&'static str>) -> Self {
        Self {
            account,
            evidence,
            reason,
            guess: false,
            factor_failures: None,
            locked: false,
        }
    }

    fn guess(self) -> Self {
        Self {
            guess: self.reason.is_some(),
            ..self
        }
    }
}

const NO_ACCOUNT: &str = "no_enabled_account";

impl Attempt {
    /// Only looks up the account.
    pub(super) async fn look_up(
        &self,
        user: &str,
        evidence: Evidence,
        reason: Option<&'static str>,
    ) -> Checked {
        let guess = reason.is_some();
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            Ok(Checked {
                guess,
                ..Checked::new(account, evidence, reason)
            })
        })
        .await
    }

    /// A lookup that fails is a failure of the request, and says so in the record.
    async fn blocking(
        &self,
        user: &str,
        work: impl FnOnce(&Shared, &str) -> Result<Checked, AccountsError> + Send + 'static,
    ) -> Checked {
        let shared = Arc::clone(&self.shared);
        let user = user.to_owned();
        let done = tokio::task::spawn_blocking(move || work(&shared, &user))
            .await
            .map_err(LookupError::from)
            .and_then(|checked| checked.map_err(LookupError::from));
        done.unwrap_or_else(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "authentication step refused"
            );
            Checked::new(None, Evidence::None, Some("accounts_unavailable"))
        })
    }
}

impl Shared {
    /// A text that is no account name is looked up all the same: it takes as long, and there is none.
    fn profile(&self, user: &str) -> Result<Option<Profile>, AccountsError> {
        let name = user.parse::<AccountName>();
        let profile = self
            .accounts
            .profile(name.as_ref().map_or("", AccountName::as_str))?;
        Ok(profile.filter(|_| name.is_ok()))
    }
}
