//! Requests that are not left to the object store library: listings of any bucket, publishing what was uploaded in parts
//! only if nothing stands under its name, and copies and deletions whose end is known.
//!
//! The library reads a listing only if it could have made every key in it; one `a//b` would hide a whole directory. It
//! repeats a copy whose answer was lost, and then finds the copy itself in the way; and it takes a copy for done that
//! Azure has only begun.

mod azure;
mod s3;

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request,
    header::{
        AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH,
    },
};
use object_store::{
    ObjectMeta, UpdateVersion,
    aws::{AwsAuthorizer, AwsCredential},
    azure::{AzureAuthorizer, AzureCredentialProvider},
    client::{HttpClient, HttpRequest, HttpRequestBody, HttpResponse},
    gcp::GcpCredentialProvider,
    multipart::PartId,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::{fault::Fault, location::Key};

/// All but the characters that SigV4 leaves as they are (AWS, "Create a signed request", UriEncode).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const KEY: &AsciiSet = &QUERY.remove(b'/');

/// How often a request is sent that may be repeated: once, and up to three times more.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

const ANYTHING: HeaderValue = HeaderValue::from_static("*");
const NO_GENERATION: HeaderValue = HeaderValue::from_static("0");

/// What requests to one bucket have in common.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) http: HttpClient,
    pub(super) signer: Signer,
    /// The endpoint with the bucket's name.
    pub(super) url: String,
    pub(super) timeout: Duration,
}

/// What requests are signed with.
#[derive(Debug)]
pub(super) enum Signer {
    S3 {
        credential: AwsCredential,
        region: String,
    },
    Azure {
        account: String,
        credentials: AzureCredentialProvider,
    },
    Gcs {
        credentials: GcpCredentialProvider,
    },
}

/// A part of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    /// Prefixes that end in the delimiter: directories.
    pub(super) prefixes: Vec<String>,
    /// What the next page is asked for with; `None` on the last one.
    pub(super) next: Option<String>,
}

/// An object of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) key: String,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) modified: Option<i64>,
    pub(super) version: Version,
}

/// Which of the files that stood under a name in the course of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Version {
    /// With its quotation marks.
    tag: Option<String>,
    /// Cloud Storage's, which conditions of changes name there instead of the tag.
    generation: Option<String>,
}

impl Version {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.e_tag.clone(), meta.version.clone())
    }

    pub(super) fn new(tag: Option<String>, generation: Option<String>) -> Self {
        // Listings of some services leave the quotation marks out.
        let quoted = |tag: String| {
            if tag.ends_with('"') {
                tag
            } else {
                format!("\"{tag}\"")
            }
        };
        Self {
            tag: tag.filter(|tag| !tag.is_empty()).map(quoted),
            generation,
        }
    }

    pub(super) fn has_generation(&self) -> bool {
        self.generation.is_some()
    }

    /// As conditions of the library name it.
    pub(super) fn to_update(&self) -> UpdateVersion {
        UpdateVersion {
            e_tag: self.tag().map(str::to_owned),
            version: self.generation.clone(),
        }
    }

    /// `None` for a weak one, which is never equal to another (RFC 9110 section 8.8.3.2).
    pub(super) fn tag(&self) -> Option<&str> {
        self.tag.as_deref().filter(|tag| !tag.starts_with("W/"))
    }
}

/// What has to stand under the name that is given to a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Over<'a> {
    Anything,
    Nothing,
    /// This version, of which the tag or generation is known.
    Only(&'a Version),
}

/// Which keys are listed.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    pub(super) prefix: &'a str,
    /// Keys with a slash behind the prefix are gathered to directories.
    pub(super) by_directory: bool,
    /// At most 1000.
    pub(super) count: u16,
    pub(super) after: Option<&'a str>,
}

/// A request before it is signed.
#[derive(Debug, Clone)]
struct Message<'a> {
    /// As errors name it.
    request: &'static str,
    method: Method,
    key: &'a str,
    /// In the order of their names, as the signature of S3 wants them.
    query: Vec<(&'a str, &'a str)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

/// A success.
#[derive(Debug)]
struct Answer {
    headers: HeaderMap,
    body: String,
}

impl Wire {
    /// One page of the bucket's keys.
    pub(super) async fn list(&self, listing: &Listing<'_>) -> Result<Page, Fault> {
        const REQUEST: &str = "LIST";
        let count = listing.count.to_string();
        let query = match &self.signer {
            Signer::S3 { .. } | Signer::Gcs { .. } => s3::listing(listing, &count),
            Signer::Azure { .. } => azure::listing(listing, &count),
        };
        let message = Message {
            request: REQUEST,
            method: Method::GET,
            key: "",
            query,
            headers: Vec::new(),
            body: Bytes::new(),
        };
        let answer = self.send(message, Fault::is_passing).await?;
        let page = match &self.signer {
            Signer::S3 { .. } | Signer::Gcs { .. } => s3::parse_page(&answer.body),
            Signer::Azure { .. } => azure::parse_page(&answer.body),
        };
        page.map_err(|cause| Fault::Garbled {
            request: REQUEST,
            cause,
        })
    }

