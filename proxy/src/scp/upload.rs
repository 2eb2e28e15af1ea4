//! `scp -t`: the other side sends files and directories.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    Acknowledged, Broken, Dialogue, join,
    protocol::{self, MAX_DEPTH, Malformed, Record},
    sftp_client::{Pending, Refused},
};
use crate::{
    backend::sftp::wire::{Kind, Request, flags},
    operation::{Attributes, MAX_DATA},
    sftp::{Sink, Source},
};

/// WRITEs without an answer; each has up to [`MAX_DATA`] bytes.
const WINDOW: usize = 16;

/// A directory that is being received, or the target.
struct Level {
    path: Vec<u8>,
    /// False if the target names the file or directory itself.
    is_directory: bool,
    /// For the directory, once all in it is there.
    after: Option<Attributes>,
}

impl<R: Source, W: Sink> Dialogue<R, W> {
    pub(super) async fn receive(&mut self) -> Result<(), Broken> {
        let target = self.command.paths.first().cloned().unwrap_or_default();
        let found = self
            .sftp
            .attributes(Request::new(Kind::Stat).string(&target))
            .await?;
        let is_directory = found.is_ok_and(|attributes| attributes.is_directory());
        if self.command.into_directory && !is_directory {
            self.has_failed = true;
            return self
                .say(protocol::fatal("the target is not a directory"))
                .await;
        }
        let mut levels = vec![Level {
            path: target.to_vec(),
            is_directory,
            after: None,
        }];
        let mut times = None;
        self.acknowledge().await?;
        while let Some(line) = self.input.line().await? {
            match protocol::parse(&line)? {
                Record::Warning(_) => self.has_failed = true,
                Record::Fatal(_) => return Err(Broken::Gone),
                Record::Times { modified, accessed } => {
                    times = Some((accessed, modified));
                    self.acknowledge().await?;
                }
                Record::File { mode, size, name } => {
                    let path = place(&levels, &name);
                    let times = times.take();
                    if path.ends_with(b"/") {
                        self.warn(&path, "no such directory").await?;
                    } else {
                        self.receive_file(&path, mode, size, times).await?;
                    }
                }
                Record::Directory { mode, name } => {
                    if !self.command.recursive {
                        return Err(Malformed::NotRecursive.into());
                    }
                    if levels.len() > MAX_DEPTH {
                        return Err(Malformed::TooDeep.into());
                    }
                    let path = place(&levels, &name);
                    let times = times.take();
                    if self.make_directory(&path, mode).await? {
                        levels.push(Level {
                            path,
                            is_directory: true,
                            after: self.kept(mode, times),
                        });
                        self.acknowledge().await?;
                    }
                }
                Record::Up => {
                    if levels.len() == 1 {
                        return Err(Malformed::Up.into());
                    }
                    self.leave(levels.pop()).await?;
                }
            }
        }
        if levels.len() == 1 {
            Ok(())
        } else {
            Err(Malformed::Cut.into())
        }
    }

    /// What `-p` keeps.
    fn kept(&self, mode: u32, times: Option<(u32, u32)>) -> Option<Attributes> {
        self.command.preserve.then_some(Attributes {
            permissions: Some(mode),
            times,
            ..Attributes::default()
        })
    }

