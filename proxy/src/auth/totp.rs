//! One-time codes by time (RFC 6238): SHA-1, six digits, steps of 30 seconds, as every authenticator app has them.
//!
//! Pure: says which step a code belongs to. That a step is accepted only once is the store's part
//! ([`crate::accounts::Accounts::redeem_code`]).

use std::fmt;

use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use totp_rs::{Algorithm, Builder, Totp};
use zeroize::Zeroizing;

use super::Secret;

/// Bytes of a shared secret: the 160 bits that RFC 4226 section 4 recommends.
pub const SECRET_BYTES: usize = 20;
/// Seconds for which a code is shown.
pub const STEP_SECONDS: u64 = 30;
/// Steps before and after the present one that are accepted, for clocks that differ (RFC 6238 section 5.2).
pub const SKEW_STEPS: u64 = 1;
const DIGITS: u8 = 6;
/// What apps show above the code.
const ISSUER: &str = "Portcullis";

/// A code as the client sent it, understood.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code(u32);

impl Code {
    /// Exactly six ASCII digits; one space between the two groups of three, as apps show them, is allowed.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let digits: [u8; 6] = match *bytes {
            [a, b, c, d, e, f] | [a, b, c, b' ', d, e, f] => [a, b, c, d, e, f],
            _ => return None,
        };
        digits
            .iter()
            .try_fold(0_u32, |value, digit| {
                digit
                    .is_ascii_digit()
                    .then(|| value * 10 + u32::from(digit - b'0'))
            })
            .map(Self)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Why the system can't make a secret.
#[derive(Debug, thiserror::Error)]
#[error("read {SECRET_BYTES} random bytes for a one-time code secret: {message}")]
pub struct RandomnessError {
    message: String,
}

/// A new shared secret.
///
/// # Errors
/// If the system has no randomness.
pub fn generate() -> Result<Secret, RandomnessError> {
    let mut bytes = Zeroizing::new(vec![0; SECRET_BYTES]);
    getrandom::fill(&mut bytes).map_err(|error| RandomnessError {
        message: error.to_string(),
    })?;
    Ok(Secret::from(bytes))
}

/// The step of `code` at `unix_seconds`, if it is one of those accepted. Takes the same time whatever the code.
pub fn matching_step(secret: &Secret, code: Option<Code>, unix_seconds: u64) -> Option<u64> {
    let totp = generator(secret, "");
    let present = unix_seconds / STEP_SECONDS;
    // No code of six digits has this value.
    let given = code.map_or(u32::MAX, |Code(value)| value);
    let mut found = Choice::from(0);
    let mut matching = 0;
    for step in present.saturating_sub(SKEW_STEPS)..=present.saturating_add(SKEW_STEPS) {
        let equal = value(&totp, step).ct_eq(&given);
        matching = u64::conditional_select(&matching, &step, equal);
        found |= equal;
    }
    bool::from(found).then_some(matching)
}

/// The secret as apps take it when typed: base32 without padding (RFC 4648).
pub fn base32(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(generator(secret, "").secret().to_base32())
}

/// The `otpauth://` URI that a QR code carries.
///
/// # Panics
/// Never for an account name: it has no colon.
pub fn uri(secret: &Secret, account: &str) -> Zeroizing<String> {
    let label = format!("{ISSUER}:{account}");
    Zeroizing::new(format!(
        "otpauth://totp/{label}?secret={}&issuer={ISSUER}&algorithm=SHA1&digits={DIGITS}&period={STEP_SECONDS}",
        *base32(secret)
    ))
}

fn generator(secret: &Secret, account: &str) -> Totp {
    Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(DIGITS)
        .with_step_duration(STEP_SECONDS)
        .with_secret(secret.expose().to_vec())
        .with_account_name(account)
        .build_noncompliant()
}

/// The code of one step as a number.
fn value(totp: &Totp, step: u64) -> u32 {
    let signature = totp.sign(step.saturating_mul(STEP_SECONDS));
    let signature = signature.as_ref();
    // RFC 4226 section 5.3: dynamic truncation.
    let offset = usize::from(signature.last().copied().unwrap_or(0) & 0xF);
    let mut word = [0; 4];
    for (to, from) in word.iter_mut().zip(signature.iter().skip(offset)) {
        *to = *from;
    }
    (u32::from_be_bytes(word) & 0x7FFF_FFFF) % 10_u32.pow(u32::from(DIGITS))
}

/// The code that an app shows at `unix_seconds`.
#[cfg(test)]
pub(crate) fn code_at(secret: &Secret, unix_seconds: u64) -> String {
    format!(
        "{:06}",
        value(&generator(secret, ""), unix_seconds / STEP_SECONDS)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238 appendix B, SHA-1: the last six of the eight digits.
    const VECTORS: [(u64, &str); 6] = [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ];

    fn rfc_secret() -> Secret {
        Secret::from("12345678901234567890")
    }

    fn step_of(code: &str, at: u64) -> Option<u64> {
        matching_step(&rfc_secret(), Code::parse(code.as_bytes()), at)
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (at, code) in VECTORS {
            assert_eq!(code_at(&rfc_secret(), at), code);
            assert_eq!(step_of(code, at), Some(at / 30), "{at}");
        }
    }

    #[test]
    fn one_step_early_or_late_is_accepted_and_two_are_not() {
        let (at, code) = (1_111_111_111, "050471");
        let step = at / 30;
        assert_eq!(step_of(code, (step - 1) * 30), Some(step));
        assert_eq!(step_of(code, (step + 1) * 30 + 29), Some(step));
        assert_eq!(step_of(code, (step - 1) * 30 - 1), None);
        assert_eq!(step_of(code, (step + 2) * 30), None);
    }

    #[test]
    fn a_code_is_six_ascii_digits_with_at_most_one_group_space() {
        assert_eq!(Code::parse(b"050471"), Some(Code(50_471)));
        assert_eq!(Code::parse(b"050 471"), Some(Code(50_471)));
        for wrong in [
            "",
            " ",
            "05047",
            "0504711",
            "050471 ",
            " 050471",
            "05 0471",
            "050  471",
            "050471\n",
            "+50471",
            "-50471",
            "0x0471",
            "٠٥٠٤٧١",
            "０５０４７１",
            "05047a",
        ] {
            assert_eq!(Code::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(Code::parse(&vec![b'0'; 1_000_000]), None);
    }

    #[test]
    fn the_neighbour_of_the_right_code_is_wrong_and_so_is_no_code() {
        assert_eq!(step_of("050472", 1_111_111_111), None);
        assert_eq!(matching_step(&rfc_secret(), None, 1_111_111_111), None);
    }

    #[test]
    fn a_new_secret_has_160_bits_and_differs_from_the_last() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_eq!(one.expose().len(), 20);
        assert_ne!(one.expose(), other.expose());
        assert_eq!(base32(&one).len(), 32);
    }

    #[test]
    fn the_uri_names_issuer_account_and_secret() {
        assert_eq!(
            *uri(&rfc_secret(), "alice"),
            "otpauth://totp/Portcullis:alice?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Portcullis&algorithm=SHA1&digits=6&period=30"
        );
    }

    #[test]
    fn a_code_is_not_printed() {
        assert_eq!(format!("{:?}", Code(50_471)), "<secret>");
    }
}
