//! The configuration file: read whole, every fault named, nothing assumed.

pub(crate) mod section;
mod sections;
mod sources;
mod values;

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use self::{
    section::Section,
    values::{in_range, interfaces, listen, monitored},
};
pub use self::{
    sections::{Events, JournalSettings, Offers, TcpControl},
    sources::Sources,
};
use crate::{
    bans,
    control::server::Rate,
    datapath::{
        self,
        mode::{AttachMode, TableChoice},
    },
    prefix,
    state::HistoryLimits,
};

/// Where a packaged agent finds its configuration.
pub const DEFAULT_PATH: &str = "/etc/portcullis/agent.toml";
/// Where the control socket is, unless set: a runtime directory that the unit makes.
pub const DEFAULT_SOCKET: &str = "/run/portcullis/agent.sock";
const DEFAULT_STATE_DIR: &str = "/var/lib/portcullis/agent";
const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/portcullis";
const DEFAULT_SIGNING_KEY: &str = "/etc/portcullis/agent-journal.key";
/// Loopback: metrics tell who is being dropped.
const DEFAULT_METRICS: &str = "127.0.0.1:9464";
/// Long enough for an attack, short enough that a mistake heals.
const DEFAULT_MAX_LIFETIME: &str = "24h";
/// Enough for a session of each colleague and some services: a change that cuts more is meant, or a mistake.
const DEFAULT_MAX_CUT_FLOWS: i64 = 10;
/// The longest interface name (`IFNAMSIZ`, with the final zero).
const MAX_INTERFACE_NAME: usize = 15;
const MAX_INTERFACES: usize = 64;

/// Settings that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub interfaces: Vec<String>,
    pub mode: AttachMode,
    pub table: TableChoice,
    /// Policies, monitoring, rate limits and replies.
    pub datapath: datapath::Settings,
    pub state_dir: PathBuf,
    pub pin_dir: PathBuf,
    pub protected: Vec<IpNet>,
    pub control: Control,
    pub bans: bans::Limits,
    /// Live connections that a change may cut without being forced.
    pub max_cut_flows: usize,
    pub history: HistoryLimits,
    pub events: Events,
    pub journal: JournalSettings,
    /// `None` when metrics are off.
    pub metrics: Option<SocketAddr>,
    pub sources: Sources,
}

/// The control interface and who may do what over it. Root may do everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    pub socket: PathBuf,
    pub admin_groups: BTreeSet<u32>,
    pub ban_groups: BTreeSet<u32>,
    pub read_groups: BTreeSet<u32>,
    /// Other daemons of this machine that put a list of their own in force.
    pub offer_groups: BTreeSet<u32>,
    /// What such a list may hold.
    pub offers: Offers,
    /// Requests of one peer.
    pub rate: Rate,
    /// `None` when it is not served over TCP.
    pub tcp: Option<TcpControl>,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, as `section.key` or `key[index]`; empty for the file as a whole.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.key, self.message)
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("read configuration {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("configuration {} has {} fault{}:{}", path.display(), faults.len(), if faults.len() == 1 { "" } else { "s" }, list(faults))]
    Faults { path: PathBuf, faults: Vec<Fault> },
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// If it can't be read, or every fault that it has.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|faults| ConfigError::Faults {
            path: path.to_owned(),
            faults,
        })
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Every fault that it has.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            vec![Fault {
                key: String::new(),
                message: error.to_string().trim_end().to_owned(),
            }]
        })?;
        let mut root = Section::new(String::new(), table);

        let interfaces = interfaces(&mut root);
        let mode = root.choice(
            "mode",
            &[
                ("native", AttachMode::Native),
                ("require-native", AttachMode::RequireNative),
                ("generic", AttachMode::Generic),
            ],
        );
        let table = root.choice(
            "table",
            &[
                ("compiled", TableChoice::Compiled),
                ("lpm", TableChoice::Lpm),
            ],
        );
        let monitored = monitored(&mut root, &interfaces);
        let learn_replies = root.boolean("learn_replies", false);
        let state_dir = root.path("state_dir", DEFAULT_STATE_DIR);
        let pin_dir = root.path("pin_dir", DEFAULT_PIN_DIR);
        let protected = prefixes(&mut root, "protected");

        let control = sections::control(&mut root);
        let bans = sections::bans(&mut root);
        let policy = sections::uncertain(&mut root);
        let rate = sections::rate_limit(&mut root);
        let events = sections::events(&mut root);
        let history = sections::history(&mut root);
        let mut section = root.section("guard");
        let max_cut_flows = section.integer(
            "max_cut_flows",
            DEFAULT_MAX_CUT_FLOWS,
            0,
            i64::from(u32::MAX),
        );
        root.close(section);
        let journal = sections::journal(&mut root, &state_dir);
        let mut section = root.section("metrics");
        let metrics = listen(&mut section);
        root.close(section);

        let sources = sources::read(&mut root);

        let faults = root.finish();
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            interfaces,
            mode,
            table,
            datapath: datapath::Settings {
                policy,
                monitored,
                rate,
                learn_replies,
            },
            state_dir,
            pin_dir,
            protected,
            control,
            bans,
            max_cut_flows: in_range(max_cut_flows),
            history,
            events,
            journal,
            metrics,
            sources,
        })
    }
}

fn prefixes(section: &mut Section, key: &str) -> Vec<IpNet> {
    section.each_string(key, |text| {
        prefix::parse(text).map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests;
