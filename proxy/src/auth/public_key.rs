//! Which public keys an account may have, and which signatures count.

use ssh_key::{
    Algorithm, HashAlg, PublicKey,
    authorized_keys::Entry,
    public::{KeyData, RsaPublicKey},
};

/// Smallest RSA modulus, in bits (NIST SP 800-57 part 1: 128 bits of strength).
pub const RSA_BITS_MIN: u32 = 3072;
/// Largest RSA modulus, in bits: verification grows with its square, and anyone may offer a key.
pub const RSA_BITS_MAX: u32 = 16_384;

/// Which keys users may have and log in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRules {
    /// Names of signature algorithms, as `server-sig-algs` has them.
    pub algorithms: &'static [&'static str],
    /// Smallest RSA modulus, in bits.
    pub rsa_bits_min: u32,
}

/// Every kind of key that users may have at all, as `server-sig-algs` has them.
pub const USER_KEYS: &[&str] = &[
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

impl Default for KeyRules {
    fn default() -> Self {
        Self {
            algorithms: USER_KEYS,
            rsa_bits_min: RSA_BITS_MIN,
        }
    }
}

/// Why a key or a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    #[error("not an OpenSSH public key line (`TYPE BASE64 [COMMENT]`): {message}")]
    Unreadable { message: String },
    #[error("certificates are not supported in this version; add the plain public key")]
    Certificate,
    #[error(
        "options before the key ({options}) are not supported; use the account's mounts and permissions"
    )]
    Options { options: String },
    #[error(
        "key type {algorithm} is not accepted; use ssh-ed25519, ecdsa-sha2-nistp256/384/521, or RSA of {RSA_BITS_MIN} bits or more"
    )]
    Type { algorithm: String },
    #[error(
        "the cipher policy takes no {algorithm} keys from users; it takes {}", accepted.join(", ")
    )]
    Policy {
        algorithm: String,
        accepted: &'static [&'static str],
    },
    #[error(
        "the RSA key has {bits} bits; at least {least} are needed, at most {RSA_BITS_MAX} accepted"
    )]
    RsaSize { bits: u32, least: u32 },
    #[error(
        "the security key was made for {application:?}; its application must be `ssh:` or begin so (`ssh-keygen -O application=ssh:NAME`)"
    )]
    Application { application: String },
    #[error(
        "signature algorithm {algorithm} is not accepted for this key; RSA keys need rsa-sha2-256 or rsa-sha2-512"
    )]
    Signature { algorithm: String },
}

/// As [`parse_under`], by the rules of the default cipher policy.
///
/// # Errors
/// As there.
pub fn parse(line: &str) -> Result<PublicKey, KeyError> {
    parse_under(line, KeyRules::default())
}

/// Reads one line as in `authorized_keys` or a `.pub` file, and checks the key.
///
/// # Errors
/// If it is not a plain key of an accepted type and size.
pub fn parse_under(line: &str, rules: KeyRules) -> Result<PublicKey, KeyError> {
    let line = line.trim();
    if line.contains('\n') {
        return Err(KeyError::Unreadable {
            message: "more than one line".to_owned(),
        });
    }
    if line
        .split_whitespace()
        .any(|word| word.ends_with("-cert-v01@openssh.com"))
    {
        return Err(KeyError::Certificate);
    }
    let entry: Entry = line
        .parse()
        .map_err(|error: ssh_key::Error| KeyError::Unreadable {
            message: error.to_string(),
        })?;
    if !entry.config_opts().is_empty() {
        return Err(KeyError::Options {
            options: entry.config_opts().to_string(),
        });
    }
    check(entry.public_key(), rules)?;
    Ok(entry.into())
}

/// Checks type and size.
///
/// # Errors
/// If the key may not be used to log in.
pub fn check(key: &PublicKey, rules: KeyRules) -> Result<(), KeyError> {
    check_size_and_purpose(key, rules.rsa_bits_min)?;
    let algorithm = key.algorithm();
    // An RSA key goes by the names of its signatures (RFC 8332).
    let name = if matches!(algorithm, Algorithm::Rsa { .. }) {
        "rsa-sha2-512"
    } else {
        algorithm.as_str()
    };
    if rules.algorithms.contains(&name) {
        Ok(())
    } else {
        Err(KeyError::Policy {
            algorithm: algorithm.to_string(),
            accepted: rules.algorithms,
        })
    }
}

