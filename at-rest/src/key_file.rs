//! Keys as text files: one line that says what it is, its bytes in base64, and four more by which a typing error shows.
//! Lines that begin with `#` are comments.

mod destroy;

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::{
    fs::{FileType, Mode, OFlags},
    process::geteuid,
};
use zeroize::Zeroizing;

pub use self::destroy::{DestroyError, Destroyed, destroy_kek};
use crate::{DataKey, acl, escrow::Recipient, kek::SoftwareKek, shares::Share};

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A key-encryption key: 32 bytes.
    Kek,
    /// The public half of the escrow: 32 bytes.
    Recipient,
    /// A share of its private half, see [`Share`].
    Share,
}

/// Why a key was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    #[error("{} can't be opened", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} can't be read", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is a symbolic link; name the file that it leads to", .path.display())]
    Link { path: PathBuf },
    #[error("{} is not a regular file", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{path} belongs to user {owner}, who could change its rights: chown {user} {path}", path = .path.display())]
    Owner {
        path: PathBuf,
        owner: u32,
        user: u32,
    },
    #[error("others than its owner have rights on {path} (mode {mode:04o}): chmod 600 {path}; if it holds a key that they may have read, make a new one", path = .path.display())]
    Rights { path: PathBuf, mode: u32 },
    #[error("{} is empty", .path.display())]
    Empty { path: PathBuf },
    #[error("{} has more than {MAX} bytes: it is not a key file", .path.display())]
    TooLarge { path: PathBuf },
    #[error("{} holds no key: it should have a line that begins with {}", .path.display(), .expected.prefix())]
    NoKey { path: PathBuf, expected: Kind },
    #[error("{} holds more than one key; keep each in a file of its own", .path.display())]
    Several { path: PathBuf },
    #[error("{} holds {found}, not {expected}", .path.display())]
    OtherKind {
        path: PathBuf,
        expected: Kind,
        found: Kind,
    },
    #[error("{} is cut off or has something added: {expected} has {} characters behind {}", .path.display(), .expected.characters(), .expected.prefix())]
    Length { path: PathBuf, expected: Kind },
    #[error("{} was mistyped or changed: its check digits do not fit", .path.display())]
    Mistyped { path: PathBuf },
    #[error("{} exists; keys are never overwritten", .path.display())]
    Exists { path: PathBuf },
    #[error("{} can't be written", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The largest file that is read, in bytes. Room for comments.
const MAX: usize = 8 << 10;
const CHECK: usize = 4;

impl Kind {
    /// What its line begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Kek => "portcullis-kek-v1:",
            Self::Recipient => "portcullis-escrow-recipient-v1:",
            Self::Share => "portcullis-escrow-share-v1:",
        }
    }

    /// Bytes of what it says, without the check.
    fn length(self) -> usize {
        match self {
            Self::Kek | Self::Recipient => 32,
            Self::Share => Share::LENGTH,
        }
    }

    fn characters(self) -> usize {
        (self.length() + CHECK).div_ceil(3) * 4
    }

    fn is_secret(self) -> bool {
        match self {
            Self::Kek | Self::Share => true,
            Self::Recipient => false,
        }
    }

    fn of(line: &[u8]) -> Option<Self> {
        [Self::Kek, Self::Recipient, Self::Share]
            .into_iter()
            .find(|kind| line.starts_with(kind.prefix().as_bytes()))
    }

    /// The first bytes of SHA-256 of prefix and content.
    fn check(self, content: &[u8]) -> impl Iterator<Item = u8> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.prefix().as_bytes());
        context.update(content);
        let digest = context.finish();
        (0..CHECK).filter_map(move |at| digest.as_ref().get(at).copied())
    }

    /// The line with `content`, without its end.
    fn line(self, content: &[u8]) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(content.len() + CHECK));
        bytes.extend_from_slice(content);
        bytes.extend(self.check(content));
        // Room for all of it, so that no copy is left behind.
        let room = self.prefix().len() + self.characters() + 1;
        let mut line = Zeroizing::new(String::with_capacity(room));
        line.push_str(self.prefix());
        STANDARD.encode_string(&*bytes, &mut line);
        line
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kek => "a key-encryption key",
            Self::Recipient => "an escrow recipient",
            Self::Share => "a share of an escrow key",
        })
    }
}

/// A key-encryption key, from a file that nobody but its owner may touch.
///
/// # Errors
/// If it is not such a file, or not such a key.
pub fn read_kek(path: &Path) -> Result<SoftwareKek, KeyFileError> {
    let content = read(path, Kind::Kek)?;
    let key = DataKey::from_bytes(&content).ok_or_else(|| length(path, Kind::Kek))?;
    Ok(SoftwareKek::new(&key))
}

/// The public half of the escrow: whoever may read the file.
///
/// # Errors
/// If it is not one.
pub fn read_recipient(path: &Path) -> Result<Recipient, KeyFileError> {
    let content = read(path, Kind::Recipient)?;
    Recipient::from_bytes(&content).ok_or_else(|| length(path, Kind::Recipient))
}

/// A share of the private half, from a file that nobody but its owner may touch.
///
/// # Errors
/// If it is not such a file, or not a share.
pub fn read_share(path: &Path) -> Result<Share, KeyFileError> {
    let content = read(path, Kind::Share)?;
    Share::from_bytes(&content).ok_or_else(|| length(path, Kind::Share))
}

/// What a file holds that nobody but its owner may touch: a PIN, a password.
///
/// # Errors
/// If it can't be read, or others have rights on it.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    read_text(path, Kind::Kek)
}

