//! Two lists that have nothing in common, put in force by turns under live packets: each packet is judged by one of them alone.
//!
//! Every packet may become an event, with the number of the generation that the program read first. So a verdict that rests on a
//! table, a scope or a policy of another generation is seen, for each single packet.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use agent_ebpf::verdict::Policy;
use aya::maps::{Map, MapData, RingBuf};
use portcullis_agent::{
    datapath::{Datapath, InterfaceState, PacketEvent, Settings, mode::TableChoice},
    rule::{Action, Rule},
};

use crate::{
    loaded::Loaded,
    stage::{GATEWAY, GATEWAY6, Wire, address},
};

const FLIPS: usize = 1_000;
const PORT: u16 = 4001;
const OTHER_PORT: u16 = 4002;
const UDP: u8 = 17;

/// Who sends, to which port, how much, and what becomes of it under the first list and under the second.
type Sender = (&'static str, u16, usize, [&'static str; 2]);

const SENDERS: [Sender; 10] = [
    ("192.0.2.101", PORT, 32, ["allowed", "not_listed"]),
    ("192.0.2.102", PORT, 32, ["not_listed", "allowed"]),
    ("2001:db8::101", PORT, 32, ["allowed", "not_listed"]),
    ("2001:db8::102", PORT, 32, ["not_listed", "allowed"]),
    // Of one class under both, with another scope behind it.
    ("192.0.2.103", PORT, 32, ["allowed", "out_of_scope"]),
    ("192.0.2.103", OTHER_PORT, 32, ["out_of_scope", "allowed"]),
    ("2001:db8::103", PORT, 32, ["allowed", "out_of_scope"]),
    // Allowed by both, and the policy of the second drops fragments; more than the MTU is sent in two.
    ("192.0.2.104", PORT, 2_000, ["allowed", "fragment"]),
    // In a network that both allow; the second bans the one and protects the other.
    ("2001:db8:0:0:1::105", PORT, 32, ["allowed", "banned"]),
    ("2001:db8:0:0:1::106", PORT, 32, ["allowed", "protected"]),
];

fn lists() -> [(Arc<[Rule]>, Settings); 2] {
    let allow = |prefix: &str| rule(prefix, Action::Allow(None));
    let scoped = |prefix: &str, scope: &str| {
        let scope = scope.parse().unwrap();
        rule(prefix, Action::Allow(Some(Arc::new(scope))))
    };
    let first = vec![
        allow("192.0.2.101/32"),
        allow("2001:db8::101/128"),
        scoped("192.0.2.103/32", "udp/4001"),
        scoped("2001:db8::103/128", "udp/4001"),
        allow("192.0.2.104/32"),
        allow("2001:db8:0:0:1::/80"),
    ];
    let second = vec![
        allow("192.0.2.102/32"),
        allow("2001:db8::102/128"),
        scoped("192.0.2.103/32", "udp/4002"),
        scoped("2001:db8::103/128", "udp/4002"),
        allow("192.0.2.104/32"),
        allow("2001:db8:0:0:1::/80"),
        rule("2001:db8:0:0:1::105/128", Action::Ban),
        rule("2001:db8:0:0:1::106/128", Action::Protect),
    ];
    let drops_fragments = Settings {
        policy: Policy {
            drop_fragments: true,
            ..Policy::default()
        },
        ..Settings::default()
    };
    [
        (first.into(), Settings::default()),
        (second.into(), drops_fragments),
    ]
}

fn rule(prefix: &str, action: Action) -> Rule {
    Rule {
        prefix: prefix.parse().unwrap(),
        action,
    }
}

#[test]
fn no_packet_sees_a_mixture_of_two_lists_that_are_flipped_a_thousand_times() {
    hammer(TableChoice::Compiled, FLIPS);
}

#[test]
fn no_packet_sees_a_mixture_of_two_lists_in_the_kernels_own_tries() {
    hammer(TableChoice::Lpm, FLIPS / 5);
}

