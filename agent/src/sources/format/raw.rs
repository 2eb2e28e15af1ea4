//! The fields of one entry as a file has them, and what becomes of them.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::{Limits, hint};
use crate::{
    entry::{self, Entry, EntryError},
    prefix::{self, PrefixError},
    rule::Scope,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Prefix,
    Deny,
    Scope,
    Owner,
    Ticket,
    Comment,
    Expires,
}

impl Field {
    pub(super) const ALL: [Self; 7] = [
        Self::Prefix,
        Self::Deny,
        Self::Scope,
        Self::Owner,
        Self::Ticket,
        Self::Comment,
        Self::Expires,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Deny => "deny",
            Self::Scope => "scope",
            Self::Owner => "owner",
            Self::Ticket => "ticket",
            Self::Comment => "comment",
            Self::Expires => "expires",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|field| field.name().eq_ignore_ascii_case(name))
    }
}

/// An entry before anything of it was looked at.
#[derive(Debug, Default)]
pub(super) struct RawEntry<'a> {
    pub(super) prefix: Cow<'a, str>,
    pub(super) deny: bool,
    pub(super) scope: Option<Cow<'a, str>>,
    pub(super) owner: Option<Cow<'a, str>>,
    pub(super) ticket: Option<Cow<'a, str>>,
    pub(super) comment: Option<Cow<'a, str>>,
    pub(super) expires: Option<Cow<'a, str>>,
}

impl RawEntry<'_> {
    /// The entry, or the field that is wrong and why.
    pub(super) fn entry(self, limits: &Limits) -> Result<Entry, (Field, String)> {
        let prefix = prefix::parse(&self.prefix).map_err(|error| {
            let message = match error {
                PrefixError::HostBits { .. } => error.to_string(),
                PrefixError::Syntax { .. } => hint::no_prefix(&self.prefix),
            };
            (Field::Prefix, message)
        })?;
        if prefix.prefix_len() == 0 && !limits.allow_default_route {
            let message = format!(
                "{prefix} is every address there is; set allow_default_route if that is meant"
            );
            return Err((Field::Prefix, message));
        }
        let scope = match present(self.scope) {
            Some(text) => Some(scope(&text).map_err(|message| (Field::Scope, message))?),
            None => None,
        };
        let expires = match present(self.expires) {
            Some(text) => Some(expiry(&text).map_err(|message| (Field::Expires, message))?),
            None => None,
        };
        let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
        let entry = Entry {
            prefix,
            deny: self.deny,
            scope,
            owner: owned(self.owner),
            ticket: owned(self.ticket),
            comment: owned(self.comment),
            expires,
        };
        entry.check().map_err(|error| {
            let field = match &error {
                EntryError::ScopedDenial { .. } => Field::Scope,
                EntryError::Text { field, .. } => Field::of(field).unwrap_or(Field::Prefix),
                EntryError::HostBits { .. } => Field::Prefix,
            };
            (field, error.to_string())
        })
    }
}

fn present(text: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    text.filter(|text| !text.trim().is_empty())
}

fn scope(text: &str) -> Result<Scope, String> {
    text.trim()
        .parse()
        .map_err(|error: crate::rule::ScopeError| hint::bounded(&error.to_string()))
}

fn expiry(text: &str) -> Result<DateTime<Utc>, String> {
    let text = text.trim();
    if prefix::parse_duration(text).is_ok() {
        return Err(format!(
            "`{text}` is a duration, which would begin anew each time the file is read; give a date such as 2026-12-31 or a time such as 2026-12-31T18:00:00Z"
        ));
    }
    entry::parse_expiry(text, DateTime::UNIX_EPOCH).map_err(|_| {
        format!(
            "{} is neither a date such as 2026-12-31 nor a time such as 2026-12-31T18:00:00Z",
            hint::quoted(text)
        )
    })
}
