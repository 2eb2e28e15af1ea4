//! Operations that were under way when the gateway died: nobody knows whether the backend did them, so their records say what
//! it shows now.

mod renames;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::DateTime;
use futures_util::{StreamExt as _, stream};
use portcullis_audit::hidden::is_token;
use portcullis_journal::{
    AccountKind, Actor, AppendError, Event, EventKind, Journal, OperationId, Recovery, SessionId,
    Verdict,
    read::{Part, Record, lines},
    record::{untrusted, untrusted_bytes},
};
use serde_json::{Map, Value};

use crate::{
    accounts::Accounts,
    backend::{BackendError, ErrorKind},
    gate::reconcile::Looker,
    operation::{Attributes, Outcome},
    path::VirtualPath,
    policy::Requester,
    session::Backends,
};

/// How long the log is searched for what was announced; a start waits no longer.
const READ_DEADLINE: Duration = Duration::from_secs(2);
/// Records that are searched before all others.
const FIRST_PART: u64 = 20_000;
/// How long the backends may take together.
const LOOK_DEADLINE: Duration = Duration::from_secs(3);
/// Looks at the same time.
const LOOKS_AT_ONCE: usize = 16;
/// Looks at all; a crash leaves a few changes of each session.
const MOST_LOOKS: usize = 1000;

type Name = (SessionId, OperationId);

/// `op.outcome` of the operations that have none, with what the backend shows of those that change something; durable when
/// this returns.
///
/// # Errors
/// If that can't be recorded.
pub(super) async fn left_unknown(
    journal: &Journal,
    directory: &Path,
    recovery: &Recovery,
    accounts: &Accounts,
    services: &Backends,
) -> Result<(), AppendError> {
    let directory = directory.to_owned();
    let unknown: HashSet<Name> = recovery.unknown.iter().copied().collect();
    let end = recovery.records;
    let search = tokio::task::spawn_blocking(move || {
        announced(&directory, &unknown, end, Instant::now() + READ_DEADLINE)
    });
    // A search that panics finds nothing.
    let announced = search.await.unwrap_or_default();
    let looker = looker(journal, accounts, services);
    let renames = renames::settle(recovery, &announced, &looker).await;
    let states = states(recovery, &announced, &looker).await;
    let appends: Vec<_> = recovery
        .unknown
        .iter()
        .map(|name| {
            let mut event = outcome(*name, announced.get(name), &states);
            if let Some(ended) = renames.get(name) {
                renames::describe(ended, &mut event.body);
            }
            journal.append(event)
        })
        .collect();
    for append in appends {
        append.await?;
    }
    Ok(())
}

/// What the record of an intent says, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Announced {
    operation: String,
    /// When, in seconds since 1970.
    time: Option<i64>,
    user: Option<Actor>,
    source: Option<SocketAddr>,
    handle: Option<u64>,
    /// Where the operation changes something, and what an upload's CLOSE publishes.
    paths: Vec<Written>,
    opens_for_writing: bool,
}

/// A path as a record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Written {
    Clear(VirtualPath),
    /// A token, which leads nowhere.
    Hidden(String),
}

impl Written {
    fn of(text: &str) -> Option<Self> {
        if is_token(text.as_bytes()) {
            return Some(Self::Hidden(text.to_owned()));
        }
        VirtualPath::clean(&untrusted_bytes(text)?)
            .ok()
            .map(Self::Clear)
    }

    fn value(&self) -> Value {
        match self {
            Self::Clear(path) => untrusted(path.as_bytes()),
            Self::Hidden(token) => token.as_str().into(),
        }
    }
}

impl Announced {
    fn of(record: &Record) -> Self {
        let text = |field: &str| record.body.get(field).and_then(Value::as_str);
        let path = |field| Written::of(text(field)?);
        // The second path of a symbolic link is only what it says.
        let second = (text("sftp_op") != Some("symlink"))
            .then(|| path("path2"))
            .flatten();
        Self {
            operation: text("sftp_op").unwrap_or_default().to_owned(),
            time: DateTime::parse_from_rfc3339(&record.time)
                .ok()
                .map(|time| time.timestamp()),
            user: record.user.as_ref().map(|user| Actor {
                uid: user.uid,
                name: user.name.clone(),
                kind: user.kind.as_deref().and_then(account_kind),
            }),
            source: record.source.map(SocketAddr::from),
            handle: record.body.get("handle_id").and_then(Value::as_u64),
            paths: path("path").into_iter().chain(second).collect(),
            opens_for_writing: text("sftp_op") == Some("open")
                && text("flags").is_some_and(|flags| {
                    flags
                        .split(',')
                        .any(|flag| matches!(flag, "write" | "append"))
                }),
        }
    }

