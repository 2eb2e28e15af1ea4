//! SFTP v3 as its client writes and reads it (draft-ietf-secsh-filexfer-02); names and handles stay bytes.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{
    operation::{Attributes, Entry, FilesystemStatus},
    sftp::framing::{Fields, Truncated},
};

/// The version that is asked for and the only one that is spoken.
pub(crate) const VERSION: u32 = 3;

/// OPEN's `pflags` (section 6.3).
pub(crate) mod flags {
    pub(crate) const READ: u32 = 0x01;
    pub(crate) const WRITE: u32 = 0x02;
    pub(crate) const APPEND: u32 = 0x04;
    pub(crate) const CREATE: u32 = 0x08;
    pub(crate) const TRUNCATE: u32 = 0x10;
    pub(crate) const EXCLUSIVE: u32 = 0x20;
}

/// A request's packet type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Init = 1,
    Open = 3,
    Close = 4,
    Read = 5,
    Write = 6,
    Lstat = 7,
    Fstat = 8,
    Setstat = 9,
    Fsetstat = 10,
    Opendir = 11,
    Readdir = 12,
    Remove = 13,
    Mkdir = 14,
    Rmdir = 15,
    Stat = 17,
    Rename = 18,
    Readlink = 19,
    Symlink = 20,
    Extended = 200,
}

const ID_AT: std::ops::Range<usize> = 5..9;

/// A packet ready to be sent. A WRITE's data follows its head without having been copied.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) head: Bytes,
    pub(crate) data: Bytes,
}

/// A request that has no id yet.
#[derive(Debug)]
pub(crate) struct Request {
    packet: BytesMut,
    data: Bytes,
}

impl Request {
    pub(crate) fn new(kind: Kind) -> Self {
        let mut packet = BytesMut::with_capacity(128);
        packet.put_u32(0);
        packet.put_u8(kind as u8);
        packet.put_u32(0);
        Self {
            packet,
            data: Bytes::new(),
        }
    }

    pub(crate) fn extended(name: &str) -> Self {
        Self::new(Kind::Extended).string(name.as_bytes())
    }

    pub(crate) fn string(mut self, bytes: &[u8]) -> Self {
        self.packet.put_u32(length(bytes.len()));
        self.packet.put_slice(bytes);
        self
    }

    pub(crate) fn number(mut self, number: u32) -> Self {
        self.packet.put_u32(number);
        self
    }

    pub(crate) fn long(mut self, number: u64) -> Self {
        self.packet.put_u64(number);
        self
    }

    /// Section 5; absent fields are not sent.
    pub(crate) fn attributes(mut self, attributes: &Attributes) -> Self {
        let present = u32::from(attributes.size.is_some())
            | u32::from(attributes.owner.is_some()) << 1
            | u32::from(attributes.permissions.is_some()) << 2
            | u32::from(attributes.times.is_some()) << 3;
        self.packet.put_u32(present);
        if let Some(size) = attributes.size {
            self.packet.put_u64(size);
        }
        if let Some((user, group)) = attributes.owner {
            self.packet.put_u32(user);
            self.packet.put_u32(group);
        }
        if let Some(permissions) = attributes.permissions {
            self.packet.put_u32(permissions);
        }
        if let Some((accessed, modified)) = attributes.times {
            self.packet.put_u32(accessed);
            self.packet.put_u32(modified);
        }
        self
    }

    /// The last field of a WRITE.
    pub(crate) fn data(mut self, data: Bytes) -> Self {
        self.packet.put_u32(length(data.len()));
        self.data = data;
        self
    }

    pub(crate) fn finish(mut self, id: u32) -> Frame {
        let whole = length(self.packet.len() - 4 + self.data.len());
        self.fill(0..4, whole);
        self.fill(ID_AT, id);
        Frame {
            head: self.packet.freeze(),
            data: self.data,
        }
    }

    fn fill(&mut self, place: std::ops::Range<usize>, number: u32) {
        if let Some(bytes) = self.packet.get_mut(place) {
            bytes.copy_from_slice(&number.to_be_bytes());
        }
    }
}

/// INIT has the version where others have their id.
pub(crate) fn init() -> Bytes {
    Request::new(Kind::Init).finish(VERSION).head
}

/// What the server announced in VERSION: its version and the extensions with theirs.
pub(crate) fn parse_version(frame: Bytes) -> Result<(u32, Vec<(Bytes, Bytes)>), Malformed> {
    const VERSION_PACKET: u8 = 2;
    let mut fields = Fields::new(frame);
    let kind = fields.byte()?;
    if kind != VERSION_PACKET {
        return Err(Malformed::Kind(kind));
    }
    let version = fields.number()?;
    let mut extensions = Vec::new();
    while !fields.is_empty() {
        extensions.push((fields.string()?, fields.string()?));
    }
    Ok((version, extensions))
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Status { code: u32, message: String },
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Entry>),
    Attributes(Attributes),
    Extended(Bytes),
}

/// An answer that can't be understood; what follows it can't be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a packet that ends within a field")]
    Truncated,
    #[error("a packet of the unknown type {0}")]
    Kind(u8),
}

