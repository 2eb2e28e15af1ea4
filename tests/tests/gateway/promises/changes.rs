//! Kills at random points of a load that changes names and attributes: what lies on the disk afterwards, against what the
//! journal says.
//!
//! Each path is made once and goes once, so that one look at it tells which operations were done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use portcullis_tests::account::{Account, Mount};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::resume::{rounds, seed};
use crate::wire::{Wire, kind, log_in, status};

const ROOT: &str = "/inbox";
const SESSIONS: usize = 3;
/// Changes that one session makes in a row before it begins anew, elsewhere.
const CHANGES: u64 = 10;
/// Times that only SETSTAT gives to a file: no clock of this century shows them.
const FIRST_TIME: u32 = 1_000_000;

/// Makes, fills, renames, marks and removes, until the server dies.
async fn change_without_end(
    proxy: SocketAddr,
    alice: Account,
    base: String,
    mut random: fastrand::Rng,
    answered: Arc<AtomicU64>,
) -> Result<()> {
    let connection = log_in(proxy, &alice).await?;
    let mut wire = connection.sftp().await?;
    for number in 0_u32.. {
        let folder = format!("{base}-{number:04}");
        let inside = |name: &str| format!("{folder}/{name}");
        let (sent, named, gone) = (inside("sent"), inside("named"), inside("gone"));
        let empty = inside("empty");
        let done = |status| {
            ensure!(status == Some(status::OK), "{folder}: {status:?}");
            answered.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        done(make_folder(&mut wire, &folder).await?)?;
        let length = random.usize(64..100 << 10);
        upload(&mut wire, &sent, length).await?;
        done(Some(status::OK))?;
        done(rename(&mut wire, &sent, &named).await?)?;
        done(set_time(&mut wire, &named, FIRST_TIME + number).await?)?;
        upload(&mut wire, &gone, 64).await?;
        done(Some(status::OK))?;
        done(wire.path_status(kind::REMOVE, gone.as_bytes()).await?)?;
        done(make_folder(&mut wire, &empty).await?)?;
        done(wire.path_status(kind::RMDIR, empty.as_bytes()).await?)?;
        done(wire.path_status(kind::REMOVE, named.as_bytes()).await?)?;
        done(wire.path_status(kind::RMDIR, folder.as_bytes()).await?)?;
    }
    Ok(())
}

async fn make_folder(wire: &mut Wire, path: &str) -> Result<Option<u32>> {
    let reply = wire
        .ask(kind::MKDIR, |frame| frame.string(path.as_bytes()).u32(0))
        .await?;
    Ok(reply.status())
}

async fn rename(wire: &mut Wire, from: &str, to: &str) -> Result<Option<u32>> {
    let reply = wire
        .ask(kind::RENAME, |frame| {
            frame.string(from.as_bytes()).string(to.as_bytes())
        })
        .await?;
    Ok(reply.status())
}

async fn set_time(wire: &mut Wire, path: &str, time: u32) -> Result<Option<u32>> {
    const TIMES: u32 = 0x8;
    let reply = wire
        .ask(kind::SETSTAT, |frame| {
            frame.string(path.as_bytes()).u32(TIMES).u32(time).u32(time)
        })
        .await?;
    Ok(reply.status())
}

/// The file begins with its own path, so that it tells under any name which operation put it there.
async fn upload(wire: &mut Wire, path: &str, length: usize) -> Result<()> {
    let mut content = format!("{path}\n").into_bytes();
    content.resize(length, b'.');
    wire.put(path.as_bytes(), &content).await
}

/// Reads a journal whose segments stay as they are written, a part at a time.
#[derive(Debug, Default)]
struct Reader(BTreeMap<PathBuf, usize>);

impl Reader {
    /// The records since the last time.
    fn next(&mut self, journal: &Path) -> Result<Vec<Value>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(journal)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "jsonl") {
                segments.push(path);
            }
        }
        segments.sort();
        let mut records = Vec::new();
        for segment in segments {
            let text = fs::read(&segment)?;
            let read = self.0.entry(segment).or_default();
            let rest = text.get(*read..).context("a segment became shorter")?;
            let end = rest.iter().rposition(|byte| *byte == b'\n');
            let whole = rest.get(..end.map_or(0, |end| end + 1)).unwrap_or_default();
            for line in whole.split_inclusive(|byte| *byte == b'\n') {
                records.push(serde_json::from_slice(line)?);
            }
            *read += whole.len();
        }
        Ok(records)
    }
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn body<'a>(record: &'a Value, field: &str) -> &'a Value {
    let body = record.get("body").and_then(|body| body.get(field));
    body.unwrap_or(&Value::Null)
}