    fn opens(&self) -> bool {
        matches!(self.operation.as_str(), "open" | "opendir")
    }

    /// Whether a backend shows afterwards if it was done. Data goes to a file that has no name yet.
    fn leaves_traces(&self) -> bool {
        matches!(
            self.operation.as_str(),
            "close"
                | "remove"
                | "rmdir"
                | "mkdir"
                | "rename"
                | "posix_rename"
                | "symlink"
                | "hardlink"
                | "setstat"
                | "lsetstat"
        )
    }
}

fn account_kind(name: &str) -> Option<AccountKind> {
    [
        AccountKind::Human,
        AccountKind::Machine,
        AccountKind::Admin,
        AccountKind::BreakGlass,
    ]
    .into_iter()
    .find(|kind| kind.name() == name)
}

/// The intents of `unknown` among the first `end` records, as far as they are found before the deadline: the youngest part of
/// the log first, and ever more of it as long as some are missing.
fn announced(
    directory: &Path,
    unknown: &HashSet<Name>,
    end: u64,
    deadline: Instant,
) -> HashMap<Name, Announced> {
    let mut length = FIRST_PART;
    loop {
        let first = end.saturating_sub(length);
        let search = announced_from(directory, unknown, first..end, deadline);
        let is_whole = unknown.len() == search.found.len() && !search.lacks_upload;
        if is_whole || first == 0 || Instant::now() > deadline {
            if search.found.len() < unknown.len() {
                tracing::warn!(
                    found = search.found.len(),
                    "the log is too long to find all that was announced before the crash"
                );
            }
            return search.found;
        }
        length = length.saturating_mul(8);
    }
}

#[derive(Default)]
struct Search {
    found: HashMap<Name, Announced>,
    /// A CLOSE was found, but not the OPEN that names its file.
    lacks_upload: bool,
}

fn announced_from(
    directory: &Path,
    unknown: &HashSet<Name>,
    part: Range<u64>,
    deadline: Instant,
) -> Search {
    const RECORDS_BETWEEN_LOOKS_AT_THE_CLOCK: u64 = 256;
    let sessions: HashSet<SessionId> = unknown.iter().map(|(session, _)| *session).collect();
    let mut opened: HashMap<(SessionId, u64), Option<Vec<Written>>> = HashMap::new();
    let mut search = Search::default();
    let first = part.start;
    let Ok(mut lines) = lines(
        directory,
        Part {
            first,
            ..Part::default()
        },
    ) else {
        return search;
    };
    while let Ok(Some(line)) = lines.next(&mut |_| true) {
        let Ok(record) = serde_json::from_slice::<Record>(line) else {
            break;
        };
        let is_late = record
            .seq
            .is_multiple_of(RECORDS_BETWEEN_LOOKS_AT_THE_CLOCK)
            && Instant::now() > deadline;
        if record.seq >= part.end || is_late {
            break;
        }
        if record.event != EventKind::OperationIntent.name() {
            continue;
        }
        let Some(name) = name(&record).filter(|(session, _)| sessions.contains(session)) else {
            continue;
        };
        let mut announced = Announced::of(&record);
        let handle = announced.handle.map(|handle| (name.0, handle));
        if let Some(handle) = handle.filter(|_| announced.opens()) {
            let paths = announced.opens_for_writing.then(|| announced.paths.clone());
            opened.insert(handle, paths);
        }
        if unknown.contains(&name) {
            if announced.operation == "close" {
                match handle.and_then(|handle| opened.get(&handle)) {
                    Some(paths) => announced.paths = paths.clone().unwrap_or_default(),
                    None => search.lacks_upload = true,
                }
            }
            search.found.insert(name, announced);
        }
    }
    search
}

fn name(record: &Record) -> Option<Name> {
    let mut session = [0; 16];
    hex::decode_to_slice(record.session.as_ref()?, &mut session).ok()?;
    Some((SessionId(session), OperationId(record.operation?)))
}

/// Whom an operation was for, and a path that it names.
type Place = (i64, VirtualPath);

