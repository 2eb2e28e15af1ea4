//! `scp -f`: the other side takes files and directories.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    Acknowledged, Broken, Dialogue, join,
    protocol::{self, MAX_DEPTH},
    sftp_client::{self, Pending},
};
use crate::{
    backend::sftp::wire::{Kind, Reply, Request, flags},
    operation::{Attributes, Entry, MAX_DATA},
    path::VirtualPath,
    sftp::{Sink, Source},
};

/// READs without an answer; each brings up to [`MAX_DATA`] bytes.
const WINDOW: usize = 8;
const DEFAULT_FILE_MODE: u32 = 0o644;
const DEFAULT_DIRECTORY_MODE: u32 = 0o755;

/// A directory that is being sent.
struct Level {
    path: Vec<u8>,
    handle: Bytes,
    /// Names that were listed and not sent yet.
    names: VecDeque<Entry>,
}

impl<R: Source, W: Sink> Dialogue<R, W> {
    pub(super) async fn send_all(&mut self) -> Result<(), Broken> {
        if self.acknowledged().await? == Acknowledged::No {
            return Err(Broken::Gone);
        }
        for path in self.command.paths.clone() {
            // As its own name counts what the path comes to.
            let name = VirtualPath::clean(&path)
                .ok()
                .and_then(|path| path.file_name().map(<[u8]>::to_vec))
                .unwrap_or_else(|| b".".to_vec());
            if let Some(level) = self.send_entry(&path, &name).await? {
                self.send_tree(level).await?;
            }
        }
        Ok(())
    }

    /// Sends a file, or begins a directory.
    async fn send_entry(&mut self, path: &[u8], name: &[u8]) -> Result<Option<Level>, Broken> {
        let found = self
            .sftp
            .attributes(Request::new(Kind::Stat).string(path))
            .await?;
        let attributes = match found {
            Ok(attributes) => attributes,
            Err(refused) => {
                self.warn(path, &refused.message).await?;
                return Ok(None);
            }
        };
        if attributes.is_directory() {
            if !self.command.recursive {
                self.warn(path, "not a regular file").await?;
                return Ok(None);
            }
            return self.begin_directory(path, name, &attributes).await;
        }
        self.send_file(path, name).await?;
        Ok(None)
    }

