//! Lists and settings to measure with; and what everything switched on costs against an allow-only list.

use std::{path::Path, sync::Arc};

use agent_ebpf::verdict::Policy;
use anyhow::{Result, bail};
use ipnet::IpNet;
use portcullis_agent::{
    datapath::{
        Datapath as _, InterfaceState, InterfaceStatus, MonitoredSet, RateLimit, RunsAs, Settings,
        mode::{AttachMode, TableChoice},
        xdp::{Options, XdpDatapath},
    },
    rule::{Action, Rule, Scope},
};
use portcullis_tests::{
    prefixes,
    report::{Measure, Report, median},
};

use crate::{
    lab::{self, BpfFs},
    program::{Programs, SOURCES},
    traffic::{Kind, Members, Random},
};

const SIZE: usize = 100_000;
const PACKETS: u32 = 1 << 20;

/// What a datapath looks addresses up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Compiled,
    Tries,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Compiled => "compiled",
            Self::Tries => "tries",
        }
    }
}

/// A datapath that is attached nowhere.
pub(crate) fn open(bpf: &BpfFs, side: Side) -> Result<XdpDatapath> {
    open_at(bpf, side.name(), side, &[])
}

/// A datapath for interfaces of the calling thread's namespace.
pub(crate) fn open_on(bpf: &BpfFs, side: Side, interfaces: &[&str]) -> Result<XdpDatapath> {
    open_at(bpf, side.name(), side, interfaces)
}

pub(crate) fn open_at(
    bpf: &BpfFs,
    pins: &str,
    side: Side,
    interfaces: &[&str],
) -> Result<XdpDatapath> {
    let options = Options {
        interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        mode: AttachMode::RequireNative,
        table: match side {
            Side::Compiled => TableChoice::Compiled,
            Side::Tries => TableChoice::Lpm,
        },
        sample_one_in: 1_024,
        events_per_second: 1_000,
    };
    Ok(XdpDatapath::open(&options, bpf.lock(pins)?)?)
}

pub(crate) fn must_be_native(interfaces: &[InterfaceStatus]) -> Result<()> {
    for interface in interfaces {
        match &interface.state {
            InterfaceState::Enforcing {
                mode: RunsAs::Native,
                ..
            } => {}
            InterfaceState::Enforcing { .. }
            | InterfaceState::Gone
            | InterfaceState::Occupied { .. }
            | InterfaceState::Failed { .. } => {
                bail!("{}: {:?}", interface.name, interface.state)
            }
        }
    }
    Ok(())
}

/// The list of one family and size.
pub(crate) fn prefixes(is_v6: bool, size: usize) -> Vec<IpNet> {
    if is_v6 {
        prefixes::v6(size).into_iter().map(IpNet::from).collect()
    } else {
        prefixes::v4(size).into_iter().map(IpNet::from).collect()
    }
}

/// Rules that allow the list, and nothing else.
pub(crate) fn allow(list: &[IpNet]) -> Arc<[Rule]> {
    list.iter()
        .map(|prefix| Rule {
            prefix: *prefix,
            action: Action::Allow(None),
        })
        .collect()
}

/// Allow-only: nothing else is on.
pub(crate) fn plain() -> Settings {
    Settings {
        policy: Policy::default(),
        monitored: MonitoredSet::None,
        rate: None,
        learn_replies: false,
    }
}

pub(crate) fn run(rounds: u32, report: &mut Report) -> Result<()> {
    let _pinned = lab::stay_on_receiving_core()?;
    let bpf = BpfFs::mount()?;
    let list = prefixes(false, SIZE);
    let mut bare = open_at(&bpf, "bare", Side::Compiled, &[])?;
    bare.switch(allow(&list), &plain())?;
    let mut full = open_at(&bpf, "full", Side::Compiled, &[])?;
    let everything = Settings {
        rate: Some(RateLimit {
            packets_per_second: 1_000_000,
            syns_per_second: 1_000_000,
        }),
        learn_replies: true,
        ..plain()
    };
    full.switch(all_kinds(&list)?, &everything)?;
    let mut over_bare = Programs::load(&bpf.pins("bare"))?;
    let mut over_full = Programs::load(&bpf.pins("full"))?;
    let members = Members::new(&list);
    for kind in [Kind::Hit, Kind::Miss] {
        let sources = members.sources(kind, SOURCES, &mut Random::new(17));
        over_bare.set_sources(&sources, false)?;
        over_full.set_sources(&sources, false)?;
        let mut ratios = Vec::new();
        for _ in 0..rounds {
            let bare = over_bare.time("judge4", false, PACKETS)?;
            let full = over_full.time("judge4", false, PACKETS)?;
            ratios.push(full / bare);
        }
        report.results.push(Measure::at_most(
            format!("all rules on over allow-only, 100k, {}", kind.name()),
            median(ratios),
            "x",
            1.5,
            1.2,
        ));
    }
    Ok(())
}

/// The list with one entry in ten scoped, a thousand bans inside it and out of it, and protected sources.
fn all_kinds(list: &[IpNet]) -> Result<Arc<[Rule]>> {
    let scopes: Vec<Arc<Scope>> = ["tcp/22", "tcp/22,tcp/443", "tcp/20-22,udp/53,icmp"]
        .iter()
        .map(|text| Ok(Arc::new(text.parse::<Scope>()?)))
        .collect::<Result<_>>()?;
    let mut rules: Vec<Rule> = list
        .iter()
        .enumerate()
        .map(|(index, prefix)| Rule {
            prefix: *prefix,
            action: Action::Allow(
                (index % 10 == 0)
                    .then(|| scopes.get(index / 10 % scopes.len()).cloned())
                    .flatten(),
            ),
        })
        .collect();
    let mut random = Random::new(19);
    for _ in 0..500 {
        if let Some(prefix) = list.get(random.below(list.len())) {
            rules.push(Rule {
                prefix: IpNet::from(prefix.network()),
                action: Action::Ban,
            });
        }
        let stranger = u32::try_from(random.next() & 0xffff_ffff).unwrap_or(0);
        rules.push(Rule {
            prefix: IpNet::from(std::net::IpAddr::from(stranger.to_be_bytes())),
            action: Action::Ban,
        });
    }
    for prefix in ["192.0.2.0/28", "198.51.100.1/32"] {
        rules.push(Rule {
            prefix: prefix.parse()?,
            action: Action::Protect,
        });
    }
    Ok(rules.into())
}

/// Where the released agent lies.
pub(crate) fn agent() -> Result<std::path::PathBuf> {
    portcullis_tests::locate::release_binary("portcullis-agent")
}

/// Writes a list as a list file.
pub(crate) fn write_list(file: &Path, list: &[IpNet]) -> Result<()> {
    let mut text = String::new();
    for prefix in list {
        text.push_str(&prefix.to_string());
        text.push('\n');
    }
    Ok(std::fs::write(file, text)?)
}
