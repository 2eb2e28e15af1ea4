mod over_tls;

use std::{future::Future, path::PathBuf, pin::Pin};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request as HttpRequest, StatusCode, body::Bytes, client::conn::http1};
use portcullis_journal::{AppendError, Event};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::*;
use crate::{
    bans::BanBook,
    clock::Moment,
    config::Config,
    datapath::{self, fake::Fake},
    engine::{Engine, LiveFacts, Parts, Settings},
    record::Recorder,
    sources::Board,
    state::{HistoryLimits, Options, Store},
    traffic::{LivePeer, Traffic},
};

/// Records nothing: what is on record is the engine's tests' business.
struct Nowhere;

impl Recorder for Nowhere {
    fn record<'a>(
        &'a self,
        _event: Event,
    ) -> Pin<Box<dyn Future<Output = Result<(), AppendError>> + Send + 'a>> {
        Box::pin(async { Ok(()) })
    }

    fn is_healthy(&self) -> bool {
        true
    }
}

struct NoConnections;

impl Traffic for NoConnections {
    fn live_peers(&self) -> Vec<LivePeer> {
        Vec::new()
    }
}

/// A daemon's control interface over a fake kernel.
struct Daemon {
    datapath: Fake,
    service: Service,
    socket: PathBuf,
    stop: CancellationToken,
    _directory: TempDir,
}

impl Daemon {
    fn new(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("interfaces = [\"eth0\"]\n[control]\n{more}");
        let config = Config::parse(&text).unwrap();
        let datapath = Fake::default();
        let options = Options {
            segment_bytes: 1 << 20,
            history: HistoryLimits {
                keep: 100,
                max_bytes: 1 << 30,
            },
        };
        let (store, content) = Store::open(&directory.path().join("state"), options).unwrap();
        let protected = vec!["192.0.2.10/32".parse().unwrap()];
        let settings = Settings {
            protected: protected.clone(),
            datapath: datapath::Settings::default(),
            max_cut_flows: 10,
        };
        let parts = Parts {
            datapath: Box::new(datapath.clone()),
            recorder: Box::new(Nowhere),
            traffic: Box::new(NoConnections),
            store,
            sources: Board::default(),
            outage: None,
        };
        let now = Moment::now();
        let bans = BanBook::new(config.bans.clone(), &protected);
        let mut engine = Engine::new(settings, bans, content, parts, now);
        let (requests, queue) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let service = Service::new(
            requests,
            // Nobody reads live facts here.
            Refresh::new().0,
            engine.reports(),
            config.control.clone(),
            stop.clone(),
        );
        let handle = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            handle.block_on(async {
                engine.start(LiveFacts::default(), now).await.unwrap();
                engine.run(queue, std::future::pending).await
            })
        });
        let socket = directory.path().join("agent.sock");
        let listener = bind(&socket).unwrap();
        tokio::spawn(serve(listener, service.clone()));
        Self {
            datapath,
            service,
            socket,
            stop,
            _directory: directory,
        }
    }

    fn call(&self, method: Method, path: &str) -> Call<'_> {
        Call {
            daemon: self,
            request: HttpRequest::builder()
                .method(method)
                .uri(path)
                .header("host", "agent"),
            body: Bytes::new(),
        }
    }

    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is as good as an end.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One request over a connection of its own.
struct Call<'a> {
    daemon: &'a Daemon,
    request: hyper::http::request::Builder,
    body: Bytes,
}

/// Status, ETag and body of an answer.
struct Answer {
    status: StatusCode,
    headers: hyper::HeaderMap,
    body: Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

impl Call<'_> {
    fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    fn json(mut self, body: &Value) -> Self {
        self.body = serde_json::to_vec(body).unwrap().into();
        self
    }

    fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    async fn send(self) -> Answer {
        let stream = UnixStream::connect(&self.daemon.socket).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        self.send_over(sender).await
    }

    async fn send_over(self, mut sender: http1::SendRequest<Full<Bytes>>) -> Answer {
        let request = self.request.body(Full::new(self.body)).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }
}

