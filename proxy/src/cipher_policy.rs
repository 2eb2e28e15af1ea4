//! Named sets of SSH algorithms: closed lists, and a deny-list above them that no configuration can lift.
//!
//! Names only; the SSH edge maps them to the library. Whether a user's key is one of the policy's is judged in `auth`.

mod presets;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, time::Duration};

use chrono::NaiveDate;

pub use presets::Preset;
use presets::{FIPS_140_3, HIPAA_2026, LEGACY_COMPAT, PQ_ONLY};

use crate::{auth::public_key::KeyRules, exception::Exception};

/// Every preset there is; the first is the default.
pub const PRESETS: &[Preset] = &[DEFAULT, FIPS_140_3, PQ_ONLY, LEGACY_COMPAT];

/// What holds unless the configuration says otherwise, and after a relaxation.
pub const DEFAULT: Preset = HIPAA_2026;

/// The compression that every preset offers: compressing before authentication is attack surface.
pub const COMPRESSION: &str = "none";

/// The algorithms of one gateway: a preset, or less of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CipherPolicy {
    preset: &'static Preset,
    key_exchanges: Cow<'static, [&'static str]>,
    ciphers: Cow<'static, [&'static str]>,
    macs: Cow<'static, [&'static str]>,
    exception: Option<Exception>,
}

/// What a list is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    KeyExchange,
    Cipher,
    Mac,
}

impl Purpose {
    /// The key of `[server.algorithms]`.
    pub fn key(self) -> &'static str {
        match self {
            Self::KeyExchange => "key_exchanges",
            Self::Cipher => "ciphers",
            Self::Mac => "macs",
        }
    }
}

/// Why a policy can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    #[error("unknown cipher policy {name:?}; known: {known}", known = preset_names())]
    UnknownPreset { name: String },
    #[error("{name:?} can't be enabled by any configuration: {reason}")]
    Denied { name: String, reason: &'static str },
    #[error("{name:?} is not part of {preset}, which a list can only narrow; choose from {choice}")]
    NotInPreset {
        name: String,
        preset: &'static str,
        choice: String,
    },
    #[error(
        "the list is empty, so that no client could connect; leave the key out for all of {preset}"
    )]
    Empty { preset: &'static str },
}

fn preset_names() -> String {
    let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
    names.join(", ")
}

/// Why an algorithm may never be used, or `None` if nothing speaks against the name.
pub fn denied(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let is_or_has_prefix = |prefix: &str| name.starts_with(prefix);
    if name == "none" {
        Some("it does not protect anything")
    } else if name == "ssh-rsa" || is_or_has_prefix("ssh-rsa-cert") {
        Some("it signs with SHA-1; the same keys work as rsa-sha2-512 and rsa-sha2-256")
    } else if is_or_has_prefix("ssh-dss") {
        Some("DSA with 1024 bits and SHA-1 is broken")
    } else if name.contains("md5") {
        Some("MD5 is broken")
    } else if name.contains("sha1") {
        Some("SHA-1 is broken")
    } else if is_or_has_prefix("3des") || is_or_has_prefix("des") {
        Some("DES and 3DES are broken")
    } else if is_or_has_prefix("arcfour") || is_or_has_prefix("rc4") {
        Some("RC4 is broken")
    } else if is_or_has_prefix("blowfish") || is_or_has_prefix("cast128") {
        Some("ciphers with 64-bit blocks leak in long sessions")
    } else if name.contains("-cbc") || is_or_has_prefix("rijndael-cbc") {
        Some("CBC in SSH leaks plaintext (CVE-2008-5161)")
    } else if name.contains("-96") || is_or_has_prefix("umac-64") {
        Some("its tag is shorter than 128 bits")
    } else if is_or_has_prefix("zlib") {
        Some("compression before and after authentication is attack surface")
    } else {
        None
    }
}

impl CipherPolicy {
    /// The preset of that name.
    ///
    /// # Errors
    /// If there is none: the error names those there are.
    pub fn preset(name: &str) -> Result<Self, PolicyError> {
        if let Some(reason) = denied(name) {
            return Err(PolicyError::Denied {
                name: name.to_owned(),
                reason,
            });
        }
        let preset = PRESETS
            .iter()
            .find(|preset| preset.name == name)
            .ok_or_else(|| PolicyError::UnknownPreset {
                name: name.to_owned(),
            })?;
        Ok(Self::of(preset))
    }

