//! The dialect of Azure Blob Storage: listings, block lists, and copies that may go on after they were answered.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use chrono::DateTime;
use hyper::{
    HeaderMap, Method,
    header::{HeaderName, IF_NONE_MATCH},
};
use object_store::{azure::AzureCredential, multipart::PartId};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::{Duration, Instant, sleep};

use super::{
    super::{fault::Fault, location::Key},
    ANYTHING, Answer, Listing, Message, Object, Over, Page, QUERY, Signer, Version, Wire, garbled,
    repeatable, value,
};
use crate::backend::ErrorKind;

/// How often a copy that goes on is looked at.
const LOOK: Duration = Duration::from_millis(500);

const COPY_SOURCE: HeaderName = HeaderName::from_static("x-ms-copy-source");
const COPY_SOURCE_IF_MATCH: HeaderName = HeaderName::from_static("x-ms-source-if-match");

pub(super) fn listing<'a>(listing: &Listing<'a>, count: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut query = vec![("comp", "list")];
    if listing.by_directory {
        query.push(("delimiter", "/"));
    }
    if let Some(marker) = listing.after {
        query.push(("marker", marker));
    }
    query.push(("maxresults", count));
    query.push(("prefix", listing.prefix));
    query.push(("restype", "container"));
    query
}

/// The document of Put Block List.
pub(super) fn block_list(parts: &[PartId]) -> Bytes {
    let mut document = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    for part in parts {
        document.push_str("<Latest>");
        document.push_str(&BASE64.encode(&part.content_id));
        document.push_str("</Latest>");
    }
    document.push_str("</BlockList>");
    document.into()
}

impl Wire {
    /// Copy Blob. It is answered once it is queued; this waits until it is done.
    pub(super) async fn copy_blob(
        &self,
        from: &Key,
        version: &Version,
        to: &Key,
        over: Over<'_>,
    ) -> Result<(), Fault> {
        const REQUEST: &str = "COPY";
        let mut source = value(REQUEST, &self.source(from).await?)?;
        source.set_sensitive(true);
        let mut headers = vec![(COPY_SOURCE, source)];
        if let Some(tag) = version.tag() {
            headers.push((COPY_SOURCE_IF_MATCH, value(REQUEST, tag)?));
        }
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
        self.finish_copy(to, answer.headers).await
    }

    /// Makes an empty object whose key may end in a slash; the library would drop that.
    pub(in super::super) async fn put_empty_blob(&self, key: &Key) -> Result<(), Fault> {
        let message = Message {
            request: "PUT",
            method: Method::PUT,
            key: key.as_str(),
            query: Vec::new(),
            headers: vec![
                (IF_NONE_MATCH, ANYTHING),
                (
                    HeaderName::from_static("x-ms-blob-type"),
                    hyper::header::HeaderValue::from_static("BlockBlob"),
                ),
            ],
            body: Bytes::new(),
        };
        self.send(message, Fault::did_nothing).await.map(|_| ())
    }

    /// After a copy whose answer was lost: true if what stands there was copied from `from`, once it is whole.
    pub(in super::super) async fn was_copied(&self, from: &Key, to: &Key) -> Result<bool, Fault> {
        let headers = match self.properties(to).await {
            Ok(answer) => answer.headers,
            Err(fault) if fault.is_not_found() => return Ok(false),
            Err(fault) => return Err(fault),
        };
        let source = text(&headers, "x-ms-copy-source");
        // The service leaves out what a shared access signature put behind it.
        if source.split('?').next() != Some(self.url_of(from.as_str()).as_str()) {
            return Ok(false);
        }
        self.finish_copy(to, headers).await.map(|()| true)
    }

    async fn finish_copy(&self, to: &Key, mut headers: HeaderMap) -> Result<(), Fault> {
        let mut progress = String::new();
        let mut moved = Instant::now();
        loop {
            match text(&headers, "x-ms-copy-status") {
                "success" => return Ok(()),
                "pending" => {}
                other => {
                    let why = text(&headers, "x-ms-copy-status-description");
                    return Err(Fault::judged(
                        ErrorKind::Failure,
                        format!("the copy to {to} ended as {other:?} {why:?}"),
                    ));
                }
            }
            let now = text(&headers, "x-ms-copy-progress");
            if now != progress {
                now.clone_into(&mut progress);
                moved = Instant::now();
            } else if moved.elapsed() >= self.timeout {
                return Err(Fault::TimedOut {
                    request: "COPY",
                    timeout: self.timeout,
                });
            }
            sleep(LOOK).await;
            headers = self.properties(to).await?.headers;
        }
    }

