//! The rules of the configuration at work beside the journal.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use portcullis_audit::{
    alert::{Alert, Recorder, Rule, Watching, watch},
    sink::Log,
};
use portcullis_journal::{Event, EventKind, Journal, Verdict};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::{config::JournalConfig, metrics};

/// Rules at work, if there are any.
pub(super) struct Alerts {
    log: Log,
    journal: Journal,
    cursor: PathBuf,
    watching: Mutex<Option<Watching>>,
}

impl Alerts {
    /// Begins where the run before ended, or with the record `new`.
    pub(super) fn start(
        rules: &[Rule],
        config: &JournalConfig,
        journal: &Journal,
        log: Log,
        new: u64,
    ) -> Self {
        let alerts = Self {
            log,
            journal: journal.clone(),
            // No sink has a name like this.
            cursor: config.sinks.join(".alerts.cursor"),
            watching: Mutex::default(),
        };
        if rules.is_empty() {
            alerts.forget();
        } else {
            alerts.begin(rules.to_vec(), new, None);
        }
        alerts
    }

    /// Goes on with other rules. What an unchanged rule has counted counts: the records are looked at once more.
    pub(super) fn change(&self, rules: &[Rule]) {
        let before = self.watching().take();
        if before.is_some() || !rules.is_empty() {
            // Without rules it goes on too, so that none that comes later begins long ago.
            self.begin(rules.to_vec(), self.journal.status().durable, before);
        }
    }

    /// What is not judged then is judged at the next start.
    pub(super) async fn end(&self) {
        let Some(mut watching) = self.watching().take() else {
            return;
        };
        watching.end();
        // Its panic was its own.
        let _ = tokio::task::spawn_blocking(|| watching.join()).await;
    }

    fn begin(&self, rules: Vec<Rule>, new: u64, before: Option<Watching>) {
        let record = recorder(self.journal.clone());
        match watch(
            rules,
            self.log.clone(),
            self.cursor.clone(),
            new,
            before,
            record,
        ) {
            Ok(watching) => *self.watching() = Some(watching),
            Err(error) => {
                tracing::error!(%error, "alerts have no thread: nobody is told of anything")
            }
        }
    }

    /// Rules that come after a time without any have not missed that time.
    fn forget(&self) {
        match fs::remove_file(&self.cursor) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %self.cursor.display(), %error, "the cursor of alerts stays");
            }
        }
    }

    fn watching(&self) -> std::sync::MutexGuard<'_, Option<Watching>> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn recorder(journal: Journal) -> Recorder {
    let runtime = Handle::current();
    Box::new(move |alert| {
        let is_recorded = runtime.block_on(journal.append(event(alert))).is_ok();
        if is_recorded {
            metrics::alert(alert.kind);
            tracing::warn!(
                rule = alert.rule,
                subject = alert.subject,
                count = alert.count,
                unit = alert.unit,
                "alert"
            );
        }
        is_recorded
    })
}

/// `log.alert`
fn event(alert: &Alert) -> Event {
    let mut event = Event::new(EventKind::LogAlert);
    event.outcome = Some(Verdict::Success);
    event.reason = Some(alert.kind.to_owned());
    let mut put = |key: &str, value: Value| event.body.insert(key.to_owned(), value);
    put("rule", alert.rule.clone().into());
    put("kind", alert.kind.into());
    // As it stands in the records that it is about, where it is safe to read.
    put("subject", alert.subject.clone().into());
    put("count", alert.count.into());
    put("unit", alert.unit.into());
    if !alert.window.is_zero() {
        put("window_seconds", alert.window.num_seconds().into());
    }
    put("first", alert.first.into());
    put("last", alert.last.into());
    if alert.held_back > 0 {
        put("held_back", alert.held_back.into());
    }
    put("to", alert.to.clone().into());
    event
}
