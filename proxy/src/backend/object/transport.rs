//! HTTP for the object store library: hyper with the backend's trust anchors and deadlines.
//!
//! The library's own client would take proxies and certificate authorities from the environment, and count a deadline
//! from the beginning of a request, so that a large part on a slow line could never arrive.

use std::{
    error::Error as StdError,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{RANGE, RETRY_AFTER},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector as Connector, HttpError, HttpErrorKind, HttpRequest,
        HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
    },
};
use rustls::version::{TLS12, TLS13};
use tokio::time::{Sleep, sleep, timeout};

use crate::backend::ftp::{TlsSettingsError, TlsTrust, client_config};

/// Longest answer other than a file's content. A listing of 1,000 names of the longest kind is some 2 MiB.
const ANSWER_MAX: u64 = 16 * 1024 * 1024;
/// An idle connection is closed before the server does it: AWS waits some 20 s.
const IDLE: Duration = Duration::from_secs(15);
const IDLE_CONNECTIONS: usize = 32;
/// Most that one connection reads at a time.
const BUFFER: usize = 64 * 1024;
/// How often progress is looked at, as a share of the deadline.
const LOOKS: u32 = 4;

/// The connections to one server.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Watched>,
    timeout: Duration,
}

impl Transport {
    /// # Errors
    /// If the trust anchors can't be used.
    pub(super) fn new(trust: &TlsTrust, timeout: Duration) -> Result<Self, TlsSettingsError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(client_config(trust, &[&TLS13, &TLS12])?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(BUFFER)
            .build(https);
        Ok(Self { client, timeout })
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_content = request.headers().contains_key(RANGE);
        let sent = Arc::new(AtomicU64::new(0));
        let (parts, body) = request.into_parts();
        let body = Watched {
            body,
            sent: Arc::clone(&sent),
        };
        let answer = self.client.request(Request::from_parts(parts, body));
        let response = self
            .while_it_moves(answer, &sent)
            .await?
            .map_err(|error| judged(&error))?;
        if let Some(pause) = asked_pause(&response).filter(|pause| *pause <= self.timeout) {
            sleep(pause).await;
        }
        let (parts, body) = response.into_parts();
        let limit = if is_content && parts.status == StatusCode::PARTIAL_CONTENT {
            u64::MAX
        } else {
            ANSWER_MAX
        };
        let body = Timed {
            body,
            timeout: self.timeout,
            waiting: None,
            left: limit,
        };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }

    /// Gives up if for the length of the deadline neither the answer has come nor the request's body has moved.
    async fn while_it_moves<T>(
        &self,
        answer: impl Future<Output = T>,
        sent: &AtomicU64,
    ) -> Result<T, HttpError> {
        let mut answer = pin!(answer);
        let (mut seen, mut idle) = (0, 0);
        loop {
            if let Ok(answer) = timeout(self.timeout / LOOKS, &mut answer).await {
                return Ok(answer);
            }
            let moved = sent.load(Ordering::Relaxed);
            idle = if moved == seen { idle + 1 } else { 0 };
            seen = moved;
            if idle >= LOOKS {
                return Err(stalled());
            }
        }
    }
}

impl Connector for Transport {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Transport {
    // What `#[async_trait]` makes of an `async fn`.
    fn call<'life, 'future>(
        &'life self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(self.exchange(request))
    }
}

/// A request's body that counts what the connection has taken of it.
#[derive(Debug)]
struct Watched {
    body: HttpRequestBody,
    sent: Arc<AtomicU64>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body that ends in an error when nothing comes, or too much.
struct Timed {
    body: Incoming,
    timeout: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    left: u64,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.waiting = None;
            let frame = frame.map(|frame| frame.map_err(|error| judged(&error)));
            if let Some(Ok(frame)) = &frame {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.left.checked_sub(length) {
                    Some(left) => self.left = left,
                    None => {
                        let error = io::Error::other(
                            "the answer is longer than any that an object store gives",
                        );
                        return Poll::Ready(Some(Err(HttpError::new(
                            HttpErrorKind::Decode,
                            error,
                        ))));
                    }
                }
            }
            return Poll::Ready(frame);
        }
        let limit = self.timeout;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err(stalled()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long a server that is busy wants to be left alone, before anybody asks it again.
fn asked_pause<T>(response: &Response<T>) -> Option<Duration> {
    if !matches!(
        response.status(),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        return None;
    }
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

fn stalled() -> HttpError {
    HttpError::new(
        HttpErrorKind::Timeout,
        io::Error::from(io::ErrorKind::TimedOut),
    )
}

/// The library repeats what failed to connect, and what broke off only if that does no harm.
fn judged(error: &(dyn StdError + Send + Sync + 'static)) -> HttpError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut kind = HttpErrorKind::Interrupted;
    let mut text = String::new();
    while let Some(error) = cause {
        if error
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect)
        {
            kind = HttpErrorKind::Connect;
        }
        if error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
        {
            kind = HttpErrorKind::Decode;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    HttpError::new(kind, io::Error::other(text))
}
