//! The vocabulary that the SFTP edge, the policy, the journal and the backends share.

use bytes::Bytes;
use portcullis_at_rest::ObjectId;

use crate::path::VirtualPath;

/// Longest SFTP packet that clients are told to send, in bytes, its length field not counted.
pub const MAX_PACKET: u32 = 256 * 1024;
/// Most bytes that one READ or WRITE moves.
pub const MAX_DATA: u32 = MAX_PACKET - 1024;
/// Most files and directories that a channel can hold open.
pub const MAX_OPEN_HANDLES: usize = 256;

/// An open file or directory of one channel. Chosen by the engine, never reused within a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(pub u64);

impl HandleId {
    /// Bytes of a handle on the wire.
    pub const WIRE_LENGTH: usize = 16;

    /// As clients get it: hexadecimal digits, since some take the draft's opaque string for text.
    pub fn to_wire(self) -> [u8; Self::WIRE_LENGTH] {
        let mut digits = [0; Self::WIRE_LENGTH];
        for (index, digit) in digits.iter_mut().enumerate() {
            let value = (self.0 >> (60 - 4 * index) & 15) as u8;
            *digit = if value < 10 {
                b'0' + value
            } else {
                b'a' + value - 10
            };
        }
        digits
    }

    /// What [`HandleId::to_wire`] gave; `None` for anything else.
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let digits = <[u8; Self::WIRE_LENGTH]>::try_from(wire).ok()?;
        digits
            .into_iter()
            .try_fold(0, |value, digit| {
                let digit = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                Some(value << 4 | u64::from(digit))
            })
            .map(Self)
    }
}

/// How a file is opened: the SFTP v3 `pflags` (filexfer-02 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    pub read: bool,
    pub write: bool,
    pub append: bool,
    pub create: bool,
    pub truncate: bool,
    /// Fail if the file exists; only with `create`.
    pub exclusive: bool,
}

impl Access {
    /// An existing file, for reading.
    pub const READ: Self = Self {
        read: true,
        write: false,
        append: false,
        create: false,
        truncate: false,
        exclusive: false,
    };
    /// An existing file, to be written anew.
    pub const REPLACE: Self = Self {
        read: false,
        write: true,
        truncate: true,
        ..Self::READ
    };

    /// True if bytes can be written through the handle.
    pub fn writes(&self) -> bool {
        self.write || self.append
    }
}

/// File attributes as SFTP v3 has them (filexfer-02 section 5); absent ones are not sent and not changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Bytes.
    pub size: Option<u64>,
    /// User and group id.
    pub owner: Option<(u32, u32)>,
    /// `st_mode`, with the type bits where known.
    pub permissions: Option<u32>,
    /// Access and modification time, seconds since 1970.
    pub times: Option<(u32, u32)>,
    /// True for what an interrupted upload left, which its account can go on with. Backends say it; it is not sent.
    pub is_interrupted: bool,
    /// True for what has a name that nobody gave it through the gateway, where names are encrypted. Only the gateway's own look
    /// at stored files meets it; its name is that on the backend.
    pub is_foreign: bool,
}

impl Attributes {
    /// The file type bits of `st_mode`.
    pub const TYPE_MASK: u32 = 0o170_000;
    pub const DIRECTORY: u32 = 0o040_000;
    pub const REGULAR: u32 = 0o100_000;
    pub const SYMLINK: u32 = 0o120_000;

    /// True if the type bits say directory.
    pub fn is_directory(&self) -> bool {
        self.permissions
            .is_some_and(|mode| mode & Self::TYPE_MASK == Self::DIRECTORY)
    }
}

