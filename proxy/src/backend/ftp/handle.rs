//! The life of one handle: a task that owns the open file or directory and answers its requests in order.

use std::{collections::VecDeque, future::pending, io, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    download::Download, fault::Fault, listing::DIRECTORY_MODE, names, partial::Staged, pool::Pool,
    unsupported, update::Update, upload::Upload,
};
use crate::{
    backend::{
        BackendError, ErrorKind, FileVersion,
        asked::{Asked, Closing, HandleRequest},
        staging::{self, Content, Found, Intention, Refusal, UploadPlan},
    },
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

#[derive(Debug)]
enum Open {
    Upload(Box<Upload>),
    Update(Box<Update>),
    Download(Box<Download>),
    Directory(Directory),
}

#[derive(Debug)]
struct Directory {
    rest: VecDeque<Entry>,
    /// The right to keep so many names.
    _kept: OwnedSemaphorePermit,
}

impl Open {
    /// False while a request would have to wait for room.
    fn has_room(&self) -> bool {
        match self {
            Self::Upload(upload) => upload.has_room(),
            Self::Update(update) => update.has_room(),
            Self::Download(_) | Self::Directory(_) => true,
        }
    }

    /// Does what can be done between requests; returns when something was done, which may be never. Nothing is lost if it is
    /// not polled to its end; an error must be given to [`break_off`](Self::break_off).
    async fn go_on(&mut self) -> io::Result<()> {
        match self {
            Self::Upload(upload) => upload.send().await,
            Self::Update(update) => update.send().await,
            Self::Download(download) => {
                download.read_ahead().await;
                Ok(())
            }
            Self::Directory(_) => pending().await,
        }
    }

    async fn break_off(&mut self, error: &io::Error) {
        match self {
            Self::Upload(upload) => upload.break_off(error).await,
            Self::Update(update) => update.break_off(error).await,
            Self::Download(_) | Self::Directory(_) => {}
        }
    }
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
        let has_room = open.has_room();
        let asked = tokio::select! {
            biased;
            () = ended.cancelled() => None,
            asked = requests.recv(), if has_room => asked,
            went_on = open.go_on() => {
                if let Err(error) = went_on {
                    open.break_off(&error).await;
                }
                continue;
            }
        };
        let Some(Asked { request, answer }) = asked else {
            break;
        };
        if let Some(Closing { over }) = request.closing() {
            let closed = close(open, over).await;
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
    match open {
        Open::Upload(mut upload) => upload.end().await,
        Open::Update(mut update) => update.end().await,
        Open::Download(_) | Open::Directory(_) => {}
    }
}

async fn open(pool: &Arc<Pool>, what: OpenAs) -> Result<Open, Fault> {
    Ok(match what {
        OpenAs::File(path, access, Intention::Upload) => {
            open_for_writing(pool, path, access).await?
        }
        OpenAs::File(path, _, Intention::Download) => {
            Open::Download(Box::new(Download::open(pool, path).await?))
        }
        OpenAs::Directory(path) => {
            let mut lease = pool.lease().await?;
            let names = names::list_directory(&mut lease, &path).await?;
            let kept = pool.keep_names(names.len())?;
            Open::Directory(Directory {
                rest: names.into(),
                _kept: kept,
            })
        }
    })
}

async fn open_for_writing(
    pool: &Arc<Pool>,
    path: RelativePath,
    access: Access,
) -> Result<Open, Fault> {
    let mut lease = pool.lease_for_transfer().await?;
    let found = names::attributes(&mut lease, &path).await?;
    let standing = match &found {
        None => Found::Nothing,
        Some(attributes) if attributes.is_directory() => Found::Directory,
        Some(_) => Found::File,
    };
    let (plan, may_begin) = match staging::plan(access, standing) {
        Err(Refusal::NotFound) => (UploadPlan::RESUME, false),
        plan => (plan.map_err(|refusal| refused(&path, refusal))?, true),
    };
    if let Some(found) = &found
        && plan.content == Content::Existing
        && found.size != Some(0)
    {
        let update = Update::open(pool, path, found.clone(), access)?;
        return Ok(Open::Update(Box::new(update)));
    }
    let how = (access, plan.publish);
    let staged = Staged::new(pool, &path, found.is_none())?;
    if !access.truncate
        && let Some(length) = staged.found_length(pool, &mut lease).await?
    {
        let upload = Upload::resume(pool, path, staged, length, how);
        return Ok(Open::Upload(Box::new(upload)));
    }
    if !may_begin {
        return Err(refused(&path, Refusal::NotFound));
    }
    let upload = Upload::begin(pool, lease, path, staged, how).await?;
    Ok(Open::Upload(Box::new(upload)))
}

fn refused(path: &RelativePath, refusal: Refusal) -> Fault {
    Fault::judged(refusal.kind(), format!("{path:?}: {refusal}"))
}

async fn serve_one(open: &mut Open, request: HandleRequest) -> Result<Outcome, Fault> {
    match (open, request) {
        (Open::Upload(upload), HandleRequest::Write { offset, data }) => {
            upload.write(offset, data).await?;
            Ok(Outcome::Done)
        }
        (Open::Update(update), HandleRequest::Read { offset, length }) => {
            Ok(data_or_end(update.read(offset, length).await?))
        }
        (Open::Update(update), HandleRequest::Write { offset, data }) => {
            update.write(offset, data).await?;
            Ok(Outcome::Done)
        }
        (Open::Update(update), HandleRequest::Attributes) => {
            Ok(Outcome::Attributes(update.attributes()))
        }
        (Open::Update(update), HandleRequest::SetAttributes(attributes)) => {
            update.set_attributes(&attributes).await?;
            Ok(Outcome::Done)
        }
        (Open::Upload(upload), HandleRequest::Attributes) => {
            Ok(Outcome::Attributes(upload.attributes()))
        }
        (Open::Upload(upload), HandleRequest::SetAttributes(attributes)) => {
            upload.set_attributes(&attributes)?;
            Ok(Outcome::Done)
        }
        (Open::Upload(upload), HandleRequest::Read { offset, length }) => {
            Ok(data_or_end(upload.read(offset, length).await?))
        }
        (Open::Download(download), HandleRequest::Read { offset, length }) => {
            Ok(data_or_end(download.read(offset, length).await?))
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
        (Open::Directory(directory), HandleRequest::ReadDirectory) => {
            let count = directory.rest.len().min(NAMES_AT_ONCE);
            if count == 0 {
                return Ok(Outcome::End);
            }
            Ok(Outcome::Names(directory.rest.drain(..count).collect()))
        }
        (Open::Download(_), HandleRequest::Write { .. })
        | (Open::Upload(_) | Open::Update(_) | Open::Download(_), HandleRequest::ReadDirectory)
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

fn data_or_end(data: Bytes) -> Outcome {
    if data.is_empty() {
        Outcome::End
    } else {
        Outcome::Data(data)
    }
}

async fn close(open: Open, over: Option<FileVersion>) -> Result<Outcome, Fault> {
    match open {
        Open::Upload(mut upload) => match over {
            None => upload.publish().await,
            Some(FileVersion::Watched {
                attributes,
                watched,
            }) => upload.publish_over(attributes, watched).await,
            Some(FileVersion::Inode(_) | FileVersion::Object { .. }) => {
                upload.withdraw().await;
                Err(unsupported("the version of another backend"))
            }
        },
        Open::Update(update) => update.publish().await,
        Open::Download(_) | Open::Directory(_) => Ok(Outcome::Done),
    }
}
