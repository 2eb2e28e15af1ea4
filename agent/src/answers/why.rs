//! Why a packet passes or not: what the loaded program says of it, and what this host knows of its source.
//!
//! The program is asked, not imitated. The same rules are also judged here, and a difference is reported as a disagreement: the
//! kernel then does not enforce what this host believes.

mod cover;
mod host;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, net::IpAddr};

use agent_ebpf::{
    class::Class,
    packet::Source,
    verdict::{Drop, Pass, Policy, Verdict, decide},
};
use serde::{Deserialize, Serialize};

pub use self::cover::{Cover, Since};
use self::host::HostRules;
use super::{
    frame::Packet,
    names,
    question::Question,
    reasons::{self, Explanation},
    recent::LastDrop,
};
use crate::{
    datapath::{DatapathError, InterfaceState, InterfaceStatus, Probe},
    rule::Scope,
    ruleset::RulesetError,
};

/// Answer of `GET /v1/why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyReply {
    pub address: IpAddr,
    /// The address that is looked up, where it is not the same: a NAT64 source is judged as the IPv4 address in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_as: Option<IpAddr>,
    pub packet: PacketReply,
    /// Whether the program's verdict is to pass. Where an interface is only monitored, a dropped packet passes all the same.
    pub passes: bool,
    pub reason: Cow<'static, str>,
    pub meaning: Cow<'static, str>,
    /// What the tables make of the source: `not_listed`, `allowed`, `scoped`, `denied`, `banned` or `protected`.
    pub class: Cow<'static, str>,
    /// The generation that the program judged by.
    pub generation: u64,
    pub interfaces: Vec<InterfaceReply>,
    /// The entry, ban or protection that decided, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<Cover>,
    /// All that covers the address, the most specific first.
    pub covering: Vec<Cover>,
    /// What its sources may use, if they may not use all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_drop: Option<LastDrop>,
    /// What would let a dropped packet in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What else an operator should know.
    pub notes: Vec<String>,
    /// How the loaded program and this host's rules differ, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<String>,
}

/// The packet that was asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketReply {
    pub protocol: u8,
    pub protocol_name: Cow<'static, str>,
    pub source_port: u16,
    pub destination: IpAddr,
    pub destination_port: u16,
    pub vlans: Vec<u16>,
    pub syn: bool,
    pub later_fragment: bool,
}

/// What becomes of the packet on one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceReply {
    pub name: String,
    /// Whether packets are judged there at all.
    pub judged: bool,
    /// Whether drops are only counted there.
    pub monitored: bool,
}

/// What this host knows when it is asked.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    pub policy: Policy,
    pub learns_replies: bool,
    pub limits_rates: bool,
    pub interfaces: &'a [InterfaceStatus],
    /// All that covers the address that is [judged](judged_address).
    pub covering: Vec<Cover>,
    pub last_drop: Option<LastDrop>,
    /// Why the kernel does not follow, while it does not.
    pub lag: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WhyError {
    #[error("{interface} is not an interface of the configuration")]
    NoSuchInterface { interface: String },
    #[error("ask the program")]
    Program(#[from] DatapathError),
    #[error("judge the rules on this host")]
    Rules(#[from] RulesetError),
}

/// The address that a source is looked up as.
pub fn judged_address(address: IpAddr, policy: Policy) -> IpAddr {
    let source = Source::from(address);
    let source = if policy.nat64 {
        source.without_nat64()
    } else {
        source
    };
    source.address()
}

/// Answers a question; `probe` runs the loaded program.
///
/// # Errors
/// If the interface is unknown, or the kernel refuses.
pub fn answer(
    question: &Question,
    mut known: Known<'_>,
    mut probe: impl FnMut(&[u8], Option<u32>) -> Result<Probe, DatapathError>,
) -> Result<WhyReply, WhyError> {
    cover::sort(&mut known.covering);
    let frame = question.packet.frame();
    let asked = interfaces(question, known.interfaces)?;
    let mut interfaces = Vec::with_capacity(asked.len());
    let mut first: Option<Probe> = None;
    for InterfaceStatus { name, state, .. } in asked {
        let probed = match state {
            InterfaceState::Enforcing { index, .. } => Some(probe(&frame, Some(*index))?),
            InterfaceState::Gone
            | InterfaceState::Occupied { .. }
            | InterfaceState::Failed { .. } => None,
        };
        interfaces.push(InterfaceReply {
            name: name.clone(),
            judged: probed.is_some(),
            monitored: probed.is_some_and(|probed| probed.monitored),
        });
        first = first.or(probed);
    }
    let probed = match first {
        Some(probed) => probed,
        None => probe(&frame, None)?,
    };
    let host = HostRules::new(&known)?;
    let on_host = decide(&frame[..], &host);
    let Explanation { meaning, .. } = reasons::explain(probed.verdict);
    let passes = matches!(probed.verdict, Verdict::Pass(_));
    let judged = judged_address(question.packet.source, known.policy);
    let decided_by = cover::deciding(probed.verdict, &question.packet, &known.covering).cloned();
    let mut reply = WhyReply {
        address: question.packet.source,
        judged_as: (judged != question.packet.source).then_some(judged),
        packet: PacketReply::new(&question.packet),
        passes,
        reason: probed.verdict.name().into(),
        meaning: meaning.into(),
        class: class_name(probed.class).into(),
        generation: probed.generation,
        interfaces,
        decided_by,
        scope: host.scope(judged),
        last_drop: known.last_drop.take(),
        remedy: None,
        notes: Vec::new(),
        disagreement: host::disagreement(&probed, &on_host, &known),
        covering: known.covering,
    };
    reply.remedy = (!passes).then(|| remedy(probed.verdict, &reply));
    reply.notes = notes(question, known.lag.as_deref(), &reply);
    Ok(reply)
}

fn interfaces<'a>(
    question: &Question,
    interfaces: &'a [InterfaceStatus],
) -> Result<Vec<&'a InterfaceStatus>, WhyError> {
    match &question.interface {
        None => Ok(interfaces.iter().collect()),
        Some(wanted) => interfaces
            .iter()
            .find(|interface| interface.name == *wanted)
            .map(|interface| vec![interface])
            .ok_or_else(|| WhyError::NoSuchInterface {
                interface: wanted.clone(),
            }),
    }
}

