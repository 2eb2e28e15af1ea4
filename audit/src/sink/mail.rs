//! An alert as a mail that can be read at two in the morning.
//!
//! Names in it are whatever a client claimed: nothing of a record gets into a header or a line as it is.

use std::{fmt, net::IpAddr, time::SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use lettre::{
    Message,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
};
use portcullis_journal::record::untrusted_bytes;
use sha2::{Digest as _, Sha256};

use super::Tls;
use crate::{
    format::{Entry, is_deceptive},
    operations::{integer, text},
};

/// Longest text of a record that is shown, in characters.
const SHOWN: usize = 200;
/// Around the moments of records, which a search takes in whole seconds.
const AROUND: TimeDelta = TimeDelta::seconds(2);

/// The way of mails.
#[derive(Clone)]
pub struct Mail {
    pub host: String,
    pub port: u16,
    pub security: Security,
    pub login: Option<Login>,
    pub from: Address,
    pub to: Vec<Address>,
    /// Such as `[portcullis]`; before each subject.
    pub subject_prefix: String,
}

/// How a connection for mail is protected.
#[derive(Clone)]
pub enum Security {
    /// Before anything is said that matters; a server that does not offer it gets no mail (RFC 3207).
    StartTls(Tls),
    /// From the first byte (RFC 8314).
    Implicit(Tls),
    None,
}

/// A user of the server with the password, which prints as `<secret>`.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} <secret>", self.user)
    }
}

/// A mail address, with or without a name: `Gateway <gw@example.org>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Address(pub(super) Mailbox);

/// Why a text is no mail address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a mail address such as \"oncall@example.org\" or \"Gateway <gw@example.org>\""
)]
pub struct BadAddress {
    text: String,
}

impl Address {
    /// # Errors
    /// If it is none, or one that is not ASCII, which not every server takes.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress {
            text: text.to_owned(),
        };
        let mailbox: Mailbox = text.parse().map_err(|_| bad())?;
        let is_plain =
            AsRef::<str>::as_ref(&mailbox.email).is_ascii() && !text.contains(is_deceptive);
        is_plain.then_some(Self(mailbox)).ok_or_else(bad)
    }

    pub(super) fn domain(&self) -> &str {
        self.0.email.domain()
    }
}

/// Why an alert is no mail.
#[derive(Debug, thiserror::Error)]
#[error("make a mail of an alert")]
pub struct NoMail(#[from] lettre::error::Error);

impl Mail {
    /// The whole message. A second one of the same alert has the same `Message-ID`.
    ///
    /// # Errors
    /// If there is nobody to send it to.
    pub(super) fn message(&self, entry: &Entry<'_>) -> Result<Vec<u8>, NoMail> {
        let alert = Shown::of(entry);
        let mut message = Message::builder()
            .from(self.from.0.clone())
            .subject(format!("{} {}", self.subject_prefix, alert.subject()))
            .date(alert.at.into())
            .message_id(Some(format!(
                "<{}@{}>",
                identity(entry),
                self.from.domain()
            )))
            // No answer of a machine (RFC 3834).
            .raw_header(HeaderValue::new(
                HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ))
            .header(ContentType::TEXT_PLAIN);
        for address in &self.to {
            message = message.to(address.0.clone());
        }
        Ok(message.body(alert.body())?.formatted())
    }
}

fn identity(entry: &Entry<'_>) -> String {
    let digest = Sha256::digest(entry.line);
    let digest = hex::encode(digest.get(..12).unwrap_or_default());
    format!("alert-{}-{digest}", entry.record.seq)
}

/// What a mail says.
struct Shown<'a> {
    entry: &'a Entry<'a>,
    at: DateTime<Utc>,
    kind: &'a str,
    count: u64,
    unit: &'a str,
    window: TimeDelta,
}

impl<'a> Shown<'a> {
    fn of(entry: &'a Entry<'a>) -> Self {
        let record = &entry.record;
        let at = DateTime::parse_from_rfc3339(&record.time)
            .map_or_else(|_| DateTime::from(SystemTime::now()), |at| at.to_utc());
        let seconds: u64 = integer(record.body.get("window_seconds")).unwrap_or(0);
        Self {
            entry,
            at,
            kind: text(&record.body, "kind").unwrap_or("alert"),
            count: integer(record.body.get("count")).unwrap_or(0),
            unit: text(&record.body, "unit").unwrap_or("records"),
            window: TimeDelta::seconds(i64::try_from(seconds).unwrap_or(0)),
        }
    }

