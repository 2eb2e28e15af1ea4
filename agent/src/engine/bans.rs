//! Bans made, lifted and at their end.

use std::time::Duration;

use futures_util::future::join_all;
use ipnet::IpNet;

use super::{Engine, Terms};
use crate::{
    bans::Ban,
    clock::Moment,
    control::{Failure, peer::Peer},
    datapath::Edit,
    guard::{self, Judge},
    prefix,
    record::{self, Grounds},
    rule::{Action, Rule},
};

/// A ban, laid over the rules in force.
struct BanChange<'a> {
    engine: &'a Engine,
    rule: &'a Rule,
}

impl Judge for BanChange<'_> {
    fn before(&self, address: std::net::IpAddr) -> Vec<Rule> {
        let entries = self.engine.lists.covering(address).into_iter();
        let others = self.engine.other_rules().into_iter();
        others
            .filter(|rule| rule.prefix.contains(&address))
            .chain(entries.map(|(_, entry)| entry.rule()))
            .collect()
    }

    fn after(&self, address: std::net::IpAddr) -> Vec<Rule> {
        let mut rules = self.before(address);
        if self.rule.prefix.contains(&address) {
            rules.push(self.rule.clone());
        }
        rules
    }
}

impl Engine {
    /// Bans `source`, if that may be.
    ///
    /// # Errors
    /// If it may not be, can't be recorded or kept (then nothing is done), or the kernel does not follow (then it is retried).
    pub async fn ban(
        &mut self,
        source: IpNet,
        lifetime: Duration,
        reason: &str,
        terms: &Terms,
        by: &Peer,
        now: Moment,
    ) -> Result<Ban, Failure> {
        let ban = self
            .bans
            .admit(source, lifetime, reason, &by.name, now.wall)
            .map_err(|error| Failure::ban(&error))?;
        let rule = rule(&ban);
        if !terms.force {
            self.guard_ban(&rule, by)?;
        }
        let event = record::ban_change("ban", &ban, terms.grounds(), by);
        self.record_and_keep(event, |store| store.keep_ban(&ban).map(|kept| ((), kept)))
            .await?;
        if self.bans.insert(ban.clone()).is_none() {
            self.edit(&[Edit::Add(rule)])?;
        }
        tracing::info!(source = %ban.source, expires = %ban.expires, reason = ban.reason, by = ban.by, "banned");
        Ok(ban)
    }

    /// Whoever bans one source means to cut its connections; a network may have others in it.
    fn guard_ban(&self, rule: &Rule, by: &Peer) -> Result<(), Failure> {
        let session = by
            .session()
            .filter(|session| rule.prefix.contains(&session.client));
        let is_one_source = match rule.prefix {
            IpNet::V4(_) => prefix::is_host(&rule.prefix),
            // A host has a /64 for itself.
            IpNet::V6(net) => net.prefix_len() >= 64,
        };
        if session.is_none() && is_one_source {
            return Ok(());
        }
        let peers = if is_one_source {
            Vec::new()
        } else {
            let mut peers = self.parts.traffic.live_peers();
            peers.retain(|peer| rule.prefix.contains(&peer.address));
            peers
        };
        let judge = BanChange { engine: self, rule };
        guard::impact(&judge, session, &peers, &[])
            .admit(self.settings.max_cut_flows)
            .map_err(|refusal| Failure::refused(&refusal))
    }

    /// Lifts the ban of exactly this source.
    ///
    /// # Errors
    /// As for [`Engine::ban`], and if there is no such ban.
    pub async fn unban(
        &mut self,
        source: &IpNet,
        terms: &Terms,
        by: &Peer,
    ) -> Result<Ban, Failure> {
        let Some(ban) = self.bans.get(source).cloned() else {
            return Err(Failure::not_found(format!("{source} is not banned")));
        };
        let event = record::ban_change("unban", &ban, terms.grounds(), by);
        let sources = vec![ban.source];
        self.record_and_keep(event, |store| {
            store.keep_unban(sources).map(|kept| ((), kept))
        })
        .await?;
        self.bans.remove(source);
        self.edit(&[Edit::Remove(rule(&ban))])?;
        tracing::info!(source = %ban.source, by = by.name, "ban lifted");
        Ok(ban)
    }

    /// Ends the bans whose time has come.
    pub(super) async fn sweep_bans(&mut self, now: Moment) {
        let ended = self.bans.expired(now.wall);
        self.end_bans(ended).await;
    }

    /// Ends bans. Without a record they stay.
    pub(super) async fn end_bans(&mut self, ended: Vec<Ban>) {
        if ended.is_empty() {
            return;
        }
        let by = Peer::agent("expiry");
        let records = ended.iter().map(|ban| {
            let event = record::ban_change("expire", ban, Grounds::default(), &by);
            self.parts.recorder.record(event)
        });
        if let Some(error) = join_all(records).await.into_iter().find_map(Result::err) {
            tracing::error!(%error, "no record, so the bans stay");
            return;
        }
        let sources = ended.iter().map(|ban| ban.source).collect();
        if let Err(error) = self.parts.store.keep_unban(sources) {
            tracing::error!(%error, "the end of bans can't be kept, so they stay");
            return;
        }
        let mut edits = Vec::new();
        for ban in ended {
            tracing::info!(source = %ban.source, "ban ended");
            if self.bans.remove(&ban.source).is_some() {
                edits.push(Edit::Remove(rule(&ban)));
            }
        }
        if !edits.is_empty() {
            // Logged where it happens, and tried again.
            let _ = self.edit(&edits);
        }
    }
}

fn rule(ban: &Ban) -> Rule {
    Rule {
        prefix: ban.source,
        action: Action::Ban,
    }
}
