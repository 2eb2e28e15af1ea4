//! What all row groups share: files, timed sessions, sides that take turns.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, wait_for};
use portcullis_tests::report::Report;
use portcullis_tests::{files, locate};
use tempfile::TempDir;

use super::client;
use super::side::Side;
use crate::process;

/// The cipher of every connection that a client or OpenSSH opens.
pub(super) const CIPHER: &str = "aes256-gcm@openssh.com";

/// Longest session: ten streams on a slow machine.
pub(super) const SESSION: Duration = Duration::from_secs(10 * PATIENCE.as_secs());

/// The client's folder, the program under measurement and the peers' key.
pub(super) struct Lab {
    folder: TempDir,
    rounds: u32,
    program: PathBuf,
    client: PathBuf,
    key: PathBuf,
    random: RefCell<Vec<u64>>,
}

/// What a stretch of work took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    /// Seconds of processor time of the server, logins and all.
    pub(super) processor: f64,
}

impl Cost {
    /// Without what a session costs that does nothing.
    pub(super) fn beyond(self, idle: f64) -> Self {
        Self {
            processor: self.processor - idle,
            ..self
        }
    }
}

/// One upload and one download of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfers {
    pub(super) put: Cost,
    pub(super) get: Cost,
}

impl Lab {
    /// With the release build of the proxy.
    pub(super) fn new(rounds: u32) -> Result<Self> {
        let folder = files::folder("bench")?;
        Ok(Self {
            rounds,
            program: locate::release_binary("portcullis-proxy")?,
            client: client::program()?,
            key: files::ssh_key(folder.path(), "bench")?,
            random: RefCell::default(),
            folder,
        })
    }

    pub(super) fn place(&self) -> Place<'static> {
        Place::Loopback
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// The client of this benchmark.
    pub(super) fn client(&self) -> &Path {
        &self.client
    }

    /// The private key that opens every peer.
    pub(super) fn key(&self) -> &Path {
        &self.key
    }

