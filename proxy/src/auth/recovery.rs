//! Recovery codes: ten codes of 80 bits that replace a lost authenticator, each once.
//!
//! A code is `N-XXXX-XXXX-XXXX-XXXX`: its number, which is no secret, and sixteen letters of base32 (RFC 4648). With the number
//! one hash is compared for a try, not ten: an Argon2id hash costs what a password check costs.

use std::fmt;

use zeroize::Zeroizing;

use super::Secret;

/// Codes of a set, numbered from 0.
pub const CODES: u8 = 10;
const LETTERS: usize = 16;
const GROUP: usize = 4;
/// Number, letters, and a hyphen before each group.
const WRITTEN_MAX: usize = 1 + LETTERS + LETTERS / GROUP;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A recovery code, as generated or as the client sent it.
#[derive(Clone)]
pub struct RecoveryCode {
    number: u8,
    letters: Zeroizing<String>,
}

/// Why the system can't make codes.
#[derive(Debug, thiserror::Error)]
#[error("read random bytes for recovery codes: {message}")]
pub struct RandomnessError {
    message: String,
}

/// A new set of [`CODES`] codes.
///
/// # Errors
/// If the system has no randomness.
pub fn generate() -> Result<Vec<RecoveryCode>, RandomnessError> {
    (0..CODES).map(RecoveryCode::generate).collect()
}

impl RecoveryCode {
    fn generate(number: u8) -> Result<Self, RandomnessError> {
        let mut random = Zeroizing::new([0; LETTERS]);
        getrandom::fill(&mut *random).map_err(|error| RandomnessError {
            message: error.to_string(),
        })?;
        // Five bits of each byte, so that all letters are equally likely.
        let letters = random
            .iter()
            .filter_map(|byte| ALPHABET.get(usize::from(byte % 32)))
            .map(|letter| char::from(*letter))
            .collect();
        Ok(Self {
            number,
            letters: Zeroizing::new(letters),
        })
    }

    /// Nothing for what has not the form of a recovery code. Letters in either case; hyphens before the groups may be left out;
    /// `0` and `1`, which base32 lacks, are read as the letters that look like them.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > WRITTEN_MAX {
            return None;
        }
        let (number, rest) = bytes.split_first()?;
        let number = number.is_ascii_digit().then(|| number - b'0')?;
        let mut letters = Zeroizing::new(String::with_capacity(LETTERS));
        let mut rest = rest;
        while !rest.is_empty() {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
            let (group, behind) = rest.split_at_checked(GROUP)?;
            for byte in group {
                letters.push(match byte.to_ascii_uppercase() {
                    letter if ALPHABET.contains(&letter) => char::from(letter),
                    b'0' => 'O',
                    b'1' => 'I',
                    _ => return None,
                });
            }
            rest = behind;
        }
        (letters.len() == LETTERS).then_some(Self { number, letters })
    }

    /// The place in its set.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// What its hash is made of.
    pub fn secret(&self) -> Secret {
        Secret::from(self.letters.as_str())
    }

    /// The code as it is shown, once.
    pub fn written(&self) -> Zeroizing<String> {
        let mut written = Zeroizing::new(String::with_capacity(WRITTEN_MAX));
        written.push(char::from(b'0' + self.number));
        for (index, letter) in self.letters.chars().enumerate() {
            if index % GROUP == 0 {
                written.push('-');
            }
            written.push(letter);
        }
        written
    }
}

impl fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecoveryCode")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::totp::Code;

    fn letters(text: &str) -> Option<String> {
        RecoveryCode::parse(text.as_bytes()).map(|code| code.letters.to_string())
    }

    #[test]
    fn a_set_has_ten_codes_of_eighty_bits_that_are_read_as_they_are_written() {
        let codes = generate().unwrap();
        assert_eq!(codes.len(), 10);
        let mut seen = std::collections::BTreeSet::new();
        for (number, code) in codes.iter().enumerate() {
            let written = code.written();
            assert_eq!(written.len(), WRITTEN_MAX, "{}", *written);
            let read = RecoveryCode::parse(written.as_bytes()).unwrap();
            assert_eq!(usize::from(read.number()), number);
            assert_eq!(read.secret().expose(), code.secret().expose());
            assert_eq!(read.secret().expose().len() * 5, 80);
            assert!(seen.insert(code.letters.to_string()));
        }
    }

    #[test]
    fn case_hyphens_and_look_alikes_do_not_matter() {
        let expected = Some("ABCDEFGHOIKLMN23".to_owned());
        for text in [
            "7-ABCD-EFGH-OIKL-MN23",
            "7-abcd-efgh-oikl-mn23",
            "7ABCDEFGHOIKLMN23",
            "7-ABCDEFGH-0IKLMN23",
            "7-ABCD-EFGH-01KL-MN23",
        ] {
            assert_eq!(letters(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_recovery_code_is_none_and_none_is_a_one_time_code() {
        for wrong in [
            "",
            "7",
            "7-",
            "123456",
            "12345678",
            "X-ABCD-EFGH-OIKL-MN23",
            "ABCD-EFGH-OIKL-MN23",
            "7-ABCD-EFGH-OIKL-MN2",
            "7-ABCD-EFGH-OIKL-MN234",
            "7-ABCD-EFGH-OIKL-MN23-",
            "7--ABCD-EFGH-OIKL-MN23",
            "7-ABC-DEFGH-OIKL-MN23",
            "7 ABCD EFGH OIKL MN23",
            "7-ABCD-EFGH-OIKL-MN89",
            "\u{667}-ABCD-EFGH-OIKL-MN2",
            "77-ABCD-EFGH-OIKL-MN23",
        ] {
            assert_eq!(letters(wrong), None, "{wrong:?}");
        }
        assert!(RecoveryCode::parse(&vec![b'7'; 1_000_000]).is_none());
        assert_eq!(Code::parse(b"7-ABCD-EFGH-OIKL-MN23"), None);
        assert_eq!(Code::parse(b"7ABCDEFGHOIKLMN23"), None);
    }

    #[test]
    fn a_code_is_not_printed() {
        let code = RecoveryCode::parse(b"7-ABCD-EFGH-OIKL-MN23").unwrap();
        let shown = format!("{code:?}");
        assert!(shown.contains('7') && !shown.contains("ABCD"), "{shown}");
    }
}
