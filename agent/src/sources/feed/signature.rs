//! Detached signatures: bare Ed25519, and the format of minisign.

use std::str::FromStr;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};

/// Whose signature counts: `ed25519:BASE64` or `minisign:BASE64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// 32 bytes; the signature is the 64 bytes of RFC 8032 over the content, as they are or in base64.
    Ed25519(VerifyingKey),
    /// The second line of `minisign.pub`.
    Minisign(minisign_verify::PublicKey),
}

/// Why a text is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected \"ed25519:\" with 32 bytes in base64, or \"minisign:\" with the second line of minisign.pub"
)]
pub struct PublicKeyError;

/// Why a content is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum SignatureError {
    #[error("the signature file is not a signature of this kind")]
    Malformed,
    #[error("the signature does not match: the content was changed, or another key signed it")]
    Wrong,
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        match text.split_once(':') {
            Some(("ed25519", key)) => {
                let bytes = BASE64_STANDARD.decode(key).map_err(|_| PublicKeyError)?;
                let bytes: [u8; 32] = bytes.try_into().map_err(|_| PublicKeyError)?;
                let key = VerifyingKey::from_bytes(&bytes).map_err(|_| PublicKeyError)?;
                // With such a key anybody's signature holds.
                if key.is_weak() {
                    return Err(PublicKeyError);
                }
                Ok(Self::Ed25519(key))
            }
            Some(("minisign", key)) => minisign_verify::PublicKey::from_base64(key)
                .map(Self::Minisign)
                .map_err(|_| PublicKeyError),
            Some(_) | None => Err(PublicKeyError),
        }
    }
}

impl PublicKey {
    /// What follows the list's address at the address of its signature.
    pub(super) fn suffix(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => ".sig",
            Self::Minisign(_) => ".minisig",
        }
    }

    pub(super) fn verify(&self, content: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        match self {
            Self::Ed25519(key) => {
                let signature = ed25519(signature).ok_or(SignatureError::Malformed)?;
                key.verify_strict(content, &signature)
                    .map_err(|_| SignatureError::Wrong)
            }
            Self::Minisign(key) => {
                let signature = minisign(signature).ok_or(SignatureError::Malformed)?;
                // Signatures of the older kind, over the content itself, hold as well.
                key.verify(content, &signature, true)
                    .map_err(|_| SignatureError::Wrong)
            }
        }
    }

    /// When it was signed, in seconds since 1970, as far as the signature itself proves it.
    pub(super) fn signed_at(&self, signature: &[u8]) -> Option<u64> {
        match self {
            Self::Ed25519(_) => None,
            Self::Minisign(_) => minisign(signature)?
                .trusted_comment()
                .split(['\t', ' '])
                .find_map(|word| word.strip_prefix("timestamp:")?.parse().ok()),
        }
    }
}

fn ed25519(bytes: &[u8]) -> Option<Signature> {
    if let Ok(signature) = Signature::from_slice(bytes) {
        return Some(signature);
    }
    let bytes = BASE64_STANDARD.decode(bytes.trim_ascii()).ok()?;
    Signature::from_slice(&bytes).ok()
}

fn minisign(bytes: &[u8]) -> Option<minisign_verify::Signature> {
    minisign_verify::Signature::decode(std::str::from_utf8(bytes).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    /// From minisign's own tests: the content is `test`.
    const MINISIGN_KEY: &str = "minisign:RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const MINISIG: &str = "untrusted comment: signature from minisign secret key\nRUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\ntrusted comment: timestamp:1556193335\tfile:test\ny/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==\n";

    #[test]
    fn a_bare_signature_holds_for_its_content_and_its_key_only() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let other = SigningKey::from_bytes(&[8; 32]);
        let public = |key: &SigningKey| -> PublicKey {
            format!(
                "ed25519:{}",
                BASE64_STANDARD.encode(key.verifying_key().as_bytes())
            )
            .parse()
            .unwrap()
        };
        let signature = key.sign(b"content").to_bytes();
        let in_base64 = format!("{}\n", BASE64_STANDARD.encode(signature));
        assert_eq!(public(&key).verify(b"content", &signature), Ok(()));
        assert_eq!(
            public(&key).verify(b"content", in_base64.as_bytes()),
            Ok(())
        );
        assert_eq!(
            public(&key).verify(b"Content", &signature),
            Err(SignatureError::Wrong)
        );
        assert_eq!(
            public(&other).verify(b"content", &signature),
            Err(SignatureError::Wrong)
        );
        assert_eq!(
            public(&key).verify(b"content", &signature[..63]),
            Err(SignatureError::Malformed)
        );
        assert_eq!(
            public(&key).verify(b"content", b""),
            Err(SignatureError::Malformed)
        );
    }

    #[test]
    fn a_minisign_signature_holds_for_its_content_and_its_comment_only() {
        let key: PublicKey = MINISIGN_KEY.parse().unwrap();
        assert_eq!(key.verify(b"test", MINISIG.as_bytes()), Ok(()));
        assert_eq!(key.signed_at(MINISIG.as_bytes()), Some(1_556_193_335));
        assert_eq!(
            key.verify(b"Test", MINISIG.as_bytes()),
            Err(SignatureError::Wrong)
        );
        let younger = MINISIG.replace("1556193335", "1656193335");
        assert_eq!(
            key.verify(b"test", younger.as_bytes()),
            Err(SignatureError::Wrong)
        );
        assert_eq!(
            key.verify(b"test", b"no signature"),
            Err(SignatureError::Malformed)
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let weak = format!("ed25519:{}", BASE64_STANDARD.encode([0; 32]));
        for text in [
            "",
            "ed25519:",
            "ed25519:AAAA",
            "minisign:AAAA",
            "rsa:AAAA",
            &weak,
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(PublicKeyError), "{text}");
        }
    }
}
