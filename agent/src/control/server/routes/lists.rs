//! The lists: entries, changes, revisions.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    extract::{
        Path as UrlPath, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use chrono::Utc;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::{check_grounds, json, parse, settle_terms, tagged};
use crate::{
    control::{
        AllowEntry, AllowRequest, ChangeOptions, DisallowRequest, Failure, HistoryReply, ListReply,
        RollbackRequest,
        peer::{Peer, Right},
        server::{
            Service,
            caller::{Caller, JsonBody},
        },
    },
    engine::{Change, Request, Terms},
    entry::Entry,
    guard::ObservedSource,
    lists::{List, ListName},
    sources::{
        SourceState, SourceStatus,
        format::{self, Format, Limits, ListError},
    },
};

/// The longest look at passing traffic before a change.
const MAX_OBSERVE: u64 = 60;
/// Sources that are told apart while traffic is observed.
const MAX_OBSERVED: usize = 65_536;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    list: Option<String>,
}

pub(super) async fn allowed(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let list = super::query(query)?
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
pub(super) async fn export(
    State(service): State<Service>,
    caller: Caller,
) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let (revision, entries) = service
        .ask(|reply| Request::Entries { list: None, reply })
        .await?;
    let bans = service.ask(|reply| Request::Bans { reply }).await?;
    let all = serde_json::json!({ "revision": revision, "entries": entries, "bans": bans });
    Ok(tagged(StatusCode::OK, revision, &all))
}

pub(super) async fn allow_add(
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
pub(super) struct FileQuery {
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
pub(super) enum FileFormat {
    /// By the name's ending or the content.
    Auto,
    Text,
    Csv,
    Json,
}

pub(super) async fn allow_replace(
    State(service): State<Service>,
    caller: Caller,
    headers: HeaderMap,
    query: Result<Query<FileQuery>, QueryRejection>,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Administer)?;
    let query = super::query(query)?;
    let (list, options): (List, _) = match query.format {
        None => {
            let AllowRequest { entries, options } = body.read()?;
            let entries = self::entries(entries, options.force)?;
            (entries.into_iter().collect(), options)
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
                let parsed = format::parse_as(format, &name, &body.0, &limits)?;
                Ok::<List, ListError>(parsed.entries.into_iter().collect())
            })
            .await
            .map_err(|_| Failure::stopping())?
            .map_err(|error| Failure::invalid(error.to_string()))?;
            if parsed.is_empty() && !query.empty {
                return Err(Failure::invalid(
                    "there is no entry in it; if only other lists and protected sources are to remain, say --empty (empty=true)",
                ));
            }
            (parsed, options)
        }
    };
    change(&service, Change::Replace(list), options, &headers, by).await
}

pub(super) async fn allow_remove(
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

pub(super) async fn rollback(
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
    if change.may_cut() {
        service.refresh.done().await;
    }
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

pub(super) async fn confirm(
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

pub(super) async fn revert(
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

/// Lets a feed put in force what it holds back; the change itself is recorded when it is made.
pub(super) async fn accept_feed(
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

pub(super) async fn history(
    State(service): State<Service>,
    caller: Caller,
) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let revisions = service.ask(|reply| Request::History { reply }).await?;
    Ok(json(StatusCode::OK, &HistoryReply { revisions }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiffQuery {
    from: u64,
    to: u64,
}

pub(super) async fn diff(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<DiffQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let DiffQuery { from, to } = super::query(query)?;
    let diff = service
        .ask(|reply| Request::Diff { from, to, reply })
        .await?;
    Ok(json(StatusCode::OK, &diff))
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

pub(super) fn entries(entries: Vec<AllowEntry>, force: bool) -> Result<Vec<Entry>, Failure> {
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
