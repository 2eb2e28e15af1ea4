//! Files that are not encrypted are. What differs from the log is reported and stays: a copy that is encrypted would look genuine.

use portcullis_audit::catalogue::{Found, Judgement, Named, State};
use portcullis_journal::{EventKind, Verdict};

use super::{ATTEMPTS, Coverage, Kept, Look, PAUSE, Walk, WalkError, is_lost, shown};
use crate::{
    backend::ErrorKind,
    daemon::rest::{Seen, described},
    encryption::Answer,
    gate::verify::Verified,
    operation::{Care, Tended},
    path::VirtualPath,
};

/// No file has this number.
const NONE: [u8; 16] = [0; 16];

/// What the log says of a place.
enum Known {
    Content([u8; 32]),
    Nothing,
    /// There should be no such file.
    Gone,
    /// An encrypted file was put there.
    Encrypted,
}

impl Look<'_> {
    /// False if nothing more can be done on this backend.
    pub(super) async fn encrypt(
        &mut self,
        verified: &mut Verified,
        (name, kept): (&str, &Kept),
        path: &VirtualPath,
    ) -> Result<bool, WalkError> {
        let new = u64::from(self.is_first);
        let below = path.below(&verified.mount.at);
        let below = below.map(|below| [b"/", below.as_bytes()].concat());
        let place = self.place(name, &below.unwrap_or_default());
        let mut result = Ok(Tended::Current);
        for _ in 0..ATTEMPTS {
            let expected = match self.known(&place)? {
                Known::Nothing => None,
                Known::Content(sha256) => Some(sha256),
                Known::Encrypted => match verified.tend(path, Care::Identify).await {
                    Ok(Tended::Plain) => {
                        self.answer.files += new;
                        let reason = "an encrypted file was put there, and this one is not: put it back, or upload this one";
                        self.fail(shown(path.as_bytes()), reason.to_owned());
                        return Ok(true);
                    }
                    other => {
                        result = other;
                        break;
                    }
                },
                // It may be one that was encrypted before it was put back.
                Known::Gone => match verified.tend(path, Care::Rewrap).await {
                    Ok(Tended::Plain) => {
                        if self.found(verified, (name, path), &place).await? {
                            self.answer.files += new;
                            return Ok(true);
                        }
                        None
                    }
                    other => {
                        result = other;
                        break;
                    }
                },
            };
            result = verified.tend(path, Care::Encrypt { expected }).await;
            let Err(error) = &result else { break };
            // What was written of the new file goes with the session.
            verified.renew(&*kept.service, &self.pace).await;
            let kind = error.kind;
            if kind == ErrorKind::NotAuthentic && expected.is_some() {
                if self.found(verified, (name, path), &place).await? {
                    self.answer.files += new;
                    return Ok(true);
                }
            } else if is_lost(error) {
                tokio::time::sleep(PAUSE).await;
            } else if kind != ErrorKind::Failure {
                // Otherwise somebody has just put another one there.
                break;
            }
        }
        let goes_on = !matches!(&result, Err(error) if is_lost(error));
        match result {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(true),
            Err(error) => self.not_written_anew(path, &error),
            // What that moved is in the pace.
            Ok(Tended::Encrypted { .. }) => self.answer.encrypted += 1,
            Ok(
                Tended::Current
                | Tended::Rewrapped { .. }
                | Tended::Plain
                | Tended::Identified { .. }
                | Tended::Shredded,
            ) => {
                self.answer.current += new;
            }
        }
        self.answer.files += new;
        Ok(goes_on)
    }

    fn place(&self, name: &str, below: &[u8]) -> Vec<u8> {
        let reader = self.reader.as_ref();
        reader.map_or_else(Vec::new, |reader| reader.catalogue.place(name, below))
    }

    fn known(&mut self, place: &[u8]) -> Result<Known, WalkError> {
        let Some(reader) = &mut self.reader else {
            return Ok(Known::Nothing);
        };
        reader.advance()?;
        let catalogue = &reader.catalogue;
        if matches!(catalogue.named(place, &NONE), Named::Other(_)) {
            return Ok(Known::Encrypted);
        }
        Ok(match catalogue.state(place) {
            Some(State::Known(content)) => {
                let found = Found::Content(&content.sha256);
                // Not so below a directory of which nothing is known.
                if catalogue.judge(place, found) == Judgement::Sound {
                    Known::Content(content.sha256)
                } else {
                    Known::Nothing
                }
            }
            Some(State::Gone(_)) => Known::Gone,
            Some(State::Link(_) | State::Unknown { .. }) | None => Known::Nothing,
        })
    }

    /// Puts on record what `verify` would find there. False if there is nothing to be said against it.
    async fn found(
        &mut self,
        verified: &Verified,
        (name, path): (&str, &VirtualPath),
        place: &[u8],
    ) -> Result<bool, WalkError> {
        let seen = match verified.sha256(path, None, &self.pace).await {
            Ok(sha256) => Seen::Content(sha256),
            Err(error) => Seen::Unreadable(error),
        };
        let Some(reader) = &mut self.reader else {
            return Ok(false);
        };
        reader.advance()?;
        let judgement = if let Seen::Content(sha256) = &seen {
            reader.catalogue.judge(place, Found::Content(sha256))
        } else {
            reader.catalogue.judge_unreadable(place)
        };
        let Judgement::Finding(finding) = judgement else {
            return Ok(false);
        };
        let mut event = verified.requester.event(EventKind::RestFinding);
        event.outcome = Some(Verdict::Failure);
        event.reason = Some(finding.kind.name().to_owned());
        event.body = described(name, place, &finding, &seen);
        self.walk.journal.append(event).await?;
        let what = finding.kind.name();
        let reason = format!(
            "{what}: it is not what the journal says, and stays as it is (`portcullis-proxy verify`)"
        );
        self.fail(shown(place), reason);
        Ok(true)
    }
}

impl Walk<'_> {
    /// On which backends no plain file is left.
    pub(super) fn judge_backends<'b>(
        &self,
        backends: impl Iterator<Item = &'b String>,
        coverage: &Coverage,
        answer: &mut Answer,
    ) {
        let backends: Vec<_> = backends.cloned().collect();
        let because = if answer.failed > 0 {
            "not all files could be encrypted"
        } else if let Some(doubt) = coverage.doubt(|name| backends.iter().any(|its| its == name)) {
            doubt
        } else if backends
            .iter()
            .any(|name| self.vaults.is_written_plain(name))
        {
            "sessions that began before files were encrypted are still open; ask again when they have ended"
        } else {
            answer.migrated = backends;
            return;
        };
        answer.migrated_unknown = Some(because.to_owned());
    }
}
