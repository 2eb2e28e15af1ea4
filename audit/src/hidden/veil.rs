//! Hides paths in events, before they become records.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use portcullis_journal::{Event, EventKind, Veil, read::Record, record::untrusted_bytes};
use serde_json::{Map, Value};

use super::{AuditorKey, PathKey, is_token};
use crate::pattern::is_glob;

/// Behind the name of a field stands this in the name of what it was sealed to.
pub const SEALED: &str = "_sealed";
/// The field that names those that were left out.
const LEFT_OUT: &str = "hidden";
/// Sealed texts that are kept, since a sealing costs much more than a record; the tokens show which are equal anyway.
const KEPT: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not zero");
/// Longer ones are not kept, in bytes.
const LONGEST_KEPT: usize = 1024;

/// Events that hold what a client sent, or what a backend said of it.
const OF_CLIENTS: [EventKind; 6] = [
    EventKind::OperationIntent,
    EventKind::OperationOutcome,
    EventKind::OperationDenied,
    EventKind::TransferSummary,
    EventKind::ChannelRefused,
    EventKind::RestFinding,
];
/// Fields of a client's operation that hold its paths.
const PATHS: [&str; 2] = ["path", "path2"];
/// Fields of a session's mounts that hold paths.
const OF_MOUNTS: [&str; 2] = ["at", "directory"];
/// Fields of other events that hold paths: of questions to the log, and of mounts.
const OF_OTHERS: [&str; 4] = ["at", "directory", "path", "path2"];
/// Fields whose text the gateway chose from a fixed list, or that are numbers in other forms. Any other text may hold a path.
const HARMLESS: [&str; 31] = [
    "algorithm",
    "attrs",
    "backend",
    "content",
    "decision",
    "direction",
    "earlier_time",
    "earlier_user",
    "expected_sha256",
    "finding",
    "flags",
    "last_session",
    "last_time",
    "last_user",
    "look",
    "member",
    "mfa_window",
    "origin",
    "recovery_error",
    "rename",
    "request",
    "sftp_op",
    "sha256",
    "sha256_reason",
    "sha256_source",
    "source",
    "state",
    "state2",
    "state_error",
    "state_error2",
    "status",
];

/// Puts tokens in the place of paths, and leaves out or seals every other text that may hold one.
#[derive(Debug)]
pub struct PathVeil {
    key: PathKey,
    auditor: Option<Auditor>,
}

#[derive(Debug)]
struct Auditor {
    key: AuditorKey,
    sealed: Mutex<LruCache<Vec<u8>, String>>,
}

impl PathVeil {
    /// With an auditor's key, what is hidden is sealed to it; without one it is gone.
    pub fn new(key: PathKey, auditor: Option<AuditorKey>) -> Self {
        let auditor = auditor.map(|key| Auditor {
            key,
            sealed: Mutex::new(LruCache::new(KEPT)),
        });
        Self { key, auditor }
    }

    fn cover_operation(&self, body: &mut Map<String, Value>) {
        let concerned: Vec<String> = body
            .iter()
            .filter(|(name, value)| may_say_a_path(name, value))
            .map(|(name, _)| name.clone())
            .collect();
        for name in concerned {
            let Some(value) = body.remove(&name) else {
                continue;
            };
            if let Some(path) = path(&name, &value) {
                body.insert(name.clone(), self.key.token(&path).into());
                if let Some(sealed) = self.seal(&path) {
                    body.insert(name + SEALED, sealed.into());
                }
            } else {
                self.hide(name, &value, body);
            }
        }
    }

    /// A question to the log names the path that it is about.
    fn cover_reading(&self, body: &mut Map<String, Value>) {
        let Some(Value::Object(filters)) = body.get_mut("filters") else {
            return;
        };
        let Some(value) = filters.remove("path") else {
            return;
        };
        match path("path", &value).filter(|path| path.starts_with(b"/") && !is_glob(path)) {
            Some(path) => {
                filters.insert("path".to_owned(), self.key.token(&path).into());
                if let Some(sealed) = self.seal(&path) {
                    filters.insert(format!("path{SEALED}"), sealed.into());
                }
            }
            None => self.hide("path".to_owned(), &value, filters),
        }
    }