    fn text(&self, field: &str) -> &'a str {
        text(&self.entry.record.body, field).unwrap_or_default()
    }

    fn number(&self, field: &str) -> u64 {
        integer(self.entry.record.body.get(field)).unwrap_or(0)
    }

    fn what(&self) -> &'static str {
        match self.kind {
            "brute_force" => "Failed logins",
            "mass_download" => "Many downloads",
            "off_hours" => "Login outside the working hours",
            "denial_burst" => "Many refused operations",
            "relaxation_expiring" => "An exception ends soon",
            "verify_failed" => "The journal is NOT sound",
            "sink_behind" => "A sink is behind, down, or has lost records",
            "disk" => "The journal's disk is full or fails",
            _ => "Alert",
        }
    }

    fn subject(&self) -> String {
        let node = harmless(&self.entry.record.node);
        format!(
            "{node}: {}: {}",
            self.what(),
            harmless(self.text("subject"))
        )
    }

    fn body(&self) -> String {
        let within = match self.window.num_seconds() {
            0 => String::new(),
            seconds if seconds % 60 == 0 => format!(" within {} min", seconds / 60),
            seconds => format!(" within {seconds} s"),
        };
        let mut lines = vec![
            format!("{}.", self.what()),
            String::new(),
            format!("Who or what  {}", harmless(self.text("subject"))),
            format!("How much     {}{within}", amount(self.count, self.unit)),
            format!("When         {} UTC", self.at.format("%Y-%m-%d %H:%M:%S")),
            format!("Gateway      {}", harmless(&self.entry.record.node)),
            format!(
                "Rule         {} ({})",
                harmless(self.text("rule")),
                harmless(self.kind)
            ),
            format!(
                "Records      {} to {}",
                self.number("first"),
                self.number("last")
            ),
            format!("This alert   record {}", self.entry.record.seq),
        ];
        let held_back = self.number("held_back");
        if held_back > 0 {
            lines.push(format!(
                "Held back    {held_back} alerts of this rule since the one before"
            ));
        }
        lines.extend([
            String::new(),
            "To see the records, on the gateway:".to_owned(),
            format!("  {}", self.search()),
            String::new(),
        ]);
        lines.join("\r\n")
    }

    /// The command that shows what it is about.
    fn search(&self) -> String {
        let subject = self.text("subject");
        let of = |events: &str| match (subject.parse::<IpAddr>(), quoted(subject)) {
            (Ok(address), _) => format!("--source {address} --event {events}"),
            (Err(_), Some(user)) => format!("--user {user} --event {events}"),
            (Err(_), None) => format!("--event {events}"),
        };
        let (filter, is_long_ago) = match self.kind {
            "brute_force" => (of("auth"), false),
            "mass_download" => (of("xfer"), false),
            "off_hours" => (of("auth,conn"), false),
            "denial_burst" => (of("op.denied"), false),
            "relaxation_expiring" => ("--event app.start,config.change".to_owned(), true),
            "verify_failed" => ("--event log.verify,log.witness".to_owned(), false),
            "sink_behind" => ("--event log.sink".to_owned(), false),
            "disk" => ("--event log.disk".to_owned(), false),
            "files_altered" => ("--event rest".to_owned(), false),
            _ => (String::new(), false),
        };
        let moment = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let since = if is_long_ago {
            String::new()
        } else {
            // Rules without a window alert at once.
            let before = self.window.max(TimeDelta::minutes(1)) + AROUND;
            format!(" --since {}", moment(self.at - before))
        };
        format!(
            "portcullis-proxy audit search {filter}{since} --until {}",
            moment(self.at + AROUND)
        )
    }
}

fn amount(count: u64, unit: &str) -> String {
    if unit == "bytes" {
        let tenths = u128::from(count) * 10 / (1 << 20);
        format!("{}.{} MiB", tenths / 10, tenths % 10)
    } else {
        format!("{count} {}", harmless(unit))
    }
}