    fn of(preset: &'static Preset) -> Self {
        Self {
            preset,
            key_exchanges: Cow::Borrowed(preset.key_exchanges),
            ciphers: Cow::Borrowed(preset.ciphers),
            macs: Cow::Borrowed(preset.macs),
            exception: None,
        }
    }

    /// The same under the exception that a relaxation needs.
    #[must_use]
    pub fn under(self, exception: Exception) -> Self {
        Self {
            exception: Some(exception),
            ..self
        }
    }

    /// What holds on a day: the policy itself, and after its exception's last day the default preset.
    pub fn on(&self, day: NaiveDate) -> Cow<'_, Self> {
        match &self.exception {
            Some(exception) if exception.expires < day => Cow::Owned(Self::of(&DEFAULT)),
            Some(_) | None => Cow::Borrowed(self),
        }
    }

    /// Offers only `names` of one list, in the order given.
    ///
    /// # Errors
    /// All that is wrong with the names: denied, not in the preset, or none left. The policy is then unchanged.
    pub fn narrow(&mut self, purpose: Purpose, names: &[&str]) -> Result<(), Vec<PolicyError>> {
        let preset = self.preset.name;
        let list = match purpose {
            Purpose::KeyExchange => &mut self.key_exchanges,
            Purpose::Cipher => &mut self.ciphers,
            Purpose::Mac => &mut self.macs,
        };
        let mut narrowed = Vec::new();
        let mut errors = Vec::new();
        for &name in names {
            if let Some(reason) = denied(name) {
                errors.push(PolicyError::Denied {
                    name: name.to_owned(),
                    reason,
                });
            } else if let Some(&known) = list.iter().find(|&&known| known == name) {
                if !narrowed.contains(&known) {
                    narrowed.push(known);
                }
            } else {
                errors.push(PolicyError::NotInPreset {
                    name: name.to_owned(),
                    preset,
                    choice: list.join(", "),
                });
            }
        }
        if narrowed.is_empty() && errors.is_empty() {
            errors.push(PolicyError::Empty { preset });
        }
        if errors.is_empty() {
            *list = Cow::Owned(narrowed);
            Ok(())
        } else {
            Err(errors)
        }
    }

    pub fn name(&self) -> &'static str {
        self.preset.name
    }

    /// What may be said of it to an auditor, and what may not.
    pub fn claim(&self) -> &'static str {
        self.preset.claim
    }

    /// True if it holds under an exception only.
    pub fn is_relaxation(&self) -> bool {
        self.preset.is_relaxation
    }

    /// Who allowed it, why, and until when, if it is weaker than the default.
    pub fn exception(&self) -> Option<&Exception> {
        self.exception.as_ref()
    }

    pub fn key_exchanges(&self) -> &[&'static str] {
        &self.key_exchanges
    }

    pub fn host_keys(&self) -> &'static [&'static str] {
        self.preset.host_keys
    }

    pub fn user_keys(&self) -> &'static [&'static str] {
        self.preset.user_keys
    }

    /// Which keys users may log in with.
    pub fn key_rules(&self) -> KeyRules {
        KeyRules {
            algorithms: self.preset.user_keys,
            rsa_bits_min: self.preset.user_rsa_bits_min,
        }
    }

    pub fn ciphers(&self) -> &[&'static str] {
        &self.ciphers
    }

    pub fn macs(&self) -> &[&'static str] {
        &self.macs
    }

    /// What belongs to it and is not offered, since the SSH library does not have it.
    pub fn not_implemented(&self) -> &'static [&'static str] {
        self.preset.not_implemented
    }

    /// New keys after so many bytes in one direction.
    pub fn rekey_bytes(&self) -> usize {
        self.preset.rekey_bytes
    }

    /// New keys after so long.
    pub fn rekey_time(&self) -> Duration {
        self.preset.rekey_time
    }
}

/// True if recorded traffic of a session with this key exchange stays secret from a later quantum computer.
pub fn is_post_quantum(key_exchange: &str) -> bool {
    key_exchange.starts_with("mlkem") || key_exchange.starts_with("sntrup")
}

/// True if the cipher authenticates by itself, so that no MAC is negotiated.
pub fn is_authenticated_cipher(cipher: &str) -> bool {
    cipher.contains("-gcm") || cipher.starts_with("chacha20-poly1305")
}
