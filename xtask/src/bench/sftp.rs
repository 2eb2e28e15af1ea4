//! Bulk transfer: the proxy with its journal on a local folder, and OpenSSH's sshd with its external
//! sftp-server, same file, same client, same cipher, same disk, in turns.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::report::{Measure, Report, median};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use portcullis_tests::{files, locate};

use crate::{process, setup};

const MEBIBYTES: u32 = 512;
const CIPHER: &str = "aes256-gcm@openssh.com";

pub(super) fn run(rounds: u32) -> Result<Report> {
    setup::ensure(setup::For::Bench)?;
    process::run(process::cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "portcullis-proxy",
        "--package",
        "portcullis-journal",
    ]))?;

    let here = files::folder("bench")?;
    let file = here.path().join("random.bin");
    println!("make {MEBIBYTES} MiB of random bytes");
    io::copy(
        &mut File::open("/dev/urandom")?.take(u64::from(MEBIBYTES) * 1024 * 1024),
        &mut File::create(&file)?,
    )
    .context("write the random file")?;

    let storage = files::folder("bench-storage")?;
    let proxy = Plan::of(Place::Loopback, locate::release_binary("portcullis-proxy")?)?
        .backend("disk", Backend::local(storage.path()))
        .start()?;
    let account = proxy.account("bench", &[Mount::all("/disk", "disk", "/")])?;
    let sshd = Openssh::start(Place::Loopback, Subsystem::External, &account.key)?;
    let mut portcullis = Portcullis {
        proxy,
        account,
        storage: storage.path().join("copy.bin"),
    };
    let mut openssh = Peer {
        key: portcullis.account.key.clone(),
        storage: sshd.home.join("copy.bin"),
        server: sshd,
    };

    let bench = Bench {
        file: &file,
        here: here.path(),
    };
    let mut samples: Vec<(Sample, Sample)> = Vec::new();
    for round in 1..=rounds {
        let pair = if round % 2 == 1 {
            let peer = bench.measure(&mut openssh)?;
            (bench.measure(&mut portcullis)?, peer)
        } else {
            let ours = bench.measure(&mut portcullis)?;
            (ours, bench.measure(&mut openssh)?)
        };
        println!(
            "round {round}: put {:.0} against {:.0} MiB/s, get {:.0} against {:.0} MiB/s",
            speed(pair.0.put.seconds),
            speed(pair.1.put.seconds),
            speed(pair.0.get.seconds),
            speed(pair.1.get.seconds)
        );
        samples.push(pair);
    }
    let verified = portcullis.proxy.verify(&portcullis.proxy.journal)?;
    ensure!(
        verified.status.success(),
        "portcullis-verify: {}",
        String::from_utf8_lossy(&verified.stdout)
    );
    Ok(report(rounds, &samples, here.path()))
}

fn report(rounds: u32, samples: &[(Sample, Sample)], folder: &Path) -> Report {
    let mut report = Report::default();
    report.condition("file", format!("{MEBIBYTES} MiB, random"));
    report.condition("cipher", CIPHER);
    report.condition("client", program_version("ssh", "-V"));
    report.condition(
        "peer",
        "sshd with the external sftp-server, no journal, no fsync",
    );
    report.condition("proxy", "release build, local backend, journal on");
    report.condition(
        "rounds",
        format!("{rounds}, order alternating, median of the rounds' ratios"),
    );
    report.condition(
        "timing",
        "inside one logged-in session; CPU less that of a session that transfers nothing",
    );
    report.condition(
        "processors",
        std::thread::available_parallelism()
            .map_or(0, usize::from)
            .to_string(),
    );
    report.condition("file system", file_system(folder));
    report.condition(
        "kernel",
        fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim(),
    );

    let over = |value: &dyn Fn(&(Sample, Sample)) -> f64| median(samples.iter().map(value));
    report.results = vec![
        Measure::ratio(
            "sftp.put.speed",
            over(&|(ours, peer)| peer.put.seconds / ours.put.seconds),
            0.5,
            2.0,
        ),
        Measure::ratio(
            "sftp.get.speed",
            over(&|(ours, peer)| peer.get.seconds / ours.get.seconds),
            0.5,
            1.3,
        ),
        Measure::plain(
            "sftp.put.proxy",
            over(&|(ours, _)| speed(ours.put.seconds)),
            "MiB/s",
        ),
        Measure::plain(
            "sftp.put.openssh",
            over(&|(_, peer)| speed(peer.put.seconds)),
            "MiB/s",
        ),
        Measure::plain(
            "sftp.get.proxy",
            over(&|(ours, _)| speed(ours.get.seconds)),
            "MiB/s",
        ),
        Measure::plain(
            "sftp.get.openssh",
            over(&|(_, peer)| speed(peer.get.seconds)),
            "MiB/s",
        ),
        Measure::plain(
            "sftp.put.proxy.cpu",
            over(&|(ours, _)| per_gibibyte(ours.put.processor)),
            "s/GiB",
        ),
        Measure::plain(
            "sftp.put.openssh.cpu",
            over(&|(_, peer)| per_gibibyte(peer.put.processor)),
            "s/GiB",
        ),
        Measure::plain(
            "sftp.get.proxy.cpu",
            over(&|(ours, _)| per_gibibyte(ours.get.processor)),
            "s/GiB",
        ),
        Measure::plain(
            "sftp.get.openssh.cpu",
            over(&|(_, peer)| per_gibibyte(peer.get.processor)),
            "s/GiB",
        ),
    ];
    report
}

