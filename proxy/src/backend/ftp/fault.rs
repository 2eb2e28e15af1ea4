//! What goes wrong with an FTP server, and the one place that says what kind of failure it is.

use std::time::Duration;

use suppaftp::FtpError;

use crate::backend::{BackendError, ErrorKind, Origin};

/// A failed exchange with the server.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Fault {
    #[error("{command} was answered {code} {text}")]
    Refused {
        command: &'static str,
        code: u16,
        text: String,
    },
    #[error("no answer to {command} within {} s", timeout.as_secs_f32())]
    TimedOut {
        command: &'static str,
        timeout: Duration,
    },
    #[error("the connection broke off during {command}: {cause}")]
    Lost {
        command: &'static str,
        cause: String,
    },
    #[error("the answer to {command} is not FTP: {answer}")]
    Garbled {
        command: &'static str,
        answer: String,
    },
    #[error("no connection: {cause}")]
    Unreachable { cause: String },
    #[error(
        "TLS failed: {cause}; check that the backend's tls is as the server wants it (explicit: AUTH TLS, implicit: from the \
         first byte) and that its trust anchor or pinned certificate is the server's"
    )]
    Tls { cause: String },
    #[error("the login was refused with {code} {text}; check the backend's user and password_file")]
    LoginRefused { code: u16, text: String },
    /// Already judged, where more was known than the reply.
    #[error("{message}")]
    Judged {
        kind: ErrorKind,
        origin: Origin,
        message: String,
    },
}

impl Fault {
    pub(super) fn judged(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Judged {
            kind,
            origin: Origin::of(kind),
            message: message.into(),
        }
    }

    /// Reads the library's error.
    pub(super) fn of(command: &'static str, error: FtpError) -> Self {
        match error {
            FtpError::UnexpectedResponse(response) => match parse_reply(&response.body) {
                Some((code, text)) => Self::Refused {
                    command,
                    code,
                    text,
                },
                None => Self::Garbled {
                    command,
                    answer: printable(&response.body),
                },
            },
            FtpError::ConnectionError(error) => Self::Lost {
                command,
                cause: error.to_string(),
            },
            FtpError::SecureError(cause) => Self::Tls { cause },
            FtpError::BadResponse | FtpError::InvalidAddress(_) => Self::Garbled {
                command,
                answer: error.to_string(),
            },
            FtpError::DataConnectionAlreadyOpen => Self::Lost {
                command,
                cause: "a transfer is still open on this connection".to_owned(),
            },
        }
    }

    /// The same fault, seen while TLS was being set up: whatever came instead of it, there is no TLS.
    pub(super) fn before_tls(self) -> Self {
        if matches!(self, Self::Refused { .. } | Self::Lost { .. }) {
            return Self::Tls {
                cause: self.to_string(),
            };
        }
        self
    }

    /// The same fault, seen while logging in.
    pub(super) fn before_login(self) -> Self {
        if let Self::Refused { code, text, .. } = self {
            return Self::LoginRefused { code, text };
        }
        self
    }

    /// True if the server took the command and said no: the connection is still in step.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code != SERVICE_CLOSING)
    }

    /// True if it was the connection that failed, not what was asked.
    pub(super) fn is_interruption(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Lost { .. } | Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => matches!(code, 421 | 425 | 426),
            Self::Judged { kind, .. } => *kind == ErrorKind::TimedOut,
            Self::Garbled { .. } | Self::Tls { .. } | Self::LoginRefused { .. } => false,
        }
    }

    /// True if the server does not know the command.
    pub(super) fn is_unknown_command(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: 500 | 502 | 504 | 202,
                ..
            }
        )
    }

    /// The kind, or `None` if a reply says no more than that the path was not acceptable: look at what stands there.
    pub(super) fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Judged { kind, .. } => Some(*kind),
            Self::Refused { code, text, .. } => kind_of_reply(*code, text),
            Self::TimedOut { .. } => Some(ErrorKind::TimedOut),
            Self::Lost { .. }
            | Self::Garbled { .. }
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::LoginRefused { .. } => Some(ErrorKind::Unavailable),
        }
    }

    /// The error for the trait, with the server named in its message.
    pub(super) fn at(self, server: &str) -> BackendError {
        let origin = match &self {
            Self::Judged { origin, .. } => *origin,
            Self::LoginRefused { .. } | Self::Tls { .. } => Origin::Gateway,
            Self::Refused { .. }
            | Self::TimedOut { .. }
            | Self::Lost { .. }
            | Self::Garbled { .. }
            | Self::Unreachable { .. } => Origin::Backend,
        };
        let kind = self.kind().unwrap_or(ErrorKind::PermissionDenied);
        BackendError::new(kind, origin, format!("FTP server {server}: {self}"))
    }
}

/// 421: sent in reply to anything, and the server closes the connection (RFC 959 section 5.4).
const SERVICE_CLOSING: u16 = 421;

