//! A collector of syslog, and its manners.

use super::*;

/// What a collector does with one connection.
#[derive(Clone, Copy)]
pub(super) enum Manner {
    Read,
    /// Reads so many bytes and resets.
    ResetAfter(usize),
    /// Never reads.
    Stand,
}

/// A collector of octet-counted messages.
pub(super) struct Collector {
    pub(super) address: SocketAddr,
    /// The sequence numbers in the order in which they came.
    seen: Arc<Mutex<Vec<u64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    pub(super) fn start(manners: &[Manner], tls: Option<Arc<ServerConfig>>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), manners, tls)
    }

    /// One connection after the other, each in its manner; the last manner is for all that follow.
    pub(super) fn on(
        listener: TcpListener,
        manners: &[Manner],
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<u64>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let (manners, noted) = (manners.to_vec(), Arc::clone(&seen));
        listener.set_nonblocking(true).unwrap();
        let thread = thread::spawn(move || {
            let mut served = 0;
            let mut held = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_millis(20)))
                    .unwrap();
                let manner = manners[served.min(manners.len() - 1)];
                served += 1;
                match (manner, &tls) {
                    (Manner::Stand, _) => held.push(stream),
                    (Manner::ResetAfter(bytes), _) => reset_after(stream, bytes),
                    (Manner::Read, None) => serve(stream, &noted, &stopped),
                    (Manner::Read, Some(config)) => {
                        let session = ServerConnection::new(Arc::clone(config)).unwrap();
                        serve(StreamOwned::new(session, stream), &noted, &stopped);
                    }
                }
            }
        });
        Self {
            address,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    pub(super) fn seen(&self) -> Vec<u64> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn has_all(&self, records: u64) {
        wait_until("all records", || {
            self.seen().into_iter().collect::<BTreeSet<_>>() == (0..records).collect()
        });
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn reset_after(mut stream: TcpStream, bytes: usize) {
    let mut buffer = vec![0; bytes];
    let _ = stream.read(&mut buffer);
    // Closing with unread bytes, or with none to wait for, sends a reset.
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

fn serve(mut stream: impl io::Read, noted: &Mutex<Vec<u64>>, stopped: &AtomicBool) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => text.extend_from_slice(&buffer[..read]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
            }
            Err(_) => return,
        }
        while let Some(message) = first_message(&mut text) {
            let message = String::from_utf8(message).unwrap();
            if let Some((_, rest)) = message.split_once("seq=\"") {
                let (seq, _) = rest.split_once('"').unwrap();
                noted.lock().unwrap().push(seq.parse().unwrap());
            }
        }
    }
}

/// Takes a whole message from the front.
fn first_message(text: &mut Vec<u8>) -> Option<Vec<u8>> {
    let space = text.iter().position(|&b| b == b' ')?;
    let length: usize = std::str::from_utf8(&text[..space])
        .unwrap()
        .parse()
        .unwrap();
    if text.len() <= space + length {
        return None;
    }
    let rest = text.split_off(space + 1 + length);
    let message = std::mem::replace(text, rest);
    Some(message[space + 1..].to_vec())
}
