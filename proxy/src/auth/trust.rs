//! Whose certificates count, and which keys count no longer. Holds for logins and for the sessions that come of them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use portcullis_journal::AccountKind;
use ssh_key::public::KeyData;

use super::{
    certificate::Authority,
    credential::Credential,
    krl::{Certified, RevokedKeys},
};

/// What is believed at one time; a change makes another.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    pub authorities: Vec<Authority>,
    pub revoked: Arc<RevokedKeys>,
}

/// Why a session can't rest on its key any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    /// The key, the certificate or its authority is on the list.
    Revoked,
    /// The key or the certificate has run out.
    Expired,
    /// The authority is gone from the configuration, or may not certify this kind of account any more.
    Authority,
}

impl Trust {
    /// True if the key is one that certifies others: it is nobody's key to log in with.
    pub fn is_authority(&self, key: &KeyData) -> bool {
        self.authorities
            .iter()
            .any(|authority| authority.key == *key)
    }

    /// Whether a session of an account of `kind` that began with this credential may go on.
    ///
    /// # Errors
    /// If not, why.
    pub fn uphold(
        &self,
        credential: &Credential,
        kind: AccountKind,
        now: DateTime<Utc>,
    ) -> Result<(), Withdrawn> {
        if credential.ends().is_some_and(|end| now >= end) {
            return Err(Withdrawn::Expired);
        }
        let Some(certificate) = &credential.certificate else {
            return if self.revoked.revokes_key(&credential.key) {
                Err(Withdrawn::Revoked)
            } else {
                Ok(())
            };
        };
        let certified = Certified {
            key: &credential.key,
            authority: &certificate.authority,
            serial: certificate.serial,
            key_id: &certificate.key_id,
        };
        let is_trusted = self.authorities.iter().any(|authority| {
            authority.key == certificate.authority && authority.kinds.contains(&kind)
        });
        if self.revoked.revokes_certificate(certified) {
            Err(Withdrawn::Revoked)
        } else if is_trusted {
            Ok(())
        } else {
            Err(Withdrawn::Authority)
        }
    }
}
