//! `allow add|deny|remove|list|export|replace|confirm|revert|history|diff|rollback`.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use hyper::{Method, body::Bytes};
use serde::{Serialize, de::DeserializeOwned};

use super::{allow_text as text, render};
use crate::{
    cli::{AddArguments, AllowCommand, ChangeTerms, FileFormat, Grounds, ListFormat},
    control::{
        AllowEntry, AllowRequest, ChangeOptions, ChangeReply, DiffReply, DisallowRequest,
        HistoryReply, ListReply, RollbackRequest, SettleRequest,
        client::{Call, Client},
    },
    entry::Entry,
    sources::format::{self, Format},
};

/// From this size on a file takes long enough to say what is being done.
const LONG_FILE: u64 = 4 * 1024 * 1024;

pub(super) async fn allow(client: &Client, command: AllowCommand, json: bool) -> Result<String> {
    match command {
        AllowCommand::Add(arguments) => add(client, arguments, false, json).await,
        AllowCommand::Deny(arguments) => add(client, arguments, true, json).await,
        AllowCommand::Remove { prefixes, terms } => {
            let request = DisallowRequest {
                prefixes,
                options: options(&terms),
            };
            change(client, Method::DELETE, "/v1/allow", &request, &terms, json).await
        }
        AllowCommand::List { list, format } => list_entries(client, list, format, json).await,
        AllowCommand::Export => {
            let all: serde_json::Value = client.get("/v1/allow/export").await?;
            Ok(format!("{}\n", serde_json::to_string_pretty(&all)?))
        }
        AllowCommand::Replace {
            file,
            empty,
            format,
            terms,
        } => replace(client, &file, empty, format, &terms, json).await,
        AllowCommand::Confirm(grounds) => settle(client, "/v1/allow/confirm", grounds, json).await,
        AllowCommand::Revert(grounds) => settle(client, "/v1/allow/revert", grounds, json).await,
        AllowCommand::History => {
            let history: HistoryReply = client.get("/v1/allow/history").await?;
            render(&history, json, text::history)
        }
        AllowCommand::Diff { from, to } => {
            let path = format!("/v1/allow/diff?from={from}&to={to}");
            let diff: DiffReply = client.get(&path).await?;
            render(&diff, json, text::diff)
        }
        AllowCommand::Accept { feed } => {
            let path = format!("/v1/feeds/{feed}/accept");
            let accepted: serde_json::Value = client.send(Method::POST, &path, &()).await?;
            render(&accepted, json, |_| {
                format!("feed {feed}: accepted, put in force in a moment\n")
            })
        }
        AllowCommand::Rollback { revision, terms } => {
            let request = RollbackRequest {
                revision,
                options: options(&terms),
            };
            let path = "/v1/allow/rollback";
            change(client, Method::POST, path, &request, &terms, json).await
        }
    }
}

async fn add(client: &Client, arguments: AddArguments, deny: bool, json: bool) -> Result<String> {
    let AddArguments {
        prefixes,
        scope,
        owner,
        comment,
        expires,
        terms,
    } = arguments;
    let entries = prefixes
        .into_iter()
        .map(|prefix| AllowEntry {
            prefix,
            deny,
            scope: scope.clone(),
            owner: owner.clone(),
            ticket: terms.grounds.ticket.clone(),
            comment: comment.clone(),
            expires: expires.clone(),
        })
        .collect();
    let request = AllowRequest {
        entries,
        options: options(&terms),
    };
    change(client, Method::POST, "/v1/allow", &request, &terms, json).await
}

async fn change(
    client: &Client,
    method: Method,
    path: &str,
    request: &impl Serialize,
    terms: &ChangeTerms,
    json: bool,
) -> Result<String> {
    let body = Bytes::from(serde_json::to_vec(request)?);
    let done: ChangeReply = call(client, method, path, body, terms).await?;
    render(&done, json, text::change)
}

