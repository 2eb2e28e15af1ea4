//! Answers of a running agent: `why` over the loaded program, `watch` and `top` over real drops.

use std::{
    fs,
    net::UdpSocket,
    process::{Command, Output},
    thread::{self, JoinHandle},
};

use portcullis_tests::{
    agent::Agent,
    process::{PATIENCE, finish_within, wait_for},
};
use serde_json::Value;

use crate::stage::{
    ADMIN, ADMIN_NEIGHBOUR, GATEWAY, PARTNER, PARTNER6, STRANGER, STRANGER6, Wire, address,
};

/// Exit code of `why` for a packet that would be dropped.
const DROPPED: i32 = 3;

fn run(agent: &Agent, arguments: &[&str]) -> Output {
    let mut command = Command::new(agent.program());
    command.args(arguments).arg("--socket").arg(&agent.socket);
    finish_within(&mut command, PATIENCE).unwrap()
}

/// What `why` says: the exit code, and the answer as JSON.
fn why(agent: &Agent, arguments: &[&str]) -> (i32, Value) {
    let output = run(agent, &[&["why", "--json"], arguments].concat());
    let reply = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{arguments:?}: {error}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    (output.status.code().unwrap(), reply)
}

/// Asks, and expects this verdict, no disagreement, and these words in the answer for people.
fn expect(agent: &Agent, arguments: &[&str], reason: &str, passes: bool, words: &[&str]) {
    let (exit, reply) = why(agent, arguments);
    assert_eq!(reply["reason"], reason, "{arguments:?}: {reply}");
    assert_eq!(reply["passes"], passes, "{arguments:?}: {reply}");
    assert_eq!(exit, if passes { 0 } else { DROPPED }, "{arguments:?}");
    assert_eq!(reply.get("disagreement"), None, "{arguments:?}: {reply}");
    let text = run(agent, &[&["why"], arguments].concat()).stdout;
    let text = String::from_utf8(text).unwrap();
    for word in words {
        assert!(text.contains(word), "{arguments:?}: {word} in {text}");
    }
}

fn send(wire: &Wire, from: &str, port: u16) {
    let socket = wire
        .outside
        .inside(|| UdpSocket::bind((address(from), 0)))
        .unwrap()
        .unwrap();
    socket
        .send_to(b"uninvited", (address(GATEWAY), port))
        .unwrap();
}

/// A watcher with these flags, which ends by itself.
fn watch(agent: &Agent, arguments: &[&str]) -> JoinHandle<Output> {
    let mut command = Command::new(agent.program());
    command
        .args(["watch", "--json"])
        .args(arguments)
        .arg("--socket")
        .arg(&agent.socket);
    thread::spawn(move || finish_within(&mut command, PATIENCE).unwrap())
}

/// The reports that a watcher printed.
fn reports(output: &Output) -> Vec<Value> {
    serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter::<Value>()
        .map(Result::unwrap)
        .filter(|line| line.get("tally").is_none())
        .collect()
}

#[test]
fn why_names_the_verdict_what_decided_and_what_would_let_the_packet_in() {
    let wire = Wire::new();
    let agent = wire.agent();
    agent
        .command(&["allow", "add", "198.51.100.0/24", "--comment", "Lab North"])
        .unwrap();
    agent
        .command(&["ban", STRANGER, "--for", "10m", "--reason", "scan"])
        .unwrap();
    expect(
        &agent,
        &["198.51.100.7", "--port", "22"],
        "allowed",
        true,
        &[
            "tcp/22 (ssh): PASSES",
            "198.51.100.0/24 in manual, \"Lab North\"",
            "gw0 enforced",
        ],
    );
    expect(
        &agent,
        &[PARTNER6, "--proto", "icmp"],
        "allowed",
        true,
        &["icmpv6"],
    );
    expect(
        &agent,
        &["198.51.101.7", "--port", "22"],
        "not_listed",
        false,
        &[
            "DROPPED",
            "to let in",
            "portcullis-agent allow add 198.51.101.7",
        ],
    );
    expect(&agent, &[STRANGER6], "not_listed", false, &["covered by"]);
    expect(
        &agent,
        &[STRANGER],
        "banned",
        false,
        &[
            "192.0.2.66/32 banned by root until",
            "\"scan\"",
            "unban 192.0.2.66/32",
        ],
    );
    expect(
        &agent,
        &[ADMIN],
        "protected",
        true,
        &["192.0.2.10/32 protected: "],
    );
    expect(&agent, &[ADMIN_NEIGHBOUR], "not_listed", false, &[]);
}

