//! Whether a signature is one of the account's keys.

use std::{net::IpAddr, sync::Arc};

use chrono::{DateTime, Utc};
use portcullis_journal::AccountKind;
use ssh_key::{Algorithm, Certificate, PublicKey};

use super::{Attempt, Checked, NO_ACCOUNT};
use crate::{
    accounts::KeyTerms,
    auth::{
        Factor,
        certificate::{self, Bearer, CertificateFacts},
        credential::Credential,
        flow::{Evidence, ShownKey, UserId},
        public_key::{self, KeyError},
    },
};

impl Attempt {
    /// True type, size and signature algorithm.
    pub(in crate::auth::attempt) fn acceptable_key(
        &self,
        algorithm: &Algorithm,
        key: &PublicKey,
    ) -> Result<(), KeyError> {
        public_key::check(key, self.rules.keys)?;
        public_key::check_signature(algorithm, key)
    }

    /// A plain key, or one in a FIDO device. The signature over this session was verified.
    pub(in crate::auth::attempt) async fn look_up_key(
        &self,
        user: &str,
        algorithm: &Algorithm,
        key: &PublicKey,
    ) -> Checked {
        let fingerprint = public_key::fingerprint(key);
        let acceptable = self.acceptable_key(algorithm, key);
        let (factor, key) = (factor(key), key.key_data().clone());
        self.blocking(user, move |shared, claim| {
            let account = shared.profile(claim)?;
            // No account has the number -1: the same query is made in vain.
            let uid = account.as_ref().map_or(UserId(-1), |account| account.uid);
            let terms = shared.accounts.key_terms(uid, &fingerprint)?;
            let trust = shared.trust();
            let reason = match (&acceptable, &account, &terms) {
                (Err(error), _, _) => Some(key_reason(error)),
                (Ok(()), _, _) if trust.is_authority(&key) => Some("authority_key"),
                (Ok(()), _, _) if trust.revoked.revokes_key(&key) => Some("key_revoked"),
                (Ok(()), None, _) => Some(NO_ACCOUNT),
                (Ok(()), Some(_), None) => Some("unknown_key"),
                (Ok(()), Some(_), Some(terms)) => broken_term(terms, claim.source, claim.now),
            };
            let shown = reason.is_none().then(|| ShownKey {
                fingerprint,
                factor,
                credential: Arc::new(Credential {
                    key,
                    expires: terms.and_then(|terms| terms.expires),
                    certificate: None,
                }),
            });
            Ok(Checked::new(account, Evidence::Key { shown }, reason))
        })
        .await
    }

    /// A certificate whose signatures, the client's over this session and the authority's, were verified. `facts` are its
    /// own.
    pub(in crate::auth::attempt) async fn look_up_certificate(
        &self,
        user: &str,
        certificate: &Certificate,
        facts: CertificateFacts,
    ) -> Checked {
        let certificate = certificate.clone();
        let key = certificate.public_key().clone();
        let rules = self.rules.keys;
        let foreign = [certificate.public_key(), certificate.signature_key()]
            .into_iter()
            .any(|key| public_key::check(&PublicKey::from(key.clone()), rules).is_err());
        let fingerprint = public_key::fingerprint(&PublicKey::from(key.clone()));
        self.blocking(user, move |shared, claim| {
            let account = shared.profile(claim)?;
            let uid = account.as_ref().map_or(UserId(-1), |account| account.uid);
            let holder = shared.accounts.key_holder(&fingerprint)?;
            let terms = shared.accounts.key_terms(uid, &fingerprint)?;
            let trust = shared.trust();
            let bearer = Bearer {
                name: claim.user,
                kind: account
                    .as_ref()
                    .map_or(AccountKind::Human, |account| account.kind),
                source: claim.source,
                now: claim.now,
            };
            let judged =
                certificate::judge(&certificate, &trust.authorities, &trust.revoked, bearer);
            let reason = match (judged, &account) {
                (Err(error), _) => Some(error.code()),
                (Ok(_), _) if foreign => Some("key_not_in_policy"),
                (Ok(_), _) if trust.is_authority(&key) => Some("authority_key"),
                (Ok(_), None) => Some(NO_ACCOUNT),
                (Ok(_), Some(_)) if holder.is_some_and(|holder| holder != uid) => {
                    Some("key_of_another_account")
                }
                // Where the account has the key plainly too, its terms hold for both.
                (Ok(_), Some(_)) => terms
                    .as_ref()
                    .and_then(|terms| broken_term(terms, claim.source, claim.now)),
            };
            let shown = reason.is_none().then(|| ShownKey {
                fingerprint,
                factor: Factor::Certificate,
                credential: Arc::new(Credential {
                    key,
                    expires: terms.and_then(|terms| terms.expires),
                    certificate: Some(facts),
                }),
            });
            Ok(Checked::new(account, Evidence::Key { shown }, reason))
        })
        .await
    }
}

/// What keeps a key of the account out, if anything.
fn broken_term(terms: &KeyTerms, source: IpAddr, now: DateTime<Utc>) -> Option<&'static str> {
    let is_far = !terms.sources.is_empty()
        && !terms
            .sources
            .iter()
            .any(|network| network.contains(&source));
    if terms.expires.is_some_and(|end| now >= end) {
        Some("key_expired")
    } else {
        is_far.then_some("key_source")
    }
}

fn factor(key: &PublicKey) -> Factor {
    if public_key::is_security_key(key.key_data()) {
        Factor::SecurityKey
    } else {
        Factor::PublicKey
    }
}

fn key_reason(error: &KeyError) -> &'static str {
    match error {
        KeyError::RsaSize { .. } => "rsa_size",
        KeyError::Policy { .. } => "key_not_in_policy",
        KeyError::Signature { .. } => "weak_signature",
        KeyError::Certificate => "certificate",
        KeyError::Type { .. } => "key_type",
        KeyError::Application { .. } => "key_application",
        KeyError::Unreadable { .. } | KeyError::Options { .. } => "unreadable_key",
    }
}
