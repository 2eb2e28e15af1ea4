//! A packet from a client, understood: filexfer-02 version 3 and the extensions that the gateway serves.
//!
//! Only the header of a WRITE is looked at; its data stays where the network put it. What can't be understood, or isn't
//! served, is [`Refused`] with what a record needs.

use bytes::Bytes;

use super::framing::{Fields, Truncated};
use crate::{
    operation::{Access, Attributes, HandleId, MAX_DATA, Operation},
    path::{PathError, VirtualPath},
    status::Status,
};

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// The first packet of a channel, and only that.
    Init {
        version: u32,
    },
    Operation {
        id: u32,
        operation: Operation,
    },
}

/// Why a packet is not a request that can be put to the policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    #[error("the packet ends inside a field")]
    Truncated,
    #[error("the packet has bytes after its last field")]
    TrailingBytes,
    #[error("attribute flags {flags:#x} are not of version 3")]
    AttributeFlags { flags: u32 },
    #[error("the range ends beyond 2^63 bytes")]
    Range,
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("only one's own home directory can be named with ~")]
    ForeignHome,
    #[error("a handle of {length} bytes is none of ours, which are 16 hexadecimal digits")]
    Handle { length: usize },
    #[error("request type {kind} is not of version 3")]
    UnknownType { kind: u8 },
    #[error("the extension is not served")]
    UnknownExtension,
    #[error("the extension is switched off: it moves data past the record of reads and writes")]
    DisabledExtension,
}

/// A packet that is answered with a status, or ends the channel if it has no `id` to answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub id: Option<u32>,
    /// What was asked for, as far as it was understood.
    pub name: &'static str,
    pub reason: Reason,
    /// The path or extension name that was refused, else the beginning of the packet, as it came.
    pub evidence: Bytes,
}

impl Reason {
    /// The code that the record carries.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::TrailingBytes => "trailing_bytes",
            Self::AttributeFlags { .. } => "attribute_flags",
            Self::Range => "range",
            Self::Path(PathError::Nul) => "nul_in_path",
            Self::Path(PathError::TooLong) => "path_too_long",
            Self::Path(PathError::ComponentTooLong) => "name_too_long",
            Self::Path(PathError::Reserved) => "reserved_name",
            Self::ForeignHome => "foreign_home",
            Self::Handle { .. } => "unknown_handle",
            Self::UnknownType { .. } => "unknown_type",
            Self::UnknownExtension => "unknown_extension",
            Self::DisabledExtension => "disabled_extension",
        }
    }

    /// What the client hears.
    pub fn status(&self) -> Status {
        match self {
            Self::Truncated
            | Self::TrailingBytes
            | Self::AttributeFlags { .. }
            | Self::Range
            | Self::Path(PathError::Nul | PathError::TooLong | PathError::ComponentTooLong) => {
                Status::BadMessage
            }
            Self::Path(PathError::Reserved) => Status::PermissionDenied,
            Self::ForeignHome => Status::NoSuchFile,
            Self::Handle { .. } => Status::Failure,
            Self::UnknownType { .. } | Self::UnknownExtension | Self::DisabledExtension => {
                Status::OpUnsupported
            }
        }
    }
}

/// The length of a WRITE up to its data, for a handle of ours: type, id, handle, offset, length.
const WRITE_HEADER: usize = 1 + 4 + (4 + HandleId::WIRE_LENGTH) + 8 + 4;

/// Understands one packet. `new_handle` is the handle that an OPEN or OPENDIR gets.
///
/// # Errors
/// If the packet is malformed, or asks for something that no policy could grant.
pub fn parse(frame: Bytes, new_handle: HandleId) -> Result<Request, Refused> {
    let mut body = Body {
        fields: Fields::new(frame.clone()),
        name: "unknown",
        evidence: None,
    };
    let mut id = None;
    body.request(&mut id, new_handle).map_err(|reason| Refused {
        id,
        name: body.name,
        reason,
        // What is behind the header of a WRITE, however garbled, belongs to a patient and not into a record.
        evidence: body
            .evidence
            .unwrap_or_else(|| frame.slice(..frame.len().min(WRITE_HEADER))),
    })
}

mod kind {
    pub(super) const INIT: u8 = 1;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const FSTAT: u8 = 8;
    pub(super) const SETSTAT: u8 = 9;
    pub(super) const FSETSTAT: u8 = 10;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const REALPATH: u8 = 16;
    pub(super) const STAT: u8 = 17;
    pub(super) const RENAME: u8 = 18;
    pub(super) const READLINK: u8 = 19;
    pub(super) const SYMLINK: u8 = 20;
    pub(super) const EXTENDED: u8 = 200;
}

