//! A stream of syslog messages over TLS (RFC 5425), or in clear.
//!
//! Syslog has no acknowledgement. The kernel closes a connection whose peer has not acknowledged a byte for the length of the
//! deadline (TCP_USER_TIMEOUT): what was written that long ago on a connection that still stands has reached the
//! collector's host. Whether the collector read it there, nobody says.

use std::{io, time::Duration};

use rustls::{AlertDescription, CertificateError};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{Receipt, SendError};
use crate::sink::Tls;

/// Time on top of the deadline until the kernel has noticed.
const NOTICING: Duration = Duration::from_secs(1);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(in crate::sink) struct Stream {
    stream: Box<dyn Duplex>,
    address: String,
    limit: Duration,
}

impl Stream {
    pub(super) async fn open(
        host: &str,
        port: u16,
        tls: Option<&Tls>,
        limit: Duration,
    ) -> Result<Self, SendError> {
        let address = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let silent = |_| SendError::Silent {
            address: address.clone(),
            limit,
        };
        let tcp = timeout(limit, connect(host, port, &address))
            .await
            .map_err(silent)??;
        let milliseconds = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&tcp, milliseconds)
            .and_then(|()| rustix::net::sockopt::set_socket_keepalive(&tcp, true))
            .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(&tcp, limit))
            .and_then(|()| rustix::net::sockopt::set_tcp_nodelay(&tcp, true))
            .map_err(|error| SendError::Connect {
                address: address.clone(),
                source: error.into(),
            })?;
        let stream: Box<dyn Duplex> = match tls {
            None => Box::new(tcp),
            Some(Tls {
                config,
                server_name,
            }) => {
                let connector = TlsConnector::from(config.clone());
                let shaken = timeout(limit, connector.connect(server_name.clone(), tcp))
                    .await
                    .map_err(silent)?;
                Box::new(shaken.map_err(|error| judged(&address, error, true))?)
            }
        };
        Ok(Self {
            stream,
            address,
            limit,
        })
    }

    /// Writes all of it. The deadline is for each piece that the connection takes.
    pub(super) async fn send(&mut self, mut bytes: &[u8]) -> Result<Receipt, SendError> {
        while !bytes.is_empty() {
            let written = timeout(self.limit, self.stream.write(bytes))
                .await
                .map_err(|_| self.stalled())?
                .map_err(|error| judged(&self.address, error, false))?;
            if written == 0 {
                return Err(self.closed());
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        timeout(self.limit, self.stream.flush())
            .await
            .map_err(|_| self.stalled())?
            .map_err(|error| judged(&self.address, error, false))?;
        Ok(Receipt {
            settles_after: self.limit + NOTICING,
        })
    }

    pub(super) async fn check(&mut self) -> Result<(), SendError> {
        tokio::select! {
            biased;
            error = self.broken() => Err(error),
            () = std::future::ready(()) => Ok(()),
        }
    }

    /// A collector says nothing; what it says is not listened to.
    pub(super) async fn broken(&mut self) -> SendError {
        let mut unheard = [0; 512];
        loop {
            match self.stream.read(&mut unheard).await {
                Ok(0) => return self.closed(),
                Ok(_) => {}
                Err(error) => return judged(&self.address, error, false),
            }
        }
    }

    /// Says that this is the end. A collector that then ends its own side without a reset has read everything: unread bytes
    /// would make its kernel send one.
    pub(super) async fn finish(&mut self) -> Result<(), SendError> {
        timeout(self.limit, self.stream.shutdown())
            .await
            .map_err(|_| self.stalled())?
            .map_err(|error| judged(&self.address, error, false))?;
        let error = timeout(self.limit, self.broken())
            .await
            .map_err(|_| self.stalled())?;
        // The end of TLS may be missing, that of TCP is not.
        let is_end = matches!(&error, SendError::Closed { .. })
            || matches!(&error, SendError::Broken { source, .. }
                if source.kind() == io::ErrorKind::UnexpectedEof);
        if is_end { Ok(()) } else { Err(error) }
    }

    fn closed(&self) -> SendError {
        SendError::Closed {
            address: self.address.clone(),
        }
    }

    fn stalled(&self) -> SendError {
        SendError::Stalled {
            address: self.address.clone(),
            limit: self.limit,
        }
    }
}

pub(super) async fn connect(host: &str, port: u16, address: &str) -> Result<TcpStream, SendError> {
    let found = lookup_host((host, port))
        .await
        .map_err(|source| SendError::Resolve {
            host: host.to_owned(),
            source,
        })?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in found {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(SendError::Connect {
        address: address.to_owned(),
        source: last,
    })
}

/// What an error of TCP or TLS means.
pub(super) fn judged(address: &str, error: io::Error, is_handshake: bool) -> SendError {
    let address = address.to_owned();
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::InvalidCertificate(found)) = cause {
        return SendError::Certificate {
            address,
            reason: objection(found),
        };
    }
    if let Some(rustls::Error::AlertReceived(alert)) = cause
        && matches!(
            alert,
            AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
        )
    {
        return SendError::OwnCertificate {
            address,
            alert: format!("{alert:?}"),
        };
    }
    if is_handshake {
        SendError::Tls {
            address,
            source: error,
        }
    } else {
        SendError::Broken {
            address,
            source: error,
        }
    }
}

/// What is wrong with a certificate, in words.
pub(super) fn objection(found: &CertificateError) -> String {
    let known = [
        (
            // The second is that of an authority which only has the name of the right one.
            matches!(
                found,
                CertificateError::UnknownIssuer | CertificateError::BadSignature
            ),
            "no authority that is trusted here vouches for it; check ca_file",
        ),
        (
            matches!(found, CertificateError::ApplicationVerificationFailure),
            "it is not the one that is pinned; compare pinned_certificate_sha256",
        ),
        (
            matches!(
                found,
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ),
            "it has expired",
        ),
        (
            matches!(
                found,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            ),
            "it is for another name; check server_name",
        ),
    ];
    known
        .into_iter()
        .find_map(|(is, text)| is.then_some(text))
        .map_or_else(|| found.to_string(), str::to_owned)
}
