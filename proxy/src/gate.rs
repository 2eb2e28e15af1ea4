//! The one way to a backend: authorise, record the intent, run, record the outcome.
//!
//! What can't be recorded isn't done, and what was done but can't be recorded isn't acknowledged.

mod extents;
mod measure;
pub mod names;
mod outcome;
pub mod reconcile;
mod tend;
pub mod verify;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use portcullis_audit::catalogue::OnRecord;
use portcullis_journal::{
    AppendError, Event, EventKind, Journal, OperationId, PendingIntent, Recorded, Urgency, Verdict,
    record::untrusted,
};
use serde_json::{Map, Value};

pub use self::extents::{Announcement, Covering};
use self::{
    measure::Measured,
    outcome::{outcome_event, tell_published, tell_source},
};
use crate::{
    allowance::{AccountUsage, Ledger},
    auth::flow::Window,
    backend::{
        Backend, BackendError, BackendService, ErrorKind, Origin, Owner, gateway::Gateway,
        limited::Limited, union::Union,
    },
    metrics,
    operation::{HandleId, Operation, Outcome},
    policy::{
        DataOps, Denied, Extent, Mount, MountId, Named, Permit, Requester, Route, authorize,
        describe,
    },
    session::{Backends, Session},
    sftp::{Digests, request::Extensions},
    status::Status,
};

/// How long a backend may take to withdraw what a channel left open.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// One channel's gate: what it may reach, and the log that hears of it.
#[derive(Debug)]
pub struct Gate {
    requester: Arc<Requester>,
    mounts: Arc<Vec<Mount>>,
    services: Backends,
    extensions: Extensions,
    digests: Digests,
    data_ops: DataOps,
    ledger: Ledger,
    account: Option<Arc<AccountUsage>>,
    journal: Journal,
    gateway: Arc<dyn Backend>,
    sessions: Mutex<BTreeMap<MountId, Arc<dyn Backend>>>,
}

/// Why an operation that was permitted brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    Backend(BackendError),
    #[error("not acknowledged, since its outcome can't be recorded")]
    Unrecorded(#[source] AppendError),
}

/// Of a transfer that a CLOSE ends.
pub struct Summary {
    /// The CLOSE publishes what was written.
    pub publishes: bool,
    /// Makes the record of the transfer, once it is known how the CLOSE ended.
    pub event: SummaryEvent,
}

type SummaryEvent = Box<dyn FnOnce(&Result<Outcome, BackendError>) -> Event + Send>;

impl Gate {
    pub fn new(session: &Session) -> Self {
        Self::of(
            Requester::of(session),
            Arc::clone(&session.mounts),
            Arc::clone(&session.backends),
            session.extensions,
            session.ledger.clone(),
            session.journal.clone(),
        )
        .with_digests(session.digests)
        .with_data_ops(session.data_ops)
        .with_account(Arc::clone(session.place.usage()))
    }

    pub(crate) fn of(
        requester: Requester,
        mounts: Arc<Vec<Mount>>,
        services: Backends,
        extensions: Extensions,
        ledger: Ledger,
        journal: Journal,
    ) -> Self {
        let points = mounts.iter().map(|mount| mount.at.clone()).collect();
        let mounts = decided(mounts, extensions);
        // A client hears of those that it can use anywhere.
        let extensions = mounts
            .iter()
            .filter_map(|mount| mount.extensions)
            .reduce(Extensions::union)
            .unwrap_or(extensions);
        Self {
            requester: Arc::new(requester),
            mounts,
            services,
            extensions,
            digests: Digests::default(),
            data_ops: DataOps::default(),
            ledger,
            account: None,
            journal,
            gateway: Arc::new(Gateway::new(points)),
            sessions: Mutex::default(),
        }
    }

    pub(crate) fn with_digests(self, digests: Digests) -> Self {
        Self { digests, ..self }
    }

    pub(crate) fn with_data_ops(self, data_ops: DataOps) -> Self {
        Self { data_ops, ..self }
    }

    /// Counts what is moved in the account's name, too.
    pub(crate) fn with_account(self, usage: Arc<AccountUsage>) -> Self {
        Self {
            account: Some(usage),
            ..self
        }
    }

    /// Of which transfers the records carry the SHA-256.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// Asks the policy. A refusal is recorded here.
    ///
    /// # Errors
    /// If no rule grants the operation.
    pub fn authorize(&self, operation: Operation, named: Named<'_>) -> Result<Permit, Denied> {
        let mut asked = Map::new();
        describe(&operation, &mut asked);
        let name = operation.name();
        authorize(
            &self.requester,
            &self.mounts,
            next_operation(),
            operation,
            named,
        )
        .inspect_err(|denied| {
            metrics::operation(name, "denied");
            self.deny(denied.code(), &denied.to_string(), asked);
        })
    }