/// Makes what looks for the account of an operation; all looks are of one session. `None` if the record does not name it.
fn looker<'a>(
    journal: &'a Journal,
    accounts: &'a Accounts,
    services: &'a Backends,
) -> impl Fn(&Announced) -> Option<Looker<'a>> {
    let mut session = [0; 16];
    let has_session = getrandom::fill(&mut session).is_ok();
    move |one| {
        let user = one.user.clone().filter(|_| has_session)?;
        let mounts = accounts
            .mounts_by_directory(crate::auth::flow::UserId(user.uid?))
            .unwrap_or_default()
            .into();
        Some(Looker {
            journal,
            services,
            mounts,
            requester: Arc::new(Requester {
                session: SessionId(session),
                user,
                source: one.source?,
                mfa_window: None,
            }),
        })
    }
}

/// What lies at the places of all operations that leave traces.
async fn states<'a>(
    recovery: &Recovery,
    announced: &HashMap<Name, Announced>,
    looker: impl Fn(&Announced) -> Option<Looker<'a>>,
) -> HashMap<Place, Found> {
    let mut wanted = Vec::new();
    let mut known = HashSet::new();
    for one in recovery
        .unknown
        .iter()
        .filter_map(|name| announced.get(name))
        .filter(|one| one.leaves_traces())
    {
        let Some(looker) = looker(one) else { continue };
        let Some(uid) = looker.requester.user.uid else {
            continue;
        };
        for path in &one.paths {
            let Written::Clear(path) = path else { continue };
            let place = (uid, path.clone());
            if wanted.len() < MOST_LOOKS && known.insert(place.clone()) {
                wanted.push((place, looker.clone()));
            }
        }
    }
    let deadline = tokio::time::Instant::now() + LOOK_DEADLINE;
    let looks = wanted.into_iter().map(|(place, looker)| async move {
        let look = looker.look(&place.1);
        let found = match tokio::time::timeout_at(deadline, look).await {
            Ok(result) => Found::of(result),
            Err(_) => Found::Unknown(ErrorKind::TimedOut.code()),
        };
        (place, found)
    });
    stream::iter(looks)
        .buffer_unordered(LOOKS_AT_ONCE)
        .collect()
        .await
}

/// What a backend shows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Present(Attributes),
    Absent,
    /// It could not be asked; the code says why.
    Unknown(&'static str),
}

impl Found {
    fn of(result: Result<Outcome, BackendError>) -> Self {
        match result {
            Ok(Outcome::Attributes(attributes)) => Self::Present(attributes),
            Ok(_) => Self::Unknown(ErrorKind::Failure.code()),
            Err(error) if error.kind == ErrorKind::NotFound => Self::Absent,
            Err(error) => Self::Unknown(error.kind.code()),
        }
    }

    /// Puts it into the body of a record; `suffix` tells the second path from the first.
    fn describe(&self, suffix: &str, body: &mut Map<String, Value>) {
        let mut put = |field: &str, value: Value| body.insert(format!("{field}{suffix}"), value);
        match self {
            Self::Present(attributes) => {
                put("state", "present".into());
                if let Some(size) = attributes.size {
                    put("size", size.into());
                }
                if let Some((_, modified)) = attributes.times {
                    put("modified", modified.into());
                }
            }
            Self::Absent => drop(put("state", "absent".into())),
            Self::Unknown(why) => {
                put("state", "unknown".into());
                put("state_error", (*why).into());
            }
        }
    }
}

fn outcome(
    (session, operation): Name,
    announced: Option<&Announced>,
    states: &HashMap<Place, Found>,
) -> Event {
    let mut event = Event::new(EventKind::OperationOutcome);
    event.session = Some(session);
    event.operation = Some(operation);
    event.outcome = Some(Verdict::Unknown);
    event.reason = Some("gateway_crashed".to_owned());
    let Some(announced) = announced else {
        return event;
    };
    event.user.clone_from(&announced.user);
    event.source = announced.source;
    let body = &mut event.body;
    body.insert("sftp_op".into(), announced.operation.clone().into());
    if !announced.leaves_traces() {
        return event;
    }
    let uid = announced.user.as_ref().and_then(|user| user.uid);
    for (path, suffix) in announced.paths.iter().zip(["", "2"]) {
        body.insert(format!("path{suffix}"), path.value());
        let found = match path {
            Written::Clear(path) => uid.and_then(|uid| states.get(&(uid, path.clone()))),
            Written::Hidden(_) => Some(&Found::Unknown("paths_hidden")),
        };
        found
            .unwrap_or(&Found::Unknown("not_looked"))
            .describe(suffix, body);
    }
    event
}

#[cfg(test)]
mod tests;
