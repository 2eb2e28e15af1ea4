//! Named sets of SSH algorithms: closed lists, and a deny-list above them that no configuration can lift.
//!
//! Names only; the SSH edge maps them to the library. Which user keys are good enough is judged in `auth`.

use std::time::Duration;

/// A closed set of algorithms. What a preset does not name is never offered.
#[derive(Debug)]
pub struct Preset {
    pub name: &'static str,
    /// Offered in this order; the client's first choice among them wins (RFC 4253 section 7.1).
    pub key_exchanges: &'static [&'static str],
    pub host_keys: &'static [&'static str],
    /// Announced in `server-sig-algs` (RFC 8308 section 3.1): what users may sign with.
    pub user_keys: &'static [&'static str],
    pub ciphers: &'static [&'static str],
    /// Used with ciphers that do not authenticate by themselves.
    pub macs: &'static [&'static str],
    /// New keys after so many bytes in one direction.
    pub rekey_bytes: usize,
    /// New keys after so long.
    pub rekey_time: Duration,
}

/// Hybrid post-quantum key exchange first, Curve25519 for clients without it, AES-256, encrypt-then-MAC.
///
/// The finite-field groups 16 and 18 that some 2026 checklists add are left out: one unauthenticated connection costs
/// 94 ms (group 16) or 775 ms (group 18) of processor time against 1.5 ms for Curve25519, and every client that speaks
/// the other lists of this preset also speaks Curve25519.
const HIPAA_2026: Preset = Preset {
    name: "hipaa-2026",
    key_exchanges: &[
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
    ],
    host_keys: &["ssh-ed25519"],
    user_keys: &[
        "ssh-ed25519",
        "sk-ssh-ed25519@openssh.com",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ecdsa-sha2-nistp256@openssh.com",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ],
    ciphers: &["aes256-gcm@openssh.com", "aes256-ctr"],
    macs: &[
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha2-256-etm@openssh.com",
    ],
    rekey_bytes: 512 * 1024 * 1024,
    rekey_time: Duration::from_secs(3600),
};

/// Every preset there is; the first is the default.
pub const PRESETS: &[Preset] = &[HIPAA_2026];

/// The compression that every preset offers: compressing before authentication is attack surface.
pub const COMPRESSION: &str = "none";

/// The algorithms of one gateway: a preset, or less of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CipherPolicy {
    preset: &'static str,
    key_exchanges: Vec<&'static str>,
    host_keys: &'static [&'static str],
    user_keys: &'static [&'static str],
    ciphers: Vec<&'static str>,
    macs: Vec<&'static str>,
    rekey_bytes: usize,
    rekey_time: Duration,
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
        Ok(Self {
            preset: preset.name,
            key_exchanges: preset.key_exchanges.to_vec(),
            host_keys: preset.host_keys,
            user_keys: preset.user_keys,
            ciphers: preset.ciphers.to_vec(),
            macs: preset.macs.to_vec(),
            rekey_bytes: preset.rekey_bytes,
            rekey_time: preset.rekey_time,
        })
    }

    /// Offers only `names` of one list, in the order given.
    ///
    /// # Errors
    /// All that is wrong with the names: denied, not in the preset, or none left. The policy is then unchanged.
    pub fn narrow(&mut self, purpose: Purpose, names: &[&str]) -> Result<(), Vec<PolicyError>> {
        let preset = self.preset;
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
            *list = narrowed;
            Ok(())
        } else {
            Err(errors)
        }
    }

    pub fn name(&self) -> &'static str {
        self.preset
    }

    pub fn key_exchanges(&self) -> &[&'static str] {
        &self.key_exchanges
    }

    pub fn host_keys(&self) -> &[&'static str] {
        self.host_keys
    }

    pub fn user_keys(&self) -> &[&'static str] {
        self.user_keys
    }

    pub fn ciphers(&self) -> &[&'static str] {
        &self.ciphers
    }

    pub fn macs(&self) -> &[&'static str] {
        &self.macs
    }

    /// New keys after so many bytes in one direction.
    pub fn rekey_bytes(&self) -> usize {
        self.rekey_bytes
    }

    /// New keys after so long.
    pub fn rekey_time(&self) -> Duration {
        self.rekey_time
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_preset_names_a_denied_algorithm() {
        for preset in PRESETS {
            for list in [
                preset.key_exchanges,
                preset.host_keys,
                preset.user_keys,
                preset.ciphers,
                preset.macs,
            ] {
                assert!(!list.is_empty(), "{}", preset.name);
                for name in list {
                    assert_eq!(denied(name), None, "{name} in {}", preset.name);
                }
            }
        }
    }

    #[test]
    fn no_configuration_can_enable_what_is_denied() {
        for (purpose, names) in [
            (
                Purpose::KeyExchange,
                &[
                    "diffie-hellman-group1-sha1",
                    "diffie-hellman-group14-sha1",
                    "diffie-hellman-group-exchange-sha1",
                    "none",
                ][..],
            ),
            (
                Purpose::Cipher,
                &[
                    "none",
                    "3des-cbc",
                    "3DES-CBC",
                    "3des-ctr",
                    "des-cbc",
                    "aes256-cbc",
                    "aes128-cbc",
                    "rijndael-cbc@lysator.liu.se",
                    "arcfour",
                    "arcfour256",
                    "blowfish-cbc",
                    "blowfish-ctr",
                    "cast128-cbc",
                    "cast128-ctr",
                ],
            ),
            (
                Purpose::Mac,
                &[
                    "none",
                    "hmac-md5",
                    "hmac-md5-96-etm@openssh.com",
                    "hmac-sha1",
                    "hmac-sha1-etm@openssh.com",
                    "hmac-sha2-256-96",
                    "umac-64@openssh.com",
                ],
            ),
        ] {
            for name in names {
                let mut policy = CipherPolicy::preset("hipaa-2026").unwrap();
                let before = policy.clone();
                let errors = policy.narrow(purpose, &[name]).unwrap_err();
                assert!(
                    matches!(errors[..], [PolicyError::Denied { .. }]),
                    "{name}: {errors:?}"
                );
                assert_eq!(policy, before);
            }
        }
        for name in ["ssh-dss", "ssh-rsa", "ssh-rsa-cert-v01@openssh.com", "zlib"] {
            assert!(denied(name).is_some(), "{name}");
        }
        for name in ["rsa-sha2-256", "rsa-sha2-512", "aes256-ctr", "ssh-ed25519"] {
            assert_eq!(denied(name), None, "{name}");
        }
    }

    #[test]
    fn a_list_narrows_a_preset_and_never_widens_it() {
        let mut policy = CipherPolicy::preset("hipaa-2026").unwrap();
        policy
            .narrow(Purpose::KeyExchange, &["mlkem768x25519-sha256"])
            .unwrap();
        assert_eq!(policy.key_exchanges(), ["mlkem768x25519-sha256"]);
        let errors = policy
            .narrow(
                Purpose::Cipher,
                &["aes256-ctr", "chacha20-poly1305@openssh.com"],
            )
            .unwrap_err();
        assert!(matches!(errors[..], [PolicyError::NotInPreset { .. }]));
        assert_eq!(
            policy.ciphers(),
            ["aes256-gcm@openssh.com", "aes256-ctr"],
            "a refused list changes nothing"
        );
        assert_eq!(
            policy.narrow(Purpose::Mac, &[]),
            Err(vec![PolicyError::Empty {
                preset: "hipaa-2026"
            }])
        );
    }

    #[test]
    fn an_unknown_preset_is_answered_with_those_there_are() {
        let error = CipherPolicy::preset("hipaa-2025").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown cipher policy \"hipaa-2025\"; known: hipaa-2026"
        );
    }
}