fn path_of<'a>(record: &'a Value, field: &str) -> &'a str {
    body(record, field).as_str().unwrap_or_default()
}

type Name = (String, u64);

fn name(record: &Value) -> Option<Name> {
    let operation = record.get("op_id")?.as_u64()?;
    Some((text(record, "session_id").to_owned(), operation))
}

/// What the journal says of an operation's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Success,
    Failure,
    Unknown,
    /// It has no outcome.
    Nothing,
}

/// What the journal says of one path.
#[derive(Debug, Default)]
struct Story {
    made: Vec<End>,
    unmade: Vec<End>,
    times: Vec<(u64, End)>,
    renamed_from: Vec<String>,
    /// Bytes that were announced for an upload to it.
    announced: Option<u64>,
    /// Bytes that such an upload got for certain.
    written: u64,
}

/// The records of one round.
#[derive(Debug)]
struct Round {
    stories: BTreeMap<String, Story>,
    /// What no outcome tells the end of, or more than one does.
    faults: Vec<String>,
    after_the_crash: Vec<Value>,
}

impl Round {
    fn read(records: &[Value]) -> Self {
        let mut ends: BTreeMap<Name, Vec<End>> = BTreeMap::new();
        let (mut faults, mut after_the_crash) = (Vec::new(), Vec::new());
        for record in records {
            let Some(name) = name(record) else { continue };
            match text(record, "event") {
                "op.intent" => drop(ends.entry(name).or_default()),
                "op.outcome" => {
                    let end = match text(record, "outcome") {
                        "success" => End::Success,
                        "unknown" => End::Unknown,
                        _ => End::Failure,
                    };
                    if text(record, "reason") == "gateway_crashed" {
                        after_the_crash.push(record.clone());
                    } else if end == End::Unknown {
                        faults.push(format!("unknown without a crash: {record}"));
                    }
                    match ends.get_mut(&name) {
                        Some(ends) => ends.push(end),
                        None => faults.push(format!("an outcome without an intent: {record}")),
                    }
                }
                _ => {}
            }
        }
        for (name, ends) in &ends {
            if ends.len() != 1 {
                faults.push(format!("{name:?} ended so: {ends:?}"));
            }
        }
        let mut round = Self {
            stories: BTreeMap::new(),
            faults,
            after_the_crash,
        };
        let mut handles = BTreeMap::new();
        for record in records {
            if text(record, "event") != "op.intent" {
                continue;
            }
            let end = name(record)
                .and_then(|name| ends.get(&name)?.first().copied())
                .unwrap_or(End::Nothing);
            round.add(record, end, &mut handles);
        }
        round
    }

    fn add(&mut self, record: &Value, end: End, handles: &mut BTreeMap<Name, String>) {
        let path = path_of(record, "path").to_owned();
        let handle = body(record, "handle_id").as_u64();
        let handle = handle.map(|handle| (text(record, "session_id").to_owned(), handle));
        match body(record, "sftp_op").as_str().unwrap_or_default() {
            "open" => {
                self.story(&path).announced.get_or_insert(0);
                handles.extend(handle.map(|handle| (handle, path)));
            }
            "write" => {
                let Some(path) = handle.and_then(|handle| handles.get(&handle)) else {
                    return self.faults.push(format!("a handle without OPEN: {record}"));
                };
                let number = |field| body(record, field).as_u64().unwrap_or(0);
                let reach = number("offset") + number("len");
                let story = self.story(path);
                story.announced = story.announced.max(Some(reach));
                if end == End::Success {
                    story.written = story.written.max(reach);
                }
            }
            "close" => match handle.and_then(|handle| handles.get(&handle)) {
                Some(path) => self.story(path).made.push(end),
                None => self.faults.push(format!("a handle without OPEN: {record}")),
            },
            "mkdir" => self.story(&path).made.push(end),
            "remove" | "rmdir" => self.story(&path).unmade.push(end),
            "rename" | "posix_rename" => {
                self.story(&path).unmade.push(end);
                let to = self.story(path_of(record, "path2"));
                to.made.push(end);
                to.renamed_from.push(path);
            }
            "setstat" => {
                let time = body(record, "attrs").pointer("/times/1");
                let time = time.and_then(Value::as_u64).unwrap_or(0);
                self.story(&path).times.push((time, end));
            }
            // They change nothing.
            _ => {}
        }
    }

    fn story(&mut self, path: &str) -> &mut Story {
        self.stories.entry(path.to_owned()).or_default()
    }

