//! Lists as files.

use std::fmt::Write as _;

use chrono::SecondsFormat;

use super::{Format, raw::Field};
use crate::entry::Entry;

/// The list in a format from which [`super::parse_as`] reads the same entries.
pub fn write(format: Format, entries: &[Entry]) -> String {
    match format {
        Format::Text => text(entries),
        Format::Csv => csv(entries),
        Format::Json => json(entries),
    }
}

fn text(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        if entry.deny {
            text.push('!');
        }
        // Writing to a string does not fail.
        let _ = write!(text, "{}", entry.prefix);
        for (field, value) in fields(entry) {
            if let Some(value) = value {
                let _ = if field == Field::Comment {
                    write!(text, " # {value}")
                } else {
                    write!(text, " {}={}", field.name(), quoted(&value))
                };
            }
        }
        text.push('\n');
    }
    text
}

/// The fields behind prefix and kind; the comment is the last, since nothing can follow it in plain text.
fn fields(entry: &Entry) -> [(Field, Option<String>); 5] {
    [
        (Field::Scope, entry.scope.as_ref().map(ToString::to_string)),
        (Field::Owner, entry.owner.clone()),
        (Field::Ticket, entry.ticket.clone()),
        (
            Field::Expires,
            entry
                .expires
                .map(|expires| expires.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        ),
        (Field::Comment, entry.comment.clone()),
    ]
}

fn quoted(value: &str) -> String {
    let is_plain = !value.is_empty()
        && !value
            .chars()
            .any(|c| c.is_whitespace() || matches!(c, '#' | '"' | '\\'));
    if is_plain {
        return value.to_owned();
    }
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

fn csv(entries: &[Entry]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = writer.write_record([
        "prefix", "deny", "scope", "owner", "ticket", "expires", "comment",
    ]);
    for entry in entries {
        let deny = if entry.deny { "true" } else { "" };
        let head = [entry.prefix.to_string(), deny.to_owned()];
        let rest = fields(entry).map(|(_, value)| value.unwrap_or_default());
        let _ = writer.write_record(head.iter().chain(&rest));
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// An entry a line, so that two versions can be compared by line.
fn json(entries: &[Entry]) -> String {
    let lines: Vec<String> = entries
        .iter()
        .filter_map(|entry| serde_json::to_string(entry).ok())
        .collect();
    if lines.is_empty() {
        "[]\n".to_owned()
    } else {
        format!("[\n{}\n]\n", lines.join(",\n"))
    }
}
