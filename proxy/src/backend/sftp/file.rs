//! Open files and directories on the server.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::{Bytes, BytesMut};

use super::{
    connection::{Answer, Connection, HandleSlot},
    fault::Fault,
    sweep,
    wire::{Kind, Reply, Request, flags},
};
use crate::{
    backend::staging::{self, StagingNames},
    operation::{Attributes, Outcome},
};

const OK: u32 = 0;
const EOF: u32 = 1;

/// An open file. It is closed on the server when dropped.
#[derive(Debug)]
pub(super) struct File {
    connection: Arc<Connection>,
    handle: Bytes,
    is_closed: AtomicBool,
    _slot: HandleSlot,
}

impl File {
    pub(super) async fn open(connection: Arc<Connection>, path: &[u8]) -> Result<Self, Fault> {
        Self::opened(connection, Self::asked_to_read(path)).await
    }

    /// The request that opens `path` for reading.
    pub(super) fn asked_to_read(path: &[u8]) -> Request {
        Request::new(Kind::Open)
            .string(path)
            .number(flags::READ)
            .attributes(&Attributes::default())
    }

    pub(super) async fn opened(
        connection: Arc<Connection>,
        request: Request,
    ) -> Result<Self, Fault> {
        Self::opening(connection, request)?.await
    }

    /// Queues the request before it returns; the future waits for the answer.
    pub(super) fn opening(
        connection: Arc<Connection>,
        request: Request,
    ) -> Result<impl Future<Output = Result<Self, Fault>>, Fault> {
        let slot = connection.take_handle()?;
        let answer = connection.send(request);
        Ok(async move {
            let reply = answer.reply().await?;
            if let Reply::Handle(handle) = reply {
                Ok(Self {
                    connection,
                    handle,
                    _slot: slot,
                    is_closed: AtomicBool::new(false),
                })
            } else {
                Err(refusal(reply))
            }
        })
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Queues a request about this file.
    pub(super) fn ask(&self, request: impl FnOnce(&Bytes) -> Request) -> Answer {
        self.connection.send(request(&self.handle))
    }

    pub(super) fn handle(&self) -> &Bytes {
        &self.handle
    }

    /// Reads a range, in as many requests as the server's limit wants, all in flight at once. What comes back may be
    /// shorter than asked for, as with any READ.
    pub(super) async fn read(&self, offset: u64, length: u32) -> Result<Outcome, Fault> {
        let most = self.connection.abilities.read;
        if length <= most {
            return Ok(
                match read_answer(self.ask_read(offset, length), length).await? {
                    Some(data) if !data.is_empty() => Outcome::Data(data),
                    Some(_) | None => Outcome::End,
                },
            );
        }
        let mut answers = Vec::new();
        let mut asked = 0;
        while asked < length {
            let part = (length - asked).min(most);
            answers.push((
                part,
                self.ask_read(offset.saturating_add(asked.into()), part),
            ));
            asked += part;
        }
        let mut whole = BytesMut::new();
        match self.gather(offset, answers, &mut whole).await {
            // What came before it is good; the client meets the failure with its next READ.
            Err(Fault::Answered { .. }) if !whole.is_empty() => {}
            gathered => gathered?,
        }
        Ok(if whole.is_empty() {
            Outcome::End
        } else {
            Outcome::Data(whole.freeze())
        })
    }

    fn ask_read(&self, offset: u64, length: u32) -> Answer {
        self.ask(|handle| {
            Request::new(Kind::Read)
                .string(handle)
                .long(offset)
                .number(length)
        })
    }

    /// Puts the parts of a range together, up to the end of the file.
    async fn gather(
        &self,
        offset: u64,
        answers: Vec<(u32, Answer)>,
        whole: &mut BytesMut,
    ) -> Result<(), Fault> {
        let mut missing = 0;
        for (part, answer) in answers {
            let Some(data) = read_answer(answer, part).await? else {
                return Ok(());
            };
            // The file goes on here, so the part before was short without being the last: some servers do that.
            while missing > 0 {
                let at = offset.saturating_add(whole.len() as u64);
                let asked = self.ask_read(at, missing);
                match read_answer(asked, missing).await? {
                    Some(more) if !more.is_empty() => {
                        missing -= u32::try_from(more.len()).unwrap_or(missing);
                        whole.extend_from_slice(&more);
                    }
                    Some(_) | None => return Ok(()),
                }
            }
            whole.extend_from_slice(&data);
            missing = part - u32::try_from(data.len()).unwrap_or(part);
        }
        Ok(())
    }

    pub(super) async fn close(&self) -> Result<(), Fault> {
        self.is_closed.store(true, Ordering::Relaxed);
        let asked = self.ask(|handle| Request::new(Kind::Close).string(handle));
        done(asked).await?;
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if !self.is_closed.load(Ordering::Relaxed) && self.connection.is_open() {
            drop(self.ask(|handle| Request::new(Kind::Close).string(handle)));
        }
    }
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    file: File,
    path: Vec<u8>,
    names: StagingNames,
}

impl Directory {
    pub(super) async fn open(
        connection: Arc<Connection>,
        path: Vec<u8>,
        names: StagingNames,
    ) -> Result<Self, Fault> {
        let request = Request::new(Kind::Opendir).string(&path);
        let file = File::opened(connection, request).await?;
        Ok(Self { file, path, names })
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        self.file.connection()
    }

