//! One-time codes by time (RFC 6238): SHA-1, SHA-256 or SHA-512, six or eight digits, steps of 30 seconds.
//!
//! Pure: says which step a code belongs to, and with [`Drift`] what that tells of the authenticator's clock. That a step is
//! accepted only once is the store's part ([`crate::accounts::Accounts::redeem_code`]).

mod drift;

pub use drift::{Drift, RESYNC_STEPS};

use std::{fmt, str::FromStr};

use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use totp_rs::{Builder, Totp};
use zeroize::Zeroizing;

use super::Secret;

/// Seconds for which a code is shown.
pub const STEP_SECONDS: u64 = 30;
/// Steps before and after the expected one that are accepted, for clocks that differ (RFC 6238 section 5.2).
pub const SKEW_STEPS: u64 = 1;
/// What apps show above the code.
const ISSUER: &str = "Portcullis";

/// The hash in HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// What every app has. HMAC needs no collision resistance, so SHA-1's weakness does not reach it (RFC 6238 section 1.2).
    #[default]
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name in the database and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a shared secret: as many as the hash has (RFC 6238 section 5.1), and at least the 160 bits that RFC 4226
    /// section 4 recommends.
    pub fn secret_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn of_library(self) -> totp_rs::Algorithm {
        match self {
            Self::Sha1 => totp_rs::Algorithm::SHA1,
            Self::Sha256 => totp_rs::Algorithm::SHA256,
            Self::Sha512 => totp_rs::Algorithm::SHA512,
        }
    }
}

/// A text names no [`Algorithm`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: expected sha1, sha256 or sha512")]
pub struct UnknownAlgorithm(String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        [Self::Sha1, Self::Sha256, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

/// How long a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Digits {
    #[default]
    Six,
    Eight,
}

impl Digits {
    pub fn count(self) -> u8 {
        match self {
            Self::Six => 6,
            Self::Eight => 8,
        }
    }

    /// Nothing for other lengths than 6 and 8.
    pub fn from_count(count: u8) -> Option<Self> {
        match count {
            6 => Some(Self::Six),
            8 => Some(Self::Eight),
            _ => None,
        }
    }
}

/// A code as the client sent it, understood.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code {
    value: u32,
    digits: Digits,
}

impl Code {
    /// Exactly six or eight ASCII digits; one space between the two halves, as apps show them, is allowed.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut packed = [0; 8];
        let (length, digits) = match bytes.len() {
            6 | 7 => (6, Digits::Six),
            8 | 9 => (8, Digits::Eight),
            _ => return None,
        };
        let (before, after) = bytes.split_at_checked(length / 2)?;
        let after = if bytes.len() > length {
            after.strip_prefix(b" ")?
        } else {
            after
        };
        for (to, from) in packed.iter_mut().zip(before.iter().chain(after)) {
            *to = *from;
        }
        packed
            .iter()
            .take(length)
            .try_fold(0_u32, |value, digit| {
                digit
                    .is_ascii_digit()
                    .then(|| value * 10 + u32::from(digit - b'0'))
            })
            .map(|value| Self { value, digits })
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Why the system can't make a secret.
#[derive(Debug, thiserror::Error)]
#[error("read random bytes for a one-time code secret: {message}")]
pub struct RandomnessError {
    message: String,
}

/// What an authenticator and the gateway share.
#[derive(Debug, Clone)]
pub struct Authenticator {
    pub secret: Secret,
    pub algorithm: Algorithm,
    pub digits: Digits,
}

impl Authenticator {
    /// One with a new secret.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate(algorithm: Algorithm, digits: Digits) -> Result<Self, RandomnessError> {
        let mut bytes = Zeroizing::new(vec![0; algorithm.secret_bytes()]);
        getrandom::fill(&mut bytes).map_err(|error| RandomnessError {
            message: error.to_string(),
        })?;
        Ok(Self {
            secret: Secret::from(bytes),
            algorithm,
            digits,
        })
    }

