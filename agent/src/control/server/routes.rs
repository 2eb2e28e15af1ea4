//! The resources and what each does with a request.

mod bans;
mod lists;
mod offers;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use ipnet::IpNet;
use serde::Serialize;

use super::{Service, caller::Caller, intake::intake, openapi};
use crate::{
    answers::{
        filter::{EventQuery, Filter},
        question::{self, Question, WhyQuery},
    },
    control::{Code, Failure, FailureReply, SettleRequest, peer::Right},
    engine::{Request, Terms},
    prefix,
};

/// Every path and its methods; the OpenAPI document has the same.
pub(super) const PATHS: [(&str, &[&str]); 16] = [
    ("/v1/status", &["get"]),
    ("/v1/allow", &["get", "post", "put", "delete"]),
    ("/v1/allow/confirm", &["post"]),
    ("/v1/allow/revert", &["post"]),
    ("/v1/allow/rollback", &["post"]),
    ("/v1/allow/history", &["get"]),
    ("/v1/allow/diff", &["get"]),
    ("/v1/allow/export", &["get"]),
    ("/v1/feeds/{name}/accept", &["post"]),
    ("/v1/offers/{name}", &["put"]),
    ("/v1/bans", &["get", "post", "delete"]),
    ("/v1/bans/{source}", &["delete"]),
    ("/v1/events", &["get"]),
    ("/v1/top", &["get"]),
    ("/v1/why", &["get"]),
    ("/v1/openapi.json", &["get"]),
];

fn handlers(path: &str) -> MethodRouter<Service> {
    match path {
        "/v1/status" => get(status),
        "/v1/allow" => get(lists::allowed)
            .post(lists::allow_add)
            .put(lists::allow_replace)
            .delete(lists::allow_remove),
        "/v1/allow/confirm" => post(lists::confirm),
        "/v1/allow/revert" => post(lists::revert),
        "/v1/allow/rollback" => post(lists::rollback),
        "/v1/allow/history" => get(lists::history),
        "/v1/allow/diff" => get(lists::diff),
        "/v1/allow/export" => get(lists::export),
        "/v1/feeds/{name}/accept" => post(lists::accept_feed),
        "/v1/offers/{name}" => axum::routing::put(offers::offer),
        "/v1/bans" => get(bans::bans).post(bans::ban).delete(bans::unban),
        "/v1/bans/{source}" => axum::routing::delete(bans::unban_path),
        "/v1/events" => get(events),
        "/v1/top" => get(top),
        "/v1/why" => get(why),
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

async fn why(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<WhyQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    caller.must(Right::Read)?;
    let query = self::query(query)?;
    let question = Question::new(&query, question::own_address)
        .map_err(|error| Failure::invalid(error.to_string()))?;
    let reply = service
        .ask(|reply| Request::Why { question, reply })
        .await?;
    Ok(json(StatusCode::OK, &reply))
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

fn settle_terms(request: SettleRequest) -> Result<Terms, Failure> {
    check_grounds(request.reason.as_deref(), request.ticket.as_deref())?;
    Ok(Terms {
        reason: request.reason,
        ticket: request.ticket,
        ..Terms::default()
    })
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
