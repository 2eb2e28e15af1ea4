//! Stored files in a bucket, which is only read.

use std::{
    error::Error as StdError,
    ffi::{CStr, CString},
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use object_store::{
    ClientOptions, GetOptions, ObjectStore, RetryConfig,
    aws::AmazonS3Builder,
    azure::{MicrosoftAzureBuilder, split_sas},
    client::{
        HttpClient, HttpConnector as Connector, HttpError, HttpErrorKind, HttpRequest,
        HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
    },
    path::Path as Key,
};
use portcullis_at_rest::key_file::read_secret;
use rustix::fs::{FileType, Timespec, Timestamps};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{
    runtime::Runtime,
    time::{sleep, timeout},
};

use crate::{
    arguments::{Place, Service},
    tree::Found,
};

/// Longest wait for a byte.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a download that broke off goes on.
const ATTEMPTS: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BucketError {
    #[error("the credentials can't be read: {0}")]
    Credentials(#[from] portcullis_at_rest::key_file::KeyFileError),
    #[error("{} should have {}", .0.display(), .1)]
    NotCredentials(PathBuf, &'static str),
    #[error("{} holds no certificate in PEM", .0.display())]
    Authorities(PathBuf),
    #[error("the bucket can't be used: {0}")]
    Settings(#[from] object_store::Error),
    #[error("{0}: secrets and files would pass the network in clear; use https://")]
    Clear(String),
    #[error("the TLS library failed: {0}")]
    Tls(#[from] rustls::Error),
    #[error("there can be no thread: {0}")]
    Runtime(#[from] io::Error),
}

/// One bucket.
pub(crate) struct Bucket {
    runtime: Runtime,
    store: Box<dyn ObjectStore>,
    prefix: String,
}

impl Bucket {
    pub(crate) fn open(place: &Place) -> Result<Self, BucketError> {
        let is_here = ["http://127.0.0.1", "http://localhost", "http://[::1]"]
            .iter()
            .any(|here| {
                let rest = place.endpoint.strip_prefix(here);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
            });
        if !is_here && !place.endpoint.starts_with("https://") {
            return Err(BucketError::Clear(place.endpoint.clone()));
        }
        let store = build(place)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            runtime,
            store,
            prefix: place.prefix.clone(),
        })
    }

    /// Up to `most` bytes of a file at the root; `None` if there is none.
    pub(crate) fn small(&self, name: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
        let key = key(&self.prefix, name)?;
        let range = GetOptions {
            range: Some((0..most).into()),
            ..GetOptions::default()
        };
        let read = async {
            let answer = self.store.get_opts(&key, range).await?;
            answer.bytes().await
        };
        match self.runtime.block_on(read) {
            Ok(content) => Ok(Some(content.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

fn build(place: &Place) -> Result<Box<dyn ObjectStore>, BucketError> {
    let endpoint = place.endpoint.trim_end_matches('/');
    let retry = RetryConfig {
        retry_timeout: PATIENCE,
        ..RetryConfig::default()
    };
    let secret = read_secret(&place.credentials)?;
    let not = |expected| BucketError::NotCredentials(place.credentials.clone(), expected);
    let lines = std::str::from_utf8(&secret).unwrap_or_default().lines();
    let lines: Vec<_> = lines
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Ok(match &place.service {
        Service::S3 { region } => {
            let [id, secret] = lines[..] else {
                return Err(not("the access key's id and its secret, a line each"));
            };
            let store = AmazonS3Builder::new()
                .with_endpoint(endpoint)
                .with_region(region)
                .with_bucket_name(&place.bucket)
                .with_access_key_id(id)
                .with_secret_access_key(secret)
                .with_http_connector(Transport::new(place)?)
                .with_retry(retry);
            Box::new(store.build()?)
        }
        Service::Azure { account } => {
            let [secret] = lines[..] else {
                let expected = "one line: a key of the account, or a shared access signature";
                return Err(not(expected));
            };
            let store = MicrosoftAzureBuilder::new()
                .with_account(account)
                .with_container_name(&place.bucket)
                .with_endpoint(endpoint.to_owned())
                .with_http_connector(Transport::new(place)?)
                .with_retry(retry);
            // A key is base64, and has no such sign before its end.
            let store = if secret.contains("sig=") {
                store.with_sas_authorization(split_sas(secret)?)
            } else {
                store.with_access_key(secret)
            };
            Box::new(store.build()?)
        }
    })
}

/// What lies below one prefix.
pub(crate) struct Part<'a> {
    bucket: &'a Bucket,
    /// Without a slash at its end.
    prefix: String,
    found: Vec<Found>,
}

impl<'a> Part<'a> {
    pub(crate) fn root(bucket: &'a Bucket) -> io::Result<Self> {
        Self::at(bucket, bucket.prefix.clone())
    }

    fn at(bucket: &'a Bucket, prefix: String) -> io::Result<Self> {
        let key = parsed(&prefix)?;
        let listing = bucket
            .store
            .list_with_delimiter((!prefix.is_empty()).then_some(&key));
        let listing = bucket.runtime.block_on(listing).map_err(io::Error::other)?;
        let name = |key: &Key, kind| {
            let name = CString::new(key.filename()?).ok()?;
            let kind = Some(kind);
            Some(Found { name, kind })
        };
        let directories = listing.common_prefixes.iter();
        // An empty object at the prefix itself says that there is a directory.
        let files = listing.objects.iter().filter(|file| file.location != key);
        let found = directories
            .filter_map(|key| name(key, FileType::Directory))
            .chain(files.filter_map(|file| name(&file.location, FileType::RegularFile)))
            .collect();
        Ok(Self {
            bucket,
            prefix,
            found,
        })
    }

    pub(crate) fn names(&self) -> Vec<Found> {
        self.found.clone()
    }

    pub(crate) fn below(&self, name: &CStr) -> io::Result<Self> {
        let prefix = joined(&self.prefix, text(name)?);
        Self::at(self.bucket, prefix)
    }

    /// Writes the object's bytes to an empty file, which gets its time.
    pub(crate) fn fetch(&self, name: &CStr, to: &File) -> io::Result<()> {
        let key = key(&self.prefix, text(name)?)?;
        self.bucket.runtime.block_on(self.download(&key, to))
    }

    async fn download(&self, key: &Key, to: &File) -> io::Result<()> {
        let (mut at, mut version, mut failed) = (0_u64, None, 0);
        loop {
            let options = GetOptions {
                range: (at > 0).then(|| (at..).into()),
                // One version, however often it breaks off.
                if_match: version.clone(),
                ..GetOptions::default()
            };
            let mut broke = None;
            match self.bucket.store.get_opts(key, options).await {
                Err(error) => broke = Some(error),
                Ok(answer) => {
                    let meta = answer.meta.clone();
                    version = meta.e_tag.clone();
                    let mut content = answer.into_stream();
                    while let Some(piece) = content.next().await {
                        match piece {
                            Ok(piece) => {
                                to.write_all_at(&piece, at)?;
                                at += piece.len() as u64;
                            }
                            Err(error) => {
                                broke = Some(error);
                                break;
                            }
                        }
                    }
                    if broke.is_none() && at == meta.size {
                        let modified = Timespec {
                            tv_sec: meta.last_modified.timestamp(),
                            tv_nsec: 0,
                        };
                        let times = Timestamps {
                            last_access: modified,
                            last_modification: modified,
                        };
                        return Ok(rustix::fs::futimens(to, &times)?);
                    }
                }
            }
            failed += 1;
            if failed == ATTEMPTS || matches!(broke, Some(object_store::Error::NotFound { .. })) {
                return Err(match broke {
                    Some(error) => io::Error::other(error),
                    None => io::ErrorKind::UnexpectedEof.into(),
                });
            }
            sleep(Duration::from_millis(200) * failed).await;
        }
    }
}

fn text(name: &CStr) -> io::Result<&str> {
    name.to_str().map_err(io::Error::other)
}

fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}/{name}")
    }
}

fn key(prefix: &str, name: &str) -> io::Result<Key> {
    parsed(&joined(prefix, name))
}

fn parsed(key: &str) -> io::Result<Key> {
    Key::parse(key).map_err(io::Error::other)
}

/// HTTP without anything from the environment.
#[derive(Debug, Clone)]
struct Transport(Client<HttpsConnector<HttpConnector>, HttpRequestBody>);

impl Transport {
    fn new(place: &Place) -> Result<Self, BucketError> {
        let mut roots = RootCertStore::empty();
        match &place.authorities {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(file) => {
                let not = || BucketError::Authorities(file.clone());
                for certificate in CertificateDer::pem_file_iter(file).map_err(|_| not())? {
                    roots.add(certificate.map_err(|_| not())?)?;
                }
                if roots.is_empty() {
                    return Err(not());
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(PATIENCE));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self(Client::builder(TokioExecutor::new()).build(https)))
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
        Box::pin(async move {
            let answer = timeout(PATIENCE, self.0.request(request)).await;
            let answer = answer.map_err(|_| stalled())?.map_err(|error| {
                let kind = if error.is_connect() {
                    HttpErrorKind::Connect
                } else {
                    HttpErrorKind::Interrupted
                };
                HttpError::new(kind, Chain::of(&error))
            })?;
            let (parts, body) = answer.into_parts();
            let body = HttpResponseBody::new(Timed {
                body,
                waiting: None,
            });
            Ok(HttpResponse::from_parts(parts, body))
        })
    }
}

/// An answer's body that ends in an error when nothing comes.
struct Timed {
    body: Incoming,
    waiting: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        use std::task::Poll;

        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.waiting = None;
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, Chain::of(&error)))
            }));
        }
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
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

fn stalled() -> HttpError {
    let error = io::Error::from(io::ErrorKind::TimedOut);
    HttpError::new(HttpErrorKind::Timeout, error)
}

/// An error with its causes in one text.
#[derive(Debug)]
struct Chain(String);

impl Chain {
    fn of(error: &dyn StdError) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self(text)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Chain {}
