//! The enrolment of an authenticator, from the token to the second code.

use std::{fmt, net::SocketAddr, sync::Arc};

use portcullis_journal::{AppendError, Event, EventKind, SessionId, Verdict};
use zeroize::Zeroizing;

use super::{Authenticator, LookupError, Shared};
use crate::{
    accounts::enrolment::Activation,
    auth::{
        enrolment::{Enrolling, Progress, Shown},
        totp::{self, Algorithm, Authenticator as Device, Code, Digits},
    },
};

/// An enrolment under way. The secret is in its memory alone; when it is dropped before its end, nothing is left of it.
pub struct Enrolment {
    shared: Arc<Shared>,
    source: SocketAddr,
    session: SessionId,
    user: Enrolling,
    device: Device,
    progress: Progress,
    steps: u32,
    ended: bool,
    activated: bool,
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What follows from a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Not done yet: ask again.
    Ask(Shown),
    /// The authenticator is in force.
    Done,
    /// Nothing was changed, and this enrolment is over.
    Failed(&'static str),
}

impl Authenticator {
    /// Makes a new secret for a user who may enrol.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn begin_enrolment(
        &self,
        user: Enrolling,
        source: SocketAddr,
        session: SessionId,
    ) -> Result<Enrolment, totp::RandomnessError> {
        Ok(Enrolment {
            device: Device::generate(Algorithm::default(), Digits::default())?,
            shared: Arc::clone(&self.shared),
            source,
            session,
            user,
            progress: Progress::default(),
            steps: 0,
            ended: false,
            activated: false,
        })
    }
}

impl Enrolment {
    pub fn user(&self) -> &Enrolling {
        &self.user
    }

    /// What a QR code carries.
    pub fn uri(&self) -> Zeroizing<String> {
        self.device.uri(self.user.name())
    }

    /// What can be typed into an app instead.
    pub fn base32(&self) -> Zeroizing<String> {
        self.device.base32()
    }

    /// Takes in a code. Each is on record before the answer; the last one is also in force before it.
    pub async fn code(&mut self, answer: &[u8]) -> Next {
        if self.ended {
            return Next::Failed("ended");
        }
        let now = self.shared.clock.now();
        let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
        let shown = self
            .progress
            .show(&self.device, Code::parse(answer), seconds);
        self.steps += 1;
        if let Err(error) = self.record(shown.reason()).await {
            tracing::error!(%error, "an enrolment ends: it can't be recorded");
            return self.fail("unrecorded");
        }
        match shown {
            Shown::First | Shown::Repeated | Shown::OutOfTurn | Shown::Wrong => Next::Ask(shown),
            Shown::TooMany => {
                self.ended = true;
                self.forget();
                Next::Failed("too_many_codes")
            }
            Shown::Both { step } => match self.activate(step).await {
                Ok(Activation::Done) => {
                    self.ended = true;
                    self.activated = true;
                    Next::Done
                }
                Ok(Activation::Overtaken) => self.fail("overtaken"),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "an enrolment ends: the account can't be changed"
                    );
                    self.fail("accounts_unavailable")
                }
            },
        }
    }

    async fn activate(&self, step: u64) -> Result<Activation, LookupError> {
        let now = self.shared.clock.now();
        let (accounts, user, device) = (
            self.shared.accounts.clone(),
            self.user.clone(),
            self.device.clone(),
        );
        let activated = tokio::task::spawn_blocking(move || {
            accounts.activate_enrolment(&user, &device, step, now)
        });
        Ok(activated.await??)
    }

    fn fail(&mut self, reason: &'static str) -> Next {
        self.ended = true;
        self.abandon(reason);
        Next::Failed(reason)
    }

    /// `auth.step` of one code, or of the enrolment's end without one.
    fn event(&self, reason: Option<&'static str>) -> Event {
        let mut event = Event::new(EventKind::AuthStep);
        event.session = Some(self.session);
        event.source = Some(self.source);
        event.user = Some(self.user.actor());
        event.outcome = Some(if reason.is_none() {
            Verdict::Success
        } else {
            Verdict::Failure
        });
        event.reason = reason.map(str::to_owned);
        for (field, value) in [
            ("method", "enrolment".into()),
            ("factor", "totp".into()),
            ("step_no", self.steps.into()),
            ("enrolment", self.user.enrolment().0.into()),
        ] {
            event.body.insert(field.to_owned(), value);
        }
        event
    }

    async fn record(&self, reason: Option<&'static str>) -> Result<(), AppendError> {
        self.shared.log.append(self.event(reason)).await
    }

    fn abandon(&self, reason: &'static str) {
        // The journal goes on without being waited for.
        drop(self.shared.log.append(self.event(Some(reason))));
        self.forget();
    }

    fn forget(&self) {
        let (accounts, enrolment) = (self.shared.accounts.clone(), self.user.enrolment());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || {
                if let Err(error) = accounts.abandon_enrolment(enrolment) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a spent enrolment token stays in the database"
                    );
                }
            });
        }
    }
}

impl Drop for Enrolment {
    fn drop(&mut self) {
        if !self.ended {
            self.abandon("abandoned");
        }
        if self.activated {
            // Changes of this process are not seen by themselves. The account's sessions end, this one among them: not before
            // the user was told.
            self.shared.changes.send_modify(|changes| *changes += 1);
        }
    }
}
