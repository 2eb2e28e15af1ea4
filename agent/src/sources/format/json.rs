//! JSON: an array of entries, or an object whose `entries` is one.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Faults, Limits, Place, hint,
    raw::{Field, RawEntry},
    too_many,
};
use crate::entry::Entry;

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    entries: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object<'a> {
    #[serde(borrow)]
    prefix: Cow<'a, str>,
    #[serde(default)]
    deny: bool,
    #[serde(borrow, default)]
    scope: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    owner: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    ticket: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    comment: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    expires: Option<Cow<'a, str>>,
}

pub(super) fn parse(text: &str, limits: &Limits, faults: &mut Faults) -> Vec<Entry> {
    let mut entries = Vec::new();
    let values = if text.trim_start().starts_with('{') {
        serde_json::from_str::<Document<'_>>(text).map(|document| document.entries)
    } else {
        serde_json::from_str::<Vec<&RawValue>>(text)
    };
    let values = match values {
        Ok(values) => values,
        Err(_) if text.trim().is_empty() => return entries,
        Err(error) => {
            let offset = offset(text, error.line(), error.column());
            faults.push(Place::of(text.as_bytes(), offset), reason(&error));
            return entries;
        }
    };
    for value in values {
        let base = value.get().as_ptr() as usize - text.as_ptr() as usize;
        let read = serde_json::from_str::<Object<'_>>(value.get())
            .map_err(|error| {
                (
                    offset(value.get(), error.line(), error.column()),
                    reason(&error),
                )
            })
            .and_then(|object| {
                RawEntry::from(object)
                    .entry(limits)
                    .map_err(|(field, message)| (place_of(value.get(), field), message))
            });
        match read {
            Ok(_) if entries.len() >= limits.entries => {
                faults.push(Place::of(text.as_bytes(), base), too_many(limits));
                break;
            }
            Ok(entry) => entries.push(entry),
            Err((at, message)) if faults.tells() => {
                faults.push(Place::of(text.as_bytes(), base + at), message);
            }
            Err(_) => faults.count_untold(),
        }
    }
    entries
}

impl<'a> From<Object<'a>> for RawEntry<'a> {
    fn from(object: Object<'a>) -> Self {
        Self {
            prefix: object.prefix,
            deny: object.deny,
            scope: object.scope,
            owner: object.owner,
            ticket: object.ticket,
            comment: object.comment,
            expires: object.expires,
        }
    }
}

/// What serde_json says, without the place that it appends.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(text, _)| text);
    let unknown = text
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once('`'))
        .and_then(|(name, _)| hint::similar(name, Field::ALL.map(Field::name)));
    match unknown {
        Some(meant) => hint::bounded(&format!("{text}; did you mean {meant}?")),
        None => hint::bounded(text),
    }
}

/// The offset of the byte that serde_json calls by line and column: the column counts bytes up to and with the last one read.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    start + column.saturating_sub(1)
}

/// Where in the object the field's value begins.
fn place_of(object: &str, field: Field) -> usize {
    serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(object)
        .ok()
        .and_then(|fields| fields.get(field.name()).copied())
        .map_or(0, |value| {
            value.get().as_ptr() as usize - object.as_ptr() as usize
        })
}
