//! The `sftp` subsystem on a channel of the SSH library.

use russh::{Channel, server::Msg};
use tokio_util::sync::CancellationToken;

use crate::session::Session;

/// Closes the channel: the engine is not joined yet.
pub(super) async fn serve(channel: Channel<Msg>, session: Session, _cancel: CancellationToken) {
    tracing::error!(session = ?session.id, "the SFTP engine is missing");
    let _ = channel.close().await;
}
