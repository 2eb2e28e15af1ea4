//! Callbacks of the SSH library, translated: authentication requests into [`Attempt`] calls, channels into SFTP or scp
//! sessions, and everything else into a refusal that is on record.
//!
//! What the library leaves to its user and is therefore done here: the list of methods that it is told is sent, not
//! enforced, so that every request reaches the [`Attempt`]; a request that no callback answers stays open for ever, so
//! that each is answered; a key that is offered proves nothing, so that only a verified signature counts.

mod channel;
mod enrolment;
mod login;

use std::{
    future::Future,
    sync::{Arc, atomic::AtomicBool},
};

use portcullis_journal::AppendError;
use russh::{
    Channel, ChannelId, ChannelOpenFailure, Pty,
    client::GexParams,
    kex::dh::groups::DhGroup,
    keys::Certificate,
    server::{self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Response, VerifiedPublicKey},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    algorithms,
    connection::{CloseReason, FAREWELL, Notice, Services},
    overheard::Overheard,
    record::Recorder,
    stream::Meter,
};
use crate::{
    auth::{Attempt, Secret, attempt::LookupError, totp},
    metrics,
    session::Session,
};

/// Channels that a connection may have open at once, as OpenSSH's `MaxSessions`.
const MAX_CHANNELS: usize = 10;
/// Refusals after which a client is not serious: OpenSSH with every forwarding configured makes fewer than ten.
const MAX_REFUSALS: usize = 64;
const SUBSYSTEM: &str = "sftp";

