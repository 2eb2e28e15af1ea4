//! Facts about the running machine, read from the kernel in namespaces of their own.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command},
};

use portcullis_agent::facts::{self, Facts, Settings};
use portcullis_tests::netns::{End, Namespace, veth_pair};

use serde_json::json;

use crate::{
    flows::begin_to_connect,
    stage::{ADMIN, GATEWAY, PARTNER, STRANGER, Wire, address},
    wire::gets_through,
};

const SERVER: &str = "192.0.2.1";
const CLIENT: &str = "192.0.2.7";

/// A child that is ended with the test.
struct Shell(Child);

impl Shell {
    fn new(connection: &str) -> Self {
        let child = Command::new("sleep")
            .arg("600")
            .env("SSH_CONNECTION", connection)
            .spawn()
            .expect("sleep");
        Self(child)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pair() -> (Namespace, Namespace) {
    let server = Namespace::new("facts-s").expect("root");
    let client = Namespace::new("facts-c").expect("root");
    veth_pair(
        End {
            namespace: &server,
            interface: "near0",
            addresses: &[(address(SERVER), 24), (address("2001:db8::1"), 64)],
        },
        End {
            namespace: &client,
            interface: "far0",
            addresses: &[(address(CLIENT), 24), (address("2001:db8::7"), 64)],
        },
    )
    .expect("veth");
    (server, client)
}

fn told(namespace: &Namespace, facts: &mut Facts) -> Vec<String> {
    namespace
        .inside(|| {
            facts.refresh();
        })
        .expect("namespace");
    assert_eq!(facts.problems(), [""; 0]);
    facts
        .all()
        .map(|fact| format!("{}: {}", fact.address, fact.origin))
        .collect()
}

fn only(change: impl FnOnce(&mut Settings)) -> Facts {
    let mut settings = Settings {
        ssh_ports: BTreeSet::new(),
        gateways: false,
        dns: false,
        ntp: false,
        ..Settings::default()
    };
    change(&mut settings);
    Facts::new(settings)
}

#[test]
fn a_peer_is_protected_once_it_has_a_shell_and_not_for_being_connected() {
    let (server, client) = pair();
    let listener = server
        .inside(|| TcpListener::bind((SERVER, 2222)).expect("bind"))
        .expect("namespace");
    let connection = client
        .inside(|| TcpStream::connect((SERVER, 2222)).expect("connect"))
        .expect("namespace");
    let (accepted, peer) = listener.accept().expect("accept");
    let mut facts = only(|settings| settings.ssh_ports = BTreeSet::from([2222, 22]));

    assert_eq!(told(&server, &mut facts), [""; 0]);
    let other = format!("{CLIENT} {} {SERVER} 2222", peer.port() ^ 1);
    let _other = Shell::new(&other);
    assert_eq!(
        told(&server, &mut facts),
        [""; 0],
        "a shell for another connection"
    );
    let shell = Shell::new(&format!("{CLIENT} {} {SERVER} 2222", peer.port()));
    assert_eq!(
        told(&server, &mut facts),
        [format!("{CLIENT}: peer of a live SSH session (port 2222)")]
    );
    drop(shell);
    assert_eq!(told(&server, &mut facts), [""; 0], "the session is over");
    drop((accepted, connection));
}

#[test]
fn default_gateways_of_both_families_are_found_and_other_routes_are_not() {
    let (server, _client) = pair();
    let mut facts = only(|settings| settings.gateways = true);
    for route in [
        ["route", "add", "198.51.100.0/24", "via", "192.0.2.9"].as_slice(),
        &[
            "-6",
            "route",
            "add",
            "2001:db8:1::/48",
            "via",
            "2001:db8::9",
        ],
    ] {
        server.ip(route).expect("route");
    }
    assert_eq!(told(&server, &mut facts), [""; 0]);
    for route in [
        ["route", "add", "default", "via", "192.0.2.254"].as_slice(),
        &[
            "-6",
            "route",
            "add",
            "default",
            "nexthop",
            "via",
            "fe80::1",
            "dev",
            "near0",
            "nexthop",
            "via",
            "2001:db8::2",
        ],
        &[
            "route",
            "add",
            "default",
            "via",
            "192.0.2.253",
            "table",
            "100",
        ],
    ] {
        server.ip(route).expect("route");
    }
    assert_eq!(
        told(&server, &mut facts),
        ["192.0.2.253", "192.0.2.254", "2001:db8::2", "fe80::1"]
            .map(|gateway| format!("{gateway}: default gateway on near0"))
    );
}

#[test]
fn live_flows_are_the_connections_with_other_machines() {
    let (server, client) = pair();
    let flows = || {
        server
            .inside(|| facts::live_flows().expect("flows"))
            .expect("namespace")
    };
    assert_eq!(flows(), []);
    let mut kept = Vec::new();
    for (host, from) in [(SERVER, CLIENT), ("2001:db8::1", "2001:db8::7")] {
        // A socket of both families has the IPv4 peer as a mapped address.
        let listener = server
            .inside(|| TcpListener::bind(("::", 8080)).expect("bind"))
            .expect("namespace");
        let near = client
            .inside(|| TcpStream::connect((host, 8080)).expect("connect"))
            .expect("namespace");
        let (far, _) = listener.accept().expect("accept");
        let local = SocketAddr::new(address(host), 8080);
        let remote = SocketAddr::new(address(from), near.local_addr().expect("address").port());
        let found = flows();
        assert!(
            found
                .iter()
                .any(|flow| (flow.protocol, flow.local, flow.remote) == (6, local, remote)),
            "{found:?}"
        );
        kept.push((near, far));
    }
    assert_eq!(flows().len(), 2);
    let inside = server
        .inside(|| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            let stream =
                TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
            (listener, stream)
        })
        .expect("namespace");
    assert_eq!(
        flows().len(),
        2,
        "the host's own conversations are left out"
    );
    drop((inside, kept));
}

#[test]
fn a_session_that_has_just_begun_is_protected_before_a_list_without_it_is_in_force() {
    let wire = Wire::new();
    let agent = wire.agent_with(
        "[protected_facts]\nssh_ports = [2222]\ngateways = false\ndns = false\nntp = false\nevery = \"1h\"\n",
    );
    let listener = wire
        .gateway
        .inside(|| TcpListener::bind((GATEWAY, 2222)).expect("bind"))
        .expect("namespace");
    let _client = begin_to_connect(
        &wire.outside,
        PARTNER,
        0,
        SocketAddr::new(address(GATEWAY), 2222),
    );
    let (_accepted, peer) = listener.accept().expect("accept");
    // This takes longer than facts stay young.
    assert!(!gets_through(&wire, STRANGER));
    let protected = || agent.status().expect("status")["protected_sources"].clone();
    let admin =
        json!({"prefix": format!("{ADMIN}/32"), "origins": ["`protected` of the configuration"]});
    let _shell = Shell::new(&format!("{PARTNER} {} {GATEWAY} 2222", peer.port()));
    assert_eq!(protected(), json!([admin]), "nobody has looked yet");

    let list = agent.folder().join("list.txt");
    std::fs::write(&list, "198.51.100.0/24\n").expect("list");
    let list = list.display().to_string();
    agent
        .command(&["allow", "replace", &list, "--force"])
        .expect("replace");
    let session = json!({"prefix": format!("{PARTNER}/32"), "origins": ["peer of a live SSH session (port 2222)"]});
    assert_eq!(protected(), json!([admin, session]));
    assert!(gets_through(&wire, PARTNER) && !gets_through(&wire, STRANGER));
    let said = agent.command(&["status"]).expect("status");
    assert!(
        said.contains(&format!("{PARTNER}/32"))
            && said.contains("peer of a live SSH session (port 2222)"),
        "{said}"
    );
}