    /// All in which the disk and the journal differ.
    fn violations(&self, disk: &Path) -> Result<Vec<String>> {
        let mut violations = self.faults.clone();
        let (seen, partials) = look(disk)?;
        let nothing = Story::default();
        let paths: BTreeSet<&String> = self.stories.keys().chain(seen.keys()).collect();
        for path in paths {
            let story = self.stories.get(path).unwrap_or(&nothing);
            let found = seen.get(path);
            let can = |ends: &[End]| ends.iter().any(|end| *end != End::Failure);
            let must = |ends: &[End]| ends.contains(&End::Success);
            let wrong = match found {
                Some(_) if !can(&story.made) => "is there, and nothing was to make it",
                Some(_) if must(&story.unmade) => "is there, and is said to be gone",
                None if must(&story.made) && !can(&story.unmade) => "is gone, and nothing was to",
                Some(_) | None => "",
            };
            if !wrong.is_empty() {
                violations.push(format!("{path} {wrong}: {story:?}"));
            }
            if let Some(found) = found {
                violations.extend(self.wrong_file(path, story, found));
            }
        }
        for (origin, length) in &partials {
            let announced = self.stories.get(origin).and_then(|story| story.announced);
            if announced.is_none_or(|announced| announced < *length) {
                violations.push(format!(
                    "a part of {origin} has {length} bytes, {announced:?} were announced"
                ));
            }
        }
        for record in &self.after_the_crash {
            violations.extend(wrong_look(record, disk)?);
        }
        Ok(violations)
    }

    fn wrong_file(&self, path: &str, story: &Story, found: &Seen) -> Option<String> {
        let is_marked = found.modified < 1_000_000_000;
        let marks = |time: u64, wanted: fn(End) -> bool| {
            let times = &story.times;
            times.iter().any(|(set, end)| *set == time && wanted(*end))
        };
        if is_marked && !marks(found.modified, |end| end != End::Failure) {
            return Some(format!("{path} has a time that nothing was to set"));
        }
        if !is_marked && story.times.iter().any(|(_, end)| *end == End::Success) {
            return Some(format!("{path} lacks the time that is said to be set"));
        }
        let Some(origin) = &found.origin else {
            return None;
        };
        if origin != path && !story.renamed_from.contains(origin) {
            return Some(format!(
                "{path} came from {origin}, and nothing was to rename"
            ));
        }
        let upload = self.stories.get(origin)?;
        if upload.announced != Some(found.length) || upload.written > found.length {
            return Some(format!("{path} has {} bytes: {upload:?}", found.length));
        }
        None
    }
}

/// What an unpublished upload was for, and its bytes.
type Partial = (String, u64);

/// What lies at a path.
#[derive(Debug)]
struct Seen {
    /// Where a file was uploaded to.
    origin: Option<String>,
    length: u64,
    modified: u64,
}

/// All that lies on the disk, by the path that the account sees; and the parts of uploads, with what they are parts of.
fn look(disk: &Path) -> Result<(BTreeMap<String, Seen>, Vec<Partial>)> {
    let (mut seen, mut partials) = (BTreeMap::new(), Vec::new());
    let mut folders = vec![disk.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, metadata) = (entry.path(), entry.metadata()?);
            let mut origin = None;
            if metadata.is_dir() {
                folders.push(path.clone());
            } else {
                let content = fs::read(&path)?;
                let line = content.split(|byte| *byte == b'\n').next();
                let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
                let is_part = entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with(".portcullis-");
                if is_part {
                    // One without a byte says nothing of itself.
                    partials.extend((!content.is_empty()).then_some((line, metadata.len())));
                    continue;
                }
                origin = Some(line);
            }
            let inside = path.strip_prefix(disk)?.display();
            seen.insert(
                format!("{ROOT}/{inside}"),
                Seen {
                    origin,
                    length: metadata.len(),
                    modified: u64::try_from(metadata.mtime())?,
                },
            );
        }
    }
    Ok((seen, partials))
}

/// Whether the next start saw something else than this test does.
fn wrong_look(record: &Value, disk: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    if text(record, "outcome") != "unknown" {
        wrong.push(format!("not unknown: {record}"));
    }
    let paths: &[&str] = match path_of(record, "sftp_op") {
        "mkdir" | "rmdir" | "remove" | "setstat" | "close" => &[""],
        "rename" | "posix_rename" => &["", "2"],
        "open" | "write" => &[],
        other => bail!("the load has no {other:?}: {record}"),
    };
    for suffix in paths {
        let field = |name: &str| body(record, &format!("{name}{suffix}"));
        let path = path_of(record, &format!("path{suffix}"));
        let Some(inside) = path.strip_prefix(ROOT) else {
            wrong.push(format!("no path: {record}"));
            continue;
        };
        let found = fs::symlink_metadata(disk.join(inside.trim_start_matches('/'))).ok();
        let state = if found.is_some() { "present" } else { "absent" };
        if field("state") != state {
            wrong.push(format!("{path} is {state}: {record}"));
        } else if let Some(found) = found {
            let time = u64::try_from(found.mtime())?;
            if (found.is_file() && *field("size") != found.len()) || *field("modified") != time {
                wrong.push(format!("{path} is {found:?}: {record}"));
            }
        }
    }
    Ok(wrong)
}