/// One SFTP request, understood. Paths are clean, names are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Open {
        path: VirtualPath,
        handle: HandleId,
        access: Access,
        attributes: Attributes,
    },
    Close {
        handle: HandleId,
    },
    /// `length` is at most what `limits@openssh.com` announces.
    Read {
        handle: HandleId,
        offset: u64,
        length: u32,
    },
    Write {
        handle: HandleId,
        offset: u64,
        data: Bytes,
    },
    Stat {
        path: VirtualPath,
    },
    Lstat {
        path: VirtualPath,
    },
    Fstat {
        handle: HandleId,
    },
    Setstat {
        path: VirtualPath,
        attributes: Attributes,
    },
    /// `lsetstat@openssh.com`: does not follow a symbolic link.
    Lsetstat {
        path: VirtualPath,
        attributes: Attributes,
    },
    Fsetstat {
        handle: HandleId,
        attributes: Attributes,
    },
    Opendir {
        path: VirtualPath,
        handle: HandleId,
    },
    Readdir {
        handle: HandleId,
    },
    Remove {
        path: VirtualPath,
    },
    Mkdir {
        path: VirtualPath,
        attributes: Attributes,
    },
    Rmdir {
        path: VirtualPath,
    },
    /// Also `expand-path@openssh.com`.
    Realpath {
        path: VirtualPath,
    },
    /// Fails if `to` exists (filexfer-02 section 6.5).
    Rename {
        from: VirtualPath,
        to: VirtualPath,
    },
    /// `posix-rename@openssh.com`: replaces `to`.
    PosixRename {
        from: VirtualPath,
        to: VirtualPath,
    },
    Readlink {
        path: VirtualPath,
    },
    /// `target` as the client wrote it: it is stored, not resolved, and judged by the policy.
    Symlink {
        target: Bytes,
        link: VirtualPath,
    },
    Statvfs {
        path: VirtualPath,
    },
    Fstatvfs {
        handle: HandleId,
    },
    /// `fsync@openssh.com`
    Fsync {
        handle: HandleId,
    },
    /// `hardlink@openssh.com`: fails if `to` exists.
    Hardlink {
        from: VirtualPath,
        to: VirtualPath,
    },
    /// `check-file-handle`: digests of a range. Carried out as READs of it.
    CheckFile {
        handle: HandleId,
        check: Check,
    },
    /// `check-file-name`: as an OPEN for reading under `handle`, a [`CheckFile`](Self::CheckFile) and a CLOSE.
    CheckFileName {
        path: VirtualPath,
        handle: HandleId,
        check: Check,
    },
    /// `copy-data`: carried out as READs and WRITEs.
    CopyData {
        source: HandleId,
        offset: u64,
        /// Bytes; `None` for all up to the end.
        length: Option<u64>,
        target: HandleId,
        target_offset: u64,
    },
    /// `limits@openssh.com`
    Limits,
    /// `home-directory`
    HomeDirectory,
    /// `users-groups-by-id@openssh.com`
    UsersGroupsById {
        users: Vec<u32>,
        groups: Vec<u32>,
    },
    /// The gateway's own work on a stored file. No client can ask for it.
    Tend {
        path: VirtualPath,
        care: Care,
    },
}

/// What the gateway does by itself to a stored file of an encrypted backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Wraps the file's key as those of new files are.
    Rewrap,
    /// Puts an encrypted file in the place of one that is not.
    Encrypt {
        /// The SHA-256 that the content must have; `None` if nobody knows.
        expected: Option<[u8; 32]>,
    },
    /// Asks which file it is.
    Identify,
    /// Destroys the wraps of the file's key, and removes it.
    Shred {
        /// The file that it must be.
        object: [u8; 16],
    },
}

impl Care {
    /// As records say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rewrap => "rewrap",
            Self::Encrypt { .. } => "encrypt",
            Self::Identify => "identify",
            Self::Shred { .. } => "shred",
        }
    }
}

/// What a stored file was or became when the gateway tended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tended {
    /// Its key is wrapped as those of new files are.
    Current,
    /// Its key was wrapped otherwise before.
    Rewrapped {
        /// Read and written for it.
        bytes: u64,
    },
    /// It is not encrypted.
    Plain,
    /// It was not encrypted before.
    Encrypted {
        /// Of the content.
        sha256: [u8; 32],
        /// Likewise.
        bytes: u64,
        /// What it is now.
        object: ObjectId,
    },
    /// It is the encrypted file of that number.
    Identified { object: [u8; 16] },
    /// Nobody can decrypt it any more, and it is gone.
    Shredded,
}

impl Tended {
    /// As records say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Rewrapped { .. } => "rewrapped",
            Self::Plain => "plain",
            Self::Encrypted { .. } => "encrypted",
            Self::Identified { .. } => "identified",
            Self::Shredded => "shredded",
        }
    }
}

