//! Records as people read them. Nothing that a peer sent reaches a terminal as it is.

use std::{borrow::Cow, fmt::Write as _};

use portcullis_journal::{EventKind, read::Record};
use serde_json::Value;

use crate::operations::Deed;

/// Longest peer's text in a line for people, in characters.
const LONGEST: usize = 400;

/// A path or another peer's text in quotes; whatever a terminal or an eye could misread is escaped.
pub fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    let mut room = LONGEST;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if room == 0 {
                out.push_str("\"...");
                return out;
            }
            room -= 1;
            match c {
                '"' | '\\' => {
                    out.push('\\');
                    out.push(c);
                }
                c => push(&mut out, c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

/// A name or a word, without quotes where it has none of what they are for.
pub fn word(text: &str) -> String {
    let is_plain = !text.is_empty()
        && text.len() <= LONGEST
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !is_deceptive(c) && c != '"' && c != '\\');
    if is_plain {
        text.to_owned()
    } else {
        quoted(text.as_bytes())
    }
}

/// A sentence that is shown as it is, but for what could deceive.
pub fn sentence(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(LONGEST) {
        push(&mut out, c);
    }
    out
}

/// The same JSON with everything escaped that a terminal or an eye could misread.
///
/// Line breaks stay: JSON has none within its texts.
pub fn harmless_json(json: &str) -> Cow<'_, str> {
    let escapes = |c: char| c >= ' ' && is_deceptive(c);
    if !json.contains(escapes) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if escapes(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn push(out: &mut String, c: char) {
    if is_deceptive(c) {
        let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
    } else {
        out.push(c);
    }
}

/// Controls, separators, marks of direction, and what has no width.
fn is_deceptive(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// One line for one record: time, outcome, event, who, from where, session, and what it is about.
pub fn line(record: &Record, deed: &Deed) -> String {
    let mut out = String::new();
    let outcome = record.outcome.as_deref().unwrap_or("-");
    let _ = write!(
        out,
        "{} {outcome:<7} {}",
        seconds(&record.time),
        word(&record.event)
    );
    if let Some(user) = record.user.as_ref().or(deed.user.as_ref()) {
        let _ = write!(out, " {}", word(&user.name));
        if user.uid.is_none() && user.kind.is_none() {
            out.push_str(" (claimed)");
        }
    }
    if let Some(source) = record.source {
        let _ = write!(out, " from {}", source.ip);
    }
    if let Some(session) = &record.session {
        let _ = write!(out, " [{}]", session.get(..8).unwrap_or(session));
    }
    if let Some(operation) = &deed.operation {
        let _ = write!(out, " {}", word(operation));
    }
    if let Some(path) = &deed.path {
        let _ = write!(out, " {}", quoted(path));
    }
    if let Some(path) = &deed.path2 {
        let _ = write!(out, " to {}", quoted(path));
    }
    if let (Some(offset), Some(length)) = (deed.offset, deed.length) {
        let _ = write!(out, " {length}@{offset}");
    }
    if let Some(reason) = &record.reason {
        let _ = write!(out, " reason={}", word(reason));
    }
    for (name, value) in shown_fields(record) {
        let _ = write!(out, " {name}={}", value_word(value));
    }
    out
}

/// A time of a record without its fraction.
pub fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{}Z", word(seconds)),
        None => word(time),
    }
}

/// Bytes as people say it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

fn shown_fields(record: &Record) -> impl Iterator<Item = (&str, &Value)> {
    const OF_A_DEED: [&str; 8] = [
        "sftp_op",
        "path",
        "path2",
        "handle_id",
        "offset",
        "len",
        "mfa_window",
        "latency_us",
    ];
    const OF_AN_INTENT: [&str; 4] = ["mount", "decision", "attrs", "flags"];
    let is_intent = record.event == EventKind::OperationIntent.name();
    record
        .body
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
        .filter(move |(name, value)| {
            let is_told = OF_A_DEED.contains(name) || is_intent && OF_AN_INTENT.contains(name);
            !is_told && !value.is_null()
        })
}

fn value_word(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => sentence(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_deceive_is_escaped_and_the_rest_is_readable() {
        assert_eq!(
            quoted("/M\u{fc}ller/a b".as_bytes()),
            "\"/M\u{fc}ller/a b\""
        );
        assert_eq!(
            quoted(b"/a\"\n\x1b[2J\xff"),
            "\"/a\\\"\\u{a}\\u{1b}[2J\\xff\""
        );
        assert_eq!(quoted("\u{202e}fdp".as_bytes()), "\"\\u{202e}fdp\"");
        assert_eq!(word("alice"), "alice");
        assert_eq!(word("a b"), "\"a b\"");
        assert_eq!(word(""), "\"\"");
        assert_eq!(quoted(&[b'x'; 5000]).len(), LONGEST + "\"\"...".len());
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "a": "a\u{9b}31m\n\u{202e}\u{e0041}\u{e4}" });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let harmless = harmless_json(&text);
        assert!(
            !harmless.contains(|c| c != '\n' && is_deceptive(c)),
            "{harmless}"
        );
        let back: Value = serde_json::from_str(&harmless).unwrap();
        assert_eq!(back, value);
    }
}
