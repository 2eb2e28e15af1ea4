//! (to be written)

/// What a factor proves (NIST SP 800-63-4 section 2): two of one class remain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactorClass {
    Know,
    Have,
    Are,
}

/// A factor that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    Password,
    PublicKey,
    Totp,
}

/// Proof that a user showed factors of two different classes, or a pair that a named policy allows.
#[derive(Debug)]
pub struct Authenticated {
    uid: i64,
    name: String,
}

impl Authenticated {
    pub fn uid(&self) -> i64 {
        self.uid
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}
