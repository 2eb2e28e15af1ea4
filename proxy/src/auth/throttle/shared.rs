//! The one throttle that listener, connections and logins share.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use portcullis_journal::SessionId;
use tokio::sync::mpsc;

use super::{BanRequest, Loss, Mistake, Penalised, RestoreError, Row, Throttle, ThrottleConfig};

/// A throttle with a clock that does not jump, and a way to ask for bans. Clones share it.
#[derive(Debug, Clone)]
pub struct Throttles(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    throttle: Mutex<Throttle>,
    /// Where bans are asked for. A request that finds it full is dropped with a warning: the source will fail again.
    bans: Mutex<Option<mpsc::Sender<BanRequest>>>,
    begun: (DateTime<Utc>, Instant),
}

impl Default for Throttles {
    fn default() -> Self {
        Self::new(ThrottleConfig::default(), None, Utc::now())
    }
}

impl Throttles {
    pub fn new(
        config: ThrottleConfig,
        bans: Option<mpsc::Sender<BanRequest>>,
        now: DateTime<Utc>,
    ) -> Self {
        Self(Arc::new(Shared {
            throttle: Mutex::new(Throttle::new(config)),
            bans: Mutex::new(bans),
            begun: (now, Instant::now()),
        }))
    }

    /// Counts on under other rules.
    pub fn configure(&self, config: ThrottleConfig, bans: Option<mpsc::Sender<BanRequest>>) {
        self.throttle().configure(config);
        *self.0.bans.lock().unwrap_or_else(PoisonError::into_inner) = bans;
    }

    /// As [`Throttle::penalised`], at present.
    pub fn penalised(&self, source: IpAddr) -> Option<Penalised> {
        self.throttle().penalised(source, self.now())
    }

    /// As [`Throttle::name_is_penalised`], at present.
    pub fn name_is_penalised(&self, source: IpAddr, name: &str) -> bool {
        self.throttle().name_is_penalised(source, name, self.now())
    }

    /// Counts a wrong answer, and asks for a ban where that is the one too many.
    pub fn failed(&self, source: IpAddr, name: &str, mistake: Mistake, session: SessionId) {
        let now = self.now();
        let request = self.throttle().failed(source, name, mistake, session, now);
        let Some(request) = request else {
            return;
        };
        let bans = self.0.bans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bans) = bans.as_ref()
            && let Err(error) = bans.try_send(request)
        {
            tracing::warn!(%source, %error, "ban request dropped");
        }
    }

    /// As [`Throttle::lost`], at present.
    pub fn lost(&self, source: IpAddr, loss: Loss, session: SessionId) {
        let now = self.now();
        self.throttle().lost(source, loss, session, now);
    }

    /// As [`Throttle::succeeded`], at present.
    pub fn succeeded(&self, source: IpAddr, name: &str) {
        let now = self.now();
        self.throttle().succeeded(source, name, now);
    }

    /// As [`Throttle::restore`].
    ///
    /// # Errors
    /// Says what is wrong with the line.
    pub fn restore(&self, network: &str, state: &str) -> Result<(), RestoreError> {
        self.throttle().restore(network, state)
    }

    /// As [`Throttle::changes`].
    pub fn changes(&self) -> Vec<Row> {
        self.throttle().changes()
    }

    /// As [`Throttle::retry`].
    pub fn retry(&self, rows: &[Row]) {
        self.throttle().retry(rows);
    }

    /// The time of the start and what has passed since: penalties neither end nor last longer when the clock is set.
    fn now(&self) -> DateTime<Utc> {
        let (wall, instant) = self.0.begun;
        let passed = TimeDelta::from_std(instant.elapsed()).unwrap_or(TimeDelta::MAX);
        wall.checked_add_signed(passed).unwrap_or(wall)
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.0
            .throttle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
