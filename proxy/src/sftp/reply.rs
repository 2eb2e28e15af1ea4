//! What goes back to the client: one total match from outcome to packet.

use bytes::{BufMut as _, Bytes, BytesMut};
use chrono::DateTime;

use super::request::Extensions;
use crate::{
    operation::{Attributes, Entry, HandleId, Outcome},
    path::RESERVED_PREFIX,
    status::Status,
};

/// Bytes of names in one packet; clients take [`MAX_PACKET`](crate::operation::MAX_PACKET).
const NAMES_BYTES: usize = 128 * 1024;
/// After this many seconds a listing shows the year in place of the hour.
const HALF_A_YEAR: i64 = 182 * 24 * 3600;

/// The extensions that are announced: those that are audited.
const EXTENSIONS: [(&str, &str); 11] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("home-directory", "1"),
    ("users-groups-by-id@openssh.com", "1"),
    ("check-file-handle", CHECK_FILE_ALGORITHMS),
    ("check-file-name", CHECK_FILE_ALGORITHMS),
];
/// The version field of both names, which no draft defines for version 3.
const CHECK_FILE_ALGORITHMS: &str = "sha256,sha384,sha512";

mod kind {
    pub(super) const VERSION: u8 = 2;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
    pub(super) const EXTENDED_REPLY: u8 = 201;
}

/// One packet for the client. File data follows its head without having been copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub head: Bytes,
    pub data: Bytes,
}

impl Reply {
    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        self.head.len() + self.data.len()
    }

    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.data.is_empty()
    }
}

/// The answer to INIT; `optional` are the extensions that the configuration switches on.
pub fn version(optional: Extensions) -> Reply {
    let mut packet = Packet::new(kind::VERSION);
    packet.0.put_u32(3);
    for (name, version) in EXTENSIONS.into_iter().chain(optional.announced()) {
        packet.string(name.as_bytes());
        packet.string(version.as_bytes());
    }
    packet.finish()
}

pub fn status(id: u32, status: Status) -> Reply {
    let mut packet = Packet::answer(kind::STATUS, id);
    packet.0.put_u32(status.code());
    packet.string(status.message().as_bytes());
    packet.string(b"en");
    packet.finish()
}

/// The answer to an operation that did not fail. `opened` is the handle of an OPEN or OPENDIR; `now`, in seconds since
/// 1970, decides how a listing shows times. Names that do not fit into one packet are left in `rest`.
pub fn outcome(
    id: u32,
    outcome: Outcome,
    opened: Option<HandleId>,
    now: i64,
    rest: &mut Vec<Entry>,
) -> Reply {
    match outcome {
        Outcome::Done | Outcome::Published { .. } | Outcome::Tended(_) => status(id, Status::Ok),
        Outcome::End => status(id, Status::Eof),
        Outcome::Opened => match opened {
            Some(handle) => {
                let mut packet = Packet::answer(kind::HANDLE, id);
                packet.string(&handle.to_wire());
                packet.finish()
            }
            // A backend that "opened" something on another request.
            None => status(id, Status::Failure),
        },
        Outcome::Data(data) => {
            let mut packet = Packet::answer(kind::DATA, id);
            packet.0.put_u32(length(data.len()));
            packet.finish_with(data)
        }
        Outcome::Names(entries) => names(id, entries, now, rest),
        Outcome::Attributes(attributes) => {
            let mut packet = Packet::answer(kind::ATTRS, id);
            packet.attributes(&attributes);
            packet.finish()
        }
        Outcome::Target(target) => name(id, &target),
        Outcome::Path(path) => name(id, path.as_bytes()),
        Outcome::FilesystemStatus(status) => {
            let mut packet = Packet::answer(kind::EXTENDED_REPLY, id);
            for field in [
                status.block_size,
                status.fragment_size,
                status.blocks,
                status.blocks_free,
                status.blocks_available,
                status.files,
                status.files_free,
                status.files_available,
                status.filesystem_id,
                status.flags,
                status.name_max,
            ] {
                packet.0.put_u64(field);
            }
            packet.finish()
        }
        Outcome::Limits {
            packet: whole,
            read,
            write,
            open_handles,
        } => {
            let mut packet = Packet::answer(kind::EXTENDED_REPLY, id);
            for field in [whole, read, write, open_handles] {
                packet.0.put_u64(field);
            }
            packet.finish()
        }
        Outcome::Digests { algorithm, digests } => {
            let mut packet = Packet::answer(kind::EXTENDED_REPLY, id);
            packet.string(b"check-file");
            packet.string(algorithm.name().as_bytes());
            packet.finish_with(digests)
        }
        Outcome::UsersGroups { users, groups } => {
            let mut packet = Packet::answer(kind::EXTENDED_REPLY, id);
            packet.list(&users);
            packet.list(&groups);
            packet.finish()
        }
    }
}

