//! `[encryption]`: the keys of stored files, and which backends' files are encrypted.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::NaiveDate;
use portcullis_at_rest::{
    Keyring,
    kek::{KeyEncryptionKey, SoftwareKek},
    key_file,
};

use super::{exception::exception, section::Section};
use crate::{causes::chain, exception::Exception};

/// Files up to this size, in bytes, can be changed and written in any order; they are encrypted anew as a whole.
const UPDATE_LIMIT: u64 = 64 << 20;
/// Beyond this nobody wants to wait for the CLOSE.
const LARGEST_UPDATE_LIMIT: u64 = 1 << 34;
/// Where files that are changed wait, encrypted: it survives neither a restart nor the daemon.
const SPOOL_DIRECTORY: &str = "/var/tmp";
const WAY_OUT: &str = "make them with `portcullis-rescue new-key FILE` and `new-escrow DIRECTORY`, and name them in [encryption]";

/// `[encryption]`
#[derive(Debug)]
pub struct EncryptionConfig {
    pub ring: Keyring,
    /// What tells the keys from others.
    identity: Vec<u8>,
    pub update_limit: u64,
    pub spool_directory: PathBuf,
    /// The journal says which file belongs under which name, and another one is not given out.
    pub check_names: bool,
}

impl PartialEq for EncryptionConfig {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
            && self.update_limit == other.update_limit
            && self.spool_directory == other.spool_directory
            && self.check_names == other.check_names
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
    },
}

impl AtRest {
    /// Whether the journal is asked which file belongs under a name.
    pub fn checks_names(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Encrypted { keys, .. } => keys.check_names,
        }
    }
}

pub(super) fn encryption(mut section: Section<'_>) -> Option<EncryptionConfig> {
    let active = key(&mut section, "key_file");
    let retired: Vec<_> = section
        .texts("retired_key_files", "a list of key files")
        .unwrap_or_default()
        .into_iter()
        .map(|(index, path)| {
            key_file::read_kek(Path::new(path)).map_err(|error| {
                section.fault(&format!("retired_key_files[{index}]"), chain(&error));
            })
        })
        .collect();
    let escrow = section
        .required_text(
            "escrow_recipient_file",
            "the file of the public half of the escrow key: without it, files are lost with the gateway's keys",
        )
        .and_then(|path| {
            key_file::read_recipient(Path::new(path))
                .map_err(|error| section.fault("escrow_recipient_file", chain(&error)))
                .ok()
        });
    let update_limit = section.number("update_limit_bytes", 0..=LARGEST_UPDATE_LIMIT, UPDATE_LIMIT);
    let spool = section.text("spool_directory", "the path of a directory");
    let spool_directory = PathBuf::from(spool.unwrap_or(SPOOL_DIRECTORY));
    if !spool_directory.is_absolute() || !spool_directory.is_dir() {
        let problem = format!("{} is not a directory", spool_directory.display());
        section.fault("spool_directory", problem);
    }
    let check_names = section.flag("check_names", true);
    section.finish();
    let (active, escrow) = (active?, escrow?);
    let retired: Vec<SoftwareKek> = retired.into_iter().collect::<Result<_, ()>>().ok()?;
    let identity = std::iter::once(active.id())
        .chain(retired.iter().map(KeyEncryptionKey::id))
        .flat_map(|id| id.0)
        .chain(*escrow.as_bytes())
        .collect();
    let retired = retired
        .into_iter()
        .map(|kek| Arc::new(kek) as Arc<dyn KeyEncryptionKey>)
        .collect();
    Some(EncryptionConfig {
        ring: Keyring::new(Arc::new(active), retired, Some(escrow)),
        identity,
        update_limit,
        spool_directory,
        check_names,
    })
}

fn key(section: &mut Section<'_>, name: &'static str) -> Option<SoftwareKek> {
    let path = section.required_text(name, "a key file")?;
    key_file::read_kek(Path::new(path))
        .map_err(|error| section.fault(name, chain(&error)))
        .ok()
}

/// What `[encryption]` gives to backends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keys<'a> {
    Absent,
    /// It is there and has faults, which are told already.
    Faulty,
    Good(&'a Arc<EncryptionConfig>),
}

/// Reads `encryption`, `encrypted_names` and `unencrypted_exception` of a backend's section.
pub(super) fn at_rest(
    section: &mut Section<'_>,
    keys: Keys<'_>,
    today: NaiveDate,
) -> Option<AtRest> {
    const CHOICE: &str = "\"on\", \"off\" or \"migrating\"";
    let kind = section.text("kind", "a kind").unwrap_or_default();
    let is_list = kind == "failover";
    let is_default = matches!(kind, "local" | "s3" | "azure" | "gcs");
    let chosen = section.text("encryption", CHOICE);
    let has_names = section.flag("encrypted_names", false);
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
    match keys {
        Keys::Good(keys) => Some(AtRest::Encrypted {
            keys: Arc::clone(keys),
            is_migrating,
            has_names,
        }),
        Keys::Faulty => None,
        Keys::Absent => {
            let problem =
                format!("files of this backend are encrypted, and there are no keys: {WAY_OUT}");
            section.fault("encryption", problem);
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
