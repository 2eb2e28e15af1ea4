//! What an observation means. Pure: one function a topic, each with at least one finding.

use super::{
    Finding, Observation,
    driver::{self, Attach},
    ethtool::Feature,
    host::{BpfFs, Host},
    link::Link,
};
use crate::{
    datapath::{self, mode::AttachMode},
    interface::AttachedMode,
};

/// `NETDEV_XDP_ACT_BASIC`: pass, drop, abort and send back.
const XDP_BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_HW_OFFLOAD`.
const XDP_OFFLOAD: u64 = 16;
/// The oldest kernel that the agent runs on.
const OLDEST: (u32, u32) = (5, 15);
/// Egress programs as links, for learning replies.
const TCX: (u32, u32) = (6, 6);
/// Programs on a bond.
const BOND: (u32, u32) = (5, 15);
/// What the usual Ethernet MTU needs no word about.
const USUAL_MTU: u32 = 1500;

pub(super) fn judge(observation: &Observation, mode: AttachMode) -> Vec<Finding> {
    let mut findings = vec![native(observation, mode)];
    findings.extend(mtu(observation, mode));
    findings.extend(placement(observation));
    findings.push(occupied(observation));
    findings.extend(offloads(observation));
    findings.extend(queues(observation));
    findings.extend(flap(observation, mode));
    findings.extend(host(&observation.host));
    findings
}

/// Whether the driver runs XDP programs, and how that is known.
fn has_native(observation: &Observation) -> Option<(bool, String)> {
    let driver = observation.driver();
    if let Some(features) = observation.xdp_features {
        return Some((
            features & XDP_BASIC != 0,
            format!("says the driver {driver} (XDP features {features:#x})"),
        ));
    }
    let known = driver::find(driver)?;
    let (major, minor) = known.since;
    let how = format!(
        "{driver} has it from Linux {major}.{minor} on, this is {}",
        observation.host.release
    );
    Some((observation.host.version >= known.since, how))
}

fn native(observation: &Observation, mode: AttachMode) -> Finding {
    const TOPIC: &str = "native";
    let name = &observation.link.name;
    if mode == AttachMode::Generic {
        return Finding::info(
            TOPIC,
            "mode = \"generic\": the program runs in the network stack, after a buffer was allocated for each packet",
        );
    }
    match has_native(observation) {
        Some((true, how))
            if observation
                .xdp_features
                .is_some_and(|features| features & XDP_OFFLOAD != 0) =>
        {
            Finding::ok(
                TOPIC,
                format!(
                    "native XDP: {how}; its offload to the card is not used, since maps there can't be changed as they must"
                ),
            )
        }
        Some((true, how)) => Finding::ok(TOPIC, format!("native XDP: {how}")),
        Some((false, how)) if mode == AttachMode::RequireNative => Finding::blocker(
            TOPIC,
            format!("no native XDP on {name}, and mode = \"require-native\": {how}"),
        )
        .fix("mode = \"native\" falls back to the network stack"),
        Some((false, how)) => Finding::warning(
            TOPIC,
            format!(
                "no native XDP on {name}: {how}. The program will run in the network stack, several times slower under a flood"
            ),
        ),
        None => Finding::warning(
            TOPIC,
            format!(
                "whether {} has native XDP is not known: the kernel doesn't tell (6.3 and later do). Without it the program runs in the network stack",
                observation.driver()
            ),
        ),
    }
}

fn mtu(observation: &Observation, mode: AttachMode) -> Option<Finding> {
    const TOPIC: &str = "mtu";
    let Link { mtu, name, .. } = &observation.link;
    let known = driver::find(observation.driver())?;
    if mode == AttachMode::Generic {
        return None;
    }
    if *mtu <= known.mtu {
        return (*mtu > USUAL_MTU).then(|| {
            Finding::ok(
                TOPIC,
                format!(
                    "{mtu}; native mode takes about {} with {}",
                    known.mtu, known.name
                ),
            )
        });
    }
    let problem = format!(
        "{mtu} is more than native mode takes with {} (about {}): one frame must fit into one buffer",
        known.name, known.mtu
    );
    let finding = if mode == AttachMode::RequireNative {
        Finding::blocker(TOPIC, problem)
    } else {
        Finding::warning(
            TOPIC,
            format!("{problem}. The program will run in the network stack"),
        )
    };
    Some(finding.fix(format!("ip link set dev {name} mtu {}", known.mtu)))
}

/// Where the interface sits, and whether the program belongs elsewhere.
fn placement(observation: &Observation) -> Vec<Finding> {
    const TOPIC: &str = "placement";
    let link = &observation.link;
    let name = &link.name;
    let by_index = |index: u32| observation.links.iter().find(|link| link.index == index);
    let below = || link.lower.and_then(by_index);
    let mut findings = Vec::new();
    if link.is_loopback {
        return vec![Finding::blocker(
            TOPIC,
            "loopback has no strangers; name the interface that faces the network",
        )];
    }
    if !link.is_ethernet {
        return vec![Finding::blocker(
            TOPIC,
            format!(
                "{name} has no Ethernet frames ({}); the program reads Ethernet, so it belongs on the interface that carries the tunnel",
                observation.driver()
            ),
        )];
    }
    match link.kind.as_deref() {
        Some(kind @ ("vlan" | "macvlan" | "ipvlan" | "macvtap" | "ipvtap")) => {
            let (place, fix) = match below() {
                Some(below) => (
                    below.name.clone(),
                    format!("interfaces = [\"{}\"]", below.name),
                ),
                None => (
                    "the interface below".to_owned(),
                    "interfaces = [\"the interface below\"]".to_owned(),
                ),
            };
            findings.push(
                Finding::warning(TOPIC, format!("{name} is a {kind} on {place} and has no native XDP of its own; on {place} the program sees the frames of {name} too, tags included"))
                    .fix(fix),
            );
        }
        Some("bond") => {
            let slaves = names(observation, |other| other.master == Some(link.index));
            if observation.host.version >= BOND {
                findings.push(Finding::ok(TOPIC, format!("a bond: the program goes onto its slaves ({slaves}) and onto those that join; drops are counted on the bond")));
            } else {
                findings.push(Finding::warning(
                    TOPIC,
                    format!("programs on bonds need Linux 5.15; put it on the slaves: {slaves}"),
                ));
            }
        }
        Some("team") => {
            let ports = names(observation, |other| other.master == Some(link.index));
            findings.push(Finding::warning(
                TOPIC,
                format!("a team has no native XDP; put the program on its ports: {ports}"),
            ));
        }
        Some("bridge") => {
            let ports = names(observation, |other| other.master == Some(link.index));
            findings.push(Finding::warning(TOPIC, format!("a bridge has no native XDP, and frames that it forwards between its ports are not seen; put the program on the port that faces the network ({ports})")));
        }
        Some(_) | None => {}
    }
    if let Some(master) = link.master.and_then(by_index) {
        findings.push(match master.kind.as_deref() {
            Some("bond") if observation.host.version >= BOND => Finding::warning(TOPIC, format!("{name} is a slave of the bond {0}; on {0} the program covers all slaves, and the bond refuses a program of its own while a slave has one", master.name))
                .fix(format!("interfaces = [\"{}\"]", master.name)),
            Some("bond") => Finding::ok(TOPIC, format!("a slave of the bond {}; name the other slaves too", master.name)),
            Some("bridge" | "openvswitch") => Finding::warning(TOPIC, format!("{name} is a port of the bridge {}: frames for machines behind the bridge are judged too, by this host's lists", master.name)),
            Some(_) | None => Finding::info(TOPIC, format!("{name} belongs to {}", master.name)),
        });
    }
    let above = names(observation, |other| {
        other.lower == Some(link.index)
            && matches!(
                other.kind.as_deref(),
                Some("vlan" | "macvlan" | "ipvlan" | "macvtap" | "ipvtap")
            )
    });
    if !above.is_empty() {
        findings.push(Finding::info(
            TOPIC,
            format!("frames of {above} arrive through {name} and are judged by the same lists"),
        ));
    }
    if !link.is_up {
        findings.push(
            Finding::info(TOPIC, "the interface is down").fix(format!("ip link set dev {name} up")),
        );
    } else if !link.has_carrier {
        findings.push(Finding::info(TOPIC, "the interface has no carrier"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            TOPIC,
            "an interface of its own: nothing below it, nothing above",
        ));
    }
    findings
}

fn names(observation: &Observation, is_meant: impl Fn(&Link) -> bool) -> String {
    let names: Vec<&str> = observation
        .links
        .iter()
        .filter(|link| is_meant(link))
        .map(|link| link.name.as_str())
        .collect();
    names.join(", ")
}

fn occupied(observation: &Observation) -> Finding {
    const TOPIC: &str = "program";
    let name = &observation.link.name;
    let Some(program) = &observation.program else {
        return Finding::ok(TOPIC, "no other XDP program is there");
    };
    let mode = match program.mode {
        AttachedMode::Native => "native",
        AttachedMode::Generic => "in the network stack",
        AttachedMode::Offloaded => "on the card",
    };
    let called = program
        .name
        .as_deref()
        .unwrap_or("of unknown name; ask as root");
    let pins: Vec<String> = program
        .pins
        .iter()
        .map(|pin| pin.display().to_string())
        .collect();
    let pinned = if pins.is_empty() {
        "not pinned, so a process or the interface itself holds it".to_owned()
    } else {
        format!("pinned at {}", pins.join(", "))
    };
    let who = format!("XDP program {} ({called}), {mode}, {pinned}", program.id);
    if program.name.as_deref().is_some_and(datapath::is_ours) {
        return Finding::ok(TOPIC, format!("this agent's own: {who}"));
    }
    let finding = Finding::blocker(TOPIC, format!("{name} is taken: {who}. It is left alone"));
    match program.name.as_deref() {
        Some("xdp_dispatcher") => finding.fix(format!(
            "xdp-loader status {name}; xdp-loader unload {name} --all"
        )),
        Some(cilium) if cilium.starts_with("cil_") => finding
            .fix("leave this interface to Cilium, or set loadBalancer.acceleration=disabled there"),
        Some(_) | None => match pins.first() {
            Some(pin) => finding.fix(format!(
                "stop its owner, then: rm {pin}; ip link set dev {name} xdp off"
            )),
            None => finding.fix(format!(
                "stop its owner, then: ip link set dev {name} xdp off"
            )),
        },
    }
}

fn offloads(observation: &Observation) -> Vec<Finding> {
    let name = &observation.link.name;
    let Some(features) = &observation.features else {
        return vec![Finding::info(
            "offloads",
            "the kernel doesn't tell which offloads are on (ethtool over netlink, Linux 5.6)",
        )];
    };
    let feature = |name: &str| features.get(name).copied().unwrap_or_default();
    let mut findings = Vec::new();
    for (offload, option, problem) in [
        (
            "rx-lro",
            "lro",
            "LRO is on: the card merges packets before the program sees them, and drivers refuse native XDP with it",
        ),
        (
            "rx-gro-hw",
            "rx-gro-hw",
            "hardware GRO is on: the card merges packets before the program sees them, and drivers refuse native XDP with it",
        ),
    ] {
        if let Feature {
            is_on: true,
            can_change,
        } = feature(offload)
        {
            findings.push(turn_off(
                Finding::warning(option, problem),
                name,
                option,
                can_change,
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("lro", "LRO and hardware GRO are off"));
    }
    let Feature { is_on, can_change } = feature("rx-vlan-hw-parse");
    if is_on {
        let message = "the card takes the outer VLAN tag off (RX VLAN offload): verdicts don't depend on it, but events and `watch` can't show the tag";
        findings.push(turn_off(
            Finding::info("rxvlan", message),
            name,
            "rxvlan",
            can_change,
        ));
    } else {
        findings.push(Finding::ok("rxvlan", "VLAN tags stay in the frames"));
    }
    findings
}

fn turn_off(finding: Finding, name: &str, option: &str, can_change: bool) -> Finding {
    if can_change {
        finding.fix(format!("ethtool -K {name} {option} off"))
    } else {
        Finding {
            message: format!(
                "{}; the driver doesn't let it be turned off",
                finding.message
            ),
            ..finding
        }
    }
}

fn queues(observation: &Observation) -> Vec<Finding> {
    const TOPIC: &str = "queues";
    let name = &observation.link.name;
    let cpus = observation.host.cpus;
    let is_hardware = observation.driver.is_some();
    let Some(channels) = observation
        .channels
        .filter(|channels| channels.rx + channels.combined > 0)
    else {
        let queues = observation.link.rx_queues;
        return vec![Finding::info(
            TOPIC,
            format!("{queues} receive queues for {cpus} CPUs; the driver doesn't tell more"),
        )];
    };
    let receiving = channels.rx + channels.combined;
    let most = channels.rx_max.max(channels.combined_max);
    let mut findings = Vec::new();
    if is_hardware && receiving < cpus.min(most) {
        let (option, wanted) = if channels.combined_max > 0 {
            ("combined", cpus.min(channels.combined_max))
        } else {
            ("rx", cpus.min(channels.rx_max))
        };
        findings.push(
            Finding::warning(TOPIC, format!("{receiving} receive queues for {cpus} CPUs, and {most} are possible: under a flood the other CPUs stand by"))
                .fix(format!("ethtool -L {name} {option} {wanted}")),
        );
    } else {
        findings.push(Finding::ok(
            TOPIC,
            format!("{receiving} receive queues for {cpus} CPUs"),
        ));
    }
    // ENA keeps as many queues for sending from XDP (Documentation/networking/device_drivers/ethernet/amazon/ena.rst).
    if observation.driver() == "ena" && channels.combined * 2 > channels.combined_max {
        findings.push(
            Finding::warning(
                TOPIC,
                "ena takes programs only while at most half of its channels are in use",
            )
            .fix(format!(
                "ethtool -L {name} combined {}",
                (channels.combined_max / 2).max(1)
            )),
        );
    }
    let hashing = observation
        .features
        .as_ref()
        .and_then(|features| features.get("rx-hashing"));
    if receiving > 1
        && let Some(Feature {
            is_on: false,
            can_change: true,
        }) = hashing
    {
        findings.push(
            Finding::warning(
                "rss",
                "receive hashing is off: the queues may not share the load",
            )
            .fix(format!("ethtool -K {name} rxhash on")),
        );
    }
    findings
}

fn flap(observation: &Observation, mode: AttachMode) -> Option<Finding> {
    const TOPIC: &str = "attach";
    if mode == AttachMode::Generic {
        return None;
    }
    let known = driver::find(observation.driver())?;
    Some(match known.attach {
        Attach::Smooth => Finding::ok(TOPIC, "attaching doesn't disturb the traffic"),
        Attach::Rings => Finding::info(
            TOPIC,
            format!(
                "{} rebuilds its rings when a program is attached or detached: packets are lost for a moment",
                known.name
            ),
        ),
        Attach::Reset => Finding::info(
            TOPIC,
            format!(
                "{} resets the device when a program is attached first and detached last: the link may be down for seconds, LACP and spanning tree longer. Upgrades exchange the program without it",
                known.name
            ),
        ),
    })
}

fn host(host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    let release = &host.release;
    findings.push(if host.version < OLDEST {
        Finding::blocker("kernel", format!("Linux {release}; the agent needs {}.{} or later", OLDEST.0, OLDEST.1))
    } else if host.version < TCX {
        Finding::ok("kernel", format!("Linux {release}; the program that learns replies goes onto clsact, since TCX needs 6.6"))
    } else {
        Finding::ok("kernel", format!("Linux {release}: compiled table, programs as links, TCX"))
    });
    findings.push(match host.bpf_fs {
        BpfFs::Mounted => Finding::ok("bpffs", "mounted on /sys/fs/bpf"),
        BpfFs::ReadOnly => {
            Finding::blocker("bpffs", "/sys/fs/bpf is read-only: nothing can be pinned")
                .fix("mount -o remount,rw /sys/fs/bpf")
        }
        BpfFs::Missing => Finding::info(
            "bpffs",
            "not mounted; the agent mounts it, and the pins last as long as the mount",
        )
        .fix("mount -t bpf bpf /sys/fs/bpf"),
    });
    if host.jit == Some(0) {
        findings.push(
            Finding::warning(
                "jit",
                "the BPF compiler is off: programs are interpreted, several times slower",
            )
            .fix("sysctl -w net.core.bpf_jit_enable=1"),
        );
    }
    findings.push(match host.memlock {
        // Since 5.11 BPF memory is charged to the control group.
        Some(bytes) if host.version < (5, 11) => Finding::warning("memlock", format!("{bytes} bytes may be locked; tables of a million prefixes need more")).fix("LimitMEMLOCK=infinity in the unit"),
        Some(_) | None => Finding::ok("memlock", "BPF memory is charged to the control group; a limit there (MemoryMax) holds for the tables too"),
    });
    if !host.is_root {
        findings.push(Finding::info(
            "rights",
            "not asked as root: names of other programs and pins stay unknown",
        ));
    }
    findings
}

#[cfg(test)]
mod tests;