    fn cover_mounts(&self, body: &mut Map<String, Value>) {
        let mounts = body.get_mut("mounts").and_then(Value::as_array_mut);
        for mount in mounts
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            for name in OF_MOUNTS {
                let text = mount.get(name).and_then(Value::as_str);
                if let Some(path) = text.and_then(untrusted_bytes) {
                    mount.insert(name.to_owned(), self.key.token(&path).into());
                    if let Some(sealed) = self.seal(&path) {
                        mount.insert(format!("{name}{SEALED}"), sealed.into());
                    }
                }
            }
        }
    }

    fn hide(&self, name: String, value: &Value, body: &mut Map<String, Value>) {
        let text = match value.as_str() {
            Some(text) => untrusted_bytes(text).unwrap_or_else(|| text.as_bytes().to_vec()),
            None => value.to_string().into_bytes(),
        };
        if let Some(sealed) = self.seal(&text) {
            body.insert(name + SEALED, sealed.into());
            return;
        }
        let names = match body.get(LEFT_OUT).and_then(Value::as_str) {
            Some(others) => format!("{others},{name}"),
            None => name,
        };
        body.insert(LEFT_OUT.to_owned(), names.into());
    }

    fn seal(&self, text: &[u8]) -> Option<String> {
        let auditor = self.auditor.as_ref()?;
        if text.len() > LONGEST_KEPT {
            return auditor.key.seal(text);
        }
        let kept = || {
            auditor
                .sealed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(sealed) = kept().get(text) {
            return Some(sealed.clone());
        }
        let sealed = auditor.key.seal(text)?;
        kept().put(text.to_vec(), sealed.clone());
        Some(sealed)
    }
}

impl Veil for PathVeil {
    fn cover(&self, event: &mut Event) {
        // Events of logins, the gateway and its administration name no file of a client's.
        if OF_CLIENTS.contains(&event.kind) {
            self.cover_operation(&mut event.body);
        } else if event.kind == EventKind::LogRead {
            self.cover_reading(&mut event.body);
        } else if event.kind == EventKind::SessionMounts {
            self.cover_mounts(&mut event.body);
        }
    }
}

/// The field of a record that says a client's path in clear, or may.
pub fn says_a_path(record: &Record) -> Option<String> {
    let is_of_client = OF_CLIENTS.iter().any(|kind| kind.name() == record.event);
    let body = record.body.as_object()?;
    if is_of_client {
        return body
            .iter()
            .find(|(name, value)| {
                may_say_a_path(name, value) && !name.ends_with(SEALED) && *name != LEFT_OUT
            })
            .map(|(name, _)| name.clone());
    }
    let filters = body.get("filters").and_then(Value::as_object);
    let mounts = body.get("mounts").and_then(Value::as_array);
    let is_clear = |value: &Value| !value.as_str().is_some_and(|text| is_token(text.as_bytes()));
    let mut mounts = mounts
        .filter(|_| record.event == EventKind::SessionMounts.name())
        .into_iter()
        .flatten();
    if mounts.any(|mount| {
        OF_MOUNTS
            .iter()
            .any(|name| mount.get(*name).is_some_and(is_clear))
    }) {
        return Some("mounts".to_owned());
    }
    body.iter()
        .chain(filters.into_iter().flatten())
        .find(|(name, value)| OF_OTHERS.contains(&name.as_str()) && !is_hidden(name, value))
        .map(|(name, _)| name.clone())
}

fn may_say_a_path(name: &str, value: &Value) -> bool {
    let is_text = value.is_string() || value.is_object() || value.is_array();
    is_text && !HARMLESS.contains(&name) && !is_hidden(name, value)
}

/// What an older record says of a path comes as it stands there. No path in clear is written so.
fn is_hidden(name: &str, value: &Value) -> bool {
    PATHS.contains(&name) && value.as_str().is_some_and(|text| is_token(text.as_bytes()))
}

