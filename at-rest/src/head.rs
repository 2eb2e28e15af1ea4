//! The first 512 bytes of a stored file: what it is, and its key in wraps.

use std::fmt;

use aws_lc_rs::{digest, hmac};

use crate::{
    DataKey,
    data_key::NoRandomness,
    escrow::{Identity, SEALED},
    kek::{KekId, WRAPPED},
};

/// The first byte is no text, and the line ends show what a transfer as text would have done.
const MAGIC: &[u8; 8] = b"\x89PCREST\n";
/// The version that is written.
const VERSION: u16 = 1;
const DOMAIN: &[u8] = b"portcullis at-rest";
const NAMES_DOMAIN: &[u8] = b"portcullis at-rest names v1";

// Offsets; what is not named is zero.
const VERSION_AT: usize = 8;
const LENGTH_AT: usize = 10;
const OBJECT_AT: usize = 16;
const REALM_AT: usize = 32;
const KEK_AT: usize = 64;
const WRAPPED_AT: usize = 80;
const ESCROW_AT: usize = 140;
const SEALED_AT: usize = 156;
const TAG_AT: usize = 480;

/// Why bytes are not the head of a file that can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    #[error("it is not encrypted, or not by this program")]
    Foreign,
    #[error("it is empty, not an encrypted file")]
    Empty,
    #[error("it is shorter than the head of an encrypted file: cut off, or not encrypted")]
    Short,
    #[error("it has format version {0}; this program knows up to {VERSION}: update it")]
    Newer(u16),
    #[error("it was encrypted for another backend")]
    OtherRealm,
    #[error("its head was changed")]
    NotAuthentic,
}

/// A stored file, told from all others. Random, never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; 16]);

impl ObjectId {
    pub(crate) fn random() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({self})")
    }
}

/// The files among which one can be moved: those of one backend. A file of another is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Realm([u8; 32]);

impl Realm {
    /// Of the backend with that name.
    pub fn named(name: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, name.as_bytes());
        let mut realm = [0; 32];
        for (to, from) in realm.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(realm)
    }

    /// Of the [key of names](crate::names) of this realm's backend alone: no file that a client wrote is in it.
    #[must_use]
    pub fn of_names(&self) -> Self {
        let digest = digest::digest(&digest::SHA256, &[NAMES_DOMAIN, &self.0].concat());
        let mut realm = [0; 32];
        for (to, from) in realm.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(realm)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The head of one stored file. What it says is not true before [`Keyring::unwrap`](crate::Keyring::unwrap).
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; Self::LENGTH],
    object: ObjectId,
    realm: Realm,
    kek: KekId,
    wrapped: [u8; WRAPPED],
    escrow: Option<([u8; 16], [u8; SEALED])>,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({} by {})", self.object, self.kek)
    }
}

impl Head {
    /// In bytes.
    pub const LENGTH: usize = 512;

