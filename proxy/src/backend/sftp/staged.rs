//! Staging files on the server: how an upload gets one, and what interrupted uploads left.

use std::sync::Arc;

use super::{
    connection::{Answer, Connection},
    fault::Fault,
    file::{self, File},
    session::Session,
    upload::{resize, standing, with_mode},
    wire::{Kind, Request, flags},
};
use crate::{
    backend::staging::{self, Beginning, Claim, Progress, SessionNames, StagingName, shown_length},
    operation::{Access, Attributes},
    path::RelativePath,
};

/// SFTP has no code of its own for a file that exists already: version 3 says failure, and some servers say more.
const FAILURE: u32 = 4;
const FILE_ALREADY_EXISTS: u32 = 11;

/// One upload's staging file.
#[derive(Debug)]
pub(super) struct Staged {
    path: Vec<u8>,
    names: SessionNames,
    /// The last one is that of `path`. One given up stays ours: the server may not have heard of it yet.
    claims: Vec<Claim>,
    pub(super) fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// A later session may find it and go on.
    Resumable,
    Remove,
    /// It has its final name, or is removed.
    Published,
}

/// The answer that says whether an interrupted upload left something.
pub(super) struct Partial(Answer);

/// What stands under the name that an interrupted upload would have.
enum Left {
    Nothing,
    Found(Attributes),
    /// The server would not say, or another upload had the name when it could have been asked.
    Unknown,
}

impl Left {
    fn length(&self) -> Option<u64> {
        match self {
            Self::Found(attributes) => length(attributes),
            Self::Nothing | Self::Unknown => None,
        }
    }
}

impl Staged {
    /// Asks for what an interrupted upload to `target` left: this one goes on with it, or removes it.
    pub(super) fn look_for_partial(
        session: &Session,
        connection: &Connection,
        target: &RelativePath,
        path: &[u8],
    ) -> Option<Partial> {
        let name = session.names().interrupted(target)?;
        let request = Request::new(Kind::Lstat).string(&beside(path, name.as_bytes()));
        Some(Partial(connection.send(request)))
    }