    /// Records a request that was refused before policy was asked. `reason` is a code, `asked` says what it was.
    pub fn deny(&self, reason: &'static str, message: &str, asked: Map<String, Value>) {
        let mut event = self.requester.event(EventKind::OperationDenied);
        event.outcome = Some(Verdict::Deny);
        event.reason = Some(reason.to_owned());
        event.operation = Some(next_operation());
        event.body.extend(asked);
        event
            .body
            .insert("error".into(), untrusted(message.as_bytes()));
        self.append(event);
    }

    /// Puts the intent on record, in the order of these calls.
    pub fn announce(&self, permit: Permit, urgency: Urgency) -> PendingIntent<Permit> {
        self.journal.record_intent(permit, urgency)
    }

    /// Puts the stretch that `permit` is in on record, for all READs or WRITEs there; `None` where each has its own record.
    pub fn reserve(
        &self,
        permit: &Permit,
        urgency: Urgency,
    ) -> Option<(Arc<Announcement>, PendingIntent<Extent>)> {
        if self.data_ops == DataOps::Each {
            return None;
        }
        let extent = Extent::of(permit, self.data_ops, next_operation())?;
        let announcement = Announcement::new(self.journal.clone(), extent.clone());
        let pending = self.journal.record_intent(extent, urgency);
        Some((Arc::new(announcement), pending))
    }

