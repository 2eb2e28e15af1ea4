//! The bans.

use std::time::Duration;

use axum::{
    extract::{Path as UrlPath, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};

use super::{check_grounds, json, parse, settle_terms};
use crate::{
    control::{
        BanRequest, BansReply, Failure, SettleRequest, UnbanRequest,
        peer::{Peer, Right},
        server::{
            Service,
            caller::{Caller, JsonBody},
        },
    },
    engine::{Request, Terms},
};

pub(super) async fn bans(
    State(service): State<Service>,
    caller: Caller,
) -> Result<Response, Failure> {
    caller.must(Right::ReadBans)?;
    let bans = service.ask(|reply| Request::Bans { reply }).await?;
    Ok(json(StatusCode::OK, &BansReply { bans }))
}

pub(super) async fn ban(
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
    service.refresh.done_about(source).await;
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

pub(super) async fn unban(
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

pub(super) async fn unban_path(
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
