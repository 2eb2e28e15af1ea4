//! The single-use token that lets a user enrol an authenticator, and the two codes that activate it.
//!
//! Pure: that a token is used once, and in time, is the store's part ([`crate::accounts::enrolment`]).

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    flow::{Factor, UserId},
    totp::{self, Authenticator, Code, Drift},
};

/// What a token begins with, so that no code can be one and hardly any password.
const PREFIX: &str = "enrol-";
/// Letters of a token: 80 bits. It lives for minutes and few wrong ones are looked at, all of them online.
const LETTERS: usize = 16;
/// RFC 4648 base32.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Codes that one enrolment may show, right ones included.
const CODES_MAX: u32 = 10;

/// Number of an enrolment: of the token that began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnrolmentId(pub i64);

/// What an administrator hands to a user. Only its hash is stored.
#[derive(Clone)]
pub struct Token(Zeroizing<[u8; LETTERS]>);

/// SHA-256 of a token: it has enough randomness not to need a slow hash.
#[derive(Debug, Clone, Copy)]
pub struct TokenHash([u8; 32]);

/// Why the system can't make a token.
#[derive(Debug, thiserror::Error)]
#[error("read random bytes for an enrolment token: {message}")]
pub struct RandomnessError {
    message: String,
}

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate() -> Result<Self, RandomnessError> {
        let mut letters = Zeroizing::new([0; LETTERS]);
        getrandom::fill(letters.as_mut()).map_err(|error| RandomnessError {
            message: error.to_string(),
        })?;
        for letter in letters.iter_mut() {
            // 256 is a multiple of 32: every letter is as likely.
            *letter = letter_of(*letter);
        }
        Ok(Self(letters))
    }

    /// Reads what [`Self::text`] shows; case and the hyphens after the first do not matter. `None` for anything else, such
    /// as a password or a code.
    pub fn parse(answer: &[u8]) -> Option<Self> {
        let (prefix, rest) = answer.split_at_checked(PREFIX.len())?;
        if !prefix.eq_ignore_ascii_case(PREFIX.as_bytes()) || rest.len() > 2 * LETTERS {
            return None;
        }
        let mut letters = Zeroizing::new([0; LETTERS]);
        let mut given = rest.iter().filter(|&&byte| byte != b'-');
        for letter in letters.iter_mut() {
            *letter = given.next()?.to_ascii_uppercase();
        }
        let is_token =
            given.next().is_none() && letters.iter().all(|letter| ALPHABET.contains(letter));
        is_token.then_some(Self(letters))
    }

    /// As an administrator passes it on: `enrol-` and four groups of four letters.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 20));
        text.push_str(PREFIX);
        for (place, &letter) in self.0.iter().enumerate() {
            if place > 0 && place % 4 == 0 {
                text.push('-');
            }
            text.push(char::from(letter));
        }
        text
    }

    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_slice()).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl TokenHash {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes the same time whatever `stored` holds.
    pub fn is(&self, stored: &[u8]) -> bool {
        self.0.ct_eq(stored).into()
    }
}

fn letter_of(random: u8) -> u8 {
    ALPHABET
        .get(usize::from(random) % ALPHABET.len())
        .copied()
        .unwrap_or(b'A')
}

/// Who may enrol an authenticator, and nothing else: a first factor and the account's token were shown. Only
/// [`Flow::step`](super::flow::Flow::step) makes one. It is no [`Authenticated`](super::Authenticated) and can't become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolling {
    pub(super) uid: UserId,
    pub(super) name: String,
    pub(super) kind: portcullis_journal::AccountKind,
    pub(super) epoch: i64,
    pub(super) factors: Vec<Factor>,
    pub(super) key: Option<String>,
    pub(super) enrolment: EnrolmentId,
}

impl Enrolling {
    /// Someone who has shown a key, for tests of what comes after.
    #[cfg(test)]
    pub(crate) fn for_test(uid: UserId, name: &str, epoch: i64, enrolment: EnrolmentId) -> Self {
        Self {
            uid,
            name: name.to_owned(),
            kind: portcullis_journal::AccountKind::Human,
            epoch,
            factors: vec![Factor::PublicKey],
            key: None,
            enrolment,
        }
    }

    pub fn uid(&self) -> UserId {
        self.uid
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was shown beside the token.
    pub fn factors(&self) -> &[Factor] {
        &self.factors
    }

    /// The fingerprint of the key whose signature was verified, if one was.
    pub fn key_fingerprint(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub fn enrolment(&self) -> EnrolmentId {
        self.enrolment
    }

    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The user as records name it.
    pub fn actor(&self) -> portcullis_journal::Actor {
        portcullis_journal::Actor {
            uid: Some(self.uid.0),
            name: self.name.clone(),
            kind: Some(self.kind),
        }
    }
}

/// What a code shown during enrolment means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The first right code; the next one has to be that of the step after it.
    First,
    /// The first one again.
    Repeated,
    /// Right, but not of the step after the first: it counts as the first one.
    OutOfTurn,
    Wrong,
    /// Two consecutive codes; `step` is the second one's.
    Both {
        step: u64,
    },
    /// One code too many: the enrolment is over.
    TooMany,
}

impl Shown {
    /// The code in records; `None` for a code that was right.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::First | Self::Both { .. } => None,
            Self::Repeated => Some("code_repeated"),
            Self::OutOfTurn => Some("code_not_consecutive"),
            Self::Wrong => Some("bad_code"),
            Self::TooMany => Some("too_many_codes"),
        }
    }
}