    /// Hands the operation to its backend before it returns; the future sees it through and records the outcome. For an
    /// operation that changes something, it resolves once that record is durable. What is covered by an extent is booked there.
    pub fn perform(
        &self,
        recorded: Recorded<Permit>,
        summary: Option<Summary>,
        mut covering: Option<Covering>,
    ) -> impl Future<Output = Result<Outcome, Failed>> + Send + 'static {
        let begun = Instant::now();
        let permit = recorded.intent();
        let id = permit.id();
        let name = permit.operation().name();
        let requester = Arc::clone(permit.requester());
        let acknowledges_change = acknowledges_change(permit.operation(), summary.as_ref());
        let written = if let Operation::Write { data, .. } = permit.operation() {
            Some(data.len())
        } else {
            None
        };
        let offset = if let Operation::Read { offset, .. } | Operation::Write { offset, .. } =
            permit.operation()
        {
            *offset
        } else {
            0
        };
        if let Some(covering) = &mut covering {
            covering.begin();
        }
        let renaming = Renaming::of(permit.operation());
        let backend = self.backend(permit.route());
        let member = member(permit.operation(), &backend);
        let execution = backend.map(|backend| backend.execute(recorded));
        let journal = self.journal.clone();
        let account = self.account.clone();
        async move {
            let result = match execution {
                Ok(execution) => execution.await,
                Err(error) => Err(error),
            };
            drop(renaming);
            if let (Some(account), Ok(outcome)) = (account, &result) {
                let bytes = if let Outcome::Data(data) = outcome {
                    data.len()
                } else {
                    written.unwrap_or(0)
                };
                account.moved(bytes as u64);
            }
            count(name, &result);
            if let Some(covering) = covering {
                covering.end(offset, written.unwrap_or(0) as u64, &result);
                return result.map_err(Failed::Backend);
            }
            let mut pending = None;
            let is_summed_up = summary.is_some();
            if let Some(summary) = summary {
                pending = Some(journal.append_soon((summary.event)(&result)));
            }
            let mut event = outcome_event(&requester, id, &result, written, begun.elapsed());
            if let Ok(Outcome::Published {
                sha256,
                stored: Some(stored),
            }) = &result
                && !is_summed_up
            {
                tell_published(&mut event, *sha256, stored);
            }
            if let Some(member) = member {
                event.body.insert("member".into(), member.into());
            }
            if acknowledges_change {
                let outcome = journal.append(event);
                if let Some(pending) = pending {
                    pending.await.map_err(Failed::Unrecorded)?;
                }
                outcome.await.map_err(Failed::Unrecorded)?;
            } else {
                drop(journal.append_soon(event));
            }
            result.map_err(Failed::Backend)
        }
    }

    /// What the journal says of the file that an operation is about, open under `handle`.
    pub fn on_record(&self, permit: &Permit, handle: HandleId) -> Option<OnRecord> {
        self.backend(permit.route()).ok()?.on_record(handle)
    }

    /// Records the end of an operation that was carried out as several others. `moved` are the bytes that those read,
    /// `told_by` is what answered in the place of bytes.
    pub fn conclude(
        &self,
        permit: &Permit,
        result: &Result<Outcome, BackendError>,
        moved: u64,
        told_by: Option<OnRecord>,
        latency: Duration,
    ) {
        let name = permit.operation().name();
        count(name, result);
        let moved = usize::try_from(moved).ok();
        let mut event = outcome_event(permit.requester(), permit.id(), result, moved, latency);
        if let Ok(Outcome::Digests { .. }) = result {
            tell_source(&mut event, told_by);
        }
        self.append(event);
    }

    /// Ends an operation that the gateway can answer from what a backend said before; the outcome is recorded.
    pub fn answer(
        &self,
        recorded: Recorded<Permit>,
        outcome: Outcome,
    ) -> impl Future<Output = Result<Outcome, Failed>> + Send + 'static {
        let id = recorded.intent().id();
        metrics::operation(recorded.intent().operation().name(), "success");
        let result = Ok(outcome);
        self.append(outcome_event(
            &self.requester,
            id,
            &result,
            None,
            Duration::ZERO,
        ));
        std::future::ready(result.map_err(Failed::Backend))
    }

    /// Puts an event of this session on record, without waiting for it.
    pub fn append(&self, event: Event) {
        drop(self.journal.append_soon(event));
    }

    /// Tells the operator that an operation brought nothing; with hidden paths, by its code, since the message may hold one.
    pub fn complain(&self, failed: &Failed) {
        if self.journal.is_veiled() {
            tracing::info!(error = failed.code(), "an operation failed");
        } else {
            tracing::info!(error = %failed, "an operation failed");
        }
    }

    /// What is on beside the usual extensions, on any mount.
    pub fn extensions(&self) -> Extensions {
        self.extensions
    }

    pub fn requester(&self) -> &Arc<Requester> {
        &self.requester
    }

    /// Ends the use of every backend: what was not published is withdrawn.
    pub async fn end(&self) {
        let used =
            std::mem::take(&mut *self.sessions.lock().unwrap_or_else(PoisonError::into_inner));
        let ends = used.into_values().map(|backend| async move {
            if tokio::time::timeout(END_DEADLINE, backend.end())
                .await
                .is_err()
            {
                tracing::warn!(?backend, "a backend did not end in time");
            }
        });
        futures_util::future::join_all(ends).await;
        self.gateway.end().await;
    }

    fn backend(&self, route: &Route) -> Result<Arc<dyn Backend>, BackendError> {
        let id = match route {
            Route::Gateway => return Ok(Arc::clone(&self.gateway)),
            Route::Mount { mount, .. } => *mount,
        };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = sessions.get(&id) {
            return Ok(Arc::clone(backend));
        }
        let mount = self.mounts.get(id.0).ok_or_else(|| {
            gateway_error(format!("the account has no mount with the number {}", id.0))
        })?;
        let service: &Arc<dyn BackendService> =
            self.services.get(&mount.backend).ok_or_else(|| {
                gateway_error(format!(
                    "the backend {:?} is not configured; add a section [backends.{}] or change the account's mount",
                    mount.backend, mount.backend
                ))
            })?;
        let owner = self.requester.owner().resuming(mount.resume);
        let mut backend = service.session(&mount.directory, &owner);
        let account = self.account.as_ref().filter(|usage| usage.has_rates());
        if !mount.allowance.is_unlimited() || account.is_some() {
            backend = self.limited(id, mount, account, backend);
        }
        let others = self.mounts.iter().filter(|other| other.at != mount.at);
        let backend = Union::over(backend, &mount.at, others.map(|other| other.at.clone()));
        sessions.insert(id, Arc::clone(&backend));
        Ok(backend)
    }

    fn limited(
        &self,
        id: MountId,
        mount: &Mount,
        account: Option<&Arc<AccountUsage>>,
        backend: Arc<dyn Backend>,
    ) -> Arc<dyn Backend> {
        let name = &self.requester.user.name;
        let usage = self.ledger.usage(name, &mount.at, mount.allowance);
        let measured = Measured {
            journal: self.journal.clone(),
            requester: Arc::clone(&self.requester),
            mounts: Arc::clone(&self.mounts),
            mount: id,
            backend: Arc::clone(&backend),
        };
        let measure = Box::new(move || measured.clone().bytes().boxed());
        Arc::new(Limited::new(backend, usage, account.cloned(), measure))
    }
}

