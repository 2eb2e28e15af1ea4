//! A long road on loopback: a TCP relay that holds every byte back. It needs neither root nor the kernel's netem.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const CHUNK: usize = 64 << 10;
/// Chunks on the road one way: up to 32 MiB, as much as a large TCP window.
const CHUNKS: usize = 512;

/// A relay to one address; gone with its connections when dropped.
#[derive(Debug)]
pub struct Delay {
    /// Where to connect instead.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Delay {
    /// Delivers what is sent to `target`, and what comes back, `one_way` later.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn start(target: SocketAddr, one_way: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for client in listener.incoming() {
                    if shared.is_over.load(Ordering::Acquire) {
                        return;
                    }
                    // A target that is gone looks to the client like one that hangs up.
                    let _ = client.and_then(|client| join(client, target, one_way, &shared));
                }
            }
        });
        Ok(Self {
            address,
            shared,
            accepting: Some(accepting),
        })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let streams = self.shared.streams.lock();
        for stream in streams.unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn join(
    client: TcpStream,
    target: SocketAddr,
    one_way: Duration,
    shared: &Shared,
) -> std::io::Result<()> {
    let server = TcpStream::connect(target)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    for (from, to) in [(&client, &server), (&server, &client)] {
        let (sender, receiver) = sync_channel(CHUNKS);
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || take(from, &sender));
        thread::spawn(move || deliver(&receiver, to, one_way));
    }
    let mut streams = shared
        .streams
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    streams.extend([client, server]);
    Ok(())
}

fn take(mut from: TcpStream, road: &SyncSender<(Instant, Vec<u8>)>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length) = from.read(&mut chunk) {
        let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        if road.send((Instant::now(), bytes.to_vec())).is_err() {
            return;
        }
    }
}

fn deliver(road: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream, one_way: Duration) {
    while let Ok((sent, bytes)) = road.recv() {
        thread::sleep((sent + one_way).saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            // The reader of this side notices too.
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with itself, once.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut back = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut back).unwrap();
            back.shutdown(Shutdown::Write).unwrap();
        });
        address
    }

    #[test]
    fn a_byte_takes_the_time_both_ways_and_many_bytes_come_whole() {
        let one_way = Duration::from_millis(30);
        let relay = Delay::start(echo(), one_way).unwrap();
        let mut stream = TcpStream::connect(relay.address).unwrap();
        let started = Instant::now();
        stream.write_all(b"x").unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        assert!(started.elapsed() >= 2 * one_way);

        let sent: Vec<u8> = (0..3_000_000_u32).map(|index| (index >> 5) as u8).collect();
        let mut writing = stream.try_clone().unwrap();
        let expected = sent.clone();
        let sender = thread::spawn(move || {
            writing.write_all(&sent).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        sender.join().unwrap();
        assert!(received == expected);
    }

    #[test]
    fn a_dropped_relay_takes_its_connections_along() {
        let relay = Delay::start(echo(), Duration::ZERO).unwrap();
        let mut stream = TcpStream::connect(relay.address).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let address = relay.address;
        drop(relay);
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        // A program that another test starts at this moment may hold the listener until it has begun to run.
        let refused = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_ok() {
            assert!(Instant::now() < refused, "still listening");
        }
    }
}