#[test]
fn why_names_entries_that_limit_and_deny_with_all_that_is_known_of_them() {
    let wire = Wire::new();
    let agent = wire.agent();
    let entry = [
        "198.51.100.0/24",
        "--scope",
        "tcp/22,udp/5000-5010",
        "--owner",
        "Lab",
    ];
    let terms = ["--ticket", "NET-12", "--expires", "2099-12-31"];
    agent
        .command(&[&["allow", "add"], &entry[..], &terms].concat())
        .unwrap();
    agent
        .command(&["allow", "deny", "198.51.100.64/26"])
        .unwrap();
    let known = [
        "decided by 198.51.100.0/24 in manual, tcp/22,udp/5000-5010, owner Lab, ticket NET-12, until 2100-01-01",
        "by root)",
    ];
    let ask = |address: &str, proto: &str, port: &str, reason: &str, passes, words: &[&str]| {
        let arguments = [address, "--proto", proto, "--port", port];
        expect(&agent, &arguments, reason, passes, words);
    };
    ask("198.51.100.7", "tcp", "22", "allowed", true, &known);
    ask("198.51.100.7", "udp", "5010", "allowed", true, &known);
    ask("198.51.100.7", "udp", "5011", "out_of_scope", false, &known);
    ask(
        "198.51.100.7",
        "udp",
        "22",
        "out_of_scope",
        false,
        &["allow add 198.51.100.7 --scope udp/22"],
    );
    ask(
        "198.51.100.64",
        "tcp",
        "22",
        "denied",
        false,
        &["allow remove 198.51.100.64/26"],
    );
    ask("198.51.100.63", "tcp", "22", "allowed", true, &[]);
    expect(
        &agent,
        &["198.51.100.7", "--fragment"],
        "allowed",
        true,
        &[],
    );
    expect(
        &agent,
        &["198.51.100.7"],
        "out_of_scope",
        false,
        &["ask again with --proto and --port"],
    );
    // The answer names the revision that brought the entry, and later ones leave that as it is.
    let since = || {
        let reply = why(&agent, &["198.51.100.7", "--port", "22"]).1;
        reply["decided_by"]["since"]["revision"].as_u64().unwrap()
    };
    let first = since();
    agent.command(&["allow", "add", "203.0.113.0/24"]).unwrap();
    assert_eq!(since(), first);
    // What the answer advises lets the packet in.
    agent
        .command(&["allow", "add", "198.51.100.7", "--scope", "udp/22"])
        .unwrap();
    ask(
        "198.51.100.7",
        "udp",
        "22",
        "allowed",
        true,
        &["198.51.100.7/32 in manual, udp/22"],
    );
}

#[test]
fn a_reply_passes_and_why_says_that_it_does_only_as_one() {
    let wire = Wire::new();
    let agent = Agent::start_configured(
        wire.place(),
        &["gw0"],
        &[address(ADMIN)],
        "learn_replies = true\n",
        "",
    )
    .unwrap();
    let arguments = |port| {
        [
            STRANGER,
            "--proto",
            "udp",
            "--from-port",
            "53",
            "--port",
            port,
        ]
    };
    expect(&agent, &arguments("5555"), "not_listed", false, &[]);
    let socket = wire
        .gateway
        .inside(|| UdpSocket::bind((address(GATEWAY), 5555)))
        .unwrap()
        .unwrap();
    socket.send_to(b"query", (address(STRANGER), 53)).unwrap();
    expect(
        &agent,
        &arguments("5555"),
        "reply",
        true,
        &["only as a reply"],
    );
    expect(&agent, &arguments("5556"), "not_listed", false, &[]);
    // A ban cuts replies off too.
    agent
        .command(&["ban", STRANGER, "--for", "10m", "--force"])
        .unwrap();
    expect(&agent, &arguments("5555"), "banned", false, &[]);
}

