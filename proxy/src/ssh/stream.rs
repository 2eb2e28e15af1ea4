//! The socket as the SSH library sees it: read ahead, write without waiting, and cut at any moment.
//!
//! The library reads nothing while it waits for a write, so that two peers which both write would wait for each other
//! for ever. What does not fit into the socket is therefore kept here, and sent on whenever the library reads.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{negotiation::Tap, overheard::Overheard, unsent::Unsent};

/// Bytes read at once: without it each packet costs two system calls.
const READ_AHEAD: usize = 64 * 1024;
/// Most bytes that wait for the socket. The library reads nothing while it waits for more room, so that channels begin no
/// message above [`FULL`]: what they have begun, one reply of 255 KiB each and a few messages in the library's queue, fits.
const WRITE_BUFFER: usize = 8 * 1024 * 1024;
/// Bytes that wait for the socket from which on channels send nothing new.
const FULL: usize = 1024 * 1024;
/// Bytes that wait for the socket at which they go on.
const ROOM: usize = FULL / 2;

/// Bytes on the wire so far, in each direction.
#[derive(Debug, Default)]
pub(super) struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
    /// Whether more waits for the socket than channels may add to.
    is_full: watch::Sender<bool>,
}

impl Meter {
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Resolves once the socket has taken enough of what waits, or is gone.
    pub(super) async fn has_room(&self) {
        if *self.is_full.borrow() {
            // It can't be closed: this has it.
            let _ = self.is_full.subscribe().wait_for(|is_full| !is_full).await;
        }
    }
}

/// A connection's socket.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
    /// What was read ahead is `ahead[taken..filled]`.
    ahead: Vec<u8>,
    taken: usize,
    filled: usize,
    unsent: Unsent,
    tap: Option<Box<Tap>>,
    meter: Arc<Meter>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Of a client's connection.
    overheard: Option<Arc<Overheard>>,
}

impl Stream {
    /// Once `cut` is cancelled, each read and write fails, also one that waits.
    pub(super) fn new(
        socket: TcpStream,
        tap: Tap,
        meter: Arc<Meter>,
        cut: CancellationToken,
    ) -> Self {
        Self {
            socket,
            ahead: Vec::new(),
            taken: 0,
            filled: 0,
            unsent: Unsent::default(),
            tap: Some(Box::new(tap)),
            meter,
            cut: Box::pin(cut.cancelled_owned()),
            overheard: None,
        }
    }

    /// What the library logs while it works on this socket is about the connection of `overheard`.
    pub(super) fn overheard_by(mut self, overheard: Arc<Overheard>) -> Self {
        self.overheard = Some(overheard);
        self
    }

