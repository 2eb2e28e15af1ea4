//! Measures appends, the check at open, and verification, on the file system of the given directory.
//!
//! `cargo run --release -p portcullis-journal --example throughput -- DIR [RECORDS]`; DIR must not exist.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use portcullis_journal::{
    Event, EventKind, Intent, Journal, OperationId, Options, SessionId, Urgency, Verdict,
    record::untrusted,
    tree::key::{public_key_path, read_verifier_keys},
    verify::directory::verify,
};

struct Write(u64);

impl Intent for Write {
    fn event(&self) -> Event {
        let mut event = Event::new(EventKind::OperationIntent);
        event.session = Some(SessionId([0x5a; 16]));
        event.operation = Some(OperationId(self.0));
        event.source = "192.0.2.7:50022".parse().ok();
        event.outcome = Some(Verdict::Allow);
        event.body.insert("op".into(), "write".into());
        event.body.insert("handle".into(), untrusted(b"0001"));
        event.body.insert("offset".into(), (self.0 * 32768).into());
        event.body.insert("len".into(), 32768.into());
        event
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("the directory is missing")?);
    let records: u64 = arguments
        .next()
        .map_or(Ok(1_000_000), |text| text.parse())?;
    let options = Options::default_in(&directory);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()?;
    let mut out = io::stdout();

    let (journal, _) = Journal::open(options.clone())?;
    for in_flight in [1_u64, 64, 1024] {
        let count = if in_flight == 1 {
            records / 200
        } else {
            records / 2
        };
        let cpu = cpu_time();
        let (took, mut waits) = runtime.block_on(append(&journal, count, in_flight))?;
        let cpu = cpu_time() - cpu;
        waits.sort();
        let at = |share: f64| {
            waits
                .get((waits.len() as f64 * share) as usize)
                .copied()
                .unwrap_or_default()
        };
        writeln!(
            out,
            "{in_flight:>5} in flight: {:>8.0} records/s, {:>5.2} us of CPU a record, wait p50 {:?} p99 {:?}",
            count as f64 / took.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / count as f64,
            at(0.5),
            at(0.99),
        )?;
    }
    runtime.block_on(journal.close())?;

    let (began, cpu) = (Instant::now(), cpu_time());
    let (journal, recovery) = Journal::open(options.clone())?;
    print("open", recovery.records, began.elapsed(), cpu_time() - cpu)?;
    runtime.block_on(journal.close())?;

    let keys = read_verifier_keys(&public_key_path(&options.signing_key))?;
    let (began, cpu) = (Instant::now(), cpu_time());
    let report = verify(&directory, keys, None)?;
    print("verify", report.records, began.elapsed(), cpu_time() - cpu)?;
    writeln!(out, "sound: {}", report.is_sound())?;
    Ok(())
}

fn print(what: &str, records: u64, took: Duration, cpu: Duration) -> io::Result<()> {
    writeln!(
        io::stdout(),
        "{what}: {:.0} records/s, {:.2} us of CPU a record",
        records as f64 / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / records as f64
    )
}

/// Keeps `in_flight` intents waiting, in one task; returns how long each waited.
async fn append(
    journal: &Journal,
    count: u64,
    in_flight: u64,
) -> Result<(Duration, Vec<Duration>), portcullis_journal::AppendError> {
    let began = Instant::now();
    let mut waiting = std::collections::VecDeque::new();
    let mut waits = Vec::new();
    for n in 0..count {
        waiting.push_back((
            Instant::now(),
            journal.record_intent(Write(n), Urgency::Now),
        ));
        let oldest = if waiting.len() as u64 >= in_flight {
            waiting.pop_front()
        } else {
            None
        };
        if let Some((since, pending)) = oldest {
            pending.await?;
            waits.push(since.elapsed());
        }
    }
    for (since, pending) in waiting {
        pending.await?;
        waits.push(since.elapsed());
    }
    Ok((began.elapsed(), waits))
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