    /// Joins parts to a file and returns the file's tag, if it is named. It is not repeated once it may have been done: a second one would find the upload gone and
    /// say nothing about the first. The condition is for services that keep it: see
    /// [`completes_conditionally`](super::interface::Interface::completes_conditionally).
    pub(super) async fn complete(
        &self,
        key: &Key,
        upload: &str,
        parts: &[PartId],
        over: Over<'_>,
    ) -> Result<Option<String>, Fault> {
        const REQUEST: &str = "COMPLETE";
        let mut message = Message {
            request: REQUEST,
            method: Method::POST,
            key: key.as_str(),
            query: vec![("uploadId", upload)],
            headers: Vec::new(),
            body: s3::completion(parts),
        };
        if let Signer::Azure { .. } = self.signer {
            message.method = Method::PUT;
            message.query = vec![("comp", "blocklist")];
            message.body = azure::block_list(parts);
        }
        message.headers.extend(self.condition(REQUEST, over)?);
        let answer = self.send(message, Fault::did_nothing).await?;
        match self.signer {
            Signer::Azure { .. } => Ok(answer
                .headers
                .get(ETAG)
                .and_then(|tag| tag.to_str().ok())
                .map(str::to_owned)),
            // The answer begins before the parts are joined, so that failure comes as the body of a success.
            Signer::S3 { .. } | Signer::Gcs { .. } => s3::completed(&answer.body)
                .ok_or_else(|| Fault::refused(REQUEST, 500, &answer.body)),
        }
    }

    /// Copies a file within the bucket, of the version that is named. With the condition it is not repeated once it may have
    /// been done: a second one would find the copy and take it for somebody else's.
    pub(super) async fn copy(
        &self,
        from: &Key,
        version: &Version,
        to: &Key,
        over: Over<'_>,
    ) -> Result<(), Fault> {
        const REQUEST: &str = "COPY";
        let bucket = self.url.rsplit('/').next().unwrap_or_default();
        let encoded = utf8_percent_encode(from.as_str(), KEY);
        let path = format!("{bucket}/{encoded}");
        let source = match self.signer {
            Signer::S3 { .. } => "x-amz-copy-source",
            Signer::Gcs { .. } => "x-goog-copy-source",
            Signer::Azure { .. } => return self.copy_blob(from, version, to, over).await,
        };
        let mut headers = vec![(HeaderName::from_static(source), value(REQUEST, &path)?)];
        let of_version = self.only_version(
            REQUEST,
            version,
            [
                "x-amz-copy-source-if-match",
                "x-goog-copy-source-if-generation-match",
            ],
        )?;
        headers.extend(of_version);
        headers.extend(self.condition(REQUEST, over)?);
        let message = Message {
            request: REQUEST,
            method: Method::PUT,
            key: to.as_str(),
            query: Vec::new(),
            headers,
            body: Bytes::new(),
        };
        let answer = self.send(message, repeatable(over)).await?;
        // As with a completion.
        if answer.body.contains("<Error>") {
            return Err(Fault::refused(REQUEST, 500, &answer.body));
        }
        Ok(())
    }

    /// Copies a range of a file, of the version that is named, into a part of an upload. S3 alone.
    pub(super) async fn copy_part(
        &self,
        (to, upload): (&Key, &str),
        index: usize,
        (from, version): (&Key, &Version),
        range: Range<u64>,
    ) -> Result<PartId, Fault> {
        const REQUEST: &str = "COPY part";
        let bucket = self.url.rsplit('/').next().unwrap_or_default();
        let encoded = utf8_percent_encode(from.as_str(), KEY);
        let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let number = (index + 1).to_string();
        let mut headers = Vec::new();
        for (name, text) in [
            ("x-amz-copy-source", format!("{bucket}/{encoded}").as_str()),
            ("x-amz-copy-source-range", &range),
            (
                "x-amz-copy-source-if-match",
                version.tag().unwrap_or_default(),
            ),
        ] {
            headers.push((HeaderName::from_static(name), value(REQUEST, text)?));
        }
        let message = Message {
            request: REQUEST,
            method: Method::PUT,
            key: to.as_str(),
            query: vec![("partNumber", &number), ("uploadId", upload)],
            headers,
            body: Bytes::new(),
        };
        let answer = self.send(message, Fault::is_passing).await?;
        // As with a completion.
        s3::copied(&answer.body)
            .map(|content_id| PartId { content_id })
            .ok_or_else(|| Fault::refused(REQUEST, 500, &answer.body))
    }

    /// Deletes an object, only the version if one is named. It is no fault if there is none.
    pub(super) async fn delete(&self, key: &Key, version: &Version) -> Result<(), Fault> {
        const REQUEST: &str = "DELETE";
        let names = [IF_MATCH.as_str(), "x-goog-if-generation-match"];
        let message = Message {
            request: REQUEST,
            method: Method::DELETE,
            key: key.as_str(),
            query: Vec::new(),
            headers: Vec::from_iter(self.only_version(REQUEST, version, names)?),
            body: Bytes::new(),
        };
        match self.send(message, Fault::is_passing).await {
            Err(fault) if fault.is_not_found() => Ok(()),
            deleted => deleted.map(|_| ()),
        }
    }