async fn replace(
    client: &Client,
    file: &Path,
    empty: bool,
    format: FileFormat,
    terms: &ChangeTerms,
    json: bool,
) -> Result<String> {
    let bytes = read(file)?;
    let is_long = bytes.len() as u64 >= LONG_FILE && io::stderr().is_terminal();
    if is_long {
        progress(&format!(
            "{}: {} MB read, sent to the daemon, which checks it and puts it in force ...",
            file.display(),
            bytes.len() / 1_000_000
        ));
    }
    let format = match format {
        FileFormat::Auto => "auto",
        FileFormat::Text => "text",
        FileFormat::Csv => "csv",
        FileFormat::Json => "json",
    };
    let query = FileQuery {
        format,
        name: &file.display().to_string(),
        empty,
        options: &options(terms),
    };
    let path = format!("/v1/allow?{}", query.encode()?);
    let done: ChangeReply = call(client, Method::PUT, &path, bytes.into(), terms)
        .await
        .with_context(|| format!("{} changes nothing", file.display()))?;
    render(&done, json, text::change)
}

struct FileQuery<'a> {
    format: &'a str,
    name: &'a str,
    empty: bool,
    options: &'a ChangeOptions,
}

impl FileQuery<'_> {
    fn encode(&self) -> Result<String> {
        let ChangeOptions {
            reason,
            ticket,
            force,
            dry_run,
            confirm_within_seconds,
            observe_seconds,
        } = self.options;
        let mut fields = vec![
            ("format", self.format.to_owned()),
            ("name", self.name.to_owned()),
            ("empty", self.empty.to_string()),
            ("force", force.to_string()),
            ("dry_run", dry_run.to_string()),
        ];
        fields.extend(reason.clone().map(|reason| ("reason", reason)));
        fields.extend(ticket.clone().map(|ticket| ("ticket", ticket)));
        let seconds = |seconds: &Option<u64>| seconds.map(|seconds| seconds.to_string());
        fields.extend(
            seconds(confirm_within_seconds).map(|seconds| ("confirm_within_seconds", seconds)),
        );
        fields.extend(seconds(observe_seconds).map(|seconds| ("observe_seconds", seconds)));
        serde_urlencoded::to_string(fields).context("make the query")
    }
}

async fn settle(client: &Client, path: &str, grounds: Grounds, json: bool) -> Result<String> {
    let request = SettleRequest {
        reason: grounds.reason,
        ticket: grounds.ticket,
    };
    let done: ChangeReply = client.send(Method::POST, path, &request).await?;
    render(&done, json, text::change)
}

async fn list_entries(
    client: &Client,
    list: Option<String>,
    format: ListFormat,
    json: bool,
) -> Result<String> {
    let path = match list {
        Some(list) => format!(
            "/v1/allow?{}",
            serde_urlencoded::to_string([("list", list)]).context("make the query")?
        ),
        None => "/v1/allow".to_owned(),
    };
    let listing: ListReply = client.get(&path).await?;
    let format = match format {
        ListFormat::Text => Format::Text,
        ListFormat::Csv => Format::Csv,
        ListFormat::Json => Format::Json,
    };
    render(&listing, json, |listing| {
        let entries: Vec<Entry> = listing
            .entries
            .iter()
            .map(|listed| listed.entry.clone())
            .collect();
        format::write(format, &entries)
    })
}

async fn call<T: DeserializeOwned>(
    client: &Client,
    method: Method,
    path: &str,
    body: Bytes,
    terms: &ChangeTerms,
) -> Result<T> {
    if let Some(window) = terms.observe.filter(|_| io::stderr().is_terminal()) {
        progress(&format!(
            "looking at passing traffic for {} s ...",
            window.as_secs()
        ));
    }
    let call = Call {
        if_revision: terms.if_revision,
        ..Call::new(method, path, body)
    };
    Ok(client.call(call).await?)
}

fn options(terms: &ChangeTerms) -> ChangeOptions {
    ChangeOptions {
        reason: terms.grounds.reason.clone(),
        ticket: terms.grounds.ticket.clone(),
        force: terms.force,
        dry_run: terms.dry_run,
        confirm_within_seconds: terms.confirm_within.map(|within| within.as_secs()),
        observe_seconds: terms.observe.map(|window| window.as_secs()),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin()
            .read_to_end(&mut bytes)
            .context("read standard input")?;
        Ok(bytes)
    } else {
        fs::read(file).with_context(|| format!("read {}", file.display()))
    }
}

/// What is being done, for people; results go to standard output.
fn progress(what: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{what}");
}
