//! Whose password is hashed next.
//!
//! A hash takes a core for some tens of milliseconds, on purpose. Whoever sends many wrong passwords must not make a partner
//! wait for all of them: sources take turns, and those that a guesser can't be go first.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use tokio::sync::oneshot;

use crate::agent_client::source_network;

/// Sources that are remembered for a login. Beyond it the one whose first login is longest ago is a stranger again.
const REMEMBERED_MAX: usize = 4096;

/// Hands out turns: so many hashes run at a time. Clones share everything.
#[derive(Clone)]
pub struct Turns(Arc<Mutex<Waiting>>);

/// The right to run one hash; the next in line has it when it is dropped.
#[derive(Debug)]
pub struct Turn(Option<Turns>);

/// Who waits. The lists are short: each waits for one connection that is not authenticated.
#[derive(Default)]
struct Waiting {
    free: usize,
    /// Connections that have shown a key of the account.
    proven: Round,
    /// Sources from which somebody logged in.
    known: Round,
    strangers: Round,
    welcomed: HashSet<IpNet>,
    /// In the order of their first login.
    welcomed_order: VecDeque<IpNet>,
}

/// Sources that take turns, and the requests of each in their order.
#[derive(Default)]
struct Round {
    requests: HashMap<IpNet, VecDeque<oneshot::Sender<Turn>>>,
    order: VecDeque<IpNet>,
}

impl Turns {
    /// `at_once`: how many hashes may run at a time, at least one.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(Waiting {
            free: at_once.max(1),
            ..Waiting::default()
        })))
    }

    /// Waits for a turn. `proven`: the connection has shown a key of the account.
    pub async fn take(&self, source: IpAddr, proven: bool) -> Turn {
        let source = source_network(source);
        loop {
            let turn = {
                let mut waiting = self.waiting();
                if waiting.free > 0 {
                    waiting.free -= 1;
                    return Turn(Some(self.clone()));
                }
                let (sender, turn) = oneshot::channel();
                waiting.round(source, proven).add(source, sender);
                turn
            };
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }

    /// Somebody logged in from `source`: it goes before strangers from now on.
    pub fn welcome(&self, source: IpAddr) {
        let source = source_network(source);
        let mut waiting = self.waiting();
        if !waiting.welcomed.insert(source) {
            return;
        }
        waiting.welcomed_order.push_back(source);
        if waiting.welcomed_order.len() > REMEMBERED_MAX
            && let Some(first) = waiting.welcomed_order.pop_front()
        {
            waiting.welcomed.remove(&first);
        }
    }

    fn pass_on(self) {
        loop {
            let next = {
                let mut waiting = self.waiting();
                let next = waiting.next();
                if next.is_none() {
                    waiting.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // The connection is gone.
                Err(mut unclaimed) => unclaimed.0 = None,
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turns")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

impl Waiting {
    fn round(&mut self, source: IpNet, proven: bool) -> &mut Round {
        if proven {
            &mut self.proven
        } else if self.welcomed.contains(&source) {
            &mut self.known
        } else {
            &mut self.strangers
        }
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        self.proven
            .next()
            .or_else(|| self.known.next())
            .or_else(|| self.strangers.next())
    }
}

impl Round {
    fn add(&mut self, source: IpNet, request: oneshot::Sender<Turn>) {
        let requests = self.requests.entry(source).or_default();
        if requests.is_empty() {
            self.order.push_back(source);
        }
        requests.push_back(request);
    }

    /// The oldest request of the source whose turn it is, which then goes to the end of the line.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let source = self.order.pop_front()?;
        let requests = self.requests.get_mut(&source)?;
        let request = requests.pop_front();
        if requests.is_empty() {
            self.requests.remove(&source);
        } else {
            self.order.push_back(source);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// Requests in this order, while one turn is held; the answer has the order in which they got it.
    async fn served(turns: &Turns, requests: &[(&str, bool)]) -> Vec<usize> {
        let held = turns.take("192.0.2.1".parse().unwrap(), false).await;
        let (done, mut order) = mpsc::channel(requests.len());
        for (index, (source, proven)) in requests.iter().enumerate() {
            let (turns, done) = (turns.clone(), done.clone());
            let (source, proven) = (source.parse().unwrap(), *proven);
            tokio::spawn(async move {
                let turn = turns.take(source, proven).await;
                done.send(index).await.unwrap();
                drop(turn);
            });
            // Tasks of one thread run in the order in which they were made.
            tokio::task::yield_now().await;
        }
        drop((held, done));
        let mut all = Vec::new();
        while let Some(index) = order.recv().await {
            all.push(index);
        }
        all
    }

    #[tokio::test]
    async fn one_request_of_a_source_waits_for_one_of_another_and_not_for_all() {
        let requests = [
            ("198.51.100.1", false),
            ("198.51.100.1", false),
            ("198.51.100.1", false),
            ("203.0.113.9", false),
        ];
        let order = served(&Turns::new(1), &requests).await;
        assert_eq!(order, [0, 3, 1, 2]);
    }

    #[tokio::test]
    async fn addresses_of_one_ipv6_network_are_one_source_and_those_of_two_are_not() {
        let same = [
            ("2001:db8::1", false),
            ("2001:db8::2", false),
            ("2001:db8:0:1::1", false),
        ];
        assert_eq!(served(&Turns::new(1), &same).await, [0, 2, 1]);
    }

    #[tokio::test]
    async fn a_shown_key_goes_before_a_known_source_and_that_before_a_stranger() {
        let turns = Turns::new(1);
        turns.welcome("203.0.113.9".parse().unwrap());
        let requests = [
            ("198.51.100.1", false),
            ("198.51.100.2", false),
            ("203.0.113.9", false),
            ("198.51.100.3", true),
        ];
        assert_eq!(served(&turns, &requests).await, [3, 2, 0, 1]);
    }

    #[tokio::test]
    async fn sources_are_remembered_up_to_a_number() {
        let turns = Turns::new(1);
        turns.welcome("203.0.113.9".parse().unwrap());
        for number in 0..u32::try_from(REMEMBERED_MAX).unwrap() {
            turns.welcome(IpAddr::V4((0x0a00_0000 + number).into()));
        }
        assert_eq!(turns.waiting().welcomed.len(), REMEMBERED_MAX);
        let requests = [
            ("198.51.100.1", false),
            ("203.0.113.9", false),
            ("10.0.0.7", false),
        ];
        assert_eq!(served(&turns, &requests).await, [2, 0, 1]);
    }

    #[tokio::test]
    async fn so_many_at_once_and_a_connection_that_went_away_keeps_no_turn() {
        let source = "192.0.2.1".parse().unwrap();
        let turns = Turns::new(2);
        let (first, second) = (
            turns.take(source, false).await,
            turns.take(source, false).await,
        );
        {
            let gone = turns.take(source, false);
            tokio::pin!(gone);
            assert!(futures_util::poll!(&mut gone).is_pending());
        }
        let next = turns.take(source, false);
        tokio::pin!(next);
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(first);
        let third = next.await;
        drop((second, third));
        assert_eq!(turns.waiting().free, 2);
        assert!(turns.waiting().strangers.requests.is_empty());
    }
}
