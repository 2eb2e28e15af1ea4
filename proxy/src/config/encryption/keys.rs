//! The keys of one section: in files, or in tokens.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_at_rest::{kek::KeyEncryptionKey, key_file};

use super::super::section::Section;
use crate::{
    causes::chain,
    tombs::{self, Place, TokenPlace, Tomb},
};

/// A key-encryption key, and where it is.
pub(super) struct Key {
    pub(super) kek: Arc<dyn KeyEncryptionKey>,
    place: Place,
}

impl Key {
    /// What tells it from others. A key file may be moved.
    pub(super) fn identity(&self) -> Vec<u8> {
        let mut identity = self.kek.id().0.to_vec();
        if let Place::Token(place) = &self.place {
            identity.extend(format!("{place:?}").bytes());
        }
        identity
    }

    pub(super) fn source(&self) -> tombs::Key {
        tombs::Key {
            id: self.kek.id().to_string(),
            place: self.place.clone(),
        }
    }
}

/// True if the section names the keys of a tomb: the one that stands there is among them, or none does where one was.
pub(super) fn is_of(section: &mut Section<'_>, tomb: &Tomb) -> bool {
    let is_at = |place: &Place| tomb.keys.iter().any(|key| key.place == *place);
    match section.text("key_file", "a key file") {
        Some(path) => match key_file::read_kek(Path::new(path)) {
            Ok(kek) => tomb.ids().contains(&kek.id()),
            Err(_) => is_at(&Place::File(PathBuf::from(path))),
        },
        None => section
            .section("token")
            .and_then(|mut section| token_place(&mut section))
            .is_some_and(|place| is_at(&Place::Token(place))),
    }
}

/// `key_file` or `token`.
pub(super) fn active(section: &mut Section<'_>) -> Option<Key> {
    let path = section.text("key_file", "a key file");
    match (path, section.section("token")) {
        (Some(path), None) => file(section, "key_file", path),
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

/// A key in a file; `key` is where the section says so.
pub(super) fn file(section: &Section<'_>, key: &str, path: &str) -> Option<Key> {
    let kek = key_file::read_kek(Path::new(path))
        .map_err(|error| section.fault(key, chain(&error)))
        .ok()?;
    Some(Key {
        kek: Arc::new(kek),
        place: Place::File(PathBuf::from(path)),
    })
}

/// A key that stays in a PKCS#11 token, which has to be there now.
pub(super) fn token(mut section: Section<'_>) -> Option<Key> {
    let place = token_place(&mut section)?;
    let key = match opened(&place) {
        Ok(kek) => Some(Key {
            kek,
            place: Place::Token(place),
        }),
        Err((key, problem)) => {
            section.fault(key, problem);
            None
        }
    };
    section.finish();
    key
}

fn token_place(section: &mut Section<'_>) -> Option<TokenPlace> {
    let module = section.required_text("module", "the path of the token's PKCS#11 module");
    let token_label = section.required_text("token_label", "the label of the token");
    let key_label = section.required_text("key_label", "the label of an AES key in it");
    let pin_file = section.required_text("pin_file", "a file with the PIN in one line");
    Some(TokenPlace {
        module: PathBuf::from(module?),
        token_label: token_label?.to_owned(),
        key_label: key_label?.to_owned(),
        pin_file: PathBuf::from(pin_file?),
    })
}

/// The fault's key comes first.
#[cfg(feature = "pkcs11")]
fn opened(place: &TokenPlace) -> Result<Arc<dyn KeyEncryptionKey>, (&'static str, String)> {
    use portcullis_at_rest::pkcs11::{TokenError, TokenKek};

    // The linker would look for a bare name in places that are nobody's choice.
    if !place.module.is_absolute() {
        let problem = format!("{} is not an absolute path", place.module.display());
        return Err(("module", problem));
    }
    let kek = TokenKek::open(place.into()).map_err(|error| {
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
    Ok(Arc::new(kek))
}

#[cfg(not(feature = "pkcs11"))]
fn opened(_: &TokenPlace) -> Result<Arc<dyn KeyEncryptionKey>, (&'static str, String)> {
    let problem =
        "this program was built without the feature pkcs11: build it with it, or use a key file";
    Err(("module", problem.to_owned()))
}
