//! The same question, judged on this host by the same code as in the kernel, over the rules that this host wants.

use std::net::IpAddr;

use agent_ebpf::{
    class::Class,
    limit::Excess,
    packet::{Bytes, Headers, Source},
    scope::ScopeSet,
    verdict::{Decision, Drop, Pass, Policy, Rules, Verdict},
};

use super::{Cover, Known, class_name};
use crate::{
    datapath::Probe,
    rule::{Rule, Scope},
    ruleset::{Ruleset, RulesetError},
};

/// The rules that cover one address. What flows and rates they meet is known to the kernel alone.
pub(super) struct HostRules {
    policy: Policy,
    ruleset: Ruleset,
    sets: Vec<ScopeSet>,
}

impl HostRules {
    pub(super) fn new(known: &Known<'_>) -> Result<Self, RulesetError> {
        let rules: Vec<Rule> = known.covering.iter().map(Cover::rule).collect();
        let ruleset = Ruleset::build(&rules)?;
        Ok(Self {
            policy: known.policy,
            sets: ruleset.scope_sets(),
            ruleset,
        })
    }

    /// What the source may use, if that is not all or nothing.
    pub(super) fn scope(&self, address: IpAddr) -> Option<Scope> {
        let index = usize::try_from(self.ruleset.class_of(address).scope()?).ok()?;
        let used = self.sets.get(index)?.ranges.iter();
        let used = used.filter(|range| range.first <= range.last);
        Scope::new(used.copied()).ok()
    }
}

impl Rules for HostRules {
    fn policy(&self) -> Policy {
        self.policy
    }

    fn class_of(&self, source: Source) -> Class {
        self.ruleset.class_of(source.address())
    }

    fn permits(&self, scope: u32, protocol: u8, port: Option<u16>) -> bool {
        usize::try_from(scope)
            .ok()
            .and_then(|scope| self.sets.get(scope))
            .is_some_and(|set| set.permits(protocol, port))
    }

    fn is_reply<B: Bytes + ?Sized>(&self, _packet: &B, _headers: &Headers) -> bool {
        false
    }

    fn limits(&self) -> bool {
        false
    }

    fn excess(&self, _source: Source, _is_connection_attempt: bool) -> Option<Excess> {
        None
    }
}

/// How the program's answer differs from what this host's rules say, if it does.
pub(super) fn disagreement(probed: &Probe, host: &Decision, known: &Known<'_>) -> Option<String> {
    let is_explained = match (probed.verdict, host.verdict) {
        (Verdict::Pass(Pass::Reply), Verdict::Drop(Drop::NotListed | Drop::OutOfScope)) => {
            known.learns_replies
        }
        (Verdict::Drop(Drop::RateLimited | Drop::SynRateLimited), Verdict::Pass(Pass::Allowed)) => {
            known.limits_rates
        }
        (program, host) => program == host,
    };
    let (class, wanted) = (class_name(probed.class), class_name(host.class));
    if is_explained && class == wanted {
        return None;
    }
    Some(format!(
        "the loaded program says {} (class {class}), the rules of this host say {} (class {wanted}): the kernel does not enforce what is wanted",
        probed.verdict.name(),
        host.verdict.name(),
    ))
}
