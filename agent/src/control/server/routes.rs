//! The resources and what each does with a request.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{
        DefaultBodyLimit, Path as UrlPath, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use chrono::Utc;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Service,
    caller::{Caller, JsonBody},
    intake::intake,
    openapi,
};
use crate::{
    answers::filter::{EventQuery, Filter},
    control::{
        AllowRequest, BanRequest, BansReply, ChangeOptions, Code, DisallowRequest, Failure,
        FailureReply, HistoryReply, ListReply, RollbackRequest, SettleRequest, UnbanRequest,
        peer::{Peer, Right},
    },
    engine::{Change, Request, Terms},
    entry::Entry,
    guard::ObservedSource,
    lists::ListName,
    prefix,
    sources::{
        SourceState, SourceStatus,
        format::{self, Format, Limits},
    },
};

/// The longest look at passing traffic before a change.
const MAX_OBSERVE: u64 = 60;
/// Sources that are told apart while traffic is observed.
const MAX_OBSERVED: usize = 65_536;

/// Every path and its methods; the OpenAPI document has the same.
pub(super) const PATHS: [(&str, &[&str]); 14] = [
    ("/v1/status", &["get"]),
    ("/v1/allow", &["get", "post", "put", "delete"]),
    ("/v1/allow/confirm", &["post"]),
    ("/v1/allow/revert", &["post"]),
    ("/v1/allow/rollback", &["post"]),
    ("/v1/allow/history", &["get"]),
    ("/v1/allow/diff", &["get"]),
    ("/v1/allow/export", &["get"]),
    ("/v1/feeds/{name}/accept", &["post"]),
    ("/v1/bans", &["get", "post", "delete"]),
    ("/v1/bans/{source}", &["delete"]),
    ("/v1/events", &["get"]),
    ("/v1/top", &["get"]),
    ("/v1/openapi.json", &["get"]),
];

fn handlers(path: &str) -> MethodRouter<Service> {
    match path {
        "/v1/status" => get(status),
        "/v1/allow" => get(allowed)
            .post(allow_add)
            .put(allow_replace)
            .delete(allow_remove),
        "/v1/allow/confirm" => post(confirm),
        "/v1/allow/revert" => post(revert),
        "/v1/allow/rollback" => post(rollback),
        "/v1/allow/history" => get(history),
        "/v1/allow/diff" => get(diff),
        "/v1/allow/export" => get(export),
        "/v1/feeds/{name}/accept" => post(accept_feed),
        "/v1/bans" => get(bans).post(ban).delete(unban),
        "/v1/bans/{source}" => axum::routing::delete(unban_path),
        "/v1/events" => get(events),
        "/v1/top" => get(top),
        "/v1/openapi.json" => get(document),
        _ => MethodRouter::new(),
    }
}

pub(super) fn router(service: Service) -> Router {
    let mut router = Router::new();
    for (path, _) in PATHS {
        let handlers = handlers(path)
            .fallback(async || Failure::new(Code::NotAllowed, "no such method on this resource"));
        router = router.route(path, handlers);
    }
    router
        .fallback(async || Failure::not_found("no such resource"))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(service.clone(), intake))
        .with_state(service)
}

async fn document() -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        openapi::DOCUMENT,
    )
        .into_response()
}

async fn status(State(service): State<Service>, caller: Caller) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let status = service.ask(|reply| Request::Status { reply }).await?;
    Ok(tagged(StatusCode::OK, status.revision, &status))
}

async fn top(State(service): State<Service>, caller: Caller) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let top = service.ask(|reply| Request::Top { reply }).await?;
    Ok(json(StatusCode::OK, &top))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    list: Option<String>,
}

async fn allowed(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let list = self::query(query)?
        .list
        .map(|name| name.parse::<ListName>())
        .transpose()
        .map_err(|error| Failure::invalid(error.to_string()))?;
    let (revision, entries) = service
        .ask(|reply| Request::Entries { list, reply })
        .await?;
    Ok(tagged(
        StatusCode::OK,
        revision,
        &ListReply { revision, entries },
    ))
}

