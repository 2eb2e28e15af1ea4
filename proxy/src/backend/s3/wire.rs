//! Requests that the object store library does not make: listings of any bucket, and publishing a multipart upload only
//! if nothing stands under its name.
//!
//! The library reads a listing only if it could have made every key in it; one `a//b` would hide a whole directory.

use std::time::Duration;

use bytes::Bytes;
use chrono::DateTime;
use hyper::{Method, Request, header::IF_NONE_MATCH};
use object_store::{
    aws::{AwsAuthorizer, AwsCredential},
    client::{HttpClient, HttpRequestBody, HttpResponse},
    multipart::PartId,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
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

/// How often a request that only asks is sent.
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// What requests to one bucket have in common.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) http: HttpClient,
    pub(super) credential: AwsCredential,
    pub(super) region: String,
    /// The endpoint with the bucket's name.
    pub(super) url: String,
    pub(super) timeout: Duration,
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

impl Wire {
    /// ListObjectsV2.
    pub(super) async fn list(&self, listing: &Listing<'_>) -> Result<Page, Fault> {
        let count = listing.count.to_string();
        // In the order of their names, as the signature wants them.
        let mut query = Vec::new();
        if let Some(token) = listing.after {
            query.push(("continuation-token", token));
        }
        if listing.by_directory {
            query.push(("delimiter", "/"));
        }
        query.push(("list-type", "2"));
        query.push(("max-keys", &count));
        query.push(("prefix", listing.prefix));
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.list_once(&query).await {
                Err(fault) if fault.is_passing() => {
                    tracing::debug!(%fault, "a listing is asked for again");
                    sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        self.list_once(&query).await
    }

    async fn list_once(&self, query: &[(&str, &str)]) -> Result<Page, Fault> {
        const REQUEST: &str = "LIST";
        let body = self
            .send(REQUEST, Method::GET, "", query, Bytes::new(), false)
            .await?;
        parse_page(&body).map_err(|cause| Fault::Garbled {
            request: REQUEST,
            cause,
        })
    }

    /// CompleteMultipartUpload. It is sent once: a second one would find the upload gone and say nothing about the first.
    pub(super) async fn complete(
        &self,
        key: &Key,
        upload: &str,
        parts: &[PartId],
        only_if_absent: bool,
    ) -> Result<(), Fault> {
        const REQUEST: &str = "COMPLETE";
        let mut document = String::from("<CompleteMultipartUpload>");
        for (index, part) in parts.iter().enumerate() {
            let tag = quick_xml::escape::escape(&part.content_id);
            document.push_str(&format!(
                "<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag></Part>",
                index + 1
            ));
        }
        document.push_str("</CompleteMultipartUpload>");
        let body = self
            .send(
                REQUEST,
                Method::POST,
                key.as_str(),
                &[("uploadId", upload)],
                document.into(),
                only_if_absent,
            )
            .await?;
        // The answer begins before the parts are joined, so that failure comes as the body of a success.
        if body.contains("<CompleteMultipartUploadResult") {
            Ok(())
        } else {
            Err(Fault::refused(REQUEST, 500, &body))
        }
    }

    /// Signs and sends a request and returns the body of a success.
    async fn send(
        &self,
        request: &'static str,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        body: Bytes,
        only_if_absent: bool,
    ) -> Result<String, Fault> {
        let broken = |cause: String| Fault::Garbled { request, cause };
        let mut url = self.url.clone();
        if !key.is_empty() {
            url.push('/');
            url.extend(utf8_percent_encode(key, KEY));
        }
        for (index, (name, value)) in query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY));
        }
        let digest = Sha256::digest(&body);
        let mut message = Request::builder()
            .method(method)
            .uri(url)
            .body(HttpRequestBody::from(body))
            .map_err(|error| broken(error.to_string()))?;
        AwsAuthorizer::new(&self.credential, "s3", &self.region)
            .try_authorize(&mut message, Some(digest.as_slice()))
            .map_err(|error| broken(error.to_string()))?;
        if only_if_absent {
            message
                .headers_mut()
                .insert(IF_NONE_MATCH, hyper::header::HeaderValue::from_static("*"));
        }
        let lost = |error| Fault::of_transport(request, self.timeout, &error);
        let response: HttpResponse = self.http.execute(message).await.map_err(lost)?;
        let status = response.status();
        let body = response.into_body().bytes().await.map_err(lost)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            Ok(body)
        } else {
            Err(Fault::refused(request, status.as_u16(), &body))
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListBucketResult {
    #[serde(default)]
    contents: Vec<Contents>,
    #[serde(default)]
    common_prefixes: Vec<CommonPrefix>,
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Contents {
    key: String,
    size: u64,
    #[serde(default)]
    last_modified: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommonPrefix {
    prefix: String,
}

fn parse_page(body: &str) -> Result<Page, String> {
    // The reader takes any root; a login page would be an empty directory.
    if !body.contains("<ListBucketResult") {
        return Err("it has no ListBucketResult".to_owned());
    }
    let result: ListBucketResult =
        quick_xml::de::from_str(body).map_err(|error| error.to_string())?;
    let next = result
        .next_continuation_token
        .filter(|token| result.is_truncated && !token.is_empty());
    if result.is_truncated && next.is_none() {
        return Err("it is truncated and does not say where to go on".to_owned());
    }
    Ok(Page {
        objects: result
            .contents
            .into_iter()
            .map(|object| Object {
                key: object.key,
                size: object.size,
                modified: DateTime::parse_from_rfc3339(&object.last_modified)
                    .ok()
                    .map(|time| time.timestamp()),
            })
            .collect(),
        prefixes: result
            .common_prefixes
            .into_iter()
            .map(|prefix| prefix.prefix)
            .collect(),
        next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_objects_directories_and_where_to_go_on() {
        let page = parse_page(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>\
             <IsTruncated>true</IsTruncated><NextContinuationToken>x+/=</NextContinuationToken>\
             <Contents><Key>d/a &amp; b</Key><Size>5</Size><LastModified>2026-11-22T11:51:24.135Z</LastModified></Contents>\
             <CommonPrefixes><Prefix>d//</Prefix></CommonPrefixes>\
             <Contents><Key>d/c</Key><Size>0</Size><LastModified>yesterday</LastModified></Contents>\
             <CommonPrefixes><Prefix>d/e/</Prefix></CommonPrefixes></ListBucketResult>",
        )
        .unwrap();
        let expected = Page {
            objects: vec![
                Object {
                    key: "d/a & b".to_owned(),
                    size: 5,
                    modified: Some(1_795_348_284),
                },
                Object {
                    key: "d/c".to_owned(),
                    size: 0,
                    modified: None,
                },
            ],
            prefixes: vec!["d//".to_owned(), "d/e/".to_owned()],
            next: Some("x+/=".to_owned()),
        };
        assert_eq!(page, expected);
    }

    #[test]
    fn what_is_no_listing_is_an_error_and_not_an_empty_directory() {
        for garbage in [
            "",
            "<html><body>Please log in</body></html>",
            "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>",
            "<ListBucketResult><Contents>",
            "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        ] {
            assert!(parse_page(garbage).is_err(), "{garbage}");
        }
        assert_eq!(
            parse_page("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
                .unwrap(),
            Page::default()
        );
    }
}
