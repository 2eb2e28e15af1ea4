//! Which of the requests that have arrived may run now. A value: the channel tells it what arrived and what is done.
//!
//! A request claims up to four lanes: its handles, the names of its mount, that of compound requests, and the upload that it
//! reads. It runs once nothing that arrived before it on one of its lanes conflicts with it. Requests that don't conflict run together and end in any order.

use std::{
    cmp::Ordering,
    collections::{HashMap, VecDeque},
};

use crate::{
    operation::{HandleId, Operation},
    policy::{HandleKind, MountId, OpenHandle, Permit, Route},
};

/// Most requests of a channel that run at the same time.
pub const MAX_RUNNING: usize = 256;

/// Where requests are kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    Handle(HandleId),
    Names(MountId),
    /// Requests that are carried out as several: one at a time.
    Compound,
}

/// What a request does on a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Looks: READ on a handle, STAT on names.
    Shared,
    /// Writes the bytes from the first number up to the second.
    Range(u64, u64),
    /// Waits for all before it and holds all after it.
    Exclusive,
}

impl Use {
    /// True if the two must not run at the same time, and keep their order.
    pub fn conflicts(self, other: Self) -> bool {
        match (self, other) {
            (Self::Shared, Self::Shared) => false,
            (Self::Range(from, to), Self::Range(other_from, other_to)) => {
                from < other_to && other_from < to
            }
            (Self::Exclusive, _)
            | (_, Self::Exclusive)
            | (Self::Shared, Self::Range(..))
            | (Self::Range(..), Self::Shared) => true,
        }
    }
}

/// The lanes that one request claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claims([Option<(Lane, Use)>; 4]);

impl Claims {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn one(lane: Lane, usage: Use) -> Self {
        Self([Some((lane, usage)), None, None, None])
    }

    /// With one lane more; a request has four at most.
    #[must_use]
    pub fn and(mut self, lane: Lane, usage: Use) -> Self {
        if let Some(place) = self.0.iter_mut().find(|place| place.is_none()) {
            *place = Some((lane, usage));
        }
        self
    }

    /// With what a look at the bytes of an upload waits for, if there is one.
    #[must_use]
    pub fn and_upload(self, upload: Option<HandleId>) -> Self {
        match upload {
            Some(upload) => self.and(Lane::Handle(upload), Use::Shared),
            None => self,
        }
    }

    pub fn lanes(&self) -> impl Iterator<Item = (Lane, Use)> {
        self.0.into_iter().flatten()
    }