fn check_size_and_purpose(key: &PublicKey, rsa_bits_min: u32) -> Result<(), KeyError> {
    let data = key.key_data();
    if let Some(application) = application(data) {
        // Else a signature that the device made for a web site could be taken for a login (PROTOCOL.u2f).
        if application.starts_with("ssh:") {
            Ok(())
        } else {
            Err(KeyError::Application {
                application: application.chars().take(64).collect(),
            })
        }
    } else if data.is_ed25519() || data.is_ecdsa() {
        Ok(())
    } else if let Some(rsa) = data.rsa() {
        let bits = modulus_bits(rsa);
        if (rsa_bits_min..=RSA_BITS_MAX).contains(&bits) {
            Ok(())
        } else {
            let least = rsa_bits_min;
            Err(KeyError::RsaSize { bits, least })
        }
    } else if data.is_certificate() {
        Err(KeyError::Certificate)
    } else {
        Err(KeyError::Type {
            algorithm: key.algorithm().to_string(),
        })
    }
}

/// True for a key in a FIDO device (`sk-...@openssh.com`).
pub fn is_security_key(key: &KeyData) -> bool {
    application(key).is_some()
}

/// What a key in a FIDO device was made for.
fn application(key: &KeyData) -> Option<&str> {
    let ed25519 = key.sk_ed25519().map(|key| key.application());
    ed25519.or_else(|| key.sk_ecdsa_p256().map(|key| key.application()))
}

/// Bits of an RSA key's modulus: the library's own `key_size` rounds up to whole bytes.
pub fn modulus_bits(rsa: &RsaPublicKey) -> u32 {
    let modulus = rsa.n().as_positive_bytes().unwrap_or_default();
    let significant = modulus.iter().skip_while(|&&byte| byte == 0);
    let bytes = u32::try_from(significant.clone().count()).unwrap_or(u32::MAX);
    let unused = significant
        .clone()
        .next()
        .map_or(0, |first| first.leading_zeros());
    bytes.saturating_mul(8).saturating_sub(unused)
}

/// Checks that `algorithm`, as the request names it, is a sound one for `key`: the same RSA key can sign with SHA-1.
///
/// # Errors
/// For a SHA-1 signature, or an algorithm of another key type.
pub fn check_signature(algorithm: &Algorithm, key: &PublicKey) -> Result<(), KeyError> {
    let sound = match (algorithm, key.key_data()) {
        (Algorithm::Rsa { hash }, KeyData::Rsa(_)) => hash.is_some(),
        (algorithm, _) => *algorithm == key.algorithm(),
    };
    if sound {
        Ok(())
    } else {
        Err(KeyError::Signature {
            algorithm: algorithm.to_string(),
        })
    }
}

/// The key's identity everywhere: `SHA256:` and base64, as `ssh-keygen -l` prints it.
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

#[cfg(test)]
pub(crate) mod samples {
    pub(crate) const ED25519: &str = include_str!("public_key/samples/ed25519.pub");
    pub(crate) const ED25519_OTHER: &str = include_str!("public_key/samples/ed25519-other.pub");
    pub(crate) const ECDSA_256: &str = include_str!("public_key/samples/ecdsa-256.pub");
    pub(crate) const ECDSA_384: &str = include_str!("public_key/samples/ecdsa-384.pub");
    pub(crate) const ECDSA_521: &str = include_str!("public_key/samples/ecdsa-521.pub");
    pub(crate) const RSA_3072: &str = include_str!("public_key/samples/rsa-3072.pub");
    pub(crate) const RSA_3071: &str = include_str!("public_key/samples/rsa-3071.pub");
    pub(crate) const RSA_2047: &str = include_str!("public_key/samples/rsa-2047.pub");
    pub(crate) const RSA_2048: &str = include_str!("public_key/samples/rsa-2048.pub");
    pub(crate) const SK_ED25519: &str = include_str!("public_key/samples/sk-ed25519.pub");
    pub(crate) const CERTIFICATE: &str = include_str!("public_key/samples/certificate.pub");
    pub(crate) const DSA: &str = include_str!("public_key/samples/dsa.pub");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher_policy::CipherPolicy;