fn entries(prefixes: &[&str]) -> Value {
    let entries: Vec<Value> = prefixes
        .iter()
        .map(|prefix| json!({ "prefix": prefix }))
        .collect();
    json!({ "entries": entries })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_editors_can_not_overwrite_each_other() {
    let daemon = Daemon::new("");
    let add = |prefix| {
        daemon
            .call(Method::POST, "/v1/allow")
            .json(&entries(&[prefix]))
    };
    let first = add("203.0.113.0/24").send().await;
    assert_eq!(first.headers["etag"], "\"1\"");
    let read = daemon.call(Method::GET, "/v1/allow").send().await;
    assert_eq!(read.headers["etag"], "\"1\"");
    let second = add("198.51.100.0/24")
        .header("if-match", "\"1\"")
        .send()
        .await;
    assert_eq!(second.status, StatusCode::OK);
    let late = add("192.0.2.0/24").header("if-match", "\"1\"").send().await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED);
    assert!(
        late.message().contains("at revision 2, and not at 1"),
        "{}",
        late.message()
    );
    let odd = add("192.0.2.0/24")
        .header("if-match", "W/\"2\"")
        .send()
        .await;
    assert_eq!(odd.code(), "invalid");
    assert_eq!(
        daemon.call(Method::GET, "/v1/status").send().await.body["revision"],
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_again_with_its_key_is_answered_as_before_and_done_once() {
    let daemon = Daemon::new("");
    let ban = |source: &str, key: &str| {
        let body = json!({ "source": source, "lifetime_seconds": 60 });
        daemon
            .call(Method::POST, "/v1/bans")
            .header("idempotency-key", key)
            .json(&body)
            .send()
    };
    let first = ban("198.51.100.7", "a").await;
    let again = ban("198.51.100.7", "a").await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(first.body, again.body, "the same end");
    let other = ban("198.51.100.8", "a").await;
    assert_eq!(
        (other.status, other.code()),
        (StatusCode::UNPROCESSABLE_ENTITY, "reused")
    );
    assert_eq!(ban("198.51.100.8", "b").await.status, StatusCode::CREATED);
    assert_eq!(daemon.datapath.told().generation, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_told_when_to_come_again() {
    let daemon = Daemon::new("requests_per_second = 1\nburst = 3\n");
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(daemon.call(Method::GET, "/v1/bans").send().await);
    }
    let last = answers.pop().unwrap();
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!(last.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(last.headers["retry-after"], "1");
    assert_eq!(last.code(), "busy");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_get_an_error_and_change_nothing() {
    let daemon = Daemon::new("");
    daemon.call(Method::GET, "/v1/status").send().await;
    let before = daemon.datapath.told();
    for (method, path, body, status, code) in [
        (Method::POST, "/v1/allow", "[]", 400, "invalid"),
        (Method::POST, "/v1/allow", "{\"entries\":5}", 400, "invalid"),
        (Method::POST, "/v1/allow", "\u{0}\u{1}", 400, "invalid"),
        (
            Method::POST,
            "/v1/allow",
            "{\"entries\":[{\"prefix\":\"0.0.0.0/0\"}]}",
            400,
            "invalid",
        ),
        (
            Method::POST,
            "/v1/allow",
            "{\"entries\":[{\"prefix\":\"fe80::1%eth0\"}]}",
            400,
            "invalid",
        ),
        (
            Method::POST,
            "/v1/allow",
            "{\"entries\":[{\"prefix\":\"192.0.2.0/24\",\"deny\":true,\"scope\":\"tcp/22\"}]}",
            400,
            "invalid",
        ),
        (
            Method::PUT,
            "/v1/allow?format=text",
            "192.0.2.0/24\r\n192.0.2.7/24\r\n",
            400,
            "invalid",
        ),
        (Method::PUT, "/v1/allow?format=xml", "", 400, "invalid"),
        (Method::PUT, "/v1/allow?format=text", "", 400, "invalid"),
        (Method::PATCH, "/v1/allow", "", 405, "not_allowed"),
        (Method::GET, "/v1/allow?list=../x", "", 400, "invalid"),
        (Method::GET, "/v1/allow/diff?from=1", "", 400, "invalid"),
        (
            Method::GET,
            "/v1/allow/diff?from=0&to=9",
            "",
            404,
            "not_found",
        ),
        (Method::POST, "/v1/allow/confirm", "", 409, "conflict"),
        (
            Method::POST,
            "/v1/allow/confirm",
            "{\"x\":1}",
            400,
            "invalid",
        ),
        (Method::POST, "/v1/feeds/none/accept", "", 404, "not_found"),
        (Method::GET, "/v2/status", "", 404, "not_found"),
    ] {
        let answer = daemon
            .call(method.clone(), path)
            .body(body.to_owned())
            .send()
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (status, code),
            "{method} {path} {body}: {}",
            answer.body
        );
        assert!(!answer.message().is_empty());
    }
    assert_eq!(daemon.datapath.told().generation, before.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_in_its_format_and_its_faults_are_named_by_line_and_column() {
    let daemon = Daemon::new("");
    let put = |query: &str, body: &str| {
        daemon
            .call(Method::PUT, &format!("/v1/allow?{query}"))
            .body(body.to_owned())
            .send()
    };
    let csv = put(
        "format=auto&name=a.csv",
        "prefix,scope,owner\n203.0.113.0/24,tcp/22,lab\n",
    )
    .await;
    assert_eq!(csv.status, StatusCode::OK, "{}", csv.body);
    let listed = daemon.call(Method::GET, "/v1/allow").send().await;
    assert_eq!(listed.body["entries"][0]["scope"], "tcp/22");
    assert_eq!(listed.body["entries"][0]["list"], "manual");
    let bad = put("format=auto&name=b.txt", "192.0.2.0/24\n\n nonsense\n").await;
    assert!(bad.message().contains("b.txt:3:2"), "{}", bad.message());
    let empty = put("format=text&empty=true", "").await;
    assert_eq!(empty.body["removed"], 1, "{}", empty.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_asked_can_not_confirm_and_a_new_one_can() {
    let daemon = Daemon::new("");
    let stream = UnixStream::connect(&daemon.socket).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (path, body, status) in [
        (
            "/v1/allow",
            "{\"entries\":[{\"prefix\":\"203.0.113.0/24\"}],\"options\":{\"confirm_within_seconds\":60}}",
            200,
        ),
        ("/v1/allow/confirm", "", 409),
    ] {
        let request = HttpRequest::builder()
            .method(Method::POST)
            .uri(path)
            .header("host", "agent")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        // The second request has to wait until the connection has put the first one away.
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
        response.into_body().collect().await.unwrap();
    }
    let status = daemon.call(Method::GET, "/v1/status").send().await;
    assert_eq!(status.body["pending"]["revision"], 1);
    let confirmed = daemon.call(Method::POST, "/v1/allow/confirm").send().await;
    assert_eq!(confirmed.status, StatusCode::OK, "{}", confirmed.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_announced_too_long_is_refused_before_it_is_sent() {
    let daemon = Daemon::new("");
    let head = "POST /v1/allow HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 99999999999\r\n\r\n";
    let answer = daemon.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("too_large"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_ends_the_connection_and_not_the_service() {
    let daemon = Daemon::new("");
    let slow = tokio::time::timeout(HEADER_TIMEOUT * 2, daemon.raw(b"GET /v1/status HT"));
    assert!(slow.await.is_ok(), "the connection was ended");
    let status = daemon.call(Method::GET, "/v1/status").send().await;
    assert_eq!(status.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_served_to_anyone() {
    let daemon = Daemon::new("");
    let served = daemon.call(Method::GET, "/v1/openapi.json").send().await;
    assert_eq!(served.body["openapi"], "3.1.0");
}
