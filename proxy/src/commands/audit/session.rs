//! `audit session`: the story of one session.

use std::{collections::BTreeSet, io::Write};

use anyhow::ensure;
use clap::Args;
use portcullis_audit::{
    filter::{Criteria, Filter},
    search::Results,
    session::{Chapter, Story},
    text::harmless_json,
};
use serde_json::Map;

use super::{Logs, hidden::UnsealArgs, put, search::session};

/// Sessions that are named when several begin alike.
const NAMED: usize = 5;
/// Digits of a whole number.
pub(super) const DIGITS: usize = 32;

#[derive(Debug, Args)]
pub(super) struct SessionArgs {
    /// The session's number, or how it begins
    #[arg(value_name = "ID", value_parser = session)]
    id: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    unseal: UnsealArgs,
}

impl SessionArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        let mut filters = Map::new();
        put(&mut filters, "session", Some(&self.id));
        if self.unseal.is_given() {
            filters.insert("unseal".to_owned(), true.into());
        }
        logs.note_reading("session", filters)?;
        let revealer = self.unseal.revealer()?;
        let filter = Filter::from(Criteria {
            session: Some(self.id.clone()),
            ..Criteria::default()
        });
        if self.id.len() < DIGITS {
            only_one(logs, &filter)?;
        }
        let mut story = Story::default();
        let mut found: Option<String> = None;
        for record in Results::of(&logs.directories, &filter, revealer.as_ref())? {
            let record = record?.record;
            if found.is_none() {
                found.clone_from(&record.session);
                if let (false, Some(id)) = (self.json, &found) {
                    writeln!(
                        output,
                        "session {id} on {}",
                        portcullis_audit::text::word(&record.node)
                    )?;
                }
            }
            for chapter in story.hear(&record) {
                self.print(&chapter, output)?;
            }
        }
        for chapter in story.end() {
            self.print(&chapter, output)?;
        }
        ensure!(
            found.is_some(),
            "no session begins with {}; `audit search --user NAME` shows those of a person",
            self.id
        );
        Ok(())
    }

    fn print(&self, chapter: &Chapter, output: &mut dyn Write) -> anyhow::Result<()> {
        if self.json {
            let json = serde_json::to_string(chapter)?;
            writeln!(output, "{}", harmless_json(&json))?;
        } else {
            writeln!(output, "{}", chapter.line())?;
        }
        Ok(())
    }
}

/// Sees to it that one session at most begins so, and says which.
pub(super) fn only_one(logs: &Logs, filter: &Filter) -> anyhow::Result<Option<String>> {
    let mut sessions = BTreeSet::new();
    for found in Results::of(&logs.directories, filter, None)? {
        sessions.extend(found?.record.session);
        if sessions.len() > NAMED {
            break;
        }
    }
    let names: Vec<String> = sessions.into_iter().collect();
    ensure!(
        names.len() <= 1,
        "several sessions begin so, give more digits: {}",
        names.join(", ")
    );
    Ok(names.into_iter().next())
}
