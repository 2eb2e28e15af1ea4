//! Room on the journal's disk: a warning, then no new sessions, long before the reserve and the end of all service.

use std::{io, path::PathBuf, time::Duration};

use portcullis_journal::{Event, EventKind, Journal, Verdict};
use tokio::time;

use crate::{config::RoomConfig, metrics};

const INTERVAL: Duration = Duration::from_secs(2);
/// Percentage points below a threshold at which it is behind: a disk that is used around one is not told of all the time.
const SLACK: f64 = 1.0;

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    Enough,
    /// Worth a warning.
    Low,
    /// Too little for new sessions.
    Short,
}

impl Room {
    /// The code in records.
    fn reason(self) -> &'static str {
        match self {
            Self::Enough => "space_enough",
            Self::Low => "space_low",
            Self::Short => "space_short",
        }
    }

    /// What `used` percent mean after it was `self`.
    fn then(self, used: f64, config: &RoomConfig) -> Self {
        let reaches = |percent: u8, level: Self| {
            let slack = if self >= level { SLACK } else { 0.0 };
            used >= f64::from(percent) - slack
        };
        if reaches(config.refuse_sessions_percent, Self::Short) {
            Self::Short
        } else if reaches(config.warn_percent, Self::Low) {
            Self::Low
        } else {
            Self::Enough
        }
    }
}

/// Watches the disk of `directory` for ever, records what changes, and says whether new sessions are to wait.
pub(super) async fn watch(
    journal: Journal,
    directory: PathBuf,
    config: RoomConfig,
    hold: impl Fn(bool) + Send,
) {
    let mut room = Room::Enough;
    let mut interval = time::interval(INTERVAL);
    loop {
        interval.tick().await;
        // A disk that does not answer refuses records, which is told elsewhere.
        let Ok(used) = used_percent(&directory) else {
            continue;
        };
        metrics::journal_disk(used);
        let next = room.then(used, &config);
        if next == room {
            continue;
        }
        hold(next == Room::Short);
        match next {
            Room::Enough => {
                tracing::info!(used_percent = used, "the journal's disk has room again")
            }
            Room::Low => tracing::warn!(
                used_percent = used,
                "the journal's disk is filling up: give it room, or set journal.keep_days"
            ),
            Room::Short => tracing::error!(
                used_percent = used,
                "the journal's disk is nearly full: no new sessions until it has room"
            ),
        }
        let mut event = Event::new(EventKind::LogDisk);
        event.outcome = Some(if next == Room::Enough {
            Verdict::Success
        } else {
            Verdict::Failure
        });
        event.reason = Some(next.reason().to_owned());
        let percent = format!("{used:.1}");
        event.body.insert("used_percent".to_owned(), percent.into());
        // Without a record it stays at what was recorded last, and is tried again.
        if journal.append(event).await.is_ok() {
            room = next;
        }
    }
}

/// As `df` counts: of what an unprivileged user can ever have.
fn used_percent(directory: &std::path::Path) -> io::Result<f64> {
    let disk = rustix::fs::statvfs(directory)?;
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    let all = used + disk.f_bavail;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of blocks, to a tenth of a percent"
    )]
    let share = used as f64 / all.max(1) as f64;
    Ok(share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_threshold_is_reached_at_its_percentage_and_left_one_point_below() {
        let config = RoomConfig {
            warn_percent: 80,
            refuse_sessions_percent: 90,
        };
        for (before, used, after) in [
            (Room::Enough, 79.9, Room::Enough),
            (Room::Enough, 80.0, Room::Low),
            (Room::Enough, 90.0, Room::Short),
            (Room::Low, 79.5, Room::Low),
            (Room::Low, 78.9, Room::Enough),
            (Room::Low, 89.5, Room::Low),
            (Room::Low, 90.0, Room::Short),
            (Room::Short, 89.5, Room::Short),
            (Room::Short, 88.9, Room::Low),
            (Room::Short, 10.0, Room::Enough),
        ] {
            assert_eq!(before.then(used, &config), after, "{before:?} {used}");
        }
    }
}