/// RFC 959 section 4.2, RFC 4217 section 10, and what servers do with them.
fn kind_of_reply(code: u16, text: &str) -> Option<ErrorKind> {
    match code {
        // The server goes, is full, wants another login, or no data connection came about.
        421 | 425 | 426 | 430 | 431 | 434 | 331 | 332 | 530 | 532 | 533 | 534 | 535 | 536 | 521
        | 522 => Some(ErrorKind::Unavailable),
        452 | 552 => Some(ErrorKind::NoSpace),
        202 | 500 | 502 | 503 | 504 => Some(ErrorKind::Unsupported),
        501 => Some(ErrorKind::InvalidArgument),
        // 450 and 451 say "busy" and "local error"; 550 says "unavailable" and 553 "name not allowed", and stand for anything.
        450 | 451 => Some(kind_of_text(text).unwrap_or(ErrorKind::Failure)),
        550 | 551 | 553 => kind_of_text(text),
        _ => Some(ErrorKind::Failure),
    }
}

/// The system's error text, which most servers append: strerror(3), Windows' and common wordings.
fn kind_of_text(text: &str) -> Option<ErrorKind> {
    let text = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["not empty"]) {
        Some(ErrorKind::NotEmpty)
    } else if says(&[
        "no space",
        "quota",
        "disk full",
        "not enough space",
        // All that vsftpd says of a write that failed.
        "failure writing to local file",
    ]) {
        Some(ErrorKind::NoSpace)
    } else if says(&[
        "no such",
        "not found",
        "does not exist",
        "doesn't exist",
        "cannot find",
        "can't find",
    ]) {
        Some(ErrorKind::NotFound)
    } else if says(&["exists"]) {
        Some(ErrorKind::AlreadyExists)
    } else if says(&["not a directory"]) {
        Some(ErrorKind::NotADirectory)
    } else if says(&["is a directory", "not a plain file", "not a regular file"]) {
        Some(ErrorKind::IsADirectory)
    } else if says(&[
        "denied",
        "not permitted",
        "not allowed",
        "forbidden",
        "read-only",
    ]) {
        // vsftpd says "Permission denied." also for what its own configuration forbids: the same to a client.
        Some(ErrorKind::PermissionDenied)
    } else {
        None
    }
}

/// Code and text of a reply, the first line's if there are more.
fn parse_reply(body: &[u8]) -> Option<(u16, String)> {
    let digits = body.get(..3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((code, printable(body.get(4..).unwrap_or_default())))
}

/// Peer's text for a message: one line, no control characters, at most 200 characters.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim()
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
    use suppaftp::{Status, types::Response};

    use super::*;

    fn kind(reply: &str) -> Option<ErrorKind> {
        let response = Response::new(Status::Unknown, reply.as_bytes().to_vec());
        Fault::of("STOR", FtpError::UnexpectedResponse(response)).kind()
    }

    #[test]
    fn a_reply_is_judged_by_its_code_and_a_550_by_its_text() {
        for (reply, expected) in [
            (
                "550 No such file or directory\r\n",
                Some(ErrorKind::NotFound),
            ),
            (
                "550 a.txt: The system cannot find the file specified.",
                Some(ErrorKind::NotFound),
            ),
            ("550 Permission denied.", Some(ErrorKind::PermissionDenied)),
            ("550 Access is denied.", Some(ErrorKind::PermissionDenied)),
            ("550 a: File exists", Some(ErrorKind::AlreadyExists)),
            ("550 a: Directory not empty", Some(ErrorKind::NotEmpty)),
            ("550 a: Not a directory", Some(ErrorKind::NotADirectory)),
            ("550 a: not a plain file.", Some(ErrorKind::IsADirectory)),
            ("550 Delete operation failed.", None),
            ("553 Could not create file.", None),
            ("552 Exceeded storage allocation", Some(ErrorKind::NoSpace)),
            ("452 Insufficient storage", Some(ErrorKind::NoSpace)),
            ("451 No space left on device", Some(ErrorKind::NoSpace)),
            (
                "451 Failure writing to local file.",
                Some(ErrorKind::NoSpace),
            ),
            ("421 Timeout.", Some(ErrorKind::Unavailable)),
            (
                "522 SSL connection failed; session reuse required",
                Some(ErrorKind::Unavailable),
            ),
            (
                "530 Please login with USER and PASS.",
                Some(ErrorKind::Unavailable),
            ),
            ("502 Command not implemented", Some(ErrorKind::Unsupported)),
            ("599 never heard of", Some(ErrorKind::Failure)),
        ] {
            assert_eq!(kind(reply), expected, "{reply}");
        }
    }

    #[test]
    fn a_message_names_the_server_and_shows_no_control_characters() {
        let fault = Fault::of(
            "STOR",
            FtpError::UnexpectedResponse(Response::new(
                Status::Unknown,
                b"553 \x1b[31mred\x07\r\n".to_vec(),
            )),
        );
        let error = fault.at("192.0.2.1:21");
        assert_eq!(
            error.message,
            "FTP server 192.0.2.1:21: STOR was answered 553  [31mred "
        );
        assert_eq!(error.kind, ErrorKind::PermissionDenied);
        assert!(matches!(
            Fault::of("STOR", FtpError::BadResponse).at("x").kind,
            ErrorKind::Unavailable
        ));
    }
}
