//! Replies to flows that the host opened pass, and nothing beside them.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::Duration,
};

use agent_ebpf::flow::Bucket;
use aya::maps::{Array, Map, MapData};
use portcullis_agent::{
    datapath::{Datapath as _, Edit, Settings, mode::TableChoice},
    rule::{Action, Rule},
};
use portcullis_tests::netns::Namespace;
use rustix::{io::Errno, net};

use crate::{
    loaded::Loaded,
    stage::{
        ADMIN, ADMIN_NEIGHBOUR, GATEWAY, GATEWAY6, PARTNER, STRANGER, STRANGER6, Wire, address,
    },
};

/// A packet that does not come over a veth pair in this time was dropped.
const LOST: Duration = Duration::from_millis(300);

pub(crate) struct Stage {
    pub(crate) wire: Wire,
    pub(crate) loaded: Loaded,
}

pub(crate) fn rule(prefix: &str, action: Action) -> Rule {
    Rule {
        prefix: address(prefix).into(),
        action,
    }
}

impl Stage {
    pub(crate) fn new(learn_replies: bool, table: TableChoice) -> Self {
        let wire = Wire::new();
        let mut loaded = Loaded::on(&["gw0"], table).unwrap();
        let rules: Arc<[Rule]> = [
            rule(ADMIN, Action::Protect),
            rule(PARTNER, Action::Allow(None)),
        ]
        .into();
        let settings = Settings {
            learn_replies,
            ..Settings::default()
        };
        loaded.datapath.switch(rules, &settings).unwrap();
        let statuses = wire.gateway.inside(|| loaded.datapath.tend()).unwrap();
        assert!(wire.attached().is_some(), "{statuses:?}");
        Self { wire, loaded }
    }

    fn inside(&self, local: &str) -> UdpSocket {
        udp(&self.wire.gateway, local, 0)
    }

    fn outside(&self, local: &str, port: u16) -> UdpSocket {
        udp(&self.wire.outside, local, port)
    }

    /// Makes every flow that the program knows older, in units of 1.07 seconds.
    fn age(&self, units: u16) {
        let map = MapData::from_pin(self.loaded.pin("FLOWS")).unwrap();
        let mut flows: Array<MapData, Bucket> = Map::Array(map).try_into().unwrap();
        for index in 0..flows.len() {
            let mut bucket = flows.get(&index, 0).unwrap();
            if bucket.iter().all(|entry| *entry == 0) {
                continue;
            }
            for entry in bucket.iter_mut().filter(|entry| **entry != 0) {
                let time = (*entry & 0xffff).wrapping_sub(units.into()) & 0xffff;
                *entry = *entry & !0xffff | time;
            }
            flows.set(index, bucket, 0).unwrap();
        }
    }
}

pub(crate) fn udp(namespace: &Namespace, local: &str, port: u16) -> UdpSocket {
    let socket = namespace
        .inside(|| UdpSocket::bind(SocketAddr::new(address(local), port)))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(LOST)).unwrap();
    socket
}

