//! What an operator says about a bucket.

use std::{fmt, time::Duration};

use zeroize::Zeroizing;

use crate::backend::ftp::TlsTrust;

/// A bucket and the access key that the gateway uses there.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// `https://host` or `https://host:port`, or `http` where that is allowed. The bucket's name is put behind it as the
    /// first component of the path (path-style addressing).
    pub endpoint: String,
    /// What requests are signed for; servers other than AWS mostly take any.
    pub region: String,
    pub bucket: String,
    /// Prefix of all keys, above the mounts' directories; empty for none.
    pub prefix: String,
    pub access_key: AccessKey,
    /// Which certificate is the server's.
    pub trust: TlsTrust,
    /// Longest time without a byte in either direction while an answer is due.
    pub timeout: Duration,
}

/// An access key whose secret no log shows.
#[derive(Clone)]
pub struct AccessKey {
    pub(super) id: String,
    pub(super) secret: Zeroizing<String>,
}

impl AccessKey {
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            secret: Zeroizing::new(secret.into()),
        }
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .field("secret", &"<secret>")
            .finish()
    }
}
