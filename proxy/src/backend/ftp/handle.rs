//! The life of one handle: a task that owns the open file or directory and answers its requests in order.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Asked, download::Download, fault::Fault, listing::DIRECTORY_MODE, names, pool::Pool,
    unsupported, upload::Upload,
};
use crate::{
    backend::{BackendError, ErrorKind, staging::Intention},
    operation::{Access, Attributes, Entry, Outcome},
    path::RelativePath,
};

/// Names in one answer to READDIR: a reply of some 25 KiB with names of usual length.
const NAMES_AT_ONCE: usize = 100;

/// What a handle is opened for.
#[derive(Debug)]
pub(super) enum OpenAs {
    File(RelativePath, Access, Intention),
    Directory(RelativePath),
}

/// What is asked of an open handle.
#[derive(Debug)]
pub(super) enum HandleRequest {
    Read { offset: u64, length: u32 },
    Write { offset: u64, data: Bytes },
    Attributes,
    SetAttributes(Attributes),
    ReadDirectory,
    Close,
}

#[derive(Debug)]
enum Open {
    Upload(Box<Upload>),
    Download(Box<Download>),
    Directory(VecDeque<Entry>),
}

/// Opens the handle, serves it until CLOSE, and withdraws what was not closed when the session ends.
pub(super) async fn serve(
    pool: Arc<Pool>,
    what: OpenAs,
    answer: oneshot::Sender<Result<Outcome, BackendError>>,
    mut requests: mpsc::Receiver<Asked<HandleRequest>>,
    ended: CancellationToken,
) {
    let server = pool.server().settings.address.clone();
    let mut open = match open(&pool, what).await {
        Ok(open) => {
            let _ = answer.send(Ok(Outcome::Opened));
            open
        }
        Err(fault) => {
            let _ = answer.send(Err(fault.at(&server)));
            return;
        }
    };
    loop {
        let asked = tokio::select! {
            biased;
            () = ended.cancelled() => None,
            asked = requests.recv() => asked,
        };
        let Some(Asked { request, answer }) = asked else {
            break;
        };
        if matches!(request, HandleRequest::Close) {
            let closed = close(open).await;
            let _ = answer.send(closed.map_err(|fault| fault.at(&server)));
            return;
        }
        let outcome = tokio::select! {
            biased;
            () = ended.cancelled() => break,
            outcome = serve_one(&mut open, request) => outcome,
        };
        let _ = answer.send(outcome.map_err(|fault| fault.at(&server)));
    }
    if let Open::Upload(mut upload) = open {
        upload.withdraw().await;
    }
}

async fn open(pool: &Arc<Pool>, what: OpenAs) -> Result<Open, Fault> {
    Ok(match what {
        OpenAs::File(path, access, Intention::Upload) => {
            Open::Upload(Box::new(Upload::open(pool, path, access).await?))
        }
        OpenAs::File(path, _, Intention::Download) => {
            Open::Download(Box::new(Download::open(pool, path).await?))
        }
        OpenAs::Directory(path) => {
            let mut lease = pool.lease().await?;
            Open::Directory(names::list_directory(&mut lease, &path).await?.into())
        }
    })
}

async fn serve_one(open: &mut Open, request: HandleRequest) -> Result<Outcome, Fault> {
    match (open, request) {
        (Open::Upload(upload), HandleRequest::Write { offset, data }) => {
            upload.write(offset, data).await?;
            Ok(Outcome::Done)
        }
        (Open::Upload(upload), HandleRequest::Attributes) => {
            Ok(Outcome::Attributes(upload.attributes()))
        }
        (Open::Upload(upload), HandleRequest::SetAttributes(attributes)) => {
            upload.set_attributes(&attributes)?;
            Ok(Outcome::Done)
        }
        (Open::Upload(_), HandleRequest::Read { .. }) => {
            Err(unsupported("reading a file while it is written"))
        }
        (Open::Download(download), HandleRequest::Read { offset, length }) => {
            download.read(offset, length).await
        }
        (Open::Download(download), HandleRequest::Attributes) => {
            Ok(Outcome::Attributes(download.attributes()))
        }
        (Open::Download(download), HandleRequest::SetAttributes(attributes)) => {
            download.set_attributes(&attributes).await?;
            Ok(Outcome::Done)
        }
        (Open::Directory(_), HandleRequest::Attributes) => Ok(Outcome::Attributes(Attributes {
            permissions: Some(DIRECTORY_MODE),
            ..Attributes::default()
        })),
        (Open::Directory(entries), HandleRequest::ReadDirectory) => {
            let count = entries.len().min(NAMES_AT_ONCE);
            if count == 0 {
                return Ok(Outcome::End);
            }
            Ok(Outcome::Names(entries.drain(..count).collect()))
        }
        (Open::Download(_), HandleRequest::Write { .. })
        | (Open::Upload(_) | Open::Download(_), HandleRequest::ReadDirectory)
        | (
            Open::Directory(_),
            HandleRequest::Read { .. }
            | HandleRequest::Write { .. }
            | HandleRequest::SetAttributes(_),
        )
        | (_, HandleRequest::Close) => Err(Fault::judged(
            ErrorKind::InvalidHandle,
            "the handle was not opened for this",
        )),
    }
}

async fn close(open: Open) -> Result<Outcome, Fault> {
    match open {
        Open::Upload(upload) => upload.publish().await?,
        Open::Download(_) | Open::Directory(_) => {}
    }
    Ok(Outcome::Done)
}