    /// The condition that a file is still of this version: named by its tag, or on Cloud Storage by its generation. `None` if
    /// the version is not known.
    fn only_version(
        &self,
        request: &'static str,
        version: &Version,
        [by_tag, by_generation]: [&'static str; 2],
    ) -> Result<Option<(HeaderName, HeaderValue)>, Fault> {
        let (name, of_version) = match self.signer {
            Signer::S3 { .. } | Signer::Azure { .. } => (by_tag, version.tag()),
            Signer::Gcs { .. } => (by_generation, version.generation.as_deref()),
        };
        of_version
            .map(|text| Ok((HeaderName::from_static(name), value(request, text)?)))
            .transpose()
    }

    /// The condition that it stands under the name.
    fn condition(
        &self,
        request: &'static str,
        over: Over<'_>,
    ) -> Result<Option<(HeaderName, HeaderValue)>, Fault> {
        const BY_GENERATION: &str = "x-goog-if-generation-match";
        Ok(match (over, &self.signer) {
            (Over::Anything, _) => None,
            (Over::Nothing, Signer::S3 { .. } | Signer::Azure { .. }) => {
                Some((IF_NONE_MATCH, ANYTHING))
            }
            (Over::Nothing, Signer::Gcs { .. }) => {
                Some((HeaderName::from_static(BY_GENERATION), NO_GENERATION))
            }
            (Over::Only(version), _) => {
                self.only_version(request, version, [IF_MATCH.as_str(), BY_GENERATION])?
            }
        })
    }

    fn url_of(&self, key: &str) -> String {
        let mut url = self.url.clone();
        if !key.is_empty() {
            url.push('/');
            url.extend(utf8_percent_encode(key, KEY));
        }
        url
    }

    /// Sends a request until its fault is one that repeating it does not help.
    async fn send(
        &self,
        message: Message<'_>,
        may_repeat: fn(&Fault) -> bool,
    ) -> Result<Answer, Fault> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.send_once(message.clone()).await {
                Err(fault) if may_repeat(&fault) => {
                    tracing::debug!(%fault, "a request is sent again");
                    sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        self.send_once(message).await
    }

    async fn send_once(&self, message: Message<'_>) -> Result<Answer, Fault> {
        let request = message.request;
        let mut url = self.url_of(message.key);
        for (index, (name, value)) in message.query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY));
        }
        let digest = Sha256::digest(&message.body);
        let length = message.body.len();
        let mut signed = Request::builder()
            .method(message.method)
            .uri(url)
            .body(HttpRequestBody::from(message.body))
            .map_err(|error| garbled(request, &error))?;
        signed.headers_mut().extend(message.headers);
        self.sign(request, &mut signed, digest.as_slice(), length)
            .await?;
        let lost = |error| Fault::of_transport(request, self.timeout, &error);
        let response: HttpResponse = self.http.execute(signed).await.map_err(lost)?;
        let (head, body) = response.into_parts();
        let body = body.bytes().await.map_err(lost)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if head.status.is_success() {
            Ok(Answer {
                headers: head.headers,
                body,
            })
        } else {
            Err(Fault::refused(request, head.status.as_u16(), &body))
        }
    }

    async fn sign(
        &self,
        request: &'static str,
        message: &mut HttpRequest,
        digest: &[u8],
        length: usize,
    ) -> Result<(), Fault> {
        let failed = |error: object_store::Error| garbled(request, &error);
        match &self.signer {
            Signer::S3 { credential, region } => AwsAuthorizer::new(credential, "s3", region)
                .try_authorize(message, Some(digest))
                .map_err(failed),
            Signer::Azure {
                account,
                credentials,
            } => {
                // It is part of what is signed.
                message.headers_mut().insert(CONTENT_LENGTH, length.into());
                let credential = credentials.get_credential().await.map_err(failed)?;
                AzureAuthorizer::new(&credential, account)
                    .try_authorize(message)
                    .map_err(failed)
            }
            Signer::Gcs { credentials } => {
                let credential = credentials.get_credential().await.map_err(failed)?;
                let mut bearer = value(request, &format!("Bearer {}", credential.bearer))?;
                bearer.set_sensitive(true);
                message.headers_mut().insert(AUTHORIZATION, bearer);
                Ok(())
            }
        }
    }
}

/// When a copy may be sent again.
fn repeatable(over: Over<'_>) -> fn(&Fault) -> bool {
    match over {
        Over::Nothing | Over::Only(_) => Fault::did_nothing,
        Over::Anything => Fault::is_passing,
    }
}

fn value(request: &'static str, text: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::from_str(text).map_err(|error| garbled(request, &error))
}

fn garbled(request: &'static str, cause: &dyn std::error::Error) -> Fault {
    Fault::Garbled {
        request,
        cause: cause.to_string(),
    }
}