struct Body {
    fields: Fields,
    name: &'static str,
    evidence: Option<Bytes>,
}

impl Body {
    fn request(&mut self, id: &mut Option<u32>, new_handle: HandleId) -> Result<Request, Reason> {
        let kind = self.fields.byte()?;
        if kind == kind::INIT {
            self.name = "init";
            // Extension pairs may follow; none changes how the client is served.
            let version = self.fields.number()?;
            return Ok(Request::Init { version });
        }
        let number = self.fields.number()?;
        *id = Some(number);
        let operation = self.operation(kind, new_handle)?;
        // rclone's library pads the last WRITEs of a file with what its buffer held before, and OpenSSH's server
        // ignores that.
        if !self.fields.is_empty() && kind != kind::WRITE {
            return Err(Reason::TrailingBytes);
        }
        Ok(Request::Operation {
            id: number,
            operation,
        })
    }

    fn operation(&mut self, kind: u8, new_handle: HandleId) -> Result<Operation, Reason> {
        Ok(match kind {
            kind::OPEN => {
                self.name = "open";
                Operation::Open {
                    path: self.path()?,
                    handle: new_handle,
                    access: access(self.fields.number()?),
                    attributes: self.attributes()?,
                }
            }
            kind::CLOSE => {
                self.name = "close";
                Operation::Close {
                    handle: self.handle()?,
                }
            }
            kind::READ => {
                self.name = "read";
                let handle = self.handle()?;
                let offset = self.fields.long()?;
                let length = self.fields.number()?.min(MAX_DATA);
                within_range(offset, length as usize)?;
                Operation::Read {
                    handle,
                    offset,
                    length,
                }
            }
            kind::WRITE => {
                self.name = "write";
                let handle = self.handle()?;
                let offset = self.fields.long()?;
                let data = self.fields.string()?;
                within_range(offset, data.len())?;
                Operation::Write {
                    handle,
                    offset,
                    data,
                }
            }
            kind::LSTAT => {
                self.name = "lstat";
                Operation::Lstat { path: self.path()? }
            }
            kind::FSTAT => {
                self.name = "fstat";
                Operation::Fstat {
                    handle: self.handle()?,
                }
            }
            kind::SETSTAT => {
                self.name = "setstat";
                Operation::Setstat {
                    path: self.path()?,
                    attributes: self.attributes()?,
                }
            }
            kind::FSETSTAT => {
                self.name = "fsetstat";
                Operation::Fsetstat {
                    handle: self.handle()?,
                    attributes: self.attributes()?,
                }
            }
            kind::OPENDIR => {
                self.name = "opendir";
                Operation::Opendir {
                    path: self.path()?,
                    handle: new_handle,
                }
            }
            kind::READDIR => {
                self.name = "readdir";
                Operation::Readdir {
                    handle: self.handle()?,
                }
            }
            kind::REMOVE => {
                self.name = "remove";
                Operation::Remove { path: self.path()? }
            }
            kind::MKDIR => {
                self.name = "mkdir";
                Operation::Mkdir {
                    path: self.path()?,
                    attributes: self.attributes()?,
                }
            }
            kind::RMDIR => {
                self.name = "rmdir";
                Operation::Rmdir { path: self.path()? }
            }
            kind::REALPATH => {
                self.name = "realpath";
                Operation::Realpath { path: self.path()? }
            }
            kind::STAT => {
                self.name = "stat";
                Operation::Stat { path: self.path()? }
            }
            kind::RENAME => {
                self.name = "rename";
                Operation::Rename {
                    from: self.path()?,
                    to: self.path()?,
                }
            }
            kind::READLINK => {
                self.name = "readlink";
                Operation::Readlink { path: self.path()? }
            }
            kind::SYMLINK => {
                self.name = "symlink";
                // The order of OpenSSH, which all clients follow; the draft has the link first.
                Operation::Symlink {
                    target: self.fields.string()?,
                    link: self.path()?,
                }
            }
            kind::EXTENDED => return self.extended(),
            kind => return Err(Reason::UnknownType { kind }),
        })
    }

