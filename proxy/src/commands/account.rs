//! `portcullis-proxy account`: who may log in, with what, and to what.
//!
//! Works on the database that the daemon has open; changes take effect at the next login step, and live sessions that lost
//! something end within seconds.

mod limit;
mod listing;
mod login;
mod mount;
mod set;

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use chrono::{NaiveDate, Utc};
use clap::{Args, Subcommand, ValueEnum};
use portcullis_journal::AccountKind;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::json;
use zeroize::Zeroizing;

use self::{
    limit::LimitArgs,
    login::{PromptsArg, Switch, WindowArg},
    mount::MountArgs,
    set::SetArgs,
};
use crate::{
    accounts::{AccountName, Accounts, admission::AccountDefaults},
    auth::{
        Secret,
        flow::{Exception, FactorPolicy},
        password::{self, Hasher},
        public_key, totp,
    },
    config::AccountsConfig,
    path::VirtualPath,
};

/// Longest key file that is read, in bytes.
const KEY_FILE_MAX: u64 = 64 * 1024;

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
        /// Print {"secret", "uri"} instead of a QR code
        #[arg(long)]
        json: bool,
    },
    /// Add a public key
    AddKey {
        name: AccountName,
        /// A `.pub` file, or `-` for standard input
        #[arg(long, value_name = "FILE", required_unless_present = "key")]
        key_file: Option<PathBuf>,
        /// The key itself: `TYPE BASE64 [COMMENT]`
        #[arg(long, value_name = "LINE", conflicts_with = "key_file")]
        key: Option<String>,
    },
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
    /// Say which factors are enough
    Policy {
        name: AccountName,
        #[arg(value_enum)]
        policy: PolicyName,
        /// Why the exception is needed
        #[arg(long, required_if_eq("policy", "possession-pair"))]
        reason: Option<String>,
        /// Who allowed it
        #[arg(long, required_if_eq("policy", "possession-pair"))]
        approver: Option<String>,
        /// Last day, UTC, as YYYY-MM-DD
        #[arg(long, required_if_eq("policy", "possession-pair"))]
        expires: Option<NaiveDate>,
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
}

