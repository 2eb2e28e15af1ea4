//! A flood of spoofed sources through a veth pair: CPU time of the receiver for each packet that it drops.
//!
//! The receiver takes packets on a kernel thread of its own core, so that its time is only that; the sender is a program that the kernel
//! runs on live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`), faster than any receiver.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, XdpMode};
use ipnet::IpNet;
use portcullis_agent::datapath::Datapath as _;
use portcullis_tests::report::{Measure, Report, median};

use crate::{
    lab::{self, BpfFs, IN, OUT, Wire},
    lookup::short,
    peers::{self, Peer},
    picture::Curves,
    program::{Programs, SOURCES, frame},
    rules::{self, Side},
    traffic::{Kind, Members, Random},
};

const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];
/// How long each side is flooded in a round.
const WINDOW: Duration = Duration::from_millis(700);
/// Frames of one call of the sender.
const FRAMES: u32 = 1 << 17;
const FRAMES_AT_ONCE: u32 = 64;

/// Gate and stretch over count-and-drop, and of the better nftables over ours.
fn bars(size: usize) -> [(f64, f64); 2] {
    match size {
        1_000 => [(1.3, 1.1), (6.0, 9.0)],
        100_000 => [(1.6, 1.3), (8.0, 12.0)],
        _ => [(2.4, 1.8), (9.0, 14.0)],
    }
}

pub(crate) fn run(rounds: u32, report: &mut Report, curves: &mut Curves) -> Result<()> {
    for size in SIZES {
        let list = rules::prefixes(false, size);
        let floods = Members::new(&list).sources(Kind::Miss, SOURCES, &mut Random::new(11));
        let near = Members::new(&list).sources(Kind::Near, SOURCES, &mut Random::new(13));
        let [over_floor, over_peer] = bars(size);
        let samples = sides(rounds, &list, &floods)?;
        let what = format!("veth flood {}", short(size));
        let nanoseconds = |side: usize| {
            samples
                .iter()
                .filter_map(|round| round.get(side).copied())
                .fold(f64::MAX, f64::min)
        };
        for (side, name) in NAMES.iter().enumerate() {
            curves.flood(name, size, nanoseconds(side));
            report.results.push(Measure::plain(
                format!("{what}: {name}"),
                nanoseconds(side),
                "ns",
            ));
        }
        report.results.push(Measure::at_most(
            format!("{what}: over count-and-drop"),
            median(samples.iter().map(|[floor, ours, ..]| ours / floor)),
            "x",
            over_floor.0,
            over_floor.1,
        ));
        report.results.push(Measure::at_least(
            format!("{what}: the better nftables over ours"),
            median(
                samples
                    .iter()
                    .map(|[_, ours, ingress, raw, _]| ingress.min(*raw) / ours),
            ),
            "x",
            over_peer.0,
            over_peer.1,
        ));
        report.results.push(Measure::plain(
            format!("{what}: ipset over ours"),
            median(samples.iter().map(|[_, ours, _, _, ipset]| ipset / ours)),
            "x",
        ));
        let near = sides(1, &list, &near)?;
        for [floor, ours, ingress, ..] in near {
            report.results.push(Measure::plain(
                format!(
                    "{what}, near misses: over floor, nftables over ours {:.1}x",
                    ingress / ours
                ),
                ours / floor,
                "x",
            ));
        }
    }
    Ok(())
}

const NAMES: [&str; 5] = [
    "count and drop",
    "compiled table",
    "nftables netdev ingress",
    "nftables inet raw",
    "iptables raw + ipset",
];

/// Nanoseconds a packet for each of [`NAMES`], for each round.
fn sides(rounds: u32, list: &[IpNet], sources: &[[u64; 2]]) -> Result<Vec<[f64; 5]>> {
    let mut samples = vec![[0.0; 5]; rounds as usize];
    // The programs and each peer have a wire of their own: rules of one must not cost the other anything.
    let mut floor = Receiver::floor()?;
    let mut ours = Receiver::agent(list)?;
    let mut peers = Peer::ALL
        .iter()
        .map(|peer| Receiver::peer(*peer, list))
        .collect::<Result<Vec<_>>>()?;
    for sample in &mut samples {
        let receivers = [&mut floor, &mut ours].into_iter().chain(peers.iter_mut());
        for (result, receiver) in sample.iter_mut().zip(receivers) {
            *result = receiver.nanoseconds(sources)?;
        }
    }
    Ok(samples)
}

