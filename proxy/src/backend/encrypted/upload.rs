//! A file that is being written. It is gathered first, since small files and changed ones are written in any order; one that
//! grows from its beginning on is encrypted as it comes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use portcullis_at_rest::{DataKey, EXTENT_PLAINTEXT, ExtentReaders, Head, Layout, Sealer, Spool};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::{Vault, fault::Fault};
use crate::{
    backend::staging::{Beginning, Landing, Progress},
    operation::{Access, Attributes, Stored},
    path::VirtualPath,
};

/// Most bytes of WRITEs that came before those in front of them.
const WINDOW: u64 = 2 << 20;

/// One open file.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) path: VirtualPath,
    pub(super) access: Access,
    pub(super) origin: Origin,
    body: Body,
    progress: Progress,
    /// Set on a file that is not open on the backend yet.
    pub(super) pending: Attributes,
    /// A WRITE failed: the file must not be published.
    pub(super) is_spoiled: bool,
    /// Of the new file, where a token is waited for.
    pub(super) minted: Option<(DataKey, Head)>,
    /// What is to be encrypted again before the bytes that it waits for.
    pub(super) rewinding: Option<Rewind>,
    /// Closed once that is done: nothing is answered before it, so that clients do not send more than the window takes.
    pub(super) rewound: Option<Arc<Semaphore>>,
    /// The backend can cut what an interrupted upload left.
    can_rewind: bool,
    /// Of what is gone on with and was begun under other keys: a rotation did not see it.
    pub(super) renewed: Option<Head>,
    limit: u64,
}

/// What the upload began with.
#[derive(Debug)]
pub(super) enum Origin {
    /// Nothing: it is open on the backend under the client's handle.
    Fresh,
    /// What an interrupted upload left, open likewise: so many bytes.
    Partial { stored: u64 },
    /// The content of a file, which is opened for writing when this is closed.
    Update {
        attributes: Attributes,
        /// Its first bytes, by which it is known again.
        beginning: Vec<u8>,
    },
}

#[derive(Debug)]
enum Body {
    Gathered {
        spool: Spool,
        /// Bytes without a gap from the beginning on.
        gapless: u64,
        /// What lies behind a gap: from, until.
        ahead: BTreeMap<u64, u64>,
    },
    Streamed(Box<Stream>),
}

#[derive(Debug)]
struct Stream {
    key: DataKey,
    sealer: Sealer,
    ahead: BTreeMap<u64, Bytes>,
    ahead_bytes: u64,
    outlet: Outlet,
}

/// Where the next stored bytes go.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    pub(super) offset: u64,
}

/// What lies between the beginning of an extent and the byte at which a client goes on within it.
#[derive(Debug)]
pub(super) struct Rewind {
    pub(super) readers: ExtentReaders,
    pub(super) from: u64,
    pub(super) until: u64,
    /// After which nobody goes on with what is there.
    pub(super) withdrawal: Piece,
}

/// A piece of the stored file.
pub(super) type Piece = (u64, Bytes);

impl Upload {
    pub(super) fn fresh(path: VirtualPath, access: Access, vault: &Vault) -> Result<Self, Fault> {
        Self::new(path, access, Origin::Fresh, vault, Beginning::Nothing)
    }

    pub(super) fn update(
        path: VirtualPath,
        access: Access,
        attributes: Attributes,
        beginning: Vec<u8>,
        vault: &Vault,
    ) -> Result<Self, Fault> {
        let origin = Origin::Update {
            attributes,
            beginning,
        };
        Self::new(path, access, origin, vault, Beginning::Copy)
    }

    /// Goes on with what an interrupted upload left in `stored` bytes, of which some whole extents are kept.
    pub(super) fn partial(
        path: VirtualPath,
        access: Access,
        (stored, head, key): (u64, Head, DataKey),
        can_rewind: bool,
        vault: &Vault,
    ) -> Result<Self, Fault> {
        let kept = Layout::whole_extents(stored);
        let stream = Stream::behind(key, head, kept);
        let origin = Origin::Partial { stored };
        let mut upload = Self::new(path, access, origin, vault, Beginning::Partial)?;
        upload.progress = Progress::new(Beginning::Partial, kept);
        upload.body = Body::Streamed(Box::new(stream));
        upload.can_rewind = can_rewind;
        Ok(upload)
    }

