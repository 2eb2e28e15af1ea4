//! Changes of the lists: proposed, judged, recorded, kept, put in force.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Change, Engine, MAX_EDITS, Terms, confirm::Pending};
use crate::{
    clock::Moment,
    control::{
        ChangeReply, ChangedEntry, Code, DiffReply, Failure, ListedEntry,
        peer::{Identity, Peer},
    },
    datapath::Edit,
    guard::{self, Impact, ListChange, Preview, Refusal},
    lists::{Delta, List, ListName, Lists, RuleEdits, Step},
    record,
    rule::Action,
    state::Revision,
};

/// The longest time that a change may wait for its confirmation.
pub(crate) const MAX_CONFIRM: Duration = Duration::from_secs(3600);

/// A change as it would be made.
struct Proposal {
    delta: Delta,
    /// The lists afterwards, where they were needed to find the delta.
    after: Option<Lists>,
    edits: RuleEdits,
}

impl Engine {
    /// Changes the lists, as a whole or not at all.
    ///
    /// # Errors
    /// If it may not be, can't be recorded or kept (then nothing is done), or the kernel does not follow (then it is retried; a
    /// change that was to be confirmed is taken back).
    pub async fn change(
        &mut self,
        change: Change,
        terms: &Terms,
        by: &Peer,
        now: Moment,
    ) -> Result<ChangeReply, Failure> {
        let action = change.action();
        self.admit_terms(terms)?;
        let proposal = self.propose(change)?;
        if proposal.delta.is_empty() {
            return Ok(self.reply(&proposal.delta, false));
        }
        let impact = self.impact(&proposal, terms, by);
        let preview = || Preview {
            counts: proposal.delta.counts(),
            examples: guard::examples(&proposal.delta),
            impact: impact.clone(),
        };
        if terms.dry_run {
            return Ok(ChangeReply {
                preview: Some(preview()),
                ..self.reply(&proposal.delta, false)
            });
        }
        if !terms.force {
            impact
                .admit(self.settings.max_cut_flows)
                .and_then(|()| self.leaves_somebody(&proposal))
                .map_err(|refusal| Failure::refused(&refusal))?;
        }
        let preview = terms.confirm_within.map(|_| preview());
        let (confirm_by, delta) = self.put(action, proposal, terms, by, now).await?;
        Ok(ChangeReply {
            confirm_by,
            preview,
            ..self.reply(&delta, true)
        })
    }

