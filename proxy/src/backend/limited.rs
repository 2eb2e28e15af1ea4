//! A mount through which its account may only move so much, and so fast, alone or with all its mounts together.
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
use portcullis_audit::catalogue::OnRecord;
use portcullis_journal::Recorded;

use super::{Backend, BackendError, Capabilities, ErrorKind, Execution, Origin};
use crate::{
    allowance::{AccountUsage, Measure, Usage},
    operation::{HandleId, Operation, Outcome},
    policy::Permit,
};

/// Most uploads of a session that went beyond the quota; they stay open at the backend until the session ends.
const MAX_SPOILED: usize = 64;

/// A backend behind an allowance.
pub struct Limited {
    backend: Arc<dyn Backend>,
    usage: Arc<Usage>,
    account: Option<Arc<AccountUsage>>,
    measure: Arc<Measure>,
    /// Held from the wait of a WRITE to its start: they start in the order they came, or an upload is not sequential.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Uploads that lack a WRITE: their CLOSE must not publish them.
    spoiled: Arc<Mutex<HashSet<HandleId>>>,
}

impl fmt::Debug for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limited").field(&self.backend).finish()
    }
}

impl Limited {
    /// `usage` of the mount, `account` of all mounts of an account that has rates.
    pub fn new(
        backend: Arc<dyn Backend>,
        usage: Arc<Usage>,
        account: Option<Arc<AccountUsage>>,
        measure: Measure,
    ) -> Self {
        Self {
            backend,
            usage,
            account,
            measure: Arc::new(measure),
            turn: Arc::default(),
            spoiled: Arc::default(),
        }
    }

    fn spoiled(&self) -> MutexGuard<'_, HashSet<HandleId>> {
        lock(&self.spoiled)
    }

    fn read(&self, length: u64, recorded: Recorded<Permit>) -> Execution {
        let (backend, usage) = (Arc::clone(&self.backend), Arc::clone(&self.usage));
        let account = self.account.clone();
        async move {
            usage.read(length).await;
            if let Some(account) = &account {
                account.read(length).await;
            }
            let result = backend.execute(recorded).await;
            let brought = if let Ok(Outcome::Data(data)) = &result {
                data.len() as u64
            } else {
                0
            };
            let missing = length.saturating_sub(brought);
            usage.not_read(missing);
            if let Some(account) = &account {
                account.not_read(missing);
            }
            result
        }
        .boxed()
    }

    /// `moved` are the bytes that go to the backend, `stored` those that may lie there then.
    fn store(&self, moved: u64, stored: u64, recorded: Recorded<Permit>) -> Execution {
        let (backend, usage) = (Arc::clone(&self.backend), Arc::clone(&self.usage));
        let (measure, spoiled) = (Arc::clone(&self.measure), Arc::clone(&self.spoiled));
        let account = self.account.clone();
        let turn = Arc::clone(&self.turn).lock_owned();
        async move {
            let turn = turn.await;
            if let Err(refused) = usage.store(stored, &measure).await {
                lock(&spoiled).extend(recorded.intent().operation().handle());
                return Err(refused);
            }
            usage.write(moved).await;
            if let Some(account) = &account {
                account.write(moved).await;
            }
            let execution = backend.execute(recorded);
            drop(turn);
            let result = execution.await;
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

    fn member(&self) -> Option<&str> {
        self.backend.member()
    }

    fn on_record(&self, handle: HandleId) -> Option<OnRecord> {
        self.backend.on_record(handle)
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use futures_util::{StreamExt as _, stream::FuturesUnordered};

    use super::*;
    use crate::{
        allowance::{Allowance, Ledger},
        backend::{BackendService as _, memory::Memory},
        operation::{Access, Attributes},
        path::VirtualPath,
        testing::{self, Fixture},
    };

    /// Notes the offsets of WRITEs as they start.
    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<u64>>);

    impl Backend for Notes {
        fn capabilities(&self) -> Capabilities {
            Memory::new().session(b"", &testing::owner()).capabilities()
        }

        fn execute(&self, recorded: Recorded<Permit>) -> Execution {
            let Operation::Write { offset, .. } = *recorded.intent().operation() else {
                return ready(Ok(Outcome::Opened)).boxed();
            };
            lock(&self.0).push(offset);
            ready(Ok(Outcome::Done)).boxed()
        }

        fn end(&self) -> BoxFuture<'static, ()> {
            ready(()).boxed()
        }
    }

    #[tokio::test]
    async fn writes_that_wait_for_their_rate_start_in_the_order_they_came() {
        let fixture = Fixture::new();
        let notes = Arc::new(Notes::default());
        let allowance = Allowance {
            write_rate: NonZeroU64::new(100_000),
            ..Allowance::default()
        };
        let root = VirtualPath::root();
        let ledger = Ledger::default();
        let usage = ledger.usage("alice", &root, allowance);
        let measure: Measure = Box::new(|| ready(Ok(0)).boxed());
        let limited = Limited::new(Arc::clone(&notes) as _, usage, None, measure);
        let handle = HandleId(1);
        let open = Operation::Open {
            path: VirtualPath::clean(b"/a").unwrap(),
            handle,
            access: Access {
                write: true,
                create: true,
                truncate: true,
                ..Access::default()
            },
            attributes: Attributes::default(),
        };
        fixture.run(&limited, open).await.unwrap();
        let mut running = FuturesUnordered::new();
        let offsets: Vec<u64> = (0..300).map(|number| number * 400).collect();
        for &offset in &offsets {
            let data = vec![0; 400].into();
            let write = Operation::Write {
                handle,
                offset,
                data,
            };
            running.push(limited.execute(fixture.recorded(write).await));
        }
        while let Some(result) = running.next().await {
            result.unwrap();
        }
        assert_eq!(*lock(&notes.0), offsets);
    }
}
