//! Every command and flag.

use std::{net::IpAddr, num::NonZeroU64, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis_audit::time::Moment;

use crate::{
    accounts::{
        AccountName,
        mounts::{RateError, parse_rate},
    },
    commands::{
        account::AccountCommand, audit::AuditCommand, break_glass::BreakGlassCommand,
        group::GroupCommand,
    },
    explain::Verb,
    path::{PathError, VirtualPath},
};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/portcullis/portcullis-proxy.toml";
/// The same for a witness.
pub const DEFAULT_WITNESS_CONFIG: &str = "/etc/portcullis/portcullis-witness.toml";

/// SFTP gateway: two factors, a policy, a durable record, and only then the legacy server.
#[derive(Debug, Parser)]
#[command(name = "portcullis-proxy", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT.
    Run(RunArgs),
    /// Read the configuration and every file it names, print all faults, and start nothing.
    Check(ConfigArgs),
    /// Manage accounts, their factors and mounts.
    Account(AccountArgs),
    /// Manage groups of accounts and their mounts.
    Group(GroupArgs),
    /// Open a sealed account in an emergency, close it, and review what was done.
    BreakGlass(BreakGlassArgs),
    /// Ask the log who did what, and sign for what was seen.
    Audit(AuditArgs),
    /// Let the daemon compare stored files with the log. Exit code: 0 as recorded, 1 findings, 2 not done.
    Verify(VerifyArgs),
    /// Let the daemon work on files that lie encrypted.
    Encryption(EncryptionArgs),
    /// Make and show keys that the gateway proves itself with.
    HostKey {
        #[command(subcommand)]
        command: HostKeyCommand,
    },
    /// Cosign the logs of other nodes, so that one that is cut or rewritten shows.
    Witness(WitnessArgs),
    /// Say which rule decides about a user at a source, and who set it. Exit code: 0 allowed, 1 denied, 2 unknown.
    Explain(ExplainArgs),
    /// Print the SSH algorithms in force.
    PrintPolicy(PrintPolicyArgs),
    /// Print the version.
    Version,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Configuration file.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
pub struct AccountArgs {
    /// Configuration file; only its accounts database and the names of its backends are used.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, global = true)]
    pub config: PathBuf,
    #[command(flatten)]
    pub command: AccountCommand,
}

#[derive(Debug, Args)]
pub struct GroupArgs {
    /// Configuration file; only its accounts database and the names of its backends are used.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, global = true)]
    pub config: PathBuf,
    #[command(flatten)]
    pub command: GroupCommand,
}

#[derive(Debug, Args)]
pub struct BreakGlassArgs {
    /// Configuration file; only its section `[accounts]` is used.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, global = true)]
    pub config: PathBuf,
    #[command(flatten)]
    pub command: BreakGlassCommand,
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Configuration file; only its accounts database and the journal's directory are used.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, global = true)]
    pub config: PathBuf,
    #[command(flatten)]
    pub command: AuditCommand,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Configuration file; only its section `[journal]` is used.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Only the directories that accounts see at this path.
    #[arg(long, value_name = "PATH", value_parser = virtual_path)]
    pub mount: Option<VirtualPath>,
    /// Only this backend.
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Only files that were put there since, such as `24h`, `7d` or `2026-11-22`.
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Bytes a second, such as `50MB/s`; otherwise that of the configuration.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<NonZeroU64>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct EncryptionArgs {
    /// Configuration file; only its section `[journal]` is used.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, global = true)]
    pub config: PathBuf,
    #[command(subcommand)]
    pub command: EncryptionCommand,
}

#[derive(Debug, Subcommand)]
pub enum EncryptionCommand {
    /// Wrap the keys of stored files to the keys that new files are wrapped to. Exit code: 0 all are, 1 some could not be, 2 not done.
    Rotate(WalkArgs),
    /// Encrypt the files of backends with `encryption = "migrating"` that are not. Exit code: 0 all are, 1 some could not be, 2 not done.
    Migrate(WalkArgs),
    /// Destroy one file: its key, so that nobody can decrypt what is left of it, and the file. Exit code: 0 done, 2 not done.
    Shred(ShredArgs),
    /// Destroy a set of keys, `[encryption.NAME]`, so that no file of its backends can be decrypted anywhere. Exit code: 0 done, 1 a key is
    /// left for you, 2 not done. What it can't reach, it names: shares, and copies of key files.
    ShredKeys(ShredKeysArgs),
}

#[derive(Debug, Args)]
pub struct ShredKeysArgs {
    /// Name of the set.
    #[arg(value_name = "NAME")]
    pub set: String,
    /// Why; it is on record.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who approved it; likewise.
    #[arg(long, value_name = "NAME")]
    pub approver: String,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ShredArgs {
    /// Path below the backend's directory.
    pub path: String,
    #[arg(long, value_name = "NAME")]
    pub backend: String,
    /// Why; it is on record.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who approved it; likewise.
    #[arg(long, value_name = "NAME")]
    pub approver: String,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct WalkArgs {
    /// Only this backend.
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Bytes a second, such as `50MB/s`.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<NonZeroU64>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

fn rate(text: &str) -> Result<NonZeroU64, RateError> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    parse_rate(text.strip_suffix('B').unwrap_or(text))
}

#[derive(Debug, Args)]
pub struct WitnessArgs {
    /// Configuration file of the witness.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_WITNESS_CONFIG, global = true)]
    pub config: PathBuf,
    #[command(subcommand)]
    pub command: WitnessCommand,
}

#[derive(Debug, Subcommand)]
pub enum WitnessCommand {
    /// Serve until SIGTERM or SIGINT. The key is made at the first start.
    Serve(LogArgs),
    /// Print the key that others check this witness's cosignatures with; it is made if there is none.
    Key,
    /// Say what is cosigned of each log. Exit code: 1 if a log was changed.
    Status {
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// Form of the log lines on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to log, such as `info` or `portcullis_proxy=debug`.
    #[arg(
        long,
        env = "PORTCULLIS_LOG",
        default_value = "info,russh=warn",
        value_name = "FILTER"
    )]
    pub log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people and the systemd journal.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum HostKeyCommand {
    /// Make an Ed25519 key in FILE (mode 0600) and FILE.pub; an existing file is not replaced.
    Generate {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the fingerprints that partners compare, and lines for their known_hosts.
    Show(ConfigArgs),
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The account.
    #[arg(long, value_name = "NAME")]
    pub user: AccountName,
    /// Where it connects from.
    #[arg(long, value_name = "ADDRESS")]
    pub source: IpAddr,
    /// What it wants to do: list, stat, read, write, overwrite, delete, mkdir, rmdir or setattr.
    #[arg(long, value_name = "OPERATION", requires = "path")]
    pub op: Option<Verb>,
    /// The path that it names.
    #[arg(long, value_name = "PATH", requires = "op", value_parser = virtual_path)]
    pub path: Option<VirtualPath>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

fn virtual_path(text: &str) -> Result<VirtualPath, PathError> {
    VirtualPath::clean(text.as_bytes())
}

#[derive(Debug, Args)]
pub struct PrintPolicyArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[arg(long, value_enum, default_value_t = PolicyFormat::Json)]
    pub format: PolicyFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyFormat {
    Json,
    /// A policy file for `ssh-audit -P`.
    SshAudit,
}
