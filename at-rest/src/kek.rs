//! Key-encryption keys: the few keys that all data keys are wrapped to.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};

use crate::DataKey;

/// Bytes of a wrapped data key: nonce, key, tag.
pub const WRAPPED: usize = NONCE + DataKey::LENGTH + TAG;
pub(crate) const NONCE: usize = 12;
const TAG: usize = 16;

/// Tells one key-encryption key from another; says nothing of the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KekId(pub [u8; 16]);

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KekId({self})")
    }
}

/// Why a key-encryption key did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KekError {
    #[error("the system has no randomness to give")]
    NoRandomness,
    /// Changed, wrapped for another file, or by another key.
    #[error("the wrapped key is not one that this key-encryption key made for this file")]
    NotAuthentic,
    /// A token that is gone, locked or full.
    #[error("the token failed: {0}")]
    Token(String),
}

/// A key that wraps data keys with AES-256-GCM, wherever it is kept.
pub trait KeyEncryptionKey: Send + Sync + fmt::Debug {
    fn id(&self) -> KekId;

    /// True if its work may be waited for, as that of a device.
    fn waits(&self) -> bool {
        false
    }

    /// `context` must be given again to [`unwrap`](Self::unwrap).
    ///
    /// # Errors
    /// No randomness, or no answer of the token.
    fn wrap(&self, key: &DataKey, context: &[u8]) -> Result<[u8; WRAPPED], KekError>;

    /// # Errors
    /// [`KekError::NotAuthentic`], or no answer of the token.
    fn unwrap(&self, wrapped: &[u8; WRAPPED], context: &[u8]) -> Result<DataKey, KekError>;
}

/// A key in memory.
pub struct SoftwareKek {
    id: KekId,
    key: LessSafeKey,
}

impl SoftwareKek {
    pub fn new(key: &DataKey) -> Self {
        let derived = hmac::sign(&key.authenticator(), b"key-encryption key");
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(derived.as_ref()) {
            *to = *from;
        }
        let key = match UnboundKey::new(&AES_256_GCM, key.as_bytes()) {
            Ok(key) => LessSafeKey::new(key),
            Err(aws_lc_rs::error::Unspecified) => unreachable!("the key has 256 bits"),
        };
        Self { id: KekId(id), key }
    }
}

impl fmt::Debug for SoftwareKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareKek({})", self.id)
    }
}

impl KeyEncryptionKey for SoftwareKek {
    fn id(&self) -> KekId {
        self.id
    }

    fn wrap(&self, key: &DataKey, context: &[u8]) -> Result<[u8; WRAPPED], KekError> {
        let mut wrapped = [0; WRAPPED];
        let (nonce, rest) = wrapped.split_at_mut(NONCE);
        let (sealed, tag) = rest.split_at_mut(DataKey::LENGTH);
        getrandom::fill(nonce).map_err(|_| KekError::NoRandomness)?;
        sealed.copy_from_slice(key.as_bytes());
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KekError::NotAuthentic)?;
        let made = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(context), sealed)
            .map_err(|_| KekError::NotAuthentic)?;
        tag.copy_from_slice(made.as_ref());
        Ok(wrapped)
    }

    fn unwrap(&self, wrapped: &[u8; WRAPPED], context: &[u8]) -> Result<DataKey, KekError> {
        let (nonce, rest) = wrapped.split_at(NONCE);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KekError::NotAuthentic)?;
        let mut sealed = zeroize::Zeroizing::new(rest.to_vec());
        let key = self
            .key
            .open_in_place(nonce, Aad::from(context), &mut sealed)
            .map_err(|_| KekError::NotAuthentic)?;
        DataKey::from_bytes(key).ok_or(KekError::NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_key_comes_back_by_the_same_key_and_context_and_by_nothing_else() {
        let secret = DataKey::random().unwrap();
        let kek = SoftwareKek::new(&secret);
        let key = DataKey::random().unwrap();
        let wrapped = kek.wrap(&key, b"file").unwrap();
        assert_eq!(
            kek.unwrap(&wrapped, b"file").unwrap().as_bytes(),
            key.as_bytes()
        );
        assert!(kek.unwrap(&wrapped, b"fill").is_err());
        assert_eq!(SoftwareKek::new(&secret).id(), kek.id());
        let other = SoftwareKek::new(&DataKey::random().unwrap());
        assert_ne!(other.id(), kek.id());
        assert!(other.unwrap(&wrapped, b"file").is_err());
        for at in 0..WRAPPED {
            let mut changed = wrapped;
            changed[at] ^= 1;
            assert!(kek.unwrap(&changed, b"file").is_err(), "byte {at}");
        }
    }
}