    #[test]
    fn each_accepted_type_parses_and_keeps_its_fingerprint() {
        for line in [
            samples::ED25519,
            samples::ECDSA_256,
            samples::ECDSA_384,
            samples::ECDSA_521,
            samples::RSA_3072,
            samples::SK_ED25519,
        ] {
            let key = parse(line).unwrap();
            assert!(fingerprint(&key).starts_with("SHA256:"));
            let bare = PublicKey::from(key.key_data().clone());
            assert_eq!(
                fingerprint(&bare),
                fingerprint(&key),
                "the comment is no part of it"
            );
        }
    }

    #[test]
    fn rsa_of_3072_bits_is_accepted_and_of_3071_or_2048_is_not() {
        assert!(parse(samples::RSA_3072).is_ok());
        assert_eq!(
            parse(samples::RSA_3071),
            Err(KeyError::RsaSize {
                bits: 3071,
                least: 3072
            })
        );
        assert_eq!(
            parse(samples::RSA_2048),
            Err(KeyError::RsaSize {
                bits: 2048,
                least: 3072
            })
        );
    }

    /// The permitted key of each policy and its nearest forbidden neighbour.
    #[test]
    fn a_policy_takes_its_own_kinds_of_keys_and_no_others() {
        for (policy, key, is_taken) in [
            ("hipaa-2026", samples::ED25519, true),
            ("hipaa-2026", samples::RSA_2048, false),
            ("fips-140-3", samples::ECDSA_256, true),
            ("fips-140-3", samples::ECDSA_521, true),
            ("fips-140-3", samples::RSA_3072, true),
            ("fips-140-3", samples::RSA_3071, false),
            ("fips-140-3", samples::ED25519, false),
            ("fips-140-3", samples::SK_ED25519, false),
            ("pq-only", samples::ED25519, true),
            ("pq-only", samples::SK_ED25519, true),
            ("pq-only", samples::ECDSA_384, true),
            ("pq-only", samples::ECDSA_256, false),
            ("pq-only", samples::ECDSA_521, false),
            ("pq-only", samples::RSA_3072, false),
            ("legacy-compat", samples::RSA_2048, true),
            ("legacy-compat", samples::RSA_2047, false),
            ("legacy-compat", samples::DSA, false),
        ] {
            let rules = CipherPolicy::preset(policy).unwrap().key_rules();
            let parsed = parse_under(key, rules);
            assert_eq!(parsed.is_ok(), is_taken, "{policy}: {key}: {parsed:?}");
        }
        assert_eq!(
            KeyRules::default(),
            CipherPolicy::preset("hipaa-2026").unwrap().key_rules()
        );
    }

    #[test]
    fn dsa_certificates_options_and_rubbish_are_refused() {
        assert!(matches!(
            parse(samples::DSA),
            Err(KeyError::Type { .. } | KeyError::Unreadable { .. })
        ));
        assert_eq!(parse(samples::CERTIFICATE), Err(KeyError::Certificate));
        let with_options = format!("command=\"/bin/true\" {}", samples::ED25519);
        assert!(matches!(
            parse(&with_options),
            Err(KeyError::Options { .. })
        ));
        let two = format!("{}{}", samples::ED25519, samples::ED25519_OTHER);
        for rubbish in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "/etc/passwd",
            two.as_str(),
        ] {
            assert!(
                matches!(parse(rubbish), Err(KeyError::Unreadable { .. })),
                "{rubbish:?}"
            );
        }
    }

    #[test]
    fn rsa_signatures_with_sha2_count_and_with_sha1_do_not() {
        let rsa = parse(samples::RSA_3072).unwrap();
        for hash in [HashAlg::Sha256, HashAlg::Sha512] {
            let algorithm = Algorithm::Rsa { hash: Some(hash) };
            assert_eq!(check_signature(&algorithm, &rsa), Ok(()));
        }
        let sha1 = Algorithm::Rsa { hash: None };
        assert!(check_signature(&sha1, &rsa).is_err());
    }

    #[test]
    fn a_signature_algorithm_of_another_key_type_does_not_count() {
        let key = parse(samples::ED25519).unwrap();
        assert_eq!(check_signature(&Algorithm::Ed25519, &key), Ok(()));
        for other in [
            Algorithm::SkEd25519,
            Algorithm::Rsa {
                hash: Some(HashAlg::Sha512),
            },
        ] {
            assert!(check_signature(&other, &key).is_err());
        }
    }
}
