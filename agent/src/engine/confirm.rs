//! A change that waits for its confirmation: it stays if that comes in time, and is taken back otherwise.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Engine, Terms};
use crate::{
    clock::Moment,
    control::{ChangeReply, Code, Failure, peer::Peer},
    datapath::DatapathError,
    lists::{Delta, Lists},
    record,
};

/// What is needed to go back.
pub(super) struct Pending {
    pub(super) revision: u64,
    pub(super) previous: Lists,
    /// By the time since boot.
    pub(super) deadline: Duration,
    pub(super) confirm_by: DateTime<Utc>,
    pub(super) by: String,
    /// The connection that asked for the change.
    pub(super) connection: u64,
    /// Whether the kernel's generation before lacks something that is wanted by now.
    pub(super) is_edited: bool,
}

impl Engine {
    /// Lets the change that waits stay.
    ///
    /// # Errors
    /// If none waits, its time is over, or this comes over the connection that asked for it: that one may have been let in before.
    pub async fn confirm(
        &mut self,
        terms: &Terms,
        by: &Peer,
        now: Moment,
    ) -> Result<ChangeReply, Failure> {
        let Some(pending) = &self.pending else {
            return Err(nothing_waits());
        };
        if pending.connection == by.connection {
            return Err(Failure::new(
                Code::Conflict,
                "confirm over a new connection: the one that asked for the change proves nothing",
            ));
        }
        if now.boot >= pending.deadline {
            self.go_back("the time to confirm was over", by, now)
                .await?;
            return Err(too_late());
        }
        let revision = pending.revision;
        let event =
            record::allow_change("confirm", revision, &Delta::default(), terms.grounds(), by);
        self.record_and_keep(event, |store| {
            store.keep_confirmed(revision).map(|kept| ((), kept))
        })
        .await?;
        match self.parts.datapath.confirm() {
            // Without a revert that is armed the generation in force stays.
            Ok(()) | Err(DatapathError::NotArmed) => {}
            Err(DatapathError::TooLate) => {
                self.go_back("the time to confirm was over", by, now)
                    .await?;
                return Err(too_late());
            }
            Err(error) => {
                let failure = Failure::kernel(&error);
                tracing::error!(
                    error = failure.message,
                    "the confirmation does not reach the kernel"
                );
                return Err(failure);
            }
        }
        self.pending = None;
        tracing::info!(revision, by = by.name, "change confirmed");
        Ok(self.reply(&Delta::default(), true))
    }

    /// Takes back the change that waits.
    ///
    /// # Errors
    /// If none waits, or the way back can't be recorded or kept.
    pub async fn revert(
        &mut self,
        terms: &Terms,
        by: &Peer,
        now: Moment,
    ) -> Result<ChangeReply, Failure> {
        if self.pending.is_none() {
            return Err(nothing_waits());
        }
        let reason = terms.reason.as_deref().unwrap_or("asked for");
        let delta = self.go_back(reason, by, now).await?;
        Ok(self.reply(&delta, true))
    }

    /// Takes back the change whose time is over.
    pub(super) async fn keep_deadline(&mut self, now: Moment) {
        let is_over = |pending: &Pending| now.boot >= pending.deadline;
        if !self.pending.as_ref().is_some_and(is_over) {
            return;
        }
        tracing::error!("a change was not confirmed in time and is taken back");
        let by = Peer::agent("deadline");
        // The kernel went back by itself; what fails here is tried again with the next tick.
        let _ = self.go_back("not confirmed in time", &by, now).await;
    }

    /// Records, keeps and carries out the way back.
    pub(super) async fn go_back(
        &mut self,
        reason: &str,
        by: &Peer,
        now: Moment,
    ) -> Result<Delta, Failure> {
        let Some(pending) = &self.pending else {
            return Ok(Delta::default());
        };
        let previous = pending.previous.clone();
        let delta = self.lists.delta_to(&previous);
        let terms = Terms {
            reason: Some(reason.to_owned()),
            ..Terms::default()
        };
        self.keep("revert", &delta, &terms, by, None, now).await?;
        self.lists = previous;
        let is_edited = self.pending.take().is_some_and(|pending| pending.is_edited);
        self.is_synced = match self.parts.datapath.revert() {
            Ok(_) => !is_edited,
            Err(_) => false,
        };
        self.follow()?;
        tracing::warn!(
            revision = self.revision,
            reason,
            by = by.name,
            "change taken back"
        );
        Ok(delta)
    }

    /// Takes back a change that an earlier daemon left waiting.
    pub(super) async fn revert_orphan(&mut self, now: Moment) -> Result<(), Failure> {
        let delta = self
            .parts
            .store
            .delta(self.revision, self.revision.saturating_sub(1))
            .map_err(|error| Failure::state(&error))?;
        let terms = Terms {
            reason: Some("the agent ended before it was confirmed".to_owned()),
            ..Terms::default()
        };
        let by = Peer::agent("start");
        self.keep("revert", &delta, &terms, &by, None, now).await?;
        self.lists.apply(&delta);
        self.is_orphaned = false;
        // The kernel may have gone back, or be about to; what it goes back to is replaced right after.
        if let Err(error) = self.parts.datapath.revert() {
            tracing::debug!(%error, "no revert is armed in the kernel");
        }
        self.is_synced = false;
        tracing::warn!(
            revision = self.revision,
            "a change that was not confirmed is taken back"
        );
        Ok(())
    }
}

fn nothing_waits() -> Failure {
    Failure::new(Code::Conflict, "no change waits for its confirmation")
}

fn too_late() -> Failure {
    Failure::new(
        Code::Conflict,
        "the time to confirm is over: the change was taken back",
    )
}
