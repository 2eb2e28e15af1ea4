//! (to be written)

/// Serves all connections: the store, the password hasher, the throttles.
#[derive(Debug, Clone)]
pub struct Authenticator;

/// One connection's way to [`Authenticated`](super::Authenticated).
#[derive(Debug)]
pub struct Attempt;
