//! Revoked keys: their file is looked at while the gateway runs, so that a key is out seconds after it was put on the list.

use std::{path::PathBuf, sync::Arc, time::Duration};

use portcullis_journal::Journal;
use tokio::{
    sync::watch,
    time::{self, MissedTickBehavior},
};

use super::records;
use crate::{
    auth::{Authenticator, krl::RevokedKeys, trust::Trust},
    config::{self, AuthConfig, RevokedKeysFile, Stamp},
};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a configuration believes.
pub(super) fn trust(config: &AuthConfig) -> Trust {
    Trust {
        authorities: config.certificate_authorities.clone(),
        revoked: config
            .revoked_keys
            .as_ref()
            .map(|file| Arc::clone(&file.keys))
            .unwrap_or_default(),
    }
}

/// The state of the file when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    As(Stamp),
    Missing,
}

/// Brings the list into force again whenever its file has changed, for as long as the gateway lives. A file that is gone or
/// can't be read leaves the list as it was, with an error in the log and on record.
pub(super) async fn follow(
    mut configured: watch::Receiver<Option<RevokedKeysFile>>,
    authenticator: Authenticator,
    journal: Journal,
) {
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = in_force(&mut configured);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = configured.changed() => match changed {
                Ok(()) => last = in_force(&mut configured),
                Err(_) => return,
            },
        }
        let Some((path, seen)) = &mut last else {
            continue;
        };
        let looked = tokio::task::spawn_blocking({
            let (path, seen) = (path.clone(), *seen);
            move || look(path, seen)
        });
        let Ok((now, read)) = looked.await else {
            return;
        };
        *seen = now;
        let Some(read) = read else {
            continue;
        };
        if configured.has_changed().unwrap_or(true) {
            // Read for a configuration that is not in force any more.
            continue;
        }
        let recorded = match read {
            Ok(keys) => {
                let keys = Arc::new(keys);
                authenticator.change_trust(|trust| Trust {
                    revoked: Arc::clone(&keys),
                    ..trust.clone()
                });
                tracing::info!(file = %path.display(), entries = keys.entries(), "the list of revoked keys was read again");
                records::revoked_keys(&journal, path, Ok(&keys)).await
            }
            Err(problem) => {
                tracing::error!(file = %path.display(), "the list of revoked keys stays as it was: {problem}");
                records::revoked_keys(&journal, path, Err(&problem)).await
            }
        };
        if let Err(error) = recorded {
            tracing::error!(%error, "a change of the revoked keys can't be recorded");
        }
    }
}

fn in_force(configured: &mut watch::Receiver<Option<RevokedKeysFile>>) -> Option<(PathBuf, Seen)> {
    let file = configured.borrow_and_update();
    let file = file.as_ref()?;
    Some((file.path.clone(), Seen::As(file.stamp)))
}

/// What there is now, and what it says if that is not what was there before.
fn look(path: PathBuf, before: Seen) -> (Seen, Option<Result<RevokedKeys, String>>) {
    let now = Stamp::of(&path).map_or(Seen::Missing, Seen::As);
    if now == before {
        return (now, None);
    }
    match config::revoked_keys(&path) {
        Ok((keys, stamp)) => (Seen::As(stamp), Some(Ok(keys))),
        Err(problem) => (now, Some(Err(problem))),
    }
}
