//! RFC 5424 messages, framed by octet counting (RFC 5425 section 4.3, RFC 6587 section 3.4.1).
//!
//! The message text is not marked as UTF-8 by a byte order mark, although it is: collectors hand it on to parsers of JSON.

use std::fmt::Write as _;

use super::{CHECKPOINT, Entry, Format, Product, Severity, is_deceptive};

/// "log audit" of RFC 5424 table 1.
pub const FACILITY: u8 = 13;
/// Private enterprise number that is only for documentation (RFC 5612); an organisation puts its own in its place.
pub const ENTERPRISE: u32 = 32473;
/// What every receiver should take (RFC 5425 section 4.3.1).
pub const MESSAGE_BYTES: usize = 8192;
/// Least that a message may be limited to: what every receiver has to take. The header is shorter.
pub const LEAST_MESSAGE_BYTES: usize = 2048;

/// Longest host name in a header.
const HOST_MAX: usize = 255;
/// Longest APP-NAME.
const APP_MAX: usize = 48;
/// Longest MSGID.
const ID_MAX: usize = 32;
/// Longest value that a field of structured data is cut to.
const VALUE_MAX: usize = 128;

/// What is the same in every message of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    /// 0 to 23.
    pub facility: u8,
    /// Of the structured data.
    pub enterprise: u32,
    /// Longest message in bytes, its frame not counted.
    pub message_bytes: usize,
    pub format: Format,
    /// Whether the clock is synchronised, where somebody knows.
    pub is_synced: Option<bool>,
    pub product: Product,
}

impl Syslog {
    /// The record as one message in its frame.
    pub fn frame(&self, entry: &Entry<'_>) -> Vec<u8> {
        let text = self.format.write(entry, &self.product);
        framed(&self.message(entry, &text))
    }

    /// A signed tree head of the node's log as one message in its frame.
    pub fn checkpoint(&self, note: &[u8], node: &str, time: &str) -> Vec<u8> {
        let text = super::checkpoint_line(note, node);
        let head = self.header(Severity::Informational, time, node, CHECKPOINT);
        let data = format!("{}{}", self.element(&[]), self.time_quality());
        framed(&self.cut(&head, data, &[], &text))
    }

    fn message(&self, entry: &Entry<'_>, text: &[u8]) -> Vec<u8> {
        let record = &entry.record;
        let head = self.header(
            Severity::of(record),
            &record.time,
            &record.node,
            &record.event,
        );
        let uid = record.user.as_ref().and_then(|user| user.uid);
        let fields = [
            ("seq", Some(record.seq.to_string())),
            ("sid", record.session.clone()),
            ("op", record.operation.map(|id| id.to_string())),
            ("uid", uid.map(|uid| uid.to_string())),
            ("out", record.outcome.clone()),
            ("prev", Some(record.prev.clone())),
        ];
        let fields: Vec<(&str, String)> = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let data = format!("{}{}", self.element(&fields), self.time_quality());
        self.cut(&head, data, &fields, text)
    }

    /// Puts the parts together; a text that is too long loses its end, and the structured data says how many bytes.
    fn cut(&self, head: &str, data: String, fields: &[(&str, String)], text: &[u8]) -> Vec<u8> {
        let whole = head.len() + data.len() + 1 + text.len();
        if whole <= self.message_bytes {
            return [head.as_bytes(), data.as_bytes(), b" ", text].concat();
        }
        let marked = |left_out: usize| {
            let mut fields = fields.to_vec();
            fields.push(("cut", left_out.to_string()));
            format!("{}{}", self.element(&fields), self.time_quality())
        };
        let fixed = head.len() + marked(text.len()).len() + 1;
        let text = String::from_utf8_lossy(text);
        let kept = text.floor_char_boundary(self.message_bytes.saturating_sub(fixed));
        let data = marked(text.len() - kept);
        let kept = text.get(..kept).unwrap_or_default();
        [head.as_bytes(), data.as_bytes(), b" ", kept.as_bytes()].concat()
    }

    /// `<PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID `
    fn header(&self, severity: Severity, time: &str, node: &str, id: &str) -> String {
        format!(
            "<{}>1 {} {} {} - {} ",
            u16::from(self.facility) * 8 + u16::from(severity.syslog()),
            timestamp(time),
            token(node, HOST_MAX),
            token(&self.product.name, APP_MAX),
            token(id, ID_MAX),
        )
    }

    fn element(&self, fields: &[(&str, String)]) -> String {
        let mut out = format!("[portcullis@{}", self.enterprise);
        for (name, value) in fields {
            let _ = write!(out, " {name}=\"");
            let end = value.floor_char_boundary(VALUE_MAX);
            for c in value.get(..end).unwrap_or_default().chars() {
                match c {
                    '"' | '\\' | ']' => {
                        out.push('\\');
                        out.push(c);
                    }
                    c if is_deceptive(c) => out.push('\u{fffd}'),
                    c => out.push(c),
                }
            }
            out.push('"');
        }
        out.push(']');
        out
    }

    fn time_quality(&self) -> String {
        self.is_synced.map_or_else(String::new, |is_synced| {
            format!(
                "[timeQuality tzKnown=\"1\" isSynced=\"{}\"]",
                u8::from(is_synced)
            )
        })
    }
}

/// `MSG-LEN SP MSG`
fn framed(message: &[u8]) -> Vec<u8> {
    [message.len().to_string().as_bytes(), b" ", message].concat()
}

/// The time of a record where it is one, which is what RFC 5424 wants too.
fn timestamp(time: &str) -> &str {
    let is_time = time.len() <= 32
        && time.bytes().all(|byte| {
            byte.is_ascii_digit() || matches!(byte, b'-' | b'T' | b':' | b'.' | b'Z' | b'+')
        })
        && chrono::DateTime::parse_from_rfc3339(time).is_ok();
    if is_time { time } else { "-" }
}

/// PRINTUSASCII and nothing else, not longer than `longest`, and not empty.
fn token(text: &str, longest: usize) -> String {
    let token: String = text
        .chars()
        .take(longest)
        .map(|c| if c.is_ascii_graphic() { c } else { '_' })
        .collect();
    if token.is_empty() {
        "-".to_owned()
    } else {
        token
    }
}
