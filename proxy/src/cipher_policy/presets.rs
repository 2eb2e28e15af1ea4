//! The presets themselves, as tables. What the SSH library lacks is named beside what is offered, so that nobody takes a
//! preset for more than it is.

use std::time::Duration;

use crate::auth::public_key::USER_KEYS;

/// A closed set of algorithms. What a preset does not name is never offered.
#[derive(Debug, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    /// What may be said of it to an auditor, and what may not.
    pub claim: &'static str,
    /// Weaker than the default: holds under a dated exception only.
    pub is_relaxation: bool,
    /// Offered in this order; the client's first choice among them wins (RFC 4253 section 7.1).
    pub key_exchanges: &'static [&'static str],
    pub host_keys: &'static [&'static str],
    /// Announced in `server-sig-algs` (RFC 8308 section 3.1): what users may sign with.
    pub user_keys: &'static [&'static str],
    /// Smallest modulus of users' RSA keys, in bits.
    pub user_rsa_bits_min: u32,
    pub ciphers: &'static [&'static str],
    /// Used with ciphers that do not authenticate by themselves.
    pub macs: &'static [&'static str],
    /// Would be offered too; the SSH library does not have them.
    pub not_implemented: &'static [&'static str],
    /// New keys after so many bytes in one direction. The SSH library takes 2^30 at most.
    pub rekey_bytes: usize,
    /// New keys after so long.
    pub rekey_time: Duration,
}

const HOUR: Duration = Duration::from_secs(3600);
const MIB: usize = 1024 * 1024;

const ENCRYPT_THEN_MAC: &[&str] = &[
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256-etm@openssh.com",
];

/// For clients that know encrypt-and-MAC only (libssh2 up to 1.10, dropbear, JSch 0.1), the better ones first.
const ANY_HMAC_SHA2: &[&str] = &[
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512",
    "hmac-sha2-256",
];

/// Hybrid post-quantum key exchange first, Curve25519 for clients without it, AES-256, encrypt-then-MAC.
///
/// The finite-field groups 16 and 18 that some 2026 checklists add are left out: one unauthenticated connection costs
/// 94 ms (group 16) or 775 ms (group 18) of processor time against 1.5 ms for Curve25519, and every client that speaks
/// the other lists of this preset also speaks Curve25519.
pub(super) const HIPAA_2026: Preset = Preset {
    name: "hipaa-2026",
    claim: "strong encryption and integrity in transit; supports 45 CFR 164.312(e)(1) and (e)(2)",
    is_relaxation: false,
    key_exchanges: &[
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
    ],
    host_keys: &["ssh-ed25519"],
    user_keys: USER_KEYS,
    user_rsa_bits_min: 3072,
    ciphers: &["aes256-gcm@openssh.com", "aes256-ctr"],
    macs: ENCRYPT_THEN_MAC,
    not_implemented: &[
        "sntrup761x25519-sha512",
        "sntrup761x25519-sha512@openssh.com",
    ],
    rekey_bytes: 512 * MIB,
    rekey_time: HOUR,
};

/// What FIPS 140-3 approves for SSH: NIST curves and the safe primes of RFC 8268 (SP 800-56A), ECDSA and RSA
/// (FIPS 186-5), AES (FIPS 197), HMAC with SHA-2 (FIPS 198-1). EdDSA is approved too, but many validated modules lack it.
///
/// Group 18 is left out: one unauthenticated connection costs 775 ms of processor time, group 16 94 ms, and every client
/// with group 18 has group 16.
pub(super) const FIPS_140_3: Preset = Preset {
    name: "fips-140-3",
    claim: "algorithms that FIPS 140-3 approves; the cryptographic module is not a validated one",
    is_relaxation: false,
    key_exchanges: &[
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp521",
        "diffie-hellman-group16-sha512",
    ],
    host_keys: &[
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp256",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ],
    user_keys: &[
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ecdsa-sha2-nistp256@openssh.com",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ],
    user_rsa_bits_min: 3072,
    ciphers: &[
        "aes256-gcm@openssh.com",
        "aes128-gcm@openssh.com",
        "aes256-ctr",
        "aes128-ctr",
    ],
    macs: ANY_HMAC_SHA2,
    not_implemented: &["mlkem1024nistp384-sha384", "mlkem768nistp256-sha256"],
    rekey_bytes: 512 * MIB,
    rekey_time: HOUR,
};

/// No session whose recording a later quantum computer could open. Needs OpenSSH 9.9, PuTTY 0.83, paramiko 5 or newer.
pub(super) const PQ_ONLY: Preset = Preset {
    name: "pq-only",
    claim: "hybrid post-quantum key exchange only; signatures are not post-quantum, and it is not CNSA 2.0",
    is_relaxation: false,
    key_exchanges: &["mlkem768x25519-sha256"],
    host_keys: &["ssh-ed25519"],
    user_keys: &[
        "ssh-ed25519",
        "sk-ssh-ed25519@openssh.com",
        "ecdsa-sha2-nistp384",
    ],
    user_rsa_bits_min: 3072,
    ciphers: &["aes256-gcm@openssh.com"],
    // Never used, since the cipher authenticates; the list may not be empty (RFC 4253 section 7.1).
    macs: ENCRYPT_THEN_MAC,
    not_implemented: &["mlkem1024nistp384-sha384"],
    rekey_bytes: 512 * MIB,
    rekey_time: HOUR,
};

/// What partners' old programs need and no attack of today breaks: 112 bits of strength, encrypt-and-MAC, AES-128,
/// RSA-2048 user keys. Nothing of the deny-list. Group exchange gives groups of 3072 and 4096 bits. Group 18 is left out
/// as in `fips-140-3`.
pub(super) const LEGACY_COMPAT: Preset = Preset {
    name: "legacy-compat",
    claim: "weaker than hipaa-2026, for named partners and for a time",
    is_relaxation: true,
    key_exchanges: &[
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp521",
        "diffie-hellman-group16-sha512",
        "diffie-hellman-group-exchange-sha256",
        "diffie-hellman-group14-sha256",
    ],
    host_keys: &[
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ],
    user_keys: USER_KEYS,
    user_rsa_bits_min: 2048,
    ciphers: &[
        "aes256-gcm@openssh.com",
        "aes128-gcm@openssh.com",
        "aes256-ctr",
        "aes192-ctr",
        "aes128-ctr",
    ],
    macs: ANY_HMAC_SHA2,
    not_implemented: &[
        "sntrup761x25519-sha512",
        "sntrup761x25519-sha512@openssh.com",
    ],
    rekey_bytes: 1024 * MIB,
    rekey_time: HOUR,
};