impl PacketReply {
    fn new(packet: &Packet) -> Self {
        Self {
            protocol: packet.protocol,
            protocol_name: names::protocol(packet.protocol),
            source_port: packet.source_port,
            destination: packet.destination,
            destination_port: packet.destination_port,
            vlans: packet.vlans.clone(),
            syn: packet.syn,
            later_fragment: packet.later_fragment,
        }
    }
}

/// The name of a class, as answers have it.
pub fn class_name(class: Class) -> &'static str {
    match class {
        Class::NOT_LISTED => "not_listed",
        Class::ALLOWED => "allowed",
        Class::PROTECTED => "protected",
        Class::BANNED => "banned",
        Class::DENIED => "denied",
        _ => "scoped",
    }
}

/// What would let the packet in, with the address and prefix in question.
fn remedy(verdict: Verdict, reply: &WhyReply) -> String {
    let address = reply.judged_as.unwrap_or(reply.address);
    let generally = reasons::explain(verdict).remedy.to_owned();
    let entry = match &reply.decided_by {
        Some(Cover::Entry { list, entry, .. }) => Some((list, entry)),
        Some(Cover::Ban { .. } | Cover::Protected { .. }) | None => None,
    };
    match verdict {
        Verdict::Drop(Drop::NotListed | Drop::OutOfScope) => {
            format!("portcullis-agent allow add {address}{}", scope_flag(reply))
        }
        Verdict::Drop(Drop::Denied) => match entry {
            Some((list, entry)) if list.as_str() == "manual" => {
                format!("portcullis-agent allow remove {}", entry.prefix)
            }
            Some((list, entry)) => format!(
                "take the denial of {} out of {list}, or portcullis-agent allow add {address}{}",
                entry.prefix,
                scope_flag(reply)
            ),
            None => generally,
        },
        Verdict::Drop(Drop::Banned) => match &reply.decided_by {
            Some(Cover::Ban(ban)) => format!(
                "portcullis-agent unban {}, or wait until {}",
                ban.source,
                ban.expires
                    .to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
            ),
            Some(Cover::Entry { .. } | Cover::Protected { .. }) | None => generally,
        },
        Verdict::Drop(_) | Verdict::Pass(_) => generally,
    }
}

/// The flag that allows no more than what was asked about.
fn scope_flag(reply: &WhyReply) -> String {
    let packet = &reply.packet;
    if !names::has_ports(packet.protocol) || packet.destination_port == 0 {
        return String::new();
    }
    format!(
        " --scope {}/{}",
        packet.protocol_name, packet.destination_port
    )
}

fn notes(question: &Question, lag: Option<&str>, reply: &WhyReply) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(lag) = lag {
        notes.push(format!(
            "the kernel does not yet enforce what is wanted: {lag}"
        ));
    }
    if !reply.interfaces.iter().any(|interface| interface.judged) {
        notes.push("no interface is enforced on: every packet reaches the host".to_owned());
    }
    for interface in &reply.interfaces {
        if !interface.judged {
            notes.push(format!(
                "{} is not enforced on: see portcullis-agent status",
                interface.name
            ));
        } else if interface.monitored && !reply.passes {
            notes.push(format!(
                "{} is monitored: there the packet is counted and passes",
                interface.name
            ));
        }
    }
    if reply.scope.is_some() && !question.is_specific {
        notes.push("it depends on protocol and port: ask again with --proto and --port".to_owned());
    }
    if reply.reason == Pass::Reply.name() {
        notes.push("only as a reply: a packet that opens a connection would be dropped".to_owned());
    }
    notes
}
