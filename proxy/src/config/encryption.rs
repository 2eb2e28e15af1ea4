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
    let active = active(&mut section);
    let retired_tokens: Vec<_> = section
        .tables("retired_tokens")
        .into_iter()
        .map(token)
        .collect();
    let retired: Vec<_> = section
        .texts("retired_key_files", "a list of key files")
        .unwrap_or_default()
        .into_iter()
        .map(|(index, path)| {
            let key = key_file::read_kek(Path::new(path)).map_err(|error| {
                section.fault(&format!("retired_key_files[{index}]"), chain(&error));
            });
            key.ok().map(Key::file)
        })
        .chain(retired_tokens)
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
    let retired: Vec<Key> = retired.into_iter().collect::<Option<_>>()?;
    let identity = std::iter::once(&active)
        .chain(&retired)
        .flat_map(|key| key.kek.id().0.into_iter().chain(key.place.bytes()))
        .chain(*escrow.as_bytes())
        .collect();
    let retired = retired.into_iter().map(|key| key.kek).collect();
    Some(EncryptionConfig {
        ring: Keyring::new(active.kek, retired, Some(escrow)),
        identity,
        update_limit,
        spool_directory,
        check_names,
    })
}

/// A key-encryption key.
struct Key {
    kek: Arc<dyn KeyEncryptionKey>,
    /// What belongs to its identity besides its id.
    place: String,
}

impl Key {
    fn file(kek: SoftwareKek) -> Self {
        Self {
            kek: Arc::new(kek),
            place: String::new(),
        }
    }
}

/// `key_file` or `token`.
fn active(section: &mut Section<'_>) -> Option<Key> {
    let file = section.text("key_file", "a key file");
    match (file, section.section("token")) {
        (Some(path), None) => key_file::read_kek(Path::new(path))
            .map_err(|error| section.fault("key_file", chain(&error)))
            .ok()
            .map(Key::file),
        (None, Some(place)) => token(place),
        (Some(_), Some(_)) => {
            section.fault(
                "token",
                "key_file is said too, and new files are wrapped to one key: the other one belongs into retired_key_files or retired_tokens",
            );
            None
        }
        (None, None) => {
            if !section.has("key_file") && !section.has("token") {
                section.fault(
                    "key_file",
                    "missing; expected a key file, or token = { module, token_label, key_label, pin_file }",
                );
            }
            None
        }
    }
}

/// A key that stays in a PKCS#11 token, which has to be there now.
fn token(mut section: Section<'_>) -> Option<Key> {
    let module = section.required_text("module", "the path of the token's PKCS#11 module");
    let token_label = section.required_text("token_label", "the label of the token");
    let key_label = section.required_text("key_label", "the label of an AES key in it");
    let pin_file = section.required_text("pin_file", "a file with the PIN in one line");
    let place = Place {
        module: PathBuf::from(module?),
        token_label: token_label?.to_owned(),
        key_label: key_label?.to_owned(),
        pin_file: PathBuf::from(pin_file?),
    };
    let key = match place.open() {
        Ok(key) => Some(key),
        Err((key, problem)) => {
            section.fault(key, problem);
            None
        }
    };
    section.finish();
    key
}

#[derive(Debug)]
#[cfg_attr(
    not(feature = "pkcs11"),
    expect(dead_code, reason = "only said to be there")
)]
struct Place {
    module: PathBuf,
    token_label: String,
    key_label: String,
    pin_file: PathBuf,
}

impl Place {
    /// The fault's key comes first.
    #[cfg(feature = "pkcs11")]
    fn open(self) -> Result<Key, (&'static str, String)> {
        use portcullis_at_rest::pkcs11::{TokenError, TokenKek, TokenKey};

        // The linker would look for a bare name in places that are nobody's choice.
        if !self.module.is_absolute() {
            let problem = format!("{} is not an absolute path", self.module.display());
            return Err(("module", problem));
        }
        let place = format!("{self:?}");
        let kek = TokenKek::open(TokenKey {
            module: self.module,
            token_label: self.token_label,
            key_label: self.key_label,
            pin_file: self.pin_file,
        })
        .map_err(|error| {
            let key = match &error {
                TokenError::NoToken { .. } | TokenError::SeveralTokens { .. } => "token_label",
                TokenError::NoKey { .. }
                | TokenError::SeveralKeys { .. }
                | TokenError::NotAes256 { .. }
                | TokenError::Extractable { .. } => "key_label",
                TokenError::Pin(_)
                | TokenError::NotAPin(_)
                | TokenError::Login { .. }
                | TokenError::Refused { .. } => "pin_file",
                TokenError::Module { .. } | TokenError::Failed { .. } | _ => "module",
            };
            (key, chain(&error))
        })?;
        Ok(Key {
            kek: Arc::new(kek),
            place,
        })
    }

    #[cfg(not(feature = "pkcs11"))]
    fn open(self) -> Result<Key, (&'static str, String)> {
        let problem = "this program was built without the feature pkcs11: build it with it, or use a key file";
        Err(("module", problem.to_owned()))
    }
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
