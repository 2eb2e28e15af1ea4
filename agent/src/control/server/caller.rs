//! The caller of a request, and its body.

use std::convert::Infallible;

use axum::{
    body::Bytes,
    extract::{FromRequestParts, Request},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use crate::control::{
    Failure,
    peer::{Peer, Right},
};

/// Who asks, if the kernel or a certificate says so.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Option<Peer>);

impl Caller {
    /// The caller, if it has the right.
    pub(super) fn must(self, right: Right) -> Result<Peer, Failure> {
        match self.0 {
            Some(peer) if peer.roles.allow(right) => Ok(peer),
            Some(peer) => Err(Failure::forbidden(format!(
                "{} may not do this: it takes {}",
                peer.name,
                right.granted_by()
            ))),
            None => Err(Failure::forbidden("nobody says who you are")),
        }
    }

    pub(super) fn may(&self, right: Right) -> bool {
        self.0.as_ref().is_some_and(|peer| peer.roles.allow(right))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or(Self(None)))
    }
}

/// A JSON body, whatever its content type says.
pub(super) struct JsonBody(pub(super) Bytes);

impl JsonBody {
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.0)
            .map_err(|error| Failure::invalid(format!("the body is not what is expected: {error}")))
    }

    /// As [`JsonBody::read`]; an empty body is the default.
    pub(super) fn read_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Failure> {
        if self.0.iter().all(u8::is_ascii_whitespace) {
            Ok(T::default())
        } else {
            self.read()
        }
    }
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for JsonBody {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        Bytes::from_request(request, state)
            .await
            .map(Self)
            .map_err(|error| Failure::invalid(error.body_text()))
    }
}
