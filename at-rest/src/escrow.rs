//! The recipient for emergencies: HPKE (RFC 9180) with X25519, HKDF-SHA-256 and AES-256-GCM, whose private half is kept offline.

use std::fmt;

use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};
use zeroize::Zeroizing;

use crate::DataKey;

/// Bytes of a data key sealed to a recipient: encapsulated secret, key, tag.
pub const SEALED: usize = PUBLIC + DataKey::LENGTH + 16;
const PUBLIC: usize = 32;
const INFO: &[u8] = b"portcullis at-rest escrow v1";

fn suite() -> &'static dyn Hpke {
    DH_KEM_X25519_HKDF_SHA256_AES_256
}

/// Why a data key was not sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EscrowError {
    #[error("the key could not be sealed to the escrow recipient")]
    NotSealed,
    #[error("the sealed key is not one for this private key and this file")]
    NotAuthentic,
}

/// The public half: what data keys are sealed to.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient([u8; PUBLIC]);

/// The private half. Wiped when dropped, never shown.
pub struct Identity {
    private: Zeroizing<Vec<u8>>,
    recipient: Recipient,
}

impl Recipient {
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    pub fn as_bytes(&self) -> &[u8; PUBLIC] {
        &self.0
    }

    /// Its first 16 bytes.
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(self.0) {
            *to = from;
        }
        id
    }

    /// # Errors
    /// [`EscrowError::NotSealed`] if it is not a point that can be used.
    pub fn seal(&self, key: &DataKey, context: &[u8]) -> Result<[u8; SEALED], EscrowError> {
        let public = HpkePublicKey(self.0.to_vec());
        let (secret, sealed) = suite()
            .seal(INFO, context, key.as_bytes(), &public)
            .map_err(|_| EscrowError::NotSealed)?;
        [secret.0, sealed]
            .concat()
            .try_into()
            .map_err(|_| EscrowError::NotSealed)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", hex::encode(self.0))
    }
}

impl Identity {
    /// # Errors
    /// If the system has no randomness to give.
    pub fn generate() -> Result<Self, EscrowError> {
        let (public, private) = suite()
            .generate_key_pair()
            .map_err(|_| EscrowError::NotSealed)?;
        Ok(Self {
            private: Zeroizing::new(private.secret_bytes().to_vec()),
            recipient: Recipient::from_bytes(&public.0).ok_or(EscrowError::NotSealed)?,
        })
    }

    /// The two halves as they were generated.
    pub fn from_parts(private: Zeroizing<Vec<u8>>, recipient: Recipient) -> Self {
        Self { private, recipient }
    }

    pub fn private(&self) -> &[u8] {
        &self.private
    }

    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// # Errors
    /// [`EscrowError::NotAuthentic`]
    pub fn open(&self, sealed: &[u8; SEALED], context: &[u8]) -> Result<DataKey, EscrowError> {
        let (secret, sealed) = sealed.split_at(PUBLIC);
        let key = suite()
            .open(
                &EncapsulatedSecret(secret.to_vec()),
                INFO,
                context,
                sealed,
                &HpkePrivateKey::from(self.private.to_vec()),
            )
            .map(Zeroizing::new)
            .map_err(|_| EscrowError::NotAuthentic)?;
        DataKey::from_bytes(&key).ok_or(EscrowError::NotAuthentic)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.recipient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_opens_with_the_private_half_and_its_context_and_with_nothing_else() {
        let identity = Identity::generate().unwrap();
        let key = DataKey::random().unwrap();
        let sealed = identity.recipient().seal(&key, b"file").unwrap();
        assert_eq!(
            identity.open(&sealed, b"file").unwrap().as_bytes(),
            key.as_bytes()
        );
        assert!(identity.open(&sealed, b"fill").is_err());
        assert!(
            Identity::generate()
                .unwrap()
                .open(&sealed, b"file")
                .is_err()
        );
        for at in 0..SEALED {
            let mut changed = sealed;
            changed[at] ^= 1;
            // The highest bit of an X25519 point does not count (RFC 7748 section 5).
            assert!(identity.open(&changed, b"file").is_err(), "byte {at}");
        }
    }
}
