//! Flows are learned where the kernel has no links for the way out, and behind tags.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
};

use portcullis_agent::datapath::{Datapath as _, mode::TableChoice};
use portcullis_tests::{
    agent::Agent,
    frames::{Body, Fragment, Frame, UDP, V4},
    netns::Namespace,
    process::succeed,
};

use crate::{
    flows::{Stage, received, udp},
    preload,
    stage::{ADMIN_NEIGHBOUR, GATEWAY, STRANGER, Wire},
};

/// The kernel as it was before Linux 6.6: a link for the way out of an interface is refused.
const NO_TCX: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>

static long (*real)(long, ...);
__attribute__((constructor)) static void find(void) { real = dlsym(RTLD_NEXT, "syscall"); }

long syscall(long number, long a, long b, long c, long d, long e, long f) {
    enum { LINK_CREATE = 28, TCX_EGRESS = 47, ATTACH_TYPE = 2 };
    if (number == SYS_bpf && a == LINK_CREATE && ((const uint32_t *)b)[ATTACH_TYPE] == TCX_EGRESS) {
        errno = EINVAL;
        return -1;
    }
    return real(number, a, b, c, d, e, f);
}
"#;

/// Whether an answer passes to the host's question, and nothing from beside.
fn is_learned(wire: &Wire) -> bool {
    let inside = udp(&wire.gateway, GATEWAY, 0);
    let remote = udp(&wire.outside, STRANGER, 0);
    asks(&inside, &remote, &udp(&wire.outside, ADMIN_NEIGHBOUR, 0))
}

/// Whether `remote` gets its answer through to `inside`, which asked it; `other`, who was not asked, must not.
fn asks(inside: &UdpSocket, remote: &UdpSocket, other: &UdpSocket) -> bool {
    let to = inside.local_addr().unwrap();
    remote.send_to(b"early", to).unwrap();
    assert_eq!(received(inside), None, "before it was asked");
    inside
        .send_to(b"query", remote.local_addr().unwrap())
        .unwrap();
    assert_eq!(received(remote), Some(to));
    other.send_to(b"uninvited", to).unwrap();
    assert_eq!(received(inside), None, "somebody else");
    remote.send_to(b"reply", to).unwrap();
    received(inside) == remote.local_addr().ok()
}

fn filters(gateway: &Namespace) -> Vec<String> {
    let mut command = gateway.command("tc");
    command.args(["filter", "show", "dev", "gw0", "egress"]);
    let shown = succeed(&mut command).unwrap();
    let ours = shown.lines().filter(|line| line.contains("portcullis_tc"));
    ours.map(str::to_owned).collect()
}

