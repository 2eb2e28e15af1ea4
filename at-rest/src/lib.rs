//! Files as they lie on a backend: [FLOE](https://c2sp.org/FLOE) with AES-256-GCM under a key of their own, which is wrapped
//! to the gateway's key-encryption key and to an offline recipient for the day on which the gateway is gone.
//!
//! ```text
//! stored file = head (512 bytes) , extent, extent, ...
//! extent      = FLOE header (74 bytes), segments of up to 64 KiB of plaintext, each 32 bytes longer than that
//! ```
//!
//! An extent is a FLOE message of 16 MiB, and the last one is shorter, if need be empty: that is how a reader knows that
//! nothing was cut off. Each begins anew, so that an upload that was interrupted goes on with the next extent and never
//! encrypts a place twice. Where a byte lies follows from its offset alone, and the length of the plaintext from that of the stored
//! file ([`Layout`]).
//!
//! No runtime and no sockets: the gateway and the rescue program share it.

mod acl;
mod data_key;
pub mod escrow;
mod head;
pub mod kek;
pub mod key_file;
mod keyring;
mod layout;
pub mod names;
mod open;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod seal;
pub mod shares;
mod spool;
#[cfg(test)]
mod tests;

pub use self::{
    data_key::DataKey,
    head::{Head, HeadError, ObjectId, Realm},
    keyring::{Holder, Keyring, RewrapError, UnwrapError, WrapError},
    layout::{
        EXTENT_HEADER, EXTENT_PLAINTEXT, Layout, LayoutError, SEGMENT_PLAINTEXT, SegmentPlace,
    },
    open::{ExtentReader, ExtentReaders, OpenError},
    seal::{SealError, Sealer},
    spool::{Spool, SpoolError},
};
