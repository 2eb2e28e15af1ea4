//! A journal in a process that is killed, and on a real file system that runs full.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use portcullis_journal::{
    AppendError, Event, EventKind, Journal, Options, Recovery,
    tree::key::{public_key_path, read_verifier_keys},
    verify::directory::verify,
};

/// Names the directory of the log to the child process.
const CHILD: &str = "PORTCULLIS_JOURNAL_TEST_CHILD";

fn event() -> Event {
    let mut event = Event::new(EventKind::ConnectionOpen);
    event.body.insert("filler".into(), "x".repeat(200).into());
    event
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
}

fn child(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test's own path"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, directory);
    command
}

fn open(directory: &Path) -> (Journal, Recovery) {
    Journal::open(Options {
        segment_bytes: 50_000,
        ..Options::default_in(directory)
    })
    .expect("a journal")
}

/// Appends until it is killed, and prints the number of each record that is durable.
#[test]
fn appends_until_killed() {
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let (journal, _) = open(Path::new(&directory));
    runtime().block_on(async {
        loop {
            let batch: Vec<_> = (0..20).map(|_| journal.append(event())).collect();
            for one in batch {
                let id = one.await.expect("a record");
                writeln!(std::io::stdout(), "durable {}", id.0).expect("a reader");
            }
        }
    });
}

#[test]
fn a_killed_process_leaves_every_record_that_it_reported() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("log");
    let mut expected = 0;
    for round in 0..15_u64 {
        let mut process = child("appends_until_killed", &directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output"))
            .lines()
            .map_while(Result::ok);
        let number = |line: &String| {
            line.rsplit_once("durable ")
                .and_then(|(_, n)| n.parse::<u64>().ok())
        };
        let enough = expected + 10 + round * 37;
        let mut reported = lines
            .by_ref()
            .filter_map(|line| number(&line))
            .find(|&n| n >= enough)
            .expect("records");
        process.kill().expect("it lives");
        // What it had printed, but nobody had read yet, counts too.
        reported = lines
            .filter_map(|line| number(&line))
            .fold(reported, u64::max);
        process.wait().expect("it ended");

        let (journal, recovery) = open(&directory);
        assert!(
            recovery.records > reported,
            "record {reported} is lost: {recovery:?}"
        );
        expected = recovery.records;
        runtime().block_on(journal.close()).unwrap();
    }
    let keys = read_verifier_keys(&public_key_path(
        &Options::default_in(&directory).signing_key,
    ))
    .unwrap();
    let report = verify(&directory, keys, None).unwrap();
    assert!(report.is_sound(), "{report:#?}");
}

/// Fills the file system that the parent mounted, and frees it again.
#[test]
fn runs_full_and_comes_back() {
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let directory = Path::new(&directory);
    let options = Options {
        reserve_bytes: 64 << 10,
        ..Options::default_in(directory.join("log"))
    };
    let key = public_key_path(&options.signing_key);
    let (journal, _) = Journal::open(options).expect("a journal");
    runtime().block_on(async {
        journal.append(event()).await.expect("a record");
        let mut file = std::fs::File::create(directory.join("ballast")).expect("ballast");
        let full = std::io::copy(&mut std::io::repeat(0).take(64 << 20), &mut file);
        assert!(full.is_err(), "the file system has no limit");
        drop(file);
        // What is left of the last page.
        let mut last = Ok(portcullis_journal::RecordId(0));
        for _ in 0..200 {
            last = journal.append(event()).await;
        }
        assert!(matches!(last, Err(AppendError::Write { .. })), "{last:?}");
        assert!(!journal.status().healthy);
        std::fs::remove_file(directory.join("ballast")).expect("ballast");
        journal.append(event()).await.expect("service returns");
        assert!(journal.status().healthy);
        journal.close().await.expect("the end");
    });
    let log = directory.join("log");
    let disk: Vec<_> = portcullis_journal::read::records(&log)
        .expect("a log")
        .map(|record| record.expect("a record"))
        .filter(|record| record.event == "log.disk")
        .filter_map(|record| record.outcome)
        .collect();
    assert_eq!(disk, ["failure", "success"]);
    let report = verify(&log, read_verifier_keys(&key).expect("a key"), None).expect("a log");
    assert!(report.is_sound(), "{report:#?}");
    writeln!(std::io::stdout(), "ran full and came back").expect("a reader");
}

#[test]
fn a_full_file_system_refuses_and_recovers() {
    let home = tempfile::tempdir().unwrap();
    let inner = child("runs_full_and_comes_back", home.path());
    // A mount namespace of its own: the file system is gone with the process.
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount -t tmpfs -o size=2m tmpfs \"$0\" || exit 77; exec \"$@\"")
        .arg(home.path())
        .arg(inner.get_program())
        .args(inner.get_args())
        .env(CHILD, home.path())
        .output();
    let output = match output {
        Ok(output) if output.status.code() != Some(77) && !denied(&output.stderr) => output,
        Ok(_) | Err(_) if std::env::var_os("CI").is_none() => {
            println!(
                "not run: a_full_file_system_refuses_and_recovers needs root for a mount of its own"
            );
            return;
        }
        other => panic!("no mount namespace: {other:?}"),
    };
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains("ran full and came back"),
        "{text}"
    );
}

fn denied(stderr: &[u8]) -> bool {
    String::from_utf8_lossy(stderr).contains("unshare")
}
