//! A packet from a client, understood: filexfer-02 version 3 and the extensions that the gateway serves.
//!
//! Only the header of a WRITE is looked at; its data stays where the network put it. What can't be understood, or isn't
//! served, is [`Refused`] with what a record needs.

mod extensions;
mod fields;

use bytes::Bytes;

use self::fields::{access, within_range};
use super::framing::{Fields, Truncated};
use crate::{
    operation::{HandleId, MAX_DATA, Operation},
    path::PathError,
    status::Status,
};

pub use crate::extensions::Extensions;

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
    #[error("the extension is switched off; [sftp] extensions in the configuration switches it on")]
    DisabledExtension,
    #[error(
        "none of the digests that the client takes is computed here: sha256, sha384 and sha512 are"
    )]
    DigestAlgorithm,
    #[error("blocks of {size} bytes; the draft has 256 as the fewest")]
    BlockSize { size: u32 },
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
            Self::DigestAlgorithm => "digest_algorithm",
            Self::BlockSize { .. } => "block_size",
        }
    }

    /// What the client hears.
    pub fn status(&self) -> Status {
        match self {
            Self::Truncated
            | Self::TrailingBytes
            | Self::AttributeFlags { .. }
            | Self::Range
            | Self::BlockSize { .. }
            | Self::Path(PathError::Nul | PathError::TooLong | PathError::ComponentTooLong) => {
                Status::BadMessage
            }
            Self::Path(PathError::Reserved) => Status::PermissionDenied,
            Self::ForeignHome => Status::NoSuchFile,
            Self::Handle { .. } => Status::Failure,
            Self::UnknownType { .. }
            | Self::UnknownExtension
            | Self::DisabledExtension
            | Self::DigestAlgorithm => Status::OpUnsupported,
        }
    }
}

/// The length of a WRITE up to its data, for a handle of ours: type, id, handle, offset, length.
const WRITE_HEADER: usize = 1 + 4 + (4 + HandleId::WIRE_LENGTH) + 8 + 4;

/// Understands one packet. `new_handle` is the handle that an OPEN or OPENDIR gets, or that `check-file-name` opens for itself.
///
/// # Errors
/// If the packet is malformed, or asks for something that no policy could grant.
pub fn parse(
    frame: Bytes,
    new_handle: HandleId,
    extensions: Extensions,
) -> Result<Request, Refused> {
    let mut body = Body {
        fields: Fields::new(frame.clone()),
        name: "unknown",
        evidence: None,
        extensions,
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
    extensions: Extensions,
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
                within_range(offset, length.into())?;
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
                within_range(offset, data.len() as u64)?;
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
            kind::EXTENDED => return self.extended(new_handle),
            kind => return Err(Reason::UnknownType { kind }),
        })
    }
}

impl From<Truncated> for Reason {
    fn from(Truncated: Truncated) -> Self {
        Self::Truncated
    }
}

#[cfg(test)]
mod tests;
