//! What goes wrong with an object store, and the one place that says what kind of failure it is.

use std::{error::Error as StdError, time::Duration};

use object_store::client::{HttpError, HttpErrorKind};

use crate::{
    backend::{BackendError, ErrorKind, Origin},
    causes::chain,
};

/// A failed request.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Fault {
    /// `code` is the service's own word for it, empty where the answer had none (HEAD).
    #[error("{request} was answered {status} {code}{}{message}", if message.is_empty() { "" } else { ": " })]
    Refused {
        request: &'static str,
        status: u16,
        code: String,
        message: String,
    },
    #[error("no byte moved for {} s during {request}{}", timeout.as_secs_f32(), end_of(request))]
    TimedOut {
        request: &'static str,
        timeout: Duration,
    },
    #[error(
        "the connection broke off during {request}: {cause}{}",
        end_of(request)
    )]
    Lost {
        request: &'static str,
        cause: String,
    },
    #[error("no connection for {request}: {cause}")]
    Unreachable {
        request: &'static str,
        cause: String,
    },
    #[error("the answer to {request} is not that of an object store: {cause}")]
    Garbled {
        request: &'static str,
        cause: String,
    },
    /// Already judged, where more was known than the answer.
    #[error("{message}")]
    Judged {
        kind: ErrorKind,
        origin: Origin,
        message: String,
    },
}

/// Requests that change something may have done so before the answer was lost.
fn end_of(request: &str) -> &'static str {
    if matches!(request, "GET" | "HEAD" | "LIST") {
        ""
    } else {
        "; whether it was done is not known"
    }
}

impl Fault {
    pub(super) fn judged(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Judged {
            kind,
            origin: Origin::of(kind),
            message: message.into(),
        }
    }

    /// Reads an answer that is no success.
    pub(super) fn refused(request: &'static str, status: u16, body: &str) -> Self {
        Self::Refused {
            request,
            status,
            code: element(body, "Code"),
            message: element(body, "Message"),
        }
    }

    /// Reads the library's error. It hands on the answer's status and body only as text.
    pub(super) fn of(
        request: &'static str,
        timeout: Duration,
        error: &object_store::Error,
    ) -> Self {
        if let Some(http) = http_error(error) {
            return Self::of_transport(request, timeout, http);
        }
        let text = chain(error);
        match status_in(&text) {
            Some(status) => Self::refused(request, status, &text),
            None => Self::Garbled {
                request,
                cause: printable(&text),
            },
        }
    }

    pub(super) fn of_transport(
        request: &'static str,
        timeout: Duration,
        error: &HttpError,
    ) -> Self {
        let cause = printable(&chain(error));
        match error.kind() {
            HttpErrorKind::Timeout => Self::TimedOut { request, timeout },
            HttpErrorKind::Connect => Self::Unreachable { request, cause },
            HttpErrorKind::Decode => Self::Garbled { request, cause },
            // The enumeration may grow; what is not known to be harmless counts as a lost connection.
            HttpErrorKind::Request | HttpErrorKind::Interrupted | HttpErrorKind::Unknown | _ => {
                Self::Lost { request, cause }
            }
        }
    }

    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, code, .. } if !is_misconfiguration(code))
    }

    /// True if the server kept a condition such as "only if nothing stands there".
    pub(super) fn is_failed_precondition(&self) -> bool {
        match self {
            Self::Refused {
                status: 412, code, ..
            } => !is_lease(code),
            Self::Refused {
                status: 409, code, ..
            } => code == "BlobAlreadyExists",
            Self::Refused { .. }
            | Self::TimedOut { .. }
            | Self::Lost { .. }
            | Self::Unreachable { .. }
            | Self::Garbled { .. }
            | Self::Judged { .. } => false,
        }
    }

    /// True if the server can't do what a condition asks for, and so did nothing.
    pub(super) fn is_unknown_condition(&self) -> bool {
        matches!(self, Self::Refused { status: 501, .. })
    }

    /// True if the object ends before the range begins.
    pub(super) fn is_empty_range(&self) -> bool {
        matches!(self, Self::Refused { status: 416, .. })
    }

    /// True if the request may succeed a moment later and did nothing, so that it can be repeated whatever it does.
    pub(super) fn did_nothing(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 429 | 503),
            Self::Unreachable { .. } => true,
            Self::Lost { .. }
            | Self::TimedOut { .. }
            | Self::Garbled { .. }
            | Self::Judged { .. } => false,
        }
    }

    /// True if the request may have been done all the same.
    pub(super) fn leaves_open(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 408 | 500 | 502 | 504),
            Self::Lost { .. } | Self::TimedOut { .. } | Self::Garbled { .. } => true,
            Self::Unreachable { .. } | Self::Judged { .. } => false,
        }
    }

    /// True if the same request may succeed a moment later, and does no harm if it is done twice.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            Self::Lost { .. } | Self::Unreachable { .. } => true,
            // The time is up.
            Self::TimedOut { .. } | Self::Garbled { .. } | Self::Judged { .. } => false,
        }
    }

    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Judged { kind, .. } => *kind,
            Self::Refused { status, code, .. } => kind_of_answer(*status, code),
            Self::TimedOut { .. } => ErrorKind::TimedOut,
            Self::Lost { .. } | Self::Unreachable { .. } | Self::Garbled { .. } => {
                ErrorKind::Unavailable
            }
        }
    }

    /// The error for the trait, with the bucket named in its message.
    pub(super) fn at(self, bucket: &str) -> BackendError {
        let origin = match &self {
            Self::Judged { origin, .. } => *origin,
            Self::Refused { code, .. } if is_misconfiguration(code) => Origin::Gateway,
            Self::Refused { .. }
            | Self::TimedOut { .. }
            | Self::Lost { .. }
            | Self::Unreachable { .. }
            | Self::Garbled { .. } => Origin::Backend,
        };
        let advice = match &self {
            Self::Refused { code, .. } if is_missing_bucket(code) => "; check the backend's bucket",
            Self::Refused { code, .. } if is_misconfiguration(code) => {
                "; check the backend's access key, its region or account, and the clock"
            }
            Self::Refused {
                status: 300..=399, ..
            } => "; check the backend's endpoint and region",
            Self::Refused { .. }
            | Self::TimedOut { .. }
            | Self::Lost { .. }
            | Self::Unreachable { .. }
            | Self::Garbled { .. }
            | Self::Judged { .. } => "",
        };
        BackendError::new(self.kind(), origin, format!("{bucket}: {self}{advice}"))
    }
}

