//! Steady traffic from some who may and some who may not, and the count of what went wrong.
//!
//! The sender waits for the receiver before it goes on, so that nothing is lost for want of buffers: what is missing was dropped.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use portcullis_tests::process::wait_for;

use crate::stage::{GATEWAY, GATEWAY6, Wire, address};

const PORT: u16 = 4000;
/// Packets of each source in one go.
const BATCH: u64 = 8;
/// A packet that takes longer over a veth pair was dropped.
const LOST: Duration = Duration::from_secs(2);

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) allowed_sent: u64,
    pub(crate) allowed_lost: u64,
    pub(crate) forbidden_sent: u64,
    /// Packets that must not have come through.
    pub(crate) forbidden_received: u64,
}

/// Traffic under way.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    /// The receivers go on until the sender has seen its last packets arrive.
    stop_receiving: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    sender: JoinHandle<Count>,
    receivers: Vec<JoinHandle<()>>,
}

struct Source {
    socket: UdpSocket,
    is_allowed: bool,
}

impl Traffic {
    /// Sends from all these addresses, without a pause.
    pub(crate) fn start(wire: &Wire, allowed: &[&str], forbidden: &[&str]) -> Self {
        let [stop, stop_receiving] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let progress = Arc::new(AtomicU64::new(0));
        let received = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let receivers = [GATEWAY, GATEWAY6]
            .map(|local| {
                let socket = bind(&wire.gateway, local, PORT);
                let forbidden: Vec<_> = forbidden.iter().map(|source| address(source)).collect();
                let (stop, received) = (Arc::clone(&stop_receiving), Arc::clone(&received));
                thread::spawn(move || receive(&socket, &forbidden, &received, &stop))
            })
            .into();
        let sources: Vec<Source> = [(allowed, true), (forbidden, false)]
            .into_iter()
            .flat_map(|(sources, is_allowed)| {
                sources.iter().map(move |source| (*source, is_allowed))
            })
            .map(|(source, is_allowed)| {
                let socket = bind(&wire.outside, source, 0);
                let gateway = if address(source).is_ipv4() {
                    GATEWAY
                } else {
                    GATEWAY6
                };
                socket
                    .connect(SocketAddr::new(address(gateway), PORT))
                    .unwrap();
                Source { socket, is_allowed }
            })
            .collect();
        let sender = {
            let (stop, progress) = (Arc::clone(&stop), Arc::clone(&progress));
            thread::spawn(move || send(&sources, &received, &progress, &stop))
        };
        let traffic = Self {
            stop,
            stop_receiving,
            progress,
            sender,
            receivers,
        };
        traffic.flows();
        traffic
    }

    /// Waits until many more packets were sent.
    pub(crate) fn flows(&self) {
        let from = self.progress.load(Ordering::SeqCst);
        wait_for("traffic", || {
            (self.progress.load(Ordering::SeqCst) > from + 100).then_some(())
        })
        .unwrap();
    }

    /// Ends the traffic.
    pub(crate) fn count(self) -> Count {
        self.stop.store(true, Ordering::SeqCst);
        let count = self.sender.join().unwrap();
        self.stop_receiving.store(true, Ordering::SeqCst);
        for receiver in self.receivers {
            receiver.join().unwrap();
        }
        count
    }
}

fn bind(namespace: &portcullis_tests::netns::Namespace, local: &str, port: u16) -> UdpSocket {
    namespace
        .inside(|| UdpSocket::bind(SocketAddr::new(address(local), port)))
        .unwrap()
        .unwrap()
}

fn receive(
    socket: &UdpSocket,
    forbidden: &[std::net::IpAddr],
    received: &[AtomicU64; 2],
    stop: &AtomicBool,
) {
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let [allowed_count, forbidden_count] = received;
    while !stop.load(Ordering::SeqCst) {
        if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
            let count = if forbidden.contains(&from.ip()) {
                forbidden_count
            } else {
                allowed_count
            };
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn send(
    sources: &[Source],
    received: &[AtomicU64; 2],
    progress: &AtomicU64,
    stop: &AtomicBool,
) -> Count {
    let [allowed_count, forbidden_count] = received;
    let mut count = Count {
        allowed_sent: 0,
        allowed_lost: 0,
        forbidden_sent: 0,
        forbidden_received: 0,
    };
    while !stop.load(Ordering::SeqCst) {
        for source in sources {
            for _ in 0..BATCH {
                // Refused only while the interface is away; then nothing was sent.
                if source.socket.send(&[0; 32]).is_ok() {
                    *(if source.is_allowed {
                        &mut count.allowed_sent
                    } else {
                        &mut count.forbidden_sent
                    }) += 1;
                }
            }
        }
        let deadline = Instant::now() + LOST;
        while allowed_count.load(Ordering::SeqCst) + count.allowed_lost < count.allowed_sent {
            if Instant::now() > deadline {
                count.allowed_lost = count.allowed_sent - allowed_count.load(Ordering::SeqCst);
            }
            thread::yield_now();
        }
        progress.fetch_add(BATCH, Ordering::SeqCst);
    }
    count.forbidden_received = forbidden_count.load(Ordering::SeqCst);
    count
}
