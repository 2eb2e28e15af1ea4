//! What the layer itself can't do, or must not.

use std::sync::Arc;

use portcullis_at_rest::{
    HeadError, LayoutError, OpenError, RewrapError, SealError, SpoolError, UnwrapError, WrapError,
    kek::KekError,
};

use super::keys::TokenFault;
use crate::{
    backend::{BackendError, ErrorKind, Origin},
    causes::chain,
    path::VirtualPath,
};

/// Why a name could not be compared.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotTold(pub(super) String);

/// Why an operation on an encrypted file failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the file can't be opened")]
    Head(#[from] HeadError),
    #[error("the file can't be opened")]
    Unwrap(#[from] UnwrapError),
    #[error("the file can't be opened")]
    Layout(#[from] LayoutError),
    #[error(
        "another file lies under this name than the one that record {0} put there: it was moved or put back past the gateway; `portcullis-proxy verify` tells more"
    )]
    OtherFile(u64),
    #[error("which file belongs under this name can't be told")]
    NamesUnknown(#[source] NotTold),
    #[error("{0}")]
    Destroyed(Arc<str>),
    #[error("the file is not what was written")]
    Open(#[from] OpenError),
    #[error(
        "the file can't be opened: the server does not tell its size, without which nobody knows whether all of it is there"
    )]
    NoSize,
    #[error(
        "the backend gave {found} of {expected} bytes: the file was cut off, or changed while it was read"
    )]
    Short { expected: usize, found: usize },
    #[error(transparent)]
    Token(#[from] TokenFault),
    #[error("no key for the file")]
    Wrap(#[from] WrapError),
    #[error(
        "it is not what was uploaded: its SHA-256 is {}; it stays as it is",
        hex::encode(.0)
    )]
    OtherContent([u8; 32]),
    #[error("it looks like an encrypted file whose first bytes were damaged; it stays as it is")]
    Damaged,
    #[error("its owner can't be kept")]
    Owner(#[source] BackendError),
    #[error("its key can't be wrapped to another one")]
    Rewrap(#[from] RewrapError),
    #[error("the new head can't be kept on a disk of the gateway, so it is not written")]
    Pending(#[source] std::io::Error),
    #[error(
        "the head of {0:?} may be half written, since the server was lost or the gateway killed; that file comes first: ask again"
    )]
    Unsettled(VirtualPath),
    #[error(
        "a backend of this kind can't exchange the heads of its files; each is wrapped to the new key when it is uploaded again"
    )]
    NotInPlace,
    #[error("the upload is lost")]
    Seal(#[from] SealError),
    #[error("the upload is lost")]
    Spool(#[from] SpoolError),
    #[error(
        "an encrypted file of more than {0} bytes can't be changed or appended to: upload it as a whole, or raise update_limit_bytes"
    )]
    TooLargeToUpdate(u64),
    #[error(
        "the upload went on elsewhere than at byte {next}, and is too far on to be written in any order: write it from its beginning to its end"
    )]
    OutOfOrder { next: u64 },
    #[error("what was written is not readable before it is closed")]
    NotReadable,
    #[error("the upload lacks the bytes from {0} on")]
    Gap(u64),
    #[error("an earlier WRITE of the upload failed; it is not published")]
    Spoiled,
    #[error(
        "what an interrupted upload left can't be continued; remove it, or upload the file from its beginning"
    )]
    PartialLost(#[source] Box<Self>),
    #[error("it was begun under other keys, and a server of this kind can't exchange them")]
    OtherKeys,
    #[error("an interrupted upload left too little to go on with")]
    NothingLeft,
    #[error("too many uploads of the session failed; log in again")]
    TooManySpoiled,
    #[error("somebody else has changed the file meanwhile; the update is not published")]
    ChangedMeanwhile,
    #[error("the handle was not opened for this")]
    WrongHandle,
    #[error("the handle is not open")]
    NoSuchHandle,
}

impl From<Fault> for BackendError {
    fn from(fault: Fault) -> Self {
        let cause = if let Fault::PartialLost(cause) = &fault {
            cause
        } else {
            &fault
        };
        let (kind, origin) = match cause {
            Fault::Destroyed(_)
            | Fault::Unwrap(UnwrapError::Destroyed(_))
            | Fault::Wrap(WrapError::Destroyed(_))
            | Fault::Rewrap(
                RewrapError::Unwrap(UnwrapError::Destroyed(_))
                | RewrapError::Wrap(WrapError::Destroyed(_)),
            ) => (ErrorKind::Shredded, Origin::Gateway),
            Fault::Unwrap(
                UnwrapError::NoSuchKek(_)
                | UnwrapError::Kek(_, KekError::Token(_) | KekError::NoRandomness),
            )
            | Fault::Rewrap(_)
            | Fault::Token(_) => (ErrorKind::Failure, Origin::Gateway),
            Fault::Head(_)
            | Fault::Unwrap(_)
            | Fault::Layout(_)
            | Fault::OtherFile(_)
            | Fault::Open(_)
            | Fault::PartialLost(_)
            | Fault::OtherContent(_)
            | Fault::Damaged
            | Fault::Short { .. } => (ErrorKind::NotAuthentic, Origin::Backend),
            Fault::NothingLeft => (ErrorKind::NotFound, Origin::Backend),
            Fault::NoSize | Fault::NotInPlace | Fault::OtherKeys => {
                (ErrorKind::Unsupported, Origin::Backend)
            }
            Fault::NamesUnknown(_)
            | Fault::Wrap(_)
            | Fault::Pending(_)
            | Fault::Unsettled(_)
            | Fault::Owner(_)
            | Fault::Seal(_)
            | Fault::Spool(_) => (ErrorKind::Failure, Origin::Gateway),
            Fault::TooLargeToUpdate(_) | Fault::OutOfOrder { .. } | Fault::NotReadable => {
                (ErrorKind::Unsupported, Origin::Client)
            }
            Fault::Gap(_) | Fault::Spoiled | Fault::TooManySpoiled => {
                (ErrorKind::Failure, Origin::Client)
            }
            Fault::ChangedMeanwhile => (ErrorKind::Failure, Origin::Backend),
            Fault::WrongHandle | Fault::NoSuchHandle => (ErrorKind::InvalidHandle, Origin::Client),
        };
        Self::new(kind, origin, chain(&fault))
    }
}
