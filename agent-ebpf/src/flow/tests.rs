use std::{vec, vec::Vec};

use super::*;
use crate::{
    frames::Frame,
    packet::{SCTP, parse},
};

const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
const HOST: [u8; 4] = [192, 0, 2, 1];
const REMOTE: [u8; 4] = [198, 51, 100, 7];
const ROUTER: [u8; 4] = [203, 0, 113, 1];
const HOST6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const REMOTE6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

fn v4(source: [u8; 4], destination: [u8; 4], protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&source);
    packet.extend_from_slice(&destination);
    packet.extend_from_slice(transport);
    packet
}

fn v6(source: [u8; 16], destination: [u8; 16], protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
    packet.extend_from_slice(&source);
    packet.extend_from_slice(&destination);
    packet.extend_from_slice(transport);
    packet
}

fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = udp(source, destination);
    header.resize(12, 0);
    header.extend_from_slice(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
    header
}

fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut header = source.to_be_bytes().to_vec();
    header.extend_from_slice(&destination.to_be_bytes());
    header.extend_from_slice(&[0, 8, 0, 0]);
    header
}

fn echo(kind: u8, identifier: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 0, identifier, 0, 1]
}

fn error(kind: u8, about: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(about);
    packet
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    };
    Frame::ethernet(ethertype, packet).bytes()
}

fn outgoing(packet: &[u8]) -> Option<(u64, Role)> {
    let frame = frame(packet);
    let headers = parse(frame.as_slice()).unwrap();
    Flow::of_outgoing(frame.as_slice(), &headers).map(|(flow, role)| (flow.hash(KEY), role))
}

fn reply(packet: &[u8]) -> Option<u64> {
    let frame = frame(packet);
    let headers = parse(frame.as_slice()).unwrap();
    Flow::of_reply(frame.as_slice(), &headers).map(|flow| flow.hash(KEY))
}

#[test]
fn a_reply_has_the_hash_of_its_flow_and_every_neighbour_another() {
    let (flow, role) = outgoing(&v4(HOST, REMOTE, UDP, &udp(4000, 53))).unwrap();
    assert_eq!(role, Role::Opens);
    assert_eq!(reply(&v4(REMOTE, HOST, UDP, &udp(53, 4000))), Some(flow));
    for (what, packet) in [
        ("another remote", v4(ROUTER, HOST, UDP, &udp(53, 4000))),
        ("another remote port", v4(REMOTE, HOST, UDP, &udp(54, 4000))),
        ("another local port", v4(REMOTE, HOST, UDP, &udp(53, 4001))),
        ("ports exchanged", v4(REMOTE, HOST, UDP, &udp(4000, 53))),
        (
            "another protocol",
            v4(REMOTE, HOST, TCP, &tcp(53, 4000, ACK)),
        ),
        (
            "another local address",
            v4(REMOTE, REMOTE, UDP, &udp(53, 4000)),
        ),
    ] {
        assert_ne!(reply(&packet), Some(flow), "{what}");
    }
    let (flow, _) = outgoing(&v6(HOST6, REMOTE6, UDP, &udp(4000, 53))).unwrap();
    assert_eq!(reply(&v6(REMOTE6, HOST6, UDP, &udp(53, 4000))), Some(flow));
    assert_ne!(reply(&v6(HOST6, HOST6, UDP, &udp(53, 4000))), Some(flow));
}

#[test]
fn a_tcp_flow_is_opened_by_its_first_syn_and_never_answered_by_one() {
    let out = |flags| outgoing(&v4(HOST, REMOTE, TCP, &tcp(4000, 443, flags))).unwrap();
    let (flow, role) = out(SYN);
    assert_eq!(role, Role::Opens);
    // What the host answers on a port of its own opens nothing.
    for flags in [SYN_ACK, ACK] {
        assert_eq!(out(flags), (flow, Role::Belongs));
    }
    for flags in [SYN_ACK, ACK] {
        assert_eq!(
            reply(&v4(REMOTE, HOST, TCP, &tcp(443, 4000, flags))),
            Some(flow)
        );
    }
    assert_eq!(reply(&v4(REMOTE, HOST, TCP, &tcp(443, 4000, SYN))), None);
}

