//! The configuration file: read whole, every fault named, nothing assumed.

mod section;
mod sources;

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use agent_ebpf::verdict::Policy;
use ipnet::IpNet;

use self::section::Section;
pub use self::sources::Sources;
use crate::{bans, datapath::mode::AttachMode, prefix};

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
const DEFAULT_MAX_BANS: i64 = 16_384;
const DEFAULT_WIDEST_IPV4: i64 = 24;
const DEFAULT_WIDEST_IPV6: i64 = 48;
/// Every drop is a candidate: a single stray packet is seen, and the cap holds under a flood.
const DEFAULT_SAMPLE: i64 = 1;
const DEFAULT_EVENTS: i64 = 500;
/// The longest interface name (`IFNAMSIZ`, with the final zero).
const MAX_INTERFACE_NAME: usize = 15;
const MAX_INTERFACES: usize = 64;

/// Settings that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub interfaces: Vec<String>,
    pub mode: AttachMode,
    pub policy: Policy,
    pub monitor: bool,
    pub state_dir: PathBuf,
    pub pin_dir: PathBuf,
    pub protected: Vec<IpNet>,
    pub control: Control,
    pub bans: bans::Limits,
    pub events: Events,
    pub journal: JournalSettings,
    /// `None` when metrics are off.
    pub metrics: Option<SocketAddr>,
    pub sources: Sources,
}

/// The control socket and who may do what over it. Root may do everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    pub socket: PathBuf,
    pub admin_groups: BTreeSet<u32>,
    pub ban_groups: BTreeSet<u32>,
    pub read_groups: BTreeSet<u32>,
}

/// How many drops are reported one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    pub sample_one_in: u32,
    pub per_second: u32,
}

/// Where changes are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalSettings {
    pub directory: PathBuf,
    pub signing_key: PathBuf,
    pub node: String,
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
        let monitor = root.boolean("monitor", false);
        let state_dir = root.path("state_dir", DEFAULT_STATE_DIR);
        let pin_dir = root.path("pin_dir", DEFAULT_PIN_DIR);
        let protected = root.each_string("protected", |text| {
            prefix::parse(text).map_err(|error| error.to_string())
        });

        let mut control = root.section("control");
        let socket = control.path("socket", DEFAULT_SOCKET);
        let admin_groups = groups(&mut control, "admin_groups");
        let ban_groups = groups(&mut control, "ban_groups");
        let read_groups = groups(&mut control, "read_groups");
        root.close(control);

        let mut section = root.section("bans");
        let max_lifetime = lifetime(&mut section);
        let max_entries = section.integer("max_entries", DEFAULT_MAX_BANS, 1, MAX_BANS);
        let widest_ipv4 = section.integer("widest_ipv4", DEFAULT_WIDEST_IPV4, 8, 32);
        let widest_ipv6 = section.integer("widest_ipv6", DEFAULT_WIDEST_IPV6, 16, 128);
        root.close(section);

        let mut section = root.section("uncertain");
        let by_source = [("by-source", false), ("drop", true)];
        let drop_fragments = section.choice("fragments", &by_source);
        let drop_long_extension_chains = section.choice("extension_headers", &by_source);
        let pass_other_ethernet =
            section.choice("other_ethernet", &[("drop", false), ("pass", true)]);
        root.close(section);

        let mut section = root.section("events");
        let sample_one_in = section.integer("sample_one_in", DEFAULT_SAMPLE, 1, 1 << 20);
        if u32::try_from(sample_one_in).is_ok_and(|sample| !sample.is_power_of_two()) {
            section.fault("sample_one_in", "expected a power of two");
        }
        let per_second = section.integer("per_second", DEFAULT_EVENTS, 1, 100_000);
        root.close(section);

        let mut section = root.section("journal");
        let directory = section.path("directory", "");
        let signing_key = section.path("signing_key", DEFAULT_SIGNING_KEY);
        let node = section.string("node").unwrap_or_else(host_name);
        root.close(section);

        let mut section = root.section("metrics");
        let metrics = listen(&mut section);
        root.close(section);

        let sources = sources::read(&mut root);

        let faults = root.finish();
        if !faults.is_empty() {
            return Err(faults);
        }
        let directory = if directory.as_os_str().is_empty() {
            state_dir.join("journal")
        } else {
            directory
        };
        Ok(Self {
            interfaces,
            mode,
            monitor,
            policy: Policy {
                drop_fragments,
                drop_long_extension_chains,
                pass_other_ethernet,
                ..Policy::default()
            },
            state_dir,
            pin_dir,
            protected,
            control: Control {
                socket,
                admin_groups,
                ban_groups,
                read_groups,
            },
            bans: bans::Limits {
                max_lifetime,
                max_entries: in_range(max_entries),
                widest_ipv4: in_range(widest_ipv4),
                widest_ipv6: in_range(widest_ipv6),
            },
            events: Events {
                sample_one_in: in_range(sample_one_in),
                per_second: in_range(per_second),
            },
            journal: JournalSettings {
                directory,
                signing_key,
                node,
            },
            metrics,
            sources,
        })
    }
}

/// The most that `bans.max_entries` may be.
const MAX_BANS: i64 = 65_536;

/// A number whose range was checked.
fn in_range<T: TryFrom<i64> + Default>(number: i64) -> T {
    T::try_from(number).unwrap_or_default()
}

