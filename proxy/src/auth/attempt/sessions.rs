//! What happens to sessions when an administrator changes an account.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::{Authenticator, LookupError};
use crate::{accounts::audit, auth::Authenticated};

/// How soon a change that another process made is seen.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

impl Authenticator {
    /// Sees changes of accounts, wakes [`Self::until_revoked`] and moves the changes into the journal. The daemon runs
    /// one of these for as long as it lives.
    pub async fn follow_changes(self) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            ticks.tick().await;
            match self.data_version().await {
                Ok(version) if seen != Some(version) => {
                    seen = Some(version);
                    self.shared.changes.send_modify(|changes| *changes += 1);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "changes of accounts can't be seen"
                    );
                }
            }
            if let Err(error) = audit::relay(&self.shared.accounts, self.shared.log.as_ref()).await
            {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "changes of accounts wait for the journal"
                );
            }
        }
    }

    /// Resolves once the session of `user` has to end: the account was disabled, or lost a key, a mount, its password,
    /// authenticator or policy exception. Needs [`Self::follow_changes`] to run.
    pub async fn until_revoked(&self, user: &Authenticated) {
        let mut changes = self.shared.changes.subscribe();
        loop {
            match self.epoch(user).await {
                Ok(epoch) if epoch == Some(user.epoch()) => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        user = user.name(),
                        "can't see whether the account is still enabled"
                    );
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn data_version(&self) -> Result<i64, LookupError> {
        let accounts = self.shared.accounts.clone();
        Ok(tokio::task::spawn_blocking(move || accounts.data_version()).await??)
    }

    async fn epoch(&self, user: &Authenticated) -> Result<Option<i64>, LookupError> {
        let (accounts, uid) = (self.shared.accounts.clone(), user.uid());
        Ok(tokio::task::spawn_blocking(move || accounts.epoch(uid)).await??)
    }
}