    async fn receive_file(
        &mut self,
        path: &[u8],
        mode: u32,
        size: u64,
        times: Option<(u32, u32)>,
    ) -> Result<(), Broken> {
        const TRUNCATE: u32 = 0x10;
        let created = Attributes {
            permissions: Some(mode & 0o777),
            ..Attributes::default()
        };
        let open = Request::new(Kind::Open)
            .string(path)
            .number(flags::WRITE | flags::CREATE | TRUNCATE)
            .attributes(&created);
        let handle = match self.sftp.handle(open).await? {
            Ok(handle) => handle,
            Err(refused) => return self.warn(path, &refused.message).await,
        };
        self.acknowledge().await?;
        let mut failure = self.receive_data(&handle, size).await?;
        // It couldn't read its file to the end, and has sent something else in place of the rest.
        let is_whole = self.acknowledged().await? == Acknowledged::Yes;
        if failure.is_none()
            && is_whole
            && let Some(kept) = self.kept(mode, times)
        {
            let set = Request::new(Kind::Fsetstat)
                .string(&handle)
                .attributes(&kept);
            failure = self.sftp.simple(set).await?.err();
        }
        if failure.is_none() && is_whole {
            let close = Request::new(Kind::Close).string(&handle);
            failure = self.sftp.simple(close).await?.err();
        }
        // What is not whole is not closed: it is withdrawn with the channel, and never has the file's name.
        match failure {
            Some(refused) => self.warn(path, &refused.message).await,
            None => self.acknowledge().await,
        }
    }

    /// Takes all of a file's bytes, also once they can't be written any more; the first failure.
    async fn receive_data(&mut self, handle: &Bytes, size: u64) -> Result<Option<Refused>, Broken> {
        let mut failure = None;
        let mut under_way: VecDeque<Pending> = VecDeque::new();
        let mut offset = 0;
        let mut gathered = BytesMut::new();
        let mut left = size;
        while left > 0 || !gathered.is_empty() {
            let room = MAX_DATA as usize - gathered.len();
            if left > 0 && room > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(room);
                let data = self.input.data(most).await?;
                left -= data.len() as u64;
                if failure.is_none() {
                    gathered.put(data);
                }
                continue;
            }
            let data = gathered.split().freeze();
            let length = data.len() as u64;
            let write = Request::new(Kind::Write)
                .string(handle)
                .long(offset)
                .data(data);
            offset += length;
            under_way.push_back(self.sftp.ask(write).await?);
            if under_way.len() >= WINDOW
                && let Some(oldest) = under_way.pop_front()
            {
                failure = self.sftp.done(oldest).await?.err();
            }
            if failure.is_some() {
                break;
            }
        }
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            left -= self.input.data(most).await?.len() as u64;
        }
        for pending in under_way {
            let ended = self.sftp.done(pending).await?;
            failure = failure.or(ended.err());
        }
        Ok(failure)
    }

    /// False if it is not there; the other side has been told and leaves its content out.
    async fn make_directory(&mut self, path: &[u8], mode: u32) -> Result<bool, Broken> {
        let found = self
            .sftp
            .attributes(Request::new(Kind::Stat).string(path))
            .await?;
        if let Ok(attributes) = found {
            if attributes.is_directory() {
                return Ok(true);
            }
            self.warn(path, "not a directory").await?;
            return Ok(false);
        }
        // Its owner has to be able to write what comes; -p sets the mode once that is done.
        let created = Attributes {
            permissions: Some(mode & 0o777 | 0o700),
            ..Attributes::default()
        };
        let mkdir = Request::new(Kind::Mkdir).string(path).attributes(&created);
        match self.sftp.simple(mkdir).await? {
            Ok(()) => Ok(true),
            Err(refused) => {
                self.warn(path, &refused.message).await?;
                Ok(false)
            }
        }
    }

    async fn leave(&mut self, level: Option<Level>) -> Result<(), Broken> {
        if let Some(Level {
            path,
            after: Some(after),
            ..
        }) = level
        {
            let set = Request::new(Kind::Setstat).string(&path).attributes(&after);
            if let Err(refused) = self.sftp.simple(set).await? {
                return self.warn(&path, &refused.message).await;
            }
        }
        self.acknowledge().await
    }
}

/// Where a file or directory goes.
fn place(levels: &[Level], name: &[u8]) -> Vec<u8> {
    match levels.last() {
        Some(level) if level.is_directory => join(&level.path, name),
        Some(level) => level.path.clone(),
        None => name.to_vec(),
    }
}
