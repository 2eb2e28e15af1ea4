//! Where the measurements happen: namespaces and a wire of their own, gone with the value.

use std::{fs, path::PathBuf, process::Command, thread};

use anyhow::{Context as _, Result, ensure};
use portcullis_agent::datapath::pins::Pins;
use portcullis_tests::{
    files,
    netns::{End, Namespace, veth_pair},
    process::succeed,
};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use crate::traffic::Random;

/// A BPF file system.
#[derive(Debug)]
pub(crate) struct BpfFs {
    folder: TempDir,
}

impl BpfFs {
    pub(crate) fn mount() -> Result<Self> {
        let folder = files::folder("bench-bpf")?;
        succeed(
            Command::new("mount")
                .args(["-t", "bpf", "bpf"])
                .arg(folder.path()),
        )
        .context("mount a BPF file system (this needs root)")?;
        Ok(Self { folder })
    }

    /// A directory for pins.
    pub(crate) fn pins(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn lock(&self, name: &str) -> Result<Pins> {
        Pins::lock(&self.pins(name)).context("use the pin directory")
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.folder.path()).status();
    }
}

/// A sender, a receiver, and a veth pair of one queue between them.
pub(crate) struct Wire {
    pub(crate) sender: Namespace,
    pub(crate) receiver: Namespace,
}

/// The interface of the receiver.
pub(crate) const IN: &str = "in0";
/// The interface of the sender.
pub(crate) const OUT: &str = "out0";
/// The address of the receiver.
pub(crate) const RECEIVER: &str = "192.0.2.1";
/// The address of the sender.
pub(crate) const SENDER: &str = "192.0.2.2";
/// The core of the sender; the receiver has the other.
const SENDING_CORE: usize = 0;
pub(crate) const RECEIVING_CORE: usize = 1;

impl Wire {
    pub(crate) fn new() -> Result<Self> {
        ensure!(
            thread::available_parallelism()?.get() > RECEIVING_CORE,
            "sender and receiver want a core each"
        );
        let wire = Self {
            sender: Namespace::new("bench-out")?,
            receiver: Namespace::new("bench-in")?,
        };
        veth_pair(
            End {
                namespace: &wire.receiver,
                interface: IN,
                addresses: &[(RECEIVER.parse()?, 24)],
            },
            End {
                namespace: &wire.sender,
                interface: OUT,
                addresses: &[(SENDER.parse()?, 24)],
            },
        )?;
        for (namespace, interface) in [(&wire.receiver, IN), (&wire.sender, OUT)] {
            for setting in ["rx", "tx"] {
                succeed(
                    namespace
                        .command("ethtool")
                        .args(["-L", interface, setting, "1"]),
                )
                .or_else(|error| {
                    // One queue is what it may have already.
                    let text = format!("{error:#}");
                    if text.contains("no channel parameters changed") {
                        Ok(String::new())
                    } else {
                        Err(error)
                    }
                })?;
            }
        }
        Ok(wire)
    }

    /// Makes the receiver take its packets on a kernel thread of the receiving core; gives the thread's process id.
    pub(crate) fn thread_receiver(&self) -> Result<u32> {
        // Without a program on the hook only GRO makes a veth poll.
        succeed(
            self.receiver
                .command("ethtool")
                .args(["-K", IN, "gro", "on"]),
        )?;
        // Unlike `nsenter --net`, this mounts the namespace's own /sys.
        succeed(
            Command::new("ip")
                .args(["netns", "exec", self.receiver.name(), "sh", "-c"])
                .arg(format!("echo 1 > /sys/class/net/{IN}/threaded")),
        )?;
        let mut found = None;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            // Of several with this name the youngest is this wire's.
            if name.starts_with(&format!("napi/{IN}-")) {
                found = found.max(Some(id));
            }
        }
        let id = found.context("the kernel made no NAPI thread")?;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        sched_setaffinity(pid, &core(RECEIVING_CORE)).context("pin the NAPI thread")?;
        Ok(id)
    }

    /// Packets that the receiver's interface took, whatever became of them. Call inside the receiver's namespace.
    pub(crate) fn received() -> Result<u64> {
        let text = fs::read_to_string("/proc/thread-self/net/dev")?;
        text.lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{IN}:")))
            .and_then(|counts| counts.split_whitespace().nth(1)?.parse().ok())
            .context("the receiver's interface is not there")
    }

    /// The hardware address of the receiver. Call inside its namespace.
    pub(crate) fn hardware_address(&self) -> Result<[u8; 6]> {
        let shown = succeed(self.receiver.command("ip").args(["-j", "link", "show", IN]))?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let text = shown
            .pointer("/0/address")
            .and_then(serde_json::Value::as_str)
            .context("an interface has an address")?;
        let mut address = [0; 6];
        for (byte, part) in address.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(part, 16)?;
        }
        Ok(address)
    }
}

fn core(number: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(number);
    set
}

/// A thread that stays on one core until the value is dropped. What it starts meanwhile stays there too.
#[must_use]
pub(crate) struct Pinned(CpuSet);

impl Pinned {
    fn to(number: usize) -> Result<Self> {
        let before = sched_getaffinity(None).context("ask for the thread's cores")?;
        sched_setaffinity(None, &core(number)).context("pin the thread")?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Keeps the calling thread on the sender's core.
pub(crate) fn stay_on_sending_core() -> Result<Pinned> {
    Pinned::to(SENDING_CORE)
}

/// Keeps the calling thread on the receiver's core.
pub(crate) fn stay_on_receiving_core() -> Result<Pinned> {
    Pinned::to(RECEIVING_CORE)
}

/// Nanoseconds that a thread has run.
pub(crate) fn on_cpu(id: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/schedstat"))?;
    text.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .context("schedstat begins with a number")
}

/// Nanoseconds that the calling thread has run.
pub(crate) fn own_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Nanoseconds of a load that the next one depends on, at random places of 16 MiB: what each step of a lookup in a large table costs here.
pub(crate) fn dependent_load() -> f64 {
    const WORDS: usize = 1 << 21;
    const LOADS: u32 = 1 << 20;
    // One word of each cache line names the next; a step through all of them that looks like none.
    let lines = WORDS / 8;
    let mut words = vec![0_usize; WORDS];
    let (mut line, mut random) = (0, Random::new(3));
    let mut order: Vec<usize> = (1..lines).collect();
    while !order.is_empty() {
        let next = order.swap_remove(random.below(order.len()));
        if let Some(word) = words.get_mut(line * 8) {
            *word = next * 8;
        }
        line = next;
    }
    let begin = std::time::Instant::now();
    let last = (0..LOADS).fold(0, |at, _| words.get(at).copied().unwrap_or(0));
    let nanoseconds = begin.elapsed().as_nanos() as f64 / f64::from(LOADS);
    std::hint::black_box(last);
    nanoseconds
}
