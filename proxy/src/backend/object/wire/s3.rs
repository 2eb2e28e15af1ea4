//! What S3 and Cloud Storage's XML interface have in common: listings (ListObjectsV2) and completions.

use bytes::Bytes;
use chrono::DateTime;
use object_store::multipart::PartId;
use serde::Deserialize;

use super::{Listing, Object, Page, Version};

pub(super) fn listing<'a>(listing: &Listing<'a>, count: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut query = Vec::new();
    if let Some(token) = listing.after {
        query.push(("continuation-token", token));
    }
    if listing.by_directory {
        query.push(("delimiter", "/"));
    }
    query.push(("list-type", "2"));
    query.push(("max-keys", count));
    query.push(("prefix", listing.prefix));
    query
}

/// The document of CompleteMultipartUpload.
pub(super) fn completion(parts: &[PartId]) -> Bytes {
    let mut document = String::from("<CompleteMultipartUpload>");
    for (index, part) in parts.iter().enumerate() {
        let tag = quick_xml::escape::escape(&part.content_id);
        document.push_str(&format!(
            "<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag></Part>",
            index + 1
        ));
    }
    document.push_str("</CompleteMultipartUpload>");
    document.into()
}

/// Reads the answer to a completion: `None` if it is a failure, else the file's tag where it is named.
pub(super) fn completed(body: &str) -> Option<Option<String>> {
    let (_, result) = body.split_once("<CompleteMultipartUploadResult")?;
    Some(tag(result))
}

/// The tag of a part that was copied; `None` if the answer is a failure.
pub(super) fn copied(body: &str) -> Option<String> {
    let (_, result) = body.split_once("<CopyPartResult")?;
    tag(result)
}

fn tag(result: &str) -> Option<String> {
    let (_, rest) = result.split_once("<ETag>")?;
    let (tag, _) = rest.split_once("</ETag>")?;
    let tag = quick_xml::escape::unescape(tag).ok()?;
    Some(tag.into_owned())
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
    #[serde(rename = "ETag")]
    tag: Option<String>,
    /// Cloud Storage's.
    generation: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommonPrefix {
    prefix: String,
}

pub(super) fn parse_page(body: &str) -> Result<Page, String> {
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
                version: Version::new(object.tag, object.generation),
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
             <Contents><Key>d/a &amp; b</Key><Size>5</Size><LastModified>2026-11-22T11:51:24.135Z</LastModified><ETag>&quot;ab&quot;</ETag></Contents>\
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
                    version: Version::new(Some("\"ab\"".to_owned()), None),
                },
                Object {
                    key: "d/c".to_owned(),
                    size: 0,
                    modified: None,
                    version: Version::default(),
                },
            ],
            prefixes: vec!["d//".to_owned(), "d/e/".to_owned()],
            next: Some("x+/=".to_owned()),
        };
        assert_eq!(page, expected);
    }

    #[test]
    fn a_completion_names_the_tag_of_the_file_or_is_a_failure() {
        let answer = |tag: &str| {
            format!(
                "<?xml version=\"1.0\"?>\n<CompleteMultipartUploadResult xmlns=\"x\"><Key>k</Key>{tag}\
                 </CompleteMultipartUploadResult>"
            )
        };
        for tag in ["<ETag>&quot;ab-2&quot;</ETag>", "<ETag>\"ab-2\"</ETag>"] {
            let expected = Some("\"ab-2\"".to_owned());
            assert_eq!(completed(&answer(tag)), Some(expected));
        }
        assert_eq!(completed(&answer("")), Some(None));
        assert_eq!(completed("<Error><Code>InternalError</Code></Error>"), None);
    }

    #[test]
    fn a_copied_part_names_its_tag_or_is_a_failure() {
        let answer = "<?xml version=\"1.0\"?><CopyPartResult xmlns=\"x\"><LastModified>now</LastModified>\
             <ETag>&quot;ab&quot;</ETag></CopyPartResult>";
        assert_eq!(copied(answer), Some("\"ab\"".to_owned()));
        for failure in [
            "<Error><Code>SlowDown</Code></Error>",
            "<CopyPartResult></CopyPartResult>",
            "",
        ] {
            assert_eq!(copied(failure), None, "{failure}");
        }
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
