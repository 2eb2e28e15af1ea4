//! TLS over a socket that is read in large pieces.
//!
//! rustls reads 4 KiB at a time, so that a record of 16 KiB, the usual size in a transfer, costs five system calls. Between the two
//! is a buffer that takes what the socket has.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
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
pub(in crate::backend::ftp) struct BufferedConnector(pub(super) TlsConnector);

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
            let stream = self.0.connect(name, socket).await;
            stream.map(BufferedTls).map_err(|error| refused(&error))
        })
    }
}

/// A protected connection to an FTP server.
#[derive(Debug)]
pub(in crate::backend::ftp) struct BufferedTls(TlsStream<BufReader<TcpStream>>);

impl TokioTlsStream for BufferedTls {
    type InnerStream = TlsStream<BufReader<TcpStream>>;

    fn tcp_stream(self) -> FtpResult<TcpStream> {
        Ok(self.0.into_inner().0.into_inner())
    }

    fn get_ref(&self) -> &TcpStream {
        self.0.get_ref().0.get_ref()
    }

    fn mut_ref(&mut self) -> &mut Self::InnerStream {
        &mut self.0
    }
}

impl AsyncRead for BufferedTls {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BufferedTls {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
