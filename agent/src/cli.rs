//! Every command and flag.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{config, datapath::mode::AttachMode, prefix};

/// Drops packets of strangers at the network interface, before the kernel's network stack sees them.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused (see --force) or would be dropped (`why`), 4 the daemon does not answer,
/// 78 bad configuration.
#[derive(Debug, Parser)]
#[command(name = "portcullis-agent", version)]
pub struct Cli {
    /// The daemon's control socket.
    #[arg(long, global = true, value_name = "PATH", default_value = config::DEFAULT_SOCKET, env = "PORTCULLIS_AGENT_SOCKET")]
    pub socket: PathBuf,
    /// Print one JSON value (`watch`: one a line) for machines.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground.
    Run(ConfigFile),
    /// Check a configuration and name every fault, without starting anything.
    Check(ConfigFile),
    /// Show interfaces, lists and counters; of a dead daemon, since when, and that enforcement goes on.
    Status(ConfigFile),
    /// Show or change the allowlist. A change holds for every packet when the command returns.
    #[command(subcommand)]
    Allow(AllowCommand),
    /// Cut a source off for a while. Protected addresses can't be banned.
    Ban(BanArguments),
    /// Lift a ban.
    Unban {
        /// The address or prefix as it was banned.
        source: String,
        #[command(flatten)]
        grounds: Grounds,
    },
    /// List the bans.
    Bans,
    /// Say what becomes of a packet from this address, and why: asks the loaded program. Exit code 3 if it would be dropped.
    Why(WhyArguments),
    /// Show drops as they happen: a sample, capped in the kernel. Counters in `status` count all.
    Watch(WatchArguments),
    /// Show rates by reason and the most dropped sources, once a second.
    Top(TopArguments),
    /// Examine an interface and this host before anything is attached. Only asks; needs no daemon.
    Doctor(DoctorArguments),
    /// Remove links and maps from the kernel: ENDS ENFORCEMENT, every packet reaches the host. The daemon must be stopped.
    Unload(UnloadArguments),
}

#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum AllowCommand {
    /// Put prefixes on the manual list.
    Add(AddArguments),
    /// Take prefixes out of wider ones that are allowed.
    Deny(AddArguments),
    /// Take prefixes off the manual list, exactly as `list` shows them, whatever their scopes.
    Remove {
        /// Addresses or prefixes.
        #[arg(required = true, value_name = "ADDRESS|CIDR")]
        prefixes: Vec<String>,
        #[command(flatten)]
        terms: ChangeTerms,
    },
    /// Print the entries, in a form that `replace` reads.
    List {
        /// Only of this list, such as manual or file:partner.txt.
        #[arg(long, value_name = "NAME")]
        list: Option<String>,
        #[arg(long, value_enum, default_value = "text")]
        format: ListFormat,
    },
    /// Print all entries, with their lists, and all bans, as JSON.
    Export,
    /// Make the manual list what FILE says, all at once: text, CSV or JSON; `-` is standard input.
    Replace {
        file: PathBuf,
        /// Allow an empty file, which leaves only other lists and protected sources.
        #[arg(long)]
        empty: bool,
        /// How FILE is written; by its name or content unless set.
        #[arg(long, value_enum, default_value = "auto")]
        format: FileFormat,
        #[command(flatten)]
        terms: ChangeTerms,
    },
    /// Let the change that waits for its confirmation stay.
    Confirm(Grounds),
    /// Take back the change that waits for its confirmation.
    Revert(Grounds),
    /// List the revisions: when, who, why, and what changed.
    History,
    /// Show what changed from one revision to another.
    Diff { from: u64, to: u64 },
    /// Put in force what a feed holds back since it changes too much at once (`status` says so).
    Accept {
        /// The feed's name, as in the configuration.
        feed: String,
    },
    /// Go back to the lists of an earlier revision.
    Rollback {
        revision: u64,
        #[command(flatten)]
        terms: ChangeTerms,
    },
}

#[derive(Debug, Args)]
pub struct AddArguments {
    /// Addresses or prefixes.
    #[arg(required = true, value_name = "ADDRESS|CIDR")]
    pub prefixes: Vec<String>,
    /// Protocols and ports that they may use, such as tcp/22,udp/5000-5010; all if not given.
    #[arg(long)]
    pub scope: Option<String>,
    /// Whom to ask about them.
    #[arg(long)]
    pub owner: Option<String>,
    /// What to remember about them.
    #[arg(long)]
    pub comment: Option<String>,
    /// Until when: a date (its end, UTC), a time of RFC 3339, or a duration such as 90d.
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    #[command(flatten)]
    pub terms: ChangeTerms,
}

