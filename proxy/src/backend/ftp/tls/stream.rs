//! TLS over a socket that is read in large pieces.
//!
//! rustls reads 4 KiB at a time, so that a record of 16 KiB, the usual size in a transfer, costs five system calls. Between the two
//! is a buffer that takes what the socket has.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use rustls_pki_types::ServerName;
use suppaftp::{
    FtpError, FtpResult,
    tokio::{AsyncTlsConnector, TokioTlsStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Bytes taken from a socket at once: four records.
const READ_AHEAD: usize = 64 * 1024;

/// Makes [`BufferedTls`] of the sockets of one control connection and of its transfers.
pub(in crate::backend::ftp) struct BufferedConnector {
    connector: TlsConnector,
    unended: Unended,
}

impl BufferedConnector {
    pub(super) fn new(connector: TlsConnector) -> Self {
        Self {
            connector,
            unended: Unended::default(),
        }
    }

    /// Of all that it connects.
    pub(in crate::backend::ftp) fn unended(&self) -> Unended {
        self.unended.clone()
    }
}

impl fmt::Debug for BufferedConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedConnector").finish_non_exhaustive()
    }
}

impl AsyncTlsConnector for BufferedConnector {
    type Stream = BufferedTls;

    fn connect<'connector, 'domain, 'handshake>(
        &'connector self,
        domain: &'domain str,
        socket: TcpStream,
    ) -> Pin<Box<dyn Future<Output = FtpResult<BufferedTls>> + Send + 'handshake>>
    where
        'connector: 'handshake,
        'domain: 'handshake,
        Self: 'handshake,
    {
        Box::pin(async move {
            let refused = |cause: &dyn fmt::Display| FtpError::SecureError(cause.to_string());
            let name = ServerName::try_from(domain.to_owned()).map_err(|error| refused(&error))?;
            let socket = BufReader::with_capacity(READ_AHEAD, socket);
            let stream = self.connector.connect(name, socket).await;
            let stream = stream.map_err(|error| refused(&error))?;
            Ok(BufferedTls {
                stream,
                is_written_to: false,
                unended: self.unended.clone(),
            })
        })
    }
}

/// Why what was written to the last transfer could not be ended as TLS wants it.
#[derive(Debug, Clone, Default)]
pub(in crate::backend::ftp) struct Unended(Arc<Mutex<Option<String>>>);

impl Unended {
    /// Once.
    pub(in crate::backend::ftp) fn take(&self) -> Option<String> {
        let mut why = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        why.take()
    }

    fn set(&self, error: &io::Error) {
        let mut why = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *why = Some(error.to_string());
    }
}

/// A protected connection to an FTP server. Its shutdown always succeeds, and [`Unended`] says if it did not: the FTP library would
/// lose the server's reply, which says why the server closed its side first.
#[derive(Debug)]
pub(in crate::backend::ftp) struct BufferedTls {
    stream: TlsStream<BufReader<TcpStream>>,
    is_written_to: bool,
    unended: Unended,
}

impl TokioTlsStream for BufferedTls {
    type InnerStream = TlsStream<BufReader<TcpStream>>;

    fn tcp_stream(self) -> FtpResult<TcpStream> {
        Ok(self.stream.into_inner().0.into_inner())
    }

    fn get_ref(&self) -> &TcpStream {
        self.stream.get_ref().0.get_ref()
    }

    fn mut_ref(&mut self) -> &mut Self::InnerStream {
        &mut self.stream
    }
}

impl AsyncRead for BufferedTls {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BufferedTls {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.is_written_to = true;
        Pin::new(&mut this.stream).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut_down = ready!(Pin::new(&mut this.stream).poll_shutdown(cx));
        if let Err(error) = shut_down
            && this.is_written_to
        {
            this.unended.set(&error);
        }
        Poll::Ready(Ok(()))
    }
}
