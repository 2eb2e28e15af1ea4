//! Checks the whole journal from time to time, since a start reads only its end: what a disk or a hand did to old records
//! is known within days, and not when somebody needs them.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use portcullis_journal::{
    Event, EventKind, Journal, Verdict,
    record::untrusted,
    tree::key::{public_key_path, read_verifier_keys},
    verify::{Report, directory::verify},
};
use tokio::{sync::oneshot, time};

use crate::causes::chain;
use crate::{config::JournalConfig, metrics};

/// After a start the daemon has other things to do.
const FIRST: Duration = Duration::from_secs(600);
/// Of Linux: the lowest.
const PRIORITY: i32 = 19;
/// Bytes of a finding that are recorded.
const LONGEST_FINDING: usize = 1000;

/// Checks the journal ten minutes after the start and then every `config.verify_every`, and records what it found.
pub(super) async fn watch(journal: Journal, config: &JournalConfig) {
    let Some(every) = config.verify_every else {
        return;
    };
    let (directory, signing_key) = (config.directory.clone(), config.signing_key.clone());
    let mut next = time::Instant::now() + FIRST.min(every);
    loop {
        time::sleep_until(next).await;
        next += every;
        check(&journal, &directory, &signing_key).await;
    }
}

async fn check(journal: &Journal, directory: &Path, signing_key: &Path) {
    let began = Instant::now();
    let mut found = look(directory, signing_key).await;
    if found.is_err() {
        // A segment that was deleted meanwhile, because it was too old, is gone from the next listing.
        found = look(directory, signing_key).await;
    }
    let event = event(&found, began.elapsed());
    let is_sound = event.outcome == Some(Verdict::Success);
    metrics::journal_sound(is_sound);
    if is_sound {
        tracing::info!(seconds = began.elapsed().as_secs(), "the journal is sound");
    } else {
        tracing::error!(
            found = event.body.get("finding").map(ToString::to_string),
            "the journal is not sound: copy it, let portcullis-verify check the copy, and change nothing (docs/journal.md)"
        );
    }
    // A journal that can't be written says so itself.
    let _ = journal.append(event).await;
}

/// What a check found, or why there was none.
type Found = Result<Report, String>;

/// Checks on a thread of its own, whose priority is for good.
async fn look(directory: &Path, signing_key: &Path) -> Found {
    let (directory, keys): (PathBuf, _) = (directory.to_owned(), public_key_path(signing_key));
    let (done, found) = oneshot::channel();
    let spawned = thread::Builder::new()
        .name("journal-check".to_owned())
        .spawn(move || {
            // Without the right to it, the check competes with the daemon.
            let _ = rustix::process::setpriority_process(None, PRIORITY);
            let report = read_verifier_keys(&keys)
                .map_err(|error| chain(&error))
                .and_then(|keys| verify(&directory, keys, None).map_err(|error| chain(&error)));
            // The daemon may be stopping.
            let _ = done.send(report);
        });
    match spawned {
        Ok(_) => found
            .await
            .unwrap_or_else(|_| Err("the check broke off".to_owned())),
        Err(error) => Err(format!("start the check: {error}")),
    }
}

fn event(found: &Found, took: Duration) -> Event {
    let mut event = Event::new(EventKind::LogVerify);
    let mut put = |field: &str, value| event.body.insert(field.to_owned(), value);
    put("seconds", took.as_secs().into());
    let (outcome, reason, finding) = match found {
        Ok(report) => {
            put("records", report.records.into());
            put("signed", report.signed.into());
            let findings = report.findings.len() as u64 + report.further_findings;
            put("findings", findings.into());
            match report.findings.first() {
                None => (Verdict::Success, None, None),
                Some(first) => (Verdict::Failure, Some("not_sound"), Some(first.to_string())),
            }
        }
        Err(error) => (Verdict::Failure, Some("not_readable"), Some(error.clone())),
    };
    if let Some(finding) = finding {
        let bytes = finding.as_bytes();
        put(
            "finding",
            untrusted(bytes.get(..LONGEST_FINDING).unwrap_or(bytes)),
        );
    }
    event.outcome = Some(outcome);
    event.reason = reason.map(str::to_owned);
    event
}

#[cfg(test)]
mod tests {
    use portcullis_journal::{Options, read::records};

    use super::*;

    #[tokio::test]
    async fn a_sound_journal_is_found_sound_and_a_changed_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::default_in(folder.path().join("log"));
        let (journal, _) = Journal::open(options.clone()).unwrap();
        for _ in 0..5 {
            journal
                .append(Event::new(EventKind::ConnectionOpen))
                .await
                .unwrap();
        }
        check(&journal, &options.directory, &options.signing_key).await;
        let segment = options.directory.join("000000000000.jsonl");
        let text = std::fs::read_to_string(&segment).unwrap();
        std::fs::write(&segment, text.replacen("conn.open", "conn.opem", 1)).unwrap();
        check(&journal, &options.directory, &options.signing_key).await;
        std::fs::remove_file(public_key_path(&options.signing_key)).unwrap();
        check(&journal, &options.directory, &options.signing_key).await;
        let found: Vec<_> = records(&options.directory)
            .unwrap()
            .map(Result::unwrap)
            .filter(|record| record.event == "log.verify")
            .map(|record| (record.outcome, record.reason, record.body))
            .collect();
        let text = |at: usize| found[at].2["finding"].as_str().unwrap_or_default();
        assert_eq!(found[0].0.as_deref(), Some("success"));
        assert_eq!(found[0].2["findings"], 0);
        assert_eq!(found[1].1.as_deref(), Some("not_sound"));
        assert!(text(1).contains("record 1 was edited"), "{}", text(1));
        assert_eq!(found[2].1.as_deref(), Some("not_readable"));
        assert!(text(2).contains("read key file"), "{}", text(2));
    }
}