    pub(crate) fn new(
        key: &DataKey,
        object: ObjectId,
        realm: Realm,
        kek: KekId,
        wrapped: &[u8; WRAPPED],
        escrow: Option<([u8; 16], [u8; SEALED])>,
    ) -> Self {
        let mut bytes = [0; Self::LENGTH];
        let mut put = |at: usize, field: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(at).zip(field) {
                *to = *from;
            }
        };
        put(0, MAGIC);
        put(VERSION_AT, &VERSION.to_be_bytes());
        put(LENGTH_AT, &(Self::LENGTH as u16).to_be_bytes());
        put(OBJECT_AT, &object.0);
        put(REALM_AT, &realm.0);
        put(KEK_AT, &kek.0);
        put(WRAPPED_AT, wrapped);
        if let Some((id, sealed)) = &escrow {
            put(ESCROW_AT, id);
            put(SEALED_AT, sealed);
        }
        let (said, tag) = bytes.split_at_mut(TAG_AT);
        tag.copy_from_slice(hmac::sign(&key.authenticator(), said).as_ref());
        Self {
            bytes,
            object,
            realm,
            kek,
            wrapped: *wrapped,
            escrow,
        }
    }

    /// True if a file that begins so is an encrypted one of any version; eight bytes are enough.
    pub fn is_one(beginning: &[u8]) -> bool {
        beginning.starts_with(MAGIC)
    }

    /// True if bytes that are not a head look like one whose first 16 bytes were damaged.
    pub fn resembles_one(beginning: &[u8]) -> bool {
        let Some((magic, rest)) = beginning.split_first_chunk::<8>() else {
            return false;
        };
        let alike = magic.iter().zip(MAGIC).filter(|(one, other)| one == other);
        let follows = [VERSION.to_be_bytes(), (Self::LENGTH as u16).to_be_bytes()].concat();
        alike.count() >= 5 || rest.starts_with(&follows)
    }

    /// From the first bytes of a stored file.
    ///
    /// # Errors
    /// If they are not a head, or that of a newer version.
    pub fn parse(beginning: &[u8]) -> Result<Self, HeadError> {
        if beginning.is_empty() {
            return Err(HeadError::Empty);
        }
        if !Self::is_one(beginning) {
            return Err(if MAGIC.starts_with(beginning) {
                HeadError::Short
            } else {
                HeadError::Foreign
            });
        }
        let bytes: &[u8; Self::LENGTH] = beginning.first_chunk().ok_or(HeadError::Short)?;
        let version = u16::from_be_bytes(field(bytes, VERSION_AT));
        if version > VERSION {
            return Err(HeadError::Newer(version));
        }
        if version != VERSION
            || usize::from(u16::from_be_bytes(field(bytes, LENGTH_AT))) != Self::LENGTH
        {
            return Err(HeadError::NotAuthentic);
        }
        let escrow = field(bytes, ESCROW_AT);
        Ok(Self {
            bytes: *bytes,
            object: ObjectId(field(bytes, OBJECT_AT)),
            realm: Realm(field(bytes, REALM_AT)),
            kek: KekId(field(bytes, KEK_AT)),
            wrapped: field(bytes, WRAPPED_AT),
            escrow: (escrow != [0; 16]).then(|| (escrow, field(bytes, SEALED_AT))),
        })
    }

    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.bytes
    }

    pub fn object(&self) -> ObjectId {
        self.object
    }

    pub fn realm(&self) -> Realm {
        self.realm
    }

    /// The key-encryption key that its key is wrapped to.
    pub fn kek(&self) -> KekId {
        self.kek
    }

    pub(crate) fn wrapped(&self) -> &[u8; WRAPPED] {
        &self.wrapped
    }

    /// The recipient for emergencies that its key is sealed to, if there is one, and the sealed key.
    pub fn escrow(&self) -> Option<([u8; 16], &[u8; SEALED])> {
        self.escrow.as_ref().map(|(id, sealed)| (*id, sealed))
    }

    /// The file's key by the private half of the escrow recipient; `None` if the file is not for it.
    ///
    /// # Errors
    /// [`HeadError::NotAuthentic`]
    pub fn rescue(&self, identity: &Identity) -> Option<Result<DataKey, HeadError>> {
        let (id, sealed) = self.escrow()?;
        if id != identity.recipient().id() {
            return None;
        }
        let key = identity
            .open(sealed, &self.context())
            .map_err(|_| HeadError::NotAuthentic);
        Some(key.and_then(|key| self.authenticate(&key).map(|()| key)))
    }

    /// What wraps are bound to.
    pub(crate) fn context(&self) -> Vec<u8> {
        Self::context_of(self.object, self.realm)
    }

    pub(crate) fn context_of(object: ObjectId, realm: Realm) -> Vec<u8> {
        [DOMAIN, &VERSION.to_be_bytes()[..], &object.0, &realm.0].concat()
    }

    /// FLOE's associated data of an extent.
    pub(crate) fn associated_data(&self, extent: u64) -> Vec<u8> {
        [&self.context()[..], &extent.to_be_bytes()].concat()
    }

    pub(crate) fn authenticate(&self, key: &DataKey) -> Result<(), HeadError> {
        let (said, tag) = self.bytes.split_at(TAG_AT);
        hmac::verify(&key.authenticator(), said, tag).map_err(|_| HeadError::NotAuthentic)
    }
}

fn field<const N: usize>(bytes: &[u8; Head::LENGTH], at: usize) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    field
}