    /// For a path where nothing stands: goes on with what an interrupted upload left, or begins anew.
    pub(super) async fn begin(
        session: &Session,
        connection: Arc<Connection>,
        target: &RelativePath,
        path: &[u8],
        access: Access,
        mode: u32,
        partial: Option<Partial>,
    ) -> Result<(File, Self, Progress), Fault> {
        let names = session.names();
        let fresh = Progress::new(Beginning::Nothing, 0);
        let claim = names
            .resumable(target)
            .and_then(|name| names.all().claim(name));
        let Some(claim) = staging::unless_missing(access, claim)? else {
            let (file, staged) =
                Self::begin_hidden(session, connection, path, access, mode).await?;
            return Ok((file, staged, fresh));
        };
        let staged = Self::new(names, path, claim, Fate::Resumable);
        let left = match partial {
            Some(Partial(asked)) => match standing(asked).await {
                Ok(found) => found.map_or(Left::Nothing, Left::Found),
                Err(Fault::Answered { .. }) => Left::Unknown,
                Err(fault) => return Err(fault),
            },
            None => Left::Unknown,
        };
        let partial = match left.length() {
            Some(length) if !access.truncate => staged
                .take_up(&connection, access, length)
                .await?
                .map(|file| (file, length)),
            Some(_) | None => None,
        };
        if let Some((file, length)) = staging::unless_missing(access, partial)? {
            return Ok((file, staged, Progress::new(Beginning::Partial, length)));
        }
        if !matches!(left, Left::Nothing) {
            // It must be gone before the new file is made: a server may do two requests in any order.
            let removed = connection.send(Request::new(Kind::Remove).string(&staged.path));
            match file::done(removed).await {
                Ok(_) | Err(Fault::Answered { .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        match staged.create(&connection, access, mode).await {
            Ok(file) => Ok((file, staged, fresh)),
            // What stands there can't be removed, so it is left alone.
            Err(Fault::Answered {
                code: FAILURE | FILE_ALREADY_EXISTS,
                ..
            }) => {
                let (file, staged) =
                    Self::begin_hidden(session, connection, path, access, mode).await?;
                Ok((file, staged, fresh))
            }
            Err(fault) => Err(fault),
        }
    }

    /// An empty staging file that nobody finds again.
    pub(super) async fn begin_hidden(
        session: &Session,
        connection: Arc<Connection>,
        path: &[u8],
        access: Access,
        mode: u32,
    ) -> Result<(File, Self), Fault> {
        let names = session.names();
        let claim = names
            .all()
            .claim_random()
            .map_err(|_| Fault::NoRandomness)?;
        let staged = Self::new(names, path, claim, Fate::Remove);
        let file = staged.create(&connection, access, mode).await?;
        Ok((file, staged))
    }

    fn new(names: &SessionNames, published: &[u8], claim: Claim, fate: Fate) -> Self {
        Self {
            path: beside(published, claim.name().as_bytes()),
            names: names.clone(),
            claims: vec![claim],
            fate,
        }
    }

    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// What keeps the staging file's names from being used by another upload.
    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<Claim>) {
        (self.path, self.claims)
    }

    async fn create(
        &self,
        connection: &Arc<Connection>,
        access: Access,
        mode: u32,
    ) -> Result<File, Fault> {
        let request = Request::new(Kind::Open)
            .string(&self.path)
            .number(open_flags(access) | flags::CREATE | flags::EXCLUSIVE)
            .attributes(&with_mode(mode));
        File::opened(connection.clone(), request).await
    }

    /// Opens what an interrupted upload left, cut to the length that its account was told. `None` if the server won't.
    async fn take_up(
        &self,
        connection: &Arc<Connection>,
        access: Access,
        length: u64,
    ) -> Result<Option<File>, Fault> {
        let request = Request::new(Kind::Open)
            .string(&self.path)
            .number(open_flags(access))
            .attributes(&Attributes::default());
        let taken_up = async {
            let file = File::opened(connection.clone(), request).await?;
            let cut = file.ask(|handle| resize(handle, length));
            let asked = file.ask(|handle| Request::new(Kind::Fstat).string(handle));
            file::done(cut).await?;
            let is_cut = file::attributes(asked).await?.size == Some(length);
            Ok(is_cut.then_some(file))
        };
        match taken_up.await {
            Err(Fault::Answered { .. }) => Ok(None),
            taken_up => taken_up,
        }
    }

    /// Gives the staging file a name under which no resume finds it, by the request that this returns; `None` if it has one.
    pub(super) fn hide(&mut self, published: &[u8]) -> Result<Option<Request>, Fault> {
        if self.fate != Fate::Resumable {
            return Ok(None);
        }
        let hidden = self
            .names
            .all()
            .claim_random()
            .map_err(|_| Fault::NoRandomness)?;
        let path = beside(published, hidden.name().as_bytes());
        let request = Request::new(Kind::Rename).string(&self.path).string(&path);
        self.path = path;
        self.claims.push(hidden);
        self.fate = Fate::Remove;
        Ok(Some(request))
    }
}

/// What its account is told of an interrupted upload, from what the server says of the staging file.
pub(super) fn shown(found: &Attributes) -> Option<Attributes> {
    Some(Attributes {
        size: Some(length(found)?),
        is_interrupted: true,
        ..found.clone()
    })
}

fn length(found: &Attributes) -> Option<u64> {
    let kind = found
        .permissions
        .map_or(0, |mode| mode & Attributes::TYPE_MASK);
    let is_file = matches!(kind, Attributes::REGULAR | 0);
    is_file.then(|| shown_length(found.size?)).flatten()
}

/// Appending is done by offsets, since a server that appends by itself would ignore them.
fn open_flags(access: Access) -> u32 {
    if access.read {
        flags::WRITE | flags::READ
    } else {
        flags::WRITE
    }
}

pub(super) fn beside(path: &[u8], name: &[u8]) -> Vec<u8> {
    let end = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    [path.get(..end).unwrap_or_default(), name].concat()
}

/// A staging file's name and age, if the listing's entry is one that has not been touched since `horizon`, in seconds since
/// 1970.
pub(super) fn stale(name: &[u8], attributes: &Attributes, horizon: u64) -> Option<StagingName> {
    let (_, modified) = attributes.times?;
    let is_stale = u64::from(modified) < horizon;
    is_stale.then(|| StagingName::parse(name)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_staging_file_stands_beside_the_final_name() {
        assert_eq!(beside(b"/in/a.csv", b"s"), b"/in/s");
        assert_eq!(beside(b"a.csv", b"s"), b"s");
        assert_eq!(beside(b"/a.csv", b"s"), b"/s");
    }

    #[test]
    fn only_an_old_staging_file_is_stale() {
        let at = |modified| Attributes {
            times: Some((u32::MAX, modified)),
            ..Attributes::default()
        };
        let staging = b".portcullis-0123456789abcdef.part";
        assert!(stale(staging, &at(99), 100).is_some());
        for (name, attributes) in [
            (&staging[..], at(100)),
            (staging, Attributes::default()),
            (b"a.csv", at(99)),
            (b".portcullis-notes", at(99)),
        ] {
            assert_eq!(stale(name, &attributes, 100), None);
        }
    }

    #[test]
    fn a_link_or_a_directory_under_a_staging_name_is_not_continued() {
        let found = |permissions| Attributes {
            size: Some(10),
            permissions,
            ..Attributes::default()
        };
        for permissions in [None, Some(0o644), Some(0o100_644)] {
            assert_eq!(shown(&found(permissions)).unwrap().size, Some(9));
        }
        for permissions in [0o120_777, 0o040_755] {
            assert_eq!(shown(&found(Some(permissions))), None);
        }
    }
}
