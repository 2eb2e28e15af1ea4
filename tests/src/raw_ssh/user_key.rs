//! A user's Ed25519 key, and what can be signed with it: the right thing, or any other.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};

use super::message::{Fields, Message};

/// The algorithm's name.
const ED25519: &str = "ssh-ed25519";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// A private key without a passphrase.
#[derive(Debug, Clone)]
pub struct UserKey(SigningKey);

impl UserKey {
    /// Reads what `ssh-keygen -t ed25519 -N ''` writes (PROTOCOL.key of OpenSSH).
    ///
    /// # Errors
    /// When it is anything else.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let base64: String = text
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let blob = STANDARD.decode(base64)?;
        let fields = blob.strip_prefix(MAGIC).context("no OpenSSH key")?;
        // `Fields` skips a message number.
        let outer = [&[0], fields].concat();
        let mut outer = Fields::of(&outer)?;
        ensure!(outer.string()? == b"none", "the key is encrypted");
        let (_kdf, _options) = (outer.string()?, outer.string()?);
        ensure!(outer.u32()? == 1, "several keys in one file");
        let _public = outer.string()?;
        let private = [&[0], outer.string()?].concat();
        let mut private = Fields::of(&private)?;
        let (_check, _again) = (private.u32()?, private.u32()?);
        ensure!(private.string()? == ED25519.as_bytes(), "no Ed25519 key");
        let _public = private.string()?;
        let seed = private.string()?;
        let seed: [u8; 32] = seed
            .get(..32)
            .and_then(|seed| seed.try_into().ok())
            .context("a seed has 32 bytes")?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// A key that no account has.
    #[must_use]
    pub fn unknown() -> Self {
        Self(SigningKey::from_bytes(&std::array::from_fn(|_| {
            fastrand::u8(..)
        })))
    }

    /// The public key as it stands in requests (RFC 8709 section 4).
    #[must_use]
    pub fn blob(&self) -> Vec<u8> {
        let public = self.0.verifying_key().to_bytes();
        let fields = Message::new(0).string(ED25519).string(public);
        fields.bytes().iter().skip(1).copied().collect()
    }

    /// The question whether this key would do, without a signature (RFC 4252 section 7).
    #[must_use]
    pub fn offer(&self, user: &str) -> Message {
        Message::request(user, "publickey")
            .byte(0)
            .string(ED25519)
            .string(self.blob())
    }

    /// What is signed in an honest request, up to the signature.
    #[must_use]
    pub fn unsigned(&self, user: &str) -> Message {
        Message::request(user, "publickey")
            .byte(1)
            .string(ED25519)
            .string(self.blob())
    }

    /// The honest request.
    #[must_use]
    pub fn request(&self, session_id: &[u8], user: &str) -> Message {
        let unsigned = self.unsigned(user);
        let signature = self.signature(session_id, &unsigned);
        unsigned.string(signature)
    }

    /// The signature of a request in a session (RFC 4252 section 7), in its own format.
    #[must_use]
    pub fn signature(&self, session_id: &[u8], request: &Message) -> Vec<u8> {
        let signed = Message::new(0).string(session_id).raw(request.bytes());
        let signed: Vec<u8> = signed.bytes().iter().skip(1).copied().collect();
        let signature = self.0.sign(&signed).to_bytes();
        let fields = Message::new(0).string(ED25519).string(signature);
        fields.bytes().iter().skip(1).copied().collect()
    }
}
