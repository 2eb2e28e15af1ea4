//! The XML interface of Cloud Storage. No server of it can be had for tests, so a translation stands before SeaweedFS: it
//! takes what the interface takes, as its reference has it, and hands it on as S3.

use std::{process::Command, sync::OnceLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::{
    Request, Uri,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use object_store::{
    aws::{AwsAuthorizer, AwsCredential},
    client::HttpRequestBody,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use portcullis_tests::{
    process,
    server::{
        PASSWORD,
        seaweed::{ACCESS_KEY, Seaweed},
    },
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    content, directory,
    front::{Fate, Front, Seen, first},
    server, session,
};
use crate::{
    backend::{
        ErrorKind, Origin,
        conformance::{Client, REPLACE, Subject},
        object::{Credential, ObjectService, ObjectSettings, SecretText},
    },
    operation::{Access, HandleId, Operation, Outcome},
    path::VirtualPath,
};

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 255 * 1024;
const EMAIL: &str = "gateway@project.iam.gserviceaccount.com";
const KEY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// The key file of a service account.
fn key_file(email: &str) -> String {
    static KEY: OnceLock<String> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let make = [
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ];
        process::succeed(Command::new("openssl").args(make)).unwrap()
    });
    json!({
        "type": "service_account", "client_email": email, "private_key_id": "1", "private_key": key
    })
    .to_string()
}

fn settings_of(endpoint: String, email: &str) -> ObjectSettings {
    ObjectSettings {
        credential: Credential::Gcs {
            service_account: SecretText::new(key_file(email)),
        },
        ..super::settings(endpoint)
    }
}

async fn front(rule: impl Fn(&Seen) -> Fate + Send + Sync + 'static) -> Front {
    Front::before(server().await.address, Some(translate), rule).await
}

fn through(front: &Front, place: &[u8]) -> Client {
    session(&settings_of(front.endpoint.clone(), EMAIL), place)
}

/// Generations are numbers; these are made of the tag and its count of parts.
fn tag_of(generation: &HeaderValue) -> HeaderValue {
    let (digest, parts) = generation.to_str().unwrap().split_at(39);
    let digest: u128 = digest.parse().unwrap();
    let tag = match parts.parse().unwrap() {
        0 => format!("\"{digest:032x}\""),
        parts => format!("\"{digest:032x}-{parts}\"", parts = parts as u32),
    };
    tag.parse().unwrap()
}

/// Adds the generation to an answer that has a tag.
fn with_generation(head: &mut Vec<String>, _: &mut Vec<u8>) {
    let tag = head.iter().find_map(|line| {
        let (name, tag) = line.split_once(": ")?;
        let is_tag = name.eq_ignore_ascii_case("etag");
        is_tag.then(|| tag.trim_matches('"').to_owned())
    });
    if let Some(tag) = tag {
        let (digest, parts) = tag.split_once('-').unwrap_or((&tag, "0"));
        let digest = u128::from_str_radix(digest, 16).unwrap();
        let parts: u32 = parts.parse().unwrap();
        head.push(format!("x-goog-generation: {digest:039}{parts:03}"));
    }
}

/// A request of the XML interface as one of S3.
fn translate(head: &str, body: &[u8]) -> Result<String, String> {
    let refused = |status: u16, code: &str| {
        let document =
            format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>");
        format!(
            "HTTP/1.1 {status} No\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{document}",
            document.len()
        )
    };
    let mut lines = head.trim_end().split("\r\n");
    let mut request = lines.next().unwrap().split(' ');
    let (method, target) = (request.next().unwrap(), request.next().unwrap());
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        headers.insert(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let bearer = headers.remove(AUTHORIZATION);
    if !bearer.is_some_and(|bearer| is_ours(bearer.to_str().unwrap())) {
        return Err(refused(401, "AuthenticationRequired"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let encoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8().unwrap();
        utf8_percent_encode(&decoded, KEY).to_string()
    };
    if let Some(generation) = headers.remove("x-goog-if-generation-match") {
        // "Preconditions are not supported" by uploads in parts.
        if query.contains("uploadId=") {
            return Err(refused(400, "InvalidArgument"));
        }
        if generation == "0" {
            headers.insert("if-none-match", HeaderValue::from_static("*"));
        } else {
            headers.insert("if-match", tag_of(&generation));
        }
    }
    if let Some(generation) = headers.remove("x-goog-copy-source-if-generation-match") {
        headers.insert("x-amz-copy-source-if-match", tag_of(&generation));
    }
    if let Some(source) = headers.remove("x-goog-copy-source") {
        let source = encoded(source.to_str().unwrap());
        headers.insert("x-amz-copy-source", source.parse().unwrap());
    }
    let refuses_s3 = headers
        .keys()
        .any(|name| name.as_str().starts_with("x-amz-") && !name.as_str().contains("copy-source"));
    if refuses_s3 {
        return Err(refused(400, "InvalidArgument"));
    }
    Ok(signed(method, &encoded(path), query, headers, body))
}

/// True for a token that the service account signed for itself (AIP-4111).
fn is_ours(bearer: &str) -> bool {
    let parts: Vec<Value> = bearer
        .trim_start_matches("Bearer ")
        .split('.')
        .take(2)
        .filter_map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok())
        .collect();
    let [header, claims] = &parts[..] else {
        return false;
    };
    let lifetime = claims["exp"].as_i64().unwrap_or(0) - claims["iat"].as_i64().unwrap_or(0);
    header["alg"] == "RS256"
        && claims["iss"] == EMAIL
        && claims["scope"]
            .as_str()
            .is_some_and(|scope| scope.contains("cloud-platform"))
        && (1..=3600).contains(&lifetime)
}

fn signed(method: &str, path: &str, query: &str, mut headers: HeaderMap, body: &[u8]) -> String {
    let server = Seaweed::shared().address;
    let uri: Uri = format!("http://{server}{path}?{query}").parse().unwrap();
    headers.remove("host");
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .body(HttpRequestBody::empty())
        .unwrap();
    *request.headers_mut() = headers;
    let credential = AwsCredential {
        key_id: ACCESS_KEY.to_owned(),
        secret_key: PASSWORD.to_owned(),
        token: None,
    };
    AwsAuthorizer::new(&credential, "s3", "us-east-1")
        .try_authorize(&mut request, Some(Sha256::digest(body).as_slice()))
        .unwrap();
    let mut head = format!("{method} {path}?{query} HTTP/1.1\r\nHost: {server}\r\n");
    for (name, value) in request.headers() {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    head.push_str("\r\n");
    head
}

async fn start() -> Subject {
    let front = front(|_| Fate::Change(with_generation)).await;
    let settings = settings_of(front.endpoint.clone(), EMAIL);
    Subject {
        service: std::sync::Arc::new(ObjectService::new(&settings).unwrap()),
        directory: directory(),
        disk: None,
        keep: Box::new(front),
    }
}

crate::backend::conformance::suite!(super::start);

fn path(name: &str) -> VirtualPath {
    VirtualPath::clean(name.as_bytes()).unwrap()
}

async fn write_all(client: &Client, handle: HandleId, content: &[u8]) {
    for (number, data) in content.chunks(CHUNK).enumerate() {
        let write = Operation::Write {
            handle,
            offset: (number * CHUNK) as u64,
            data: data.to_vec().into(),
        };
        assert_eq!(client.ask(write).await.unwrap(), Outcome::Done);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_goes_in_parts_and_appears_whole_at_close() {
    let front = front(|_| Fate::HandOn).await;
    let client = through(&front, &directory());
    let content = content(20 * MIB + 17);
    let handle = client.open("/big", REPLACE).await;
    write_all(&client, handle, &content).await;
    assert!(client.is_missing("/big").await);
    client.close(handle).await;
    assert!(client.get("/big").await == content);
    assert_eq!(front.count("PUT", "partNumber="), 3, "8, 8 and 4 MiB");
    assert_eq!(front.count("POST", "uploadId="), 1);
    assert_eq!(front.count("PUT", "copy"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_upload_in_parts_is_gathered_beside_its_name_and_replaces_nothing() {
    // The look before the publication is told that there is nothing: only the condition is left.
    let front = front(|seen| {
        if seen.is("HEAD", "late") {
            Fate::Refuse(404, "")
        } else {
            Fate::HandOn
        }
    })
    .await;
    let place = directory();
    let client = through(&front, &place);
    let other = session(&super::settings(server().await.endpoint()), &place);
    let exclusive = Access {
        exclusive: true,
        ..REPLACE
    };
    for (size, appears) in [(10, true), (9 * MIB, true), (9 * MIB, false)] {
        let content = content(size);
        let handle = client.open("/late", exclusive).await;
        write_all(&client, handle, &content).await;
        if appears {
            other.put("/late", "early").await;
            assert_eq!(
                client.refusal(Operation::Close { handle }).await,
                ErrorKind::AlreadyExists,
                "{size}"
            );
            assert_eq!(other.get("/late").await, b"early");
            other
                .done(Operation::Remove {
                    path: path("/late"),
                })
                .await;
        } else {
            client.close(handle).await;
            assert!(other.get("/late").await == content);
        }
    }
    assert_eq!(
        front.count("DELETE", ".part"),
        2,
        "what was gathered is removed"
    );
    assert_eq!(front.count("POST", "late?uploadId="), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_whose_copy_lost_its_answer_is_done_and_not_in_its_own_way() {
    let front = front(first(1, "PUT", "/b ", Fate::LoseAnswer)).await;
    let client = through(&front, &directory());
    client.put("/a", "content").await;
    client
        .done(Operation::Rename {
            from: path("/a"),
            to: path("/b"),
        })
        .await;
    assert!(client.is_missing("/a").await);
    assert_eq!(client.get("/b").await, b"content");
    assert_eq!(front.count("PUT", "/b "), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_service_account_is_the_gateways_fault_and_the_message_says_what_to_check() {
    let front = front(|_| Fate::HandOn).await;
    let settings = settings_of(
        front.endpoint.clone(),
        "nobody@project.iam.gserviceaccount.com",
    );
    let error = session(&settings, &directory())
        .ask(Operation::Opendir {
            path: VirtualPath::root(),
            handle: HandleId(1),
        })
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.origin),
        (ErrorKind::Unavailable, Origin::Gateway),
        "{error}"
    );
    assert!(error.message.contains("access key"), "{error}");
    assert!(!error.message.contains("PRIVATE"), "{error}");
}