/// All that `replace` and `ban` need to make another agent the same.
async fn export(State(service): State<Service>, caller: Caller) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let (revision, entries) = service
        .ask(|reply| Request::Entries { list: None, reply })
        .await?;
    let bans = service.ask(|reply| Request::Bans { reply }).await?;
    let all = serde_json::json!({ "revision": revision, "entries": entries, "bans": bans });
    Ok(tagged(StatusCode::OK, revision, &all))
}

async fn allow_add(
    State(service): State<Service>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let AllowRequest { entries, options } = body.read()?;
    let entries = self::entries(entries, options.force)?;
    change(&service, Change::Add(entries), options, &headers, by).await
}

/// How a list file is sent: the body is the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileQuery {
    format: Option<FileFormat>,
    /// For messages.
    name: Option<String>,
    /// An empty file is meant.
    #[serde(default)]
    empty: bool,
    reason: Option<String>,
    ticket: Option<String>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    dry_run: bool,
    confirm_within_seconds: Option<u64>,
    observe_seconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileFormat {
    /// By the name's ending or the content.
    Auto,
    Text,
    Csv,
    Json,
}

async fn allow_replace(
    State(service): State<Service>,
    caller: Caller,
    headers: HeaderMap,
    query: Result<Query<FileQuery>, QueryRejection>,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let query = self::query(query)?;
    let (entries, options) = match query.format {
        None => {
            let AllowRequest { entries, options } = body.read()?;
            (self::entries(entries, options.force)?, options)
        }
        Some(format) => {
            let name = query.name.unwrap_or_else(|| "list".to_owned());
            let limits = Limits {
                allow_default_route: query.force,
                allow_empty: true,
                ..Limits::default()
            };
            let options = ChangeOptions {
                reason: query.reason,
                ticket: query.ticket,
                force: query.force,
                dry_run: query.dry_run,
                confirm_within_seconds: query.confirm_within_seconds,
                observe_seconds: query.observe_seconds,
            };
            // A million lines take a while, and others wait for this thread.
            let parsed = tokio::task::spawn_blocking(move || {
                let format = match format {
                    FileFormat::Auto => Format::of(&name, &body.0),
                    FileFormat::Text => Format::Text,
                    FileFormat::Csv => Format::Csv,
                    FileFormat::Json => Format::Json,
                };
                format::parse_as(format, &name, &body.0, &limits)
            })
            .await
            .map_err(|_| Failure::stopping())?
            .map_err(|error| Failure::invalid(error.to_string()))?;
            if parsed.entries.is_empty() && !query.empty {
                return Err(Failure::invalid(
                    "there is no entry in it; if only other lists and protected sources are to remain, say --empty (empty=true)",
                ));
            }
            (parsed.entries, options)
        }
    };
    change(&service, Change::Replace(entries), options, &headers, by).await
}

async fn allow_remove(
    State(service): State<Service>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let DisallowRequest { prefixes, options } = body.read()?;
    let prefixes = prefixes
        .iter()
        .map(|text| parse(text))
        .collect::<Result<_, _>>()?;
    change(&service, Change::Remove(prefixes), options, &headers, by).await
}

async fn rollback(
    State(service): State<Service>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let RollbackRequest { revision, options } = body.read()?;
    change(&service, Change::Rollback(revision), options, &headers, by).await
}

async fn change(
    service: &Service,
    change: Change,
    options: ChangeOptions,
    headers: &HeaderMap,
    by: Peer,
) -> Result<Response, Failure> {
    check_grounds(options.reason.as_deref(), options.ticket.as_deref())?;
    let observed = match options.observe_seconds {
        Some(seconds) => observe(service, seconds).await?,
        None => Vec::new(),
    };
    let terms = Terms {
        reason: options.reason,
        ticket: options.ticket,
        force: options.force,
        dry_run: options.dry_run,
        confirm_within: options.confirm_within_seconds.map(Duration::from_secs),
        if_revision: if_match(headers)?,
        observed,
    };
    let done = service
        .ask(|reply| Request::Change {
            change,
            terms,
            by,
            reply,
        })
        .await?;
    Ok(tagged(StatusCode::OK, done.revision, &done))
}

