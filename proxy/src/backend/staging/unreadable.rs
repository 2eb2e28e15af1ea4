//! Uploads that can't be read before they are published: whoever opens one hears that, and not that it is missing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt as _;

use crate::{
    backend::{BackendError, ErrorKind, Execution, Origin},
    operation::{HandleId, Operation},
    path::RelativePath,
    policy::Permit,
};

/// Where the uploads of one session go, for a backend without [`read_back`](crate::backend::Capabilities::read_back).
#[derive(Debug, Clone, Default)]
pub struct Unreadable(Arc<Mutex<HashMap<HandleId, RelativePath>>>);

impl Unreadable {
    /// Books what the operation does to the session's uploads. An OPEN for reading that finds nothing where one goes is
    /// [`Unsupported`](ErrorKind::Unsupported).
    pub fn watch(&self, permit: &Permit, execution: Execution) -> Execution {
        let this = self.clone();
        if let (Operation::Open { handle, access, .. }, Some(target)) =
            (permit.operation(), permit.target().cloned())
        {
            let handle = *handle;
            if !access.writes() {
                return execution
                    .map(move |opened| opened.map_err(|error| this.explain(error, &target)))
                    .boxed();
            }
            self.uploads().insert(handle, target);
            execution
                .inspect(move |opened| {
                    if opened.is_err() {
                        this.uploads().remove(&handle);
                    }
                })
                .boxed()
        } else if let Operation::Close { handle } = *permit.operation() {
            execution
                .inspect(move |_| drop(this.uploads().remove(&handle)))
                .boxed()
        } else {
            execution
        }
    }

    fn explain(&self, error: BackendError, target: &RelativePath) -> BackendError {
        if error.kind != ErrorKind::NotFound || !self.uploads().values().any(|path| path == target)
        {
            return error;
        }
        BackendError::new(
            ErrorKind::Unsupported,
            Origin::Client,
            format!(
                "{}: it is being uploaded, and this kind of server shows it once the upload is closed",
                error.message
            ),
        )
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<HandleId, RelativePath>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