impl Operation {
    /// The request's name, as records say it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Close { .. } => "close",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Stat { .. } => "stat",
            Self::Lstat { .. } => "lstat",
            Self::Fstat { .. } => "fstat",
            Self::Setstat { .. } => "setstat",
            Self::Lsetstat { .. } => "lsetstat",
            Self::Fsetstat { .. } => "fsetstat",
            Self::Opendir { .. } => "opendir",
            Self::Readdir { .. } => "readdir",
            Self::Remove { .. } => "remove",
            Self::Mkdir { .. } => "mkdir",
            Self::Rmdir { .. } => "rmdir",
            Self::Realpath { .. } => "realpath",
            Self::Rename { .. } => "rename",
            Self::PosixRename { .. } => "posix_rename",
            Self::Readlink { .. } => "readlink",
            Self::Symlink { .. } => "symlink",
            Self::Statvfs { .. } => "statvfs",
            Self::Fstatvfs { .. } => "fstatvfs",
            Self::Fsync { .. } => "fsync",
            Self::Hardlink { .. } => "hardlink",
            Self::CheckFile { .. } => "check_file",
            Self::CheckFileName { .. } => "check_file_name",
            Self::CopyData { .. } => "copy_data",
            Self::Limits => "limits",
            Self::HomeDirectory => "home_directory",
            Self::UsersGroupsById { .. } => "users_groups_by_id",
            Self::Tend { care, .. } => care.name(),
        }
    }

    /// The open handle that the request names, of two the one that is read. OPEN, OPENDIR and `check-file-name` name one that
    /// does not exist yet.
    pub fn handle(&self) -> Option<HandleId> {
        match self {
            Self::Close { handle }
            | Self::Read { handle, .. }
            | Self::Write { handle, .. }
            | Self::Fstat { handle }
            | Self::Fsetstat { handle, .. }
            | Self::Readdir { handle }
            | Self::Fstatvfs { handle }
            | Self::Fsync { handle }
            | Self::CheckFile { handle, .. }
            | Self::CopyData { source: handle, .. } => Some(*handle),
            Self::Open { .. }
            | Self::Opendir { .. }
            | Self::Stat { .. }
            | Self::Lstat { .. }
            | Self::Setstat { .. }
            | Self::Lsetstat { .. }
            | Self::Remove { .. }
            | Self::Mkdir { .. }
            | Self::Rmdir { .. }
            | Self::Realpath { .. }
            | Self::Rename { .. }
            | Self::PosixRename { .. }
            | Self::Readlink { .. }
            | Self::Symlink { .. }
            | Self::Statvfs { .. }
            | Self::Hardlink { .. }
            | Self::CheckFileName { .. }
            | Self::Limits
            | Self::HomeDirectory
            | Self::UsersGroupsById { .. }
            | Self::Tend { .. } => None,
        }
    }

    /// The second open handle that the request names: the one that is written.
    pub fn second_handle(&self) -> Option<HandleId> {
        if let Self::CopyData { target, .. } = self {
            Some(*target)
        } else {
            None
        }
    }
}

/// What `check-file` asks for (filexfer-extensions-00 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    pub algorithm: DigestAlgorithm,
    pub offset: u64,
    /// Bytes; `None` for all up to the end.
    pub length: Option<u64>,
    /// Bytes that each digest covers; `None` for one digest over all.
    pub block_size: Option<u32>,
}

/// The digests that are computed. MD5, SHA-1 and CRC-32 prove nothing and are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DigestAlgorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl DigestAlgorithm {
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The draft's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of one digest.
    pub fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// One name of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: Bytes,
    pub attributes: Attributes,
}

/// `statvfs@openssh.com`, the fields in its order (OpenSSH PROTOCOL section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilesystemStatus {
    pub block_size: u64,
    pub fragment_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub files_available: u64,
    pub filesystem_id: u64,
    pub flags: u64,
    pub name_max: u64,
}

/// An encrypted file, as it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub object: ObjectId,
    /// Bytes of its content.
    pub size: u64,
}

/// What an operation brought when it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to say but that it is done.
    Done,
    /// An upload stands under its name.
    Published {
        /// Of the staging file, read again before it was published.
        sha256: Option<[u8; 32]>,
        /// The encrypted file that it is.
        stored: Option<Stored>,
    },
    /// The file or directory is open under the handle that the operation named.
    Opened,
    /// At least one byte.
    Data(Bytes),
    /// Past the last byte or the last name.
    End,
    /// At least one name.
    Names(Vec<Entry>),
    Attributes(Attributes),
    /// A link's target, as stored.
    Target(Bytes),
    FilesystemStatus(FilesystemStatus),
    /// The answer of an operation that the gateway itself serves: a path, limits or names.
    Path(VirtualPath),
    Limits {
        packet: u64,
        read: u64,
        write: u64,
        open_handles: u64,
    },
    UsersGroups {
        users: Vec<Bytes>,
        groups: Vec<Bytes>,
    },
    /// One after the other, as many as the range has blocks.
    Digests {
        algorithm: DigestAlgorithm,
        digests: Bytes,
    },
    Tended(Tended),
}

impl Outcome {
    /// Of an upload that was published, with its digest if it was read again.
    pub fn digested(sha256: Option<[u8; 32]>) -> Self {
        if sha256.is_none() {
            return Self::Done;
        }
        Self::Published {
            sha256,
            stored: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_text_that_leads_back_to_it_and_nothing_else_does() {
        for (id, wire) in [
            (0, b"0000000000000000"),
            (0x1234_5678_90ab_cdef, b"1234567890abcdef"),
            (u64::MAX, b"ffffffffffffffff"),
        ] {
            assert_eq!(&HandleId(id).to_wire(), wire);
            assert_eq!(HandleId::from_wire(wire), Some(HandleId(id)));
        }
        for wire in [
            &b""[..],
            b"\0\0\0\0\0\0\0\x01",
            b"000000000000000",
            b"00000000000000000",
            b"000000000000000F",
            b"+00000000000000f",
            b"000000000000000g",
        ] {
            assert_eq!(HandleId::from_wire(wire), None, "{wire:?}");
        }
    }
}