/// One side: a wire whose receiver drops what is not listed.
struct Receiver {
    wire: Wire,
    napi: u32,
    sender: Programs,
    // What enforces, kept alive; the maps are pinned on the file system.
    _enforcing: Enforcing,
    _bpf: BpfFs,
}

#[expect(dead_code, reason = "held for what its end would undo")]
enum Enforcing {
    Programs(Box<Programs>),
    Agent(Box<portcullis_agent::datapath::xdp::XdpDatapath>),
    System,
}

impl Receiver {
    fn floor() -> Result<Self> {
        Self::new(|wire, bpf| {
            drop(rules::open(bpf, Side::Compiled)?);
            let mut programs = Programs::load(&bpf.pins(Side::Compiled.name()))?;
            wire.receiver.inside(|| -> Result<()> {
                programs
                    .program("count_and_drop")?
                    .attach(IN, XdpMode::Driver)?;
                Ok(())
            })??;
            Ok(Enforcing::Programs(Box::new(programs)))
        })
    }

    fn agent(list: &[IpNet]) -> Result<Self> {
        Self::new(|wire, bpf| {
            let datapath = wire.receiver.inside(|| -> Result<_> {
                let mut datapath = rules::open_on(bpf, Side::Compiled, &[IN])?;
                datapath.switch(rules::allow(list), &rules::plain())?;
                let state = datapath.tend();
                rules::must_be_native(&state)?;
                Ok(datapath)
            })??;
            Ok(Enforcing::Agent(Box::new(datapath)))
        })
    }

    fn peer(peer: Peer, list: &[IpNet]) -> Result<Self> {
        Self::new(|wire, _| {
            peer.enforce(&wire.receiver, list)?;
            Ok(Enforcing::System)
        })
    }

    fn new(enforce: impl FnOnce(&Wire, &BpfFs) -> Result<Enforcing>) -> Result<Self> {
        let bpf = BpfFs::mount()?;
        let wire = Wire::new()?;
        let enforcing = enforce(&wire, &bpf)?;
        let napi = wire.thread_receiver()?;
        let sending = bpf.pins("sending");
        drop(rules::open_at(&bpf, "sending", Side::Compiled, &[])?);
        let mut sender = Programs::load(&sending)?;
        let out = wire
            .sender
            .inside(|| portcullis_agent::interface::query(OUT))??
            .context("the sender's interface is not there")?;
        sender.set_out(out.index)?;
        Ok(Self {
            wire,
            napi,
            sender,
            _enforcing: enforcing,
            _bpf: bpf,
        })
    }

    /// Floods for [`WINDOW`]; the receiver's CPU time for each packet.
    fn nanoseconds(&mut self, sources: &[[u64; 2]]) -> Result<f64> {
        let Self {
            wire, napi, sender, ..
        } = self;
        sender.set_sources(sources, false)?;
        let mut frame = frame(false);
        if let Some(destination) = frame.get_mut(..6) {
            destination.copy_from_slice(&wire.hardware_address()?);
        }
        let stop = AtomicBool::new(false);
        let (begun, ended) = thread::scope(|scope| -> Result<_> {
            let sending = scope.spawn(|| {
                wire.sender.inside(|| -> Result<()> {
                    let _pinned = lab::stay_on_sending_core()?;
                    let program = sender.program("flood4")?;
                    while !stop.load(Ordering::Relaxed) {
                        program.test_run(TestRunOptions {
                            data_in: Some(&frame),
                            repeat: FRAMES,
                            attrs: TestRunAttrs::new().xdp_live_frames(FRAMES_AT_ONCE),
                            ..TestRunOptions::default()
                        })?;
                    }
                    Ok(())
                })?
            });
            let measured = wire.receiver.inside(|| -> Result<_> {
                // The first packets find cold caches.
                thread::sleep(WINDOW / 4);
                let begun = (lab::on_cpu(*napi)?, Wire::received()?);
                thread::sleep(WINDOW);
                Ok((begun, (lab::on_cpu(*napi)?, Wire::received()?)))
            });
            stop.store(true, Ordering::Relaxed);
            sending
                .join()
                .map_err(|_| anyhow!("the sender panicked"))??;
            measured?
        })?;
        let packets = ended.1.saturating_sub(begun.1);
        anyhow::ensure!(packets > 10_000, "only {packets} packets arrived");
        Ok((ended.0 - begun.0) as f64 / packets as f64)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // The namespace takes its rules with it; a huge set is freed here, and not in someone's measurement.
        let _ = peers::clear(&self.wire.receiver);
    }
}