impl AccountCommand {
    /// Runs the command on the database that `config` names. `backends` are the names that the configuration knows.
    ///
    /// # Errors
    /// If the database can't be used or the change is refused; nothing is changed then.
    pub fn run(self, config: &AccountsConfig, backends: &[String]) -> anyhow::Result<()> {
        let accounts = Accounts::open(&config.database)?;
        let mut streams = Streams {
            input: &mut io::stdin().lock(),
            output: &mut io::stdout().lock(),
        };
        self.action
            .run(&accounts, &config.defaults, backends, &mut streams)
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
        defaults: &AccountDefaults,
        backends: &[String],
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
            Self::List { json } => listing::print(accounts, defaults, json, streams.output)?,
            Self::Show { name, json } => {
                listing::show(accounts, defaults, &name, json, streams.output)?;
            }
            Self::Set { name, changes } => administration.set(&name, &changes.into_changes())?,
            Self::Disable { name } => administration.disable(&name)?,
            Self::Enable { name } => administration.enable(&name)?,
            Self::SetPassword {
                name,
                password_stdin,
            } => {
                let password = if password_stdin {
                    first_line(streams.input)?
                } else {
                    ask_twice()?
                };
                let phc = Hasher::new()?.hash(&password)?;
                administration.set_password(&name, &phc)?;
            }
            Self::EnrollTotp { name, json } => {
                let secret = totp::generate()?;
                administration.enroll_totp(&name, &secret)?;
                show_secret(&name, &secret, json, streams.output)?;
            }
            Self::AddKey {
                name,
                key_file,
                key,
            } => {
                let line = match (key, key_file) {
                    (Some(line), _) => line,
                    (None, Some(file)) => read_key(&file, streams.input)?,
                    (None, None) => bail!("give --key-file or --key"),
                };
                let fingerprint = administration.add_key(&name, &public_key::parse(&line)?)?;
                writeln!(streams.output, "{fingerprint}")?;
            }
            Self::RemoveKey { name, fingerprint } => {
                administration.remove_key(&name, &fingerprint)?;
            }
            Self::Mount { name, mount } => {
                administration.mount(&name, &mount.into_mount(backends)?)?;
            }
            Self::Limit { name, limits } => {
                administration.limit(&name, |before| limits.apply_to(before))?;
            }
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
            } => {
                let policy = match (policy, reason, approver, expires) {
                    (PolicyName::TwoClass, ..) => FactorPolicy::TwoClass,
                    (PolicyName::PossessionPair, Some(reason), Some(approver), Some(expires)) => {
                        possession_pair(reason, approver, expires)?
                    }
                    (PolicyName::PossessionPair, ..) => {
                        bail!("possession-pair needs --reason, --approver and --expires")
                    }
                };
                administration.set_policy(&name, &policy)?;
            }
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

fn place(text: &str) -> anyhow::Result<VirtualPath> {
    ensure!(
        text.starts_with('/'),
        "{text:?} is not an absolute path such as /inbox"
    );
    VirtualPath::clean(text.as_bytes()).with_context(|| format!("{text:?} is not a path"))
}

/// The administrator by number, and who became it.
fn actor() -> String {
    let uid = rustix::process::getuid().as_raw();
    let before: Option<u32> = std::env::var("SUDO_UID")
        .ok()
        .and_then(|uid| uid.parse().ok());
    match before {
        Some(before) => format!("uid:{uid} (sudo by uid:{before})"),
        None => format!("uid:{uid}"),
    }
}

fn first_line(input: &mut dyn Read) -> anyhow::Result<Secret> {
    let limit = u64::try_from(password::MAX_BYTES)? + 2;
    let mut bytes = Zeroizing::new(Vec::with_capacity(password::MAX_BYTES + 2));
    input
        .take(limit)
        .read_to_end(&mut bytes)
        .context("read the password from standard input")?;
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or(&[]);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Secret::from(line.to_vec()))
}

fn ask_twice() -> anyhow::Result<Secret> {
    let ask = |prompt| {
        rpassword::prompt_password(prompt)
            .map(Zeroizing::new)
            .context("read the password from the terminal; use --password-stdin without one")
    };
    let password = ask("New password: ")?;
    let again = ask("Again: ")?;
    ensure!(password == again, "the two passwords differ");
    Ok(Secret::from(password.as_str()))
}

fn read_key(file: &Path, input: &mut dyn Read) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        input.take(KEY_FILE_MAX).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(KEY_FILE_MAX).read_to_string(&mut text))
    }
    .with_context(|| format!("read the public key {}", file.display()))?;
    ensure!(
        !text.contains("PRIVATE KEY"),
        "{} is a private key; give its .pub file",
        file.display()
    );
    let mut keys = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = keys
        .next()
        .with_context(|| format!("{} has no key", file.display()))?;
    ensure!(
        keys.next().is_none(),
        "{} has more than one key; add them one by one",
        file.display()
    );
    Ok(first.to_owned())
}

fn show_secret(
    name: &AccountName,
    secret: &Secret,
    json: bool,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let uri = totp::uri(secret, name.as_str());
    let base32 = totp::base32(secret);
    if json {
        let line = Zeroizing::new(json!({ "secret": *base32, "uri": *uri }).to_string());
        writeln!(output, "{}", *line)?;
        return Ok(());
    }
    let code = QrCode::with_error_correction_level(uri.as_bytes(), EcLevel::L)
        .context("draw the QR code")?;
    // Terminals are dark: the light modules are the ones to draw.
    let drawing = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    writeln!(output, "{drawing}\n\n{}\nsecret: {}", *uri, *base32)?;
    writeln!(
        output,
        "Scan it with an authenticator app; it is not shown again."
    )?;
    Ok(())
}

#[cfg(test)]
mod tests;