/// How far the proof is that the user's device makes the codes of the new secret.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    first: Option<u64>,
    shown: u32,
}

impl Progress {
    /// Takes in a code at `unix_seconds`.
    pub fn show(&mut self, device: &Authenticator, code: Option<Code>, unix_seconds: u64) -> Shown {
        if self.shown >= CODES_MAX {
            return Shown::TooMany;
        }
        self.shown += 1;
        match (
            self.first,
            device.matching_step(code, totp::step_at(unix_seconds), Drift::default()),
        ) {
            (_, None) => Shown::Wrong,
            (Some(first), Some(step)) if step == first => Shown::Repeated,
            (Some(first), Some(step)) if step == first + 1 => Shown::Both { step },
            (first, Some(step)) => {
                self.first = Some(step);
                if first.is_some() {
                    Shown::OutOfTurn
                } else {
                    Shown::First
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;

    const AT: u64 = 1_700_000_000 / 30 * 30;

    fn device() -> Authenticator {
        Authenticator {
            secret: Secret::from("12345678901234567890"),
            ..Authenticator::decoy()
        }
    }

    fn show(progress: &mut Progress, code_of: u64, at: u64) -> Shown {
        let device = device();
        let code = device.code_at(code_of);
        progress.show(&device, Code::parse(code.as_bytes()), at)
    }

    #[test]
    fn a_token_reads_back_in_any_case_and_grouping() {
        let token = Token::generate().unwrap();
        let text = token.text();
        assert_eq!(text.len(), 25, "{}", *text);
        let bare = text.replace('-', "").replacen("enrol", "enrol-", 1);
        for form in [
            text.to_string(),
            text.to_lowercase(),
            text.to_uppercase(),
            bare,
        ] {
            let read = Token::parse(form.as_bytes()).unwrap();
            assert!(read.hash().is(token.hash().as_bytes()), "{form}");
        }
        assert!(
            !Token::generate()
                .unwrap()
                .hash()
                .is(token.hash().as_bytes())
        );
        assert_eq!(format!("{token:?}"), "<secret>");
    }

    #[test]
    fn what_is_no_token_is_none() {
        let sixteen = "ABCDEFGHIJKLMNOP";
        assert!(Token::parse(format!("enrol-{sixteen}").as_bytes()).is_some());
        for other in [
            "",
            "123456",
            "enrol-",
            sixteen,
            "enrol-ABCDEFGHIJKLMNO",
            "enrol-ABCDEFGHIJKLMNOPQ",
            "enrol-ABCDEFGHIJKLMN01",
            "enrol-ABCDEFGHIJKLMN P",
            "enrol-ABCDEFGHIJKLMNÖ",
            "enroll-ABCDEFGHIJKLMNOP",
            " enrol-ABCDEFGHIJKLMNOP",
        ] {
            assert!(Token::parse(other.as_bytes()).is_none(), "{other:?}");
        }
        assert!(Token::parse(&vec![b'-'; 1_000_000]).is_none());
        assert!(Token::parse(&[b"enrol-".as_slice(), &[b'-'; 1_000_000]].concat()).is_none());
    }

    #[test]
    fn two_consecutive_codes_activate_and_one_code_twice_does_not() {
        let mut progress = Progress::default();
        assert_eq!(show(&mut progress, AT, AT), Shown::First);
        assert_eq!(show(&mut progress, AT, AT + 10), Shown::Repeated);
        let next = AT + 30;
        let step = next / 30;
        assert_eq!(show(&mut progress, next, next), Shown::Both { step });
    }

    #[test]
    fn codes_with_a_gap_or_in_the_wrong_order_begin_anew() {
        let mut progress = Progress::default();
        assert_eq!(show(&mut progress, AT, AT), Shown::First);
        assert_eq!(show(&mut progress, AT + 60, AT + 60), Shown::OutOfTurn);
        assert_eq!(show(&mut progress, AT + 30, AT + 60), Shown::OutOfTurn);
        let step = (AT + 60) / 30;
        assert_eq!(show(&mut progress, AT + 60, AT + 60), Shown::Both { step });
    }

    #[test]
    fn the_ninth_wrong_code_leaves_one_and_after_ten_none_is_looked_at() {
        let wrong = |progress: &mut Progress| progress.show(&device(), None, AT);
        let mut progress = Progress::default();
        for _ in 0..8 {
            assert_eq!(wrong(&mut progress), Shown::Wrong);
        }
        assert_eq!(show(&mut progress, AT, AT), Shown::First);
        let mut spent = progress;
        let step = AT / 30 + 1;
        assert_eq!(show(&mut progress, AT + 30, AT), Shown::Both { step });
        assert_eq!(wrong(&mut spent), Shown::Wrong);
        assert_eq!(show(&mut spent, AT + 30, AT), Shown::TooMany);
    }
}