    fn new(
        path: VirtualPath,
        access: Access,
        origin: Origin,
        vault: &Vault,
        beginning: Beginning,
    ) -> Result<Self, Fault> {
        Ok(Self {
            path,
            access,
            origin,
            body: Body::Gathered {
                spool: Spool::new(&vault.spool_directory)?,
                gapless: 0,
                ahead: BTreeMap::new(),
            },
            progress: Progress::new(beginning, 0),
            pending: Attributes::default(),
            is_spoiled: false,
            minted: None,
            rewinding: None,
            rewound: None,
            can_rewind: false,
            renewed: None,
            limit: vault.update_limit,
        })
    }

    /// It is open for writing on the backend.
    pub(super) fn is_open_below(&self) -> bool {
        matches!(self.origin, Origin::Fresh | Origin::Partial { .. })
    }

    /// Bytes of plaintext so far.
    pub(super) fn length(&self) -> u64 {
        match &self.body {
            Body::Gathered { spool, .. } => spool.length(),
            Body::Streamed(stream) => stream.length(),
        }
    }

    /// Bytes of the stored file that the backend has.
    pub(super) fn stored(&self) -> u64 {
        match (&self.body, &self.origin) {
            (Body::Gathered { .. }, _) => 0,
            (Body::Streamed(_), Origin::Partial { stored }) if !self.is_touched() => *stored,
            (Body::Streamed(stream), _) => stream.outlet.offset,
        }
    }

    /// A WRITE behind a gap, after which nobody can go on with what is there. `None` if nothing is there.
    pub(super) fn withdrawal(&self) -> Option<Piece> {
        let stored = self.stored();
        (stored > 0).then(|| (stored + 1, Bytes::from_static(&[0])))
    }

    /// True once something was written or the size was set.
    pub(super) fn is_touched(&self) -> bool {
        self.progress.is_touched()
    }

    /// Puts bytes of the file that is changed in place.
    pub(super) fn load(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        if let Body::Gathered { spool, gapless, .. } = &mut self.body {
            spool.write(offset, data)?;
            *gapless = spool.length();
            self.progress = Progress::new(Beginning::Copy, *gapless);
        }
        Ok(())
    }

    pub(super) fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, Fault> {
        match &mut self.body {
            Body::Gathered { spool, .. } if self.access.read => {
                Ok(spool.read(offset, length as usize)?)
            }
            Body::Gathered { .. } | Body::Streamed(_) => Err(Fault::NotReadable),
        }
    }

    /// Takes a WRITE, and gives what is due to the backend.
    pub(super) fn write(
        &mut self,
        offset: u64,
        data: &Bytes,
        vault: &Vault,
    ) -> Result<Vec<Piece>, Fault> {
        let offset = if self.access.append {
            self.length()
        } else {
            offset
        };
        let written = self.take(offset, data, vault);
        self.is_spoiled |= written.is_err();
        written
    }

    fn take(&mut self, offset: u64, data: &Bytes, vault: &Vault) -> Result<Vec<Piece>, Fault> {
        let end = offset.saturating_add(data.len() as u64);
        let landing = self.progress.write(offset, data.len() as u64);
        match &mut self.body {
            Body::Streamed(stream) if landing == Landing::Cut(0) => {
                let (key, head) = mint(&mut self.minted, vault)?;
                **stream = Stream::new(key, head);
                self.renewed = None;
                let mut pieces = vec![stream.head()];
                pieces.extend(stream.write(offset, data)?);
                Ok(pieces)
            }
            Body::Streamed(stream) => {
                if let (Landing::Cut(_), Origin::Partial { stored }) = (landing, &self.origin)
                    && self.can_rewind
                {
                    let readers = stream.go_back(offset);
                    if stream.length() < offset {
                        self.rewound = Some(Arc::new(Semaphore::new(0)));
                        self.rewinding = Some(Rewind {
                            readers,
                            from: stream.length(),
                            until: offset,
                            withdrawal: (stored + 1, Bytes::from_static(&[0])),
                        });
                    }
                }
                stream.write(offset, data)
            }
            Body::Gathered {
                spool,
                gapless,
                ahead,
            } => {
                let is_next = matches!(self.origin, Origin::Fresh) && offset == *gapless;
                if end > self.limit && !(is_next && ahead.is_empty()) {
                    return Err(match self.origin {
                        Origin::Fresh | Origin::Partial { .. } => {
                            Fault::OutOfOrder { next: *gapless }
                        }
                        Origin::Update { .. } => Fault::TooLargeToUpdate(self.limit),
                    });
                }
                spool.write(offset, data)?;
                extend(gapless, ahead, offset, end);
                let is_whole = *gapless == spool.length();
                if !(matches!(self.origin, Origin::Fresh) && is_whole && end > Spool::MEMORY) {
                    return Ok(Vec::new());
                }
                self.stream(vault)
            }
        }
    }

