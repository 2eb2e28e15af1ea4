//! Whom the gateway believes, and what becomes of sessions when that changes.

use std::{sync::Arc, time::Duration};

use super::{Authenticator, Shared};
use crate::auth::{
    Authenticated,
    trust::{Trust, Withdrawn},
};

/// How often the clock is looked at where a key or certificate runs out; it may be set meanwhile.
const CLOCK_CHECK: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust.borrow())
    }
}

impl Authenticator {
    /// What is believed at present.
    pub fn trust(&self) -> Arc<Trust> {
        self.shared.trust()
    }

    /// Believes something else from here on, in logins and in the sessions that there are.
    pub fn change_trust(&self, change: impl FnOnce(&Trust) -> Trust) {
        self.shared
            .trust
            .send_modify(|trust| *trust = Arc::new(change(trust)));
    }

    /// Resolves once the key or certificate that `user` logged in with counts no longer; never for a user who showed none.
    pub async fn until_key_withdrawn(&self, user: &Authenticated) -> Withdrawn {
        let Some(credential) = user.credential() else {
            return std::future::pending().await;
        };
        let mut changes = self.shared.trust.subscribe();
        loop {
            let trust = Arc::clone(&changes.borrow_and_update());
            let now = self.shared.clock.now();
            if let Err(withdrawn) = trust.uphold(credential, user.kind(), now) {
                return withdrawn;
            }
            let ends = credential.ends().is_some();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    // The sender lives as long as `self`.
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(CLOCK_CHECK), if ends => {}
            }
        }
    }
}
