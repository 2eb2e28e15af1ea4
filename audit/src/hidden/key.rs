//! The key of a log's tokens, and the tokens.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hmac::{Hmac, KeyInit as _, Mac as _};
use portcullis_journal::{
    record::{HIDDEN, untrusted},
    token::is_token,
};
use serde_json::Value;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::HiddenKeyError;

const KEY_BYTES: usize = 32;
/// Of the HMAC, for each component.
const TOKEN_BYTES: usize = 16;
/// A text beyond this is no path that anything opens; it becomes one token, so that a record can't grow without bound.
const LONGEST_PATH: usize = 4096;
const LONGEST_EXTENSION: usize = 8;

/// Makes tokens of paths. Prints as `<secret>`.
#[derive(Clone)]
pub struct PathKey(Hmac<Sha256>);

impl std::fmt::Debug for PathKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PathKey(<secret>)")
    }
}

impl PathKey {
    /// The key with these bytes.
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(Hmac::new_from_slice(bytes).expect("HMAC takes a key of any length"))
    }

    /// Reads the key in `path`, or makes one with mode 0600 if there is none.
    ///
    /// # Errors
    /// As [`read`](Self::read), or if it can't be written.
    pub fn open(path: &Path) -> Result<Self, HiddenKeyError> {
        match Self::read(path) {
            Err(HiddenKeyError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Self::generate(path)
            }
            read => read,
        }
    }

    /// Reads the key in `path`.
    ///
    /// # Errors
    /// If it can't be read, others can use it, or it has not 32 bytes.
    pub fn read(path: &Path) -> Result<Self, HiddenKeyError> {
        let unreadable = |source| HiddenKeyError::Read {
            path: path.to_owned(),
            source,
        };
        let file = open_private(path)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
        file.take(KEY_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        match bytes.as_slice().try_into() {
            Ok(bytes) => Ok(Self::new(bytes)),
            Err(_) => Err(HiddenKeyError::NotAPathKey {
                path: path.to_owned(),
                bytes: fs::metadata(path).map_err(unreadable)?.len(),
            }),
        }
    }

    fn generate(path: &Path) -> Result<Self, HiddenKeyError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(bytes.as_mut_slice()).map_err(HiddenKeyError::Random)?;
        write_private(path, bytes.as_slice())?;
        tracing::info!(path = %path.display(), "made the key of hidden paths; keep a copy, and keep it secret");
        Ok(Self::new(&bytes))
    }

    /// What stands in records in the place of `path`: `hmac:` and for each component a token, with the extension behind the
    /// last one if that is plain.
    pub fn token(&self, path: &[u8]) -> String {
        let mut out = String::with_capacity(HIDDEN.len() + path.len().min(LONGEST_PATH) + 64);
        out.push_str(HIDDEN);
        if path.len() > LONGEST_PATH {
            out.push_str(&self.component(path));
            return out;
        }
        let mut components = path.split(|&byte| byte == b'/').peekable();
        while let Some(component) = components.next() {
            match component {
                b"" => {}
                // Of the target of a link: they name nothing.
                b"." => out.push('.'),
                b".." => out.push_str(".."),
                name => out.push_str(&self.component(name)),
            }
            if components.peek().is_some() {
                out.push('/');
            } else if let Some(extension) = kept_extension(component) {
                out.push('.');
                out.push_str(extension);
            }
        }
        out
    }

    /// The token of one name.
    pub fn component(&self, name: &[u8]) -> String {
        let mac = self.0.clone().chain_update(name).finalize().into_bytes();
        BASE64URL.encode(mac.get(..TOKEN_BYTES).unwrap_or(&mac))
    }
}

/// The extension of a name, if it says nothing of whom the file is about: a letter and at most seven letters or digits more.
pub(crate) fn kept_extension(name: &[u8]) -> Option<&str> {
    let at = name
        .iter()
        .rposition(|&byte| byte == b'.')
        .filter(|&at| at > 0)?;
    let extension = name.get(at + 1..)?;
    let is_plain = extension.first().is_some_and(u8::is_ascii_alphabetic)
        && extension.len() <= LONGEST_EXTENSION
        && extension.iter().all(u8::is_ascii_alphanumeric);
    std::str::from_utf8(extension).ok().filter(|_| is_plain)
}

/// A path as records write it: a token as it is, and a path in clear as a peer's text.
pub fn as_recorded(path: &[u8]) -> Value {
    let is_plain = |&byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte);
    match std::str::from_utf8(path) {
        Ok(token) if is_token(path) && path.iter().all(is_plain) => token.into(),
        Ok(_) | Err(_) => untrusted(path),
    }
}