async fn confirm(
    State(service): State<Service>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let terms = settle_terms(body.read_or_default()?)?;
    let done = service
        .ask(|reply| Request::Confirm { terms, by, reply })
        .await?;
    Ok(tagged(StatusCode::OK, done.revision, &done))
}

async fn revert(
    State(service): State<Service>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let terms = settle_terms(body.read_or_default()?)?;
    let done = service
        .ask(|reply| Request::Revert { terms, by, reply })
        .await?;
    Ok(tagged(StatusCode::OK, done.revision, &done))
}

fn settle_terms(request: SettleRequest) -> Result<Terms, Failure> {
    check_grounds(request.reason.as_deref(), request.ticket.as_deref())?;
    Ok(Terms {
        reason: request.reason,
        ticket: request.ticket,
        ..Terms::default()
    })
}

/// Lets a feed put in force what it holds back; the change itself is recorded when it is made.
async fn accept_feed(
    State(service): State<Service>,
    caller: Caller,
    name: Result<UrlPath<String>, PathRejection>,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let UrlPath(name) = name.map_err(|error| Failure::invalid(error.body_text()))?;
    let list = format!("feed:{name}");
    let status = service.ask(|reply| Request::Status { reply }).await?;
    let is_held = |source: &SourceStatus| source.name == list && source.state == SourceState::Held;
    if !status.sources.iter().any(is_held) {
        return Err(Failure::not_found(format!("no feed {name} is held back")));
    }
    service.acceptance.accept(&name);
    tracing::info!(feed = name, by = by.name, "the feed's change is accepted");
    Ok(json(
        StatusCode::ACCEPTED,
        &serde_json::json!({ "accepted": list }),
    ))
}