    /// What a permitted operation claims; `handle` is the open handle that it names.
    pub fn of(permit: &Permit, handle: Option<&OpenHandle>) -> Self {
        let names = |usage| match permit.route() {
            Route::Gateway => Self::none(),
            Route::Mount { mount, .. } => Self::one(Lane::Names(*mount), usage),
        };
        match permit.operation() {
            Operation::Stat { .. }
            | Operation::Lstat { .. }
            | Operation::Readlink { .. }
            | Operation::Opendir { .. }
            | Operation::Statvfs { .. } => names(Use::Shared),
            Operation::Open { access, .. }
                if access.writes() || access.create || access.truncate =>
            {
                names(Use::Exclusive)
            }
            Operation::Open { .. } => names(Use::Shared),
            Operation::Setstat { .. }
            | Operation::Lsetstat { .. }
            | Operation::Remove { .. }
            | Operation::Mkdir { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename { .. }
            | Operation::PosixRename { .. }
            | Operation::Symlink { .. }
            | Operation::Hardlink { .. } => names(Use::Exclusive),

            Operation::Read { handle, .. } => Self::one(Lane::Handle(*handle), Use::Shared),
            Operation::CheckFile { handle, .. } => {
                Self::one(Lane::Handle(*handle), Use::Shared).and(Lane::Compound, Use::Exclusive)
            }
            Operation::CheckFileName { .. } => {
                names(Use::Shared).and(Lane::Compound, Use::Exclusive)
            }
            Operation::CopyData { source, target, .. } => {
                Self::one(Lane::Handle(*source), Use::Shared)
                    .and(Lane::Handle(*target), Use::Exclusive)
                    .and(Lane::Compound, Use::Exclusive)
            }
            Operation::Write {
                handle: id,
                offset,
                data,
            } => {
                let appends = handle.is_some_and(
                    |handle| matches!(handle.kind(), HandleKind::File(access) if access.append),
                );
                let usage = if appends {
                    Use::Exclusive
                } else {
                    Use::Range(*offset, offset.saturating_add(data.len() as u64))
                };
                Self::one(Lane::Handle(*id), usage)
            }
            // Publishes what was written: a change of names too.
            Operation::Close { handle: id } if handle.is_some_and(OpenHandle::is_written) => {
                let own = Self::one(Lane::Handle(*id), Use::Exclusive);
                match permit.route() {
                    Route::Gateway => own,
                    Route::Mount { mount, .. } => own.and(Lane::Names(*mount), Use::Exclusive),
                }
            }
            Operation::Close { handle }
            | Operation::Fstat { handle }
            | Operation::Fsetstat { handle, .. }
            | Operation::Readdir { handle }
            | Operation::Fstatvfs { handle }
            | Operation::Fsync { handle } => Self::one(Lane::Handle(*handle), Use::Exclusive),

            Operation::Realpath { .. }
            | Operation::Limits
            | Operation::HomeDirectory
            | Operation::UsersGroupsById { .. }
            | Operation::Tend { .. } => Self::none(),
        }
    }
}

/// A request's place in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// The requests of one channel that have arrived and are not done.
#[derive(Debug)]
pub struct Schedule<T> {
    next: u64,
    waiting: HashMap<Ticket, Waiting<T>>,
    claims: HashMap<Ticket, Claims>,
    /// All that arrived and is not done, in order of arrival.
    lanes: HashMap<Lane, VecDeque<(Ticket, Use)>>,
    /// What nothing blocks: without cost, and with.
    ready: VecDeque<Ticket>,
    ready_at_cost: VecDeque<(Ticket, u32)>,
    running: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    cost: u32,
    /// Earlier requests that conflict, counted once for each lane.
    blockers: usize,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self {
            next: 0,
            waiting: HashMap::new(),
            claims: HashMap::new(),
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            ready_at_cost: VecDeque::new(),
            running: 0,
        }
    }
}