    /// The gateway's own connection to a server.
    pub(crate) fn to_server(socket: TcpStream, cut: CancellationToken) -> Self {
        let mut stream = Self::new(socket, Tap::default(), Arc::default(), cut);
        stream.tap = None;
        stream
    }

    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(overheard) = &self.overheard {
            overheard.attend();
        }
        if self.cut.as_mut().poll(cx).is_ready() {
            Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the gateway ended the connection",
            ))
        } else {
            Ok(())
        }
    }

    /// Sends what waits, as far as the socket takes it. Ready once nothing waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, self.unsent.front()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.count_sent(sent);
            self.unsent.advance(sent);
            self.tell_channels();
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the channels whether they may send.
    fn tell_channels(&self) {
        let unsent = self.unsent.len();
        self.meter.is_full.send_if_modified(|is_full| {
            let before = *is_full;
            *is_full = unsent > if before { ROOM } else { FULL };
            *is_full != before
        });
    }

    fn count_sent(&self, sent: usize) {
        let sent = u64::try_from(sent).unwrap_or(u64::MAX);
        self.meter.sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// Reads ahead. Ready with nothing in `ahead` means that the peer sends no more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            self.ahead = vec![0; READ_AHEAD];
        }
        let mut target = ReadBuf::new(&mut self.ahead);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut target))?;
        let length = target.filled().len();
        self.taken = 0;
        self.filled = length;
        let counted = u64::try_from(length).unwrap_or(u64::MAX);
        self.meter.received.fetch_add(counted, Ordering::Relaxed);
        if let (Some(tap), Some(bytes)) = (&mut self.tap, self.ahead.get(..length))
            && !tap.received(bytes)
        {
            self.tap = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    /// A channel that waits for room must find out that the connection is gone.
    fn drop(&mut self) {
        self.meter.is_full.send_replace(false);
        if let Some(overheard) = &self.overheard {
            overheard.leave();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_cut(cx)?;
        if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        if this.taken == this.filled {
            ready!(this.poll_fill(cx))?;
        }
        let available = this.ahead.get(this.taken..this.filled).unwrap_or_default();
        let length = available.len().min(buf.remaining());
        buf.put_slice(available.get(..length).unwrap_or_default());
        this.taken += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_cut(cx)?;
        let mut accepted = 0;
        if this.unsent.is_empty() {
            if let Poll::Ready(sent) = Pin::new(&mut this.socket).poll_write(cx, buf) {
                accepted = sent?;
                this.count_sent(accepted);
            }
        } else if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        let rest = buf.get(accepted..).unwrap_or_default();
        let kept = rest
            .len()
            .min(WRITE_BUFFER - this.unsent.len().min(WRITE_BUFFER));
        this.unsent.extend(rest.get(..kept).unwrap_or_default());
        if kept > 0 {
            this.tell_channels();
        }
        accepted += kept;
        if accepted == 0 && !buf.is_empty() {
            return Poll::Pending;
        }
        if let (Some(tap), Some(bytes)) = (&mut this.tap, buf.get(..accepted))
            && !tap.sent(bytes)
        {
            this.tap = None;
        }
        Poll::Ready(Ok(accepted))
    }

    /// Does not wait for the socket: what remains is sent whenever the library reads.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_cut(cx)?;
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_cut(cx)?;
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    async fn pair() -> (Stream, TcpStream, CancellationToken, Arc<Meter>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let cut = CancellationToken::new();
        let meter = Arc::new(Meter::default());
        let (socket, _) = accepted.unwrap();
        let stream = Stream::new(socket, Tap::default(), Arc::clone(&meter), cut.clone());
        (stream, client.unwrap(), cut, meter)
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(10), future).await.unwrap()
    }

    #[tokio::test]
    async fn a_write_does_not_wait_for_a_peer_that_writes_too() {
        let (mut stream, mut client, _cut, meter) = pair().await;
        let sent = vec![1_u8; WRITE_BUFFER];
        soon(async {
            stream.write_all(&sent).await.unwrap();
            stream.flush().await.unwrap();
        })
        .await;
        let upload = vec![2_u8; 1024 * 1024];
        let (mut client_read, mut client_write) = client.split();
        let (_, (), received) = soon(async {
            tokio::join!(
                client_write.write_all(&upload),
                async {
                    let mut buffer = vec![0; upload.len()];
                    stream.read_exact(&mut buffer).await.unwrap();
                    assert!(buffer == upload);
                    stream.shutdown().await.unwrap();
                },
                async {
                    let mut received = Vec::new();
                    client_read.read_to_end(&mut received).await.unwrap();
                    received
                }
            )
        })
        .await;
        assert!(received == sent, "every byte arrived in order");
        assert_eq!(meter.sent(), u64::try_from(sent.len()).unwrap());
        assert_eq!(meter.received(), u64::try_from(upload.len()).unwrap());
    }

    #[tokio::test]
    async fn the_write_buffer_is_bounded() {
        let (mut stream, _client, _cut, _) = pair().await;
        let block = vec![0_u8; 1024 * 1024];
        let mut total = 0;
        // The socket's own buffers take some megabytes more.
        while let Ok(written) = timeout(Duration::from_millis(200), stream.write(&block)).await {
            total += written.unwrap();
            assert!(
                total < 64 * 1024 * 1024,
                "a peer that does not read is waited for"
            );
        }
        assert!(stream.unsent.len() <= WRITE_BUFFER);
    }

    #[tokio::test]
    async fn channels_wait_for_room_until_the_peer_reads_or_the_connection_ends() {
        let (mut stream, mut client, _cut, meter) = pair().await;
        soon(meter.has_room()).await;
        let mut written = 0;
        while stream.unsent.len() <= FULL {
            written += soon(stream.write(&[3; 64 * 1024])).await.unwrap();
        }
        let waits = timeout(Duration::from_millis(50), meter.has_room()).await;
        assert!(waits.is_err(), "there is no room before the peer reads");
        let reading = tokio::spawn(async move {
            let mut received = vec![0; written];
            client.read_exact(&mut received).await.unwrap();
            client
        });
        // The library reads all the time; that is what sends on.
        soon(async {
            tokio::select! {
                read = stream.read_u8() => panic!("the peer sends nothing: {read:?}"),
                () = meter.has_room() => {}
            }
        })
        .await;
        assert!(stream.unsent.len() <= ROOM);
        let _client = soon(async {
            tokio::select! {
                read = stream.read_u8() => panic!("the peer sends nothing: {read:?}"),
                client = reading => client.unwrap(),
            }
        })
        .await;

        while stream.unsent.len() <= FULL {
            soon(stream.write(&[3; 64 * 1024])).await.unwrap();
        }
        drop(stream);
        soon(meter.has_room()).await;
    }

    #[tokio::test]
    async fn a_cut_ends_a_read_and_a_write_that_wait() {
        let (mut stream, _client, cut, _) = pair().await;
        let (read, ()) = soon(async {
            tokio::join!(stream.read_u8(), async {
                tokio::task::yield_now().await;
                cut.cancel();
            })
        })
        .await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(
            stream.write(b"x").await.unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
    }
}
