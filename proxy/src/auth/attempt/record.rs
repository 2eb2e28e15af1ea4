//! What the journal says of authentication. Never a password or a code.

use std::fmt;

use futures_util::future::BoxFuture;
use portcullis_journal::{Actor, AppendError, Event, EventKind, Journal, Verdict};
use serde_json::{Map, Value};

use super::{Asked, Attempt, Checked};
use crate::accounts::machine::Control;
use crate::auth::{
    Authenticated, Factor, Method, credential,
    enrolment::Enrolling,
    flow::{Evidence, MACHINE},
    public_key,
};

/// Longest claimed user name that a record repeats, in bytes.
const CLAIMED_NAME_MAX: usize = 128;

/// The name of the enrolment token in records.
const TOKEN: &str = "enrolment-token";

/// Where events go: the journal, or a stand-in that fails on purpose.
pub trait AuditLog: Send + Sync + fmt::Debug {
    /// Puts the event on record at once; resolves when it is durable. It goes on if the future is dropped.
    fn append(&self, event: Event) -> BoxFuture<'static, Result<(), AppendError>>;
}

impl AuditLog for Journal {
    fn append(&self, event: Event) -> BoxFuture<'static, Result<(), AppendError>> {
        let pending = Self::append(self, event);
        Box::pin(async move { pending.await.map(|_| ()) })
    }
}

/// `auth.step`. `failures` are those of the connection, this step included.
pub(super) fn step(attempt: &Attempt, asked: Asked<'_>, checked: &Checked, failures: u32) -> Event {
    let mut event = event(attempt, EventKind::AuthStep);
    event.outcome = Some(if checked.reason.is_none() {
        Verdict::Success
    } else {
        Verdict::Failure
    });
    event.reason = checked.reason.map(str::to_owned);
    let is_token = matches!(checked.evidence, Evidence::Token { .. });
    // The name is proven only by a factor of the account.
    let proven = checked
        .account
        .as_ref()
        .filter(|_| checked.reason.is_none() && (asked.factor.is_some() || is_token));
    event.user = Some(match proven {
        Some(account) => Actor {
            uid: Some(account.uid.0),
            name: account.name.clone(),
            kind: Some(account.kind),
        },
        None => claimed(asked.user),
    });
    let body = &mut event.body;
    put(body, "method", method_name(asked.method));
    if is_token {
        put(body, "factor", TOKEN);
    } else if let Some(factor) = asked.factor {
        put(body, "factor", factor.name());
    }
    if let Some(key) = asked.key {
        put(body, "key_fp", public_key::fingerprint(key));
        credential::describe(key.key_data(), asked.certificate, body);
    }
    put(body, "step_no", attempt.steps);
    put(body, "fail_count", failures);
    if let Some(failures) = checked.factor_failures {
        put(body, "factor_fail_count", failures);
    }
    if checked.locked {
        put(body, "locked", true);
    }
    if let Some(alert) = checked.alert {
        put(body, "alert", alert);
    }
    event
}

/// `auth.result` of a user who is in.
pub(super) fn accepted(attempt: &Attempt, user: &Authenticated) -> Event {
    let mut event = event(attempt, EventKind::AuthResult);
    event.outcome = Some(Verdict::Success);
    event.user = Some(user.actor());
    let factors: Vec<Value> = user
        .factors()
        .iter()
        .map(|factor| Factor::name(*factor).into())
        .collect();
    put(&mut event.body, "factors", factors);
    put(&mut event.body, "is_mfa", user.is_mfa());
    put(&mut event.body, "policy", user.policy());
    if user.policy() == MACHINE {
        let controls = Control::ALL.map(|control| Value::from(control.name()));
        put(&mut event.body, "compensating", controls.to_vec());
    }
    put(&mut event.body, "phishing_resistant", false);
    if let Some(groups) = user.directory_groups() {
        let groups: Vec<Value> = groups.iter().map(|group| group.as_str().into()).collect();
        put(&mut event.body, "directory_groups", groups);
    }
    put(&mut event.body, "fail_count", attempt.failures);
    if let Some(fingerprint) = user.key_fingerprint() {
        put(&mut event.body, "key_fp", fingerprint);
    }
    if let Some(credential) = user.credential() {
        credential.describe(&mut event.body);
    }
    let body = &mut event.body;
    if let Some(window) = user.window() {
        let remembered: Vec<_> = window
            .remembered()
            .iter()
            .map(|factor| factor.name())
            .collect();
        put(body, "mfa_window", window.began_in_records());
        put(body, "mfa_window_until", window.until_in_records());
        put(body, "remembered", remembered);
    }
    if let Some(window) = user.opens() {
        put(body, "opens_mfa_window_until", window.until_in_records());
    }
    event
}

/// `auth.result` of a user who may enrol an authenticator, and nothing else.
pub(super) fn enrolling(attempt: &Attempt, user: &Enrolling) -> Event {
    let mut event = event(attempt, EventKind::AuthResult);
    event.outcome = Some(Verdict::Success);
    event.reason = Some("enrolment".to_owned());
    event.user = Some(user.actor());
    let mut factors: Vec<Value> = user
        .factors()
        .iter()
        .map(|factor| Factor::name(*factor).into())
        .collect();
    factors.push(TOKEN.into());
    put(&mut event.body, "factors", factors);
    put(&mut event.body, "is_mfa", false);
    put(&mut event.body, "enrolment", user.enrolment().0);
    put(&mut event.body, "fail_count", attempt.failures);
    if let Some(fingerprint) = user.key_fingerprint() {
        put(&mut event.body, "key_fp", fingerprint);
    }
    event
}

/// `auth.result` of a connection that did not get in.
pub(super) fn refused(attempt: &Attempt) -> Event {
    let mut event = event(attempt, EventKind::AuthResult);
    event.outcome = Some(Verdict::Failure);
    let too_many = attempt.failures >= attempt.rules.max_failures;
    event.reason = Some(
        if attempt.is_penalised {
            "name_penalty"
        } else if too_many {
            "too_many_failures"
        } else {
            "ended"
        }
        .to_owned(),
    );
    event.user = Some(claimed(&attempt.user));
    put(&mut event.body, "factors", Vec::<Value>::new());
    put(&mut event.body, "is_mfa", false);
    put(&mut event.body, "fail_count", attempt.failures);
    event
}

fn event(attempt: &Attempt, kind: EventKind) -> Event {
    let mut event = Event::new(kind);
    event.session = Some(attempt.session);
    event.source = Some(attempt.source);
    event
}

fn claimed(name: &str) -> Actor {
    let end = name.floor_char_boundary(CLAIMED_NAME_MAX);
    Actor {
        uid: None,
        name: name.get(..end).unwrap_or_default().to_owned(),
        kind: None,
    }
}

fn put(body: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    body.insert(field.to_owned(), value.into());
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::PublicKey => "publickey",
        Method::Password => "password",
        Method::KeyboardInteractive => "keyboard-interactive",
    }
}
