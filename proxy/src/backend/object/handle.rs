//! The life of one handle: a task that owns the open file or directory and answers its requests in order.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Limits, bucket::Bucket, directory::Directory, download::Download, fault::Fault, location::Key,
    names, unsupported, upload::Upload,
};
use crate::{
    backend::{
        BackendError, ErrorKind, FileVersion,
        asked::{Asked, Closing, HandleRequest},
        staging::Intention,
    },
    operation::{Access, Outcome},
};

/// What a handle is opened for.
#[derive(Debug)]
pub(super) enum OpenAs {
    File(Access, Intention),
    Directory,
}

/// What is opened, and what it may use.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) bucket: Arc<Bucket>,
    pub(super) key: Key,
    /// The mount's directory.
    pub(super) root: Key,
    pub(super) what: OpenAs,
    /// By the gateway itself, for its work on stored files.
    pub(super) is_tended: bool,
    pub(super) limits: Arc<Limits>,
}

#[derive(Debug)]
enum Open {
    Upload(Box<Upload>, OwnedSemaphorePermit),
    Download(Box<Download>),
    Directory(Directory),
}

/// Opens the handle, serves it until CLOSE, and withdraws what was not closed when the session ends.
pub(super) async fn serve(
    opening: Opening,
    answer: oneshot::Sender<Result<Outcome, BackendError>>,
    mut requests: mpsc::Receiver<Asked<HandleRequest>>,
    ended: CancellationToken,
) {
    let bucket = Arc::clone(&opening.bucket);
    let mut open = match open(opening).await {
        Ok(open) => {
            let _ = answer.send(Ok(Outcome::Opened));
            open
        }
        Err(fault) => {
            let _ = answer.send(Err(fault.at(bucket.name())));
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
        if let Some(Closing { over }) = request.closing() {
            let closed = close(open, over).await;
            let _ = answer.send(closed.map_err(|fault| fault.at(bucket.name())));
            return;
        }
        let outcome = tokio::select! {
            biased;
            () = ended.cancelled() => break,
            outcome = serve_one(&mut open, request) => outcome,
        };
        let _ = answer.send(outcome.map_err(|fault| fault.at(bucket.name())));
    }
    if let Open::Upload(mut upload, _) = open {
        upload.withdraw().await;
    }
}

async fn open(opening: Opening) -> Result<Open, Fault> {
    let Opening {
        bucket,
        key,
        root,
        what,
        is_tended,
        limits,
    } = opening;
    Ok(match what {
        OpenAs::File(access, Intention::Upload) => {
            let place = Arc::clone(&limits.uploads)
                .try_acquire_owned()
                .map_err(|_| {
                    Fault::judged(
                        ErrorKind::Failure,
                        format!(
                            "{} uploads are open in this session already; close one first",
                            super::UPLOADS
                        ),
                    )
                })?;
            let upload = Upload::open(&bucket, key, &root, (access, is_tended), &limits).await?;
            Open::Upload(Box::new(upload), place)
        }
        OpenAs::File(_, Intention::Download) => Open::Download(Box::new(
            Download::open(&bucket, key, &root, is_tended, &limits).await?,
        )),
        OpenAs::Directory => Open::Directory(Directory::open(&bucket, &key, &root).await?),
    })
}

async fn serve_one(open: &mut Open, request: HandleRequest) -> Result<Outcome, Fault> {
    match (open, request) {
        (Open::Upload(upload, _), HandleRequest::Write { offset, data }) => {
            upload.write(offset, data).await?;
            Ok(Outcome::Done)
        }
        (Open::Upload(upload, _), HandleRequest::Attributes) => {
            Ok(Outcome::Attributes(upload.attributes()))
        }
        (Open::Upload(upload, _), HandleRequest::SetAttributes(attributes)) => {
            upload.set_attributes(&attributes)?;
            Ok(Outcome::Done)
        }
        (Open::Upload(..), HandleRequest::Read { .. }) => {
            Err(unsupported("reading a file while it is written"))
        }
        (Open::Download(download), HandleRequest::Read { offset, length }) => {
            download.read(offset, length).await
        }
        (Open::Download(download), HandleRequest::Attributes) => {
            Ok(Outcome::Attributes(download.attributes()))
        }
        (Open::Download(_), HandleRequest::SetAttributes(_)) => Err(names::cannot_set_attributes()),
        (Open::Directory(_), HandleRequest::Attributes) => {
            Ok(Outcome::Attributes(names::directory_attributes()))
        }
        (Open::Directory(directory), HandleRequest::ReadDirectory) => directory.read().await,
        (Open::Download(_), HandleRequest::Write { .. })
        | (Open::Upload(..) | Open::Download(_), HandleRequest::ReadDirectory)
        | (
            Open::Directory(_),
            HandleRequest::Read { .. }
            | HandleRequest::Write { .. }
            | HandleRequest::SetAttributes(_),
        )
        | (_, HandleRequest::Close | HandleRequest::CloseOver(_)) => Err(Fault::judged(
            ErrorKind::InvalidHandle,
            "the handle was not opened for this",
        )),
    }
}

async fn close(open: Open, over: Option<FileVersion>) -> Result<Outcome, Fault> {
    match open {
        Open::Upload(upload, _place) => match over {
            Some(version) => upload.publish_over(version).await,
            None => upload.publish().await,
        },
        Open::Download(_) | Open::Directory(_) => Ok(Outcome::Done),
    }
}