    pub(super) fn ask(&self, request: impl FnOnce(&Bytes) -> Request) -> Answer {
        self.file.ask(request)
    }

    /// The next names, without `.`, `..`, uploads in progress, and what is no name at all: the server is not trusted to
    /// keep a slash out of one.
    pub(super) async fn next_names(&self) -> Result<Outcome, Fault> {
        loop {
            let asked = self.ask(|handle| Request::new(Kind::Readdir).string(handle));
            match asked.reply().await? {
                Reply::Names(mut names) => {
                    sweep::sweep(self.connection(), &self.names, &self.path, &names);
                    names.retain(|entry| is_name(&entry.name));
                    if !names.is_empty() {
                        return Ok(Outcome::Names(names));
                    }
                }
                Reply::Status { code: EOF, .. } => return Ok(Outcome::End),
                reply @ (Reply::Status { .. }
                | Reply::Handle(_)
                | Reply::Data(_)
                | Reply::Attributes(_)
                | Reply::Extended(_)) => return Err(refusal(reply)),
            }
        }
    }

    pub(super) async fn close(&self) -> Result<(), Fault> {
        self.file.close().await
    }
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && !name.contains(&b'/')
        && !name.contains(&0)
        && !staging::is_reserved(name)
}

/// The data of a READ of so many bytes; `None` at the end of the file.
async fn read_answer(asked: Answer, length: u32) -> Result<Option<Bytes>, Fault> {
    match asked.reply().await? {
        Reply::Data(data) if data.len() > length as usize => Err(Fault::WrongAnswer),
        Reply::Data(data) => Ok(Some(data)),
        Reply::Status { code: EOF, .. } => Ok(None),
        reply @ (Reply::Status { .. }
        | Reply::Handle(_)
        | Reply::Names(_)
        | Reply::Attributes(_)
        | Reply::Extended(_)) => Err(refusal(reply)),
    }
}

/// The answer to a request that is answered with a status.
pub(super) async fn done(asked: Answer) -> Result<Outcome, Fault> {
    let reply = asked.reply().await?;
    if let Reply::Status { code: OK, .. } = reply {
        Ok(Outcome::Done)
    } else {
        Err(refusal(reply))
    }
}

pub(super) async fn attributes(asked: Answer) -> Result<Attributes, Fault> {
    let reply = asked.reply().await?;
    if let Reply::Attributes(attributes) = reply {
        Ok(attributes)
    } else {
        Err(refusal(reply))
    }
}

/// What an answer means that is not the hoped-for one.
pub(super) fn refusal(reply: Reply) -> Fault {
    match reply {
        Reply::Status { code, message } if code != OK => Fault::Answered { code, message },
        Reply::Status { .. }
        | Reply::Handle(_)
        | Reply::Data(_)
        | Reply::Names(_)
        | Reply::Attributes(_)
        | Reply::Extended(_) => Fault::WrongAnswer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_not_smuggle_a_path_or_a_staging_file_into_a_listing() {
        for (name, expected) in [
            (&b"a"[..], true),
            (b"..a", true),
            (b"caf\xe9", true),
            (b"", false),
            (b".", false),
            (b"..", false),
            (b"../a", false),
            (b"a/b", false),
            (b"a\0", false),
            (b".portcullis-0123456789abcdef.part", false),
        ] {
            assert_eq!(is_name(name), expected, "{name:?}");
        }
    }
}