impl From<Truncated> for Malformed {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// The id and content of an answer.
pub(crate) fn parse(frame: Bytes) -> Result<(u32, Reply), Malformed> {
    /// The type byte and the id.
    const ANSWER_HEAD: usize = 5;
    let rest = frame.clone();
    let mut fields = Fields::new(frame);
    let kind = fields.byte()?;
    let id = fields.number()?;
    let reply = match kind {
        101 => Reply::Status {
            code: fields.number()?,
            // Servers of the first days send neither message nor language.
            message: fields.string().map_or_else(
                |_| String::new(),
                |text| String::from_utf8_lossy(&text).into_owned(),
            ),
        },
        102 => Reply::Handle(fields.string()?),
        103 => Reply::Data(fields.string()?),
        104 => Reply::Names(names(&mut fields)?),
        105 => Reply::Attributes(attributes(&mut fields)?),
        201 => return Ok((id, Reply::Extended(rest.slice(ANSWER_HEAD..)))),
        unknown => return Err(Malformed::Kind(unknown)),
    };
    Ok((id, reply))
}

fn names(fields: &mut Fields) -> Result<Vec<Entry>, Malformed> {
    let count = fields.number()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let name = fields.string()?;
        fields.string()?;
        let attributes = attributes(fields)?;
        entries.push(Entry { name, attributes });
    }
    Ok(entries)
}

fn attributes(fields: &mut Fields) -> Result<Attributes, Malformed> {
    let present = fields.number()?;
    let mut attributes = Attributes::default();
    if present & 0x1 != 0 {
        attributes.size = Some(fields.long()?);
    }
    if present & 0x2 != 0 {
        attributes.owner = Some((fields.number()?, fields.number()?));
    }
    if present & 0x4 != 0 {
        attributes.permissions = Some(fields.number()?);
    }
    if present & 0x8 != 0 {
        attributes.times = Some((fields.number()?, fields.number()?));
    }
    if present & 0x8000_0000 != 0 {
        for _ in 0..fields.number()? {
            fields.string()?;
            fields.string()?;
        }
    }
    Ok(attributes)
}

/// The answer to `statvfs@openssh.com`.
pub(crate) fn filesystem_status(payload: Bytes) -> Result<FilesystemStatus, Malformed> {
    let mut fields = Fields::new(payload);
    let mut next = || fields.long();
    Ok(FilesystemStatus {
        block_size: next()?,
        fragment_size: next()?,
        blocks: next()?,
        blocks_free: next()?,
        blocks_available: next()?,
        files: next()?,
        files_free: next()?,
        files_available: next()?,
        filesystem_id: next()?,
        flags: next()?,
        name_max: next()?,
    })
}

/// Longest packet, longest READ, longest WRITE and most open handles: the answer to `limits@openssh.com`.
pub(crate) fn limits(payload: Bytes) -> Result<(u64, u64, u64, u64), Malformed> {
    let mut fields = Fields::new(payload);
    let mut next = || fields.long();
    Ok((next()?, next()?, next()?, next()?))
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("no request comes near 4 GiB")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_write_is_its_head_and_its_data_under_one_length() {
        let frame = Request::new(Kind::Write)
            .string(b"\xff\x00")
            .long(7)
            .data("data".into())
            .finish(9);
        assert_eq!(
            frame.head,
            &b"\0\0\0\x1b\x06\0\0\0\x09\0\0\0\x02\xff\0\0\0\0\0\0\0\0\x07\0\0\0\x04"[..]
        );
        assert_eq!(frame.data, "data");
    }

    #[test]
    fn a_status_without_message_is_understood_and_one_without_code_is_not() {
        assert_eq!(
            parse(Bytes::from_static(b"\x65\0\0\0\x05\0\0\0\x02")),
            Ok((
                5,
                Reply::Status {
                    code: 2,
                    message: String::new()
                }
            ))
        );
        assert_eq!(
            parse(Bytes::from_static(b"\x65\0\0\0\x05")),
            Err(Malformed::Truncated)
        );
        assert_eq!(
            parse(Bytes::from_static(b"\x42\0\0\0\x05")),
            Err(Malformed::Kind(0x42))
        );
    }

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let full = Attributes {
            size: Some(1 << 40),
            owner: Some((1, 2)),
            permissions: Some(0o100_644),
            times: Some((3, 4)),
            is_interrupted: false,
            is_foreign: false,
        };
        for expected in [full, Attributes::default()] {
            let frame = Request::new(Kind::Init).attributes(&expected).finish(0);
            let mut answer = BytesMut::from(&b"\x69\0\0\0\x01"[..]);
            answer.put_slice(&frame.head[9..]);
            assert_eq!(parse(answer.freeze()), Ok((1, Reply::Attributes(expected))));
        }
    }

    proptest! {
        #[test]
        fn whatever_a_server_sends_is_an_answer_or_an_error(
            kind in prop_oneof![Just(2_u8), 101_u8..=105, Just(201)],
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut frame = vec![kind];
            frame.extend(rest);
            let _ = parse(frame.clone().into());
            let _ = parse_version(frame.into());
        }
    }
}