#[test]
fn why_asks_about_fragments_and_tags_as_well() {
    let wire = Wire::new();
    let agent = wire.agent();
    for address in [PARTNER, PARTNER6] {
        expect(
            &agent,
            &[address, "--fragment"],
            "allowed",
            true,
            &["a later fragment"],
        );
        expect(
            &agent,
            &[address, "--vlan", "7,8"],
            "allowed",
            true,
            &["VLAN 7 in 8"],
        );
        expect(
            &agent,
            &[address, "--vlan", "7,8,9"],
            "too_many_tags",
            false,
            &["VLAN"],
        );
    }
    expect(&agent, &[STRANGER, "--fragment"], "not_listed", false, &[]);
    let wrong = run(&agent, &["why", PARTNER, "--proto", "icmp", "--port", "22"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("icmp has no ports"));
}

#[test]
fn asking_counts_nothing_and_reports_nothing() {
    let wire = Wire::new();
    let agent = wire.agent();
    agent.command(&["ban", STRANGER, "--for", "10m"]).unwrap();
    let counts = || {
        let status = agent.status().unwrap();
        [
            "/counters/passed/allowed",
            "/counters/passed/protected",
            "/counters/dropped/banned",
        ]
        .map(|counter| status.pointer(counter).and_then(Value::as_u64).unwrap())
    };
    let before = counts();
    let watcher = watch(&agent, &["--reason", "banned", "--for", "3s"]);
    for _ in 0..10 {
        for source in [PARTNER, ADMIN, STRANGER] {
            why(&agent, &[source, "--port", "22", "--syn"]);
        }
    }
    assert_eq!(counts(), before);
    assert!(reports(&watcher.join().unwrap()).is_empty());
    // The same packet from a wire is counted and reported.
    let watcher = watch(&agent, &["--reason", "banned", "--count", "1"]);
    wait_for("a report", || {
        send(&wire, STRANGER, 4000);
        watcher.is_finished().then_some(())
    })
    .unwrap();
    assert_eq!(reports(&watcher.join().unwrap())[0]["source"], STRANGER);
    assert!(counts()[2] > before[2]);
}

#[test]
fn the_last_drop_of_an_address_is_told() {
    let wire = Wire::new();
    let agent = wire.agent();
    assert_eq!(why(&agent, &[STRANGER]).1.get("last_drop"), None);
    let reply = wait_for("the report to be read", || {
        send(&wire, STRANGER, 4000);
        let reply = why(&agent, &[STRANGER]).1;
        reply.get("last_drop").is_some().then_some(reply)
    })
    .unwrap();
    let report = &reply["last_drop"]["report"];
    assert_eq!(report["destination_port"], 4000);
    assert_eq!(report["reason"], "not_listed");
    assert_eq!(why(&agent, &[ADMIN_NEIGHBOUR]).1.get("last_drop"), None);
}

#[test]
fn a_watcher_sees_what_it_asked_for_and_not_the_nearest_other() {
    let wire = Wire::new();
    let agent = wire.agent();
    let filters: [(&[&str], &str, u64); 4] = [
        (&["--source", STRANGER], "/source", 0),
        (
            &["--source", "192.0.2.66/32", "--port", "4001"],
            "/destination_port",
            4001,
        ),
        (
            &[
                "--proto",
                "udp",
                "--source",
                "192.0.2.0/24",
                "--port",
                "4000",
            ],
            "/destination_port",
            4000,
        ),
        (
            &["--interface", "gw0", "--dropped", "--port", "4001"],
            "/destination_port",
            4001,
        ),
    ];
    let watchers: Vec<JoinHandle<Output>> = filters
        .iter()
        .map(|(filter, ..)| watch(&agent, &[filter, &["--count", "4"][..]].concat()))
        .collect();
    wait_for("the reports", || {
        for source in [STRANGER, ADMIN_NEIGHBOUR] {
            for port in [4000, 4001] {
                send(&wire, source, port);
            }
        }
        watchers.iter().all(JoinHandle::is_finished).then_some(())
    })
    .unwrap();
    for ((filter, pointer, port), watcher) in filters.into_iter().zip(watchers) {
        let found = reports(&watcher.join().unwrap());
        assert_eq!(found.len(), 4, "{filter:?}");
        for report in found {
            match port {
                0 => assert_eq!(report["source"], STRANGER, "{filter:?}: {report}"),
                port => assert_eq!(report.pointer(pointer), Some(&port.into()), "{filter:?}"),
            }
        }
    }
    let nothing: [&[&str]; 3] = [
        &["--reason", "banned"],
        &["--interface", "gw1"],
        &["--monitored"],
    ];
    for nothing in nothing {
        let watcher = watch(&agent, &[nothing, &["--for", "2s"]].concat());
        while !watcher.is_finished() {
            send(&wire, STRANGER, 4000);
            thread::sleep(std::time::Duration::from_millis(100));
        }
        let output = watcher.join().unwrap();
        assert!(output.status.success());
        assert!(reports(&output).is_empty(), "{nothing:?}");
    }
}

/// One packet of a capture: its length, and what was kept of it. Written apart from the agent's writer.
fn packets(capture: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let word = |at: usize| u32::from_ne_bytes(capture[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xa1b2_3c4d, "pcap with nanoseconds");
    assert_eq!(word(20), 1, "LINKTYPE_ETHERNET");
    let mut at = 24;
    let mut packets = Vec::new();
    while at < capture.len() {
        let (nanoseconds, kept, length) = (word(at + 4), word(at + 8), word(at + 12));
        assert!(nanoseconds < 1_000_000_000 && kept <= word(16) && kept <= length);
        let kept = usize::try_from(kept).unwrap();
        packets.push((length, capture[at + 16..at + 16 + kept].to_vec()));
        at += 16 + kept;
    }
    packets
}

/// Puts a frame on the outside's interface as it is.
fn put(wire: &Wire, frame: &[u8]) {
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let program = format!(
        "import socket\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
         s.bind(('out0', 0))\n\
         s.send(bytes.fromhex('{hex}'))\n"
    );
    let output = finish_within(
        wire.outside.command("python3").args(["-c", &program]),
        PATIENCE,
    )
    .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_capture_has_the_heads_of_the_frames_that_were_dropped() {
    let wire = Wire::new();
    let agent = wire.agent();
    let frame = |host: u8, vlan: &[u8], payload: usize| {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend_from_slice(vlan);
        frame.extend_from_slice(&[8, 0, 0x45, 0]);
        let length = u16::try_from(28 + payload).unwrap();
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&[0, 1, 0, 0, 64, 17, 0, 0]);
        frame.extend_from_slice(&[203, 0, 113, host, 192, 0, 2, 1, 0x9c, 0x40, 0x0f, 0xa0]);
        frame.extend_from_slice(&(length - 20).to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend((0..payload).map(|index| u8::try_from(index % 251).unwrap()));
        frame
    };
    let file = agent.folder().join("dropped.pcap");
    let tag = [0x81, 0, 0, 7];
    for (host, vlan, payload) in [(1, &[][..], 20), (2, &[], 600), (3, &tag, 600)] {
        let (sent, source) = (frame(host, vlan, payload), format!("203.0.113.{host}"));
        let path = file.display().to_string();
        let watcher = watch(
            &agent,
            &["--source", &source, "--count", "1", "--pcap", &path],
        );
        wait_for("a report", || {
            put(&wire, &sent);
            watcher.is_finished().then_some(())
        })
        .unwrap();
        assert!(watcher.join().unwrap().status.success());
        let found = packets(&fs::read(&file).unwrap());
        let kept = sent.len().min(agent_ebpf::layout::HEAD_BYTES);
        assert_eq!(
            found,
            [(u32::try_from(sent.len()).unwrap(), sent[..kept].to_vec())]
        );
    }
}

#[test]
fn top_shows_rates_and_the_most_dropped() {
    let wire = Wire::new();
    let agent = wire.agent();
    let frame = wait_for("the drops on the screen", || {
        for _ in 0..5 {
            send(&wire, STRANGER, 4000);
        }
        send(&wire, ADMIN_NEIGHBOUR, 4000);
        let output = run(&agent, &["top", "--once"]);
        assert!(output.status.success());
        let frame = String::from_utf8(output.stdout).unwrap();
        (frame.contains("not_listed") && frame.contains(STRANGER)).then_some(frame)
    })
    .unwrap();
    assert_eq!(frame.lines().count(), 24, "{frame}");
    assert!(
        frame.lines().all(|line| line.chars().count() <= 80),
        "{frame}"
    );
    assert!(frame.contains("192.0.2.0/24") && frame.contains("gw0: enforcing"));
    let line = run(&agent, &["top", "--once", "--json"]).stdout;
    let sample: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(sample["top"]["sources"][0]["source"], STRANGER);
    assert!(sample["status"]["generation"].as_u64().unwrap() > 0);
    let refused = run(&agent, &["top"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not a terminal"));
}
