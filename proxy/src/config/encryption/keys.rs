//! The keys of one section: in files, or in tokens.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_at_rest::{
    kek::{KeyEncryptionKey, SoftwareKek},
    key_file,
};

use super::super::section::Section;
use crate::causes::chain;

/// A key-encryption key.
pub(super) struct Key {
    pub(super) kek: Arc<dyn KeyEncryptionKey>,
    /// What belongs to its identity besides its id.
    pub(super) place: String,
}

impl Key {
    pub(super) fn file(kek: SoftwareKek) -> Self {
        Self {
            kek: Arc::new(kek),
            place: String::new(),
        }
    }
}

/// `key_file` or `token`.
pub(super) fn active(section: &mut Section<'_>) -> Option<Key> {
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
pub(super) fn token(mut section: Section<'_>) -> Option<Key> {
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