fn hammer(table: TableChoice, flips: usize) {
    let wire = Wire::new();
    for (source, ..) in SENDERS {
        let length = if source.contains(':') { 64 } else { 24 };
        // Some have more than one entry.
        let _ = wire.outside.add_address("out0", address(source), length);
    }
    let mut loaded = Loaded::on(&["gw0"], table).unwrap();
    let datapath = &mut loaded.datapath;
    let lists = lists();
    let (rules, settings) = &lists[0];
    let mut of_generation = BTreeMap::new();
    of_generation.insert(datapath.switch(Arc::clone(rules), settings).unwrap(), 0);
    let statuses = wire.gateway.inside(|| datapath.tend()).unwrap();
    assert!(
        matches!(statuses[0].state, InterfaceState::Enforcing { .. }),
        "{statuses:?}"
    );
    datapath.observe(Some(1)).unwrap();

    let [stop, stop_looking] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    // Never read: what gets through need not arrive.
    let _receivers = [(GATEWAY, PORT), (GATEWAY, OTHER_PORT), (GATEWAY6, PORT)]
        .map(|(local, port)| bind(&wire.gateway, local, port));
    let judged = look(loaded.pin("EVENTS"), &stop_looking);
    let sender = send(&wire, &stop);
    for flip in 1..=flips {
        loaded.datapath.open_event_window().unwrap();
        let (rules, settings) = &lists[flip % 2];
        let generation = loaded.datapath.switch(Arc::clone(rules), settings).unwrap();
        assert!(of_generation.insert(generation, flip % 2).is_none());
    }
    stop.store(true, Ordering::SeqCst);
    let sent = sender.join().unwrap();
    stop_looking.store(true, Ordering::SeqCst);
    let judged = judged.join().unwrap();

    let mut seen = [[0_u64; 2]; SENDERS.len()];
    let mut mixtures = Vec::new();
    for ((generation, at, reason), count) in &judged {
        let list = of_generation[generation];
        if *reason == SENDERS[*at].3[list] {
            seen[*at][list] += count;
        } else {
            mixtures.push((generation, SENDERS[*at], reason, count));
        }
    }
    let looked_at: u64 = judged.values().sum();
    println!(
        "{flips} flips under {sent} packets: {looked_at} judged packets looked at, {} mixtures",
        mixtures.len()
    );
    assert!(
        mixtures.is_empty(),
        "{}: {:#?}",
        mixtures.len(),
        &mixtures[..mixtures.len().min(5)]
    );
    for (sender, counts) in SENDERS.iter().zip(seen) {
        assert!(
            counts.iter().all(|count| *count > flips as u64 / 10),
            "{sender:?} was seen {counts:?} times under the two lists"
        );
    }
    // Those of the flips are among them only if few are lost for want of room.
    assert!(looked_at > sent / 10 * 9, "{looked_at} of {sent}");
}

/// How many packets of which generation and sender had which verdict.
type Judged = BTreeMap<(u64, usize, &'static str), u64>;

/// Reads the events as they come, since the buffer for them is full long before a flip is over.
fn look(events: PathBuf, stop: &Arc<AtomicBool>) -> thread::JoinHandle<Judged> {
    let events = Map::RingBuf(MapData::from_pin(events).unwrap());
    let mut events: RingBuf<MapData> = events.try_into().unwrap();
    let stop = Arc::clone(stop);
    let senders = SENDERS.map(|(from, port, bytes, _)| (address(from), port, bytes));
    thread::spawn(move || {
        let mut judged = Judged::new();
        loop {
            let is_last = stop.load(Ordering::SeqCst);
            while let Some(item) = events.next() {
                let event = PacketEvent::from_bytes(&item).unwrap();
                if let Some(at) = sender_of(&senders, &event) {
                    let reason = event.verdict().unwrap().name();
                    *judged.entry((event.generation, at, reason)).or_default() += 1;
                }
            }
            if is_last {
                return judged;
            }
            thread::sleep(Duration::from_micros(200));
        }
    })
}

/// The sender whose packet an event is about. A later fragment, which has no port, is of the one that sends fragments.
fn sender_of(senders: &[(IpAddr, u16, usize)], event: &PacketEvent) -> Option<usize> {
    let source = event.source_address()?;
    if event.protocol != UDP {
        return None;
    }
    senders.iter().position(|(from, port, bytes)| {
        *from == source && (event.destination_port() == *port || *bytes > 1_500)
    })
}

fn send(wire: &Wire, stop: &Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let sockets: Vec<(UdpSocket, usize)> = SENDERS
        .iter()
        .map(|(source, port, bytes, _)| {
            let socket = bind(&wire.outside, source, 0);
            let gateway = if source.contains(':') {
                GATEWAY6
            } else {
                GATEWAY
            };
            socket
                .connect(SocketAddr::new(address(gateway), *port))
                .unwrap();
            (socket, *bytes)
        })
        .collect();
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let payload = [0; 2_000];
        let mut sent = 0;
        while !stop.load(Ordering::SeqCst) {
            for (socket, bytes) in &sockets {
                sent += u64::from(socket.send(&payload[..*bytes]).is_ok());
            }
            // Slower than who looks at them.
            thread::sleep(Duration::from_micros(100));
        }
        sent
    })
}

fn bind(namespace: &portcullis_tests::netns::Namespace, local: &str, port: u16) -> UdpSocket {
    namespace
        .inside(|| UdpSocket::bind(SocketAddr::new(address(local), port)))
        .unwrap()
        .unwrap()
}
