//! Which OpenSSH user certificates count (OpenSSH's PROTOCOL.certkeys), and for whom.
//!
//! The SSH library verifies two signatures, the client's over the session and the authority's over the certificate, and
//! looks at the dates by the system's clock. All else is decided here: who may certify, for whom, for how long and under
//! which conditions. Nothing is read and no clock is asked.

mod conditions;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Duration};

use chrono::{DateTime, Utc};
use portcullis_journal::AccountKind;
use ssh_key::{Certificate, HashAlg, PublicKey, certificate::CertType, public::KeyData};

use super::{
    krl::{Certified, RevokedKeys},
    public_key::{self, KeyRules},
};
use crate::exception::Exception;

/// Longest principal that is looked at, in bytes; an account's name has 32 at most.
const PRINCIPAL_BYTES_MAX: usize = 256;
/// Most principals, as OpenSSH has it.
const PRINCIPALS_MAX: usize = 256;
/// Longest key id, in bytes: it stands in every record of a login.
const KEY_ID_BYTES_MAX: usize = 256;
/// `ssh-keygen -V +12h` makes certificates that were valid one to two minutes ago, for clocks that differ.
const BACKDATING: Duration = Duration::from_secs(300);

/// Longest lifetime for accounts of a kind: a working day for people and two for programs, which renew by themselves.
pub fn lifetime_max(kind: AccountKind) -> Duration {
    const HOUR: u64 = 3600;
    match kind {
        AccountKind::Machine => Duration::from_secs(24 * HOUR),
        AccountKind::Human | AccountKind::Admin | AccountKind::BreakGlass => {
            Duration::from_secs(12 * HOUR)
        }
    }
}

/// A key that certifies users' keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The name in the configuration and in records.
    pub name: String,
    pub key: KeyData,
    /// Whom it may certify.
    pub kinds: Vec<AccountKind>,
    /// Its own limit, if it differs from that of the account's kind.
    pub max_lifetime: Option<Duration>,
    pub exception: Option<Exception>,
}

impl Authority {
    /// `SHA256:...`
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// Longest lifetime of its certificates for accounts of `kind`.
    fn lifetime(&self, kind: AccountKind, now: DateTime<Utc>) -> Duration {
        let usual = lifetime_max(kind);
        let excepted = self
            .exception
            .as_ref()
            .is_some_and(|exception| now.date_naive() <= exception.expires);
        match self.max_lifetime {
            Some(own) if excepted => own,
            Some(own) => own.min(usual),
            None => usual,
        }
    }
}

/// Why a certificate does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    #[error("its key may not log in")]
    Key,
    #[error("no certificate authority of the configuration signed it")]
    UnknownAuthority,
    #[error("its authority may not certify accounts of this kind")]
    AuthorityKind,
    #[error("its authority signed with a weak algorithm")]
    AuthoritySignature,
    #[error("it is a host's")]
    HostCertificate,
    #[error("it names no principal")]
    NoPrincipals,
    #[error("a principal in it is empty, too long or has a comma, or there are too many")]
    MalformedPrincipal,
    #[error("it is for somebody else")]
    Principal,
    #[error("its key id is too long")]
    KeyId,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it is not valid any more")]
    Expired,
    #[error("it is valid for too long")]
    Lifetime,
    #[error("it has a critical option that is not known")]
    CriticalOption,
    #[error("it may not be used from this source")]
    SourceAddress,
    #[error("it, its key or its authority is revoked")]
    Revoked,
}

impl CertificateError {
    /// The code in records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Key => "certificate_key",
            Self::UnknownAuthority => "certificate_authority",
            Self::AuthorityKind => "certificate_authority_kind",
            Self::AuthoritySignature => "certificate_signature",
            Self::HostCertificate => "certificate_of_host",
            Self::NoPrincipals => "certificate_without_principals",
            Self::MalformedPrincipal => "certificate_principals",
            Self::Principal => "certificate_principal",
            Self::KeyId => "certificate_key_id",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Expired => "certificate_expired",
            Self::Lifetime => "certificate_lifetime",
            Self::CriticalOption => "certificate_option",
            Self::SourceAddress => "certificate_source",
            Self::Revoked => "certificate_revoked",
        }
    }
}

/// Who shows a certificate, from where, and when.
#[derive(Debug, Clone, Copy)]
pub struct Bearer<'a> {
    /// The account's name.
    pub name: &'a str,
    pub kind: AccountKind,
    pub source: IpAddr,
    pub now: DateTime<Utc>,
}

