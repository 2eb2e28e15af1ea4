//! Sealed boxes (libsodium's `crypto_box_seal`: X25519, XSalsa20-Poly1305) to an auditor's key.

use std::{io::Read as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use crypto_box::{PublicKey, SecretKey, aead::OsRng};
use zeroize::Zeroizing;

use super::{
    HiddenKeyError,
    key::{open_private, write_private},
};

/// Stands before a public key.
const PUBLIC: &str = "auditor-public:";
/// Stands before a secret key.
const SECRET: &str = "auditor-secret:";
const LONGEST_FILE: u64 = 4096;
/// What is sealed has a multiple of so many bytes, so that its length says little of a name's.
const BLOCK: usize = 64;

/// Seals; can't open what it sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditorKey(PublicKey);

/// Opens what was sealed. Prints as `<secret>`.
#[derive(Clone)]
pub struct AuditorSecret(SecretKey);

impl std::fmt::Debug for AuditorSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditorSecret(<secret>)")
    }
}

impl AuditorKey {
    /// The key that `text` is, or that stands in the file that it names.
    ///
    /// # Errors
    /// If the file can't be read, or there is no public key.
    pub fn of(text: &str) -> Result<Self, HiddenKeyError> {
        if text.starts_with(PUBLIC) || text.starts_with(SECRET) {
            return Self::parse(text, "the text");
        }
        let unreadable = |source| HiddenKeyError::Read {
            path: text.into(),
            source,
        };
        let mut content = Zeroizing::new(String::new());
        std::fs::File::open(text)
            .and_then(|file| file.take(LONGEST_FILE).read_to_string(&mut content))
            .map_err(unreadable)?;
        Self::parse(&content, text)
    }

    /// `what` names the text in errors: it may be the secret one.
    fn parse(text: &str, what: &str) -> Result<Self, HiddenKeyError> {
        let key = text
            .trim()
            .strip_prefix(PUBLIC)
            .and_then(|encoded| <[u8; 32]>::try_from(BASE64.decode(encoded).ok()?).ok());
        match key {
            Some(bytes) => Ok(Self(PublicKey::from(bytes))),
            None => Err(HiddenKeyError::NotAnAuditorKey {
                what: what.to_owned(),
                expected: "public key of an auditor (auditor-public: and base64 of 32 bytes)",
            }),
        }
    }

    /// As it stands in configurations.
    pub fn to_text(&self) -> String {
        format!("{PUBLIC}{}", BASE64.encode(self.0.as_bytes()))
    }

    /// `plain` for the auditor alone, in base64; `None` if the system has no randomness.
    pub fn seal(&self, plain: &[u8]) -> Option<String> {
        let length = (plain.len() / BLOCK + 1) * BLOCK;
        let mut padded = Zeroizing::new(Vec::with_capacity(length));
        padded.extend_from_slice(plain);
        // ISO/IEC 7816-4, as libsodium's `sodium_pad`.
        padded.push(0x80);
        padded.resize(length, 0);
        let sealed = self.0.seal(&mut OsRng, &padded).ok()?;
        Some(BASE64.encode(sealed))
    }
}

impl AuditorSecret {
    /// Makes a pair: the secret key into a new file at `path`, with mode 0600.
    ///
    /// # Errors
    /// If that is there already or can't be written.
    pub fn generate(path: &Path) -> Result<(Self, AuditorKey), HiddenKeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(HiddenKeyError::Random)?;
        let secret = Self(SecretKey::from(*bytes));
        let text = Zeroizing::new(format!("{SECRET}{}\n", BASE64.encode(bytes.as_slice())));
        write_private(path, text.as_bytes())?;
        let public = secret.public();
        Ok((secret, public))
    }

    /// Reads the secret key in `path`.
    ///
    /// # Errors
    /// If it can't be read, others can use it, or it is none.
    pub fn read(path: &Path) -> Result<Self, HiddenKeyError> {
        let mut text = Zeroizing::new(String::new());
        open_private(path)?
            .take(LONGEST_FILE)
            .read_to_string(&mut text)
            .map_err(|source| HiddenKeyError::Read {
                path: path.to_owned(),
                source,
            })?;
        let key = text
            .trim()
            .strip_prefix(SECRET)
            .and_then(|encoded| <[u8; 32]>::try_from(BASE64.decode(encoded).ok()?).ok());
        match key {
            Some(bytes) => Ok(Self(SecretKey::from(bytes))),
            None => Err(HiddenKeyError::NotAnAuditorKey {
                what: path.display().to_string(),
                expected: "secret key of an auditor",
            }),
        }
    }

    pub fn public(&self) -> AuditorKey {
        AuditorKey(self.0.public_key())
    }

    /// What was sealed to this key; `None` for anything else.
    pub fn open(&self, sealed: &str) -> Option<Vec<u8>> {
        let mut plain = self.0.unseal(&BASE64.decode(sealed).ok()?).ok()?;
        let end = plain.iter().rposition(|&byte| byte != 0)?;
        let is_padded = plain.len().is_multiple_of(BLOCK) && plain.get(end) == Some(&0x80);
        plain.truncate(end);
        is_padded.then_some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_its_auditor_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auditor");
        let (secret, public) = AuditorSecret::generate(&path).unwrap();
        let other = AuditorSecret::generate(&directory.path().join("other"))
            .unwrap()
            .0;
        for plain in [
            &b""[..],
            b"/inbox/M\xc3\xbcller.csv",
            &[0x80; 64],
            &[0; 200],
        ] {
            let sealed = public.seal(plain).unwrap();
            assert_eq!(secret.open(&sealed).as_deref(), Some(plain));
            assert_eq!(
                AuditorSecret::read(&path).unwrap().open(&sealed).as_deref(),
                Some(plain)
            );
            assert_eq!(other.open(&sealed), None);
            let mut bytes = BASE64.decode(&sealed).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            assert_eq!(secret.open(&BASE64.encode(bytes)), None);
            assert_ne!(public.seal(plain), Some(sealed));
        }
    }

    #[test]
    fn the_length_says_little() {
        let secret = AuditorSecret(SecretKey::from([3; 32]));
        let lengths =
            [0, 1, 40, 63].map(|length| secret.public().seal(&vec![b'a'; length]).unwrap().len());
        assert!(
            lengths.iter().all(|&length| length == lengths[0]),
            "{lengths:?}"
        );
        assert!(secret.public().seal(&[b'a'; 64]).unwrap().len() > lengths[0]);
    }

    #[test]
    fn a_public_key_is_given_as_text_or_by_its_file_and_the_secret_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auditor");
        let (_, public) = AuditorSecret::generate(&path).unwrap();
        let file = directory.path().join("auditor.pub");
        std::fs::write(&file, format!("{}\n", public.to_text())).unwrap();
        assert_eq!(AuditorKey::of(&public.to_text()).unwrap(), public);
        assert_eq!(AuditorKey::of(file.to_str().unwrap()).unwrap(), public);
        let secret = std::fs::read_to_string(&path).unwrap();
        for wrong in [path.to_str().unwrap(), secret.trim(), "auditor-public:AAAA"] {
            let refused = AuditorKey::of(wrong).unwrap_err();
            assert!(
                matches!(refused, HiddenKeyError::NotAnAuditorKey { .. }),
                "{refused}"
            );
            let secret = secret.trim().strip_prefix(SECRET).unwrap();
            assert!(!refused.to_string().contains(secret));
        }
        assert!(matches!(
            AuditorSecret::generate(&path),
            Err(HiddenKeyError::AlreadyThere { .. })
        ));
    }
}
