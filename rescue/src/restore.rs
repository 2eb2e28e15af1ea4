//! One stored file: what it is, and its plaintext.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use aws_lc_rs::digest;
use portcullis_at_rest::{
    DataKey, EXTENT_HEADER, ExtentReader, ExtentReaders, Head, HeadError, Keyring, Layout, Realm,
    SEGMENT_PLAINTEXT, UnwrapError, escrow::Identity, names::Names,
};
use zeroize::Zeroizing;

/// What opens files.
pub(crate) struct Keys {
    pub(crate) identity: Option<Identity>,
    pub(crate) ring: Option<Keyring>,
    /// The backend whose files they have to be.
    pub(crate) realm: Option<Realm>,
}

/// Why a file gives no plaintext.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    NotAuthentic(String),
    #[error(
        "it was written by a newer version of the gateway; use that version's portcullis-rescue"
    )]
    Newer,
    #[error("{0}")]
    KeyMissing(String),
    #[error("it can't be read")]
    Read(#[source] io::Error),
    #[error("its plaintext can't be written")]
    Write(#[source] io::Error),
}

/// What was written.
pub(crate) struct Written {
    pub(crate) is_encrypted: bool,
    /// Of the plaintext.
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
}

impl Keys {
    /// The names of a backend, by the file with their key.
    pub(crate) fn names(&self, stored: &[u8]) -> Result<Names, Fault> {
        let head = match Head::parse(stored) {
            Err(HeadError::Newer(_)) => return Err(Fault::Newer),
            head => head.map_err(not_authentic)?,
        };
        let realm = self.realm.map(|realm| realm.of_names());
        let key = self.open(&head, realm)?;
        Names::read(&key, head, stored).map_err(not_authentic)
    }

    fn open(&self, head: &Head, realm: Option<Realm>) -> Result<DataKey, Fault> {
        if realm.is_some_and(|realm| realm != head.realm()) {
            return Err(not_authentic(HeadError::OtherRealm));
        }
        let by_escrow = self.identity.as_ref().and_then(|key| head.rescue(key));
        let by_kek = match (&by_escrow, &self.ring) {
            (Some(Ok(_)), _) | (_, None) => None,
            (_, Some(ring)) => match ring.unwrap(head, &head.realm()) {
                Err(UnwrapError::NoSuchKek(_)) => None,
                other => Some(other),
            },
        };
        match (by_escrow, by_kek) {
            (Some(Ok(key)), _) | (_, Some(Ok(key))) => Ok(key),
            (Some(Err(error)), _) => Err(not_authentic(error)),
            (None, Some(Err(error))) => Err(not_authentic(error)),
            (None, None) => Err(Fault::KeyMissing(self.missing(head))),
        }
    }

    fn missing(&self, head: &Head) -> String {
        let kek = head.kek();
        let mut text = match head.escrow() {
            None => {
                format!("its key is wrapped to the key-encryption key {kek}, and to no escrow key")
            }
            Some((id, _)) => format!(
                "its key is wrapped to the key-encryption key {kek} and to the escrow key {}",
                hex::encode(id)
            ),
        };
        if let Some(identity) = &self.identity {
            let given = hex::encode(identity.recipient().id());
            text.push_str(&format!(
                "; the shares are of the escrow key {given}: another set of keys"
            ));
        }
        text
    }
}

fn not_authentic(error: impl ToString) -> Fault {
    Fault::NotAuthentic(error.to_string())
}

/// Writes the plaintext of `source`, which has `size` bytes, to `target`, a segment at a time. If it fails, what is there must
/// be thrown away. `progress` hears of each step's bytes.
pub(crate) fn restore(
    source: &File,
    size: u64,
    target: &File,
    keys: &Keys,
    progress: &mut dyn FnMut(u64),
) -> Result<Written, Fault> {
    let mut beginning = [0; Head::LENGTH];
    let count = Head::LENGTH.min(usize::try_from(size).unwrap_or(usize::MAX));
    let beginning = beginning.get_mut(..count).unwrap_or_default();
    read(source, beginning, 0)?;
    let head = match Head::parse(beginning) {
        Ok(head) => head,
        Err(HeadError::Newer(_)) => return Err(Fault::Newer),
        Err(HeadError::Foreign) if !Head::resembles_one(beginning) => {
            return copy(source, size, target, progress);
        }
        Err(HeadError::Foreign) => {
            return Err(not_authentic("its beginning was changed"));
        }
        Err(error) => return Err(not_authentic(error)),
    };
    let key = keys.open(&head, keys.realm)?;
    let layout = Layout::of_stored(size).map_err(not_authentic)?;
    decrypt(
        source,
        target,
        &ExtentReaders::new(&key, head, layout),
        progress,
    )
}

fn decrypt(
    source: &File,
    target: &File,
    readers: &ExtentReaders,
    progress: &mut dyn FnMut(u64),
) -> Result<Written, Fault> {
    let layout = readers.layout();
    let mut digest = digest::Context::new(&digest::SHA256);
    let mut extent: Option<(u64, ExtentReader)> = None;
    let mut room = vec![0; layout_room()];
    let mut opened = Zeroizing::new(vec![0; SEGMENT_PLAINTEXT]);
    let mut offset = 0;
    loop {
        let place = layout.segment_at(offset);
        let reader = match extent.take() {
            Some((number, reader)) if number == place.extent => reader,
            Some(_) | None => {
                let mut header = [0; EXTENT_HEADER];
                read(source, &mut header, Layout::extent_header(place.extent))?;
                readers
                    .extent(place.extent, &header)
                    .map_err(not_authentic)?
            }
        };
        let stored = room.get_mut(..place.stored_length).unwrap_or_default();
        read(source, stored, place.stored_offset)?;
        let plaintext = opened.get_mut(..place.length).unwrap_or_default();
        reader
            .open(&place, stored, plaintext)
            .map_err(not_authentic)?;
        digest.update(plaintext);
        target
            .write_all_at(plaintext, offset)
            .map_err(Fault::Write)?;
        offset += plaintext.len() as u64;
        progress(plaintext.len() as u64);
        if place == layout.last_segment() {
            break;
        }
        extent = Some((place.extent, reader));
    }
    Ok(Written {
        is_encrypted: true,
        bytes: offset,
        sha256: finish(digest),
    })
}

/// Bytes of the longest segment.
fn layout_room() -> usize {
    let longest = Layout::of_plaintext(SEGMENT_PLAINTEXT as u64);
    longest.last_segment().stored_length
}

fn copy(
    source: &File,
    size: u64,
    target: &File,
    progress: &mut dyn FnMut(u64),
) -> Result<Written, Fault> {
    let mut digest = digest::Context::new(&digest::SHA256);
    let mut room = Zeroizing::new(vec![0; SEGMENT_PLAINTEXT]);
    let mut offset = 0;
    while offset < size {
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
        let piece = room
            .get_mut(..left.min(SEGMENT_PLAINTEXT))
            .unwrap_or_default();
        read(source, piece, offset)?;
        digest.update(piece);
        target.write_all_at(piece, offset).map_err(Fault::Write)?;
        offset += piece.len() as u64;
        progress(piece.len() as u64);
    }
    Ok(Written {
        is_encrypted: false,
        bytes: offset,
        sha256: finish(digest),
    })
}

fn read(source: &File, room: &mut [u8], at: u64) -> Result<(), Fault> {
    source.read_exact_at(room, at).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            not_authentic("it became shorter while it was read")
        } else {
            Fault::Read(error)
        }
    })
}

fn finish(context: digest::Context) -> [u8; 32] {
    let mut sha256 = [0; 32];
    for (to, from) in sha256.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    sha256
}
