//! What an interface and this host offer before anything is attached: `doctor NIC`. It only asks, and needs no daemon.

mod driver;
mod ethtool;
mod host;
mod judge;
mod link;
mod program;

use std::{fmt, io};

use serde::Serialize;

use self::{
    ethtool::{Channels, Features},
    host::Host,
    link::Link,
    program::Program,
};
use crate::datapath::mode::AttachMode;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Good to know.
    Info,
    /// Works, but slower or with less than there could be.
    Warning,
    /// The agent can't run like this.
    Blocker,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Blocker => "blocker",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// What was looked at, such as `mtu`.
    pub topic: &'static str,
    /// What was found, and what it means.
    pub message: String,
    /// The command, or the line of configuration, that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn new(severity: Severity, topic: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity,
            topic,
            message: message.into(),
            fix: None,
        }
    }

    fn ok(topic: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Ok, topic, message)
    }

    fn info(topic: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Info, topic, message)
    }

    fn warning(topic: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, topic, message)
    }

    fn blocker(topic: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Blocker, topic, message)
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// What is known of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub interface: String,
    /// The driver, or the kind of a virtual interface.
    pub driver: String,
    pub worst: Severity,
    pub findings: Vec<Finding>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}): {}", self.interface, self.driver, self.worst)?;
        for finding in &self.findings {
            writeln!(
                f,
                "{:<8} {:<10} {}",
                finding.severity, finding.topic, finding.message
            )?;
            if let Some(fix) = &finding.fix {
                writeln!(f, "{:<8} {:<10} -> {fix}", "", "")?;
            }
        }
        Ok(())
    }
}

/// Why an interface can't be examined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoctorError {
    #[error("there is no interface {name}; there are {}", names.join(", "))]
    NoSuchInterface { name: String, names: Vec<String> },
    #[error("ask the kernel about interfaces")]
    Kernel {
        #[source]
        source: io::Error,
    },
}

/// What was found out about an interface, to be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Observation {
    link: Link,
    /// All interfaces of the namespace, this one included.
    links: Vec<Link>,
    /// `None` for a virtual interface.
    driver: Option<String>,
    /// `None` if the kernel doesn't tell.
    features: Option<Features>,
    channels: Option<Channels>,
    /// What the driver can do for XDP (`enum netdev_xdp_act`), from Linux 6.3 on.
    xdp_features: Option<u64>,
    program: Option<Program>,
    host: Host,
}

impl Observation {
    fn driver(&self) -> &str {
        self.driver
            .as_deref()
            .or(self.link.kind.as_deref())
            .unwrap_or("unknown driver")
    }
}

/// Examines the interface called `name`.
///
/// # Errors
/// If there is none of that name, or the kernel can't be asked.
pub fn examine(name: &str, mode: AttachMode) -> Result<Report, DoctorError> {
    let links = link::all().map_err(|source| DoctorError::Kernel { source })?;
    let Some(link) = links.iter().find(|link| link.name == name).cloned() else {
        return Err(DoctorError::NoSuchInterface {
            name: name.to_owned(),
            names: links.into_iter().map(|link| link.name).collect(),
        });
    };
    let observation = Observation {
        driver: link.parent.as_ref().and_then(driver::name),
        features: ethtool::features(link.index).ok(),
        channels: ethtool::channels(link.index).ok(),
        xdp_features: ethtool::xdp_features(link.index).ok().flatten(),
        program: link.attached.map(program::describe),
        host: Host::read(),
        links,
        link,
    };
    let mut findings = judge::judge(&observation, mode);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(Report {
        interface: name.to_owned(),
        driver: observation.driver().to_owned(),
        worst: findings
            .first()
            .map_or(Severity::Ok, |finding| finding.severity),
        findings,
    })
}