/// How a change is to be made.
#[derive(Debug, Clone, Default, Args)]
pub struct ChangeTerms {
    #[command(flatten)]
    pub grounds: Grounds,
    /// Only show what it would do.
    #[arg(long)]
    pub dry_run: bool,
    /// Also if it cuts live sessions, or lets everybody in.
    #[arg(long)]
    pub force: bool,
    /// Take it back by itself unless `allow confirm` comes within this time.
    #[arg(long, value_name = "TIME", value_parser = prefix::parse_duration)]
    pub confirm_within: Option<Duration>,
    /// Look at passing traffic for so long first, to name the sources that would be cut.
    #[arg(long, value_name = "TIME", value_parser = prefix::parse_duration)]
    pub observe: Option<Duration>,
    /// Only if the lists are still at this revision.
    #[arg(long, value_name = "REVISION")]
    pub if_revision: Option<u64>,
}

/// For the journal and the history.
#[derive(Debug, Clone, Default, Args)]
pub struct Grounds {
    /// Why.
    #[arg(long)]
    pub reason: Option<String>,
    /// Who asked for it, or where that is written.
    #[arg(long)]
    pub ticket: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ListFormat {
    Text,
    Csv,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FileFormat {
    Auto,
    Text,
    Csv,
    Json,
}

#[derive(Debug, Args)]
pub struct BanArguments {
    /// Whom to ban.
    #[arg(value_name = "ADDRESS|CIDR")]
    pub source: String,
    /// For how long: 90s, 10m, 12h, 7d.
    #[arg(long = "for", value_name = "TIME", value_parser = prefix::parse_duration)]
    pub lifetime: Duration,
    /// What to put on record.
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Who asked for it, or where that is written.
    #[arg(long)]
    pub ticket: Option<String>,
    /// Also if it cuts live sessions.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct WhyArguments {
    /// The source address.
    pub address: String,
    /// The protocol: a name such as udp, or a number. TCP if not given.
    #[arg(long)]
    pub proto: Option<String>,
    /// The destination port.
    #[arg(long)]
    pub port: Option<u16>,
    /// The source port, as of a server whose reply it is.
    #[arg(long, value_name = "PORT")]
    pub from_port: Option<u16>,
    /// The destination address; this host's own if not given.
    #[arg(long, value_name = "ADDRESS")]
    pub to: Option<String>,
    /// VLAN tags of the frame, the outermost first.
    #[arg(long, value_name = "ID[,ID]")]
    pub vlan: Option<String>,
    /// A TCP packet that opens a connection.
    #[arg(long)]
    pub syn: bool,
    /// A later fragment, which has no ports.
    #[arg(long)]
    pub fragment: bool,
    /// Only as if it came in on this interface.
    #[arg(long)]
    pub interface: Option<String>,
}

/// Which drops to show. All that is given must hold; the daemon sends nothing else.
#[derive(Debug, Default, Args)]
pub struct WatchArguments {
    /// Only from this address or prefix.
    #[arg(long, value_name = "ADDRESS|CIDR")]
    pub source: Option<String>,
    /// Only for these reasons, as `status` names them.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    pub reason: Vec<String>,
    /// Only to this destination port.
    #[arg(long)]
    pub port: Option<u16>,
    /// Only of this protocol: a name such as tcp, or a number.
    #[arg(long)]
    pub proto: Option<String>,
    /// Only from this interface.
    #[arg(long)]
    pub interface: Option<String>,
    /// Only what monitor mode let pass.
    #[arg(long, conflicts_with = "dropped")]
    pub monitored: bool,
    /// Only what was really dropped.
    #[arg(long)]
    pub dropped: bool,
    /// End after so many.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// End after this time: 30s, 10m.
    #[arg(long = "for", value_name = "TIME", value_parser = prefix::parse_duration)]
    pub lasting: Option<Duration>,
    /// Also write the packets' first bytes into a capture that tcpdump and Wireshark read; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct TopArguments {
    /// Print one frame and end.
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
pub struct UnloadArguments {
    #[command(flatten)]
    pub file: ConfigFile,
    /// Yes, end enforcement: from then on every packet reaches the host.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// The interface.
    #[arg(value_name = "NIC")]
    pub interface: String,
    /// How the program is to be attached: native, require-native or generic, as in the configuration.
    #[arg(long, default_value = "native", value_parser = AttachMode::parse)]
    pub mode: AttachMode,
}