    /// One that nobody has, so that a check in vain costs what others cost.
    pub fn decoy() -> Self {
        let algorithm = Algorithm::default();
        Self {
            secret: Secret::from(vec![0; algorithm.secret_bytes()]),
            algorithm,
            digits: Digits::default(),
        }
    }

    /// The step of `code`, if it is one of those accepted at the step `present`. Takes the same time whatever the code.
    pub fn matching_step(&self, code: Option<Code>, present: u64, drift: Drift) -> Option<u64> {
        let generator = self.generator();
        // No code has this value.
        let given = code
            .filter(|code| code.digits == self.digits)
            .map_or(u32::MAX, |code| code.value);
        let expected = drift.expected(present);
        let mut found = Choice::from(0);
        let mut matching = 0;
        for step in expected.saturating_sub(SKEW_STEPS)..=expected.saturating_add(SKEW_STEPS) {
            let equal = self.value(&generator, step).ct_eq(&given);
            matching = u64::conditional_select(&matching, &step, equal);
            found |= equal;
        }
        bool::from(found).then_some(matching)
    }

    /// The step of `second`, if `first` belongs to the step before it and neither is further from `present` than
    /// [`RESYNC_STEPS`] (RFC 4226 section 7.4: two codes in a row, since one is too easily met by chance in a wide window).
    pub fn consecutive_steps(
        &self,
        first: Option<Code>,
        second: Option<Code>,
        present: u64,
    ) -> Option<u64> {
        let of_ours = |code: Option<Code>| {
            code.filter(|code| code.digits == self.digits)
                .map(|code| code.value)
        };
        let (first, second) = (of_ours(first)?, of_ours(second)?);
        let generator = self.generator();
        let from = present.saturating_sub(RESYNC_STEPS);
        let mut before = self.value(&generator, from);
        for step in from + 1..=present.saturating_add(RESYNC_STEPS) {
            let value = self.value(&generator, step);
            if bool::from(before.ct_eq(&first) & value.ct_eq(&second)) {
                return Some(step);
            }
            before = value;
        }
        None
    }

    /// The secret as apps take it when typed: base32 without padding (RFC 4648).
    pub fn base32(&self) -> Zeroizing<String> {
        Zeroizing::new(self.generator().secret().to_base32())
    }

    /// The `otpauth://` URI that a QR code carries, for an account whose name has no colon.
    pub fn uri(&self, account: &str) -> Zeroizing<String> {
        let algorithm = self.algorithm.name().to_ascii_uppercase();
        Zeroizing::new(format!(
            "otpauth://totp/{ISSUER}:{account}?secret={}&issuer={ISSUER}&algorithm={algorithm}&digits={}&period={STEP_SECONDS}",
            *self.base32(),
            self.digits.count()
        ))
    }

    fn generator(&self) -> Totp {
        Builder::new()
            .with_algorithm(self.algorithm.of_library())
            .with_digits(self.digits.count())
            .with_step_duration(STEP_SECONDS)
            .with_secret(self.secret.expose().to_vec())
            .with_account_name("")
            .build_noncompliant()
    }

    /// The code of one step as a number.
    fn value(&self, generator: &Totp, step: u64) -> u32 {
        let signature = generator.sign(step.saturating_mul(STEP_SECONDS));
        let signature = signature.as_ref();
        // RFC 4226 section 5.3: dynamic truncation.
        let offset = usize::from(signature.last().copied().unwrap_or(0) & 0xF);
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(signature.iter().skip(offset)) {
            *to = *from;
        }
        (u32::from_be_bytes(word) & 0x7FFF_FFFF) % 10_u32.pow(u32::from(self.digits.count()))
    }

    /// The code that an app shows at `unix_seconds`.
    #[cfg(test)]
    pub(crate) fn code_at(&self, unix_seconds: u64) -> String {
        let value = self.value(&self.generator(), step_at(unix_seconds));
        format!("{value:0width$}", width = usize::from(self.digits.count()))
    }
}

/// The step at a time.
pub fn step_at(unix_seconds: u64) -> u64 {
    unix_seconds / STEP_SECONDS
}

#[cfg(test)]
mod tests;