/// Why a callback ends the connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum HandlerError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("the connection can't be recorded")]
    Unrecorded(#[source] AppendError),
    #[error("the mounts and limits of the account can't be read")]
    Accounts(#[source] LookupError),
    #[error("there is no secret for an authenticator")]
    Randomness(#[source] totp::RandomnessError),
    #[error("the connection is being ended")]
    Ending,
}

/// The callbacks of one connection.
pub(super) struct Handler {
    pub(super) recorder: Arc<Recorder>,
    pub(super) attempt: Attempt,
    pub(super) services: Arc<Services>,
    /// To the task that owns the connection.
    pub(super) notices: mpsc::Sender<Notice>,
    /// Cancelled when the connection is cut.
    pub(super) cut: CancellationToken,
    /// Cancelled when channels must let go.
    pub(super) channels_end: CancellationToken,
    pub(super) channels: TaskTracker,
    /// Of the socket.
    pub(super) meter: Arc<Meter>,
    /// What the library tells its log alone.
    pub(super) overheard: Arc<Overheard>,
    /// To be set once a factor was shown.
    pub(super) proven: Arc<AtomicBool>,
    pub(super) state: State,
    pub(super) refusals: usize,
}

/// How far the connection is.
pub(super) enum State {
    Authenticating,
    /// Of a user who may enrol an authenticator and nothing else.
    Enrolling(enrolment::Terminal),
    Authenticated {
        session: Session,
        /// Channels on which the subsystem or scp was started.
        started: Vec<ChannelId>,
    },
    Ending,
}

impl Handler {
    /// Runs `work` unless the connection is cut meanwhile: the library can't be interrupted in a callback.
    async fn unless_cut<T>(
        cut: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> Result<T, HandlerError> {
        cut.run_until_cancelled(work)
            .await
            .ok_or(HandlerError::Ending)
    }

    /// False once the connection is authenticated or ending: what comes then is not looked at.
    fn may_try(&mut self) -> bool {
        self.count_refused();
        matches!(self.state, State::Authenticating) && !self.overheard.is_over()
    }

    /// Counts the requests that the library refused by itself.
    fn count_refused(&mut self) {
        if let Some(refused) = self.overheard.take_refused() {
            self.attempt
                .refused_elsewhere(&refused.user, refused.requests, refused.keys);
        }
    }

    /// The answer to a request that is not looked at.
    fn nothing(&self) -> Auth {
        self.overheard.decided();
        login::nothing()
    }

    fn end(&mut self, reason: CloseReason) {
        self.state = State::Ending;
        // Not waited for: where it does not fit, the connection's task is ending the connection already.
        let _ = self.notices.try_send(Notice::End(reason));
    }

    /// Puts a refusal on record. The record need not be durable before the answer: nothing was done.
    fn refuse(&mut self, request: &'static str, detail: &[u8]) {
        metrics::channel_refused(request);
        self.recorder.channel_refused(request, detail);
        self.refusals += 1;
        if self.refusals > MAX_REFUSALS {
            self.end(CloseReason::TooManyRefusals);
        }
    }

    async fn refuse_on_channel(
        &mut self,
        request: &'static str,
        detail: &[u8],
        channel: ChannelId,
        session: &mut server::Session,
    ) -> Result<(), HandlerError> {
        self.refuse(request, detail);
        session.channel_failure(channel)?;
        Ok(())
    }

    async fn refuse_open(
        &mut self,
        request: &'static str,
        detail: &[u8],
        reply: ChannelOpenHandle,
    ) -> Result<(), HandlerError> {
        self.refuse(request, detail);
        reply
            .reject(ChannelOpenFailure::AdministrativelyProhibited)
            .await;
        Ok(())
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.count_refused();
    }
}

impl server::Handler for Handler {
    type Error = HandlerError;

    /// The first callback after the key exchange: here the connection goes on record, or is refused.
    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        let opened = self.recorder.opened();
        Self::unless_cut(&self.cut, opened)
            .await?
            .map_err(HandlerError::Unrecorded)?;
        Ok(None)
    }

    async fn lookup_dh_gex_group(
        &mut self,
        wanted: &GexParams,
    ) -> Result<Option<DhGroup>, Self::Error> {
        Ok(algorithms::group(wanted))
    }

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        if !self.may_try() {
            return Ok(self.nothing());
        }
        let step = Self::unless_cut(&self.cut, self.attempt.none(user)).await?;
        self.answer("none", step).await
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        if !self.may_try() {
            return Ok(self.nothing());
        }
        let tried = self.attempt.password(user, Secret::from(password));
        let step = Self::unless_cut(&self.cut, tried).await?;
        self.answer("password", step).await
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        if !self.may_try() {
            return Ok(self.nothing());
        }
        let offered = self
            .attempt
            .public_key_offered(user, offer.algorithm, offer.public_key);
        let offered = Self::unless_cut(&self.cut, offered).await?;
        // The library may judge the signature next.
        self.overheard.attend();
        match offered {
            None => Ok(Auth::Accept),
            Some(step) => self.answer("publickey", step).await,
        }
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        if !self.may_try() {
            return Ok(self.nothing());
        }
        let verified = self
            .attempt
            .public_key_verified(user, key.algorithm, key.public_key);
        let step = Self::unless_cut(&self.cut, verified).await?;
        self.answer("publickey", step).await
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        if !self.may_try() {
            return Ok(self.nothing());
        }
        let verified = self.attempt.certificate_verified(user, certificate);
        let step = Self::unless_cut(&self.cut, verified).await?;
        self.answer("publickey", step).await
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let answers = response.map(|response| {
            response
                .map(|answer| Secret::from(answer.to_vec()))
                .collect()
        });
        if !self.may_try() {
            return Ok(self.nothing());
        }
        let asked = self.attempt.keyboard_interactive(user, answers);
        let step = Self::unless_cut(&self.cut, asked).await?;
        self.answer("keyboard-interactive", step).await
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        if let State::Enrolling(terminal) = &mut self.state {
            let Some(enrolment) = terminal.open(channel.id()) else {
                return self
                    .refuse_open("session", b"second channel of an enrolment", reply)
                    .await;
            };
            self.channels.spawn(enrolment::serve(
                channel,
                enrolment,
                Arc::clone(&self.meter),
                self.notices.clone(),
                self.channels_end.clone(),
            ));
            reply.accept().await;
            return Ok(());
        }
        let State::Authenticated { session, .. } = &self.state else {
            return Ok(());
        };
        if self.channels.len() >= MAX_CHANNELS {
            self.refuse("session", b"too many channels");
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let session = session.clone();
        let end = self.channels_end.clone();
        let meter = Arc::clone(&self.meter);
        self.channels
            .spawn(channel::serve(channel, session, meter, end));
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        if let State::Authenticated { started, .. } = &mut self.state
            && name == SUBSYSTEM
            && !started.contains(&channel)
        {
            started.push(channel);
            session.channel_success(channel)?;
            return Ok(());
        }
        self.refuse_on_channel("subsystem", name.as_bytes(), channel, session)
            .await
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        if let State::Authenticated { started, .. } = &mut self.state {
            started.retain(|&id| id != channel);
        }
        Ok(())
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        if let State::Enrolling(terminal) = &mut self.state
            && terminal.shell(channel)
        {
            session.channel_success(channel)?;
            return Ok(());
        }
        self.refuse_on_channel("shell", b"", channel, session).await
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        if let State::Authenticated {
            session: user,
            started,
        } = &mut self.state
            && !started.contains(&channel)
            && channel::scp_command(data, user.scp).is_some()
        {
            started.push(channel);
            session.channel_success(channel)?;
            return Ok(());
        }
        self.refuse_on_channel("exec", data, channel, session).await
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        if let State::Enrolling(terminal) = &mut self.state
            && terminal.pty(channel)
        {
            session.channel_success(channel)?;
            return Ok(());
        }
        self.refuse_on_channel("pty-req", term.as_bytes(), channel, session)
            .await
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        variable_name: &str,
        _variable_value: &str,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_on_channel("env", variable_name.as_bytes(), channel, session)
            .await
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _x11_auth_protocol: &str,
        _x11_auth_cookie: &str,
        _x11_screen_number: u32,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_on_channel("x11-req", b"", channel, session)
            .await
    }

    async fn agent_request(
        &mut self,
        _channel: ChannelId,
        _session: &mut server::Session,
    ) -> Result<bool, Self::Error> {
        self.refuse("auth-agent-req@openssh.com", b"");
        Ok(false)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        if let State::Enrolling(terminal) = &self.state
            && terminal.window_change(channel)
        {
            return Ok(());
        }
        self.refuse_on_channel("window-change", b"", channel, session)
            .await
    }

    async fn channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_open("x11", originator_address.as_bytes(), reply)
            .await
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        let target = format!("{host_to_connect}:{port_to_connect}");
        self.refuse_open("direct-tcpip", target.as_bytes(), reply)
            .await
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        let target = format!("{host_to_connect}:{port_to_connect}");
        self.refuse_open("forwarded-tcpip", target.as_bytes(), reply)
            .await
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_open(
            "direct-streamlocal@openssh.com",
            socket_path.as_bytes(),
            reply,
        )
        .await
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        _session: &mut server::Session,
    ) -> Result<bool, Self::Error> {
        let target = format!("{address}:{port}");
        self.refuse("tcpip-forward", target.as_bytes());
        Ok(false)
    }

    async fn streamlocal_forward(
        &mut self,
        socket_path: &str,
        _session: &mut server::Session,
    ) -> Result<bool, Self::Error> {
        self.refuse("streamlocal-forward@openssh.com", socket_path.as_bytes());
        Ok(false)
    }
}