/// Opens a file that nobody but its owner and group may read.
pub(super) fn open_private(path: &Path) -> Result<fs::File, HiddenKeyError> {
    let unreadable = |source| HiddenKeyError::Read {
        path: path.to_owned(),
        source,
    };
    // Before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("it is not a file")));
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o037 != 0 {
        return Err(HiddenKeyError::ReadableByOthers {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(file)
}

/// Writes a new file with mode 0600. A crash leaves a whole one or none.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), HiddenKeyError> {
    let failed = |source| HiddenKeyError::Write {
        path: path.to_owned(),
        source,
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    // A link is not made over a file that came meanwhile.
    let linked = fs::hard_link(&new, path);
    fs::remove_file(&new).map_err(failed)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(HiddenKeyError::AlreadyThere {
                path: path.to_owned(),
            });
        }
        linked => linked.map_err(failed)?,
    }
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use portcullis_journal::token::base;

    use super::*;

    fn key() -> PathKey {
        PathKey::new(&[7; 32])
    }

    #[test]
    fn equal_names_have_equal_tokens_wherever_they_lie() {
        let token = |path: &str| key().token(path.as_bytes());
        let inbox = token("/inbox");
        assert!(
            inbox.starts_with("hmac:/") && inbox.len() == 6 + 22,
            "{inbox}"
        );
        assert!(token("/inbox/a.csv").starts_with(&format!("{inbox}/")));
        assert_ne!(token("/inbox"), token("/Inbox"));
        assert_ne!(inbox, PathKey::new(&[8; 32]).token(b"/inbox"));
        assert_eq!(token("/"), "hmac:/");
        let name = key().component(b"a.csv");
        assert_eq!(token("/a.csv/a.csv"), format!("hmac:/{name}/{name}.csv"));
        assert_eq!(token("../a.csv"), format!("hmac:../{name}.csv"));
    }

    #[test]
    fn a_token_is_the_truncated_hmac_of_rfc_2104() {
        // RFC 4231 case 2 has this key and text; a key of zeros behind it is the same key.
        let mut padded = [0; 32];
        padded[..4].copy_from_slice(b"Jefe");
        let expected = hex::decode("5bdcc146bf60754e6a042426089575c7").unwrap();
        let token = PathKey::new(&padded).component(b"what do ya want for nothing?");
        assert_eq!(BASE64URL.decode(token).unwrap(), expected);
    }

    #[test]
    fn only_a_short_plain_extension_stays() {
        for (name, kept) in [
            ("scan.dcm", Some("dcm")),
            ("a.tar.gz", Some("gz")),
            ("x.mp4", Some("mp4")),
            ("1.2.840.19800101", None),
            (".smith", None),
            ("report.", None),
            ("a.verylongx", None),
            ("a.d\u{e9}j", None),
            ("a.x y", None),
            ("plain", None),
        ] {
            assert_eq!(kept_extension(name.as_bytes()), kept, "{name}");
        }
    }

    #[test]
    fn what_is_longer_than_any_path_becomes_one_token() {
        let token = key().token("a/".repeat(100_000).as_bytes());
        assert_eq!(token.len(), 5 + 22);
    }

    #[test]
    fn the_base_of_a_token_is_what_lies_below_it_begins_with() {
        let directory = key().token(b"/in/a.d");
        let below = key().token(b"/in/a.d/file");
        assert!(
            below
                .as_bytes()
                .starts_with(&[base(directory.as_bytes()), b"/"].concat())
        );
        assert_eq!(base(b"/in/a.d"), b"/in/a.d");
        for whole in ["hmac:/", "hmac:/in", "hmac:/..", "hmac:/../in"] {
            assert_eq!(base(whole.as_bytes()), whole.as_bytes());
        }
    }

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/paths");
        let made = PathKey::open(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::metadata(&path).unwrap().len(), 32);
        assert_eq!(
            PathKey::open(&path).unwrap().token(b"/a"),
            made.token(b"/a")
        );
        let entries = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(entries, 1, "a temporary file is left");
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("paths");
        PathKey::open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        let refused = PathKey::open(&path).unwrap_err();
        assert!(matches!(
            refused,
            HiddenKeyError::ReadableByOthers { mode: 0o604, .. }
        ));
        assert!(refused.to_string().contains("chmod 0600"), "{refused}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        PathKey::open(&path).unwrap();
        for length in [0, 31, 33, 4096] {
            fs::write(&path, vec![1; length]).unwrap();
            let refused = PathKey::open(&path).unwrap_err();
            assert!(
                matches!(refused, HiddenKeyError::NotAPathKey { bytes, .. } if bytes == length as u64),
                "{refused}"
            );
            assert_eq!(fs::metadata(&path).unwrap().len(), length as u64);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(
            PathKey::open(&path),
            Err(HiddenKeyError::Read { .. })
        ));
    }
}
