//! What the layer asks of the backend below it, on behalf of one recorded operation.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use portcullis_audit::catalogue::Asker;
use portcullis_journal::Recorded;

use crate::{
    backend::{Backend, BackendError, ErrorKind, Execution, Origin},
    operation::{Access, Attributes, HandleId, MAX_DATA, Operation, Outcome},
    path::{RelativePath, VirtualPath},
    policy::Permit,
};

/// An operation that is on record, and the backend that its steps go to.
#[derive(Debug, Clone)]
pub(super) struct Steps {
    backend: Arc<dyn Backend>,
    recorded: Arc<Recorded<Permit>>,
}

impl Steps {
    pub(super) fn new(backend: &Arc<dyn Backend>, recorded: Recorded<Permit>) -> Self {
        Self {
            backend: Arc::clone(backend),
            recorded: Arc::new(recorded),
        }
    }

    pub(super) fn operation(&self) -> &Operation {
        self.recorded.intent().operation()
    }

    /// As the journal knows it.
    pub(super) fn asker(&self) -> Asker {
        let permit = self.recorded.intent();
        Asker {
            session: u128::from_be_bytes(permit.requester().session.0),
            operation: permit.id().0,
        }
    }

    /// The operation's path, below the directory of its mount.
    pub(super) fn place(&self) -> Option<&RelativePath> {
        self.recorded.intent().target()
    }

    /// No client asked for it: the gateway itself looks what lies there.
    pub(super) fn is_of_the_gateway(&self) -> bool {
        self.recorded.intent().is_of_the_gateway()
    }

    /// Starts a step before it returns.
    pub(super) fn start(&self, operation: Operation) -> Execution {
        match self.prove(operation) {
            Ok(recorded) => self.backend.execute(recorded),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    /// The proof for a step.
    pub(super) fn prove(&self, operation: Operation) -> Result<Recorded<Permit>, BackendError> {
        let permit = self.recorded.intent().step(operation);
        self.recorded.cover(permit).map_err(|permit| {
            let step = permit.operation().name();
            let whole = self.operation().name();
            let message = format!("{step} is no step of {whole}");
            BackendError::new(ErrorKind::Failure, Origin::Gateway, message)
        })
    }

    /// Does the operation as it is.
    pub(super) fn pass(&self) -> Execution {
        self.start(self.operation().clone())
    }

    pub(super) fn open(&self, path: &VirtualPath, handle: HandleId, access: Access) -> Execution {
        self.start(Operation::Open {
            path: path.clone(),
            handle,
            access,
            attributes: Attributes::default(),
        })
    }

    pub(super) fn write(&self, handle: HandleId, offset: u64, data: Bytes) -> Execution {
        self.start(Operation::Write {
            handle,
            offset,
            data,
        })
    }

    pub(super) async fn close(&self, handle: HandleId) -> Result<Outcome, BackendError> {
        self.start(Operation::Close { handle }).await
    }

    pub(super) async fn attributes(&self, handle: HandleId) -> Result<Attributes, BackendError> {
        let outcome = self.start(Operation::Fstat { handle }).await?;
        if let Outcome::Attributes(attributes) = outcome {
            Ok(attributes)
        } else {
            Err(unexpected(&outcome))
        }
    }

    /// Up to `length` bytes; fewer only at the file's end. The first READ is started before this returns.
    pub(super) fn read(
        &self,
        handle: HandleId,
        offset: u64,
        length: usize,
    ) -> impl Future<Output = Result<Bytes, BackendError>> + Send + 'static {
        let steps = self.clone();
        let first = steps.read_once(handle, offset, length);
        async move {
            let all = answer(first.await?, length)?;
            if all.is_empty() || all.len() == length {
                return Ok(all);
            }
            let mut data = BytesMut::with_capacity(length);
            data.extend_from_slice(&all);
            while data.len() < length {
                let left = length - data.len();
                let next = steps.read_once(handle, offset + data.len() as u64, left);
                let more = answer(next.await?, left)?;
                if more.is_empty() {
                    break;
                }
                data.extend_from_slice(&more);
            }
            Ok(data.freeze())
        }
    }

    fn read_once(&self, handle: HandleId, offset: u64, length: usize) -> Execution {
        let length = u32::try_from(length).unwrap_or(MAX_DATA).min(MAX_DATA);
        self.start(Operation::Read {
            handle,
            offset,
            length,
        })
    }
}

/// What a READ of up to `length` bytes brought; empty at the end.
fn answer(outcome: Outcome, length: usize) -> Result<Bytes, BackendError> {
    if let Outcome::End = outcome {
        return Ok(Bytes::new());
    }
    if let Outcome::Data(data) = &outcome
        && data.len() <= length
    {
        return Ok(data.clone());
    }
    Err(unexpected(&outcome))
}

fn unexpected(outcome: &Outcome) -> BackendError {
    let message = format!("the backend gave an answer to another question: {outcome:.40?}");
    BackendError::new(ErrorKind::Failure, Origin::Backend, message)
}
