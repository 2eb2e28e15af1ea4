//! What a factor is, and what kind of proof it is.

use std::sync::Arc;

use crate::auth::credential::Credential;

/// What a factor proves (NIST SP 800-63-4: something you know, something you have).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactorClass {
    Know,
    Have,
}

/// A factor that a user can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    Password,
    PublicKey,
    /// A key in a FIDO device, `sk-...@openssh.com`.
    SecurityKey,
    /// A key that an authority has certified (OpenSSH's PROTOCOL.certkeys).
    Certificate,
    Totp,
    RecoveryCode,
    /// The answer of a RADIUS server to a code.
    Radius,
}

impl Factor {
    /// All of them, each once.
    pub const ALL: [Self; 7] = [
        Self::Password,
        Self::PublicKey,
        Self::SecurityKey,
        Self::Certificate,
        Self::Totp,
        Self::RecoveryCode,
        Self::Radius,
    ];

    /// Keys, devices that show codes, and a sheet of recovery codes are all things one has: they can be taken in the
    /// same bag.
    pub fn class(self) -> FactorClass {
        match self {
            Self::Password => FactorClass::Know,
            Self::PublicKey
            | Self::SecurityKey
            | Self::Certificate
            | Self::Totp
            | Self::RecoveryCode
            | Self::Radius => FactorClass::Have,
        }
    }

    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::PublicKey => "publickey",
            Self::SecurityKey => "security-key",
            Self::Certificate => "certificate",
            Self::Totp => "totp",
            Self::RecoveryCode => "recovery-code",
            Self::Radius => "radius",
        }
    }

    /// True if it is shown by a signature, with the SSH method `publickey`.
    pub fn is_key(self) -> bool {
        match self {
            Self::PublicKey | Self::SecurityKey | Self::Certificate => true,
            Self::Password | Self::Totp | Self::RecoveryCode | Self::Radius => false,
        }
    }

    /// True for what one knows.
    pub fn is_password(self) -> bool {
        self.class() == FactorClass::Know
    }

    /// True if it is typed in at the prompt for a one-time password.
    pub fn is_code(self) -> bool {
        match self {
            Self::Totp | Self::RecoveryCode | Self::Radius => true,
            Self::Password | Self::PublicKey | Self::SecurityKey | Self::Certificate => false,
        }
    }
}

/// A key of the account, whose signature over this session was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownKey {
    /// `SHA256:...`, of the plain key also under a certificate.
    pub fingerprint: String,
    /// One that [`Factor::is_key`].
    pub factor: Factor,
    /// What the session rests on that comes of it.
    pub credential: Arc<Credential>,
}

#[cfg(test)]
impl ShownKey {
    /// A key for tests that look at its fingerprint and factor alone.
    pub(crate) fn for_test(fingerprint: &str, factor: Factor) -> Self {
        let line = crate::auth::public_key::samples::ED25519;
        let key = line.parse::<ssh_key::PublicKey>().unwrap();
        Self {
            fingerprint: fingerprint.to_owned(),
            factor,
            credential: Arc::new(Credential {
                key: key.key_data().clone(),
                expires: None,
                certificate: None,
            }),
        }
    }
}