impl<T> Schedule<T> {
    /// A request has arrived. `cost` is the credit in bytes that it needs to run.
    pub fn push(&mut self, item: T, claims: Claims, cost: u32) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let mut blockers = 0;
        for (lane, usage) in claims.lanes() {
            let queue = self.lanes.entry(lane).or_default();
            blockers += queue
                .iter()
                .filter(|(_, earlier)| earlier.conflicts(usage))
                .count();
            queue.push_back((ticket, usage));
        }
        self.claims.insert(ticket, claims);
        let waiting = Waiting {
            item,
            cost,
            blockers,
        };
        self.waiting.insert(ticket, waiting);
        if blockers == 0 {
            self.make_ready(ticket, cost);
        }
        ticket
    }

    /// The next request to run, oldest first. One that costs runs only if `grant` says so; while the oldest of those has
    /// to wait, the others that cost wait too, and those that don't pass.
    pub fn next<G>(
        &mut self,
        grant: impl FnOnce(u32) -> Option<G>,
    ) -> Option<(Ticket, T, Option<G>)> {
        if self.running >= MAX_RUNNING {
            return None;
        }
        let free = self.ready.front().copied();
        let (ticket, granted) = match self.ready_at_cost.front().copied() {
            Some((ticket, cost)) if free.is_none_or(|free| ticket.cmp(&free) == Ordering::Less) => {
                match (grant(cost), free) {
                    (Some(granted), _) => {
                        self.ready_at_cost.pop_front();
                        (ticket, Some(granted))
                    }
                    (None, Some(free)) => {
                        self.ready.pop_front();
                        (free, None)
                    }
                    (None, None) => return None,
                }
            }
            Some(_) | None => (self.ready.pop_front()?, None),
        };
        self.running += 1;
        let waiting = self.waiting.remove(&ticket)?;
        Some((ticket, waiting.item, granted))
    }

    /// A request that [`next`](Self::next) gave out has ended.
    pub fn done(&mut self, ticket: Ticket) {
        let Some(claims) = self.claims.remove(&ticket) else {
            return;
        };
        self.running -= 1;
        for (lane, usage) in claims.lanes() {
            let Some(queue) = self.lanes.get_mut(&lane) else {
                continue;
            };
            let Some(place) = queue.iter().position(|(other, _)| *other == ticket) else {
                continue;
            };
            queue.remove(place);
            let mut freed = Vec::new();
            for (later, later_use) in queue.range(place..) {
                if !usage.conflicts(*later_use) {
                    continue;
                }
                if let Some(waiting) = self.waiting.get_mut(later) {
                    waiting.blockers -= 1;
                    if waiting.blockers == 0 {
                        freed.push((*later, waiting.cost));
                    }
                }
            }
            if queue.is_empty() {
                self.lanes.remove(&lane);
            }
            for (ticket, cost) in freed {
                self.make_ready(ticket, cost);
            }
        }
    }

    /// True if nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.claims.is_empty()
    }

    /// What has not begun, in no order.
    pub fn take_waiting(&mut self) -> impl Iterator<Item = T> + '_ {
        self.ready.clear();
        self.ready_at_cost.clear();
        self.waiting.drain().map(|(_, waiting)| waiting.item)
    }

    fn make_ready(&mut self, ticket: Ticket, cost: u32) {
        if cost == 0 {
            self.ready.push_back(ticket);
        } else {
            self.ready_at_cost.push_back((ticket, cost));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HANDLE: Lane = Lane::Handle(HandleId(1));
    const NAMES: Lane = Lane::Names(MountId(0));

    fn all_that_can_run(schedule: &mut Schedule<&'static str>) -> Vec<(Ticket, &'static str)> {
        std::iter::from_fn(|| schedule.next(|_| Some(())))
            .map(|(ticket, item, _)| (ticket, item))
            .collect()
    }

    fn names(run: &[(Ticket, &'static str)]) -> Vec<&'static str> {
        run.iter().map(|(_, item)| *item).collect()
    }

    #[test]
    fn reads_run_together_and_a_close_waits_for_them() {
        let mut schedule = Schedule::default();
        schedule.push("read 1", Claims::one(HANDLE, Use::Shared), 0);
        schedule.push("read 2", Claims::one(HANDLE, Use::Shared), 0);
        schedule.push("close", Claims::one(HANDLE, Use::Exclusive), 0);
        let reads = all_that_can_run(&mut schedule);
        assert_eq!(names(&reads), ["read 1", "read 2"]);
        schedule.done(reads[1].0);
        assert!(all_that_can_run(&mut schedule).is_empty());
        schedule.done(reads[0].0);
        let close = all_that_can_run(&mut schedule);
        assert_eq!(names(&close), ["close"]);
        schedule.done(close[0].0);
        assert!(schedule.is_idle());
    }

    #[test]
    fn writes_run_together_only_where_they_do_not_overlap() {
        let mut schedule = Schedule::default();
        schedule.push("0..10", Claims::one(HANDLE, Use::Range(0, 10)), 0);
        schedule.push("10..20", Claims::one(HANDLE, Use::Range(10, 20)), 0);
        schedule.push("5..6", Claims::one(HANDLE, Use::Range(5, 6)), 0);
        schedule.push("read", Claims::one(HANDLE, Use::Shared), 0);
        let first = all_that_can_run(&mut schedule);
        assert_eq!(names(&first), ["0..10", "10..20"]);
        schedule.done(first[0].0);
        let second = all_that_can_run(&mut schedule);
        assert_eq!(names(&second), ["5..6"]);
        schedule.done(first[1].0);
        assert!(all_that_can_run(&mut schedule).is_empty());
        schedule.done(second[0].0);
        assert_eq!(names(&all_that_can_run(&mut schedule)), ["read"]);
    }

    #[test]
    fn a_change_of_names_waits_for_looks_before_it_and_holds_looks_after_it() {
        let mut schedule = Schedule::default();
        schedule.push("stat", Claims::one(NAMES, Use::Shared), 0);
        schedule.push("remove", Claims::one(NAMES, Use::Exclusive), 0);
        schedule.push("stat again", Claims::one(NAMES, Use::Shared), 0);
        schedule.push(
            "other mount",
            Claims::one(Lane::Names(MountId(1)), Use::Shared),
            0,
        );
        let first = all_that_can_run(&mut schedule);
        assert_eq!(names(&first), ["stat", "other mount"]);
        schedule.done(first[0].0);
        let second = all_that_can_run(&mut schedule);
        assert_eq!(names(&second), ["remove"]);
        schedule.done(second[0].0);
        assert_eq!(names(&all_that_can_run(&mut schedule)), ["stat again"]);
    }

    #[test]
    fn what_lacks_credit_waits_in_order_and_what_needs_none_passes() {
        let mut schedule = Schedule::default();
        schedule.push("big read", Claims::one(HANDLE, Use::Shared), 1000);
        schedule.push("small read", Claims::one(HANDLE, Use::Shared), 1);
        schedule.push("stat", Claims::one(NAMES, Use::Shared), 0);
        let mut next = |credit| {
            schedule
                .next(|cost| (cost <= credit).then_some(()))
                .map(|(_, item, _)| item)
        };
        assert_eq!(next(999), Some("stat"));
        assert_eq!(next(999), None);
        assert_eq!(next(1000), Some("big read"));
        assert_eq!(next(1), Some("small read"));
    }

    #[test]
    fn no_more_run_at_once_than_the_limit() {
        let mut schedule = Schedule::default();
        for _ in 0..=MAX_RUNNING {
            schedule.push("read", Claims::one(HANDLE, Use::Shared), 0);
        }
        let run = all_that_can_run(&mut schedule);
        assert_eq!(run.len(), MAX_RUNNING);
        schedule.done(run[0].0);
        assert_eq!(all_that_can_run(&mut schedule).len(), 1);
    }

    fn usage() -> impl Strategy<Value = Use> {
        prop_oneof![
            Just(Use::Shared),
            Just(Use::Exclusive),
            (0_u64..30, 1_u64..10).prop_map(|(from, length)| Use::Range(from, from + length)),
        ]
    }

    fn claims() -> impl Strategy<Value = Claims> {
        let handle = || (0_u64..3).prop_map(|id| Lane::Handle(HandleId(id)));
        prop_oneof![
            Just(Claims::none()),
            (handle(), usage()).prop_map(|(lane, usage)| Claims::one(lane, usage)),
            usage().prop_map(|usage| Claims::one(NAMES, usage)),
            (handle(), usage(), usage())
                .prop_map(|(lane, first, second)| Claims::one(lane, first).and(NAMES, second)),
        ]
    }

    fn conflict(one: &Claims, other: &Claims) -> bool {
        one.lanes().any(|(lane, usage)| {
            other
                .lanes()
                .any(|(other_lane, other)| lane == other_lane && usage.conflicts(other))
        })
    }

    proptest! {
        /// Whatever arrives and ends in whatever order: conflicting requests never run together and begin in the order of
        /// their arrival, and everything runs.
        #[test]
        fn conflicting_requests_keep_their_order_and_everything_runs(
            arrivals in proptest::collection::vec((claims(), prop_oneof![Just(0_u32), Just(10)]), 1..60),
            steps in proptest::collection::vec((0_u8..3, any::<prop::sample::Index>()), 0..400),
        ) {
            let mut schedule = Schedule::default();
            let mut arrived = 0;
            let mut running: Vec<(Ticket, usize)> = Vec::new();
            let mut begun: Vec<usize> = Vec::new();
            let mut ended = vec![false; arrivals.len()];
            for step in steps {
                match step.0 {
                    0 if arrived < arrivals.len() => {
                        let (claims, cost) = arrivals[arrived];
                        schedule.push(arrived, claims, cost);
                        arrived += 1;
                    }
                    1 => {
                        if let Some((ticket, item, _)) = schedule.next(|_| Some(())) {
                            for (_, other) in &running {
                                prop_assert!(!conflict(&arrivals[item].0, &arrivals[*other].0));
                            }
                            for (earlier, done) in ended.iter().enumerate().take(item) {
                                prop_assert!(*done || !conflict(&arrivals[item].0, &arrivals[earlier].0));
                            }
                            running.push((ticket, item));
                            begun.push(item);
                        }
                    }
                    _ if !running.is_empty() => {
                        let (ticket, item) = running.swap_remove(step.1.index(running.len()));
                        schedule.done(ticket);
                        ended[item] = true;
                    }
                    _ => {}
                }
            }
            while !running.is_empty() || arrived < arrivals.len() || !schedule.is_idle() {
                while arrived < arrivals.len() {
                    let (claims, cost) = arrivals[arrived];
                    schedule.push(arrived, claims, cost);
                    arrived += 1;
                }
                while let Some((ticket, item, _)) = schedule.next(|_| Some(())) {
                    running.push((ticket, item));
                    begun.push(item);
                }
                prop_assert!(!running.is_empty(), "something waits and nothing runs");
                for (ticket, _) in running.drain(..) {
                    schedule.done(ticket);
                }
            }
            begun.sort_unstable();
            prop_assert_eq!(begun, (0..arrivals.len()).collect::<Vec<_>>());
        }
    }
}
