//! One connection to a directory, always within TLS.
//!
//! A [`Connection`] exists only over TLS with a certificate that was checked, and only it can bind: no password goes out
//! in clear, whatever a configuration or a peer says.

use std::{io, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    ber::{self, Malformed, Reader},
    message::{self, Entry, Response, ResultCode, Search},
};
use crate::auth::Secret;

/// Longest message that is taken, in bytes; an entry with a thousand groups has some 100 KiB.
const MESSAGE_MAX: usize = 1024 * 1024;

/// References to other servers that a search may come with; a forest has some of them.
const REFERENCES_MAX: usize = 64;

/// A directory server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapServer {
    /// Name or address, which its certificate must have.
    pub host: String,
    pub port: u16,
    /// TLS begins with StartTLS (RFC 4511 section 4.14), not with the first byte.
    pub start_tls: bool,
}

impl std::fmt::Display for LdapServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.start_tls { "ldap" } else { "ldaps" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Why a server can't be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("{host:?} can't be the name in a certificate")]
    Name { host: String },
    #[error("connect")]
    Connect(#[source] io::Error),
    #[error("send or receive")]
    Stream(#[source] io::Error),
    #[error("it refused StartTLS (result {0}); nothing is sent in clear")]
    StartTlsRefused(u32),
    #[error("it sent more than the answer to StartTLS in clear; somebody is on the way")]
    ClearTextAfterStartTls,
    #[error("TLS; does [auth.ldap] ca_file have the authority of its certificate?")]
    Tls(#[source] io::Error),
    #[error("a message of {bytes} bytes; {MESSAGE_MAX} are the limit")]
    Oversized { bytes: usize },
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("an answer that does not belong to the question")]
    Unexpected,
    #[error("more entries than were asked for")]
    TooManyEntries,
    #[error("an empty name or password is not sent")]
    Empty,
}

impl ConnectionError {
    /// True if there was no conversation, or it broke off; false if one answer in it was bad.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Name { .. }
            | Self::Connect(_)
            | Self::Stream(_)
            | Self::StartTlsRefused(_)
            | Self::ClearTextAfterStartTls
            | Self::Tls(_) => true,
            Self::Oversized { .. }
            | Self::Malformed(_)
            | Self::Unexpected
            | Self::TooManyEntries
            | Self::Empty => false,
        }
    }
}

/// A connection over TLS.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    last_id: u32,
}

/// What a search found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    pub(super) code: ResultCode,
}

impl Connection {
    pub(super) async fn open(
        server: &LdapServer,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, ConnectionError> {
        let name =
            ServerName::try_from(server.host.clone()).map_err(|_| ConnectionError::Name {
                host: server.host.clone(),
            })?;
        let mut stream = TcpStream::connect((server.host.as_str(), server.port))
            .await
            .map_err(ConnectionError::Connect)?;
        stream.set_nodelay(true).map_err(ConnectionError::Connect)?;
        let mut last_id = 0;
        if server.start_tls {
            last_id = 1;
            start_tls(&mut stream, last_id).await?;
        }
        let stream = TlsConnector::from(Arc::clone(tls))
            .connect(name, stream)
            .await
            .map_err(ConnectionError::Tls)?;
        Ok(Self { stream, last_id })
    }

    pub(super) async fn bind(
        &mut self,
        dn: &str,
        password: &Secret,
    ) -> Result<ResultCode, ConnectionError> {
        let id = self.next_id();
        let request = message::bind(id, dn, password).ok_or(ConnectionError::Empty)?;
        self.send(&request).await?;
        match self.receive(id).await? {
            Response::Bind(code) => Ok(code),
            Response::Extended(_)
            | Response::Entry(_)
            | Response::Reference
            | Response::SearchDone(_) => Err(ConnectionError::Unexpected),
        }
    }

    /// References to other servers are not followed: what lies there was not found.
    pub(super) async fn search(&mut self, search: &Search<'_>) -> Result<Found, ConnectionError> {
        let id = self.next_id();
        let request = message::search(id, search);
        self.send(&request).await?;
        let mut entries = Vec::new();
        let limit = usize::try_from(search.size_limit).unwrap_or(usize::MAX);
        let mut references = 0;
        loop {
            match self.receive(id).await? {
                Response::Entry(entry) if entries.len() < limit => entries.push(entry),
                // A server need not keep to the limit, and more of either is no answer to wait through.
                Response::Entry(_) => return Err(ConnectionError::TooManyEntries),
                Response::Reference if references < REFERENCES_MAX => references += 1,
                Response::Reference => return Err(ConnectionError::TooManyEntries),
                Response::SearchDone(code) => return Ok(Found { entries, code }),
                Response::Bind(_) | Response::Extended(_) => {
                    return Err(ConnectionError::Unexpected);
                }
            }
        }
    }

    /// Says goodbye; whether it arrives does not matter.
    pub(super) async fn close(mut self) {
        let id = self.next_id();
        if self.send(&message::unbind(id)).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }

    fn next_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), ConnectionError> {
        self.stream
            .write_all(request)
            .await
            .map_err(ConnectionError::Stream)?;
        self.stream.flush().await.map_err(ConnectionError::Stream)
    }

    async fn receive(&mut self, id: u32) -> Result<Response, ConnectionError> {
        receive(&mut self.stream, id).await
    }
}

/// Asks for TLS in clear. Nothing but the answer may have come before TLS begins.
async fn start_tls(stream: &mut TcpStream, id: u32) -> Result<(), ConnectionError> {
    stream
        .write_all(&message::start_tls(id))
        .await
        .map_err(ConnectionError::Stream)?;
    match receive(stream, id).await? {
        Response::Extended(ResultCode::SUCCESS) => {}
        Response::Extended(ResultCode(code)) => {
            return Err(ConnectionError::StartTlsRefused(code));
        }
        Response::Bind(_) | Response::Entry(_) | Response::Reference | Response::SearchDone(_) => {
            return Err(ConnectionError::Unexpected);
        }
    }
    // The client speaks first in TLS: bytes that are here already were sent in clear, to be taken for protected ones.
    let mut early = [0];
    match stream.try_read(&mut early) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Ok(0) => Err(ConnectionError::Stream(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => Err(ConnectionError::ClearTextAfterStartTls),
        Err(error) => Err(ConnectionError::Stream(error)),
    }
}

/// Reads one message, which has to have the number `id`. Takes not a byte more from the stream.
async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    id: u32,
) -> Result<Response, ConnectionError> {
    let mut bytes = Vec::new();
    let (header, length) = loop {
        // A header has at most six bytes; TLS holds what it decrypted, so single bytes cost little.
        let byte = stream.read_u8().await.map_err(ConnectionError::Stream)?;
        bytes.push(byte);
        if let Some(found) = ber::header(&bytes)? {
            break found;
        }
    };
    let whole = header.saturating_add(length);
    if whole > MESSAGE_MAX {
        return Err(ConnectionError::Oversized { bytes: whole });
    }
    // Grows with what comes, not with what is announced.
    let announced = u64::try_from(length).unwrap_or(u64::MAX);
    let read = stream
        .take(announced)
        .read_to_end(&mut bytes)
        .await
        .map_err(ConnectionError::Stream)?;
    if read < length {
        return Err(ConnectionError::Stream(io::ErrorKind::UnexpectedEof.into()));
    }
    let content = Reader::new(&bytes).expect(ber::SEQUENCE)?;
    let (found, response) = message::parse(content)?;
    if found == id {
        Ok(response)
    } else {
        Err(ConnectionError::Unexpected)
    }
}
