//! Every command and flag.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{config, datapath::mode::AttachMode, prefix};

/// Drops packets of strangers at the network interface, before the kernel's network stack sees them.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 78 bad configuration.
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
    /// Show interfaces, lists and counters.
    Status,
    /// Show or change the allowlist. A change holds for every packet when the command returns.
    #[command(subcommand)]
    Allow(AllowCommand),
    /// Cut a source off for a while. Protected addresses can't be banned.
    Ban(BanArguments),
    /// Lift a ban.
    Unban {
        /// The address or prefix as it was banned.
        source: String,
    },
    /// List the bans.
    Bans,
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
    /// Put prefixes on the list.
    Add {
        /// Addresses or prefixes.
        #[arg(required = true, value_name = "ADDRESS|CIDR")]
        prefixes: Vec<String>,
        /// What to remember about them.
        #[arg(long)]
        comment: Option<String>,
    },
    /// Take prefixes off the list, exactly as `list` shows them.
    Remove {
        /// Addresses or prefixes.
        #[arg(required = true, value_name = "ADDRESS|CIDR")]
        prefixes: Vec<String>,
    },
    /// Print the list, in the form that `replace` reads.
    List,
    /// Make the list what FILE says, all at once: one prefix a line, `#` begins a comment, `-` is standard input.
    Replace {
        file: PathBuf,
        /// Allow an empty file, which leaves only protected sources.
        #[arg(long)]
        empty: bool,
    },
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
