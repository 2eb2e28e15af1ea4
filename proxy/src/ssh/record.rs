//! What the journal is told of a connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_audit::catalogue::clean;
use portcullis_journal::{
    Actor, AppendError, Event, EventKind, Journal, SessionId, Verdict, record::untrusted,
};
use serde_json::{Map, Value, json};

use super::{negotiation::Observed, stream::Meter};
use crate::{auth::Authenticated, metrics, policy::Mount};

/// Longest part of a client's text that goes into a record, in bytes.
const LONGEST_TEXT: usize = 1024;
/// Longest name of a user or method that the SSH library refused, in bytes.
const LONGEST_NAME: usize = 128;

/// Writes the records of one connection.
#[derive(Debug)]
pub(super) struct Recorder {
    journal: Journal,
    session: SessionId,
    source: SocketAddr,
    destination: SocketAddr,
    observed: Arc<Observed>,
    meter: Arc<Meter>,
    begun: Instant,
    user: OnceLock<Actor>,
    mfa_window: OnceLock<Value>,
    is_opened: AtomicBool,
}

impl Recorder {
    pub(super) fn new(
        journal: Journal,
        session: SessionId,
        (source, destination): (SocketAddr, SocketAddr),
        observed: Arc<Observed>,
        meter: Arc<Meter>,
        begun: Instant,
    ) -> Self {
        Self {
            journal,
            session,
            source,
            destination,
            observed,
            meter,
            begun,
            user: OnceLock::new(),
            mfa_window: OnceLock::new(),
            is_opened: AtomicBool::new(false),
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    pub(super) fn source(&self) -> SocketAddr {
        self.source
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// From here on records carry a user who is not in, but enrolling.
    pub(super) fn identified(&self, user: Actor) {
        let _ = self.user.set(user);
    }

    /// From here on records carry the user.
    pub(super) fn authenticated(&self, user: &Authenticated) {
        self.identified(user.actor());
        if let Some(window) = user.window() {
            let _ = self.mfa_window.set(window.began_in_records());
        }
    }

    /// `session.mounts`, ahead of every operation of the session.
    pub(super) fn mounts(&self, mounts: &[Mount]) {
        let mut event = self.event(EventKind::SessionMounts);
        let listed = mounts.iter().map(|mount| {
            let mut listed = json!({
                "at": untrusted(mount.at.as_bytes()),
                "backend": mount.backend,
                "directory": untrusted(&clean(&mount.directory)),
            });
            // Of a server: it does not count from the login directory.
            if mount.directory.starts_with(b"/")
                && let Some(listed) = listed.as_object_mut()
            {
                listed.insert("absolute".to_owned(), true.into());
            }
            listed
        });
        event.body.insert("mounts".to_owned(), listed.collect());
        drop(self.journal.append_soon(event));
    }

    /// `conn.open`, durable when this returns.
    pub(super) async fn opened(&self) -> Result<(), AppendError> {
        let mut event = self.event(EventKind::ConnectionOpen);
        event.outcome = Some(Verdict::Allow);
        event.body = self.negotiated();
        let begun = Instant::now();
        self.journal.append(event).await?;
        metrics::journal_append(begun.elapsed());
        self.is_opened.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// `channel.refused`, on its way when this returns.
    pub(super) fn channel_refused(&self, request: &'static str, detail: &[u8]) {
        let mut event = self.event(EventKind::ChannelRefused);
        event.outcome = Some(Verdict::Deny);
        event.body.insert("request".to_owned(), request.into());
        if !detail.is_empty() {
            let detail = detail.get(..LONGEST_TEXT).unwrap_or(detail);
            event.body.insert("detail".to_owned(), untrusted(detail));
        }
        // The append goes on by itself.
        drop(self.journal.append_soon(event));
    }

    /// `auth.step` of a request that the SSH library refused without asking a callback, on its way when this returns. `user` and
    /// `method` are as the client has them.
    pub(super) fn request_refused(&self, user: &str, method: &str, reason: &'static str) {
        let mut event = self.event(EventKind::AuthStep);
        event.outcome = Some(Verdict::Failure);
        event.reason = Some(reason.to_owned());
        event.user = Some(Actor {
            uid: None,
            name: cut(user, LONGEST_NAME).to_owned(),
            kind: None,
        });
        let method = untrusted(cut(method, LONGEST_NAME).as_bytes());
        event.body.insert("method".to_owned(), method);
        // The gateway sees neither the key nor the certificate.
        event.body.insert("refused_by".to_owned(), "library".into());
        drop(self.journal.append_soon(event));
    }

    /// `conn.close`. A connection that ended before its `conn.open` says here what is known of it. `detail` is a field that
    /// the reason has: `changed`, the key of the configuration on account of which a reload ended it, or `message`, the number
    /// of one that had no place where it came.
    pub(super) async fn closed(
        &self,
        reason: &'static str,
        detail: Option<(&'static str, Value)>,
        now: Instant,
    ) -> Result<(), AppendError> {
        let mut event = self.event(EventKind::ConnectionClose);
        let was_opened = self.is_opened.load(Ordering::Relaxed);
        event.outcome = Some(if was_opened {
            Verdict::Success
        } else {
            Verdict::Failure
        });
        event.reason = Some(reason.to_owned());
        if !was_opened {
            event.body.extend(self.negotiated());
        }
        let body = &mut event.body;
        body.insert("close_reason".to_owned(), reason.into());
        if let Some((field, value)) = detail {
            body.insert(field.to_owned(), value);
        }
        body.insert("bytes_in".to_owned(), self.meter.received().into());
        body.insert("bytes_out".to_owned(), self.meter.sent().into());
        body.insert(
            "duration_ms".to_owned(),
            milliseconds(now.saturating_duration_since(self.begun)).into(),
        );
        self.journal.append(event).await.map(|_| ())
    }

    fn event(&self, kind: EventKind) -> Event {
        let mut event = Event::new(kind);
        event.session = Some(self.session);
        event.source = Some(self.source);
        event.destination = Some(self.destination);
        event.user = self.user.get().cloned();
        if let Some(began) = self.mfa_window.get() {
            event.body.insert("mfa_window".to_owned(), began.clone());
        }
        event
    }

    fn negotiated(&self) -> Map<String, Value> {
        let mut body = Map::new();
        if let Some(version) = self.observed.client_version() {
            body.insert("client_version".to_owned(), untrusted(version));
        }
        if let Some(negotiated) = self.observed.negotiated() {
            for (key, value) in [
                ("kex", negotiated.key_exchange.as_str().into()),
                ("hostkey", negotiated.host_key.as_str().into()),
                ("cipher", negotiated.cipher.as_str().into()),
                ("mac", negotiated.mac.as_deref().into()),
                ("strict_kex", negotiated.is_strict.into()),
                ("pq", negotiated.is_post_quantum().into()),
            ] {
                body.insert(key.to_owned(), value);
            }
        }
        if let Some(disagreement) = self.observed.disagreement() {
            body.insert("no_common".to_owned(), disagreement.about.into());
            let offered = disagreement.offered.join(",").into_bytes();
            let offered = offered.get(..LONGEST_TEXT).unwrap_or(&offered);
            body.insert("client_offers".to_owned(), untrusted(offered));
        }
        body
    }
}

fn cut(text: &str, longest: usize) -> &str {
    let end = text.floor_char_boundary(longest);
    text.get(..end).unwrap_or_default()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Most records of refused connections in a second: who floods the port must not fill the disk.
const REFUSALS_PER_SECOND: u32 = 10;

/// Records connections that were turned away, up to a rate; those left out are counted in the next record.
#[derive(Debug)]
pub(super) struct RefusalRecorder {
    journal: Journal,
    second: Instant,
    in_second: u32,
    left_out: u64,
}

impl RefusalRecorder {
    pub(super) fn new(journal: Journal, now: Instant) -> Self {
        Self {
            journal,
            second: now,
            in_second: 0,
            left_out: 0,
        }
    }

    /// `conn.open` with outcome `deny`, on its way when this returns.
    pub(super) fn refused(
        &mut self,
        reason: &'static str,
        source: SocketAddr,
        destination: SocketAddr,
        now: Instant,
    ) {
        if !self.has_room(now) {
            return;
        }
        let mut event = Event::new(EventKind::ConnectionOpen);
        event.outcome = Some(Verdict::Deny);
        event.reason = Some(reason.to_owned());
        event.source = Some(source);
        event.destination = Some(destination);
        if self.left_out > 0 {
            event
                .body
                .insert("left_out".to_owned(), self.left_out.into());
            self.left_out = 0;
        }
        // The append goes on by itself.
        drop(self.journal.append_soon(event));
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.in_second = 0;
        }
        self.in_second += 1;
        if self.in_second > REFUSALS_PER_SECOND {
            self.left_out += 1;
            return false;
        }
        true
    }
}
