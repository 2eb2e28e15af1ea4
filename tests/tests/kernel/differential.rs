//! The loaded program and the verdict on the host are the same function.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use agent_ebpf::{
    layout::{MAPS, PROGRAM},
    packet::Source,
    verdict::{List, Policy, Rules, Verdict, decide},
};
use aya::{
    EbpfLoader,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use ipnet::IpNet;
use portcullis_agent::{
    datapath::{
        Datapath as _, Settings,
        mode::AttachMode,
        pins::Pins,
        xdp::{OBJECT, Options, XdpDatapath},
    },
    rule::{Action, Rule},
};
use portcullis_tests::{files, process::succeed};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// The kernel takes no shorter packet for a test run (`ETH_HLEN`).
const SHORTEST: usize = 14;

/// The same lists, searched the slow and plain way.
struct Host {
    policy: Policy,
    protected: Vec<IpNet>,
    banned_networks: Vec<IpNet>,
    allowed: Vec<IpNet>,
    banned: Vec<IpAddr>,
}

impl Rules for Host {
    fn policy(&self) -> Policy {
        self.policy
    }

    fn lists(&self, list: List, source: Source) -> bool {
        let prefixes: &[IpNet] = match list {
            List::Protected => &self.protected,
            List::Banned => &self.banned_networks,
            List::Allowed => &self.allowed,
        };
        prefixes
            .iter()
            .any(|prefix| prefix.contains(&address(source)))
    }

    fn bans(&self, source: Source) -> bool {
        self.banned.contains(&address(source))
    }
}

fn address(source: Source) -> IpAddr {
    match source {
        Source::V4(address) => address.into(),
        Source::V6(address) => address.into(),
    }
}

/// A BPF file system of the test's own.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// xorshift64*: the same packets in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }
}

fn random_packet(random: &mut Random) -> Vec<u8> {
    let mut packet: Vec<u8> = match random.below(4) {
        0 => vec![0x01, 0x80, 0xc2, 0, 0, random.byte() & 0x1f],
        _ => vec![2, 0, 0, 0, 0, 1],
    };
    packet.extend_from_slice(&[2, 0, 0, 0, 0, 2]);
    for _ in 0..random.of(&[0, 0, 0, 1, 2, 3]) {
        packet.extend_from_slice(&random.of(&[[0x81, 0], [0x88, 0xa8]]));
        packet.extend_from_slice(&[0, 7]);
    }
    match random.below(8) {
        0 => packet.extend_from_slice(&random.of(&[
            [0x08, 0x06],
            [0x88, 0xcc],
            [0x88, 0x09],
            [0, 38],
            [0x12, 0x34],
        ])),
        1..4 => {
            packet.extend_from_slice(&[0x08, 0]);
            packet.extend_from_slice(&[0x40 + random.of(&[5, 5, 5, 6, 15, 4]), 0, 0, 40, 0, 1]);
            packet.extend_from_slice(&random.of(&[[0, 0], [0x40, 0], [0x20, 0], [0, 9]]));
            packet.extend_from_slice(&[64, random.of(&[6, 17, 1]), 0, 0]);
            packet.extend_from_slice(&[
                203,
                0,
                random.of(&[113, 114]),
                random.of(&[7, 66, 130, 10]),
            ]);
        }
        _ => {
            packet.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0]);
            let headers: Vec<u8> = (0..random.of(&[0, 0, 1, 2, 8, 9]))
                .map(|_| random.of(&[0, 43, 44, 51, 60, 135, 139, 140]))
                .collect();
            let mut chain = headers.clone();
            chain.push(random.of(&[6, 58, 58, 59]));
            packet.extend_from_slice(&[chain[0], random.of(&[255, 254])]);
            if random.below(4) == 0 {
                packet.extend_from_slice(&[
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0xff,
                    0xff,
                    203,
                    0,
                    113,
                    random.of(&[7, 66]),
                ]);
            } else {
                packet.extend_from_slice(&[
                    0x20,
                    1,
                    0x0d,
                    0xb8,
                    0,
                    random.of(&[1, 2]),
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    random.of(&[7, 66]),
                ]);
            }
            packet.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            for (header, next) in headers.iter().zip(&chain[1..]) {
                let words = random.of(&[0_u8, 1, 2]);
                let length = match header {
                    44 => 8,
                    51 => (usize::from(words) + 2) * 4,
                    _ => (usize::from(words) + 1) * 8,
                };
                let at = packet.len();
                packet.extend_from_slice(&[*next, words]);
                packet.extend_from_slice(&random.of(&[[0, 0], [0, 1], [0, 8]]));
                packet.resize(at + length.max(4), 0);
            }
            packet.push(random.of(&[132, 133, 135, 137, 138]));
        }
    }
    packet.resize(packet.len() + random.below(40), 0);
    // Now and then a flipped byte, or a cut.
    if random.below(4) == 0 {
        let at = random.below(packet.len());
        packet[at] = random.byte();
    }
    if random.below(4) == 0 {
        packet.truncate(random.below(packet.len()));
    }
    packet.resize(packet.len().max(SHORTEST), 0);
    packet
}

