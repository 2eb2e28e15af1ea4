//! What a user who showed a key rests on for as long as the session lasts.

use chrono::{DateTime, Utc};
use portcullis_journal::record::untrusted;
use serde_json::{Map, Value};
use ssh_key::public::KeyData;

use super::{certificate::CertificateFacts, public_key};

/// A key, or a key in a certificate, whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub key: KeyData,
    /// The first moment at which the key does not count.
    pub expires: Option<DateTime<Utc>>,
    pub certificate: Option<CertificateFacts>,
}

impl Credential {
    /// The first moment at which it does not count.
    pub fn ends(&self) -> Option<DateTime<Utc>> {
        let certificate = self.certificate.as_ref().and_then(|certificate| {
            let seconds = i64::try_from(certificate.valid_before).ok()?;
            DateTime::from_timestamp(seconds, 0)
        });
        match (self.expires, certificate) {
            (Some(key), Some(certificate)) => Some(key.min(certificate)),
            (key, certificate) => key.or(certificate),
        }
    }

    /// As [`describe`], for the record.
    pub fn describe(&self, body: &mut Map<String, Value>) {
        describe(&self.key, self.certificate.as_ref(), body);
    }
}

/// Adds to a record what is known of a key beside its fingerprint.
pub fn describe(
    key: &KeyData,
    certificate: Option<&CertificateFacts>,
    body: &mut Map<String, Value>,
) {
    let mut put = |field: &str, value: Value| body.insert(field.to_owned(), value);
    if public_key::is_security_key(key) {
        // The library verifies the signature and shows neither flags nor counter.
        put("user_verified", "unknown".into());
    }
    if let Some(certificate) = certificate {
        put("cert_fp", certificate.fingerprint.as_str().into());
        // Text: JSON numbers are exact up to 53 bits only.
        put("cert_serial", certificate.serial.to_string().into());
        put("cert_key_id", untrusted(certificate.key_id.as_bytes()));
        put("ca_fp", certificate.authority_fingerprint().into());
    }
}
