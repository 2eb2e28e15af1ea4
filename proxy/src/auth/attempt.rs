//! Carries the flow's decisions out for one connection: looks up, checks, counts, records.
//!
//! An unknown name, a disabled account and a wrong factor cost the same checks, get the same answers, and are told after
//! the same time.

mod authenticator;
mod checks;
pub mod enrolment;
mod exchange;
mod record;
mod sessions;
mod trust;
mod windows;

pub use authenticator::{Authenticator, Clock, Grants, LookupError, Settings};
pub use record::AuditLog;
pub use sessions::Withdrawal;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_journal::{AccountKind, AppendError, Event, SessionId};
use ssh_key::{Algorithm, Certificate, PublicKey};

use self::{
    authenticator::{Rules, Shared},
    checks::Checked,
};
use super::{
    Authenticated, Factor, Judges, Method, Secret, Step,
    certificate::CertificateFacts,
    flow::{Decision, Evidence, Flow, UserId, Verdict},
    throttle::Mistake,
};
use crate::{accounts::admission::AccountDefaults, metrics};

/// Requests of one connection, also those that are no failures: key offers, rounds of keyboard-interactive. A client with
/// a full agent and both prompts needs some twenty.
const REQUESTS_MAX: u32 = 64;
/// No failure is told earlier than this where servers elsewhere judge factors: it has to exceed their usual time too.
const JUDGED_FLOOR: Duration = Duration::from_millis(500);

/// The authentication of one connection.
#[derive(Debug)]
pub struct Attempt {
    shared: Arc<Shared>,
    rules: Arc<Rules>,
    defaults: AccountDefaults,
    judges: Judges,
    /// What the directory said of the user whose password it found right.
    groups: Option<(UserId, BTreeSet<String>)>,
    source: SocketAddr,
    session: SessionId,
    flow: Flow,
    /// The name of the last request.
    user: String,
    requests: u32,
    /// Steps on record.
    steps: u32,
    failures: u32,
    wrong_keys: u32,
    /// Failures that the throttle has counted.
    guesses: u32,
    /// A name of this connection pays for earlier failures from the same source.
    is_penalised: bool,
    ended: bool,
}

/// A request that is being served.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    user: &'a str,
    method: Method,
    factor: Option<Factor>,
    key: Option<&'a PublicKey>,
    certificate: Option<&'a CertificateFacts>,
    at: Instant,
}

/// A step could not be recorded, and has not happened.
#[derive(Debug)]
struct Failed(AppendError);

impl Attempt {
    /// A key was offered without a signature. `None`: let the client sign. Every acceptable key may sign, whoever it
    /// belongs to, so that an offer tells nothing; and it changes nothing.
    pub async fn public_key_offered(
        &mut self,
        user: &str,
        algorithm: &Algorithm,
        key: &PublicKey,
    ) -> Option<Step> {
        let asked = self.asked(user, Method::PublicKey, Some(Factor::PublicKey), Some(key));
        if !self.admit(user) {
            return Some(self.disconnect().await);
        }
        match self.acceptable_key(algorithm, key) {
            Ok(()) => None,
            Err(_) => Some(self.check_key(asked, algorithm, key).await),
        }
    }

    /// The signature over this session was verified.
    pub async fn public_key_verified(
        &mut self,
        user: &str,
        algorithm: &Algorithm,
        key: &PublicKey,
    ) -> Step {
        let asked = self.asked(user, Method::PublicKey, Some(Factor::PublicKey), Some(key));
        if !self.admit(user) {
            return self.disconnect().await;
        }
        self.check_key(asked, algorithm, key).await
    }

    /// As [`Self::public_key_verified`], for a key that came in a certificate.
    pub async fn certificate_verified(&mut self, user: &str, certificate: &Certificate) -> Step {
        let key = PublicKey::from(certificate.public_key().clone());
        let facts = CertificateFacts::of(certificate);
        let factor = Some(Factor::Certificate);
        let asked = Asked {
            certificate: Some(&facts),
            ..self.asked(user, Method::PublicKey, factor, Some(&key))
        };
        if !self.admit(user) {
            return self.disconnect().await;
        }
        let checked = self
            .look_up_certificate(user, certificate, facts.clone())
            .await;
        self.conclude_key(asked, checked).await
    }

    /// The method `password`, before or after a key.
    pub async fn password(&mut self, user: &str, password: Secret) -> Step {
        let asked = self.asked(user, Method::Password, Some(Factor::Password), None);
        if !self.admit(user) {
            return self.disconnect().await;
        }
        let second = self.flow.has_verified_key(user);
        let checked = match self.appended(user, &password, second).await {
            None => {
                let evidence = Evidence::Password;
                Ok(self.check_password(user, password, second, evidence).await)
            }
            Some(pair) => {
                let evidence = Evidence::PasswordWithCode;
                self.check_both(asked, pair, second, evidence).await
            }
        };
        self.conclude_checked(asked, checked).await
    }

