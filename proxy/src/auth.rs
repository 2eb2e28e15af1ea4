//! Who may come in: factors of two different classes, whatever the method, order or client.
//!
//! [`flow`] decides and knows no socket, clock or store; [`attempt`] carries its decisions out for one connection.

pub mod attempt;
pub mod break_glass;
mod breaker;
pub mod certificate;
pub mod credential;
pub mod enrolment;
pub mod flow;
pub mod judges;
pub mod krl;
pub mod ldap;
pub mod lockout;
pub mod password;
pub mod public_key;
pub mod radius;
pub mod recovery;
pub mod secret;
pub mod template;
pub mod throttle;
pub mod totp;
pub mod trust;
pub mod turns;

use enrolment::Enrolling;

pub use attempt::{Attempt, AuditLog, Authenticator};
pub use flow::{Authenticated, Factor, FactorClass};
pub use judges::Judges;
pub use secret::Secret;

use std::time::Duration;

/// An SSH authentication method that the server offers (RFC 4252 section 5, RFC 4256).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    PublicKey,
    Password,
    KeyboardInteractive,
}

/// One question of keyboard-interactive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub text: String,
    pub echo: bool,
}

/// What the SSH edge answers to an authentication request.
#[derive(Debug)]
pub enum Step {
    /// Two factor classes were shown; sent once.
    Accepted(Authenticated),
    /// A first factor and an enrolment token were shown; sent once.
    Enrol(Enrolling),
    /// One factor was right: partial success, `methods` can continue.
    Partial { methods: Vec<Method> },
    /// Ask this by keyboard-interactive.
    Ask { prompts: Vec<Prompt> },
    /// Wrong, or not possible; the answer waits `delay`.
    Rejected {
        methods: Vec<Method>,
        delay: Duration,
    },
    /// Too many failures: the connection ends.
    Disconnect,
}
