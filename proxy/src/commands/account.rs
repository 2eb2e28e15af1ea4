//! `portcullis-proxy account`: who may log in, with what, and to what.
//!
//! Works on the database that the daemon has open; changes take effect at the next login step, and live sessions that lost
//! something end within seconds.

mod bulk;
mod effective;
mod enrolment;
mod factors;
mod key;
mod limit;
mod listing;
mod login;
mod machine;
pub(super) mod mount;
mod remote;
mod set;

use std::io::{self, Read, Write};

use anyhow::{Context as _, bail, ensure};
use chrono::{NaiveDate, Utc};
use clap::{Args, Subcommand, ValueEnum};
use portcullis_journal::AccountKind;
use serde_json::json;

use self::{
    bulk::{FormatName, ImportArgs},
    enrolment::Validity,
    key::{AddKeyArgs, KeyArgs},
    limit::LimitArgs,
    login::{PromptsArg, Switch, WindowArg},
    machine::DirectionName,
    mount::MountArgs,
    remote::{PasswordSourceArgs, SecondFactorArgs},
    set::SetArgs,
};
use crate::{
    accounts::{AccountName, Accounts, mounts},
    auth::{flow::FactorPolicy, totp::Algorithm},
    config::AccountCommandsConfig,
    exception::Exception,
    path::VirtualPath,
};