impl Requester {
    /// The requester of an authenticated session.
    pub fn of(session: &Session) -> Self {
        Self {
            session: session.id,
            user: session.user.actor(),
            source: session.source,
            mfa_window: session.user.window().map(Window::began_in_records),
        }
    }

    /// Ids are never given twice, and names keep the accounts of one database from those of another.
    fn owner(&self) -> Owner {
        let id = self
            .user
            .uid
            .map_or_else(String::new, |uid| uid.to_string());
        Owner::new(format!("{id}:{}", self.user.name).into_bytes())
    }
}

impl Failed {
    fn code(&self) -> &'static str {
        match self {
            Self::Backend(error) => error.kind.code(),
            Self::Unrecorded(_) => "unrecorded",
        }
    }

    /// What the client hears.
    pub fn status(&self) -> Status {
        match self {
            Self::Backend(error) => error.into(),
            Self::Unrecorded(_) => Status::Failure,
        }
    }
}

/// The mounts with the server's extensions where they have no list of their own.
fn decided(mounts: Arc<Vec<Mount>>, extensions: Extensions) -> Arc<Vec<Mount>> {
    if mounts.iter().all(|mount| mount.extensions.is_some()) {
        return mounts;
    }
    let decided = mounts.iter().cloned().map(|mount| Mount {
        extensions: mount.extensions.or(Some(extensions)),
        ..mount
    });
    Arc::new(decided.collect())
}

/// Unique in the process, so in each session, over all its channels.
fn next_operation() -> OperationId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    OperationId(NEXT.fetch_add(1, Ordering::Relaxed))
}

static RENAMES: AtomicU64 = AtomicU64::new(0);

/// A number that grows when a rename begins and when it ends: who walks over a backend meanwhile may have missed what it moved.
pub fn renames() -> u64 {
    RENAMES.load(Ordering::SeqCst)
}

/// A rename that is under way.
struct Renaming;

impl Renaming {
    fn of(operation: &Operation) -> Option<Self> {
        let is_one = matches!(
            operation,
            Operation::Rename { .. } | Operation::PosixRename { .. }
        );
        is_one.then(|| {
            RENAMES.fetch_add(1, Ordering::SeqCst);
            Self
        })
    }
}

impl Drop for Renaming {
    fn drop(&mut self) {
        RENAMES.fetch_add(1, Ordering::SeqCst);
    }
}

/// True if the reply tells the client that something has changed for good: its record comes first.
fn acknowledges_change(operation: &Operation, summary: Option<&Summary>) -> bool {
    match operation {
        Operation::Close { .. } => summary.is_some_and(|summary| summary.publishes),
        Operation::Remove { .. }
        | Operation::Rename { .. }
        | Operation::PosixRename { .. }
        | Operation::Mkdir { .. }
        | Operation::Rmdir { .. }
        | Operation::Setstat { .. }
        | Operation::Lsetstat { .. }
        | Operation::Fsetstat { .. }
        | Operation::Symlink { .. }
        | Operation::Hardlink { .. }
        | Operation::Fsync { .. } => true,
        Operation::Open { .. }
        | Operation::Read { .. }
        | Operation::Write { .. }
        | Operation::Stat { .. }
        | Operation::Lstat { .. }
        | Operation::Fstat { .. }
        | Operation::Opendir { .. }
        | Operation::Readdir { .. }
        | Operation::Realpath { .. }
        | Operation::Readlink { .. }
        | Operation::Statvfs { .. }
        | Operation::Fstatvfs { .. }
        | Operation::CheckFile { .. }
        | Operation::CheckFileName { .. }
        | Operation::CopyData { .. }
        | Operation::Limits
        | Operation::HomeDirectory
        | Operation::UsersGroupsById { .. }
        | Operation::Tend { .. } => false,
    }
}

/// Which member of a failover list does the operation. Of a handle, the record of what opened it says so.
fn member(
    operation: &Operation,
    backend: &Result<Arc<dyn Backend>, BackendError>,
) -> Option<String> {
    if operation.handle().is_some() {
        return None;
    }
    Some(backend.as_ref().ok()?.member()?.to_owned())
}

fn count(name: &'static str, result: &Result<Outcome, BackendError>) {
    match result {
        Ok(_) => metrics::operation(name, "success"),
        Err(error) => {
            metrics::operation(name, "failure");
            metrics::failure(error);
        }
    }
}

fn gateway_error(message: String) -> BackendError {
    BackendError::new(ErrorKind::Unavailable, Origin::Gateway, message)
}