    /// The method `none` (RFC 4252 section 5.2): only lists the others.
    pub async fn none(&mut self, user: &str) -> Step {
        if !self.admit(user) {
            return self.disconnect().await;
        }
        let checked = self.look_up(user, Evidence::None, None).await;
        let account = checked.account.as_ref();
        let now = self.shared.clock.now();
        match self.flow.step(user, account, Evidence::None, now) {
            Decision::Rejected { methods } => Step::Rejected {
                methods,
                delay: Duration::ZERO,
            },
            Decision::Accepted(_)
            | Decision::Enrol(_)
            | Decision::Partial { .. }
            | Decision::Ask(_) => self.disconnect().await,
        }
    }

    /// Requests that the SSH library refused by itself, `keys` of them with a key: they have failed like any other, and are on
    /// record.
    pub fn refused_elsewhere(&mut self, user: &str, requests: u32, keys: u32) {
        if self.requests == 0 {
            user.clone_into(&mut self.user);
        }
        self.requests = self.requests.saturating_add(requests);
        self.steps = self.steps.saturating_add(requests);
        self.failures = self.failures.saturating_add(requests);
        self.wrong_keys = self.wrong_keys.saturating_add(keys);
    }

    fn asked<'a>(
        &self,
        user: &'a str,
        method: Method,
        factor: Option<Factor>,
        key: Option<&'a PublicKey>,
    ) -> Asked<'a> {
        Asked {
            user,
            method,
            factor,
            key,
            certificate: None,
            at: Instant::now(),
        }
    }

    /// False if the connection has had its share.
    fn admit(&mut self, user: &str) -> bool {
        if self.user != user || self.requests == 0 {
            user.clone_into(&mut self.user);
            // Asked once for each name: a connection that was let in goes on, as one of a source does.
            self.is_penalised |= self
                .shared
                .throttles
                .name_is_penalised(self.source.ip(), user);
        }
        self.requests = self.requests.saturating_add(1);
        !self.ended
            && !self.is_penalised
            && self.requests <= REQUESTS_MAX
            && self.failures < self.rules.max_failures
    }

    async fn check_key(
        &mut self,
        asked: Asked<'_>,
        algorithm: &Algorithm,
        key: &PublicKey,
    ) -> Step {
        let checked = self.look_up_key(asked.user, algorithm, key).await;
        self.conclude_key(asked, checked).await
    }

    async fn conclude_key(&mut self, asked: Asked<'_>, mut checked: Checked) -> Step {
        if let Evidence::Key { shown: Some(key) } = &checked.evidence {
            if let Some(window) = self.window(&checked, key) {
                let shown = key.clone();
                checked.evidence = Evidence::KeyInWindow { shown, window };
            }
        } else {
            self.wrong_keys += 1;
        }
        self.conclude(asked, checked).await
    }

    async fn conclude_checked(
        &mut self,
        asked: Asked<'_>,
        checked: Result<Checked, Failed>,
    ) -> Step {
        match checked {
            Ok(checked) => self.conclude(asked, checked).await,
            Err(Failed(error)) => self.unrecorded(asked, &error).await,
        }
    }

    /// Decides, records, and only then answers.
    async fn conclude(&mut self, asked: Asked<'_>, checked: Checked) -> Step {
        let asked = Asked {
            factor: factor_of(&checked.evidence).or(asked.factor),
            ..asked
        };
        let now = self.shared.clock.now();
        let checked = checked.without_prompts();
        let begins = checked.evidence == Evidence::Begin;
        let decision = self.flow.step(
            asked.user,
            checked.account.as_ref(),
            checked.evidence.clone(),
            now,
        );
        if !begins {
            let rejected = matches!(decision, Decision::Rejected { .. });
            if let Err(Failed(error)) = self.record_step(asked, &checked, rejected).await {
                return self.unrecorded(asked, &error).await;
            }
        }
        match decision {
            Decision::Ask(question) => Step::Ask {
                prompts: exchange::prompts(question),
            },
            Decision::Partial { methods } => Step::Partial { methods },
            Decision::Rejected { methods } => {
                if checked.guess {
                    self.count_guess(mistake(asked));
                }
                self.reject(asked, methods).await
            }
            Decision::Enrol(user) => {
                let event = record::enrolling(self, &user);
                if let Err(error) = self.record(event).await {
                    return self.unrecorded(asked, &error).await;
                }
                self.ended = true;
                Step::Enrol(user)
            }
            Decision::Accepted(user) => {
                let user = self.with_directory_groups(user);
                let mut event = record::accepted(self, &user);
                if user.kind() == AccountKind::BreakGlass {
                    let Some(opening) = self.opening(&user).await else {
                        self.flow.forget();
                        let methods = self.flow.methods();
                        return self.reject(asked, methods).await;
                    };
                    event.body.insert("break_glass".to_owned(), opening);
                }
                if let Err(error) = self.record(event).await {
                    return self.unrecorded(asked, &error).await;
                }
                self.ended = true;
                self.open_window(&user, now);
                self.shared.hashes.welcome(self.source.ip());
                self.shared
                    .throttles
                    .succeeded(self.source.ip(), asked.user);
                Step::Accepted(user)
            }
        }
    }

    /// What the directory said holds for whom it said it, and where its password counted.
    fn with_directory_groups(&mut self, user: Authenticated) -> Authenticated {
        match self.groups.take() {
            Some((uid, groups))
                if uid == user.uid() && user.factors().contains(&Factor::Password) =>
            {
                user.in_directory_groups(groups)
            }
            Some(_) | None => user,
        }
    }

    /// The opening that lets a break-glass account in, as records show it.
    async fn opening(&self, user: &Authenticated) -> Option<serde_json::Value> {
        let (accounts, now) = (self.shared.accounts.clone(), self.shared.clock.now());
        let (uid, source) = (user.uid(), self.source);
        let found = tokio::task::spawn_blocking(move || accounts.opening(uid, now)).await;
        let opening = found.ok()?.ok()??.describe();
        metrics::break_glass("login");
        tracing::warn!(user = user.name(), %source, %opening, "login to a break-glass account");
        Some(opening)
    }

    /// What can't be recorded has not happened: all factors are forgotten.
    async fn unrecorded(&mut self, asked: Asked<'_>, error: &AppendError) -> Step {
        tracing::error!(%error, "authentication step refused: it can't be recorded");
        self.flow.forget();
        let methods = self.flow.methods();
        self.reject(asked, methods).await
    }

    async fn reject(&mut self, asked: Asked<'_>, methods: Vec<Method>) -> Step {
        self.failures += 1;
        if self.failures >= self.rules.max_failures {
            return self.disconnect().await;
        }
        Step::Rejected {
            methods,
            delay: self.remaining_floor(asked),
        }
    }

    async fn disconnect(&mut self) -> Step {
        if !self.ended {
            self.ended = true;
            let event = record::refused(self);
            if let Err(error) = self.record(event).await {
                tracing::error!(%error, "end of a failed authentication not recorded");
            }
        }
        Step::Disconnect
    }

    /// `rejected`: the step counts as one more failure of the connection.
    async fn record_step(
        &mut self,
        asked: Asked<'_>,
        checked: &Checked,
        rejected: bool,
    ) -> Result<(), Failed> {
        self.steps += 1;
        let failures = self.failures + u32::from(rejected);
        let event = record::step(self, asked, checked, failures);
        self.record(event).await.map_err(Failed)
    }

    async fn record(&self, event: Event) -> Result<(), AppendError> {
        self.shared.log.append(event).await
    }

    fn remaining_floor(&self, asked: Asked<'_>) -> Duration {
        let Shared {
            failure_floor,
            failure_jitter,
            ..
        } = *self.shared;
        let floor = if self.judges.is_empty() {
            failure_floor
        } else {
            failure_floor.max(JUDGED_FLOOR)
        };
        let share = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        (floor + failure_jitter.mul_f64(share)).saturating_sub(asked.at.elapsed())
    }

    fn count_guess(&mut self, mistake: Mistake) {
        self.guesses += 1;
        self.shared
            .throttles
            .failed(self.source.ip(), &self.user, mistake, self.session);
    }
}