    fn extended(&mut self) -> Result<Operation, Reason> {
        self.name = "extended";
        let extension = self.fields.string()?;
        self.evidence = Some(extension.clone());
        Ok(match &extension[..] {
            b"posix-rename@openssh.com" => {
                self.name = "posix_rename";
                Operation::PosixRename {
                    from: self.path()?,
                    to: self.path()?,
                }
            }
            b"statvfs@openssh.com" => {
                self.name = "statvfs";
                Operation::Statvfs { path: self.path()? }
            }
            b"fstatvfs@openssh.com" => {
                self.name = "fstatvfs";
                Operation::Fstatvfs {
                    handle: self.handle()?,
                }
            }
            b"fsync@openssh.com" => {
                self.name = "fsync";
                Operation::Fsync {
                    handle: self.handle()?,
                }
            }
            b"lsetstat@openssh.com" => {
                self.name = "lsetstat";
                Operation::Lsetstat {
                    path: self.path()?,
                    attributes: self.attributes()?,
                }
            }
            b"limits@openssh.com" => {
                self.name = "limits";
                Operation::Limits
            }
            b"expand-path@openssh.com" => {
                self.name = "expand_path";
                let raw = self.fields.string()?;
                self.evidence = Some(raw.clone());
                let below_home = match raw.strip_prefix(b"~") {
                    None => &raw,
                    Some(rest) if rest.is_empty() || rest.starts_with(b"/") => rest,
                    Some(_) => return Err(Reason::ForeignHome),
                };
                Operation::Realpath {
                    path: VirtualPath::clean(below_home)?,
                }
            }
            b"home-directory" => {
                self.name = "home_directory";
                // Everyone's home is the root of what they see, whatever name they ask for.
                let _user = self.fields.string()?;
                Operation::HomeDirectory
            }
            b"users-groups-by-id@openssh.com" => {
                self.name = "users_groups_by_id";
                Operation::UsersGroupsById {
                    users: self.numbers()?,
                    groups: self.numbers()?,
                }
            }
            b"hardlink@openssh.com" | b"copy-data" => return Err(Reason::DisabledExtension),
            _ => return Err(Reason::UnknownExtension),
        })
    }

    fn path(&mut self) -> Result<VirtualPath, Reason> {
        let raw = self.fields.string()?;
        VirtualPath::clean(&raw).map_err(|error| {
            self.evidence = Some(raw);
            error.into()
        })
    }

    fn handle(&mut self) -> Result<HandleId, Reason> {
        let raw = self.fields.string()?;
        HandleId::from_wire(&raw).ok_or_else(|| {
            let length = raw.len();
            self.evidence = Some(raw);
            Reason::Handle { length }
        })
    }

