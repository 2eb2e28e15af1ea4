//! Questions about single packets.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Engine;
use crate::{
    answers::{
        question::Question,
        why::{self, Cover, Known, Since, WhyReply},
    },
    control::Failure,
    lists::ListName,
    rule::Rule,
};

/// Changed entries that are read at most to find the change that brought one: reading them holds up everything else.
const MAX_READ: usize = 20_000;

impl Engine {
    /// Says what the kernel makes of a packet, and why.
    ///
    /// # Errors
    /// If the interface is unknown, or the kernel refuses.
    pub(super) fn why(&mut self, question: &Question) -> Result<WhyReply, Failure> {
        let settings = &self.settings.datapath;
        let judged = why::judged_address(question.packet.source, settings.policy);
        let known = Known {
            policy: settings.policy,
            learns_replies: settings.learn_replies,
            limits_rates: settings.rate.is_some(),
            interfaces: &self.interfaces,
            covering: self.covering(judged),
            last_drop: self.reporter.last(question.packet.source).cloned(),
            lag: self.lag.clone(),
        };
        let datapath = &mut self.parts.datapath;
        why::answer(question, known, |frame, interface| {
            datapath.probe(frame, interface)
        })
        .map_err(|error| Failure::why(&error))
    }

    fn covering(&self, address: IpAddr) -> Vec<Cover> {
        let covers = |prefix: &IpNet| prefix.contains(&address);
        let protections = self.protections().filter(|(prefix, _)| covers(prefix));
        let protections = protections.map(|(prefix, origin)| Cover::Protected {
            prefix,
            origin: origin.to_owned().into(),
        });
        let bans = self.bans.bans().filter(|ban| covers(&ban.source));
        let entries = self.lists.covering(address).into_iter();
        let entries = entries.map(|(list, entry)| Cover::Entry {
            since: self.since(&list, &entry.rule()),
            list,
            entry,
        });
        protections
            .chain(bans.cloned().map(Cover::Ban))
            .chain(entries)
            .collect()
    }

    /// The last change that put this rule into the list, if it is not too far back.
    fn since(&self, list: &ListName, rule: &Rule) -> Option<Since> {
        let mut read = 0_usize;
        for entry in self.parts.store.history().rev() {
            let revision = &entry.revision;
            let counts = &revision.counts;
            read = read
                .saturating_add(counts.added)
                .saturating_add(counts.removed)
                .saturating_add(counts.changed);
            let before = revision.revision.checked_sub(1)?;
            if read > MAX_READ {
                return None;
            }
            let delta = self.parts.store.delta(before, revision.revision).ok()?;
            let put = delta
                .steps()
                .any(|(name, step)| name == list && step.rule == *rule && step.after.is_some());
            if put {
                return Some(Since {
                    revision: revision.revision,
                    time: revision.time,
                    by: revision.by.clone(),
                });
            }
        }
        None
    }
}
