//! `portcullis-proxy break-glass`: opens a sealed account in an emergency, closes it, and notes the review.
//!
//! Two custodians prove themselves at the terminal. An opening holds once the daemon has it in the journal; where it can't,
//! the opening is taken back and the command fails.

use std::{
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::account::actor;
use crate::{
    accounts::{
        AccountName, Accounts,
        break_glass::{NoteId, Opening, OpeningRequest, Seal},
    },
    auth::{
        Secret,
        break_glass::{Custodian, prove},
        password::Hasher,
    },
    config::AccountCommandsConfig,
};

/// How long the daemon gets to put a note on record; it looks every second.
pub(super) const RECORD_DEADLINE: Duration = Duration::from_secs(15);
/// How often it is looked whether it did.
const RECORD_CHECK: Duration = Duration::from_millis(100);

/// Open a sealed account in an emergency, close it, and review what was done
#[derive(Debug, Args)]
pub struct BreakGlassCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Admit logins of a sealed account for a time; asks both custodians for password and code
    Open {
        name: AccountName,
        /// What the emergency is
        #[arg(long)]
        reason: String,
        /// When it ends: a time such as 2026-11-22T23:00:00Z, or how long from now, such as 4h or 90m
        #[arg(long, value_name = "TIME", value_parser = end)]
        until: End,
        /// An account of the kind admin; to be given twice, for two people
        #[arg(long, value_name = "NAME", required = true)]
        custodian: Vec<AccountName>,
    },
    /// Seal an open account and end its sessions within seconds
    Close { name: AccountName },
    /// Note what a look at the records of the last opening found; before that the account can't be opened again
    Review {
        name: AccountName,
        /// Who looked; not one of the custodians
        #[arg(long, value_name = "PERSON")]
        reviewer: String,
        /// What was found
        #[arg(long)]
        note: String,
    },
    /// Show every break-glass account and its last opening
    Status {
        #[arg(long)]
        json: bool,
    },
}

/// When an opening ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    At(DateTime<Utc>),
    In(TimeDelta),
}

impl End {
    fn from(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(time) => time,
            Self::In(span) => now + span,
        }
    }
}

fn end(text: &str) -> Result<End, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(End::At(time.to_utc()));
    }
    let wrong = || "expected a time such as 2026-11-22T23:00:00Z, or 4h or 90m".to_owned();
    let (number, minutes) = match (text.strip_suffix('h'), text.strip_suffix('m')) {
        (Some(hours), _) => (hours, 60),
        (_, Some(minutes)) => (minutes, 1),
        (None, None) => return Err(wrong()),
    };
    let number: u16 = number.parse().map_err(|_| wrong())?;
    Ok(End::In(TimeDelta::minutes(i64::from(number) * minutes)))
}

/// Asks at the terminal, without echo.
type Ask<'a> = &'a mut dyn FnMut(&str) -> anyhow::Result<Secret>;

impl BreakGlassCommand {
    /// # Errors
    /// If the database can't be used or the change is refused.
    pub fn run(self, config: AccountCommandsConfig) -> anyhow::Result<()> {
        let max_age = match self.action {
            Action::Open { .. } => config.auth?.password.max_age,
            Action::Close { .. } | Action::Review { .. } | Action::Status { .. } => None,
        };
        let accounts = Accounts::open(&config.accounts.database)?;
        let mut ask = |prompt: &str| {
            rpassword::prompt_password(prompt)
                .map(Zeroizing::new)
                .map(|answer| Secret::from(answer.as_str()))
                .context("ask the custodians: this needs a terminal")
        };
        self.action.run(
            &accounts,
            (config.accounts.break_glass_longest, max_age),
            &mut ask,
            RECORD_DEADLINE,
            &mut io::stdout().lock(),
        )
    }
}