/// What a run met: the operations that a kill left without an outcome, by kind.
type Tally = BTreeMap<String, usize>;

struct Killing {
    proxy: Proxy,
    alice: Account,
    disk: tempfile::TempDir,
    runtime: Runtime,
    reader: Reader,
    random: fastrand::Rng,
    tally: Tally,
}

impl Killing {
    fn start(seed: u64) -> Result<Self> {
        let disk = files::folder("stored")?;
        let proxy = Plan::new(Place::Loopback)?
            .backend("disk", Backend::local(disk.path()))
            .start()?;
        let alice = proxy.account("alice", &[Mount::all(ROOT, "disk", ".")])?;
        // From the first restart on: the reader knows no sealed segments.
        let config = fs::read_to_string(&proxy.config)?;
        let plain = config.replace("[journal]\n", "[journal]\ncompression_level = 0\n");
        ensure!(plain != config, "there is no section of the journal");
        fs::write(&proxy.config, plain)?;
        Ok(Self {
            proxy,
            alice,
            disk,
            runtime: Runtime::new()?,
            reader: Reader::default(),
            random: fastrand::Rng::with_seed(seed),
            tally: Tally::new(),
        })
    }

    /// Kills once, and returns what was recorded meanwhile.
    fn kill(&mut self, round: usize) -> Result<Round> {
        let answered = Arc::new(AtomicU64::new(0));
        let mut load = JoinSet::new();
        for session in 0..SESSIONS {
            let changing = change_without_end(
                self.proxy.address,
                self.alice.clone(),
                format!("{ROOT}/{round:04}-{session}"),
                self.random.fork(),
                Arc::clone(&answered),
            );
            load.spawn_on(changing, self.runtime.handle());
        }
        let enough = self.random.u64(1..3 * CHANGES);
        wait_for("the moment of the kill", || {
            let has_begun = answered.load(Ordering::Relaxed) >= enough;
            (has_begun || self.runtime.block_on(ended(&mut load))).then_some(())
        })?;
        ensure!(
            answered.load(Ordering::Relaxed) >= enough,
            "the load ended early: {}",
            self.proxy.process.log()
        );
        std::thread::sleep(Duration::from_micros(self.random.u64(0..3000)));
        self.proxy.crash_and_restart()?;
        while let Some(changed) = self.runtime.block_on(load.join_next()) {
            ensure!(changed?.is_err(), "the load must have broken off");
        }
        Ok(Round::read(&self.reader.next(&self.proxy.journal)?))
    }

    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(self.disk.path())? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Whether one of the sessions has ended by itself.
async fn ended(load: &mut JoinSet<Result<()>>) -> bool {
    tokio::time::timeout(Duration::from_micros(200), load.join_next())
        .await
        .is_ok()
}

#[test]
fn after_kills_amid_changes_the_disk_is_what_the_journal_announced_and_says_of_what_was_under_way()
-> Result<()> {
    let (seed, rounds) = (seed()?, rounds()?);
    println!("PORTCULLIS_KILL_SEED={seed} PORTCULLIS_KILL_ROUNDS={rounds}");
    let mut killing = Killing::start(seed)?;
    let mut noticed = 0;
    for number in 0..rounds {
        let context = || format!("round {number} of PORTCULLIS_KILL_SEED={seed}");
        let round = killing.kill(number).with_context(context)?;
        let violations = round.violations(killing.disk.path())?;
        ensure!(
            violations.is_empty(),
            "{}: {} violations\n{}",
            context(),
            violations.len(),
            violations.join("\n")
        );
        for record in &round.after_the_crash {
            let operation = path_of(record, "sftp_op").to_owned();
            *killing.tally.entry(operation).or_default() += 1;
        }
        // The neighbour: of a journal that had not announced them, the same disk is held against it.
        let unannounced = Round::read(&[]).violations(killing.disk.path())?;
        noticed += usize::from(!unannounced.is_empty());
        killing.clear()?;
    }
    println!(
        "{rounds} kills left without an outcome: {:?}",
        killing.tally
    );
    let left: usize = killing.tally.values().sum();
    ensure!(
        left * 2 >= rounds && noticed * 2 >= rounds,
        "few kills fell into a change: {left} operations, {noticed} disks"
    );
    killing.proxy.journal_is_sound()
}