/// A new file that its owner alone may read.
///
/// # Errors
/// If there is one, or it can't be written and synced; then none is left.
pub fn write_kek(path: &Path, key: &DataKey) -> Result<(), KeyFileError> {
    write(path, Kind::Kek, key.as_bytes(), "")
}

/// A new file that everybody may read.
///
/// # Errors
/// As [`write_kek`].
pub fn write_recipient(path: &Path, recipient: &Recipient) -> Result<(), KeyFileError> {
    write(path, Kind::Recipient, recipient.as_bytes(), "")
}

/// A new file that its owner alone may read. A comment says which share it is.
///
/// # Errors
/// As [`write_kek`].
pub fn write_share(path: &Path, share: &Share) -> Result<(), KeyFileError> {
    let comment = format!(
        "# Share {} of the escrow key {}. Any {} of them open every stored file: keep each with another person.\n",
        share.number(),
        hex::encode(share.recipient()),
        share.threshold(),
    );
    write(path, Kind::Share, &share.to_bytes(), &comment)
}

fn length(path: &Path, expected: Kind) -> KeyFileError {
    let path = path.to_owned();
    KeyFileError::Length { path, expected }
}

fn read(path: &Path, expected: Kind) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    parse(&read_text(path, expected)?, path, expected)
}

fn parse(text: &[u8], path: &Path, expected: Kind) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let mut keys = text
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let owned = || path.to_owned();
    let line = keys.next().ok_or_else(|| KeyFileError::NoKey {
        path: owned(),
        expected,
    })?;
    if keys.next().is_some() {
        return Err(KeyFileError::Several { path: owned() });
    }
    match Kind::of(line) {
        None => {
            return Err(KeyFileError::NoKey {
                path: owned(),
                expected,
            });
        }
        Some(found) if found != expected => {
            return Err(KeyFileError::OtherKind {
                path: owned(),
                expected,
                found,
            });
        }
        Some(_) => {}
    }
    let digits = line.strip_prefix(expected.prefix().as_bytes());
    let digits = digits.unwrap_or_default();
    if digits.len() != expected.characters() {
        return Err(length(path, expected));
    }
    // The decoder wants room for whole groups of three.
    let mut bytes = Zeroizing::new(vec![0; digits.len() / 4 * 3]);
    let count = STANDARD
        .decode_slice(digits, &mut bytes)
        .map_err(|_| KeyFileError::Mistyped { path: owned() })?;
    bytes.truncate(count);
    let (content, check) = bytes
        .split_at_checked(expected.length())
        .ok_or_else(|| length(path, expected))?;
    if !expected.check(content).eq(check.iter().copied()) {
        return Err(KeyFileError::Mistyped { path: owned() });
    }
    bytes.truncate(expected.length());
    Ok(bytes)
}

fn read_text(path: &Path, kind: Kind) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let owned = || path.to_owned();
    // Not to wait for the writer of a pipe.
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    if kind.is_secret() {
        flags |= OFlags::NOFOLLOW;
    }
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::LOOP => KeyFileError::Link { path: owned() },
        error => KeyFileError::Open {
            path: owned(),
            source: error.into(),
        },
    })?;
    let read_error = |error: rustix::io::Errno| KeyFileError::Read {
        path: owned(),
        source: error.into(),
    };
    let stat = rustix::fs::fstat(&file).map_err(read_error)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(KeyFileError::NotAFile { path: owned() });
    }
    if kind.is_secret() {
        let user = geteuid().as_raw();
        if stat.st_uid != user && stat.st_uid != 0 {
            return Err(KeyFileError::Owner {
                path: owned(),
                owner: stat.st_uid,
                user,
            });
        }
        if stat.st_mode & 0o077 != 0 && !acl::is_for_one_reader(&file, stat.st_mode, user) {
            return Err(KeyFileError::Rights {
                path: owned(),
                mode: stat.st_mode & 0o7777,
            });
        }
    }
    // One byte more than is allowed, and never moved while it grows.
    let mut text = Zeroizing::new(vec![0; MAX + 1]);
    let mut file = File::from(file);
    let mut count = 0;
    while let Some(room) = text.get_mut(count..).filter(|room| !room.is_empty()) {
        match file.read(room) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(KeyFileError::Read {
                    path: owned(),
                    source,
                });
            }
        }
    }
    text.truncate(count);
    match count {
        0 => Err(KeyFileError::Empty { path: owned() }),
        1..=MAX => Ok(text),
        _ => Err(KeyFileError::TooLarge { path: owned() }),
    }
}

fn write(path: &Path, kind: Kind, content: &[u8], comment: &str) -> Result<(), KeyFileError> {
    let owned = || path.to_owned();
    let mode = if kind.is_secret() { 0o600 } else { 0o644 };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, Mode::from_raw_mode(mode)).map_err(|error| match error {
            rustix::io::Errno::EXIST => KeyFileError::Exists { path: owned() },
            error => KeyFileError::Write {
                path: owned(),
                source: error.into(),
            },
        })?;
    fill(File::from(file), path, kind, content, comment).map_err(|source| {
        // It is ours and good for nothing; the first error is the one to tell.
        let _ = std::fs::remove_file(path);
        KeyFileError::Write {
            path: owned(),
            source,
        }
    })
}

fn fill(mut file: File, path: &Path, kind: Kind, content: &[u8], comment: &str) -> io::Result<()> {
    let mut line = kind.line(content);
    line.push('\n');
    file.write_all(comment.as_bytes())?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
