//! What a source pays for failures: it is refused for a while, and cut off on the wire when it goes on.
//!
//! Pure: events and the time in, decisions out. Four counts, from narrow to wide:
//!
//! - a **name** from one source pays for its own failures, whether there is such an account or not;
//! - a **source** (an IPv4 address, an IPv6 /64) pays for all its names, and for connections that never log in;
//! - a **network** (/24, /48) pays an eighth, so that moving to the next address does not start anew;
//! - the failures of a source that follow one another lead to a **ban**.
//!
//! A source from which somebody logged in lately is shared by good users: there the names pay and the source does not,
//! and the ban takes more failures for each good user. A login takes back what its own name was charged, and nothing
//! of what others were: an attacker's own account does not forgive the guesses at another.
//!
//! A penalty adds up as OpenSSH's `PerSourcePenalties` does: it holds once it exceeds a threshold, until it has run out.

mod shared;
mod source;
mod table;

pub use shared::Throttles;

use std::{net::IpAddr, time::Duration};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use portcullis_journal::SessionId;
use sha2::{Digest as _, Sha256};

use self::{
    source::{Millis, NameHash, Penalty, Source, millis},
    table::Table,
};
use crate::agent_client::source_network;

/// The share of a failure that the network around the source is charged.
const NETWORK_SHARE: u32 = 8;
/// Good users of a source that raise the number of failures before its ban; more raise it no further.
const GOOD_USERS_MAX: usize = 7;

/// How failures are paid for. `Default` is what OpenSSH 9.8 and later does, with nobody banned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThrottleConfig {
    pub penalties: PenaltyConfig,
    pub bans: Option<BanConfig>,
}

#[cfg(test)]
impl ThrottleConfig {
    /// Nothing is charged and nobody banned.
    pub(crate) fn without_penalties() -> Self {
        Self {
            penalties: PenaltyConfig {
                max: Duration::ZERO,
                ..PenaltyConfig::default()
            },
            bans: None,
        }
    }
}

/// What is charged for what, and when it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PenaltyConfig {
    /// For a wrong password, code or key.
    pub auth_failure: Duration,
    /// For a connection that ended without a login.
    pub no_auth: Duration,
    /// For one that used up the time for the login.
    pub grace: Duration,
    /// For one that made the SSH library fail.
    pub crash: Duration,
    /// Up to which a penalty does not hold yet.
    pub threshold: Duration,
    /// Beyond which it does not grow.
    pub max: Duration,
    /// Sources that pay nothing, such as the machine itself.
    pub exempt: Vec<IpNet>,
}

impl Default for PenaltyConfig {
    fn default() -> Self {
        Self {
            auth_failure: Duration::from_secs(5),
            no_auth: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            crash: Duration::from_secs(90),
            threshold: Duration::from_secs(15),
            max: Duration::from_secs(600),
            exempt: vec![
                IpNet::V4(ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8)),
                IpNet::V6(std::net::Ipv6Addr::LOCALHOST.into()),
            ],
        }
    }
}

/// When a source is cut off, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanConfig {
    /// So many failures ...
    pub failures: u32,
    /// ... each within this time of the one before ...
    pub window: Duration,
    /// ... cut the source off for so long; each further ban doubles it ...
    pub lifetime: Duration,
    /// ... up to this.
    pub max_lifetime: Duration,
    /// Bans of all sources in a minute: a forged flood or a fault cuts off no more.
    pub max_per_minute: u32,
    /// Sources that are never banned.
    pub exempt: Vec<IpNet>,
}

/// What was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    Password,
    Code,
    Key,
    Other,
}

impl Mistake {
    /// In the order of the counts of a source.
    pub const ALL: [Self; 4] = [Self::Password, Self::Code, Self::Key, Self::Other];

    /// The word in records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Code => "code",
            Self::Key => "key",
            Self::Other => "other",
        }
    }
}

/// How a connection ended that nobody logged in over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The client left, or did not speak the protocol.
    NoAuth,
    /// The time for the login was over.
    Grace,
    /// The SSH library failed.
    Crash,
}

/// Whose penalty holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Penalised {
    Source,
    Network,
}

impl Penalised {
    /// The code in records and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Source => "source_penalty",
            Self::Network => "network_penalty",
        }
    }
}

/// What is to be done about a source that has failed often enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Ask the agent.
    Ban,
    /// Nothing: it is never banned.
    Exempt,
    /// Nothing yet: there were as many bans in this minute as there may be. Told once a minute.
    Withhold,
}