async fn history(State(service): State<Service>, caller: Caller) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let revisions = service.ask(|reply| Request::History { reply }).await?;
    Ok(json(StatusCode::OK, &HistoryReply { revisions }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffQuery {
    from: u64,
    to: u64,
}

async fn diff(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<DiffQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let DiffQuery { from, to } = self::query(query)?;
    let diff = service
        .ask(|reply| Request::Diff { from, to, reply })
        .await?;
    Ok(json(StatusCode::OK, &diff))
}

async fn bans(State(service): State<Service>, caller: Caller) -> Result<Response, Failure> {
    caller.must(Right::ReadBans)?;
    let bans = service.ask(|reply| Request::Bans { reply }).await?;
    Ok(json(StatusCode::OK, &BansReply { bans }))
}

async fn ban(
    State(service): State<Service>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Ban)?;
    let BanRequest {
        source,
        lifetime_seconds,
        reason,
        ticket,
        force,
    } = body.read()?;
    check_grounds(None, ticket.as_deref())?;
    if force && !by.roles.allow(Right::Administer) {
        return Err(Failure::forbidden("only an administrator may force a ban"));
    }
    let source = parse(&source)?;
    // The ceiling is far below; this only keeps the sum with the present representable.
    let lifetime = Duration::from_secs(lifetime_seconds.min(u64::from(u32::MAX)));
    let terms = Terms {
        ticket,
        force,
        ..Terms::default()
    };
    let ban = service
        .ask(|reply| Request::Ban {
            source,
            lifetime,
            reason,
            terms,
            by,
            reply,
        })
        .await?;
    Ok(json(StatusCode::CREATED, &ban))
}

async fn unban(
    State(service): State<Service>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let UnbanRequest {
        source,
        reason,
        ticket,
    } = body.read()?;
    let terms = settle_terms(SettleRequest { reason, ticket })?;
    lift(&service, &source, terms, by).await
}

async fn unban_path(
    State(service): State<Service>,
    caller: Caller,
    source: Result<UrlPath<String>, PathRejection>,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let UrlPath(source) = source.map_err(|error| Failure::invalid(error.body_text()))?;
    lift(&service, &source, Terms::default(), by).await
}

async fn lift(
    service: &Service,
    source: &str,
    terms: Terms,
    by: Peer,
) -> Result<Response, Failure> {
    let source = parse(source)?;
    let ban = service
        .ask(|reply| Request::Unban {
            source,
            terms,
            by,
            reply,
        })
        .await?;
    Ok(json(StatusCode::OK, &ban))
}

async fn events(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let query = self::query(query)?;
    let filter = Filter::new(&query).map_err(|error| Failure::invalid(error.to_string()))?;
    let lines = service.reports.lines(filter, query.head, service.stop);
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

/// Counts the sources of passing packets for a while.
async fn observe(service: &Service, seconds: u64) -> Result<Vec<ObservedSource>, Failure> {
    if !(1..=MAX_OBSERVE).contains(&seconds) {
        return Err(Failure::invalid(format!(
            "traffic can be observed for 1 to {MAX_OBSERVE} seconds"
        )));
    }
    let window = Duration::from_secs(seconds);
    let mut observation = service
        .ask(|reply| Request::Observe { window, reply })
        .await?;
    let mut seen: BTreeMap<std::net::IpAddr, u64> = BTreeMap::new();
    let end = tokio::time::sleep(window);
    let mut end = std::pin::pin!(end);
    loop {
        let passed = tokio::select! {
            passed = observation.passes.recv() => passed,
            () = end.as_mut() => break,
        };
        match passed {
            Ok(source) if seen.len() < MAX_OBSERVED || seen.contains_key(&source) => {
                *seen.entry(source).or_default() += 1;
            }
            // It is a sample already.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => break,
        }
    }
    Ok(seen
        .into_iter()
        .map(|(address, packets)| ObservedSource { address, packets })
        .collect())
}

fn entries(entries: Vec<crate::control::AllowEntry>, force: bool) -> Result<Vec<Entry>, Failure> {
    let now = Utc::now();
    entries
        .into_iter()
        .map(|entry| {
            let entry = entry.entry(now)?;
            if entry.prefix.prefix_len() == 0 && !entry.deny && !force {
                return Err(Failure::invalid(format!(
                    "{} lets everybody in; repeat with --force if that is meant",
                    entry.prefix
                )));
            }
            Ok(entry)
        })
        .collect()
}

fn check_grounds(reason: Option<&str>, ticket: Option<&str>) -> Result<(), Failure> {
    for (name, text) in [("reason", reason), ("ticket", ticket)] {
        let is_bad = |text: &str| {
            text.chars().count() > crate::entry::MAX_TEXT || text.chars().any(char::is_control)
        };
        if text.is_some_and(is_bad) {
            return Err(Failure::invalid(format!(
                "a {name} has at most {} characters and no control characters",
                crate::entry::MAX_TEXT
            )));
        }
    }
    Ok(())
}

/// The revision that `If-Match` asks for.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    text.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .and_then(|number| number.parse().ok())
        .map(Some)
        .ok_or_else(|| {
            Failure::invalid("If-Match takes one ETag as an answer had it, such as \"12\"")
        })
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    query
        .map(|Query(query)| query)
        .map_err(|error| Failure::invalid(error.body_text()))
}

fn parse(text: &str) -> Result<IpNet, Failure> {
    prefix::parse(text).map_err(|error| Failure::invalid(error.to_string()))
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    (status, Json(value)).into_response()
}

fn tagged<T: Serialize>(status: StatusCode, revision: u64, value: &T) -> Response {
    let mut response = json(status, value);
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.code {
            Code::Invalid => StatusCode::BAD_REQUEST,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::NotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::Slow => StatusCode::REQUEST_TIMEOUT,
            Code::Protected | Code::Guard | Code::Conflict => StatusCode::CONFLICT,
            Code::Precondition => StatusCode::PRECONDITION_FAILED,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::Limit | Code::Reused => StatusCode::UNPROCESSABLE_ENTITY,
            Code::Busy => StatusCode::TOO_MANY_REQUESTS,
            Code::Kernel | Code::State => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Journal | Code::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(FailureReply { error: self })).into_response()
    }
}