/// One transfer.
struct Transfer {
    seconds: f64,
    /// Seconds of processor time that the server spent on it.
    processor: f64,
}

/// One side in one round.
struct Sample {
    put: Transfer,
    get: Transfer,
}

/// A server under measurement.
trait Side {
    fn connection(&mut self) -> Result<OpensshConnection>;
    /// The uploaded file's name as the client says it.
    fn remote(&self) -> String;
    /// The uploaded file on this machine.
    fn stored(&self) -> &Path;
    /// Seconds of processor time since the server started, ended sessions included.
    fn processor(&self) -> Result<f64>;
}

struct Portcullis {
    proxy: Proxy,
    account: Account,
    storage: PathBuf,
}

impl Side for Portcullis {
    fn connection(&mut self) -> Result<OpensshConnection> {
        OpensshConnection::new(&self.proxy, &mut self.account, Factors::KeyThenPassword)
    }

    fn remote(&self) -> String {
        "/disk/copy.bin".to_owned()
    }

    fn stored(&self) -> &Path {
        &self.storage
    }

    fn processor(&self) -> Result<f64> {
        processor_time(self.proxy.process.id())
    }
}

struct Peer {
    server: Openssh,
    key: PathBuf,
    storage: PathBuf,
}

impl Side for Peer {
    fn connection(&mut self) -> Result<OpensshConnection> {
        OpensshConnection::to_peer(self.server.address, &self.server.host_key, &self.key)
    }

    fn remote(&self) -> String {
        self.storage.display().to_string()
    }

    fn stored(&self) -> &Path {
        &self.storage
    }

    /// sshd's own time and that of its sessions. The process that does a session's encryption outlives the one that
    /// sshd waits for, so its time is counted by the shell that is process 1 of sshd's namespace.
    fn processor(&self) -> Result<f64> {
        let [shell] = children(self.server.process.id())?[..] else {
            bail!("the guard of sshd's namespace has not one child");
        };
        let listener = wait_for("sshd to have no session", || {
            let below = children(shell).ok()?;
            let [listener] = below[..] else { return None };
            children(listener).ok()?.is_empty().then_some(listener)
        })?;
        Ok(processor_time(shell)? + processor_time(listener)?)
    }
}

struct Bench<'a> {
    file: &'a Path,
    here: &'a Path,
}

impl Bench<'_> {
    fn measure(&self, side: &mut dyn Side) -> Result<Sample> {
        let (_, idle) = self.session(side, "pwd")?;
        let copy = self.here.join("copy.bin");

        let put = format!("put {} {}", self.file.display(), side.remote());
        let (seconds, processor) = self.session(side, &put)?;
        same(self.file, side.stored())?;
        let put = Transfer {
            seconds,
            processor: processor - idle,
        };

        let get = format!("get {} {}", side.remote(), copy.display());
        let (seconds, processor) = self.session(side, &get)?;
        same(self.file, &copy)?;
        let get = Transfer {
            seconds,
            processor: processor - idle,
        };

        fs::remove_file(&copy)?;
        fs::remove_file(side.stored())?;
        Ok(Sample { put, get })
    }

    /// Seconds that one command took within its session, and processor seconds of the whole session.
    fn session(&self, side: &mut dyn Side, command: &str) -> Result<(f64, f64)> {
        let marks = self.here.join("marks");
        let _ = fs::remove_file(&marks);
        let mark = format!("!date +%s.%N >> {}", marks.display());
        let connection = side.connection()?.option(&format!("Ciphers={CIPHER}"));
        let before = side.processor()?;
        let output = connection.sftp(
            Place::Loopback,
            &format!("{mark}\n{command}\n{mark}\n"),
            10 * PATIENCE,
        )?;
        if !output.status.success() {
            bail!(
                "sftp {command:?}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let processor = side.processor()? - before;
        let marks = fs::read_to_string(&marks).context("read the times")?;
        let times: Vec<f64> = marks.lines().map(str::parse).collect::<Result<_, _>>()?;
        let [start, end] = times.as_slice() else {
            bail!("the session left {} times instead of two", times.len());
        };
        Ok((end - start, processor))
    }
}

fn children(process: u32) -> Result<Vec<u32>> {
    let list = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))
        .with_context(|| format!("list the children of process {process}"))?;
    Ok(list
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?)
}

fn same(one: &Path, other: &Path) -> Result<()> {
    process::run_quietly(Command::new("cmp").arg(one).arg(other))
        .map(drop)
        .context("the transfer changed the file")
}

/// User and system time of a process and of its children that ended, in seconds (proc(5), fields
/// 14 to 17 of stat, in ticks of 10 ms).
fn processor_time(process: u32) -> Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("the name ends with )")?;
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|ticks| ticks.parse::<u32>().ok())
        .sum();
    Ok(f64::from(ticks) / TICKS_PER_SECOND)
}

fn speed(seconds: f64) -> f64 {
    f64::from(MEBIBYTES) / seconds
}

fn per_gibibyte(seconds: f64) -> f64 {
    seconds * 1024.0 / f64::from(MEBIBYTES)
}

fn program_version(program: &str, flag: &str) -> String {
    Command::new(program)
        .arg(flag)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned())
        .unwrap_or_default()
}

fn file_system(folder: &Path) -> String {
    let folder = folder.display().to_string();
    process::ask("stat", &["-f", "-c", "%T", &folder])
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
