//! A channel before and after its subsystem or scp starts.

use std::sync::Arc;

use russh::{Channel, ChannelMsg, server::Msg};
use tokio_util::sync::CancellationToken;

use super::SUBSYSTEM;
use crate::{
    config::ScpMode,
    scp::{self, command::Command},
    session::Session,
    ssh::{stream::Meter, subsystem},
};

/// A channel from its opening to its end. Until the subsystem or scp starts its messages are taken and dropped: a full queue
/// would stop the whole connection.
pub(super) async fn serve(
    mut channel: Channel<Msg>,
    session: Session,
    meter: Arc<Meter>,
    end: CancellationToken,
) {
    loop {
        match end.run_until_cancelled(channel.wait()).await {
            Some(Some(ChannelMsg::RequestSubsystem { name, .. })) if name == SUBSYSTEM => {
                subsystem::serve(channel, session, meter, end).await;
                return;
            }
            Some(Some(ChannelMsg::Exec { command, .. })) => {
                if let Some(command) = scp_command(&command, session.scp) {
                    return subsystem::serve_scp(channel, command, session, meter, end).await;
                }
            }
            Some(Some(ChannelMsg::Close)) | Some(None) | None => return,
            Some(Some(_)) => {}
        }
    }
}

/// The scp that an exec request stands for, if it is one that is served.
pub(super) fn scp_command(command: &[u8], mode: ScpMode) -> Option<Command> {
    match mode {
        ScpMode::Serve => scp::command::parse(command).ok(),
        ScpMode::Refuse => None,
    }
}
