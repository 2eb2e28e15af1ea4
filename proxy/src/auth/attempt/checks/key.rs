//! Whether a signature is one of the account's keys.

use ssh_key::{Algorithm, Certificate, PublicKey};

use super::{Attempt, Checked, NO_ACCOUNT};
use crate::auth::{
    Factor,
    flow::{Evidence, ShownKey, UserId},
    public_key::{self, KeyError},
};

/// True type, size and signature algorithm.
pub(in crate::auth::attempt) fn acceptable_key(
    algorithm: &Algorithm,
    key: &PublicKey,
) -> Result<(), KeyError> {
    public_key::check(key)?;
    public_key::check_signature(algorithm, key)
}

impl Attempt {
    /// A plain key, or one in a FIDO device. The signature over this session was verified.
    pub(in crate::auth::attempt) async fn look_up_key(
        &self,
        user: &str,
        algorithm: &Algorithm,
        key: &PublicKey,
    ) -> Checked {
        let fingerprint = public_key::fingerprint(key);
        let acceptable = acceptable_key(algorithm, key);
        let factor = factor(key);
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            // No account has the number -1: the same query is made in vain.
            let uid = account.as_ref().map_or(UserId(-1), |account| account.uid);
            let belongs = shared.accounts.has_key(uid, &fingerprint)?;
            let reason = match (&acceptable, &account, belongs) {
                (Ok(()), Some(_), true) => None,
                (Ok(()), Some(_), false) => Some("unknown_key"),
                (Ok(()), None, _) => Some(NO_ACCOUNT),
                (Err(error), _, _) => Some(key_reason(error)),
            };
            let shown = reason.is_none().then_some(ShownKey {
                fingerprint,
                factor,
            });
            Ok(Checked::new(account, Evidence::Key { shown }, reason))
        })
        .await
    }

    /// A certificate whose signatures, the client's over this session and the authority's, were verified. The library
    /// checks its dates, but not who signed it, for whom and for what. None is accepted.
    pub(in crate::auth::attempt) async fn look_up_certificate(
        &self,
        user: &str,
        _certificate: &Certificate,
    ) -> Checked {
        self.blocking(user, |shared, user| {
            let account = shared.profile(user)?;
            let reason = key_reason(&KeyError::Certificate);
            Ok(Checked::new(
                account,
                Evidence::Key { shown: None },
                Some(reason),
            ))
        })
        .await
    }
}

fn factor(key: &PublicKey) -> Factor {
    let data = key.key_data();
    if data.is_sk_ed25519() || data.is_sk_ecdsa_p256() {
        Factor::SecurityKey
    } else {
        Factor::PublicKey
    }
}

fn key_reason(error: &KeyError) -> &'static str {
    match error {
        KeyError::RsaSize { .. } => "rsa_size",
        KeyError::Signature { .. } => "weak_signature",
        KeyError::Certificate => "certificate",
        KeyError::Type { .. } => "key_type",
        KeyError::Unreadable { .. } | KeyError::Options { .. } => "unreadable_key",
    }
}