    /// Sends all below a directory that was begun, depth first.
    async fn send_tree(&mut self, root: Level) -> Result<(), Broken> {
        let mut levels = vec![root];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.names.pop_front() else {
                let handle = level.handle.clone();
                match self.sftp.names(&handle).await? {
                    Ok(names) if !names.is_empty() => {
                        level.names = names.into();
                        continue;
                    }
                    Ok(_) => {}
                    Err(refused) => {
                        let path = level.path.clone();
                        self.warn(&path, &refused.message).await?;
                    }
                }
                levels.pop();
                let close = Request::new(Kind::Close).string(&handle);
                // It was only read; that it is closed changes nothing for the other side.
                let _ = self.sftp.simple(close).await?;
                self.say(&b"E\n"[..]).await?;
                self.acknowledged().await?;
                continue;
            };
            if matches!(&entry.name[..], b"." | b"..") {
                continue;
            }
            let path = join(&level.path, &entry.name);
            if levels.len() >= MAX_DEPTH && entry.attributes.is_directory() {
                self.warn(&path, "too deep").await?;
            } else if let Some(level) = self.send_entry(&path, &entry.name).await? {
                levels.push(level);
            }
        }
        Ok(())
    }

    async fn begin_directory(
        &mut self,
        path: &[u8],
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<Option<Level>, Broken> {
        let opened = self
            .sftp
            .handle(Request::new(Kind::Opendir).string(path))
            .await?;
        let handle = match opened {
            Ok(handle) => handle,
            Err(refused) => {
                self.warn(path, &refused.message).await?;
                return Ok(None);
            }
        };
        let mode = attributes.permissions.unwrap_or(DEFAULT_DIRECTORY_MODE);
        if self.begin(b'D', mode, 0, name, attributes).await? == Acknowledged::No {
            self.sftp
                .simple(Request::new(Kind::Close).string(&handle))
                .await?
                .ok();
            return Ok(None);
        }
        Ok(Some(Level {
            path: path.to_vec(),
            handle,
            names: VecDeque::new(),
        }))
    }

    async fn send_file(&mut self, path: &[u8], name: &[u8]) -> Result<(), Broken> {
        let open = Request::new(Kind::Open)
            .string(path)
            .number(flags::READ)
            .attributes(&Attributes::default());
        let handle = match self.sftp.handle(open).await? {
            Ok(handle) => handle,
            Err(refused) => return self.warn(path, &refused.message).await,
        };
        // Of the file that is open, whatever has its name by now.
        let found = self
            .sftp
            .attributes(Request::new(Kind::Fstat).string(&handle))
            .await?;
        let sent = match found {
            Ok(attributes) => self.send_open_file(path, name, &handle, &attributes).await,
            Err(refused) => self.warn(path, &refused.message).await,
        };
        let close = Request::new(Kind::Close).string(&handle);
        if sent.is_ok() {
            let _ = self.sftp.simple(close).await?;
        }
        sent
    }

    async fn send_open_file(
        &mut self,
        path: &[u8],
        name: &[u8],
        handle: &Bytes,
        attributes: &Attributes,
    ) -> Result<(), Broken> {
        let mode = attributes.permissions.unwrap_or(DEFAULT_FILE_MODE);
        let Some(size) = attributes.size else {
            return self.warn(path, "its size is not known").await;
        };
        if self.begin(b'C', mode, size, name, attributes).await? == Acknowledged::No {
            return Ok(());
        }
        match self.send_data(handle, size).await? {
            None => self.acknowledge().await?,
            Some(why) => self.warn(path, &why).await?,
        }
        self.acknowledged().await?;
        Ok(())
    }

    /// The lines before a file or directory.
    async fn begin(
        &mut self,
        kind: u8,
        mode: u32,
        size: u64,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<Acknowledged, Broken> {
        if self.command.preserve
            && let Some((accessed, modified)) = attributes.times
        {
            self.say(protocol::times_line(modified, accessed)).await?;
            if self.acknowledged().await? == Acknowledged::No {
                return Ok(Acknowledged::No);
            }
        }
        self.say(protocol::entry_line(kind, mode, size, name))
            .await?;
        self.acknowledged().await
    }

    /// Sends exactly `size` bytes, as the protocol wants. What can't be read is zeros, and the text says why: the other
    /// side then knows that the file is not whole.
    async fn send_data(&mut self, handle: &Bytes, size: u64) -> Result<Option<String>, Broken> {
        let mut failure = None;
        let mut under_way: VecDeque<(u32, Pending)> = VecDeque::new();
        let mut asked = 0;
        let mut sent = 0;
        while sent < size {
            while under_way.len() < WINDOW && asked < size {
                let length = u32::try_from(size - asked)
                    .unwrap_or(u32::MAX)
                    .min(MAX_DATA);
                let pending = self.read(handle, asked, length).await?;
                under_way.push_back((length, pending));
                asked += u64::from(length);
            }
            let Some((length, pending)) = under_way.pop_front() else {
                break;
            };
            let reply = self.sftp.reply(pending).await?;
            let Reply::Data(data) = reply else {
                let refused = sftp_client::refused(reply)?;
                failure = Some(if refused.is_end {
                    "the file became shorter".to_owned()
                } else {
                    refused.message
                });
                break;
            };
            let brought = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let missing = length.checked_sub(brought).ok_or(Broken::Engine)?;
            sent += u64::from(brought);
            if missing > 0 {
                let pending = self.read(handle, sent, missing).await?;
                under_way.push_front((missing, pending));
            }
            self.say(data).await?;
        }
        for (_, pending) in under_way {
            self.sftp.reply(pending).await?;
        }
        if failure.is_some() {
            let zeros = Bytes::from_static(&[0; 32 * 1024]);
            while sent < size {
                let length = usize::try_from(size - sent)
                    .unwrap_or(usize::MAX)
                    .min(zeros.len());
                self.say(zeros.slice(..length)).await?;
                sent += length as u64;
            }
        }
        Ok(failure)
    }

    async fn read(&mut self, handle: &[u8], offset: u64, length: u32) -> Result<Pending, Broken> {
        let read = Request::new(Kind::Read)
            .string(handle)
            .long(offset)
            .number(length);
        self.sftp.ask(read).await
    }
}
