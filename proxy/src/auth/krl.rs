//! Keys and certificates that count no longer: a key revocation list as `ssh-keygen -k` writes it (OpenSSH's
//! PROTOCOL.krl, format 1), or a text with one public key a line, as sshd's `RevokedKeys` takes either.
//!
//! What can't be understood to its last byte is an error: a list that is read in part revokes too little.

mod reader;
mod serials;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use ssh_key::{PublicKey, encoding::Decode as _, public::KeyData};

use self::{reader::Reader, serials::Serials};

/// Largest list, in bytes. A range of serial numbers takes 16, so that this is room for half a million.
pub const BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Begins every list in binary form.
const MAGIC: &[u8] = b"SSHKRL\n\0";
const FORMAT: u32 = 1;

/// Why a list can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KrlError {
    #[error(
        "it is empty, as after an interrupted write; `ssh-keygen -k -f FILE` makes a list that revokes nothing"
    )]
    Empty,
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLong,
    #[error("malformed at byte {at}: {problem}")]
    Malformed { at: usize, problem: &'static str },
    #[error("line {line}: {problem}; expected `TYPE BASE64 [COMMENT]`")]
    Line { line: usize, problem: &'static str },
}

/// What a certificate is revoked by.
#[derive(Debug, Clone, Copy)]
pub struct Certified<'a> {
    /// The key in the certificate.
    pub key: &'a KeyData,
    /// The authority's key.
    pub authority: &'a KeyData,
    pub serial: u64,
    pub key_id: &'a str,
}

/// Revoked keys and certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedKeys {
    /// The number that the list's author gave it; 0 for a text.
    version: u64,
    /// Digests of key blobs.
    sha256: HashSet<[u8; 32]>,
    sha1: HashSet<[u8; 20]>,
    certificates: Vec<RevokedCertificates>,
}

/// Revoked certificates of one authority, or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RevokedCertificates {
    authority: Option<KeyData>,
    serials: Serials,
    key_ids: HashSet<Vec<u8>>,
}

impl RevokedKeys {
    /// Reads a list in either form.
    ///
    /// # Errors
    /// If any part of it is not understood.
    pub fn parse(bytes: &[u8]) -> Result<Self, KrlError> {
        if bytes.is_empty() {
            return Err(KrlError::Empty);
        }
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > BYTES_MAX {
            return Err(KrlError::TooLong);
        }
        if bytes.starts_with(MAGIC) {
            Self::binary(bytes)
        } else {
            Self::text(bytes)
        }
    }

    /// The number that the list's author gave it with `ssh-keygen -z`; 0 for a text.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How much it names: keys, fingerprints, key ids, and ranges and maps of serial numbers.
    pub fn entries(&self) -> usize {
        let certificates = self
            .certificates
            .iter()
            .map(|section| section.serials.entries() + section.key_ids.len());
        self.sha256.len() + self.sha1.len() + certificates.sum::<usize>()
    }

    /// True if the key itself is revoked, whoever uses it.
    pub fn revokes_key(&self, key: &KeyData) -> bool {
        // What can't be encoded was never compared with anything.
        let Ok(blob) = PublicKey::from(key.clone()).to_bytes() else {
            return true;
        };
        self.sha256
            .contains(&<[u8; 32]>::from(Sha256::digest(&blob)))
            || (!self.sha1.is_empty() && self.sha1.contains(&<[u8; 20]>::from(Sha1::digest(&blob))))
    }

    /// True if the certificate, its key or its authority is revoked.
    pub fn revokes_certificate(&self, certified: Certified<'_>) -> bool {
        let named = |section: &RevokedCertificates| {
            let applies = section
                .authority
                .as_ref()
                .is_none_or(|authority| authority == certified.authority);
            applies
                && (section.serials.contains(certified.serial)
                    || section.key_ids.contains(certified.key_id.as_bytes()))
        };
        self.revokes_key(certified.key)
            || self.revokes_key(certified.authority)
            || self.certificates.iter().any(named)
    }

    fn binary(bytes: &[u8]) -> Result<Self, KrlError> {
        let mut reader = Reader::new(bytes);
        reader.take(MAGIC.len())?;
        if reader.u32()? != FORMAT {
            return Err(reader.malformed("this format version is not known"));
        }
        let mut list = Self {
            version: reader.u64()?,
            ..Self::default()
        };
        let _generated = reader.u64()?;
        let _flags = reader.u64()?;
        let _reserved = reader.string()?;
        let _comment = reader.string()?;
        while !reader.is_empty() {
            let kind = reader.u8()?;
            let section = reader.string()?;
            list.section(kind, section)?;
        }
        Ok(list)
    }

