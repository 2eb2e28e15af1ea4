//! Plain text: an entry a line.

use std::borrow::Cow;

use super::{
    Faults, Limits, MAX_LINE, Place, column, hint,
    raw::{Field, RawEntry},
    too_many,
};
use crate::entry::Entry;

pub(super) fn parse(text: &str, limits: &Limits, faults: &mut Faults) -> Vec<Entry> {
    // An estimate from the shortest usual line; a wrong one costs a reallocation.
    let mut entries = Vec::with_capacity((text.len() / 14).min(limits.entries));
    for (index, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let mut fault = |offset: usize, message| {
            let before = line.as_bytes().get(..offset).unwrap_or(line.as_bytes());
            let place = Place {
                line: index + 1,
                column: column(before),
            };
            faults.push(place, message);
        };
        if line.len() > MAX_LINE {
            fault(
                MAX_LINE,
                format!(
                    "the line has {} bytes, and {MAX_LINE} are the most",
                    line.len()
                ),
            );
            continue;
        }
        let (raw, places) = match split(line) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err((offset, message)) => {
                fault(offset, message);
                continue;
            }
        };
        match raw.entry(limits) {
            Ok(_) if entries.len() >= limits.entries => {
                fault(0, too_many(limits));
                break;
            }
            Ok(entry) => entries.push(entry),
            Err((field, message)) => fault(places.get(field), message),
        }
    }
    entries
}

/// Where in the line each field is, in bytes.
#[derive(Debug, Default)]
struct Places([usize; Field::ALL.len()]);

impl Places {
    fn get(&self, field: Field) -> usize {
        self.0.get(field as usize).copied().unwrap_or_default()
    }

    fn set(&mut self, field: Field, offset: usize) {
        if let Some(place) = self.0.get_mut(field as usize) {
            *place = offset;
        }
    }
}

/// The line's entry, if it has one, and the places of its fields.
fn split(line: &str) -> Result<Option<(RawEntry<'_>, Places)>, (usize, String)> {
    let mut rest = Cursor { line, at: 0 };
    let mut raw = RawEntry::default();
    let mut places = Places::default();
    rest.skip_blanks();
    if rest.is_at_end() {
        return Ok(None);
    }
    if rest.take('!') {
        raw.deny = true;
        rest.skip_blanks();
    }
    places.set(Field::Prefix, rest.at);
    raw.prefix = Cow::Borrowed(rest.word());
    if raw.prefix.is_empty() {
        return Err((rest.at, "there is no prefix behind `!`".to_owned()));
    }
    loop {
        rest.skip_blanks();
        if rest.take('#') {
            rest.skip_blanks();
            let comment = rest.remainder().trim_end();
            places.set(Field::Comment, rest.at);
            // A tabulator is a blank here, not a control character.
            raw.comment = Some(if comment.contains('\t') {
                Cow::Owned(comment.replace('\t', " "))
            } else {
                Cow::Borrowed(comment)
            });
            return Ok(Some((raw, places)));
        }
        if rest.remainder().is_empty() {
            return Ok(Some((raw, places)));
        }
        field(&mut rest, &mut raw, &mut places)?;
    }
}

fn field<'a>(
    rest: &mut Cursor<'a>,
    raw: &mut RawEntry<'a>,
    places: &mut Places,
) -> Result<(), (usize, String)> {
    let start = rest.at;
    let name = rest.name();
    if !rest.take('=') {
        rest.at = start;
        let word = rest.word();
        return Err((
            start,
            format!(
                "{} is no field such as owner=NAME; a comment begins with `#`",
                hint::quoted(word)
            ),
        ));
    }
    let Some(field) = Field::of(name) else {
        return Err((start, unknown(name)));
    };
    let slot = match field {
        Field::Scope => &mut raw.scope,
        Field::Owner => &mut raw.owner,
        Field::Ticket => &mut raw.ticket,
        Field::Expires => &mut raw.expires,
        Field::Prefix | Field::Deny | Field::Comment => return Err((start, unknown(name))),
    };
    if slot.is_some() {
        return Err((start, format!("{} is given twice", field.name())));
    }
    places.set(field, rest.at);
    *slot = Some(rest.value()?);
    Ok(())
}

fn unknown(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "deny" => return "a denied prefix has `!` before it: !203.0.113.0/24".to_owned(),
        "comment" => return "a comment stands at the end, behind `#`".to_owned(),
        _ => {}
    }
    let meant = hint::similar(&name, ["scope", "owner", "ticket", "expires"]);
    match meant {
        Some(meant) => format!("{} is no field; did you mean {meant}?", hint::quoted(&name)),
        None => format!(
            "{} is no field; there are scope, owner, ticket and expires",
            hint::quoted(&name)
        ),
    }
}

struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn remainder(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or_default()
    }

    /// At the end of the line, or where a comment begins.
    fn is_at_end(&self) -> bool {
        matches!(self.remainder().as_bytes().first(), None | Some(b'#'))
    }

    fn skip_blanks(&mut self) {
        let rest = self.remainder();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_there = self.remainder().starts_with(wanted);
        if is_there {
            self.at += wanted.len_utf8();
        }
        is_there
    }

    fn until(&mut self, is_end: impl Fn(char) -> bool) -> &'a str {
        let rest = self.remainder();
        let word = rest
            .get(..rest.find(is_end).unwrap_or(rest.len()))
            .unwrap_or_default();
        self.at += word.len();
        word
    }

    fn word(&mut self) -> &'a str {
        self.until(|c| c == '#' || c.is_whitespace())
    }

    fn name(&mut self) -> &'a str {
        self.until(|c| c == '=' || c == '#' || c.is_whitespace())
    }

    /// A word, or text in double quotes in which `\` takes the meaning from the character behind it.
    fn value(&mut self) -> Result<Cow<'a, str>, (usize, String)> {
        let start = self.at;
        if !self.take('"') {
            return Ok(Cow::Borrowed(self.word()));
        }
        let mut text = String::new();
        loop {
            text.push_str(self.until(|c| matches!(c, '"' | '\\')));
            if self.take('"') {
                return Ok(Cow::Owned(text));
            }
            let escaped = if self.take('\\') {
                self.remainder().chars().next()
            } else {
                None
            };
            let Some(escaped) = escaped else {
                return Err((start, "the quotes are never closed".to_owned()));
            };
            text.push(escaped);
            self.at += escaped.len_utf8();
        }
    }
}
