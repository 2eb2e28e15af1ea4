//! `audit file`: who touched a file.

use std::io::Write;

use anyhow::{Context as _, ensure};
use clap::Args;
use portcullis_audit::{
    file::{History, Lineage, Needles, Renames, Touch},
    hidden::{PathKey, is_token},
    merge::Merge,
    text::{harmless_json, quoted, seconds},
};
use portcullis_journal::{
    read::{Part, Record},
    record::untrusted_bytes,
};
use serde_json::{Map, json};

use super::{
    Logs,
    hidden::{PathKeyArgs, UnsealArgs},
    put,
};

#[derive(Debug, Args)]
pub(super) struct FileArgs {
    /// As users see it and records write it, such as /inbox/a.csv
    path: String,
    /// One JSON object a line; the first has the names
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    path_key: PathKeyArgs,
    #[command(flatten)]
    unseal: UnsealArgs,
}

impl FileArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        let path = untrusted_bytes(&self.path)
            .with_context(|| format!("{:?} is not what records write", self.path))?;
        ensure!(
            path.starts_with(b"/") || is_token(&path),
            "{:?} is not an absolute path such as /inbox/a.csv",
            self.path
        );
        let mut filters = Map::new();
        put(&mut filters, "path", Some(&self.path));
        if self.unseal.is_given() {
            filters.insert("unseal".to_owned(), true.into());
        }
        logs.note_reading("file", filters)?;
        let key = self.path_key.key(logs)?;
        let revealer = self.unseal.revealer()?;
        ensure!(
            key.is_some() || revealer.is_none(),
            "a sealed log is looked through by its tokens: give --path-key FILE with its journal.path_key_file, too"
        );
        let revealed = |mut record: Record| {
            if let Some(revealer) = &revealer {
                revealer.reveal(&mut record);
            }
            record
        };

        let mut renames = Renames::default();
        let mut merge = Merge::of(&logs.directories, &Part::default())?;
        while let Some((_, record)) = merge.next(&|line| renames.matters(line))? {
            renames.hear(&revealed(record));
        }
        let lineage = renames.lineage(&path, key.as_ref());
        self.print_names(&lineage, key.as_ref(), output)?;

        let needles = Needles::of(&lineage);
        let mut history = History::of(&lineage);
        let mut merge = Merge::of(&logs.directories, &Part::default())?;
        let mut touches = 0;
        while let Some((_, record)) = merge.next(&|line| history.matters(line, &needles))? {
            if let Some(touch) = history.hear(&revealed(record)) {
                touches += 1;
                self.print(&touch, output)?;
            }
        }
        if let Some(touch) = history.end() {
            touches += 1;
            self.print(&touch, output)?;
        }
        ensure!(
            touches > 0,
            "no record names {}; paths are as users see them{}",
            quoted(&path),
            if key.is_none() {
                ", and a log that hides them needs its journal.path_key_file: --path-key FILE"
            } else {
                ""
            }
        );
        Ok(())
    }

    fn print_names(
        &self,
        lineage: &Lineage,
        key: Option<&PathKey>,
        output: &mut dyn Write,
    ) -> anyhow::Result<()> {
        if self.json {
            let names = json!({ "names": lineage.names, "names_are_cut": lineage.is_cut });
            writeln!(output, "{}", harmless_json(&names.to_string()))?;
            return Ok(());
        }
        let tokens: Vec<_> = lineage
            .names
            .iter()
            .filter(|name| !is_token(&name.path))
            .filter_map(|name| Some(key?.token(&name.path).into_bytes()))
            .collect();
        // A name says more than its token.
        let others = lineage.names.iter().skip(1);
        for name in others.filter(|name| !tokens.contains(&name.path)) {
            let time = |time: &Option<String>, or: &str| {
                time.as_deref().map_or_else(|| or.to_owned(), seconds)
            };
            writeln!(
                output,
                "also {} from {} to {}",
                quoted(&name.path),
                time(&name.from, "the beginning"),
                time(&name.until, "the end")
            )?;
        }
        if lineage.is_cut {
            writeln!(
                output,
                "there are more renames than are followed: names before may be missing"
            )?;
        }
        Ok(())
    }

    fn print(&self, touch: &Touch, output: &mut dyn Write) -> anyhow::Result<()> {
        if self.json {
            let json = serde_json::to_string(touch)?;
            writeln!(output, "{}", harmless_json(&json))?;
        } else {
            writeln!(output, "{}", touch.line())?;
        }
        Ok(())
    }
}
