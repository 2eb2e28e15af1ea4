//! `[encryption]`: the keys of stored files, and which backends' files are encrypted.

mod keys;
mod overlaps;
mod sets;

use std::{path::PathBuf, sync::Arc};

use chrono::NaiveDate;
use portcullis_at_rest::{Keyring, Realm, kek::KekId};

use self::sets::Keys;
pub(super) use self::{
    overlaps::{joint_logins, overlaps},
    sets::{KeySets, encryption, lent},
};
use super::{exception::exception, section::Section};
use crate::{exception::Exception, tombs};

/// One set of keys, and how what it encrypts is handled.
#[derive(Debug)]
pub struct EncryptionConfig {
    /// That of `[encryption.NAME]`; `None` for `[encryption]` itself.
    pub set: Option<String>,
    pub ring: Keyring,
    /// Of the escrow key.
    pub recipient: [u8; 16],
    /// What tells the keys from others.
    identity: Vec<u8>,
    /// Where the keys are, the active one first.
    pub sources: Vec<tombs::Key>,
    pub update_limit: u64,
    pub spool_directory: PathBuf,
    /// The journal says which file belongs under which name, and another one is not given out.
    pub check_names: bool,
    /// What the journal says of a file answers `check-file`.
    pub vouch: bool,
}

impl PartialEq for EncryptionConfig {
    fn eq(&self, other: &Self) -> bool {
        self.set == other.set
            && self.identity == other.identity
            && self.update_limit == other.update_limit
            && self.spool_directory == other.spool_directory
            && self.check_names == other.check_names
            && self.vouch == other.vouch
    }
}

/// How the files of one backend lie there.
#[derive(Debug, Clone, PartialEq)]
pub enum AtRest {
    /// As clients write them. An exception where they are encrypted by default.
    Plain(Option<Exception>),
    /// Encrypted. While a backend is migrated, files that are not are read as they are.
    Encrypted {
        keys: Arc<EncryptionConfig>,
        is_migrating: bool,
        /// Names too.
        has_names: bool,
        /// Of the backend whose files they are.
        realm: Realm,
    },
}

impl AtRest {
    /// The set that new files are encrypted with; `None` if none is.
    pub fn keys(&self) -> Option<&Arc<EncryptionConfig>> {
        match self {
            Self::Plain(_) => None,
            Self::Encrypted { keys, .. } => Some(keys),
        }
    }

    /// Whether the journal is asked which file belongs under a name.
    pub fn checks_names(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Encrypted { keys, .. } => keys.check_names,
        }
    }
}

impl EncryptionConfig {
    /// True if it opens files that are wrapped to that key.
    pub fn has_key(&self, key: KekId) -> bool {
        self.ring.active() == key || self.ring.retired().any(|own| own == key)
    }

    /// Its section in the file.
    pub fn section(&self) -> String {
        sets::section(self.set.as_deref())
    }
}

/// Reads `encryption`, `keys`, `encrypted_names`, `files_of` and `unencrypted_exception` of the section of the backend `name`.
pub(super) fn at_rest(
    name: &str,
    section: &mut Section<'_>,
    sets: &KeySets,
    today: NaiveDate,
) -> Option<AtRest> {
    const CHOICE: &str = "\"on\", \"off\" or \"migrating\"";
    let kind = section.text("kind", "a kind").unwrap_or_default();
    let is_list = kind == "failover";
    let is_default = matches!(kind, "local" | "s3" | "azure" | "gcs");
    let chosen = section.text("encryption", CHOICE);
    let has_names = section.flag("encrypted_names", false);
    let set = section.text("keys", "the name of a section [encryption.NAME]");
    let owner = section.text("files_of", "the name of a backend");
    let allowed = section.section("unencrypted_exception").map(|section| {
        let reason = "why files lie there unencrypted";
        exception(
            section,
            reason,
            "switch encryption on (\"migrating\" while old files are converted)",
            today,
        )
    });
    if is_list {
        if chosen.is_some() || allowed.is_some() {
            section.fault("encryption", "it is said in the sections of the members");
        }
        if has_names {
            section.fault(
                "encrypted_names",
                "it is said in the sections of the members",
            );
        }
        if set.is_some() {
            section.fault("keys", "it is said in the sections of the members");
        }
        if owner.is_some() {
            section.fault("files_of", "it is said in the sections of the members");
        }
        return Some(AtRest::Plain(None));
    }
    let default = if is_default { "on" } else { "off" };
    let chosen = chosen.unwrap_or(default);
    if has_names && matches!(chosen, "off" | "migrating") {
        section.fault(
            "encrypted_names",
            "needs encryption = \"on\": names are encrypted where files are, from the first one on",
        );
        return None;
    }
    if let Some(set) = set.filter(|_| chosen == "off") {
        let problem = format!(
            "has no use where files are not encrypted; say encryption = \"on\", or remove keys = {set:?}"
        );
        section.fault("keys", problem);
        return None;
    }
    if let Some(owner) = owner.filter(|_| chosen == "off") {
        let problem = format!(
            "has no use where files are not encrypted; say encryption = \"on\", or remove files_of = {owner:?}"
        );
        section.fault("files_of", problem);
        return None;
    }
    let is_migrating = match chosen {
        "off" => {
            return match allowed {
                None if is_default => {
                    section.fault(
                        "unencrypted_exception",
                        "missing; files on backends of this kind are encrypted, unless somebody accepts that they are not: expected { reason, approver, expires }",
                    );
                    None
                }
                None => Some(AtRest::Plain(None)),
                Some(exception) => Some(AtRest::Plain(Some(exception?))),
            };
        }
        "on" => false,
        "migrating" => true,
        other => {
            section.fault("encryption", format!("expected {CHOICE}, found {other:?}"));
            return None;
        }
    };
    if allowed.is_some() {
        section.fault(
            "unencrypted_exception",
            "has no use where files are encrypted; remove it, or say encryption = \"off\"",
        );
        return None;
    }
    match sets.of(set) {
        Keys::Good(keys) => Some(AtRest::Encrypted {
            keys: Arc::clone(keys),
            is_migrating,
            has_names,
            realm: Realm::named(owner.unwrap_or(name)),
        }),
        Keys::Faulty => None,
        Keys::Absent => {
            let (key, problem) = match set {
                Some(set) => ("keys", sets.none_of(set)),
                None => ("encryption", sets.no_default()),
            };
            section.fault(key, problem);
            None
        }
    }
}

impl AtRest {
    /// The exception under which files lie there unencrypted.
    pub fn exception(&self) -> Option<&Exception> {
        match self {
            Self::Plain(exception) => exception.as_ref(),
            Self::Encrypted { .. } => None,
        }
    }
}
