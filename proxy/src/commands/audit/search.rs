//! `audit search`: records by who, what, where, how and when.

use std::{io::Write, net::IpAddr, thread, time::Duration};

use anyhow::ensure;
use chrono::Utc;
use clap::Args;
use ipnet::IpNet;
use portcullis_audit::{
    filter::{self, Criteria, Filter},
    pattern::{PathPattern, PatternError},
    search::{Found, Results},
    text,
    time::{Moment, as_recorded},
};
use serde_json::{Map, Value};

use super::{
    Logs, complain,
    hidden::{PathKeyArgs, UnsealArgs},
    put,
};

/// How often it is looked whether the log has grown.
const FOLLOW: Duration = Duration::from_millis(250);

/// Which records are meant.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Who acted, or whose account was changed
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A path and what lies below it, such as /inbox, or a glob such as /inbox/**/*.csv
    #[arg(long, value_name = "PATH")]
    path: Option<PathPattern>,
    #[command(flatten)]
    path_key: PathKeyArgs,
    #[command(flatten)]
    unseal: UnsealArgs,
    /// An address or a network, such as 192.0.2.0/24; finds bans of it, too
    #[arg(long, value_name = "SOURCE", value_parser = network)]
    source: Option<IpNet>,
    /// A session, or how its number begins
    #[arg(long, value_name = "ID", value_parser = session)]
    session: Option<String>,
    /// Operations such as open,read,write,rename,remove
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = lower_case)]
    op: Vec<String>,
    /// Of allow,deny,success,failure,unknown
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = outcome)]
    outcome: Vec<String>,
    /// Kinds of events such as auth.step, or auth for all that begin so
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = lower_case)]
    event: Vec<String>,
    /// From this time on: 2026-11-22T23:00:00Z, 2026-11-22, or 90m, 12h, 7d ago
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Before this time; a day counts as a whole
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
}

#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Wait for more, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// One JSON object a line: the log, the record as it stands there, and what its intent says
    #[arg(long)]
    json: bool,
    /// End after so many records, the oldest first
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
}

impl FilterArgs {
    pub(super) fn unseal(&self) -> &UnsealArgs {
        &self.unseal
    }

    /// The criteria, and how the record of the reading has them.
    ///
    /// # Errors
    /// If they can't be asked of the logs.
    pub(super) fn criteria(&self, logs: &Logs) -> anyhow::Result<(Criteria, Map<String, Value>)> {
        let now = Utc::now();
        let path = self
            .path
            .clone()
            .map(|path| sighted(path, &self.path_key, &self.unseal, logs))
            .transpose()?;
        let criteria = Criteria {
            user: self.user.clone(),
            path,
            source: self.source,
            session: self.session.clone(),
            operations: self.op.clone(),
            outcomes: self.outcome.clone(),
            events: self.event.clone(),
            since: self.since.as_ref().map(|since| since.begin(now)),
            until: self.until.as_ref().map(|until| until.end(now)),
        };
        if let (Some(since), Some(until)) = (criteria.since, criteria.until) {
            ensure!(since < until, "--since is not before --until");
        }
        let mut filters = described(&criteria);
        if self.unseal.is_given() {
            filters.insert("unseal".to_owned(), true.into());
        }
        Ok((criteria, filters))
    }
}

impl SearchArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        let (criteria, mut filters) = self.filter.criteria(logs)?;
        if self.follow {
            filters.insert("follow".to_owned(), true.into());
        }
        logs.note_reading("search", filters)?;
        let revealer = self.filter.unseal.revealer()?;
        let filter = Filter::from(criteria);
        let mut results = Results::of(&logs.directories, &filter, revealer.as_ref())?;
        let mut left = self.limit.unwrap_or(u64::MAX);
        loop {
            while left > 0
                && let Some(found) = results.next()
            {
                left -= 1;
                print(&found?, logs, self.json, output)?;
            }
            if left == 0 || !self.follow {
                complain_of_hidden(&filter);
                return Ok(());
            }
            output.flush()?;
            thread::sleep(FOLLOW);
        }
    }
}

pub(super) fn complain_of_hidden(filter: &Filter) {
    if filter.has_passed_over_hidden() {
        complain(
            "records that hide their paths were passed over; give --path-key FILE with the log's journal.path_key_file",
        );
    }
}

/// The pattern for a log that may hide paths.
fn sighted(
    path: PathPattern,
    key: &PathKeyArgs,
    unseal: &UnsealArgs,
    logs: &Logs,
) -> anyhow::Result<PathPattern> {
    let Some(key) = key.key(logs)? else {
        return Ok(if unseal.is_given() {
            path.opened()
        } else {
            path
        });
    };
    match path.clone().with_key(&key) {
        // Slower, since every record has to be opened.
        Err(PatternError::NotOfTokens { .. }) if unseal.is_given() => Ok(path.opened()),
        sighted => Ok(sighted?),
    }
}

fn print(found: &Found, logs: &Logs, json: bool, output: &mut dyn Write) -> anyhow::Result<()> {
    if json {
        writeln!(output, "{}", found.to_json(&logs.directories)?)?;
    } else {
        writeln!(output, "{}", text::line(&found.record, &found.deed))?;
    }
    Ok(())
}

fn described(criteria: &Criteria) -> Map<String, Value> {
    let mut filters = Map::new();
    let list = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
    put(&mut filters, "user", criteria.user.as_ref());
    put(
        &mut filters,
        "path",
        criteria.path.as_ref().map(PathPattern::as_str),
    );
    put(
        &mut filters,
        "source",
        criteria.source.map(|source| source.to_string()),
    );
    put(&mut filters, "session", criteria.session.as_ref());
    put(&mut filters, "op", list(&criteria.operations));
    put(&mut filters, "outcome", list(&criteria.outcomes));
    put(&mut filters, "event", list(&criteria.events));
    put(&mut filters, "since", criteria.since.map(as_recorded));
    put(&mut filters, "until", criteria.until.map(as_recorded));
    filters
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|network| network.trunc())
        .map_err(|_| {
            "expected an address such as 192.0.2.7 or a network such as 192.0.2.0/24".to_owned()
        })
}

/// A session's number, or its beginning.
pub(super) fn session(text: &str) -> Result<String, String> {
    let is_number = (4..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_number {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected 4 to 32 hexadecimal digits of a session's number".to_owned())
    }
}

fn outcome(text: &str) -> Result<String, String> {
    let known = filter::outcomes();
    if known.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected some of {}", known.join(",")))
    }
}

fn lower_case(text: &str) -> Result<String, String> {
    let is_word = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'.');
    if is_word {
        Ok(text.to_owned())
    } else {
        Err("expected words such as open or auth.step".to_owned())
    }
}