fn name(id: u32, name: &[u8]) -> Reply {
    let mut packet = Packet::answer(kind::NAME, id);
    packet.0.put_u32(1);
    packet.string(name);
    packet.string(name);
    packet.attributes(&Attributes::default());
    packet.finish()
}

fn names(id: u32, entries: Vec<Entry>, now: i64, rest: &mut Vec<Entry>) -> Reply {
    let mut packet = Packet::answer(kind::NAME, id);
    let count_at = packet.0.len();
    packet.0.put_u32(0);
    let mut count = 0_u32;
    let mut entries = entries.into_iter().filter(|entry| is_showable(&entry.name));
    while packet.0.len() < NAMES_BYTES {
        let Some(entry) = entries.next() else { break };
        packet.string(&entry.name);
        packet.string(&long_name(&entry, now));
        packet.attributes(&entry.attributes);
        count += 1;
    }
    rest.extend(entries);
    if count == 0 {
        // Clients take an empty packet for the end of the directory, and skip this name.
        packet.string(b".");
        packet.string(b".");
        packet.attributes(&Attributes::default());
        count = 1;
    }
    if let Some(place) = packet.0.get_mut(count_at..count_at + 4) {
        place.copy_from_slice(&count.to_be_bytes());
    }
    packet.finish()
}

/// A server upstream decides what its names are; one with a slash would let it write outside the client's directory.
fn is_showable(name: &[u8]) -> bool {
    !name.is_empty()
        && !name.contains(&b'/')
        && !name.contains(&0)
        && !name.starts_with(RESERVED_PREFIX)
}

/// A line of `ls -l`, in the columns that clients parse (filexfer-02 section 7).
fn long_name(entry: &Entry, now: i64) -> Vec<u8> {
    let attributes = &entry.attributes;
    let (user, group) = attributes.owner.unwrap_or_default();
    let modified = attributes
        .times
        .map_or(0, |(_, modified)| i64::from(modified));
    let format = if (now - modified).abs() > HALF_A_YEAR {
        "%b %e  %Y"
    } else {
        "%b %e %H:%M"
    };
    let date = DateTime::from_timestamp(modified, 0)
        .unwrap_or_default()
        .format(format);
    let mut line = format!(
        "{} {:>3} {user:<8} {group:<8} {:>8} {date} ",
        mode_string(attributes.permissions.unwrap_or_default()),
        1,
        attributes.size.unwrap_or_default(),
    )
    .into_bytes();
    line.extend_from_slice(&entry.name);
    line
}