    async fn properties(&self, key: &Key) -> Result<Answer, Fault> {
        let message = Message {
            request: "HEAD",
            method: Method::HEAD,
            key: key.as_str(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        self.send(message, Fault::is_passing).await
    }

    /// The URL of a file that the service is to read itself. A shared access signature has to stand in it; with a key, the
    /// signature of the request is enough.
    async fn source(&self, key: &Key) -> Result<String, Fault> {
        let mut url = self.url_of(key.as_str());
        if let Signer::Azure { credentials, .. } = &self.signer {
            let credential = credentials
                .get_credential()
                .await
                .map_err(|error| garbled("COPY", &error))?;
            match credential.as_ref() {
                AzureCredential::SASToken(pairs) => {
                    for (index, (name, value)) in pairs.iter().enumerate() {
                        url.push(if index == 0 { '?' } else { '&' });
                        url.extend(utf8_percent_encode(name, QUERY));
                        url.push('=');
                        url.extend(utf8_percent_encode(value, QUERY));
                    }
                }
                AzureCredential::AccessKey(_) | AzureCredential::BearerToken(_) => {}
            }
        }
        Ok(url)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EnumerationResults {
    blobs: Blobs,
    #[serde(default)]
    next_marker: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blobs {
    #[serde(default)]
    blob: Vec<Blob>,
    #[serde(default)]
    blob_prefix: Vec<BlobPrefix>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blob {
    name: Name,
    properties: Properties,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BlobPrefix {
    name: Name,
}

/// Percent-encoded if it has characters that XML can't hold.
#[derive(Debug, Deserialize)]
struct Name {
    #[serde(rename = "@Encoded", default)]
    is_encoded: bool,
    #[serde(rename = "$text", default)]
    text: String,
}

#[derive(Debug, Deserialize)]
struct Properties {
    #[serde(rename = "Last-Modified", default)]
    modified: String,
    #[serde(rename = "Content-Length")]
    length: u64,
    #[serde(rename = "Etag")]
    tag: Option<String>,
}

impl Name {
    fn decoded(self) -> String {
        if self.is_encoded {
            percent_decode_str(&self.text)
                .decode_utf8_lossy()
                .into_owned()
        } else {
            self.text
        }
    }
}

/// Reads the answer to List Blobs.
pub(super) fn parse_page(body: &str) -> Result<Page, String> {
    // The reader takes any root; a login page would be an empty directory.
    if !body.contains("<EnumerationResults") {
        return Err("it has no EnumerationResults".to_owned());
    }
    let result: EnumerationResults =
        quick_xml::de::from_str(body).map_err(|error| error.to_string())?;
    Ok(Page {
        objects: result
            .blobs
            .blob
            .into_iter()
            .map(|blob| Object {
                key: blob.name.decoded(),
                size: blob.properties.length,
                modified: DateTime::parse_from_rfc2822(&blob.properties.modified)
                    .ok()
                    .map(|time| time.timestamp()),
                version: Version::new(blob.properties.tag, None),
            })
            .collect(),
        prefixes: result
            .blobs
            .blob_prefix
            .into_iter()
            .map(|prefix| prefix.name.decoded())
            .collect(),
        next: Some(result.next_marker).filter(|marker| !marker.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_blobs_directories_and_where_to_go_on() {
        let page = parse_page(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\
             <EnumerationResults ServiceEndpoint=\"https://a.blob.core.windows.net/\" ContainerName=\"c\">\
             <Prefix>d/</Prefix><MaxResults>4</MaxResults><Delimiter>/</Delimiter><Blobs>\
             <Blob><Name>d/a &amp; b</Name><Properties><Creation-Time>Sun, 22 Nov 2026 11:00:00 GMT</Creation-Time>\
             <Last-Modified>Sun, 22 Nov 2026 11:51:24 GMT</Last-Modified><Content-Length>5</Content-Length>\
             <BlobType>BlockBlob</BlobType></Properties><OrMetadata/></Blob>\
             <BlobPrefix><Name>d//</Name></BlobPrefix>\
             <Blob><Name Encoded=\"true\">d/c%EF%BF%BEd</Name><Properties><Last-Modified>once</Last-Modified>\
             <Content-Length>0</Content-Length><Etag>0x8DE</Etag></Properties></Blob>\
             <BlobPrefix><Name>d/e/</Name></BlobPrefix></Blobs><NextMarker>2!76!x</NextMarker></EnumerationResults>",
        )
        .unwrap();
        let expected = Page {
            objects: vec![
                Object {
                    key: "d/a & b".to_owned(),
                    size: 5,
                    modified: Some(1_795_348_284),
                    version: Version::default(),
                },
                Object {
                    key: "d/c\u{fffe}d".to_owned(),
                    size: 0,
                    modified: None,
                    version: Version::new(Some("0x8DE".to_owned()), None),
                },
            ],
            prefixes: vec!["d//".to_owned(), "d/e/".to_owned()],
            next: Some("2!76!x".to_owned()),
        };
        assert_eq!(page, expected);
    }

    #[test]
    fn what_is_no_listing_is_an_error_and_not_an_empty_directory() {
        for garbage in [
            "",
            "<html><body>Please log in</body></html>",
            "<EnumerationResults></EnumerationResults>",
            "<EnumerationResults><Blobs><Blob><Name>a</Name></Blob></Blobs></EnumerationResults>",
            "<EnumerationResults><Blobs><Blob><Name>a</Name><Properties><Content-Length>-1</Content-Length>\
             </Properties></Blob></Blobs></EnumerationResults>",
            "<EnumerationResults><Blobs><Blob>",
        ] {
            assert!(parse_page(garbage).is_err(), "{garbage}");
        }
        for empty in [
            "<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>",
            "<EnumerationResults><Blobs></Blobs></EnumerationResults>",
        ] {
            assert_eq!(parse_page(empty).unwrap(), Page::default(), "{empty}");
        }
    }

    #[test]
    fn blocks_are_named_in_base64_and_in_order() {
        let part = |id: &str| PartId {
            content_id: id.to_owned(),
        };
        assert_eq!(
            block_list(&[part("one"), part("two")]),
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><Latest>b25l</Latest><Latest>dHdv</Latest></BlockList>"
        );
    }
}
