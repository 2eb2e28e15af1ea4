//! What every request passes before its handler: the peer's rate, the size and time of its body, and its idempotency key.

use std::time::{Duration, Instant};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use sha2::{Digest as _, Sha256};

use super::{
    Service,
    caller::Caller,
    idempotency::{Answer, MAX_KEY, Slot},
    limiter::Key,
};
use crate::control::{Code, Failure, peer::Right};

/// Bytes of an administrator's request: a list of some million prefixes.
const MAX_BODY: usize = 128 * 1024 * 1024;
/// Bytes of a list that another daemon offers.
const MAX_OFFER: usize = 16 * 1024 * 1024;
/// Bytes of anybody else's: a ban.
const MAX_SMALL_BODY: usize = 64 * 1024;
/// For a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer that is remembered for its idempotency key.
const MAX_ANSWER: usize = 64 * 1024;

pub(super) async fn intake(
    State(service): State<Service>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let key = Key::of(caller.0.as_ref());
    if let Err(wait) = service.limiter.take(key.clone(), Instant::now()) {
        return too_many(wait);
    }
    match admitted(&service, &caller, key, request, next).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    }
}

async fn admitted(
    service: &Service,
    caller: &Caller,
    key: Key,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let limit = if caller.may(Right::Administer) {
        MAX_BODY
    } else if caller.may(Right::Offer) {
        MAX_OFFER
    } else {
        MAX_SMALL_BODY
    };
    let body = read(body, parts.headers.get(header::CONTENT_LENGTH), limit).await?;
    let slot = match parts.headers.get("idempotency-key") {
        Some(value) if parts.method != Method::GET => {
            let text = value
                .to_str()
                .ok()
                .filter(|text| !text.is_empty() && text.len() <= MAX_KEY);
            let text = text.ok_or_else(|| {
                Failure::invalid(format!(
                    "an Idempotency-Key has 1 to {MAX_KEY} printable characters"
                ))
            })?;
            Some((key, text.to_owned()))
        }
        Some(_) | None => None,
    };
    let Some(slot) = slot else {
        return Ok(next.run(Request::from_parts(parts, Body::from(body))).await);
    };
    let mut digest = Sha256::new();
    digest.update(parts.method.as_str());
    digest.update([0]);
    digest.update(parts.uri.to_string());
    digest.update([0]);
    digest.update(&body);
    if let Some(answer) = service.answers.begin(&slot, digest.finalize().into())? {
        return Ok(answer.into_response());
    }
    let begun = Begun {
        service: service.clone(),
        slot: Some(slot),
    };
    // On a task of its own: the answer is remembered even if the caller goes away before it comes.
    tokio::spawn(async move {
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        begun.end(response).await
    })
    .await
    .map_err(|_| Failure::stopping())?
}

/// A use of a key whose answer is still to come: if none comes, the key is free again.
struct Begun {
    service: Service,
    slot: Option<Slot>,
}

impl Begun {
    async fn end(mut self, response: Response) -> Result<Response, Failure> {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX)
            .await
            .map_err(|error| Failure::invalid(error.to_string()))?;
        // A failure of this side may be another one next time.
        let is_lasting = !parts.status.is_server_error() && body.len() <= MAX_ANSWER;
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        };
        if let Some(slot) = self.slot.take() {
            let lasting = is_lasting.then(|| answer.clone());
            self.service.answers.end(&slot, lasting);
        }
        Ok(answer.into_response())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.service.answers.end(&slot, None);
        }
    }
}

async fn read(body: Body, announced: Option<&HeaderValue>, limit: usize) -> Result<Bytes, Failure> {
    let too_large = || {
        Failure::new(
            Code::TooLarge,
            format!("the body is longer than the {limit} bytes that you may send"),
        )
    };
    let announced = announced
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let source = std::error::Error::source(&error);
            if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
                Err(too_large())
            } else {
                Err(Failure::invalid(format!("the body can't be read: {error}")))
            }
        }
        Err(_) => Err(Failure::new(
            Code::Slow,
            format!(
                "the body did not come within {} seconds",
                BODY_TIMEOUT.as_secs()
            ),
        )),
    }
}

fn too_many(wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let failure = Failure::new(
        Code::Busy,
        format!("too many requests; try again in {seconds} s"),
    );
    let mut response = failure.into_response();
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}