#[test]
fn an_echo_request_is_answered_by_a_reply_of_its_identifier() {
    let (flow, _) = outgoing(&v4(HOST, REMOTE, ICMP, &echo(8, 5))).unwrap();
    assert_eq!(reply(&v4(REMOTE, HOST, ICMP, &echo(0, 5))), Some(flow));
    assert_ne!(reply(&v4(REMOTE, HOST, ICMP, &echo(0, 6))), Some(flow));
    // A request from outside is not a reply, and what the host answers to one opens nothing.
    assert_eq!(reply(&v4(REMOTE, HOST, ICMP, &echo(8, 5))), None);
    assert_eq!(outgoing(&v4(HOST, REMOTE, ICMP, &echo(0, 5))), None);
    let (flow, _) = outgoing(&v6(HOST6, REMOTE6, ICMPV6, &echo(128, 5))).unwrap();
    assert_eq!(
        reply(&v6(REMOTE6, HOST6, ICMPV6, &echo(129, 5))),
        Some(flow)
    );
    assert_eq!(reply(&v6(REMOTE6, HOST6, ICMPV6, &echo(128, 5))), None);
}

#[test]
fn an_error_about_a_packet_of_the_flow_belongs_to_it_whoever_sends_it() {
    let sent = v4(HOST, REMOTE, TCP, &tcp(4000, 443, SYN));
    let (flow, _) = outgoing(&sent).unwrap();
    for kind in [3, 11, 12] {
        assert_eq!(
            reply(&v4(ROUTER, HOST, ICMP, &error(kind, &sent))),
            Some(flow)
        );
    }
    // A redirect (5) is no such error, and an error about a packet towards the host is about no flow of the host's.
    assert_ne!(reply(&v4(ROUTER, HOST, ICMP, &error(5, &sent))), Some(flow));
    let received = v4(REMOTE, HOST, TCP, &tcp(443, 4000, ACK));
    assert_ne!(
        reply(&v4(ROUTER, HOST, ICMP, &error(3, &received))),
        Some(flow)
    );
    let sent = v6(HOST6, REMOTE6, UDP, &udp(4000, 53));
    let (flow, _) = outgoing(&sent).unwrap();
    for kind in 1..=4 {
        assert_eq!(
            reply(&v6(REMOTE6, HOST6, ICMPV6, &error(kind, &sent))),
            Some(flow)
        );
    }
    assert_ne!(
        reply(&v6(REMOTE6, HOST6, ICMPV6, &error(5, &sent))),
        Some(flow)
    );
}

#[test]
fn other_protocols_and_cut_packets_have_no_flow() {
    assert_eq!(outgoing(&v4(HOST, REMOTE, SCTP, &udp(1, 2))), None);
    let whole = v4(
        REMOTE,
        HOST,
        ICMP,
        &error(3, &v4(HOST, REMOTE, UDP, &udp(4000, 53))),
    );
    for length in 20..whole.len() - 4 {
        assert_eq!(reply(&whole[..length]), None, "{length}");
    }
}

#[test]
fn a_bucket_finds_what_was_put_in_until_its_time_is_over() {
    let mut bucket: Bucket = [0; BUCKET_FLOWS];
    let hash = 0x1234_5678_9abc_def0;
    assert_eq!(update(&bucket, hash, 100, Role::Belongs), None);
    let (place, entry) = update(&bucket, hash, 100, Role::Opens).unwrap();
    bucket[place] = entry;
    assert!(is_known(&bucket, hash, 110, 10));
    assert!(!is_known(&bucket, hash, 111, 10));
    // The bits that pick the bucket are not in the entry; any other bit is.
    assert!(!is_known(&bucket, hash ^ (1 << 16), 100, 10));
    assert!(!is_known(&bucket, hash ^ (1 << 63), 100, 10));
    // Refreshed by a packet that only belongs to it, and not written twice in one unit of time.
    assert_eq!(update(&bucket, hash, 100, Role::Belongs), None);
    let (place, entry) = update(&bucket, hash, 105, Role::Belongs).unwrap();
    bucket[place] = entry;
    assert!(is_known(&bucket, hash, 115, 10));
}

#[test]
fn a_full_bucket_gives_up_the_flow_that_was_silent_for_longest() {
    let mut bucket: Bucket = [0; BUCKET_FLOWS];
    // The clock wraps in between.
    for flow in 0..BUCKET_FLOWS as u16 {
        let now = (u16::MAX - 3).wrapping_add(flow);
        let (place, entry) = update(&bucket, u64::from(flow + 1) << 16, now, Role::Opens).unwrap();
        bucket[place] = entry;
    }
    let (place, entry) = update(&bucket, 100 << 16, 10, Role::Opens).unwrap();
    bucket[place] = entry;
    assert!(!is_known(&bucket, 1 << 16, 10, u16::MAX));
    for flow in 2..=BUCKET_FLOWS as u64 {
        assert!(is_known(&bucket, flow << 16, 10, 20), "{flow}");
    }
}
