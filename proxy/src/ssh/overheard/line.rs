//! Lines of the library's log (russh 0.65.1, `server/mod.rs` and `server/encrypted.rs`) that mean something here.

use std::fmt;

/// As much of a line as is looked at, in bytes: a name of 128 bytes and a method, escaped.
const LONGEST: usize = 1024;

const MESSAGE: &str = "< msg type ";
const SERVICE: &str = "request: ";
const REQUEST: &str = "name: ";
const REJECTING: &str = "rejecting ";
const UNKNOWN: &str = "unknown message received: ";

/// Why the library refuses a request, by its words.
const REASONS: [(&str, &str); 6] = [
    // Which of the two it does not say.
    (
        "Certificate is expired or not yet valid",
        "certificate_dates",
    ),
    (
        "Certificate signature is invalid",
        "certificate_bad_signature",
    ),
    (
        "signature algorithm does not match the requested one",
        "signature_algorithm",
    ),
    ("signature wrong", "bad_signature"),
    ("public key error: ", "unreadable_key"),
    ("unknown public key algorithm: ", "unreadable_key"),
];

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A message with this number came in.
    Message(u8),
    /// A service was asked for.
    Service {
        /// It is the one that the library serves.
        is_ours: bool,
    },
    /// A request of authentication; the texts as the library writes them, escaped and cut.
    Request { user: String, method: String },
    /// Why the request does not count.
    Because(&'static str),
    /// The request is answered with failure.
    Rejecting,
    /// After the login, a message that is not known.
    Unknown(u8),
}

/// A line while it is written; it breaks off as soon as it can't be one of those above.
#[derive(Debug)]
pub(super) struct Line {
    text: String,
    only_unknown: bool,
}

impl Line {
    /// `only_unknown`: no other line is of interest.
    pub(super) fn new(only_unknown: bool) -> Self {
        Self {
            text: String::new(),
            only_unknown,
        }
    }

    pub(super) fn said(&self) -> Option<Said> {
        let text = self.text.as_str();
        if let Some(rest) = text.strip_prefix(UNKNOWN) {
            return rest.parse().ok().map(Said::Unknown);
        }
        if let Some(rest) = text.strip_prefix(MESSAGE) {
            let (number, _) = rest.split_once(',')?;
            return number.parse().ok().map(Said::Message);
        }
        if let Some(rest) = text.strip_prefix(SERVICE) {
            let is_ours = rest == "\"ssh-userauth\"";
            return Some(Said::Service { is_ours });
        }
        if let Some(rest) = text.strip_prefix(REQUEST) {
            return Some(request(rest));
        }
        if text.starts_with(REJECTING) {
            return Some(Said::Rejecting);
        }
        REASONS
            .iter()
            .find(|(words, _)| text.starts_with(words))
            .map(|&(_, reason)| Said::Because(reason))
    }

    /// Whether it is, or may become, a line of interest.
    fn may_matter(&self) -> bool {
        let fits = |words: &str| words.starts_with(&self.text) || self.text.starts_with(words);
        fits(UNKNOWN)
            || !self.only_unknown
                && ([MESSAGE, SERVICE, REQUEST, REJECTING].into_iter().any(fits)
                    || REASONS.iter().any(|(words, _)| fits(words)))
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let room = LONGEST.saturating_sub(self.text.len());
        let end = piece.floor_char_boundary(room);
        self.text.push_str(piece.get(..end).unwrap_or_default());
        if self.may_matter() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

/// `"alice" "ssh-connection" "publickey"`; a client's own quotes are escaped.
fn request(text: &str) -> Said {
    let mut parts = text.split("\" \"");
    let user = parts.next().unwrap_or_default().trim_start_matches('"');
    let method = parts.nth(1).unwrap_or_default().trim_end_matches('"');
    Said::Request {
        user: user.to_owned(),
        method: method.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn said(text: fmt::Arguments<'_>) -> Option<Said> {
        let mut line = Line::new(false);
        line.write_fmt(text).ok()?;
        line.said()
    }

    #[test]
    fn the_librarys_lines_are_understood_and_others_break_off() {
        let (number, user, method) = (50, "ali\"ce\n", "publickey");
        assert_eq!(
            said(format_args!(
                "< msg type {number:?}, seqn {:?}, len {}",
                3, 80
            )),
            Some(Said::Message(50))
        );
        assert_eq!(
            said(format_args!(
                "name: {user:?} {:?} {method:?}",
                "ssh-connection"
            )),
            Some(Said::Request {
                user: "ali\\\"ce\\n".to_owned(),
                method: "publickey".to_owned()
            })
        );
        for (service, is_ours) in [("ssh-userauth", true), ("ssh-userauth ", false)] {
            assert_eq!(
                said(format_args!("request: {service:?}")),
                Some(Said::Service { is_ours })
            );
        }
        assert_eq!(
            said(format_args!("rejecting {:?}", Some(1))),
            Some(Said::Rejecting)
        );
        assert_eq!(
            said(format_args!("unknown message received: {:?}", 200)),
            Some(Said::Unknown(200))
        );
        for (words, reason) in REASONS {
            assert_eq!(said(format_args!("{words}")), Some(Said::Because(reason)));
        }
        assert_eq!(said(format_args!("handler.data {:?}", Some(1))), None);
        assert_eq!(said(format_args!("signature verified")), None);
    }

    #[test]
    fn after_the_login_no_line_is_written_out_but_that_of_an_unknown_message() {
        let (mut line, number) = (Line::new(true), 94_u8);
        assert!(write!(line, "< msg type {number}").is_err());
        assert_eq!(line.text, MESSAGE);
    }

    #[test]
    fn a_line_is_cut_where_a_client_makes_it_long() {
        let user = "\u{e4}".repeat(64 << 10);
        let mut line = Line::new(false);
        write!(line, "name: {user:?} {:?} {:?}", "ssh-connection", "none").unwrap();
        assert!(line.text.len() <= LONGEST);
        let Some(Said::Request { user, method }) = line.said() else {
            panic!("{line:?}")
        };
        assert!(user.len() <= LONGEST && method.is_empty());
    }
}