impl Action {
    fn run(
        self,
        accounts: &Accounts,
        (longest, max_age): (TimeDelta, Option<TimeDelta>),
        ask: Ask<'_>,
        patience: Duration,
        output: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let administration = accounts.administer(actor());
        match self {
            Self::Open {
                name,
                reason,
                until,
                custodian,
            } => {
                ensure!(!reason.trim().is_empty(), "--reason must say something");
                let [one, other] = <[AccountName; 2]>::try_from(custodian)
                    .ok()
                    .filter(|[one, other]| one != other)
                    .context("give --custodian twice, for two people")?;
                ensure!(
                    name != one && name != other,
                    "{name} can't be a custodian of itself"
                );
                let hasher = Hasher::new()?;
                let mut prove = |who: &AccountName| {
                    ask_custodian(accounts, (&hasher, max_age), &name, who, ask)
                };
                let (one, other) = (prove(&one)?, prove(&other)?);
                let now = Utc::now();
                let request = OpeningRequest {
                    reason: &reason,
                    custodians: [&one, &other],
                    until: until.from(now),
                    longest,
                };
                let (opening, note) = administration.open_break_glass(&name, &request, now)?;
                if !becomes_durable(accounts, note, patience)? {
                    administration.withdraw_break_glass(&name, opening)?;
                    bail!(
                        "{name} stays sealed: the gateway did not put the opening on record within {} s; \
                         see whether it runs and whether its journal can be written",
                        patience.as_secs()
                    );
                }
                writeln!(
                    output,
                    "{name} is open until {}; it logs in with its own two factors",
                    timestamp(request.until)
                )?;
            }
            Self::Close { name } => {
                administration.close_break_glass(&name, Utc::now())?;
                writeln!(output, "{name} is sealed; its opening waits for a review")?;
            }
            Self::Review {
                name,
                reviewer,
                note,
            } => {
                ensure!(
                    !reviewer.trim().is_empty() && !note.trim().is_empty(),
                    "--reviewer and --note must say something"
                );
                administration.review_break_glass(&name, &reviewer, &note, Utc::now())?;
            }
            Self::Status { json } => status(&accounts.break_glass(Utc::now())?, json, output)?,
        }
        Ok(())
    }
}

fn ask_custodian(
    accounts: &Accounts,
    (hasher, max_age): (&Hasher, Option<TimeDelta>),
    account: &AccountName,
    who: &AccountName,
    ask: Ask<'_>,
) -> anyhow::Result<Custodian> {
    let password = ask(&format!("Password of {who}: "))?;
    let code = ask(&format!("One-time password of {who}: "))?;
    let now = Utc::now();
    prove(accounts, hasher, who, (&password, &code), max_age, now).map_err(|error| {
        let noted = accounts
            .administer(actor())
            .refuse_custodian(account, who, error.code());
        match noted {
            Ok(()) => error.into(),
            Err(unnoted) => anyhow::Error::from(unnoted).context(error),
        }
    })
}

/// True once the daemon has the note on record; false if that takes longer.
pub(super) fn becomes_durable(
    accounts: &Accounts,
    note: NoteId,
    patience: Duration,
) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        if accounts.is_on_record(note)? {
            return Ok(true);
        }
        if begun.elapsed() >= patience {
            return Ok(false);
        }
        thread::sleep(RECORD_CHECK);
    }
}

fn status(
    listed: &[(String, Seal, Option<Opening>)],
    json: bool,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    if json {
        let all: Vec<Value> = listed
            .iter()
            .map(|(name, seal, last)| {
                json!({
                    "name": name,
                    "state": seal.name(),
                    "last_opening": last.as_ref().map(describe),
                })
            })
            .collect();
        writeln!(output, "{}", Value::from(all))?;
        return Ok(());
    }
    for (name, seal, last) in listed {
        writeln!(output, "{name}: {}", seal.name())?;
        if let Some(last) = last {
            let [one, other] = &last.custodians;
            writeln!(
                output,
                "  opened {} until {} by {one} and {other}: {}",
                timestamp(last.opened),
                timestamp(last.until),
                last.reason
            )?;
            if let Some((at, how)) = &last.ended {
                writeln!(output, "  {how} {}", timestamp(*at))?;
            }
            if let Some((reviewer, finding)) = &last.review {
                writeln!(output, "  reviewed by {reviewer}: {finding}")?;
            }
        }
    }
    Ok(())
}

fn describe(opening: &Opening) -> Value {
    let ended = opening.ended.as_ref();
    let review = opening.review.as_ref();
    json!({
        "id": opening.id.0,
        "reason": opening.reason,
        "custodians": opening.custodians,
        "opened": timestamp(opening.opened),
        "until": timestamp(opening.until),
        "on_record": opening.on_record,
        "ended": ended.map(|(at, _)| timestamp(*at)),
        "ended_how": ended.map(|(_, how)| how),
        "reviewer": review.map(|(reviewer, _)| reviewer),
        "finding": review.map(|(_, finding)| finding),
    })
}

fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests;