fn egress(agent: &Agent) -> String {
    let status = agent.status().unwrap();
    status["interfaces"][0]["egress"]["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_kernel_without_links_learns_by_a_filter_which_outlives_the_daemon_and_goes_when_it_is_not_needed()
 {
    let wire = Wire::new();
    let mut agent = wire.agent();
    assert_eq!(
        (egress(&agent).as_str(), filters(&wire.gateway)),
        ("off", Vec::new())
    );
    assert!(!is_learned(&wire));
    agent.process.kill().unwrap();
    let text = fs::read_to_string(agent.config()).unwrap();
    let learning = format!("learn_replies = true\n{text}");
    fs::write(agent.config(), &learning).unwrap();
    let library = preload::library(&agent, "no-tcx", NO_TCX);
    let without_links = ["env", library.as_str()];

    for round in 0..2 {
        agent
            .start_again_under(wire.place(), &without_links)
            .unwrap();
        assert_eq!(egress(&agent), "clsact", "{round}");
        let filters = filters(&wire.gateway);
        assert_eq!(filters.len(), 1, "{round}: {filters:?}");
        assert!(is_learned(&wire), "{round}");
        agent.process.kill().unwrap();
        assert!(is_learned(&wire), "{round}: without a daemon");
    }
    agent.start_again(wire.place()).unwrap();
    assert_eq!(
        (egress(&agent).as_str(), filters(&wire.gateway)),
        ("tcx", Vec::new())
    );
    assert!(is_learned(&wire));
    agent.process.kill().unwrap();

    // Turned off, and out of the kernel.
    let off = |agent: &mut Agent| {
        agent
            .start_again_under(wire.place(), &without_links)
            .unwrap();
        assert_eq!(filters(&wire.gateway).len(), 1);
        assert!(agent.process.terminate().unwrap().success());
    };
    fs::remove_file(agent.pins().join("egress/gw0")).unwrap();
    off(&mut agent);
    fs::write(agent.config(), &text).unwrap();
    agent.start_again(wire.place()).unwrap();
    assert_eq!(
        (egress(&agent).as_str(), filters(&wire.gateway)),
        ("off", Vec::new())
    );
    assert!(!is_learned(&wire));
    assert!(agent.process.terminate().unwrap().success());

    fs::write(agent.config(), &learning).unwrap();
    off(&mut agent);
    let config = agent.config().display().to_string();
    let program = agent.program().display().to_string();
    let mut unload = wire.gateway.command(&program);
    succeed(unload.args(["unload", "--config", &config, "--force"])).unwrap();
    assert_eq!(filters(&wire.gateway), Vec::<String>::new());
    assert_eq!(wire.attached(), None);
}

/// The host's port, and the port that it asks.
const PORTS: [u16; 2] = [40_000, 5_300];

/// A UDP packet with these tags.
fn packet(tags: &[u16], [from, to]: [&str; 2], ports: [u16; 2]) -> Vec<u8> {
    let mut payload = ports.map(u16::to_be_bytes).concat();
    payload.extend_from_slice(&[0, 8, 0, 0]);
    let frame = Frame {
        tags: tags.to_vec(),
        ..Frame::new(Body::V4(V4 {
            source: from.parse().unwrap(),
            option_words: 0,
            fragment: Fragment::Whole,
            protocol: UDP,
            payload,
        }))
    };
    let mut bytes = frame.bytes();
    let destination = 14 + 4 * tags.len() + 16;
    let to: Ipv4Addr = to.parse().unwrap();
    bytes[destination..destination + 4].copy_from_slice(&to.octets());
    bytes
}

/// Sends a frame as it is: not every kernel can make interfaces for tags.
fn send(namespace: &Namespace, interface: &str, frame: &[u8]) {
    const SEND: &str = "import socket, sys\n\
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
        link.bind((sys.argv[1], 0))\n\
        link.send(bytes.fromhex(sys.argv[2]))";
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = namespace.command("python3");
    succeed(command.args(["-c", SEND, interface, &hex])).unwrap();
}

#[test]
fn flows_with_one_and_with_two_tags_are_learned() {
    for tags in [&[0x8100][..], &[0x88a8, 0x8100], &[]] {
        let mut stage = Stage::new(true, TableChoice::Compiled);
        let mut judged = |tags: &[u16], from: &str, ports| {
            let frame = packet(tags, [from, GATEWAY], ports);
            let probe = stage.loaded.datapath.probe(&frame, None).unwrap();
            probe.verdict.name()
        };
        let [own, asked] = PORTS;
        assert_eq!(judged(tags, STRANGER, [asked, own]), "not_listed");
        send(
            &stage.wire.gateway,
            "gw0",
            &packet(tags, [GATEWAY, STRANGER], PORTS),
        );
        for answer in [tags, &[]] {
            assert_eq!(judged(answer, STRANGER, [asked, own]), "reply", "{tags:x?}");
        }
        for (from, ports) in [
            (ADMIN_NEIGHBOUR, [asked, own]),
            (STRANGER, [asked + 1, own]),
            (STRANGER, [asked, own + 1]),
        ] {
            assert_eq!(judged(tags, from, ports), "not_listed", "{from} {ports:?}");
        }
    }
}