/// Where the next packet comes from, if one does.
pub(crate) fn received(socket: &UdpSocket) -> Option<SocketAddr> {
    match socket.recv_from(&mut [0; 16]) {
        Ok((_, from)) => Some(from),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_udp_reply_passes_and_its_nearest_neighbours_do_not() {
    for table in [TableChoice::Compiled, TableChoice::Lpm] {
        for (gateway, stranger, other) in [
            (GATEWAY, STRANGER, ADMIN_NEIGHBOUR),
            (GATEWAY6, STRANGER6, "2001:db8::20"),
        ] {
            let stage = Stage::new(true, table);
            let inside = stage.inside(gateway);
            let remote = stage.outside(stranger, 5300);
            let to = inside.local_addr().unwrap();
            remote.send_to(b"early", to).unwrap();
            assert_eq!(received(&inside), None, "before the host has sent anything");

            inside
                .send_to(b"query", remote.local_addr().unwrap())
                .unwrap();
            assert_eq!(received(&remote), Some(to));
            remote.send_to(b"reply", to).unwrap();
            assert_eq!(received(&inside), remote.local_addr().ok(), "the reply");

            for (what, socket) in [
                ("another port", stage.outside(stranger, 5301)),
                ("another address", stage.outside(other, 5300)),
            ] {
                socket.send_to(b"uninvited", to).unwrap();
                assert_eq!(received(&inside), None, "{what}");
            }
            let other_port = stage.inside(gateway);
            remote
                .send_to(b"uninvited", other_port.local_addr().unwrap())
                .unwrap();
            assert_eq!(received(&other_port), None, "another port of the host");
        }
    }
}

#[test]
fn a_reply_passes_until_its_time_is_over_and_again_after_the_next_packet() {
    let stage = Stage::new(true, TableChoice::Compiled);
    let inside = stage.inside(GATEWAY);
    let remote = stage.outside(STRANGER, 5300);
    let to = inside.local_addr().unwrap();
    let send = || {
        inside
            .send_to(b"query", remote.local_addr().unwrap())
            .unwrap()
    };
    let passes = || {
        remote.send_to(b"reply", to).unwrap();
        received(&inside).is_some()
    };
    send();
    stage.age(100);
    assert!(passes());
    stage.age(20);
    assert!(!passes(), "two minutes are over");
    send();
    assert!(passes());
}

#[test]
fn tcp_that_the_host_opens_works_and_tcp_to_it_does_not() {
    let stage = Stage::new(true, TableChoice::Compiled);
    let listen = |namespace: &Namespace, local: &str, port: u16| {
        namespace
            .inside(|| TcpListener::bind(SocketAddr::new(address(local), port)))
            .unwrap()
            .unwrap()
    };
    let connect = |namespace: &Namespace, to: SocketAddr| {
        namespace
            .inside(move || TcpStream::connect_timeout(&to, Duration::from_secs(1)))
            .unwrap()
    };
    let remote = listen(&stage.wire.outside, STRANGER, 4430);
    let mut out = connect(&stage.wire.gateway, remote.local_addr().unwrap()).unwrap();
    let (mut far, _) = remote.accept().unwrap();
    far.write_all(b"hello").unwrap();
    out.set_read_timeout(Some(LOST)).unwrap();
    out.read_exact(&mut [0; 5]).unwrap();
    // The port is needed again below; the connection lives on.
    drop(remote);

    let local = listen(&stage.wire.gateway, GATEWAY, 22);
    local.set_nonblocking(true).unwrap();
    // Also from the very port that the host has a connection to.
    for (from, port, is_let_in) in [
        (STRANGER, 0, false),
        (STRANGER, 4430, false),
        (PARTNER, 0, true),
    ] {
        let _client =
            begin_to_connect(&stage.wire.outside, from, port, local.local_addr().unwrap());
        thread::sleep(LOST);
        assert_eq!(local.accept().is_ok(), is_let_in, "{from} port {port}");
    }
}

/// Sends the first SYN of a connection from this address.
pub(crate) fn begin_to_connect(
    namespace: &Namespace,
    from: &str,
    port: u16,
    to: SocketAddr,
) -> OwnedFd {
    let from = SocketAddr::new(address(from), port);
    namespace
        .inside(move || {
            let socket = net::socket_with(
                net::AddressFamily::INET,
                net::SocketType::STREAM,
                net::SocketFlags::NONBLOCK,
                None,
            )?;
            net::sockopt::set_socket_reuseaddr(&socket, true)?;
            net::bind(&socket, &from)?;
            match net::connect(&socket, &to) {
                Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
                Err(error) => Err(error),
            }
        })
        .unwrap()
        .unwrap()
}

#[test]
fn a_ban_ends_replies_too() {
    let mut stage = Stage::new(true, TableChoice::Compiled);
    let inside = stage.inside(GATEWAY);
    let remote = stage.outside(STRANGER, 5300);
    let to = inside.local_addr().unwrap();
    inside
        .send_to(b"query", remote.local_addr().unwrap())
        .unwrap();
    remote.send_to(b"reply", to).unwrap();
    assert!(received(&inside).is_some());
    let ban = rule(STRANGER, Action::Ban);
    stage
        .loaded
        .datapath
        .edit(&[Edit::Add(ban.clone())])
        .unwrap();
    remote.send_to(b"reply", to).unwrap();
    assert_eq!(received(&inside), None);
    stage.loaded.datapath.edit(&[Edit::Remove(ban)]).unwrap();
    remote.send_to(b"reply", to).unwrap();
    assert!(received(&inside).is_some());
}

#[test]
fn an_answer_to_a_listed_source_does_not_keep_it_in_when_it_is_taken_off() {
    let mut stage = Stage::new(true, TableChoice::Compiled);
    let inside = stage.inside(GATEWAY);
    let to = inside.local_addr().unwrap();
    let partner = stage.outside(PARTNER, 5300);
    partner.send_to(b"query", to).unwrap();
    assert!(received(&inside).is_some());
    inside
        .send_to(b"answer", partner.local_addr().unwrap())
        .unwrap();
    stage
        .loaded
        .datapath
        .edit(&[Edit::Remove(rule(PARTNER, Action::Allow(None)))])
        .unwrap();
    partner.send_to(b"query", to).unwrap();
    assert_eq!(received(&inside), None);
}

#[test]
fn an_error_about_the_hosts_own_packet_reaches_it_only_where_flows_are_learned() {
    for (learn, expected) in [(true, Some(ErrorKind::ConnectionRefused)), (false, None)] {
        let stage = Stage::new(learn, TableChoice::Compiled);
        let inside = stage.inside(GATEWAY);
        // Nobody listens there: the outside answers with "port unreachable" (ICMP type 3).
        let closed = SocketAddr::new(address(STRANGER), 9);
        inside.connect(closed).unwrap();
        inside.send(b"query").unwrap();
        let error = inside.recv(&mut [0; 16]).unwrap_err().kind();
        let refused = (error == ErrorKind::ConnectionRefused).then_some(error);
        assert_eq!(refused, expected, "learning: {learn}");
    }
}

#[test]
fn pings_of_the_host_are_answered_and_pings_to_it_are_not() {
    let stage = Stage::new(true, TableChoice::Compiled);
    let ping = |namespace: &Namespace, from: &str, to: &str| {
        namespace
            .command("ping")
            .args(["-c", "1", "-W", "1", "-I", from, to])
            .output()
            .unwrap()
            .status
            .success()
    };
    for (gateway, stranger) in [(GATEWAY, STRANGER), (GATEWAY6, STRANGER6)] {
        assert!(!ping(&stage.wire.outside, stranger, gateway), "{stranger}");
        assert!(ping(&stage.wire.gateway, gateway, stranger), "{stranger}");
        assert!(!ping(&stage.wire.outside, stranger, gateway), "{stranger}");
    }
}
