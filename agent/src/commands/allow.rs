//! `allow add|remove|list|replace`.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use serde::{Deserialize, Serialize};

use super::render;
use crate::{
    allowlist::{self, Allowlist, Entry},
    cli::AllowCommand,
    control::{AllowEntry, AllowRequest, AllowSummary, DisallowRequest, client::Client},
};

#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    entries: Vec<Entry>,
}

pub(super) async fn allow(client: &Client, command: AllowCommand, json: bool) -> Result<String> {
    let summary: AllowSummary = match command {
        AllowCommand::List => {
            let listing: Listing = client.get("/v1/allow").await?;
            return render(&listing, json, |listing| {
                listing
                    .entries
                    .iter()
                    .cloned()
                    .collect::<Allowlist>()
                    .to_text()
            });
        }
        AllowCommand::Add { prefixes, comment } => {
            let entries = prefixes
                .into_iter()
                .map(|prefix| AllowEntry {
                    prefix,
                    comment: comment.clone(),
                })
                .collect();
            client
                .send(Method::POST, "/v1/allow", &AllowRequest { entries })
                .await?
        }
        AllowCommand::Remove { prefixes } => {
            client
                .send(Method::DELETE, "/v1/allow", &DisallowRequest { prefixes })
                .await?
        }
        AllowCommand::Replace { file, empty } => {
            let list = read(&file)?;
            if list.is_empty() && !empty {
                bail!(
                    "{} has no entry; if only protected sources are to remain, say --empty",
                    file.display()
                );
            }
            let entries = list
                .entries()
                .map(|entry| AllowEntry {
                    prefix: entry.prefix.to_string(),
                    comment: entry.comment,
                })
                .collect();
            client
                .send(Method::PUT, "/v1/allow", &AllowRequest { entries })
                .await?
        }
    };
    render(&summary, json, |summary| {
        let AllowSummary {
            put,
            removed,
            entries,
            generation,
        } = summary;
        format!(
            "{put} put in, {removed} taken out; {entries} allowed, in force as generation {generation}\n"
        )
    })
}

fn read(file: &Path) -> Result<Allowlist> {
    let text = if file == Path::new("-") {
        io::read_to_string(io::stdin()).context("read standard input")?
    } else {
        fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
    };
    allowlist::parse_file(&text).map_err(|faults| {
        let lines: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
        anyhow::anyhow!("{} changes nothing:{lines}", file.display())
    })
}