fn is_missing_bucket(code: &str) -> bool {
    matches!(
        code,
        "NoSuchBucket" | "InvalidBucketName" | "ContainerNotFound" | "ContainerBeingDeleted"
    )
}

/// Answers that no client can cause (S3 API reference, "Error responses"; Azure, "Blob Storage error codes"; Cloud Storage,
/// "HTTP status and error codes for XML").
fn is_misconfiguration(code: &str) -> bool {
    is_missing_bucket(code)
        || matches!(
            code,
            "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "AuthorizationHeaderMalformed"
                | "RequestTimeTooSkewed"
                | "ExpiredToken"
                | "InvalidToken"
                | "AccountProblem"
                | "AuthenticationFailed"
                | "AuthorizationFailure"
                | "AuthenticationRequired"
                | "InvalidAuthenticationInfo"
                | "InvalidSecurity"
                | "AccountIsDisabled"
                | "KeyBasedAuthenticationNotPermitted"
        )
}

/// Azure: somebody holds the file for himself.
fn is_lease(code: &str) -> bool {
    code.starts_with("Lease")
}

fn kind_of_answer(status: u16, code: &str) -> ErrorKind {
    if is_misconfiguration(code) {
        return ErrorKind::Unavailable;
    }
    match (status, code) {
        (
            _,
            "QuotaExceeded"
            | "QuotaExceededException"
            | "InsufficientStorage"
            | "XMinioStorageFull",
        )
        | (507, _) => ErrorKind::NoSpace,
        (_, "NoSuchUpload") => ErrorKind::Failure,
        (_, "KeyTooLongError" | "InvalidObjectName" | "InvalidResourceName") => {
            ErrorKind::InvalidArgument
        }
        (_, "NotImplemented" | "MethodNotAllowed") => ErrorKind::Unsupported,
        (_, "BlobAlreadyExists") => ErrorKind::AlreadyExists,
        (_, "BlobImmutableDueToPolicy") => ErrorKind::PermissionDenied,
        (_, code) if is_lease(code) => ErrorKind::Failure,
        (404, _) => ErrorKind::NotFound,
        (403, _) => ErrorKind::PermissionDenied,
        (412, _) => ErrorKind::AlreadyExists,
        (401 | 408 | 429 | 300..=399 | 500..=599, _) => ErrorKind::Unavailable,
        (_, _) => ErrorKind::Failure,
    }
}

fn http_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a HttpError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return Some(http);
        }
        cause = error.source();
    }
    None
}

/// `... status code: 503 Service Unavailable: ...`
fn status_in(text: &str) -> Option<u16> {
    if text.contains("Received redirect without LOCATION") {
        return Some(301);
    }
    if let Some((_, rest)) = text.split_once("status code: ") {
        return rest.get(..3)?.parse().ok();
    }
    // An error in the body of a success: copies are answered before they are done.
    text.contains("Server returned error response")
        .then_some(500)
}

/// The content of the first `<name>` of an error document, fit for a log.
fn element(body: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    body.split_once(&open)
        .and_then(|(_, rest)| rest.split_once(&close))
        .map(|(content, _)| printable(content))
        .unwrap_or_default()
}

/// One line of at most 200 characters, none of which controls a terminal.
fn printable(text: &str) -> String {
    text.trim()
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests;
