//! One-time codes as a partner's phone makes them (RFC 6238), independent of the proxy's code.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

const STEP: u64 = 30;

/// The code of one time step: SHA-1, six digits.
///
/// # Panics
/// Never: HMAC takes keys of any length.
#[must_use]
pub fn code(secret: &[u8], step: u64) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(&step.to_be_bytes());
    let hash = mac.finalize().into_bytes();
    // RFC 4226, section 5.3: the last four bits say where the 31 bits of the code begin.
    let offset = hash.last().map_or(0, |last| usize::from(last & 0x0f));
    let number = hash
        .iter()
        .skip(offset)
        .take(4)
        .fold(0_u32, |number, byte| (number << 8) | u32::from(*byte))
        & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

/// The time step of now.
#[must_use]
pub fn current_step() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / STEP)
}

/// A phone with one account. It never shows a code that the server must refuse as used.
#[derive(Debug, Clone)]
pub struct Authenticator {
    secret: Vec<u8>,
    last_step: Option<u64>,
}

impl Authenticator {
    /// Takes the secret as enrolment prints it: base32 without padding.
    ///
    /// # Errors
    /// When it isn't base32.
    pub fn new(base32: &str) -> Result<Self> {
        Ok(Self {
            secret: decode_base32(base32)?,
            last_step: None,
        })
    }

    /// The next code that a server with a window of one step each way accepts.
    ///
    /// The first three come at once (the step before, now, the step after); then this waits for
    /// the clock, up to half a minute a code.
    ///
    /// # Errors
    /// When the clock stands still.
    pub fn next_code(&mut self) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(3 * STEP);
        loop {
            let now = current_step();
            // At the very end of a step its predecessor would be too old on arrival.
            let earliest = if seconds_left_in_step() < 3 {
                now
            } else {
                now - 1
            };
            let step = self
                .last_step
                .map_or(earliest, |last| earliest.max(last + 1));
            if step <= now + 1 {
                self.last_step = Some(step);
                return Ok(code(&self.secret, step));
            }
            if Instant::now() >= deadline {
                bail!("the clock didn't reach the next time step");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the present step lasts for some time yet, for a dialogue that takes two codes in a row.
    pub fn wait_for_time(&self) {
        while seconds_left_in_step() < STEP / 2 {
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A well-formed code that is wrong: none of the steps around now has it.
    #[must_use]
    pub fn wrong_code(&self) -> String {
        let now = current_step();
        let right: Vec<String> = (now - 2..=now + 2)
            .map(|step| code(&self.secret, step))
            .collect();
        (0..)
            .map(|number| format!("{number:06}"))
            .find(|candidate| !right.contains(candidate))
            .unwrap_or_default()
    }

    /// The raw secret.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }
}

fn seconds_left_in_step() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| STEP - since.as_secs() % STEP)
}

fn decode_base32(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a',
            b'2'..=b'7' => letter - b'2' + 26,
            _ => bail!("{:?} is no letter of base32", char::from(letter)),
        };
        buffer = (buffer << 5) | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((buffer >> bits) & 0xff).context("eight bits fit a byte")?);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B: the last six of its eight digits.
    #[test]
    fn codes_are_those_of_the_standard() {
        let secret = b"12345678901234567890";
        for (time, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code(secret, time / STEP), expected);
        }
    }

    /// RFC 4648, section 10.
    #[test]
    fn base32_is_decoded() {
        for (text, bytes) in [
            ("MY======", &b"f"[..]),
            ("MZXW6", b"foo"),
            ("mzxw6ytboi", b"foobar"),
        ] {
            assert_eq!(decode_base32(text).unwrap(), bytes);
        }
        assert!(decode_base32("MZ1").is_err());
    }

    #[test]
    fn an_authenticator_never_repeats_a_code() {
        let mut phone = Authenticator::new("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").unwrap();
        let first = phone.next_code().unwrap();
        let second = phone.next_code().unwrap();
        assert_ne!(first, second);
        assert_ne!(phone.wrong_code(), first);
    }
}