    fn section(&mut self, kind: u8, mut section: Reader<'_>) -> Result<(), KrlError> {
        match kind {
            1 => {
                let revoked = RevokedCertificates::read(section)?;
                self.certificates.push(revoked);
            }
            2 => {
                while !section.is_empty() {
                    let blob = section.string()?;
                    if blob.is_empty() {
                        return Err(section.malformed("an empty key"));
                    }
                    self.sha256.insert(Sha256::digest(blob.rest()).into());
                }
            }
            3 => {
                while !section.is_empty() {
                    self.sha1.insert(digest(section.string()?)?);
                }
            }
            5 => {
                while !section.is_empty() {
                    self.sha256.insert(digest(section.string()?)?);
                }
            }
            255 => extension(section)?,
            // 4 is a signature, which OpenSSH has given up: a list that wants to be verified is not taken unverified.
            _ => return Err(section.malformed("this kind of section is not known")),
        }
        Ok(())
    }

    fn text(bytes: &[u8]) -> Result<Self, KrlError> {
        let text = str::from_utf8(bytes).map_err(|error| KrlError::Malformed {
            at: error.valid_up_to(),
            problem: "neither a key revocation list nor text",
        })?;
        let mut list = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let blob = key_of_line(line).map_err(|problem| KrlError::Line {
                line: index + 1,
                problem,
            })?;
            list.sha256.insert(Sha256::digest(blob).into());
        }
        Ok(list)
    }
}

impl RevokedCertificates {
    fn read(mut section: Reader<'_>) -> Result<Self, KrlError> {
        let authority = section.string()?;
        let authority = if authority.is_empty() {
            None
        } else {
            let key =
                plain_key(authority.rest()).map_err(|problem| authority.malformed(problem))?;
            Some(key)
        };
        let _reserved = section.string()?;
        let mut serials = Serials::default();
        let mut key_ids = HashSet::new();
        while !section.is_empty() {
            let kind = section.u8()?;
            let mut part = section.string()?;
            match kind {
                0x20 => {
                    while !part.is_empty() {
                        let serial = part.u64()?;
                        serials
                            .add(serial, serial)
                            .map_err(|problem| part.malformed(problem))?;
                    }
                }
                0x21 => {
                    let (first, last) = (part.u64()?, part.u64()?);
                    serials
                        .add(first, last)
                        .map_err(|problem| part.malformed(problem))?;
                    part.end()?;
                }
                0x22 => {
                    let offset = part.u64()?;
                    let bitmap = part.string()?;
                    serials
                        .add_bitmap(offset, bitmap.rest())
                        .map_err(|problem| bitmap.malformed(problem))?;
                    part.end()?;
                }
                0x23 => {
                    while !part.is_empty() {
                        let key_id = part.string()?;
                        if key_id.is_empty() {
                            return Err(key_id.malformed("an empty key id"));
                        }
                        key_ids.insert(key_id.rest().to_vec());
                    }
                }
                0x39 => extension(part)?,
                _ => return Err(part.malformed("this kind of certificate section is not known")),
            }
        }
        serials.finish();
        Ok(Self {
            authority,
            serials,
            key_ids,
        })
    }
}

/// One that must be understood is not; the others may be passed over.
fn extension(mut extension: Reader<'_>) -> Result<(), KrlError> {
    let _name = extension.string()?;
    let critical = extension.u8()?;
    let _contents = extension.string()?;
    if critical != 0 {
        return Err(extension.malformed("this critical extension is not known"));
    }
    extension.end()
}

fn digest<const LENGTH: usize>(text: Reader<'_>) -> Result<[u8; LENGTH], KrlError> {
    <[u8; LENGTH]>::try_from(text.rest())
        .map_err(|_| text.malformed("a fingerprint of the wrong length"))
}

/// The key blob of a line.
fn key_of_line(line: &str) -> Result<Vec<u8>, &'static str> {
    let mut words = line.split_ascii_whitespace();
    let (Some(kind), Some(base64)) = (words.next(), words.next()) else {
        return Err("no key");
    };
    let blob = STANDARD.decode(base64).map_err(|_| "not base64")?;
    let key = plain_key(&blob)?;
    if key.algorithm().as_str() == kind {
        Ok(blob)
    } else {
        Err("the key is of another type than the line says")
    }
}

/// Reads a key that is no certificate. Certificates can lie within certificates as deep as somebody likes.
fn plain_key(blob: &[u8]) -> Result<KeyData, &'static str> {
    const CERTIFICATE: &[u8] = b"-cert-v01@openssh.com";
    if blob
        .windows(CERTIFICATE.len())
        .any(|window| window == CERTIFICATE)
    {
        return Err("a certificate in place of a key");
    }
    let mut rest = blob;
    match KeyData::decode(&mut rest) {
        Ok(key) if rest.is_empty() => Ok(key),
        Ok(_) | Err(_) => Err("not a public key"),
    }
}