/// A text of a record with escapes for all that could end a line, hide or turn around.
fn harmless(text: &str) -> String {
    let decoded = untrusted_bytes(text).unwrap_or_else(|| text.as_bytes().to_vec());
    let decoded = String::from_utf8_lossy(&decoded);
    let mut shown = String::new();
    for (index, c) in decoded.chars().enumerate() {
        if index == SHOWN {
            shown.push_str("...");
            break;
        }
        if is_deceptive(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// For a shell; `None` where a shell is no place for it.
fn quoted(text: &str) -> Option<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "._@-+".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_word) {
        return Some(text.to_owned());
    }
    let is_sane = !text.is_empty()
        && !text.starts_with('-')
        && text.chars().count() <= SHOWN
        && !text.contains(is_deceptive);
    is_sane.then(|| format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use portcullis_journal::record::untrusted;
    use serde_json::{Value, json};

    use super::*;

    fn mail(to: &[&str]) -> Mail {
        Mail {
            host: "mail.example.org".to_owned(),
            port: 587,
            security: Security::None,
            login: None,
            from: Address::parse("Gateway <gw@example.org>").unwrap(),
            to: to.iter().map(|to| Address::parse(to).unwrap()).collect(),
            subject_prefix: "[portcullis]".to_owned(),
        }
    }

    fn record(body: Value) -> String {
        json!({
            "v": 1, "seq": 4723, "ts": "2026-11-23T02:00:05.000000Z", "mono_ns": 1, "node": "gw1", "boot_id": "b",
            "prev": "00", "event": "log.alert", "outcome": "success", "reason": "brute_force", "body": body,
        })
        .to_string()
    }

    fn alert(subject: Value) -> String {
        record(json!({
            "rule": "logins", "kind": "brute_force", "subject": subject, "count": 10, "unit": "failures",
            "window_seconds": 300, "first": 4711, "last": 4722, "held_back": 3, "to": ["oncall"],
        }))
    }

    /// Headers and body, with lines that were folded put together, and without quoted-printable.
    fn sent(line: &str) -> (Vec<String>, String) {
        let entry = Entry::parse(line.as_bytes()).unwrap();
        let bytes = mail(&["a@example.org", "b@example.org"])
            .message(&entry)
            .unwrap();
        assert!(bytes.is_ascii());
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
        assert_eq!(text.matches('\r').count(), text.matches("\r\n").count());
        let (headers, body) = text.split_once("\r\n\r\n").unwrap();
        let headers = headers.replace("\r\n ", " ").replace("\r\n\t", " ");
        (
            headers.lines().map(str::to_owned).collect(),
            body.replace("=\r\n", "").replace("=3D", "="),
        )
    }

    #[test]
    fn a_mail_says_what_who_how_many_when_and_how_to_see_more() {
        let (headers, body) = sent(&alert("192.0.2.7".into()));
        for header in [
            "Subject: [portcullis] gw1: Failed logins: 192.0.2.7",
            "To: a@example.org, b@example.org",
            "Auto-Submitted: auto-generated",
            "Date: Mon, 23 Nov 2026 02:00:05 +0000",
        ] {
            assert!(headers.iter().any(|line| line == header), "{headers:#?}");
        }
        for line in [
            "Who or what  192.0.2.7",
            "How much     10 failures within 5 min",
            "When         2026-11-23 02:00:05 UTC",
            "Gateway      gw1",
            "Rule         logins (brute_force)",
            "Records      4711 to 4722",
            "Held back    3 alerts of this rule since the one before",
            "  portcullis-proxy audit search --source 192.0.2.7 --event auth --since 2026-11-23T01:55:03Z --until 2026-11-23T02:00:07Z",
        ] {
            assert!(body.lines().any(|found| found == line), "{line}\n{body}");
        }
    }

    #[test]
    fn one_alert_has_one_identity_and_another_has_another() {
        let identity = |line: &str| {
            let (headers, _) = sent(line);
            let id = headers
                .into_iter()
                .find(|line| line.starts_with("Message-ID: "));
            id.unwrap()
        };
        let first = alert("192.0.2.7".into());
        assert_eq!(identity(&first), identity(&first));
        assert_ne!(identity(&first), identity(&alert("192.0.2.8".into())));
        assert!(identity(&first).ends_with("@example.org>"));
    }

    #[test]
    fn a_name_ends_no_header_and_no_line_and_turns_nothing_around() {
        let names: [&[u8]; 6] = [
            b"x\r\nBcc: victim@example.org\r\n\r\nhello",
            b"x\nSubject: all is well",
            b"\x1b[2Jx\x7f\x00",
            "x\u{202e}gpj.exe\u{2028}y".as_bytes(),
            "=?utf-8?q?=0d=0aBcc:_victim?=".as_bytes(),
            b"\xff\xfe\r\n.\r\nMAIL FROM:<x@y>",
        ];
        let (plain, _) = sent(&alert("alice".into()));
        let keys = |headers: &[String]| -> Vec<String> {
            let key = |line: &String| line.split(':').next().unwrap().to_owned();
            headers.iter().map(key).collect()
        };
        for name in names {
            // As a record has it, and as one would that was not careful.
            for subject in [untrusted(name), String::from_utf8_lossy(name).into()] {
                let (headers, body) = sent(&alert(subject));
                assert_eq!(keys(&headers), keys(&plain), "{headers:#?}");
                assert!(!body.contains(is_shown_wrong), "{body:?}");
                let lines = body.lines().count();
                assert_eq!(lines, sent(&alert("alice".into())).1.lines().count());
            }
        }
    }

    fn is_shown_wrong(c: char) -> bool {
        c != '\r' && c != '\n' && is_deceptive(c)
    }

    #[test]
    fn a_name_is_one_word_of_the_command_or_none() {
        for (name, word) in [
            ("alice", Some("alice")),
            ("o'hara; rm -rf /", Some(r"'o'\''hara; rm -rf /'")),
            ("$(id)`id`", Some("'$(id)`id`'")),
            ("--unrecorded", None),
            ("x\ny", None),
            ("", None),
        ] {
            assert_eq!(quoted(name).as_deref(), word);
        }
    }

    #[test]
    fn bytes_are_shown_as_people_count_them() {
        assert_eq!(amount(10 << 30, "bytes"), "10240.0 MiB");
        assert_eq!(amount(1_600_000, "bytes"), "1.5 MiB");
        assert_eq!(amount(7, "files"), "7 files");
    }

    #[test]
    fn addresses_are_ascii_and_carry_nothing_else() {
        assert!(Address::parse("oncall@example.org").is_ok());
        assert!(Address::parse("On Call <oncall@example.org>").is_ok());
        for bad in [
            "",
            "oncall",
            "a@b@c",
            "x@example.org\r\nBcc: y@example.org",
            "m\u{fc}ller@example.org",
            "a@example.org, b@example.org",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
    }
}
