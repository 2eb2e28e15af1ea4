//! The task that writes replies: small ones together, file data without a copy.

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::Sink;
use crate::sftp::reply::Reply;

/// Bytes that are gathered before they are sent, the payload of a full SSH packet.
const GATHERED: usize = 32 * 1024;

/// A reply and what is freed once it is written.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) reply: Reply,
    pub(super) place: OwnedSemaphorePermit,
    pub(super) credit: Option<OwnedSemaphorePermit>,
}

/// Writes until all senders are gone or the sink takes nothing more.
pub(super) async fn write_replies(mut replies: mpsc::Receiver<Outgoing>, mut sink: impl Sink) {
    let mut gathered = BytesMut::new();
    let mut held = Vec::new();
    while let Some(first) = replies.recv().await {
        let mut next = Some(first);
        let mut data = Bytes::new();
        while let Some(outgoing) = next.take() {
            gathered.put(outgoing.reply.head);
            data = outgoing.reply.data;
            let room = GATHERED.saturating_sub(gathered.len()).min(data.len());
            gathered.put(data.split_to(room));
            held.push((outgoing.place, outgoing.credit));
            if data.is_empty() && gathered.len() < GATHERED {
                next = replies.try_recv().ok();
            }
        }
        if !sink.send(gathered.split().freeze()).await {
            return;
        }
        if !data.is_empty() && !sink.send(data).await {
            return;
        }
        held.clear();
    }
}