    fn admit_terms(&self, terms: &Terms) -> Result<(), Failure> {
        if let Some(wanted) = terms.if_revision.filter(|wanted| *wanted != self.revision) {
            return Err(Failure::new(
                Code::Precondition,
                format!(
                    "the lists are at revision {}, and not at {wanted}: somebody changed them in between (`allow diff {wanted} {}`)",
                    self.revision, self.revision
                ),
            ));
        }
        if terms
            .confirm_within
            .is_some_and(|within| within.is_zero() || within > MAX_CONFIRM)
        {
            return Err(Failure::invalid(format!(
                "a change can wait 1 to {} seconds for its confirmation",
                MAX_CONFIRM.as_secs()
            )));
        }
        match &self.pending {
            Some(pending) if !terms.dry_run => Err(Failure::new(
                Code::Conflict,
                format!(
                    "revision {} of {} waits for its confirmation: `allow confirm` or `allow revert` it first",
                    pending.revision, pending.by
                ),
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn propose(&self, change: Change) -> Result<Proposal, Failure> {
        let manual = ListName::manual();
        let list = self.lists.get(&manual);
        let mut after = None;
        let delta: Delta = match change {
            Change::Add(entries) => {
                // Of entries with the same rule the last counts.
                let wanted: List = entries.into_iter().collect();
                let steps = wanted
                    .entries()
                    .filter_map(|entry| Step::put(list, entry))
                    .collect();
                [(manual, steps)].into_iter().collect()
            }
            Change::Remove(prefixes) => {
                let mut steps = Vec::new();
                for prefix in prefixes.into_iter().collect::<BTreeSet<_>>() {
                    let entries = list.map(|list| list.at(&prefix)).unwrap_or_default();
                    if entries.is_empty() {
                        return Err(self.not_listed(&prefix));
                    }
                    let removed = entries
                        .iter()
                        .filter_map(|entry| Step::remove(list, &entry.rule()));
                    steps.extend(removed);
                }
                [(manual, steps)].into_iter().collect()
            }
            Change::Replace(list) => {
                let mut lists = self.lists.clone();
                let steps = lists.replace(&manual, list);
                after = Some(lists);
                [(manual, steps)].into_iter().collect()
            }
            Change::Sync(wanted) => {
                let mut lists = self.lists.clone();
                let delta = wanted
                    .into_iter()
                    .map(|(name, list)| {
                        let steps = lists.replace(&name, list);
                        (name, steps)
                    })
                    .collect();
                after = Some(lists);
                delta
            }
            Change::Rollback(revision) => self
                .parts
                .store
                .delta(self.revision, revision)
                .map_err(|error| Failure::state(&error))?,
        };
        let edits = delta.rule_edits();
        if after.is_none() && edits.added.len() + edits.removed.len() > MAX_EDITS {
            let mut lists = self.lists.clone();
            lists.apply(&delta);
            after = Some(lists);
        }
        Ok(Proposal {
            delta,
            after,
            edits,
        })
    }

    fn not_listed(&self, prefix: &ipnet::IpNet) -> Failure {
        let elsewhere = self.lists.holding(prefix);
        let message = if elsewhere.is_empty() {
            format!("{prefix} is not on the allowlist")
        } else {
            let names: Vec<&str> = elsewhere.iter().map(ListName::as_str).collect();
            format!(
                "{prefix} is not on the manual list; it comes from {}, and has to be changed there",
                names.join(", ")
            )
        };
        Failure::not_found(message)
    }

    fn impact(&self, proposal: &Proposal, terms: &Terms, by: &Peer) -> Impact {
        let edits = &proposal.edits;
        let denies = edits.added.iter().any(|rule| rule.action == Action::Deny);
        // Who is let in cuts nobody.
        if edits.removed.is_empty() && !denies {
            return Impact::default();
        }
        let others = self.other_rules();
        let judge = ListChange {
            others: &others,
            lists: &self.lists,
            edits,
            after: proposal.after.as_ref(),
        };
        let peers = self.parts.traffic.live_peers();
        guard::impact(&judge, by.session(), &peers, &terms.observed)
    }

    fn leaves_somebody(&self, proposal: &Proposal) -> Result<(), Refusal> {
        let is_allow = |rules: &[crate::rule::Rule]| {
            rules
                .iter()
                .filter(|rule| matches!(rule.action, Action::Allow(_)))
                .count()
        };
        let left = (self.lists.allowing() + is_allow(&proposal.edits.added))
            .saturating_sub(is_allow(&proposal.edits.removed));
        if left > 0 || self.protects_anyone() || self.is_monitoring_all() {
            Ok(())
        } else {
            Err(Refusal::Nobody)
        }
    }

    /// Records, keeps and carries out; gives until when the change waits for its confirmation, and what it changed.
    async fn put(
        &mut self,
        action: &str,
        proposal: Proposal,
        terms: &Terms,
        by: &Peer,
        now: Moment,
    ) -> Result<(Option<DateTime<Utc>>, Delta), Failure> {
        let Proposal {
            delta,
            after,
            edits,
        } = proposal;
        let confirm_by = terms
            .confirm_within
            .and_then(|within| TimeDelta::from_std(within).ok())
            .map(|within| now.wall + within);
        self.keep(action, &delta, terms, by, confirm_by, now)
            .await?;
        let previous = terms.confirm_within.map(|_| self.lists.clone());
        let is_whole = after.is_some();
        match after {
            Some(after) => self.lists = after,
            None => self.lists.apply(&delta),
        }
        self.keeps_expired = false;
        match (terms.confirm_within, previous) {
            (Some(within), Some(previous)) => self.arm(within, previous, by, now).await?,
            (None, _) | (_, None) => {
                let edits = rule_edits(edits);
                // A list that is replaced is compiled as one; a few steps of it may still be edits.
                if is_whole && edits.len() > MAX_EDITS / 16 {
                    self.is_synced = false;
                }
                if let Err(failure) = self.edit(&edits) {
                    self.take_back(&failure, &delta, by, now).await?;
                    return Err(failure);
                }
            }
        }
        let counts = delta.counts();
        tracing::info!(
            action,
            added = counts.added,
            removed = counts.removed,
            changed = counts.changed,
            revision = self.revision,
            by = by.name,
            "lists changed"
        );
        Ok((confirm_by, delta))
    }

    /// Takes back a change that no kernel can hold; any other failure is tried again.
    async fn take_back(
        &mut self,
        failure: &Failure,
        delta: &Delta,
        by: &Peer,
        now: Moment,
    ) -> Result<(), Failure> {
        if failure.code != Code::Limit {
            return Ok(());
        }
        let back = delta.inverse();
        let terms = Terms {
            reason: Some("more than the tables hold".to_owned()),
            ..Terms::default()
        };
        self.keep("revert", &back, &terms, by, None, now).await?;
        self.lists.apply(&back);
        self.follow()
    }

    /// Records and keeps a change, which makes a new revision.
    pub(super) async fn keep(
        &mut self,
        action: &str,
        delta: &Delta,
        terms: &Terms,
        by: &Peer,
        confirm_by: Option<DateTime<Utc>>,
        now: Moment,
    ) -> Result<(), Failure> {
        let counts = delta.counts();
        let revision = Revision {
            revision: self.revision + 1,
            time: now.wall,
            by: (by.identity != Identity::Agent).then(|| by.name.clone()),
            action: action.to_owned(),
            reason: terms.reason.clone(),
            ticket: terms.ticket.clone(),
            counts,
            entries: (self.lists.len() + counts.added).saturating_sub(counts.removed),
            digest: String::new(),
            confirm_by,
        };
        let event = record::allow_change(action, revision.revision, delta, terms.grounds(), by);
        let revision = self
            .record_and_keep(event, |store| store.keep_lists(revision, delta))
            .await?;
        self.revision = revision.revision;
        Ok(())
    }

    async fn arm(
        &mut self,
        within: Duration,
        previous: Lists,
        by: &Peer,
        now: Moment,
    ) -> Result<(), Failure> {
        let rules = self.rules();
        let armed = self
            .parts
            .datapath
            .switch_confirmed(rules, &self.settings.datapath, within);
        self.pending = Some(Pending {
            revision: self.revision,
            previous,
            deadline: now.boot + within,
            confirm_by: now.wall + TimeDelta::from_std(within).unwrap_or_default(),
            by: by.name.clone(),
            connection: by.connection,
            is_edited: false,
        });
        if let Err(failure) = self.note(armed) {
            // The generation before is still in force; the lists go back to it too.
            self.go_back("the kernel refused it", by, now).await?;
            return Err(failure);
        }
        self.verify();
        Ok(())
    }

    pub(super) fn reply(&self, delta: &Delta, applied: bool) -> ChangeReply {
        ChangeReply {
            applied,
            revision: self.revision,
            generation: self.parts.datapath.generation(),
            counts: delta.counts(),
            entries: self.lists.len(),
            confirm_by: None,
            preview: None,
        }
    }

    pub(super) fn entries(&self, wanted: Option<&ListName>) -> Vec<ListedEntry> {
        self.lists
            .iter()
            .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name))
            .flat_map(|(name, list)| {
                list.entries().map(|entry| ListedEntry {
                    list: name.clone(),
                    entry,
                })
            })
            .collect()
    }

    pub(super) fn diff(&self, from: u64, to: u64) -> Result<DiffReply, Failure> {
        let delta = self
            .parts
            .store
            .delta(from, to)
            .map_err(|error| Failure::state(&error))?;
        let mut reply = DiffReply {
            from,
            to,
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
        };
        for (name, step) in delta.steps() {
            let list = name.clone();
            match (step.before(), step.after()) {
                (Some(before), Some(after)) => reply.changed.push(ChangedEntry {
                    list,
                    before,
                    after,
                }),
                (Some(entry), None) => reply.removed.push(ListedEntry { list, entry }),
                (None, Some(entry)) => reply.added.push(ListedEntry { list, entry }),
                (None, None) => {}
            }
        }
        Ok(reply)
    }
}

/// What lets in comes before what cuts off.
pub(super) fn rule_edits(edits: RuleEdits) -> Vec<Edit> {
    let added = edits.added.into_iter().map(Edit::Add);
    added
        .chain(edits.removed.into_iter().map(Edit::Remove))
        .collect()
}
