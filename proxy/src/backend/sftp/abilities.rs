//! What the server can do beyond version 3, and how much at once: from what it announces.

use bytes::Bytes;

use super::wire::{self, Malformed};
use crate::{operation::MAX_DATA, sftp::framing::Fields};

/// What every server must take in a READ or WRITE (filexfer-02 section 3 allows packets of 34,000 bytes).
const DATA_WITHOUT_LIMITS: u32 = 32 * 1024;
/// The smallest READ or WRITE that is sent, whatever a server announces.
const SMALLEST_DATA: u32 = 1024;
/// What a packet holds beside its data: a handle of 256 bytes (filexfer-02 section 6.3), and the other fields.
const PACKET_HEAD: u32 = 1024;
/// From the 129th on, the handles of gesftpserver 2 are not valid, and its memory gets damaged.
const HANDLES_OF_GREEN_END: u64 = 128;

/// What the server can do beyond version 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) posix_rename: bool,
    pub(super) statvfs: bool,
    pub(super) fstatvfs: bool,
    pub(super) fsync: bool,
    pub(super) lsetstat: bool,
    pub(super) hardlink: bool,
    pub(super) copy_data: bool,
    /// It has to be asked for the limits below.
    pub(super) limits: bool,
    /// SYMLINK has its arguments as the draft wants it, and not in OpenSSH's order.
    pub(super) draft_symlink: bool,
    /// Most bytes of one READ.
    pub(super) read: u32,
    /// Most bytes of one WRITE.
    pub(super) write: u32,
    /// Most open handles; 0 if no limit is known.
    pub(super) handles: u64,
}

impl Abilities {
    /// From the names and values that came with the server's VERSION.
    pub(super) fn announced(extensions: &[(Bytes, Bytes)]) -> Self {
        let value = |name: &str| {
            extensions
                .iter()
                .find(|(announced, _)| announced == name.as_bytes())
                .map(|(_, value)| value)
        };
        let announces = |name: &str| value(name).is_some();
        Self {
            posix_rename: announces("posix-rename@openssh.com"),
            statvfs: announces("statvfs@openssh.com"),
            fstatvfs: announces("fstatvfs@openssh.com"),
            fsync: announces("fsync@openssh.com"),
            lsetstat: announces("lsetstat@openssh.com"),
            hardlink: announces("hardlink@openssh.com"),
            copy_data: announces("copy-data"),
            limits: announces("limits@openssh.com"),
            draft_symlink: value("symlink-order@rjk.greenend.org.uk")
                .is_some_and(|order| order == "linkpath-targetpath"),
            read: DATA_WITHOUT_LIMITS,
            write: DATA_WITHOUT_LIMITS,
            handles: if value("vendor-id").is_some_and(is_green_end) {
                HANDLES_OF_GREEN_END
            } else {
                0
            },
        }
    }

    /// Takes the answer to `limits@openssh.com`.
    pub(super) fn limit(&mut self, answer: Bytes) -> Result<(), Malformed> {
        let (packet, read, write, handles) = wire::limits(answer)?;
        self.read = usable_data(read, packet);
        self.write = usable_data(write, packet);
        self.handles = handles;
        Ok(())
    }
}

/// The value of `vendor-id` begins with the vendor's name (filexfer-13 section 5.4).
fn is_green_end(vendor: &Bytes) -> bool {
    Fields::new(vendor.clone())
        .string()
        .is_ok_and(|vendor| vendor == "Green End")
}

/// How much data to put in one READ or WRITE. 0 stands for "no limit that is known" (OpenSSH PROTOCOL section 4.8).
fn usable_data(limit: u64, packet: u64) -> u32 {
    let limit = match limit {
        0 => DATA_WITHOUT_LIMITS.into(),
        limit => limit,
    };
    let limit = match packet {
        0 => limit,
        packet => limit.min(packet.saturating_sub(PACKET_HEAD.into())),
    };
    u32::try_from(limit).map_or(MAX_DATA, |limit| limit.clamp(SMALLEST_DATA, MAX_DATA))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_cut_to_the_announced_limit_and_to_what_a_packet_holds() {
        for (limit, packet, expected) in [
            (0, 0, DATA_WITHOUT_LIMITS),
            (4096, 0, 4096),
            (4096, 34_000, 4096),
            (4096, 4096, 3072),
            (0, 4096, 3072),
            (0, 262_144, DATA_WITHOUT_LIMITS),
            (261_120, 262_144, 261_120),
            (u64::MAX, u64::MAX, MAX_DATA),
            (u64::MAX, 0, MAX_DATA),
            (1, 0, SMALLEST_DATA),
            (1, 1, SMALLEST_DATA),
        ] {
            assert_eq!(usable_data(limit, packet), expected, "{limit} {packet}");
        }
    }
}