    /// filexfer-02 section 5.
    fn attributes(&mut self) -> Result<Attributes, Reason> {
        const SIZE: u32 = 0x1;
        const OWNER: u32 = 0x2;
        const PERMISSIONS: u32 = 0x4;
        const TIMES: u32 = 0x8;
        const EXTENDED: u32 = 0x8000_0000;
        let flags = self.fields.number()?;
        if flags & !(SIZE | OWNER | PERMISSIONS | TIMES | EXTENDED) != 0 {
            return Err(Reason::AttributeFlags { flags });
        }
        let mut attributes = Attributes::default();
        if flags & SIZE != 0 {
            attributes.size = Some(self.fields.long()?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((self.fields.number()?, self.fields.number()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.permissions = Some(self.fields.number()?);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((self.fields.number()?, self.fields.number()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..self.fields.number()? {
                self.fields.string()?;
                self.fields.string()?;
            }
        }
        if attributes.size.is_some_and(|size| size > i64::MAX as u64) {
            return Err(Reason::Range);
        }
        Ok(attributes)
    }

    fn numbers(&mut self) -> Result<Vec<u32>, Reason> {
        let packed = self.fields.string()?;
        let mut fields = Fields::new(packed);
        let mut numbers = Vec::new();
        while !fields.is_empty() {
            numbers.push(fields.number()?);
        }
        Ok(numbers)
    }
}

/// filexfer-02 section 6.3. Bits that the draft does not know are left out, and an OPEN for nothing reads, as in OpenSSH.
fn access(flags: u32) -> Access {
    let mut access = Access {
        read: flags & 0x01 != 0,
        write: flags & 0x02 != 0,
        append: flags & 0x04 != 0,
        create: flags & 0x08 != 0,
        truncate: flags & 0x10 != 0,
        exclusive: flags & 0x20 != 0,
    };
    access.read |= !access.writes();
    access
}

fn within_range(offset: u64, length: usize) -> Result<(), Reason> {
    match offset.checked_add(length as u64) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        Some(_) | None => Err(Reason::Range),
    }
}

impl From<Truncated> for Reason {
    fn from(Truncated: Truncated) -> Self {
        Self::Truncated
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut as _, BytesMut};
    use proptest::prelude::*;

    use super::*;

    const NEW: HandleId = HandleId(99);

    fn packet(kind: u8, fields: &[&[u8]]) -> Bytes {
        let mut packet = BytesMut::new();
        packet.put_u8(kind);
        packet.put_u32(7);
        for field in fields {
            packet.put_slice(field);
        }
        packet.freeze()
    }

    fn string(bytes: &[u8]) -> Vec<u8> {
        let mut field = (bytes.len() as u32).to_be_bytes().to_vec();
        field.extend(bytes);
        field
    }

    fn parsed(frame: Bytes) -> Operation {
        match parse(frame, NEW).unwrap() {
            Request::Operation { id, operation } => {
                assert_eq!(id, 7);
                operation
            }
            Request::Init { .. } => panic!("an INIT"),
        }
    }

    #[test]
    fn the_data_of_a_write_is_not_copied() {
        let frame = packet(
            kind::WRITE,
            &[&string(&NEW.to_wire()), &[0; 8], &string(b"payload")],
        );
        let Operation::Write { data, .. } = parsed(frame.clone()) else {
            panic!("a WRITE");
        };
        assert_eq!(data, "payload");
        assert!(frame.as_ptr_range().contains(&data.as_ptr()));
    }

    #[test]
    fn the_flags_of_an_open_mean_what_the_draft_says() {
        let access = |flags: u32| {
            let frame = packet(kind::OPEN, &[&string(b"/a"), &flags.to_be_bytes(), &[0; 4]]);
            let Operation::Open { access, handle, .. } = parsed(frame) else {
                panic!("an OPEN");
            };
            assert_eq!(handle, NEW);
            access
        };
        let nothing = Access::default();
        assert_eq!(
            access(0x01),
            Access {
                read: true,
                ..nothing
            }
        );
        assert_eq!(
            access(0x00),
            Access {
                read: true,
                ..nothing
            }
        );
        assert_eq!(
            access(0x02),
            Access {
                write: true,
                ..nothing
            }
        );
        assert_eq!(
            access(0x04),
            Access {
                append: true,
                ..nothing
            }
        );
        assert_eq!(
            access(0x3b),
            Access {
                read: true,
                write: true,
                create: true,
                truncate: true,
                exclusive: true,
                ..nothing
            }
        );
    }

    #[test]
    fn a_read_is_cut_to_what_is_announced() {
        let frame = packet(
            kind::READ,
            &[&string(&NEW.to_wire()), &[0; 8], &u32::MAX.to_be_bytes()],
        );
        assert!(matches!(
            parsed(frame),
            Operation::Read {
                length: MAX_DATA,
                ..
            }
        ));
    }

    #[test]
    fn extended_attributes_are_skipped_and_what_follows_them_is_seen() {
        let extended = [
            &string(b"/a")[..],
            &0x8000_0004_u32.to_be_bytes(),
            &0o600_u32.to_be_bytes(),
            &1_u32.to_be_bytes(),
            &string(b"name"),
            &string(b"value"),
        ];
        let Operation::Setstat { attributes, .. } = parsed(packet(kind::SETSTAT, &extended)) else {
            panic!("a SETSTAT");
        };
        assert_eq!(attributes.permissions, Some(0o600));
        let mut longer = extended.to_vec();
        longer.push(b"x");
        assert_eq!(
            parse(packet(kind::SETSTAT, &longer), NEW)
                .unwrap_err()
                .reason,
            Reason::TrailingBytes
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn whatever_a_client_sends_is_understood_or_refused(
            kind in prop_oneof![0_u8..22, Just(kind::EXTENDED), any::<u8>()],
            extension in prop_oneof![
                Just(&b""[..]),
                Just(&b"\0\0\0\x18posix-rename@openssh.com"[..]),
                Just(&b"\0\0\0\x1fusers-groups-by-id@openssh.com"[..]),
                Just(&b"\0\0\0\x17expand-path@openssh.com"[..]),
            ],
            noise in proptest::collection::vec(prop_oneof![Just(0_u8), 0_u8..9, any::<u8>()], 0..80),
        ) {
            let frame = packet(kind, &[extension, &noise]);
            if let Err(refused) = parse(frame.clone(), NEW) {
                prop_assert_eq!(refused.id, Some(7));
                prop_assert!(refused.evidence.len() <= frame.len());
            }
        }

        #[test]
        fn a_path_comes_through_as_the_bytes_it_is(name in proptest::collection::vec(any::<u8>(), 1..100)) {
            let frame = packet(kind::STAT, &[&string(&name)]);
            match (parse(frame, NEW), VirtualPath::clean(&name)) {
                (Ok(Request::Operation { operation, .. }), Ok(path)) => {
                    prop_assert_eq!(operation, Operation::Stat { path });
                }
                (Err(refused), Err(error)) => prop_assert_eq!(refused.reason, Reason::Path(error)),
                (parsed, cleaned) => prop_assert!(false, "{:?} but {:?}", parsed, cleaned),
            }
        }
    }
}
