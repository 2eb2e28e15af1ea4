//! What an operator says about a bucket.

use std::{fmt, time::Duration};

use zeroize::Zeroizing;

use super::interface::Interface;
use crate::backend::ftp::TlsTrust;

/// A bucket and what the gateway may use it with.
#[derive(Debug, Clone)]
pub struct ObjectSettings {
    /// `https://host` or `https://host:port`, or `http` where that is allowed. The bucket's name is put behind it as the
    /// next component of the path (path-style addressing). That of Azure may have the account as its path.
    pub endpoint: String,
    /// Azure: the container.
    pub bucket: String,
    /// Prefix of all keys, above the mounts' directories; empty for none.
    pub prefix: String,
    pub credential: Credential,
    /// Which certificate is the server's.
    pub trust: TlsTrust,
    /// Longest time without a byte in either direction while an answer is due.
    pub timeout: Duration,
}

/// What requests are signed with, which also says how the service is spoken to.
#[derive(Debug, Clone)]
pub enum Credential {
    S3 {
        /// What requests are signed for; servers other than AWS mostly take any.
        region: String,
        key: AccessKey,
    },
    Azure {
        account: String,
        key: AzureKey,
    },
    Gcs {
        /// The key file of a service account, as JSON.
        service_account: SecretText,
    },
}

impl Credential {
    pub(super) fn interface(&self) -> Interface {
        match self {
            Self::S3 { .. } => Interface::S3,
            Self::Azure { .. } => Interface::Azure,
            Self::Gcs { .. } => Interface::Gcs,
        }
    }
}

/// An access key of S3.
#[derive(Debug, Clone)]
pub struct AccessKey {
    pub(super) id: String,
    pub(super) secret: SecretText,
}

impl AccessKey {
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            secret: SecretText::new(secret),
        }
    }
}

/// What an Azure storage account lets the gateway in with.
#[derive(Debug, Clone)]
pub enum AzureKey {
    /// One of the account's two keys, in base64.
    Shared(SecretText),
    /// A shared access signature: the query of a URL.
    Signature(SecretText),
}

/// A text that no log shows.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}