fn path(name: &str, value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str().filter(|_| PATHS.contains(&name))?;
    untrusted_bytes(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hidden::AuditorSecret;

    fn covered(veil: &PathVeil, kind: EventKind, body: Value) -> Map<String, Value> {
        let mut event = Event::new(kind);
        event.body = body.as_object().unwrap().clone();
        veil.cover(&mut event);
        event.body
    }

    fn key() -> PathKey {
        PathKey::new(&[7; 32])
    }

    #[test]
    fn mounts_of_a_session_are_tokens_and_their_backends_stay() {
        let veil = PathVeil::new(key(), None);
        let body = json!({ "mounts": [{ "at": "/in", "backend": "b", "directory": "/x/y" }] });
        let body = covered(&veil, EventKind::SessionMounts, body);
        let expected = json!({ "mounts": [{
            "at": key().token(b"/in"), "backend": "b", "directory": key().token(b"/x/y"),
        }] });
        assert_eq!(Value::from(body), expected);
    }

    #[test]
    fn a_text_that_is_not_known_to_be_harmless_is_left_out_and_named() {
        let veil = PathVeil::new(key(), None);
        let body = json!({
            "sftp_op": "stat", "path": "b64:/w==", "len": 7, "status": "SSH_FX_FAILURE",
            "error": "no /a", "evidence": "b64:AAAA", "added_later": ["/a"], "path2": "hmac:/old",
        });
        let body = covered(&veil, EventKind::OperationDenied, body);
        let expected = json!({
            "sftp_op": "stat", "path": key().token(b"\xff"), "len": 7, "status": "SSH_FX_FAILURE",
            "path2": "hmac:/old", "hidden": "added_later,error,evidence",
        });
        assert_eq!(Value::from(body), expected);
    }

    #[test]
    fn the_auditor_reads_all_that_was_hidden() {
        let directory = tempfile::tempdir().unwrap();
        let (secret, public) = AuditorSecret::generate(&directory.path().join("key")).unwrap();
        let veil = PathVeil::new(key(), Some(public));
        let body = json!({ "path": "/a", "path2": "b64:/w==", "error": "no /a", "bytes": 1 });
        let body = covered(&veil, EventKind::OperationOutcome, body);
        let opened = |name: &str| secret.open(body[name].as_str().unwrap()).unwrap();
        assert_eq!(body["path"], key().token(b"/a"));
        assert_eq!(opened("path_sealed"), b"/a");
        assert_eq!(opened("path2_sealed"), b"\xff");
        assert_eq!(opened("error_sealed"), b"no /a");
        assert!(!body.contains_key("error") && !body.contains_key("hidden"));
    }

    #[test]
    fn whether_a_record_says_a_path_is_told_by_its_fields() {
        let says = |event: &str, body: Value| {
            let record = json!({
                "seq": 1, "ts": "", "mono_ns": 1, "node": "", "boot_id": "", "event": event, "prev": "", "body": body,
            });
            says_a_path(&serde_json::from_value(record).unwrap())
        };
        let (intent, read) = ("op.intent", "log.read");
        assert_eq!(
            says(intent, json!({ "sftp_op": "stat", "path": "/a" })).as_deref(),
            Some("path")
        );
        assert_eq!(
            says(intent, json!({ "error": "no /a" })).as_deref(),
            Some("error")
        );
        assert_eq!(
            says(read, json!({ "filters": { "path": "/a" } })).as_deref(),
            Some("path")
        );
        assert_eq!(
            says("admin.account", json!({ "at": "/a" })).as_deref(),
            Some("at")
        );
        let hidden = json!({ "sftp_op": "stat", "path": "hmac:/a", "path_sealed": "AAAA", "hidden": "error" });
        assert_eq!(says(intent, hidden), None);
        assert_eq!(
            says(
                read,
                json!({ "filters": { "path": "hmac:/a", "user": "bob" } })
            ),
            None
        );
        assert_eq!(says("conn.open", json!({ "client_version": "/a" })), None);
    }

    #[test]
    fn a_path_is_sealed_once_as_long_as_it_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let (_, public) = AuditorSecret::generate(&directory.path().join("key")).unwrap();
        let veil = PathVeil::new(key(), Some(public));
        let sealed = |path: &str| {
            let body = json!({ "path": path });
            covered(&veil, EventKind::OperationIntent, body)["path_sealed"].clone()
        };
        let first = sealed("/a");
        assert_eq!(sealed("/a"), first);
        assert_ne!(sealed("/b"), first);
        for number in 0..KEPT.get() {
            sealed(&format!("/{number}"));
        }
        assert_ne!(sealed("/a"), first);
    }

    #[test]
    fn a_question_shows_which_path_it_was_about_and_administration_stays_clear() {
        let veil = PathVeil::new(key(), None);
        let asked = |path: &str| {
            let body = json!({ "command": "search", "filters": { "path": path, "user": "bob" } });
            Value::from(covered(&veil, EventKind::LogRead, body))
        };
        assert_eq!(
            asked("/a"),
            json!({ "command": "search", "filters": { "path": key().token(b"/a"), "user": "bob" } })
        );
        assert_eq!(
            asked("/a/*.x")["filters"],
            json!({ "hidden": "path", "user": "bob" })
        );
        let mount = json!({ "at": "/a", "path": "/a" });
        assert_eq!(
            Value::from(covered(&veil, EventKind::AdminAccount, mount.clone())),
            mount
        );
    }
}
