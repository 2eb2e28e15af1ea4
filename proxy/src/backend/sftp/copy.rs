//! Content that is already on the server: copied there or through the gateway, and read again for its digest.

use sha2::{Digest as _, Sha256};

use super::{
    connection::Connection,
    fault::Fault,
    file::{self, File},
    wire::{Kind, Request},
};
use crate::operation::{MAX_DATA, Outcome};

/// Bytes that a server copies before it must answer: within the shortest deadline even on a slow disk.
const SERVER_CHUNK: u64 = 16 << 20;
const NO_SUCH_OPERATION: u32 = 8;

/// Copies all of `from` to the empty file `to` and returns how many bytes that are: on the server if it can, else through the
/// gateway if they are at most `limit`.
pub(super) async fn copy(from: &File, to: &File, limit: u64) -> Result<u64, Fault> {
    let asked = from.ask(|handle| Request::new(Kind::Fstat).string(handle));
    let size = file::attributes(asked).await?.size.unwrap_or(0);
    if from.connection().abilities.copy_data {
        match copy_on_server(from, to, size).await {
            Err(Fault::Answered {
                code: NO_SUCH_OPERATION,
                ..
            }) => {}
            copied => return copied,
        }
    }
    if size > limit {
        return Err(Fault::TooLargeToCopy { size, limit });
    }
    copy_through_gateway(from, to, limit).await
}

/// `copy-data` (draft-ietf-secsh-filexfer-extensions-00 section 7).
async fn copy_on_server(from: &File, to: &File, size: u64) -> Result<u64, Fault> {
    let mut done = 0;
    while done < size {
        let length = SERVER_CHUNK.min(size - done);
        let asked = from.ask(|handle| {
            Request::extended("copy-data")
                .string(handle)
                .long(done)
                .long(length)
                .string(to.handle())
                .long(done)
        });
        file::done(asked).await?;
        done += length;
    }
    Ok(done)
}

async fn copy_through_gateway(from: &File, to: &File, limit: u64) -> Result<u64, Fault> {
    let most = to.connection().abilities.write as usize;
    let mut done = 0;
    while let Outcome::Data(mut data) = from.read(done, MAX_DATA).await? {
        let length = data.len() as u64;
        if done + length > limit {
            let size = done + length;
            return Err(Fault::TooLargeToCopy { size, limit });
        }
        let mut answers = Vec::new();
        let mut at = done;
        while !data.is_empty() {
            let part = data.split_to(data.len().min(most));
            let next = at + part.len() as u64;
            answers.push(
                to.ask(|handle| Request::new(Kind::Write).string(handle).long(at).data(part)),
            );
            at = next;
        }
        for answer in answers {
            file::done(answer).await?;
        }
        done += length;
    }
    Ok(done)
}

/// The SHA-256 of the file at `path`, which must have `expected` bytes if that is known. `None` if the server does not let it
/// be read.
pub(super) async fn digest(
    connection: &std::sync::Arc<Connection>,
    path: &[u8],
    expected: Option<u64>,
) -> Result<Option<[u8; 32]>, Fault> {
    let file = match File::open(connection.clone(), path).await {
        Err(Fault::Answered { code, message }) => {
            tracing::warn!(
                path = %String::from_utf8_lossy(path), code, message,
                "an upload can't be read again for its digest"
            );
            return Ok(None);
        }
        file => file?,
    };
    let mut digest = Sha256::new();
    let mut length = 0;
    while let Outcome::Data(data) = file.read(length, 4 * MAX_DATA).await? {
        digest.update(&data);
        length += data.len() as u64;
    }
    file.close().await?;
    match expected {
        Some(expected) if expected != length => Err(Fault::OtherLength { expected, length }),
        Some(_) | None => Ok(Some(digest.finalize().into())),
    }
}
