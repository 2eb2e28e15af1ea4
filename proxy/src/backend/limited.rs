//! A mount whose account may only move so much, and so fast.
//!
//! An operation waits here before its backend hears of it. What waits holds its session's own credit and nothing of others.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use portcullis_journal::Recorded;

use super::{Backend, BackendError, Capabilities, ErrorKind, Execution, Origin};
use crate::{
    allowance::{Measure, Usage},
    operation::{HandleId, Operation, Outcome},
    policy::Permit,
};

/// Most uploads of a session that went beyond the quota; they stay open at the backend until the session ends.
const MAX_SPOILED: usize = 64;

/// A backend behind an allowance.
pub struct Limited {
    backend: Arc<dyn Backend>,
    usage: Arc<Usage>,
    measure: Arc<Measure>,
    /// Uploads that lack a WRITE: their CLOSE must not publish them.
    spoiled: Arc<Mutex<HashSet<HandleId>>>,
}

impl fmt::Debug for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limited").field(&self.backend).finish()
    }
}

impl Limited {
    pub fn new(backend: Arc<dyn Backend>, usage: Arc<Usage>, measure: Measure) -> Self {
        Self {
            backend,
            usage,
            measure: Arc::new(measure),
            spoiled: Arc::default(),
        }
    }

    fn spoiled(&self) -> MutexGuard<'_, HashSet<HandleId>> {
        lock(&self.spoiled)
    }

    fn read(&self, length: u64, recorded: Recorded<Permit>) -> Execution {
        let (backend, usage) = (Arc::clone(&self.backend), Arc::clone(&self.usage));
        async move {
            usage.read(length).await;
            let result = backend.execute(recorded).await;
            let brought = if let Ok(Outcome::Data(data)) = &result {
                data.len() as u64
            } else {
                0
            };
            usage.not_read(length.saturating_sub(brought));
            result
        }
        .boxed()
    }

    /// `moved` are the bytes that go to the backend, `stored` those that may lie there then.
    fn store(&self, moved: u64, stored: u64, recorded: Recorded<Permit>) -> Execution {
        let (backend, usage) = (Arc::clone(&self.backend), Arc::clone(&self.usage));
        let (measure, spoiled) = (Arc::clone(&self.measure), Arc::clone(&self.spoiled));
        async move {
            if let Err(refused) = usage.store(stored, &measure).await {
                lock(&spoiled).extend(recorded.intent().operation().handle());
                return Err(refused);
            }
            usage.write(moved).await;
            let result = backend.execute(recorded).await;
            if result.is_err() {
                usage.not_stored(stored).await;
            }
            result
        }
        .boxed()
    }
}

impl Backend for Limited {
    fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        let operation = recorded.intent().operation();
        if let Operation::Read { length, .. } = *operation {
            self.read(length.into(), recorded)
        } else if let Operation::Write { data, .. } = operation {
            let length = data.len() as u64;
            self.store(length, length, recorded)
        } else if let Operation::Setstat { attributes, .. } | Operation::Fsetstat { attributes, .. } =
            operation
            && let Some(size @ 1..) = attributes.size
        {
            self.store(0, size, recorded)
        } else if let Operation::Close { handle } = operation
            && self.spoiled().contains(handle)
        {
            ready(Err(incomplete())).boxed()
        } else if let Operation::Open { access, .. } = operation
            && access.writes()
            && self.spoiled().len() >= MAX_SPOILED
        {
            ready(Err(incomplete())).boxed()
        } else {
            self.backend.execute(recorded)
        }
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        self.backend.end()
    }
}

/// The backend withdraws such an upload with the session, or keeps it to be continued.
fn incomplete() -> BackendError {
    BackendError::new(
        ErrorKind::NoSpace,
        Origin::Client,
        "the upload went beyond the mount's quota and is not published",
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