/// Manage accounts, their factors and mounts
#[derive(Debug, Args)]
pub struct AccountCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an account; it can't log in before it has two factors
    Add {
        /// 1 to 32 of a-z, 0-9, '.', '_', '-'
        name: AccountName,
        #[arg(long, value_enum, default_value_t = Kind::Human)]
        kind: Kind,
        /// Who answers for the account
        #[arg(long)]
        owner: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Show all accounts
    List {
        #[arg(long)]
        json: bool,
    },
    /// Show one account
    Show {
        name: AccountName,
        #[arg(long)]
        json: bool,
    },
    /// Print all accounts without their secrets, as `account import` reads them
    Export {
        #[arg(long, value_enum, default_value_t = FormatName::Json)]
        format: FormatName,
    },
    /// Make the accounts of a CSV or JSON file: all, or none if there is any fault
    Import(ImportArgs),
    /// Show what the account may do and which rule says so, on each mount or at one path
    Effective {
        name: AccountName,
        /// As the account sees it, such as /inbox/a.csv
        #[arg(long)]
        path: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Say who answers for the account and what narrows its use; sessions that it does not admit any more end
    Set {
        name: AccountName,
        #[command(flatten)]
        changes: SetArgs,
    },
    /// Admit no more logins and end the account's sessions within seconds
    Disable { name: AccountName },
    /// Admit logins again, also after too many idle days
    Enable { name: AccountName },
    /// Set the password
    SetPassword {
        name: AccountName,
        /// Read the password from the first line of standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
    },
    /// Enrol a new authenticator for one-time codes, in place of any other; the secret is shown this once
    EnrollTotp {
        name: AccountName,
        /// sha1, sha256 or sha512; many apps know the first only
        #[arg(long, default_value = "sha1")]
        algorithm: Algorithm,
        /// Length of a code: 6 or 8
        #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(6..=8))]
        digits: u8,
        /// Print {"secret", "uri"} instead of a QR code
        #[arg(long)]
        json: bool,
    },
    /// Issue a single-use token with which the user enrols an authenticator over SSH; it is shown this once
    IssueToken {
        name: AccountName,
        /// How long it can be used: 1m to 24h, 15m if left out
        #[arg(long, value_name = "TIME", value_parser = enrolment::validity)]
        valid: Option<Validity>,
        /// Print {"token", "expires"}
        #[arg(long)]
        json: bool,
    },
    /// Learn how far an authenticator's clock is off, from two codes in a row, and forget wrong ones
    ResyncTotp {
        name: AccountName,
        /// Read the codes from the first two lines of standard input instead of asking for them
        #[arg(long)]
        codes_stdin: bool,
    },
    /// Make ten recovery codes, in place of any others; they are shown this once
    IssueRecoveryCodes {
        name: AccountName,
        /// Print a list of texts
        #[arg(long)]
        json: bool,
    },
    /// After the database was restored from a backup: refuse codes that may be spent, void all recovery codes, end sessions
    AfterRestore,
    /// Add a public key
    AddKey(AddKeyArgs),
    /// Change where and until when a key may be used; sessions end if it becomes narrower
    Key(KeyArgs),
    /// Remove a public key
    RemoveKey {
        name: AccountName,
        /// As `account list --json` shows it: SHA256:...
        fingerprint: String,
    },
    /// Show a backend's directory to the account, in place of what was at that path
    Mount {
        name: AccountName,
        #[command(flatten)]
        mount: MountArgs,
    },
    /// Set or remove limits that hold over all sessions and mounts; sessions end if one becomes narrower
    Limit {
        name: AccountName,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Take a mount away and end the account's sessions
    Unmount { name: AccountName, at: String },
    /// Say how keyboard-interactive asks for password and one-time password
    Prompts {
        name: AccountName,
        #[arg(value_enum)]
        prompts: PromptsArg,
    },
    /// Let the six digits of the one-time password stand behind the password, for clients that can ask for one text only
    AppendedCode {
        name: AccountName,
        #[arg(value_enum)]
        state: Switch,
    },
    /// Let a key in alone for some time after it logged in with a second class, from the same address
    MfaWindow {
        name: AccountName,
        /// 15m to 8h, or `off`
        #[arg(value_parser = login::window)]
        length: WindowArg,
    },
    /// Close the windows that are open, and end the sessions that came in through one
    ForgetWindow { name: AccountName },
    /// Say who judges the account's one-time codes; sessions end
    SecondFactor(SecondFactorArgs),
    /// Say who judges the account's password; sessions end
    PasswordSource(PasswordSourceArgs),
    /// Say which factors are enough
    Policy {
        name: AccountName,
        #[arg(value_enum)]
        policy: PolicyName,
        /// Why the exception is needed
        #[arg(long, required_if_eq_any([("policy", "possession-pair"), ("policy", "machine")]))]
        reason: Option<String>,
        /// Who allowed it
        #[arg(long, required_if_eq_any([("policy", "possession-pair"), ("policy", "machine")]))]
        approver: Option<String>,
        /// Last day, UTC, as YYYY-MM-DD
        #[arg(long, required_if_eq_any([("policy", "possession-pair"), ("policy", "machine")]))]
        expires: Option<NaiveDate>,
        /// Which way files go
        #[arg(long, value_enum, required_if_eq("policy", "machine"))]
        direction: Option<DirectionName>,
        /// Bytes that it may move between two midnights, UTC, such as 5G
        #[arg(long, value_name = "SIZE", value_parser = mounts::parse_size, required_if_eq("policy", "machine"))]
        daily_volume: Option<u64>,
    },
    /// List machine accounts with owner, end, controls, volumes, last login, and what is missing
    MachineReport {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Human,
    Machine,
    /// For emergencies; never idle for too long
    BreakGlass,
    Admin,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PolicyName {
    /// Two different classes: password and key, or password and code
    TwoClass,
    /// Also key and code, which are both possession: a dated exception
    PossessionPair,
    /// A key alone, for a machine account with every compensating control: a dated exception, at most 90 days
    Machine,
}

impl AccountCommand {
    /// Runs the command on the database that the configuration names.
    ///
    /// # Errors
    /// If the database can't be used or the change is refused; nothing is changed then.
    pub fn run(self, config: AccountCommandsConfig) -> anyhow::Result<()> {
        let accounts = Accounts::open(&config.accounts.database)?;
        let mut streams = Streams {
            input: &mut io::stdin().lock(),
            output: &mut io::stdout().lock(),
        };
        self.action.run(&accounts, config, &mut streams)
    }
}

struct Streams<'a> {
    input: &'a mut dyn Read,
    output: &'a mut dyn Write,
}

impl Action {
    fn run(
        self,
        accounts: &Accounts,
        config: AccountCommandsConfig,
        streams: &mut Streams<'_>,
    ) -> anyhow::Result<()> {
        let administration = accounts.administer(actor());
        match self {
            Self::Add {
                name,
                kind,
                owner,
                json,
            } => {
                let kind = match kind {
                    Kind::Human => AccountKind::Human,
                    Kind::Machine => AccountKind::Machine,
                    Kind::BreakGlass => AccountKind::BreakGlass,
                    Kind::Admin => AccountKind::Admin,
                };
                let uid = administration.add(&name, kind, owner.as_deref())?;
                if json {
                    let account = json!({ "uid": uid.0, "name": name.as_str() });
                    writeln!(streams.output, "{account}")?;
                } else {
                    writeln!(streams.output, "account {name} added")?;
                }
            }
            Self::List { json } => {
                listing::print(accounts, &config.accounts.defaults, json, streams.output)?
            }
            Self::Show { name, json } => {
                listing::show(
                    accounts,
                    &config.accounts.defaults,
                    &name,
                    json,
                    streams.output,
                )?;
            }
            Self::Export { format } => bulk::export(accounts, format, streams.output)?,
            Self::Import(import) => {
                import.run(&administration, &config.backends, config.key_rules, streams)?;
            }
            Self::Effective { name, path, json } => {
                effective::print(accounts, &name, path.as_deref(), json, streams.output)?;
            }
            Self::Set { name, changes } => administration.set(&name, &changes.into_changes())?,
            Self::Disable { name } => administration.disable(&name)?,
            Self::Enable { name } => administration.enable(&name)?,
            Self::SetPassword {
                name,
                password_stdin,
            } => {
                let policy = &config.auth?.password;
                factors::set_password(
                    accounts,
                    &administration,
                    &name,
                    policy,
                    password_stdin,
                    streams,
                )?;
            }
            Self::IssueToken { name, valid, json } => {
                let valid = valid.unwrap_or_default();
                enrolment::issue(&administration, &name, valid, json, streams.output)?;
            }
            Self::EnrollTotp {
                name,
                algorithm,
                digits,
                json,
            } => factors::enroll_totp(&administration, &name, algorithm, digits, json, streams)?,
            Self::ResyncTotp { name, codes_stdin } => {
                factors::resync_totp(&administration, &name, codes_stdin, streams)?;
            }
            Self::IssueRecoveryCodes { name, json } => {
                let cost = config.auth?.password.cost;
                factors::issue_recovery_codes(&administration, &name, cost, json, streams)?;
            }
            Self::AfterRestore => factors::after_restore(&administration, streams)?,
            Self::AddKey(key) => {
                key.run(
                    &administration,
                    config.key_rules,
                    streams.input,
                    streams.output,
                )?;
            }
            Self::Key(key) => key.run(&administration)?,
            Self::RemoveKey { name, fingerprint } => {
                administration.remove_key(&name, &fingerprint)?;
            }
            Self::Mount { name, mount } => {
                administration.mount(&name, &mount.into_mount(&config.backends)?)?;
            }
            Self::Limit { name, limits } => {
                administration.limit(&name, |before| limits.apply_to(before))?;
            }
            Self::SecondFactor(arguments) => arguments.run(&administration)?,
            Self::PasswordSource(arguments) => arguments.run(&administration)?,
            Self::Unmount { name, at } => administration.unmount(&name, &place(&at)?)?,
            Self::Prompts { name, prompts } => {
                administration.set_prompts(&name, prompts.into_option())?;
            }
            Self::AppendedCode { name, state } => {
                administration.set_appended_code(&name, state.is_on())?;
            }
            Self::MfaWindow { name, length } => administration.set_mfa_window(&name, length.0)?,
            Self::ForgetWindow { name } => administration.forget_window(&name)?,
            Self::Policy {
                name,
                policy,
                reason,
                approver,
                expires,
                direction,
                daily_volume,
            } => {
                if let PolicyName::Machine = policy {
                    let exception = (reason, approver, expires);
                    let policy = machine::policy(exception, direction, daily_volume)?;
                    administration.set_machine_policy(&name, &policy, Utc::now())?;
                    return Ok(());
                }
                let policy = match (policy, reason, approver, expires) {
                    (PolicyName::TwoClass, ..) => FactorPolicy::TwoClass,
                    (PolicyName::PossessionPair, Some(reason), Some(approver), Some(expires)) => {
                        possession_pair(reason, approver, expires)?
                    }
                    (PolicyName::PossessionPair | PolicyName::Machine, ..) => {
                        bail!("an exception needs --reason, --approver and --expires")
                    }
                };
                administration.set_policy(&name, &policy)?;
            }
            Self::MachineReport { json } => machine::report(accounts, json, streams.output)?,
        }
        Ok(())
    }
}

fn possession_pair(
    reason: String,
    approver: String,
    expires: NaiveDate,
) -> anyhow::Result<FactorPolicy> {
    ensure!(
        !reason.trim().is_empty() && !approver.trim().is_empty(),
        "--reason and --approver must say something"
    );
    ensure!(
        expires >= Utc::now().date_naive(),
        "--expires {expires} has passed"
    );
    Ok(FactorPolicy::PossessionPair(Exception {
        reason,
        approver,
        expires,
    }))
}

pub(super) fn place(text: &str) -> anyhow::Result<VirtualPath> {
    ensure!(
        text.starts_with('/'),
        "{text:?} is not an absolute path such as /inbox"
    );
    VirtualPath::clean(text.as_bytes()).with_context(|| format!("{text:?} is not a path"))
}

/// The administrator by number, and who became it.
pub(super) fn actor() -> String {
    let uid = rustix::process::getuid().as_raw();
    let before: Option<u32> = std::env::var("SUDO_UID")
        .ok()
        .and_then(|uid| uid.parse().ok());
    match before {
        Some(before) => format!("uid:{uid} (sudo by uid:{before})"),
        None => format!("uid:{uid}"),
    }
}

#[cfg(test)]
mod tests;
