//! Connections that a named load balancer forwards: who its client is comes before the client's first byte.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{io::AsyncReadExt as _, net::TcpStream, time};

use crate::proxy_protocol::{Header, HeaderError, Parsed, parse};

/// A load balancer sends the header with its first packet.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// Why a forwarded connection is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the PROXY header did not come within {DEADLINE:?}")]
    TooSlow,
    #[error("read the PROXY header")]
    Socket(#[from] io::Error),
}

impl ForwardError {
    /// The code in records and metrics.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Header(error) => error.code(),
            Self::TooSlow => "proxy_header_timeout",
            Self::Socket(_) => "proxy_header_missing",
        }
    }
}

/// Reads the header, and not a byte of what follows. `None`: the peer speaks for itself.
pub(super) async fn client(
    socket: &mut TcpStream,
) -> Result<Option<(SocketAddr, SocketAddr)>, ForwardError> {
    let header = time::timeout(DEADLINE, read(socket))
        .await
        .map_err(|_| ForwardError::TooSlow)??;
    Ok(match header {
        Header::Proxied {
            source,
            destination,
        } => Some((source, destination)),
        Header::Local => None,
    })
}

async fn read(socket: &mut TcpStream) -> Result<Header, ForwardError> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes)? {
            Parsed::Complete(header) => return Ok(header),
            Parsed::Needs(more) => {
                let begun = bytes.len();
                bytes.resize(begun + more, 0);
                let target = bytes.get_mut(begun..).unwrap_or_default();
                let read = socket.read(target).await?;
                if read == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                bytes.truncate(begun + read);
            }
        }
    }
}