#[test]
fn the_loaded_program_decides_as_the_host_does() {
    let folder = files::folder("differential").unwrap();
    let mount = folder.path().join("bpf");
    std::fs::create_dir(&mount).unwrap();
    succeed(
        std::process::Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&mount),
    )
    .expect("these tests need root");
    let _mounted = Mounted(mount.clone());

    let nets = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().unwrap())
            .collect::<Vec<IpNet>>()
    };
    let everything = Policy {
        drop_fragments: true,
        drop_long_extension_chains: true,
        pass_other_ethernet: true,
        ..Policy::default()
    };
    for policy in [Policy::default(), everything] {
        let host = Host {
            policy,
            protected: nets(&["203.0.113.10/32"]),
            banned_networks: nets(&["203.0.113.128/25", "203.0.113.66/32", "2001:db8:1::42/128"]),
            allowed: nets(&["203.0.113.0/24", "2001:db8:1::/48"]),
            banned: Vec::new(),
        };
        let rules: Arc<[Rule]> = [
            (&host.protected, Action::Protect),
            (&host.banned_networks, Action::Ban),
            (&host.allowed, Action::Allow(None)),
        ]
        .into_iter()
        .flat_map(|(prefixes, action)| {
            prefixes.iter().map(move |prefix| Rule {
                prefix: *prefix,
                action: action.clone(),
            })
        })
        .collect();
        let pins = Pins::lock(&mount.join("portcullis")).unwrap();
        let paths = MAPS.map(|map| (map.name, pins.map(map.name)));
        let options = Options {
            interfaces: Vec::new(),
            mode: AttachMode::Native,
            sample_one_in: 1,
            events_per_second: 100,
        };
        let mut datapath = XdpDatapath::open(&options, pins).unwrap();
        let settings = Settings {
            policy,
            ..Settings::default()
        };
        datapath.switch(rules, &settings).unwrap();
        let mut loader = EbpfLoader::new();
        for (name, path) in paths {
            loader.map_pin_path(name, path);
        }
        let mut loaded = loader.load(OBJECT).unwrap();
        let program: &mut Xdp = loaded.program_mut(PROGRAM).unwrap().try_into().unwrap();
        program.load().unwrap();

        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let before = datapath.counters().unwrap();
        let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
        for _ in 0..20_000 {
            let packet = random_packet(&mut random);
            let verdict = decide(packet.as_slice(), &host).verdict;
            *expected.entry(verdict.name()).or_default() += 1;
            let action = match verdict {
                Verdict::Pass(_) => XDP_PASS,
                Verdict::Drop(_) => XDP_DROP,
            };
            let ran = program
                .test_run(TestRunOptions {
                    data_in: Some(&packet),
                    ..TestRunOptions::default()
                })
                .unwrap();
            assert_eq!(ran.return_value, action, "{verdict:?} of {packet:02x?}");
        }
        let after = datapath.counters().unwrap();
        for (all_after, all_before) in [
            (&after.passed, &before.passed),
            (&after.dropped, &before.dropped),
        ] {
            for (reason, count) in all_after {
                let counted = count - all_before[reason];
                assert_eq!(
                    counted,
                    expected.get(reason.as_str()).copied().unwrap_or(0),
                    "{reason}, {policy:?}"
                );
            }
        }
        // The generator reaches what it is meant to reach.
        let seen = expected.len();
        assert!(seen >= 13, "only {seen} reasons: {expected:?}");
    }
}
