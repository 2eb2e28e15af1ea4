//! `add-checkpoint` of a witness, over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, header::CONTENT_TYPE};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::version::{TLS12, TLS13};
use tokio::time::timeout;

use crate::{
    backend::ftp::{TlsSettingsError, client_config_as, settings::AuthoritiesError},
    causes::chain,
    config::{TrustAnchor, WitnessPeer},
    daemon::backends::trusted,
};

/// Longest answer that is read: cosignatures, also those with large keys.
const ANSWER_MAX: usize = 64 << 10;
/// Longest part of it that an error repeats.
const SHOWN: usize = 200;
/// The witness hangs up on idle connections too.
const IDLE: Duration = Duration::from_secs(10);
const SIZE: &str = "text/x.tlog.size";

/// What a witness answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Signature lines.
    Cosigned(Bytes),
    /// It has cosigned so many records.
    Conflict(u64),
    /// What it was sent does not continue what it cosigned.
    Inconsistent(String),
    /// It does not take heads of this log.
    Refused(String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoReply {
    #[error("read the certificates of ca_file")]
    Authorities(#[from] AuthoritiesError),
    #[error("prepare TLS")]
    Tls(#[from] TlsSettingsError),
    #[error("use the address {url}")]
    Address {
        url: String,
        source: hyper::http::uri::InvalidUri,
    },
    #[error("{url} did not answer within {} s", limit.as_secs())]
    Silent { url: String, limit: Duration },
    #[error("{0}")]
    Broken(String),
    #[error("{url} answered {status}: {text}")]
    Status {
        url: String,
        status: u16,
        text: String,
    },
}

pub(super) struct Caller {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    limit: Duration,
}

impl Caller {
    pub(super) fn new(peer: &WitnessPeer) -> Result<Self, NoReply> {
        let url = format!("{}/add-checkpoint", peer.url);
        let uri = url
            .parse()
            .map_err(|source| NoReply::Address { url, source })?;
        let trust = trusted(peer.trust.as_ref().unwrap_or(&TrustAnchor::WebRoots))?;
        let tls = client_config_as(None, &trust, &[&TLS13, &TLS12])?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(peer.timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .build(connector),
            uri,
            limit: peer.timeout,
        })
    }

    pub(super) async fn add(&self, body: Vec<u8>) -> Result<Reply, NoReply> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let exchange = async {
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| NoReply::Broken(self.told(&error)))?;
            let status = answer.status();
            let kind = answer.headers().get(CONTENT_TYPE);
            let is_size = kind.is_some_and(|kind| kind == SIZE);
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map(|body| body.to_bytes());
            let body = body.map_err(|error| NoReply::Broken(self.told(error.as_ref())))?;
            Ok::<_, NoReply>((status, is_size, body))
        };
        let (status, is_size, body) = match timeout(self.limit, exchange).await {
            Ok(answered) => answered?,
            Err(_) => {
                return Err(NoReply::Silent {
                    url: self.uri.to_string(),
                    limit: self.limit,
                });
            }
        };
        let shown = String::from_utf8_lossy(&body);
        let end = shown.floor_char_boundary(SHOWN);
        let text = format!(
            "{} {}",
            status.as_u16(),
            shown.get(..end).unwrap_or_default().trim()
        );
        Ok(match status {
            StatusCode::OK => Reply::Cosigned(body),
            StatusCode::CONFLICT if is_size => match size(&body) {
                Some(size) => Reply::Conflict(size),
                None => Reply::Refused(text),
            },
            StatusCode::UNPROCESSABLE_ENTITY => Reply::Inconsistent(text),
            status if status.is_client_error() => Reply::Refused(text),
            status => {
                return Err(NoReply::Status {
                    url: self.uri.to_string(),
                    status: status.as_u16(),
                    text,
                });
            }
        })
    }

    fn told(&self, error: &(dyn std::error::Error + 'static)) -> String {
        format!("{}: {}", self.uri, chain(error))
    }
}

fn size(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?.strip_suffix('\n')?;
    text.parse()
        .ok()
        .filter(|size: &u64| size.to_string() == text)
}
