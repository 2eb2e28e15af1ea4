//! `scp -O`: the old protocol of scp, carried out as SFTP.
//!
//! The other side's scp is told what a server's would tell it. What it wants is asked of an [SFTP channel](crate::sftp) of its
//! own, so that every file and directory goes through the same [gate](crate::gate), by the same permissions and with the same
//! records as if a client had asked by SFTP, and an upload appears under its name once it is whole.

pub mod command;
mod download;
mod input;
mod protocol;
#[cfg(any(test, fuzzing))]
pub(crate) use protocol::fuzz as fuzz_record;
mod sftp_client;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use self::{
    command::{Command, Direction},
    input::Input,
    protocol::Malformed,
    sftp_client::Client,
};
use crate::{
    gate::Gate,
    session::{Activity, Budget},
    sftp::{Ended, Sink, Source, serve_frames},
};

/// Why the dialogue can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Protocol(#[from] Malformed),
    /// The other side closed the channel, or said that it gives up.
    #[error("the other side is gone")]
    Gone,
    /// The SFTP channel ended: the session does.
    #[error("the session has ended")]
    Engine,
}

/// Serves one `scp` until it is done, the other side breaks off or breaks the protocol, or `cancel` is triggered. Returns its
/// exit status: 0 if all went well. When this resolves, what was not published is withdrawn and on record.
pub async fn serve<R, W>(
    command: Command,
    source: R,
    sink: W,
    gate: Arc<Gate>,
    activity: Activity,
    budget: Budget,
    cancel: CancellationToken,
) -> u32
where
    R: Source,
    W: Sink,
{
    let (requests, replies, sftp) = sftp_client::pipe();
    let engine = tokio::spawn(serve_frames(
        requests,
        replies,
        Arc::clone(&gate),
        activity,
        budget,
        cancel.clone(),
    ));
    let mut dialogue = Dialogue {
        command,
        input: Input::new(source),
        output: sink,
        sftp,
        has_failed: false,
    };
    let result = cancel
        .run_until_cancelled(dialogue.run())
        .await
        .unwrap_or(Err(Broken::Engine));
    if let Err(Broken::Protocol(malformed)) = result {
        gate.deny(
            "scp_protocol",
            &malformed.to_string(),
            serde_json::Map::new(),
        );
        let farewell = protocol::fatal(&malformed.to_string());
        // The other side may be gone already.
        let _ = cancel
            .run_until_cancelled(dialogue.output.send(farewell.into()))
            .await;
    }
    let failed = result.is_err() || dialogue.has_failed;
    // Without its client the engine ends, and withdraws what is still open.
    drop(dialogue);
    let ended = engine.await.unwrap_or(Ended::Internal);
    tracing::debug!(%ended, failed, "an scp ended");
    u32::from(failed)
}

/// Both sides of one scp: the other side's scp, and the SFTP channel.
struct Dialogue<R, W> {
    command: Command,
    input: Input<R>,
    output: W,
    sftp: Client,
    /// Something was not copied: the exit status says so.
    has_failed: bool,
}

/// What the other side says to a line or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acknowledged {
    Yes,
    /// It had an error, said so to its user, and goes on.
    No,
}

impl<R: Source, W: Sink> Dialogue<R, W> {
    async fn run(&mut self) -> Result<(), Broken> {
        self.sftp.greet().await?;
        match self.command.direction {
            Direction::Upload => self.receive().await,
            Direction::Download => self.send_all().await,
        }
    }

    async fn say(&mut self, bytes: impl Into<Bytes>) -> Result<(), Broken> {
        if self.output.send(bytes.into()).await {
            Ok(())
        } else {
            Err(Broken::Gone)
        }
    }

    async fn acknowledge(&mut self) -> Result<(), Broken> {
        self.say(&b"\0"[..]).await
    }

    /// Tells the other side's user what was not copied, and why.
    async fn warn(&mut self, about: &[u8], why: &str) -> Result<(), Broken> {
        self.has_failed = true;
        self.say(protocol::warning(about, why)).await
    }

    /// Waits for what the other side says to a line or a file.
    async fn acknowledged(&mut self) -> Result<Acknowledged, Broken> {
        match self.input.byte().await?.ok_or(Broken::Gone)? {
            0 => Ok(Acknowledged::Yes),
            1 => {
                self.input.line().await?;
                self.has_failed = true;
                Ok(Acknowledged::No)
            }
            2 => {
                self.input.line().await?;
                Err(Broken::Gone)
            }
            other => Err(Malformed::Acknowledgement(other).into()),
        }
    }
}

/// `name` below `directory`.
fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