    /// Encrypts bytes again that were there; at their end also those that wait for them.
    pub(super) fn seal_again(&mut self, data: Vec<u8>) -> Result<Vec<Piece>, Fault> {
        match &mut self.body {
            Body::Streamed(stream) => stream.write(stream.sealer.length(), &data.into()),
            Body::Gathered { .. } => Err(Fault::Spoiled),
        }
    }

    /// Encrypts what was gathered, and from now on what comes.
    fn stream(&mut self, vault: &Vault) -> Result<Vec<Piece>, Fault> {
        let Body::Gathered { spool, .. } = &mut self.body else {
            return Ok(Vec::new());
        };
        let (key, head) = mint(&mut self.minted, vault)?;
        let mut stream = Stream::new(key, head);
        let mut sent = vec![stream.head()];
        while stream.sealer.length() < spool.length() {
            let data = spool.read(stream.sealer.length(), CHUNK)?;
            sent.extend(stream.seal(&data)?);
        }
        self.body = Body::Streamed(Box::new(stream));
        Ok(sent)
    }

    pub(super) fn resize(&mut self, size: u64) -> Result<(), Fault> {
        let resized = match &mut self.body {
            Body::Streamed(stream) if size == stream.length() => Ok(()),
            Body::Streamed(stream) => Err(Fault::OutOfOrder {
                next: stream.length(),
            }),
            Body::Gathered { .. } if size > self.limit => Err(Fault::TooLargeToUpdate(self.limit)),
            Body::Gathered {
                spool,
                gapless,
                ahead,
            } => {
                self.progress.resize(size);
                ahead.clear();
                *gapless = size;
                spool.resize(size).map_err(Fault::from)
            }
        };
        self.is_spoiled |= resized.is_err();
        resized
    }

    /// The rest of the file. What is stored is read again if its digest is not known from elsewhere and it can be.
    pub(super) fn finish(mut self, vault: &Vault, can_read: bool) -> Result<Rest, Fault> {
        if self.is_spoiled {
            return Err(Fault::Spoiled);
        }
        Ok(match self.body {
            Body::Streamed(stream) => {
                let layout = Layout::of_plaintext(stream.length());
                let made = Stored {
                    object: stream.sealer.head().object(),
                    size: layout.plaintext(),
                };
                let readers =
                    || ExtentReaders::new(&stream.key, stream.sealer.head().clone(), layout);
                let is_read = can_read && self.progress.needs_reread(self.access);
                let stored = is_read.then(|| Box::new(readers()));
                let mut pieces = stream.finish()?;
                if let Some(head) = self.renewed {
                    pieces.push((0, Bytes::copy_from_slice(head.as_bytes())));
                }
                Rest::Pieces {
                    pieces,
                    made,
                    stored,
                }
            }
            Body::Gathered { spool, .. } => {
                let (key, head) = mint(&mut self.minted, vault)?;
                let made = Stored {
                    object: head.object(),
                    size: spool.length(),
                };
                let digest = self.progress.needs_reread(self.access).then(Sha256::new);
                Rest::Gathered(Box::new(Gathered {
                    spool,
                    made,
                    stream: Some(Stream::new(key, head)),
                    digest,
                    is_begun: false,
                }))
            }
        })
    }
}

/// A new file's key and head.
fn mint(minted: &mut Option<(DataKey, Head)>, vault: &Vault) -> Result<(DataKey, Head), Fault> {
    match minted.take() {
        Some(minted) => Ok(minted),
        None => Ok(vault.ring.create(&vault.realm)?),
    }
}

/// Bytes that are taken from a spool at once.
pub(super) const CHUNK: usize = 256 << 10;

/// What is left to be given to the backend at CLOSE.
pub(super) enum Rest {
    Pieces {
        pieces: Vec<Piece>,
        made: Stored,
        /// What reads the stored file again.
        stored: Option<Box<ExtentReaders>>,
    },
    Gathered(Box<Gathered>),
}

/// A gathered file, on its way.
pub(super) struct Gathered {
    spool: Spool,
    made: Stored,
    stream: Option<Stream>,
    digest: Option<Sha256>,
    is_begun: bool,
}