    /// A folder of the client's, made anew.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(folder)
    }

    /// A file of so many MiB of random bytes; made once for each size.
    pub(super) fn random_file(&self, mebibytes: u64) -> Result<PathBuf> {
        let file = self.folder.path().join(format!("random-{mebibytes}"));
        if !self.random.borrow().contains(&mebibytes) {
            io::copy(
                &mut File::open("/dev/urandom")?.take(mebibytes << 20),
                &mut File::create(&file)?,
            )
            .context("write the random file")?;
            self.random.borrow_mut().push(mebibytes);
        }
        Ok(file)
    }

    /// Measures each side once in every round, another one first each time, and says what came out.
    pub(super) fn turns<S, T, const N: usize>(
        &self,
        sides: &[S; N],
        mut measure: impl FnMut(&S) -> Result<T>,
        say: impl Fn(&[T; N]) -> String,
    ) -> Result<Vec<[T; N]>> {
        (0..self.rounds as usize)
            .map(|round| {
                let mut taken = Vec::with_capacity(N);
                let in_turn = sides.iter().enumerate().cycle().skip(round % N).take(N);
                for (position, side) in in_turn {
                    taken.push((position, measure(side)?));
                }
                taken.sort_by_key(|(position, _)| *position);
                let values: Vec<T> = taken.into_iter().map(|(_, value)| value).collect();
                let values =
                    <[T; N]>::try_from(values).map_err(|_| anyhow!("a side is missing"))?;
                println!("  round {}: {}", round + 1, say(&values));
                Ok(values)
            })
            .collect()
    }

    /// Uploads the file and downloads it again, each in a session of its own; both copies are compared with it.
    pub(super) fn transfer(&self, side: &Side<'_>, file: &Path) -> Result<Transfers> {
        let remote = format!("{}/copy.bin", side.remote);
        let stored = side.stored.join("copy.bin");
        let copy = self.folder.path().join("copy.bin");
        let idle = self.session(side, "", "pwd")?.0.processor;

        let put = format!("put {} {remote}", file.display());
        let put = self.session(side, "", &put)?.0.beyond(idle);
        same(file, &stored)?;
        let get = format!("get {remote} {}", copy.display());
        let get = self.session(side, "", &get)?.0.beyond(idle);
        same(file, &copy)?;

        fs::remove_file(&copy)?;
        fs::remove_file(&stored)?;
        Ok(Transfers { put, get })
    }

    /// Runs a command of OpenSSH's sftp after the line `before` and returns what it took, and what the client printed.
    pub(super) fn session(
        &self,
        side: &Side<'_>,
        before: &str,
        command: &str,
    ) -> Result<(Cost, String)> {
        let marks = self.folder("marks")?.join("times");
        let mark = mark(&marks);
        let connection = side.connection()?;
        let started = side.processor()?;
        let output = connection.sftp(
            self.place(),
            &format!("{before}\n{mark}\n{command}\n{mark}\n"),
            SESSION,
        )?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "sftp {command:?}: {printed}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let cost = Cost {
            processor: side.processor()? - started,
            seconds: between(&marks)?,
        };
        Ok((cost, printed))
    }

    /// Runs the command of each stream at the same time, each in a session of its own that has logged in before.
    pub(super) fn streams(&self, side: &Side<'_>, commands: &[String]) -> Result<Cost> {
        let marks = self.folder("marks")?;
        let go = marks.join("go");
        let started = side.processor()?;
        let (begin, ends) = thread::scope(|scope| {
            let sessions: Vec<_> = commands
                .iter()
                .enumerate()
                .map(|(number, command)| {
                    let (ready, end) = (
                        marks.join(format!("ready-{number}")),
                        marks.join(format!("end-{number}")),
                    );
                    let batch = format!(
                        "!touch {}\n!until test -e {}; do sleep 0.01; done\n{command}\n{}\n",
                        ready.display(),
                        go.display(),
                        mark(&end)
                    );
                    scope.spawn(move || -> Result<f64> {
                        let output = side.connection()?.sftp(Place::Loopback, &batch, SESSION)?;
                        if !output.status.success() {
                            bail!(
                                "stream {number}: {}",
                                String::from_utf8_lossy(&output.stderr)
                            );
                        }
                        time(fs::read_to_string(&end)?.trim())
                    })
                })
                .collect();
            let all_ready = wait_for("all streams to be logged in", || {
                (0..commands.len())
                    .all(|number| marks.join(format!("ready-{number}")).exists())
                    .then_some(())
            });
            // Those that are ready must not wait for ever.
            let begin = now();
            let started = File::create(&go).context("start the streams");
            let ends: Result<Vec<f64>> = sessions
                .into_iter()
                .map(|session| session.join().map_err(|_| anyhow!("a stream panicked"))?)
                .collect();
            all_ready.and(started)?;
            ends.map(|ends| (begin, ends))
        })?;
        let last = ends.into_iter().fold(begin, f64::max);
        Ok(Cost {
            seconds: last - begin,
            processor: side.processor()? - started,
        })
    }

    /// What was the same for all rows.
    pub(super) fn conditions(&self, report: &mut Report) {
        report.condition("cipher", CIPHER);
        report.condition("client", client_version());
        report.condition(
            "peer",
            "sshd with the external sftp-server, no journal, no fsync",
        );
        report.condition("proxy", "release build, journal on, key and password");
        report.condition(
            "rounds",
            format!(
                "{}, order turning, median of the rounds' ratios",
                self.rounds
            ),
        );
        report.condition(
            "timing",
            "inside one logged-in session; CPU of the serving processes, less that of a session that transfers nothing",
        );
        report.condition(
            "processors",
            thread::available_parallelism()
                .map_or(0, usize::from)
                .to_string(),
        );
        report.condition("file system", file_system(self.folder.path()));
        for (name, file) in [
            ("kernel", "/proc/sys/kernel/osrelease"),
            ("load at start", "/proc/loadavg"),
        ] {
            let text = fs::read_to_string(file).unwrap_or_default();
            report.condition(name, text.trim());
        }
    }
}

/// Fails unless both files have the same bytes.
pub(super) fn same(one: &Path, other: &Path) -> Result<()> {
    process::run_quietly(Command::new("cmp").arg(one).arg(other))
        .map(drop)
        .context("the transfer changed the file")
}

/// A line of sftp or lftp that adds the time to a file.
pub(super) fn mark(file: &Path) -> String {
    format!("!date +%s.%N >> {}", file.display())
}

/// Seconds between the two marks in a file.
pub(super) fn between(marks: &Path) -> Result<f64> {
    let marks = fs::read_to_string(marks).context("read the times")?;
    let times: Vec<f64> = marks.lines().map(time).collect::<Result<_>>()?;
    match times.as_slice() {
        [start, end] => Ok(end - start),
        _ => bail!("the session left {} times instead of two", times.len()),
    }
}

fn time(text: &str) -> Result<f64> {
    text.parse()
        .with_context(|| format!("{text:?} is a time in seconds"))
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

fn client_version() -> String {
    Command::new("ssh")
        .arg("-V")
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