/// What outlasts the login: enough to see later whether the certificate would still count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// `SHA256:...` of the whole certificate.
    pub fingerprint: String,
    pub serial: u64,
    pub key_id: String,
    pub authority: KeyData,
    /// Seconds since 1970; the first in which it does not count.
    pub valid_before: u64,
}

impl CertificateFacts {
    pub fn of(certificate: &Certificate) -> Self {
        let whole = KeyData::Certificate(Box::new(certificate.clone()));
        let mut key_id = certificate.key_id().to_owned();
        key_id.truncate(key_id.floor_char_boundary(KEY_ID_BYTES_MAX));
        Self {
            fingerprint: whole.fingerprint(HashAlg::Sha256).to_string(),
            serial: certificate.serial(),
            key_id,
            authority: certificate.signature_key().clone(),
            valid_before: certificate.valid_before(),
        }
    }

    /// `SHA256:...` of the authority's key.
    pub fn authority_fingerprint(&self) -> String {
        self.authority.fingerprint(HashAlg::Sha256).to_string()
    }
}

/// Finds the authority of a certificate that counts for `bearer`. Its signatures have been verified.
///
/// # Errors
/// The first rule that it breaks.
pub fn judge<'a>(
    certificate: &Certificate,
    authorities: &'a [Authority],
    revoked: &RevokedKeys,
    bearer: Bearer<'_>,
) -> Result<&'a Authority, CertificateError> {
    let signer = certificate.signature_key();
    // The very key, and no certificate: what an authority has certified is no authority.
    let authority = authorities
        .iter()
        .find(|authority| authority.key == *signer && !signer.is_certificate())
        .ok_or(CertificateError::UnknownAuthority)?;
    if !authority.kinds.contains(&bearer.kind) {
        return Err(CertificateError::AuthorityKind);
    }
    let algorithm = certificate.signature().algorithm();
    public_key::check_signature(&algorithm, &PublicKey::from(signer.clone()))
        .map_err(|_| CertificateError::AuthoritySignature)?;
    let key = PublicKey::from(certificate.public_key().clone());
    public_key::check(&key, KeyRules::default()).map_err(|_| CertificateError::Key)?;
    if certificate.cert_type() != CertType::User {
        return Err(CertificateError::HostCertificate);
    }
    if certificate.key_id().len() > KEY_ID_BYTES_MAX {
        return Err(CertificateError::KeyId);
    }
    check_principals(certificate, bearer.name)?;
    check_dates(certificate, authority, bearer)?;
    conditions::check(certificate.critical_options(), bearer.source)?;
    let certified = Certified {
        key: certificate.public_key(),
        authority: signer,
        serial: certificate.serial(),
        key_id: certificate.key_id(),
    };
    if revoked.revokes_certificate(certified) {
        return Err(CertificateError::Revoked);
    }
    Ok(authority)
}

/// An empty list stands for everybody in PROTOCOL.certkeys, and a comma has joined two names in places where they were
/// matched as a list.
fn check_principals(certificate: &Certificate, name: &str) -> Result<(), CertificateError> {
    let principals = certificate.valid_principals();
    let malformed = |principal: &String| {
        principal.is_empty() || principal.len() > PRINCIPAL_BYTES_MAX || principal.contains(',')
    };
    if principals.is_empty() {
        Err(CertificateError::NoPrincipals)
    } else if principals.len() > PRINCIPALS_MAX || principals.iter().any(malformed) {
        Err(CertificateError::MalformedPrincipal)
    } else if principals.iter().any(|principal| principal == name) {
        Ok(())
    } else {
        Err(CertificateError::Principal)
    }
}

fn check_dates(
    certificate: &Certificate,
    authority: &Authority,
    bearer: Bearer<'_>,
) -> Result<(), CertificateError> {
    let now = u64::try_from(bearer.now.timestamp()).unwrap_or(0);
    let (after, before) = (certificate.valid_after(), certificate.valid_before());
    let longest = authority.lifetime(bearer.kind, bearer.now) + BACKDATING;
    if now < after {
        Err(CertificateError::NotYetValid)
    } else if now >= before {
        Err(CertificateError::Expired)
    } else if before - after > longest.as_secs() {
        Err(CertificateError::Lifetime)
    } else {
        Ok(())
    }
}