impl Gathered {
    /// The next pieces; empty after the last ones.
    pub(super) fn next(&mut self) -> Result<Vec<Piece>, Fault> {
        let Some(stream) = &mut self.stream else {
            return Ok(Vec::new());
        };
        let mut pieces = Vec::new();
        if !std::mem::replace(&mut self.is_begun, true) {
            pieces.push(stream.head());
        }
        // The head alone says nothing of the file, so that a file that fits is given at once.
        let data = self.spool.read(stream.sealer.length(), CHUNK)?;
        if let Some(digest) = &mut self.digest {
            digest.update(&data);
        }
        pieces.extend(stream.seal(&data)?);
        if stream.sealer.length() >= self.spool.length()
            && let Some(stream) = self.stream.take()
        {
            pieces.extend(stream.finish()?);
        }
        Ok(pieces)
    }

    pub(super) fn made(&self) -> Stored {
        self.made
    }

    /// The SHA-256 of the plaintext, where it is not known from elsewhere.
    pub(super) fn digest(self) -> Option<[u8; 32]> {
        self.digest.map(|digest| digest.finalize().into())
    }
}

impl Stream {
    fn new(key: DataKey, head: Head) -> Self {
        Self {
            sealer: Sealer::new(&key, head),
            key,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            outlet: Outlet::default(),
        }
    }

    /// Behind the extents that `kept` bytes of plaintext fill.
    fn behind(key: DataKey, head: Head, kept: u64) -> Self {
        Self {
            sealer: Sealer::from(&key, head, kept / EXTENT_PLAINTEXT),
            key,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            outlet: Outlet {
                offset: Layout::stored_extents(kept),
            },
        }
    }

    /// Goes back to the beginning of the extent that has the byte at `offset`. Gives what reads the extents so far.
    fn go_back(&mut self, offset: u64) -> ExtentReaders {
        let head = self.sealer.head().clone();
        let layout = Layout::of_plaintext(self.sealer.length());
        let readers = ExtentReaders::new(&self.key, head.clone(), layout);
        self.sealer = Sealer::from(&self.key, head, offset / EXTENT_PLAINTEXT);
        self.outlet.offset = Layout::stored_extents(offset);
        readers
    }

    fn length(&self) -> u64 {
        let ahead = self.ahead.last_key_value();
        let ahead = ahead.map(|(from, data)| from + data.len() as u64);
        ahead.unwrap_or(0).max(self.sealer.length())
    }

    fn head(&mut self) -> Piece {
        let head = Bytes::copy_from_slice(self.sealer.head().as_bytes());
        self.outlet.place(head)
    }

    fn write(&mut self, offset: u64, data: &Bytes) -> Result<Vec<Piece>, Fault> {
        let next = self.sealer.length();
        if offset != next {
            self.ahead_bytes += data.len() as u64;
            let is_early = offset > next && self.ahead_bytes <= WINDOW;
            if !is_early || self.ahead.insert(offset, data.clone()).is_some() {
                return Err(Fault::OutOfOrder { next });
            }
            return Ok(Vec::new());
        }
        let mut pieces = self.seal(data)?;
        while let Some(entry) = self.ahead.first_entry() {
            let next = self.sealer.length();
            if *entry.key() > next {
                break;
            }
            if *entry.key() < next {
                return Err(Fault::OutOfOrder { next });
            }
            let data = entry.remove();
            self.ahead_bytes -= data.len() as u64;
            pieces.extend(self.seal(&data)?);
        }
        Ok(pieces)
    }

    fn seal(&mut self, data: &[u8]) -> Result<Vec<Piece>, Fault> {
        let mut sealed = Vec::new();
        self.sealer.write(data, &mut sealed)?;
        Ok(self.outlet.place_all(sealed))
    }

    fn finish(mut self) -> Result<Vec<Piece>, Fault> {
        if !self.ahead.is_empty() {
            return Err(Fault::Gap(self.sealer.length()));
        }
        let mut sealed = Vec::new();
        self.sealer.finish(&mut sealed)?;
        Ok(self.outlet.place_all(sealed))
    }
}

impl Outlet {
    fn place(&mut self, data: Bytes) -> Piece {
        let offset = self.offset;
        self.offset += data.len() as u64;
        (offset, data)
    }

    pub(super) fn place_all(&mut self, sealed: Vec<Vec<u8>>) -> Vec<Piece> {
        sealed
            .into_iter()
            .map(|piece| self.place(piece.into()))
            .collect()
    }
}

/// Books that the bytes from `from` to `until` are there.
fn extend(gapless: &mut u64, ahead: &mut BTreeMap<u64, u64>, from: u64, until: u64) {
    let known = ahead.entry(from).or_insert(until);
    *known = until.max(*known);
    while let Some(entry) = ahead.first_entry() {
        if *entry.key() > *gapless {
            return;
        }
        *gapless = entry.remove().max(*gapless);
    }
}
