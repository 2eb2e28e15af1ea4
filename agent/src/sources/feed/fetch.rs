//! One conversation with a feed's server (HTTP/1.1 over TLS).

use std::{io, sync::Arc};

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderMap, HeaderName},
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    Settings,
    signature::PublicKey,
    store::Copy,
    tls::{self, TrustError},
};

const USER_AGENT: &str = concat!("portcullis-agent/", env!("CARGO_PKG_VERSION"));
const MAX_REDIRECTS: usize = 3;
const MAX_SIGNATURE: u64 = 4 * 1024;
/// Characters of a tag that are kept and sent back.
const MAX_TAG: usize = 256;

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum FetchError {
    #[error("{uri} is not an https address with a host")]
    NotHttps { uri: String },
    #[error("`{host}` is not a host name")]
    Host {
        host: String,
        source: InvalidDnsNameError,
    },
    #[error("connect to {host}")]
    Connect { host: String, source: io::Error },
    #[error("{host} is not the server that is meant, or speaks no TLS")]
    Tls { host: String, source: io::Error },
    #[error("ask {uri}")]
    Http { uri: String, source: hyper::Error },
    #[error("{uri} answers {status}")]
    Status { uri: String, status: StatusCode },
    #[error("{from} sends us on to {to}; only https on the same host is followed")]
    Redirect { from: String, to: String },
    #[error("{uri} sends us on more than {MAX_REDIRECTS} times")]
    TooManyRedirects { uri: String },
    #[error("{uri} has more than {most} bytes")]
    TooLarge { uri: String, most: u64 },
    #[error("{uri} breaks off")]
    Truncated {
        uri: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

pub(super) enum Fetched {
    /// The server has what we have.
    Unchanged,
    Content(Copy),
}

pub(super) struct Fetcher {
    uri: Uri,
    tls: Arc<ClientConfig>,
    most: u64,
    signed_by: Option<PublicKey>,
}

impl Fetcher {
    pub(super) fn new(settings: &Settings) -> Result<Self, TrustError> {
        Ok(Self {
            uri: settings.url.clone(),
            tls: tls::client(&settings.trust)?,
            most: settings.limits.bytes,
            signed_by: settings.signed_by.clone(),
        })
    }

    /// Fetches the list and its signature, unless the server still has `known`.
    pub(super) async fn fetch(&self, known: Option<&Copy>) -> Result<Fetched, FetchError> {
        let response = self.get(&self.uri, known).await?;
        if response.status() == StatusCode::NOT_MODIFIED && known.is_some() {
            return Ok(Fetched::Unchanged);
        }
        let etag = tag(response.headers(), &header::ETAG);
        let last_modified = tag(response.headers(), &header::LAST_MODIFIED);
        let bytes = body(&self.uri, response, self.most).await?;
        let (mut signature, mut signed_at) = (None, None);
        if let Some(key) = &self.signed_by {
            let uri = beside(&self.uri, key.suffix())?;
            let response = self.get(&uri, None).await?;
            let bytes = body(&uri, response, MAX_SIGNATURE).await?;
            signed_at = key.signed_at(&bytes);
            signature = Some(bytes);
        }
        Ok(Fetched::Content(Copy {
            bytes,
            signature,
            etag,
            last_modified,
            signed_at,
        }))
    }

    async fn get(&self, uri: &Uri, known: Option<&Copy>) -> Result<Response<Incoming>, FetchError> {
        let mut uri = uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(&uri, known).await?;
            let status = response.status();
            if status == StatusCode::OK || (status == StatusCode::NOT_MODIFIED && known.is_some()) {
                return Ok(response);
            }
            let is_redirect = matches!(
                status,
                StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT
            );
            if !is_redirect {
                return Err(FetchError::Status {
                    uri: uri.to_string(),
                    status,
                });
            }
            uri = target(&uri, response.headers())?;
        }
        Err(FetchError::TooManyRedirects {
            uri: self.uri.to_string(),
        })
    }

    async fn ask(&self, uri: &Uri, known: Option<&Copy>) -> Result<Response<Incoming>, FetchError> {
        let (host, port) = host(uri)?;
        let connect = |source| FetchError::Connect {
            host: host.to_owned(),
            source,
        };
        // In a URL an IPv6 address has brackets, elsewhere it has none.
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((plain, port)).await.map_err(connect)?;
        let name = ServerName::try_from(plain.to_owned()).map_err(|source| FetchError::Host {
            host: host.to_owned(),
            source,
        })?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
            .map_err(|source| FetchError::Tls {
                host: host.to_owned(),
                source,
            })?;
        let http = |source| FetchError::Http {
            uri: uri.to_string(),
            source,
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        // It ends with the sender or with the body, whichever lives longer.
        tokio::spawn(connection);
        let authority = uri.authority().map_or(host, |authority| authority.as_str());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(known) = known {
            if let Some(etag) = &known.etag {
                request = request.header(header::IF_NONE_MATCH, etag);
            } else if let Some(date) = &known.last_modified {
                request = request.header(header::IF_MODIFIED_SINCE, date);
            }
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|_| FetchError::NotHttps {
                uri: uri.to_string(),
            })?;
        sender.send_request(request).await.map_err(http)
    }
}

fn host(uri: &Uri) -> Result<(&str, u16), FetchError> {
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => Ok((host, uri.port_u16().unwrap_or(443))),
        _ => Err(FetchError::NotHttps {
            uri: uri.to_string(),
        }),
    }
}

/// Where a redirect leads, if it may.
fn target(from: &Uri, headers: &HeaderMap) -> Result<Uri, FetchError> {
    let location = headers
        .get(header::LOCATION)
        .and_then(|location| location.to_str().ok())
        .unwrap_or_default();
    let refused = || FetchError::Redirect {
        from: from.to_string(),
        to: location
            .chars()
            .take(MAX_TAG)
            .filter(|c| !c.is_control())
            .collect(),
    };
    let to: Uri = if location.starts_with('/') && !location.starts_with("//") {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(location.parse().map_err(|_| refused())?);
        Uri::from_parts(parts).map_err(|_| refused())?
    } else {
        location.parse().map_err(|_| refused())?
    };
    let is_same = host(&to).is_ok_and(|to| {
        host(from).is_ok_and(|from| to.0.eq_ignore_ascii_case(from.0) && to.1 == from.1)
    });
    if is_same { Ok(to) } else { Err(refused()) }
}

/// The address of the signature: the same with a suffix on its path.
fn beside(uri: &Uri, suffix: &str) -> Result<Uri, FetchError> {
    let wrong = || FetchError::NotHttps {
        uri: uri.to_string(),
    };
    let mut path = format!("{}{suffix}", uri.path());
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| wrong())?);
    Uri::from_parts(parts).map_err(|_| wrong())
}

async fn body(uri: &Uri, response: Response<Incoming>, most: u64) -> Result<Vec<u8>, FetchError> {
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    match Limited::new(response.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge {
            uri: uri.to_string(),
            most,
        }),
        Err(source) => Err(FetchError::Truncated {
            uri: uri.to_string(),
            source,
        }),
    }
}

fn tag(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= MAX_TAG).then(|| value.to_owned())
}
