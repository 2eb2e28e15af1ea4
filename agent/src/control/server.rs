//! The control interface: HTTP/JSON on a Unix socket.

use std::{
    convert::Infallible, fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        ConnectInfo, DefaultBodyLimit, FromRequestParts, Path as UrlPath, Query,
        Request as HttpRequest, State,
        connect_info::Connected,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
    serve::IncomingStream,
};
use ipnet::IpNet;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    AllowEntry, AllowRequest, BanRequest, Code, DisallowRequest, Failure, FailureReply,
    UnbanRequest,
    peer::{Peer, Right},
};
use crate::{
    allowlist::{Allowlist, Entry},
    answers::{
        feed::Feed,
        filter::{EventQuery, Filter},
    },
    config,
    engine::{AllowChange, Reply, Request},
    prefix,
};

/// Bytes of a request body: a list of some million prefixes.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// Connections at a time. One more waits, so that no local user can exhaust the daemon.
const MAX_CONNECTIONS: usize = 64;
/// Characters of a comment.
const MAX_COMMENT: usize = 200;

/// What the handlers need.
#[derive(Clone)]
pub struct Service {
    requests: mpsc::Sender<Request>,
    reports: Feed,
    /// Ends the streams of events, which would otherwise hold up the end of the daemon.
    stop: CancellationToken,
}

impl Service {
    pub fn new(requests: mpsc::Sender<Request>, reports: Feed, stop: CancellationToken) -> Self {
        Self {
            requests,
            reports,
            stop,
        }
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| Failure::stopping())?;
        answer.await.map_err(|_| Failure::stopping())?
    }
}

/// Binds the socket. One that a dead daemon left is removed; the lock on the pins keeps a living one safe.
///
/// Anyone may connect: what a caller may do is decided by the kernel's word on who it is.
///
/// # Errors
/// If it can't be bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves until the service is told to stop.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: UnixListener,
    service: Service,
    control: config::Control,
) -> io::Result<()> {
    let stop = service.stop.clone().cancelled_owned();
    let listener = Doorkeeper {
        listener,
        control: Arc::new(control),
        seats: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    };
    let app = router(service).into_make_service_with_connect_info::<Caller>();
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await
}

fn router(service: Service) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route(
            "/v1/allow",
            get(allowed)
                .post(allow_add)
                .delete(allow_remove)
                .put(allow_replace),
        )
        .route("/v1/bans", get(bans).post(ban).delete(unban))
        .route("/v1/bans/{source}", axum::routing::delete(unban_path))
        .route("/v1/events", get(events))
        .route("/v1/top", get(top))
        .fallback(async || Failure::not_found("no such resource"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(service)
}

async fn status(State(service): State<Service>, caller: Caller) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    Ok(json(
        StatusCode::OK,
        &service.ask(|reply| Request::Status { reply }).await?,
    ))
}

async fn allowed(State(service): State<Service>, caller: Caller) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let entries = service.ask(|reply| Request::Allowed { reply }).await?;
    Ok(json(
        StatusCode::OK,
        &serde_json::json!({ "entries": entries }),
    ))
}

async fn allow_add(
    State(service): State<Service>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let request: AllowRequest = body.read()?;
    change(&service, AllowChange::Add(entries(request.entries)?), by).await
}

async fn allow_replace(
    State(service): State<Service>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let request: AllowRequest = body.read()?;
    let list: Allowlist = entries(request.entries)?.into_iter().collect();
    change(&service, AllowChange::Replace(list), by).await
}

async fn allow_remove(
    State(service): State<Service>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let request: DisallowRequest = body.read()?;
    let prefixes = request
        .prefixes
        .iter()
        .map(|text| parse(text))
        .collect::<Result<_, _>>()?;
    change(&service, AllowChange::Remove(prefixes), by).await
}

async fn change(service: &Service, change: AllowChange, by: Peer) -> Result<Response, Failure> {
    let summary = service
        .ask(|reply| Request::Allow { change, by, reply })
        .await?;
    Ok(json(StatusCode::OK, &summary))
}

async fn bans(State(service): State<Service>, caller: Caller) -> Result<Response, Failure> {
    caller.must(Right::ReadBans)?;
    let bans = service.ask(|reply| Request::Bans { reply }).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "bans": bans })))
}

async fn ban(
    State(service): State<Service>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Ban)?;
    let BanRequest {
        source,
        lifetime_seconds,
        reason,
    } = body.read()?;
    let source = parse(&source)?;
    // The ceiling is far below; this only keeps the sum with the present representable.
    let lifetime = Duration::from_secs(lifetime_seconds.min(u64::from(u32::MAX)));
    let ban = service
        .ask(|reply| Request::Ban {
            source,
            lifetime,
            reason,
            by,
            reply,
        })
        .await?;
    Ok(json(StatusCode::CREATED, &ban))
}