fn interfaces(root: &mut Section) -> Vec<String> {
    let interfaces = root.each_string("interfaces", |name| {
        let is_name = !name.is_empty()
            && name.len() <= MAX_INTERFACE_NAME
            && !matches!(name, "." | "..")
            && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        match name {
            "lo" => Err("loopback has no strangers; name the interfaces that face the network".to_owned()),
            _ if !is_name => Err(format!("`{name}` is not an interface name (1 to {MAX_INTERFACE_NAME} characters, no `/`, `:` or space)")),
            _ => Ok(name.to_owned()),
        }
    });
    if !root.has_faults("interfaces") {
        if interfaces.is_empty() {
            root.fault(
                "interfaces",
                "expected at least one interface, such as [\"eth0\"]",
            );
        }
        if interfaces.len() > MAX_INTERFACES {
            root.fault(
                "interfaces",
                &format!("at most {MAX_INTERFACES} interfaces"),
            );
        }
        if interfaces.iter().collect::<BTreeSet<_>>().len() < interfaces.len() {
            root.fault("interfaces", "an interface is named twice");
        }
    }
    interfaces
}

fn lifetime(section: &mut Section) -> Duration {
    let text = section
        .string("max_lifetime")
        .unwrap_or_else(|| DEFAULT_MAX_LIFETIME.to_owned());
    match prefix::parse_duration(&text) {
        Ok(lifetime) => lifetime,
        Err(error) => {
            section.fault("max_lifetime", &error.to_string());
            Duration::ZERO
        }
    }
}

fn listen(section: &mut Section) -> Option<SocketAddr> {
    let text = section
        .string("listen")
        .unwrap_or_else(|| DEFAULT_METRICS.to_owned());
    if text == "off" {
        return None;
    }
    let address = text.parse().ok();
    if address.is_none() {
        section.fault(
            "listen",
            &format!("`{text}` is neither ADDRESS:PORT nor \"off\""),
        );
    }
    address
}

fn groups(section: &mut Section, key: &str) -> BTreeSet<u32> {
    let mut groups = BTreeSet::new();
    for (index, value) in section.array(key).into_iter().enumerate() {
        let group = match &value {
            toml::Value::Integer(id) => u32::try_from(*id).ok(),
            toml::Value::String(name) => group_id(name),
            toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_)
            | toml::Value::Table(_) => None,
        };
        match group {
            Some(group) => drop(groups.insert(group)),
            None => section.fault(
                &format!("{key}[{index}]"),
                &format!("{value} is neither a group of this machine nor a group id"),
            ),
        }
    }
    groups
}

fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../deploy/portcullis-agent.toml");

    fn faults(text: &str) -> Vec<String> {
        Config::parse(text)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_file_with_interfaces_only_has_every_default() {
        let config = Config::parse("interfaces = [\"eth0\"]").unwrap();
        assert_eq!(config.control.socket, Path::new(DEFAULT_SOCKET));
        assert_eq!(
            config.journal.directory,
            Path::new("/var/lib/portcullis/agent/journal")
        );
        assert_eq!(config.metrics, Some(DEFAULT_METRICS.parse().unwrap()));
        assert_eq!(config.policy, Policy::default());
    }

    #[test]
    fn the_sample_file_is_valid_and_its_settings_are_the_defaults() {
        let sample = Config::parse(SAMPLE).unwrap();
        let mut plain = Config::parse("interfaces = [\"eth0\"]").unwrap();
        plain.protected = sample.protected.clone();
        assert_eq!(sample, plain);
    }

    #[test]
    fn all_faults_are_listed_at_once_with_their_keys() {
        let text = r#"
            interfaces = ["eth0", "lo", "name-that-is-too-long"]
            mode = "fast"
            monitor = "yes"
            surprise = 1
            protected = ["192.0.2.10/24", "192.0.2.1"]
            [control]
            socket = "relative.sock"
            admin_groups = ["no-such-group-here", -1]
            colour = "red"
            [bans]
            max_lifetime = "1 day"
            widest_ipv4 = 33
            [events]
            sample_one_in = 3
            [metrics]
            listen = "everywhere"
            [extra]
            key = 1
        "#;
        let faults = faults(text);
        for (key, words) in [
            ("interfaces[1]", "loopback"),
            ("interfaces[2]", "not an interface name"),
            ("mode", "\"native\", \"require-native\" or \"generic\""),
            ("monitor", "expected true or false"),
            ("surprise", "unknown key"),
            ("protected[0]", "did you mean 192.0.2.0/24?"),
            ("control.socket", "absolute path"),
            ("control.admin_groups[0]", "group"),
            ("control.admin_groups[1]", "group"),
            ("control.colour", "unknown key"),
            ("bans.max_lifetime", "duration"),
            ("bans.widest_ipv4", "8 to 32"),
            ("events.sample_one_in", "power of two"),
            ("metrics.listen", "ADDRESS:PORT"),
            ("extra", "unknown key"),
        ] {
            assert!(
                faults
                    .iter()
                    .any(|fault| fault.starts_with(&format!("{key}: ")) && fault.contains(words)),
                "{key} with `{words}` in {faults:#?}"
            );
        }
        assert_eq!(faults.len(), 15, "{faults:#?}");
    }

    #[test]
    fn no_interface_twice_and_none_at_all_are_faults() {
        assert_eq!(faults("").len(), 1);
        assert_eq!(faults("interfaces = []").len(), 1);
        assert_eq!(faults("interfaces = [\"a\", \"a\"]").len(), 1);
        assert!(Config::parse("interfaces = [\"a\", \"b\"]").is_ok());
    }

    #[test]
    fn what_is_not_toml_is_one_fault_with_its_place() {
        let faults = faults("interfaces = [\"eth0\"\nmode");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("line"), "{faults:?}");
    }

    #[test]
    fn groups_have_names_or_numbers() {
        let config =
            Config::parse("interfaces = [\"eth0\"]\n[control]\nadmin_groups = [\"root\", 1234]")
                .unwrap();
        assert_eq!(config.control.admin_groups, BTreeSet::from([0, 1234]));
    }
}
