//! What goes wrong with an object store, and the one place that says what kind of failure it is.

use std::{error::Error as StdError, time::Duration};

use object_store::client::{HttpError, HttpErrorKind};

use crate::backend::{BackendError, ErrorKind, Origin};

/// A failed request.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Fault {
    /// `code` is S3's own word for it, empty where the answer had none (HEAD).
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
    #[error("the answer to {request} is not S3: {cause}")]
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
        let origin = match kind {
            ErrorKind::InvalidHandle | ErrorKind::InvalidArgument | ErrorKind::Unsupported => {
                Origin::Client
            }
            ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::NotEmpty
            | ErrorKind::NoSpace
            | ErrorKind::Unavailable
            | ErrorKind::TimedOut
            | ErrorKind::Failure => Origin::Backend,
        };
        Self::Judged {
            kind,
            origin,
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
        matches!(self, Self::Refused { status: 404, code, .. } if code != "NoSuchBucket")
    }

    /// True if the server kept a condition such as "only if nothing stands there".
    pub(super) fn is_failed_precondition(&self) -> bool {
        matches!(self, Self::Refused { status: 412, .. })
    }

    /// True if the object ends before the range begins.
    pub(super) fn is_empty_range(&self) -> bool {
        matches!(self, Self::Refused { status: 416, .. })
    }

    /// True if the same request may succeed a moment later, and did nothing.
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
            Self::Refused { code, .. } if code == "NoSuchBucket" => "; check the backend's bucket",
            Self::Refused { code, .. } if is_misconfiguration(code) => {
                "; check the backend's access key, its region and the clock"
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

/// Answers that no client can cause (S3 API reference, "Error responses").
fn is_misconfiguration(code: &str) -> bool {
    matches!(
        code,
        "NoSuchBucket"
            | "InvalidBucketName"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "AuthorizationHeaderMalformed"
            | "RequestTimeTooSkewed"
            | "ExpiredToken"
            | "InvalidToken"
            | "AccountProblem"
    )
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
        (_, "KeyTooLongError" | "InvalidObjectName") => ErrorKind::InvalidArgument,
        (_, "NotImplemented" | "MethodNotAllowed") => ErrorKind::Unsupported,
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

/// The messages of an error and its causes; a message that repeats its cause is said once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
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
mod tests {
    use super::*;

    fn document(code: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>m\x1b[31m</Message></Error>"
        )
    }

    #[test]
    fn an_answer_is_judged_by_its_code_then_by_its_status() {
        for (status, code, kind, origin) in [
            (404, "NoSuchKey", ErrorKind::NotFound, Origin::Backend),
            (404, "", ErrorKind::NotFound, Origin::Backend),
            (404, "NoSuchBucket", ErrorKind::Unavailable, Origin::Gateway),
            (404, "NoSuchUpload", ErrorKind::Failure, Origin::Backend),
            (
                403,
                "AccessDenied",
                ErrorKind::PermissionDenied,
                Origin::Backend,
            ),
            (
                403,
                "InvalidAccessKeyId",
                ErrorKind::Unavailable,
                Origin::Gateway,
            ),
            (
                403,
                "SignatureDoesNotMatch",
                ErrorKind::Unavailable,
                Origin::Gateway,
            ),
            (403, "QuotaExceeded", ErrorKind::NoSpace, Origin::Backend),
            (
                412,
                "PreconditionFailed",
                ErrorKind::AlreadyExists,
                Origin::Backend,
            ),
            (409, "OperationAborted", ErrorKind::Failure, Origin::Backend),
            (
                400,
                "KeyTooLongError",
                ErrorKind::InvalidArgument,
                Origin::Backend,
            ),
            (400, "EntityTooLarge", ErrorKind::Failure, Origin::Backend),
            (
                501,
                "NotImplemented",
                ErrorKind::Unsupported,
                Origin::Backend,
            ),
            (503, "SlowDown", ErrorKind::Unavailable, Origin::Backend),
            (507, "", ErrorKind::NoSpace, Origin::Backend),
            (
                301,
                "PermanentRedirect",
                ErrorKind::Unavailable,
                Origin::Backend,
            ),
            (418, "Teapot", ErrorKind::Failure, Origin::Backend),
        ] {
            let error = Fault::refused("PUT", status, &document(code)).at("bucket b at e");
            assert_eq!(
                (error.kind, error.origin),
                (kind, origin),
                "{status} {code}"
            );
        }
    }

    #[test]
    fn a_message_names_the_bucket_and_shows_no_control_characters() {
        let error = Fault::refused("PUT", 503, &document("SlowDown")).at("bucket b at e");
        assert_eq!(
            error.message,
            "bucket b at e: PUT was answered 503 SlowDown: m [31m"
        );
        let error = Fault::refused("LIST", 404, &document("NoSuchBucket")).at("bucket b at e");
        assert!(
            error.message.ends_with("check the backend's bucket"),
            "{error}"
        );
    }

    #[test]
    fn only_requests_that_change_something_leave_open_whether_they_were_done() {
        let lost = |request| Fault::Lost {
            request,
            cause: "reset".to_owned(),
        };
        assert!(lost("COMPLETE").to_string().contains("is not known"));
        assert!(!lost("GET").to_string().contains("is not known"));
    }
}