/// What to ask the agent for, with the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanRequest {
    pub plan: Plan,
    /// An IPv4 address, or an IPv6 /64: whoever has one address of it has all.
    pub source: IpNet,
    pub lifetime: Duration,
    /// For the operator.
    pub reason: String,
    pub evidence: Evidence,
    /// When the deciding failure was counted.
    pub decided: DateTime<Utc>,
}

/// Why a source is to be banned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Failures in a row.
    pub failures: u32,
    /// How many of each [`Mistake`], those taken back by a login included.
    pub mistakes: [u32; Mistake::ALL.len()],
    /// Names that were tried.
    pub names: usize,
    pub since: DateTime<Utc>,
    /// The last connections.
    pub sessions: Vec<SessionId>,
    /// Bans of the source before this one.
    pub earlier_bans: u32,
}

/// One line of the store: the state of a source or a network, or that it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub network: IpNet,
    pub state: Option<String>,
}

/// The counts of all sources.
#[derive(Debug)]
pub struct Throttle {
    config: ThrottleConfig,
    table: Table,
    minute: Minute,
}

/// Bans of the present minute.
#[derive(Debug, Default)]
struct Minute {
    since: Millis,
    bans: u32,
    is_withheld_told: bool,
}

impl Throttle {
    pub fn new(config: ThrottleConfig) -> Self {
        Self {
            config,
            table: Table::default(),
            minute: Minute::default(),
        }
    }

    /// Counts on under other rules.
    pub fn configure(&mut self, config: ThrottleConfig) {
        self.config = config;
    }

    /// Takes what was stored. A line that can't be read is an error, and left out.
    ///
    /// # Errors
    /// Says what is wrong with the line.
    pub fn restore(&mut self, network: &str, state: &str) -> Result<(), RestoreError> {
        self.table.restore(network, state)
    }

    /// What changed since this was asked last.
    pub fn changes(&mut self) -> Vec<Row> {
        self.table.changes()
    }

    /// Puts rows back that could not be stored.
    pub fn retry(&mut self, rows: &[Row]) {
        self.table.retry(rows);
    }

    /// Whether connections from `source` are refused.
    pub fn penalised(&self, source: IpAddr, now: DateTime<Utc>) -> Option<Penalised> {
        if self.pays_nothing(source) {
            return None;
        }
        let (source, now) = (source_network(source), millis(now));
        let max = duration(self.config.penalties.max);
        let known = self.table.source(&source);
        if known.is_some_and(|state| state.penalty.holds(now, max)) {
            return Some(Penalised::Source);
        }
        let is_shared = known.is_some_and(|state| state.good_users(now) > 0);
        let around = self.table.network(&network_around(&source));
        (!is_shared && around.is_some_and(|penalty| penalty.holds(now, max)))
            .then_some(Penalised::Network)
    }

    /// Whether logins as `name` from `source` are refused.
    pub fn name_is_penalised(&self, source: IpAddr, name: &str, now: DateTime<Utc>) -> bool {
        let (network, now) = (source_network(source), millis(now));
        let max = duration(self.config.penalties.max);
        !self.pays_nothing(source)
            && self
                .table
                .source(&network)
                .and_then(|state| state.name(hash(name)))
                .is_some_and(|name| name.penalty.holds(now, max))
    }

    /// Counts a wrong answer. The one that fills the measure asks for a ban.
    pub fn failed(
        &mut self,
        source: IpAddr,
        name: &str,
        mistake: Mistake,
        session: SessionId,
        now: DateTime<Utc>,
    ) -> Option<BanRequest> {
        let network = source_network(source);
        let charge = self.config.penalties.auth_failure;
        let pays = !self.pays_nothing(source);
        let at = millis(now);
        let (threshold, max) = self.measure();
        let window = self
            .config
            .bans
            .as_ref()
            .map_or(source::PAUSE, |bans| duration(bans.window));
        let mut state = self.table.take(&network);
        state.count(hash(name), mistake, session, at, window);
        if pays {
            let amount = duration(charge);
            let is_shared = state.good_users(at) > 0;
            let had_room = state.charge_name(hash(name), amount, (threshold, max), at);
            // More names than fit are a spray of guesses, whoever else is behind the address.
            if !is_shared || !had_room {
                state.penalty.charge(amount, threshold, max, at);
            }
        }
        let request = self.escalate(network, &mut state, now);
        self.table.put(network, state);
        if pays {
            self.charge_network(&network, charge, at);
        }
        request
    }