async fn unban(
    State(service): State<Service>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let request: UnbanRequest = body.read()?;
    lift(&service, &request.source, by).await
}

async fn unban_path(
    State(service): State<Service>,
    caller: Caller,
    source: Result<UrlPath<String>, PathRejection>,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let UrlPath(source) = source.map_err(|error| Failure::invalid(error.body_text()))?;
    lift(&service, &source, by).await
}

async fn lift(service: &Service, source: &str, by: Peer) -> Result<Response, Failure> {
    let source = parse(source)?;
    let ban = service
        .ask(|reply| Request::Unban { source, by, reply })
        .await?;
    Ok(json(StatusCode::OK, &ban))
}

async fn top(State(service): State<Service>, caller: Caller) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let top = service.ask(|reply| Request::Top { reply }).await?;
    Ok(json(StatusCode::OK, &top))
}

async fn events(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let Query(query) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    let filter = Filter::new(&query).map_err(|error| Failure::invalid(error.to_string()))?;
    let lines = service.reports.lines(filter, query.head, service.stop);
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

fn entries(entries: Vec<AllowEntry>) -> Result<Vec<Entry>, Failure> {
    entries
        .into_iter()
        .map(|entry| {
            let prefix = parse(&entry.prefix)?;
            match &entry.comment {
                Some(comment) if comment.chars().count() > MAX_COMMENT || comment.chars().any(char::is_control) => {
                    Err(Failure::invalid(format!("the comment on {prefix} is longer than {MAX_COMMENT} characters or has control characters")))
                }
                Some(_) | None => {
                    let comment = entry.comment.map(|comment| comment.trim().to_owned()).filter(|comment| !comment.is_empty());
                    Ok(Entry { prefix, comment })
                }
            }
        })
        .collect()
}

fn parse(text: &str) -> Result<IpNet, Failure> {
    prefix::parse(text).map_err(|error| Failure::invalid(error.to_string()))
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    (status, Json(value)).into_response()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.code {
            Code::Invalid => StatusCode::BAD_REQUEST,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Protected => StatusCode::CONFLICT,
            Code::Limit => StatusCode::UNPROCESSABLE_ENTITY,
            Code::Kernel | Code::State => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Journal | Code::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(FailureReply { error: self })).into_response()
    }
}

/// A JSON body, whatever its content type says.
struct JsonBody(Result<Bytes, BytesRejection>);

impl JsonBody {
    fn read<T: DeserializeOwned>(self) -> Result<T, Failure> {
        let bytes = self
            .0
            .map_err(|error| Failure::invalid(error.body_text()))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::invalid(format!("the body is not what is expected: {error}")))
    }
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for JsonBody {
    type Rejection = Infallible;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Self, Infallible> {
        Ok(Self(Bytes::from_request(request, state).await))
    }
}

/// The caller of a request.
#[derive(Debug, Clone)]
struct Caller(Option<Peer>);

impl Caller {
    /// The caller, if it has the right.
    fn must(self, right: Right) -> Result<Peer, Failure> {
        match self.0 {
            Some(peer) if peer.roles.allow(right) => Ok(peer),
            Some(peer) => Err(Failure::forbidden(format!(
                "{} may not do this: it takes a group of {}",
                peer.name,
                right.granted_by()
            ))),
            None => Err(Failure::forbidden("the kernel does not say who you are")),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let caller = ConnectInfo::<Self>::from_request_parts(parts, state).await;
        Ok(caller.map_or(Self(None), |ConnectInfo(caller)| caller))
    }
}

impl Connected<IncomingStream<'_, Doorkeeper>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Doorkeeper>) -> Self {
        Self(stream.remote_addr().clone())
    }
}

/// The listener: asks the kernel who connects, and lets in only so many at a time.
struct Doorkeeper {
    listener: UnixListener,
    control: Arc<config::Control>,
    seats: Arc<Semaphore>,
}

impl axum::serve::Listener for Doorkeeper {
    type Io = Seated;
    type Addr = Option<Peer>;

    async fn accept(&mut self) -> (Seated, Option<Peer>) {
        loop {
            // The semaphore is never closed.
            let Ok(seat) = Arc::clone(&self.seats).acquire_owned().await else {
                std::future::pending().await
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let peer = Peer::of(&stream, &self.control)
                        .inspect_err(|error| tracing::warn!(%error, "no peer credentials"))
                        .ok();
                    return (
                        Seated {
                            stream,
                            _seat: seat,
                        },
                        peer,
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "accept on the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Option<Peer>> {
        Ok(None)
    }
}

/// A connection that holds its seat.
struct Seated {
    stream: UnixStream,
    _seat: OwnedSemaphorePermit,
}

mod seated {
    //! Reading and writing go straight through.

    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Seated;

    impl AsyncRead for Seated {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Seated {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }
}
