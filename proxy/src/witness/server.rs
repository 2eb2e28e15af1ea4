//! The witness's two calls over HTTP, and what they may cost.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE,
    header::HeaderValue, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_journal::witness::{MOST_BYTES, Refusal};
use rustls::ServerConfig;
use rustls_pki_types::{
    PrivateKeyDer,
    pem::{self, PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::store::{AddError, Store};
use crate::{causes::chain, config::Identity, metrics};

/// A client that says nothing for so long is hung up on: before its request, between two, and within a body.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// The longest that a connection lasts.
const LONGEST: Duration = Duration::from_secs(600);
/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// Requests that end may take so long when the witness stops.
const DRAIN: Duration = Duration::from_secs(5);
/// After a failed accept: without free file descriptors the next fails too.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves what is cosigned.
pub struct Server {
    pub store: Arc<Store>,
    pub prefix: String,
    pub tls: Option<Arc<ServerConfig>>,
    /// [`PATIENCE`], or less in tests.
    pub patience: Duration,
}

impl Server {
    /// Accepts connections until `stop`.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let server = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                break;
            };
            let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else {
                break;
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (server, stop) = (Arc::clone(&server), stop.clone());
            connections.spawn(async move {
                let _place = place;
                // Too long, or gone: the next request says what it needs again.
                let _ = timeout(LONGEST, server.connection(stream, peer, stop)).await;
            });
        }
        connections.close();
        if timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::warn!("connections were cut");
        }
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, stop: CancellationToken) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.requests(stream, peer, stop).await;
        };
        let accepted = timeout(
            self.patience,
            TlsAcceptor::from(Arc::clone(tls)).accept(stream),
        );
        match accepted.await {
            Ok(Ok(stream)) => self.requests(stream, peer, stop).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS came about"),
            Err(_) => {}
        }
    }

    async fn requests(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: SocketAddr,
        stop: CancellationToken,
    ) {
        let service = service_fn(|request| async move {
            Ok::<_, std::convert::Infallible>(self.answer(request, peer).await)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.patience)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "a connection broke");
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let Some(path) = path.strip_prefix(&self.prefix) else {
            return text(StatusCode::NOT_FOUND, "there is nothing here");
        };
        if path == "/add-checkpoint" {
            if request.method() != Method::POST {
                return text(StatusCode::METHOD_NOT_ALLOWED, "add-checkpoint is a POST");
            }
            return match body(request.into_body(), self.patience).await {
                Ok(body) => self.add(body, peer).await,
                Err(refused) => refused,
            };
        }
        let hash = path
            .strip_prefix('/')
            .and_then(|path| path.strip_suffix("/checkpoint"));
        match hash {
            Some(_) if request.method() != Method::GET => {
                text(StatusCode::METHOD_NOT_ALLOWED, "a checkpoint is a GET")
            }
            Some(hash) => match self.store.latest(hash) {
                Some(note) => plain(StatusCode::OK, note),
                None => text(StatusCode::NOT_FOUND, "no checkpoint of it was cosigned"),
            },
            None => text(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }

    async fn add(&self, body: Bytes, peer: SocketAddr) -> Response<Full<Bytes>> {
        let store = Arc::clone(&self.store);
        let added = tokio::task::spawn_blocking(move || {
            let time = SystemTime::now().duration_since(UNIX_EPOCH);
            store.add(&body, time.map_or(0, |time| time.as_secs()))
        });
        match added.await {
            Ok(Ok(lines)) => {
                metrics::cosigned();
                for (origin, size) in self.store.sizes() {
                    metrics::witnessed(origin, size);
                }
                plain(StatusCode::OK, lines)
            }
            Ok(Err(AddError::Refused(refusal))) => refused(&refusal, peer),
            Ok(Err(error @ AddError::Keep { .. })) => {
                tracing::error!(error = %chain(&error), "a head was not cosigned, because it can't be kept");
                text(StatusCode::INTERNAL_SERVER_ERROR, "it can't be kept now")
            }
            Err(error) => {
                tracing::error!(%error, "a request broke off");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the request broke off")
            }
        }
    }
}

/// The one table from a refusal to a status.
fn refused(refusal: &Refusal, peer: SocketAddr) -> Response<Full<Bytes>> {
    let (status, reason) = match refusal {
        Refusal::Malformed(_) | Refusal::OldAboveNew { .. } => {
            (StatusCode::BAD_REQUEST, "malformed")
        }
        Refusal::NotSigned => (StatusCode::FORBIDDEN, "not_signed"),
        Refusal::UnknownLog { .. } => (StatusCode::NOT_FOUND, "unknown_log"),
        Refusal::Conflict { cosigned, size, .. } if size < cosigned => {
            (StatusCode::CONFLICT, "shorter")
        }
        Refusal::Conflict { .. } => (StatusCode::CONFLICT, "other_size"),
        Refusal::Inconsistent { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "inconsistent"),
    };
    metrics::cosigning_refused(reason);
    match reason {
        "inconsistent" => tracing::error!(
            %peer, status = status.as_u16(),
            "A LOG WAS CHANGED, and its own key signed that: {refusal}; the signed head is kept, see `portcullis-proxy witness status`"
        ),
        "shorter" => tracing::warn!(
            %peer, status = status.as_u16(),
            "a log is shorter than it was, or somebody sent an old head again: {refusal}"
        ),
        _ => tracing::info!(%peer, status = status.as_u16(), "not cosigned: {refusal}"),
    }
    if let Refusal::Conflict { cosigned, .. } = refusal {
        let mut response = plain(status, format!("{cosigned}\n").into_bytes());
        let size = HeaderValue::from_static("text/x.tlog.size");
        response.headers_mut().insert(CONTENT_TYPE, size);
        return response;
    }
    text(status, &refusal.to_string())
}

async fn body(body: Incoming, patience: Duration) -> Result<Bytes, Response<Full<Bytes>>> {
    let read = timeout(patience, Limited::new(body, MOST_BYTES).collect());
    match read.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, "no request is so long"))
        }
        Ok(Err(_)) => Err(text(StatusCode::BAD_REQUEST, "the request broke off")),
        Err(_) => Err(text(
            StatusCode::REQUEST_TIMEOUT,
            "the request took too long",
        )),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    plain(status, format!("{text}\n").into_bytes())
}

fn plain(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Why a certificate can't be served with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error("read the key of the certificate")]
    Key(#[from] pem::Error),
    #[error("use the certificate")]
    Certificate(#[from] rustls::Error),
}

/// TLS as who has that certificate.
///
/// # Errors
/// If it can't be used.
pub fn tls(identity: &Identity) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes())?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.certificates.clone(), key)?;
    Ok(Arc::new(config))
}

/// A socket for the witness.
///
/// # Errors
/// If the address can't be had.
pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

#[cfg(test)]
mod tests;