impl Drop for Attempt {
    /// A connection that ended without success is on record if it tried anything. Wrong keys count as one failure of the
    /// source however many there were: an agent offers all it has.
    fn drop(&mut self) {
        if self.ended && self.guesses > 0 {
            return;
        }
        let refused = !self.ended || self.failures >= self.rules.max_failures;
        if refused && self.wrong_keys > 0 && self.guesses == 0 {
            self.count_guess(Mistake::Key);
        }
        if !self.ended && self.steps > 0 {
            self.ended = true;
            // The journal goes on without being waited for.
            drop(self.shared.log.append(record::refused(self)));
        }
    }
}

fn mistake(asked: Asked<'_>) -> Mistake {
    match asked.factor {
        Some(Factor::Password) => Mistake::Password,
        Some(Factor::Totp | Factor::RecoveryCode | Factor::Radius) => Mistake::Code,
        Some(Factor::PublicKey | Factor::SecurityKey | Factor::Certificate) => Mistake::Key,
        None => Mistake::Other,
    }
}

/// What was tried; for two at once, the one that decided.
fn factor_of(evidence: &Evidence) -> Option<Factor> {
    match evidence {
        Evidence::Key { shown: Some(key) } | Evidence::KeyInWindow { shown: key, .. } => {
            Some(key.factor)
        }
        Evidence::Answer(_, factor) => Some(*factor),
        Evidence::PasswordWithCode(both) | Evidence::AnswerBoth(both) => {
            Some(if both.password == Verdict::Wrong {
                Factor::Password
            } else {
                both.factor
            })
        }
        Evidence::Password(_) => Some(Factor::Password),
        Evidence::None
        | Evidence::Key { shown: None }
        | Evidence::Begin
        | Evidence::Token { .. } => None,
    }
}

#[cfg(test)]
mod tests;
