//! Sets of keys that were destroyed. The journal says so; this is what the gateway keeps at hand of it, in a file beside the journal, so that
//! it starts without them and never uses them again.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_at_rest::{
    kek::KekId,
    key_file::{Destroyed, destroy_kek},
};
use serde::{Deserialize, Serialize};

use crate::causes::chain;

const FILE: &str = "destroyed-keys";

/// A set of keys whose destruction was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tomb {
    /// The name of its section, `[encryption.NAME]`.
    pub set: String,
    /// The active one first.
    pub keys: Vec<Key>,
    /// Id of the escrow key, 32 hexadecimal digits.
    pub escrow: String,
    pub approver: String,
    /// Records that were in the journal before it was asked for.
    pub after: u64,
    /// The record of it. Without one, nothing was destroyed.
    pub record: Option<Entry>,
}

/// A record of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub seq: u64,
    /// As records write it.
    pub time: String,
}

/// A key-encryption key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// 32 hexadecimal digits.
    pub id: String,
    pub place: Place,
}

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Place {
    File(PathBuf),
    Token(TokenPlace),
}

/// A key of a PKCS#11 token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenPlace {
    pub module: PathBuf,
    pub token_label: String,
    pub key_label: String,
    pub pin_file: PathBuf,
}

#[cfg(feature = "pkcs11")]
impl From<&TokenPlace> for portcullis_at_rest::pkcs11::TokenKey {
    fn from(place: &TokenPlace) -> Self {
        Self {
            module: place.module.clone(),
            token_label: place.token_label.clone(),
            key_label: place.key_label.clone(),
            pin_file: place.pin_file.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Token(TokenPlace {
                token_label,
                key_label,
                ..
            }) => write!(f, "key {key_label:?} of token {token_label:?}"),
        }
    }
}

impl Key {
    /// Destroys it where it is. Blocks.
    ///
    /// # Errors
    /// What to do about it.
    pub fn destroy(&self) -> Result<(), String> {
        let Some(id) = self.kek() else {
            return Err("its id is none".to_owned());
        };
        let destroyed = match &self.place {
            Place::File(path) => destroy_kek(path, id).map_err(|error| {
                let problem = chain(&error);
                if is_credential(path) {
                    format!("{problem}: it is a credential of the unit; remove the file that LoadCredential= or LoadCredentialEncrypted= names, and that line")
                } else {
                    format!("{problem}: destroy it as root, such as with shred -u")
                }
            })?,
            Place::Token(place) => destroy_in_token(place, id)?,
        };
        match destroyed {
            Destroyed::Gone => Ok(()),
            Destroyed::Emptied => Err("it is overwritten, and its name can't be removed: remove it".to_owned()),
            Destroyed::Other => Err("another key, or none, is there now, which was not touched: if this one was moved, destroy it where it is".to_owned()),
        }
    }

    pub fn kek(&self) -> Option<KekId> {
        let mut id = [0; 16];
        hex::decode_to_slice(&self.id, &mut id).ok()?;
        Some(KekId(id))
    }
}

impl Tomb {
    /// By whose word, and when; what files of these keys are refused with.
    pub fn epitaph(&self) -> Arc<str> {
        let (set, approver) = (&self.set, &self.approver);
        let text = match &self.record {
            Some(Entry { seq, time }) => format!(
                "its keys, [encryption.{set}], were destroyed by the word of {approver} at {time} (record {seq})"
            ),
            None => format!(
                "its keys, [encryption.{set}], are being destroyed by the word of {approver}"
            ),
        };
        text.into()
    }

    pub fn ids(&self) -> Vec<KekId> {
        self.keys.iter().filter_map(Key::kek).collect()
    }
}

fn is_credential(path: &Path) -> bool {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY");
    path.starts_with("/run/credentials") || folder.is_some_and(|folder| path.starts_with(folder))
}

#[cfg(feature = "pkcs11")]
fn destroy_in_token(place: &TokenPlace, id: KekId) -> Result<Destroyed, String> {
    let key = portcullis_at_rest::pkcs11::TokenKey::from(place);
    key.destroy(id).map_err(|error| {
        format!(
            "{}: destroy it with the token's own tools, such as pkcs11-tool --delete-object --type secrkey",
            chain(&error)
        )
    })
}

#[cfg(not(feature = "pkcs11"))]
fn destroy_in_token(_: &TokenPlace, _: KekId) -> Result<Destroyed, String> {
    Err(
        "this program was built without the feature pkcs11: destroy it with the token's own tools"
            .to_owned(),
    )
}

/// All of a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tombs(pub Vec<Tomb>);

impl Tombs {
    /// # Errors
    /// If the file in `folder` is there and can't be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let text = match fs::read(folder.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text?,
        };
        Ok(Self(serde_json::from_slice(&text)?))
    }

    /// Puts it on disk, durably.
    ///
    /// # Errors
    /// If that fails; what was there stays.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let (file, new) = (folder.join(FILE), folder.join(FILE).with_extension("draft"));
        let mut draft = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        draft.write_all(&serde_json::to_vec_pretty(&self.0)?)?;
        draft.sync_all()?;
        fs::rename(&new, &file)?;
        File::open(folder)?.sync_all()
    }

    /// The last one of a set that is on record.
    pub fn of(&self, set: &str) -> Option<&Tomb> {
        self.on_record().filter(|tomb| tomb.set == set).last()
    }

    pub fn on_record(&self) -> impl Iterator<Item = &Tomb> {
        self.0.iter().filter(|tomb| tomb.record.is_some())
    }

    /// In the place of one of the same keys.
    pub fn put(&mut self, tomb: Tomb) {
        self.0
            .retain(|other| other.set != tomb.set || other.ids() != tomb.ids());
        self.0.push(tomb);
    }
}