    /// Charges a connection that nobody logged in over. One that has paid for wrong answers does not pay for leaving.
    pub fn lost(&mut self, source: IpAddr, loss: Loss, session: SessionId, now: DateTime<Utc>) {
        if self.pays_nothing(source) {
            return;
        }
        let network = source_network(source);
        let penalties = &self.config.penalties;
        let charge = match loss {
            Loss::NoAuth => penalties.no_auth,
            Loss::Grace => penalties.grace,
            Loss::Crash => penalties.crash,
        };
        let (at, (threshold, max)) = (millis(now), self.measure());
        let mut state = self.table.take(&network);
        let has_paid = loss == Loss::NoAuth && state.has_failed(session);
        // Good users of a shared address are not made to pay; those who hold it back have the limits of connections.
        if !has_paid && state.good_users(at) == 0 {
            state.penalty.charge(duration(charge), threshold, max, at);
        }
        self.table.put(network, state);
        if !has_paid {
            self.charge_network(&network, charge, at);
        }
    }

    /// A login as `name`: what it was charged from here is taken back, and the source has a good user.
    pub fn succeeded(&mut self, source: IpAddr, name: &str, now: DateTime<Utc>) {
        let (network, at) = (source_network(source), millis(now));
        let (_, max) = self.measure();
        let mut state = self.table.take(&network);
        state.forgive(hash(name), max, at);
        state.welcome(hash(name), at);
        self.table.put(network, state);
    }

    fn escalate(
        &mut self,
        source: IpNet,
        state: &mut Source,
        now: DateTime<Utc>,
    ) -> Option<BanRequest> {
        let bans = self.config.bans.as_ref()?;
        let at = millis(now);
        let good = state.good_users(at).min(GOOD_USERS_MAX);
        let limit = bans
            .failures
            .max(1)
            .saturating_mul(u32::try_from(good + 1).unwrap_or(u32::MAX));
        if state.failures() < limit {
            return None;
        }
        let plan = if bans.exempt.iter().any(|exempt| overlap(exempt, &source)) {
            Plan::Exempt
        } else if self.minute.has_room(bans.max_per_minute, at) {
            Plan::Ban
        } else if self.minute.tell_withheld() {
            Plan::Withhold
        } else {
            return None;
        };
        let earlier_bans = state.earlier_bans(at);
        let lifetime = bans
            .lifetime
            .saturating_mul(2_u32.saturating_pow(earlier_bans))
            .min(bans.max_lifetime.max(bans.lifetime));
        let request = BanRequest {
            plan,
            source,
            lifetime,
            reason: format!(
                "{} failed authentications, each within {} s of the one before",
                state.failures(),
                bans.window.as_secs()
            ),
            evidence: state.evidence(earlier_bans),
            decided: now,
        };
        match plan {
            Plan::Ban => state.banned(at.saturating_add(duration(lifetime)), at),
            Plan::Exempt => state.forget_failures(),
            // The next failure asks again.
            Plan::Withhold => {}
        }
        Some(request)
    }

    fn charge_network(&mut self, source: &IpNet, charge: Duration, at: Millis) {
        let (threshold, max) = self.measure();
        let share = duration(charge / NETWORK_SHARE);
        self.table
            .change_network(&network_around(source), |penalty: &mut Penalty| {
                penalty.charge(share, threshold, max, at);
            });
    }

    fn measure(&self) -> (Millis, Millis) {
        let penalties = &self.config.penalties;
        (duration(penalties.threshold), duration(penalties.max))
    }

    fn pays_nothing(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        let exempt = &self.config.penalties.exempt;
        exempt.iter().any(|exempt| exempt.contains(&source))
    }
}

impl Minute {
    /// Takes one of the minute's bans, if there is one left.
    fn has_room(&mut self, most: u32, now: Millis) -> bool {
        const MINUTE: Millis = 60_000;
        if !(0..MINUTE).contains(&now.saturating_sub(self.since)) {
            *self = Self {
                since: now,
                ..Self::default()
            };
        }
        let has_room = self.bans < most;
        self.bans += u32::from(has_room);
        has_room
    }

    fn tell_withheld(&mut self) -> bool {
        !std::mem::replace(&mut self.is_withheld_told, true)
    }
}

/// Why a stored line can't be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    #[error("{text:?} is neither a source nor a network")]
    Network { text: String },
    #[error("the state of {network} can't be read")]
    State {
        network: IpNet,
        source: serde_json::Error,
    },
}

/// The network that pays along: the smallest that is announced on its own, and that one customer may have.
fn network_around(source: &IpNet) -> IpNet {
    let prefix = match source {
        IpNet::V4(_) => 24,
        IpNet::V6(_) => 48,
    };
    IpNet::new(source.addr(), prefix).map_or(*source, |network| network.trunc())
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// Names are kept as hashes: what was typed as a name may be a password.
fn hash(name: &str) -> NameHash {
    let digest = Sha256::digest(name.as_bytes());
    digest
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn duration(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests;
