//! The key of one stored file.

use std::fmt;

use aws_lc_rs::{hkdf, hmac};
use zeroize::Zeroizing;

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the system has no randomness to give")]
pub struct NoRandomness;

const AUTHENTICATION: &[u8] = b"portcullis at-rest head v1";

/// 256 bits that one stored file is encrypted with. Wiped when dropped, never shown. In a box, since each move of the bytes themselves
/// would leave a copy on a stack.
pub struct DataKey(Box<Zeroizing<[u8; Self::LENGTH]>>);

impl DataKey {
    /// In bytes.
    pub const LENGTH: usize = 32;

    /// # Errors
    /// If the system has no randomness to give.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut key = Self::zeros();
        getrandom::fill(&mut **key.0).map_err(|_| NoRandomness)?;
        Ok(key)
    }

    /// `None` unless they are 32.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LENGTH] = bytes.try_into().ok()?;
        let mut key = Self::zeros();
        key.0.copy_from_slice(bytes);
        Some(key)
    }

    fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; Self::LENGTH])))
    }

    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// For the plaintext; wiped by the library.
    pub(crate) fn floe(&self) -> fast_floe::Key {
        fast_floe::Key::from_bytes(**self.0)
    }

    /// HMAC-SHA-256 with a key that is derived from this one (HKDF, RFC 5869).
    pub(crate) fn authenticator(&self) -> hmac::Key {
        let derived = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &**self.0);
        // Fails for more than 255 digests only.
        match derived.expand(&[AUTHENTICATION], hmac::HMAC_SHA256) {
            Ok(key) => key.into(),
            Err(aws_lc_rs::error::Unspecified) => unreachable!("the length is that of the digest"),
        }
    }
}

impl Clone for DataKey {
    fn clone(&self) -> Self {
        let mut key = Self::zeros();
        key.0.copy_from_slice(self.as_bytes());
        key
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey")
    }
}