fn mode_string(mode: u32) -> String {
    let kind = match mode & Attributes::TYPE_MASK {
        Attributes::DIRECTORY => 'd',
        Attributes::SYMLINK => 'l',
        0o010_000 => 'p',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::with_capacity(10);
    text.push(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A packet whose length is filled in at the end.
struct Packet(BytesMut);

impl Packet {
    fn new(kind: u8) -> Self {
        let mut bytes = BytesMut::with_capacity(64);
        bytes.put_u32(0);
        bytes.put_u8(kind);
        Self(bytes)
    }

    fn answer(kind: u8, id: u32) -> Self {
        let mut packet = Self::new(kind);
        packet.0.put_u32(id);
        packet
    }

    fn string(&mut self, bytes: &[u8]) {
        self.0.put_u32(length(bytes.len()));
        self.0.put_slice(bytes);
    }

    /// A string that holds strings.
    fn list(&mut self, strings: &[Bytes]) {
        let whole = strings.iter().map(|string| 4 + string.len()).sum();
        self.0.put_u32(length(whole));
        for string in strings {
            self.string(string);
        }
    }

    fn attributes(&mut self, attributes: &Attributes) {
        let flags = u32::from(attributes.size.is_some())
            | u32::from(attributes.owner.is_some()) << 1
            | u32::from(attributes.permissions.is_some()) << 2
            | u32::from(attributes.times.is_some()) << 3;
        self.0.put_u32(flags);
        if let Some(size) = attributes.size {
            self.0.put_u64(size);
        }
        if let Some((user, group)) = attributes.owner {
            self.0.put_u32(user);
            self.0.put_u32(group);
        }
        if let Some(permissions) = attributes.permissions {
            self.0.put_u32(permissions);
        }
        if let Some((accessed, modified)) = attributes.times {
            self.0.put_u32(accessed);
            self.0.put_u32(modified);
        }
    }

    fn finish(self) -> Reply {
        self.finish_with(Bytes::new())
    }

    fn finish_with(mut self, data: Bytes) -> Reply {
        let whole = length(self.0.len() - 4 + data.len());
        if let Some(place) = self.0.get_mut(..4) {
            place.copy_from_slice(&whole.to_be_bytes());
        }
        Reply {
            head: self.0.freeze(),
            data,
        }
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a packet is far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], permissions: u32, modified: u32) -> Entry {
        Entry {
            name: Bytes::copy_from_slice(name),
            attributes: Attributes {
                size: Some(1234),
                owner: Some((1000, 100)),
                permissions: Some(permissions),
                times: Some((0, modified)),
                is_interrupted: false,
                is_foreign: false,
            },
        }
    }

    #[test]
    fn a_long_name_is_a_line_of_ls() {
        let now = 1_800_000_000;
        let line = |entry: &Entry| String::from_utf8(long_name(entry, now)).unwrap();
        assert_eq!(
            line(&entry(b"a b", 0o100_644, 1_799_990_000)),
            "-rw-r--r--   1 1000     100          1234 Jan 15 05:13 a b"
        );
        assert_eq!(
            line(&entry(b"old", 0o041_777, 946_684_800)),
            "drwxrwxrwt   1 1000     100          1234 Jan  1  2000 old"
        );
        assert!(line(&entry(b"l", 0o120_777, 0)).starts_with("lrwxrwxrwx "));
        assert!(line(&entry(b"s", 0o104_711, 0)).starts_with("-rws--x--x "));
        assert!(line(&entry(b"S", 0o104_611, 0)).starts_with("-rwS--x--x "));
    }

    #[test]
    fn names_that_would_lead_a_client_elsewhere_are_not_shown() {
        let hostile: [&[u8]; 5] = [
            b"../../.ssh/authorized_keys",
            b"a/b",
            b"",
            b"a\0",
            b".portcullis-1",
        ];
        let mut entries: Vec<Entry> = hostile
            .iter()
            .map(|name| entry(name, 0o100_644, 0))
            .collect();
        let mut rest = Vec::new();
        let only_hostile = outcome(1, Outcome::Names(entries.clone()), None, 0, &mut rest);
        assert_eq!(only_hostile.head[4..13], [104, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(only_hostile.head[13..18], [0, 0, 0, 1, b'.']);
        entries.push(entry(b"fine", 0o100_644, 0));
        let mixed = outcome(1, Outcome::Names(entries), None, 0, &mut rest);
        assert_eq!(mixed.head[13..21], [0, 0, 0, 4, b'f', b'i', b'n', b'e']);
        assert!(rest.is_empty());
    }

    #[test]
    fn a_listing_that_is_longer_than_a_packet_is_cut_and_the_rest_is_kept() {
        let all: Vec<Entry> = (0..5000)
            .map(|number| entry(format!("{number:0200}").as_bytes(), 0o100_644, 0))
            .collect();
        let mut left = all.clone();
        let mut shown = 0;
        while !left.is_empty() {
            let mut rest = Vec::new();
            let reply = outcome(1, Outcome::Names(left), None, 0, &mut rest);
            assert!(reply.len() < NAMES_BYTES + 1024);
            shown += u32::from_be_bytes(reply.head[9..13].try_into().unwrap()) as usize;
            left = rest;
        }
        assert_eq!(shown, all.len());
    }

    #[test]
    fn the_length_of_a_packet_counts_the_data_that_follows() {
        let reply = outcome(9, Outcome::Data("12345".into()), None, 0, &mut Vec::new());
        assert_eq!(reply.head[..], [0, 0, 0, 14, 103, 0, 0, 0, 9, 0, 0, 0, 5]);
        assert_eq!(reply.data, "12345");
    }
}
