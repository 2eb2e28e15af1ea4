//! The `sftp` subsystem, and `scp`, on a channel of the SSH library.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, server::Msg};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::stream::Meter;
use crate::{
    gate::Gate,
    scp::{self, command::Command},
    session::Session,
    sftp::{Ended, Sink, Source, serve_frames},
};

/// How long the farewell may wait for the connection to take it.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(5);

/// Serves SFTP on `channel` until the client closes it, breaks the protocol, or `cancel` is triggered. What was open then is
/// withdrawn and on record when this returns.
pub(super) async fn serve(
    channel: Channel<Msg>,
    session: Session,
    meter: Arc<Meter>,
    cancel: CancellationToken,
) -> Ended {
    let (read, write) = channel.split();
    let write = Arc::new(write);
    let ended = serve_frames(
        ChannelSource {
            read,
            closed: false,
        },
        ChannelSink {
            write: Arc::clone(&write),
            meter,
        },
        Gate::new(&session),
        session.activity,
        session.budget,
        cancel,
    )
    .await;
    farewell(&write, u32::from(ended != Ended::ClosedByClient)).await;
    tracing::debug!(session = ?session.id, %ended, "an SFTP channel ended");
    ended
}

/// Serves `scp -t` or `scp -f` on `channel`, with the same ends as [`serve`].
pub(super) async fn serve_scp(
    channel: Channel<Msg>,
    command: Command,
    session: Session,
    meter: Arc<Meter>,
    cancel: CancellationToken,
) {
    let (read, write) = channel.split();
    let write = Arc::new(write);
    let status = scp::serve(
        command,
        ChannelSource {
            read,
            closed: false,
        },
        ChannelSink {
            write: Arc::clone(&write),
            meter,
        },
        Arc::new(Gate::new(&session)),
        session.activity,
        session.budget,
        cancel,
    )
    .await;
    farewell(&write, status).await;
}

async fn farewell(write: &ChannelWriteHalf<Msg>, status: u32) {
    let farewell = async {
        write.exit_status(status).await?;
        write.eof().await?;
        write.close().await
    };
    // The client may be gone already.
    let _ = timeout(FAREWELL_DEADLINE, farewell).await;
}

struct ChannelSource {
    read: ChannelReadHalf,
    closed: bool,
}

impl Source for ChannelSource {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some(message) = self.read.wait().await else {
                self.closed = true;
                return None;
            };
            if let ChannelMsg::Data { data } = message {
                if !data.is_empty() {
                    return Some(data);
                }
            } else if let ChannelMsg::Eof = message {
                return None;
            } else if let ChannelMsg::Close = message {
                self.closed = true;
                return None;
            }
        }
    }

    async fn gone(&mut self) {
        while !self.closed {
            self.closed = matches!(self.read.wait().await, None | Some(ChannelMsg::Close));
        }
    }
}

/// Sends while the socket keeps up: what the library holds beyond that would make it wait for the socket, and it reads
/// nothing meanwhile.
struct ChannelSink {
    write: Arc<ChannelWriteHalf<Msg>>,
    meter: Arc<Meter>,
}

impl Sink for ChannelSink {
    async fn send(&mut self, bytes: Bytes) -> bool {
        self.meter.has_room().await;
        self.write.data_bytes(bytes).await.is_ok()
    }
}
