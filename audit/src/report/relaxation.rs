//! Exceptions from the rules that were in force in a period: each with an owner and an end.

use std::collections::BTreeMap;

use portcullis_journal::{EventKind, read::Record};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::operations::text;

/// Relaxations that are kept.
const KEPT: usize = 2000;
/// What the account policy without an exception is called.
const STRICT: &str = "two-class";

/// One exception.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Relaxation {
    /// Node and key of the configuration, or the account.
    pub of: String,
    pub what: String,
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// The last day.
    pub expires: String,
    /// The first record that names it, as records write times.
    pub since: String,
    /// When it was taken back.
    pub ended: Option<String>,
}

/// Those in force at some time of the period.
#[derive(Debug, Clone, Default)]
pub struct Relaxations {
    in_force: BTreeMap<String, Relaxation>,
    ended: Vec<Relaxation>,
    left_out: u64,
}

impl Relaxations {
    /// In force at the end, then those that were taken back.
    pub fn all(&self) -> impl Iterator<Item = &Relaxation> {
        self.in_force.values().chain(&self.ended)
    }

    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Takes the next record, also from before the period.
    pub(super) fn hear(&mut self, record: &Record, is_within: bool) {
        let is = |kind: EventKind| record.event == kind.name();
        if is(EventKind::AppStart) || is(EventKind::ConfigChange) {
            self.configuration(record, is_within);
        } else if is(EventKind::AdminAccount) && text(&record.body, "action") == Some("policy") {
            self.account(record, is_within);
        }
    }

    /// By name, so that an order of records does not show.
    pub(super) fn finish(&mut self) {
        self.ended.sort_by(|a, b| a.of.cmp(&b.of));
    }

    /// Of a configuration, which always names all that it has.
    fn configuration(&mut self, record: &Record, is_within: bool) {
        let Some(listed) = record.body.get("exceptions").and_then(Value::as_array) else {
            return;
        };
        let node = format!("{} configuration", record.node);
        let found: Vec<Relaxation> = listed
            .iter()
            .map(|exception| relaxation(record, exception, of(&node, exception), what(exception)))
            .collect();
        let gone: Vec<String> = self
            .in_force
            .values()
            .filter(|known| known.of.starts_with(&node))
            .filter(|known| !found.iter().any(|found| found.of == known.of))
            .map(|known| known.of.clone())
            .collect();
        for of in gone {
            self.end(&of, record, is_within);
        }
        for found in found {
            self.begin(found);
        }
    }

    fn account(&mut self, record: &Record, is_within: bool) {
        let account = text(&record.body, "account").unwrap_or_default();
        let of = format!("account {account}");
        let policy = text(&record.body, "policy").unwrap_or_default();
        if policy == STRICT {
            self.end(&of, record, is_within);
        } else {
            self.begin(relaxation(
                record,
                &record.body,
                of,
                format!("policy {policy}"),
            ));
        }
    }

    fn begin(&mut self, mut new: Relaxation) {
        if let Some(known) = self.in_force.get(&new.of) {
            new.since.clone_from(&known.since);
        } else if self.in_force.len() >= KEPT {
            self.left_out += 1;
            return;
        }
        self.in_force.insert(new.of.clone(), new);
    }

    fn end(&mut self, of: &str, record: &Record, is_within: bool) {
        let Some(mut known) = self.in_force.remove(of) else {
            return;
        };
        if !is_within {
            return;
        }
        if self.ended.len() >= KEPT {
            self.left_out += 1;
            return;
        }
        known.ended = Some(record.time.clone());
        self.ended.push(known);
    }
}

fn relaxation(record: &Record, fields: &Value, of: String, what: String) -> Relaxation {
    let field = |name| text(fields, name).unwrap_or("not recorded").to_owned();
    Relaxation {
        of,
        what,
        reason: field("reason"),
        owner: field("approver"),
        expires: field("expires"),
        since: record.time.clone(),
        ended: None,
    }
}

fn what(exception: &Value) -> String {
    text(exception, "what").unwrap_or("exception").to_owned()
}

fn of(node: &str, exception: &Value) -> String {
    let named = ["backend", "certificate_authority", "cipher_policy"]
        .into_iter()
        .find_map(|key| Some((key, text(exception, key)?)));
    match named {
        Some((key, name)) => format!("{node}: {key} {name}, {}", what(exception)),
        None => format!("{node}: {}", what(exception)),
    }
}

impl Serialize for Relaxations {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.collect_seq(self.all())
    }
}
