//! From what an [`Attempt`](crate::auth::Attempt) decides to what the library is told, and to a session.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use russh::{MethodKind, MethodSet, server::Auth};
use tokio::time;

use super::{CloseReason, Handler, HandlerError, Notice, State, enrolment::Terminal};
use crate::{
    auth::{Authenticated, Method, Step, attempt::Grants, enrolment::Enrolling},
    metrics,
    session::{Activity, Budget, Session},
};

impl Handler {
    pub(super) async fn answer(
        &mut self,
        method: &'static str,
        step: Step,
    ) -> Result<Auth, HandlerError> {
        self.overheard.decided();
        match step {
            Step::Accepted(user) => {
                if self.accept(user).await? {
                    self.overheard.logged_in();
                    metrics::authentication(method, "accepted");
                    Ok(Auth::Accept)
                } else {
                    metrics::authentication(method, "rejected");
                    self.end(CloseReason::TooManySessions);
                    Ok(nothing())
                }
            }
            Step::Enrol(user) => {
                self.enrol(user).await?;
                self.overheard.logged_in();
                metrics::authentication(method, "enrolling");
                Ok(Auth::Accept)
            }
            Step::Partial { methods } => {
                self.proven.store(true, Ordering::Relaxed);
                metrics::authentication(method, "partial");
                Ok(reject(&methods, true))
            }
            Step::Ask { prompts } => {
                self.overheard.prompted();
                Ok(Auth::Partial {
                    name: Cow::Borrowed(""),
                    instructions: Cow::Borrowed(""),
                    prompts: prompts
                        .into_iter()
                        .map(|prompt| (Cow::Owned(prompt.text), prompt.echo))
                        .collect::<Vec<_>>()
                        .into(),
                })
            }
            Step::Rejected { methods, delay } => {
                metrics::authentication(method, "rejected");
                Self::unless_cut(&self.cut, time::sleep(delay)).await?;
                Ok(reject(&methods, false))
            }
            Step::Disconnect => {
                metrics::authentication(method, "rejected");
                self.end(CloseReason::TooManyFailures);
                Ok(reject(&[], false))
            }
        }
    }

    /// Lets a user in who can do nothing but enrol an authenticator.
    async fn enrol(&mut self, user: Enrolling) -> Result<(), HandlerError> {
        let terms = Arc::clone(&self.services.terms.borrow());
        let enrolment = terms
            .authenticator
            .begin_enrolment(user, self.recorder.source(), self.recorder.session())
            .map_err(HandlerError::Randomness)?;
        self.recorder.identified(enrolment.user().actor());
        self.notices
            .send(Notice::Enrolling {
                user: enrolment.user().clone(),
                source: self.recorder.source().ip(),
            })
            .await
            .map_err(|_| HandlerError::Ending)?;
        self.state = State::Enrolling(Terminal::new(enrolment));
        Ok(())
    }

    /// False if the account has as many sessions as it may.
    async fn accept(&mut self, user: Authenticated) -> Result<bool, HandlerError> {
        let user = Arc::new(user);
        // Those in force: the login may have begun before a reload.
        let terms = Arc::clone(&self.services.terms.borrow());
        let Grants { mounts, limits } =
            Self::unless_cut(&self.cut, terms.authenticator.grants(&user))
                .await?
                .map_err(HandlerError::Accounts)?;
        self.recorder.authenticated(&user);
        let Some(place) = self.services.ledger.admit(user.name(), limits) else {
            tracing::warn!(
                user = user.name(),
                "refused: the account has as many sessions as it may"
            );
            return Ok(false);
        };
        self.recorder.mounts(&mounts);
        let session = Session {
            id: self.recorder.session(),
            source: self.recorder.source(),
            user,
            mounts: Arc::new(mounts),
            backends: Arc::clone(&terms.backends),
            extensions: terms.extensions,
            ledger: self.services.ledger.clone(),
            place: Arc::new(place),
            journal: self.recorder.journal().clone(),
            activity: Activity::begin(Instant::now()),
            budget: Budget::default(),
            digests: terms.digests,
            data_ops: terms.data_ops,
            scp: terms.scp,
        };
        self.notices
            .send(Notice::Authenticated(session.clone()))
            .await
            .map_err(|_| HandlerError::Ending)?;
        self.state = State::Authenticated {
            session,
            started: Vec::new(),
        };
        Ok(true)
    }
}

fn reject(methods: &[Method], partial_success: bool) -> Auth {
    let methods: Vec<_> = methods
        .iter()
        .map(|method| match method {
            Method::PublicKey => MethodKind::PublicKey,
            Method::Password => MethodKind::Password,
            Method::KeyboardInteractive => MethodKind::KeyboardInteractive,
        })
        .collect();
    Auth::Reject {
        // Always given: the library would otherwise strike the method that failed from the list for good.
        proceed_with_methods: Some(MethodSet::from(methods.as_slice())),
        partial_success,
    }
}

/// What is offered once nothing helps any more.
pub(super) fn nothing() -> Auth {
    reject(&[], false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_which_methods_are_left_so_that_the_library_strikes_none() {
        let all = [
            Method::PublicKey,
            Method::Password,
            Method::KeyboardInteractive,
        ];
        for partial in [true, false] {
            for methods in [&[][..], &all[..1], &all[1..], &all[..]] {
                let Auth::Reject {
                    proceed_with_methods: Some(left),
                    partial_success,
                } = reject(methods, partial)
                else {
                    panic!("a refusal without its methods")
                };
                assert_eq!((left.len(), partial_success), (methods.len(), partial));
            }
        }
    }
}
