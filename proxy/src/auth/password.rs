//! Passwords as Argon2id hashes in PHC strings.
//!
//! [`policy`] says which passwords may be set, [`breach`] which ones are known to attackers.

pub mod breach;
pub mod policy;

pub use policy::{PasswordPolicy, Refusal};

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHasher as _, Version,
    password_hash::phc::{Output, PasswordHash},
};
use icu_normalizer::ComposingNormalizerBorrowed;
use zeroize::Zeroizing;

use super::Secret;

/// Memory for one hash, in KiB: 19 MiB, with [`PASSES`] and [`LANES`] the OWASP minimum that still lets a two-core
/// gateway check some thirty logins a second.
pub const MEMORY_KIB: u32 = 19 * 1024;
pub const PASSES: u32 = 2;
pub const LANES: u32 = 1;

/// Shortest password that can be set, in characters; there is no rule on composition (NIST SP 800-63B-4 section 3.1.1.2).
pub const MIN_CHARACTERS: usize = 12;
/// Longest password that is looked at, in bytes.
pub const MAX_BYTES: usize = 1024;

/// Why a password can't be set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    #[error("the password is shorter than {MIN_CHARACTERS} characters")]
    TooShort,
    #[error("the password is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the password is not UTF-8")]
    NotText,
    #[error("hash the password: {message}")]
    Hash { message: String },
}

/// What one hash costs whoever guesses, and the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for Cost {
    fn default() -> Self {
        Self {
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
        }
    }
}

impl Cost {
    /// The least that Argon2 knows, for tests of other things than hashes.
    #[cfg(test)]
    pub(crate) const LEAST: Self = Self {
        memory_kib: Params::MIN_M_COST,
        passes: 1,
        lanes: 1,
    };
}

/// Makes and checks hashes; one for the whole process.
#[derive(Debug)]
pub struct Hasher {
    argon2: Argon2<'static>,
    cost: Cost,
    /// A hash of a password that nobody has, with the parameters of all others.
    decoy: PasswordHash,
    /// What the decoy took.
    duration: Duration,
    memory: Memory,
}

impl Hasher {
    /// With the default cost.
    ///
    /// # Errors
    /// If the system has no randomness for the decoy's salt.
    pub fn new() -> Result<Self, PasswordError> {
        Self::with_cost(Cost::default())
    }

    /// # Errors
    /// If Argon2 does not know such a cost, or the system has no randomness for the decoy's salt.
    pub fn with_cost(cost: Cost) -> Result<Self, PasswordError> {
        let params =
            Params::new(cost.memory_kib, cost.passes, cost.lanes, None).map_err(hash_error)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut nobody = [0; 32];
        getrandom::fill(&mut nobody).map_err(hash_error)?;
        let begin = Instant::now();
        let decoy = argon2.hash_password(&nobody).map_err(hash_error)?;
        Ok(Self {
            argon2,
            cost,
            decoy,
            duration: begin.elapsed(),
            memory: Memory::default(),
        })
    }

    /// How long one hash took on this machine.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Hashes a new password with a new salt.
    ///
    /// # Errors
    /// If it is too short, too long or not text.
    pub fn hash(&self, password: &Secret) -> Result<String, PasswordError> {
        let text = text(password)?;
        if text.chars().count() < MIN_CHARACTERS {
            return Err(PasswordError::TooShort);
        }
        if text.len() > MAX_BYTES {
            return Err(PasswordError::TooLong);
        }
        let hash = self
            .argon2
            .hash_password(text.as_bytes())
            .map_err(hash_error)?;
        Ok(hash.to_string())
    }

    /// True if `password` is the one that `phc` is the hash of. Takes the same time if there is no hash, or a broken one:
    /// some tens of milliseconds of one core.
    pub fn verify(&self, phc: Option<&str>, password: &Secret) -> bool {
        let stored = phc.and_then(|phc| PasswordHash::new(phc).ok());
        let expected = stored.as_ref().unwrap_or(&self.decoy);
        let bytes = password.expose();
        let looked_at = bytes.get(..MAX_BYTES).unwrap_or(bytes);
        let normal = Zeroizing::new(normal_form(looked_at).into_owned());
        let matches = self.is_hash_of(&normal, expected) == Some(true);
        matches && stored.is_some() && bytes.len() <= MAX_BYTES
    }

    /// True if a hash was made by another algorithm or for less than this one's cost in any respect.
    pub fn is_outdated(&self, phc: &str) -> bool {
        let Ok(stored) = PasswordHash::new(phc) else {
            return false;
        };
        let current = Params::try_from(&stored).is_ok_and(|params| {
            params.m_cost() >= self.cost.memory_kib
                && params.t_cost() >= self.cost.passes
                && params.p_cost() >= self.cost.lanes
        });
        let algorithm = Algorithm::try_from(stored.algorithm.as_str());
        let version = stored.version.map(Version::try_from);
        !current
            || algorithm != Ok(Algorithm::Argon2id)
            || !matches!(version, Some(Ok(Version::V0x13)))
    }

    /// Nothing for a hash that lacks a part or names what is unknown here.
    fn is_hash_of(&self, password: &[u8], expected: &PasswordHash) -> Option<bool> {
        let salt = expected.salt.as_ref()?;
        let output = expected.hash.as_ref()?;
        let algorithm = Algorithm::try_from(expected.algorithm.as_str()).ok()?;
        let version = expected.version.map(Version::try_from).transpose().ok()?;
        let params = Params::try_from(expected).ok()?;
        let mut computed = vec![0; output.len()];
        self.memory.lend(params.block_count(), |blocks| {
            Argon2::new(algorithm, version.unwrap_or_default(), params)
                .hash_password_into_with_memory(password, salt, &mut computed, blocks)
                .ok()
        })?;
        // `Output` compares in constant time.
        Some(Output::new(&computed).ok()? == *output)
    }
}

/// The memory of hashes that are done, kept for the next ones: as many pieces as hashes ever ran at the same time.
///
/// Given back each time, it would stay with the allocator all the same, once for each thread that ever ran a hash, and
/// the daemon would grow to more than a gigabyte.
#[derive(Debug, Default)]
struct Memory(Mutex<Vec<Vec<Block>>>);

impl Memory {
    fn lend<T>(&self, blocks: usize, hash: impl FnOnce(&mut [Block]) -> T) -> T {
        let mut piece = self.free().pop().unwrap_or_default();
        piece.resize(blocks, Block::new());
        let done = hash(&mut piece);
        self.free().push(piece);
        done
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A password as it is hashed: keyboards and systems write the same letters with different bytes (Unicode normalization form
/// KC, as NIST SP 800-63B-4 section 3.1.1.2 advises).
fn text(password: &Secret) -> Result<Zeroizing<String>, PasswordError> {
    let text = std::str::from_utf8(password.expose()).map_err(|_| PasswordError::NotText)?;
    if text.len() > MAX_BYTES {
        return Err(PasswordError::TooLong);
    }
    let normalizer = ComposingNormalizerBorrowed::new_nfkc();
    Ok(Zeroizing::new(normalizer.normalize(text).into_owned()))
}

/// What is no text stays as it is: it can't have been set.
fn normal_form(password: &[u8]) -> Cow<'_, [u8]> {
    let normalizer = ComposingNormalizerBorrowed::new_nfkc();
    match std::str::from_utf8(password) {
        Ok(text) => match normalizer.normalize(text) {
            Cow::Borrowed(same) => Cow::Borrowed(same.as_bytes()),
            Cow::Owned(normal) => Cow::Owned(normal.into_bytes()),
        },
        Err(_) => Cow::Borrowed(password),
    }
}

fn hash_error(error: impl std::fmt::Display) -> PasswordError {
    PasswordError::Hash {
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_that_was_set_is_right_and_its_neighbours_are_wrong() {
        let hasher = Hasher::new().unwrap();
        let phc = hasher.hash(&Secret::from("correct horse battery")).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(hasher.verify(Some(&phc), &Secret::from("correct horse battery")));
        for wrong in [
            "correct horse batterz",
            "correct horse batter",
            "",
            "correct horse battery\n",
        ] {
            assert!(
                !hasher.verify(Some(&phc), &Secret::from(wrong)),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn without_a_hash_or_with_a_broken_one_every_password_is_wrong() {
        let hasher = Hasher::new().unwrap();
        assert!(!hasher.verify(None, &Secret::from("")));
        assert!(!hasher.verify(Some(""), &Secret::from("")));
        assert!(!hasher.verify(Some("$argon2id$v=19$m=19456,t=2,p=1$"), &Secret::from("x")));
    }

    #[test]
    fn twelve_characters_can_be_set_and_eleven_can_not() {
        let hasher = Hasher::new().unwrap();
        assert!(hasher.hash(&Secret::from("äöüäöüäöüäöü")).is_ok());
        let eleven = hasher.hash(&Secret::from("äöüäöüäöüäö"));
        assert!(matches!(eleven, Err(PasswordError::TooShort)));
        let long = hasher.hash(&Secret::from("x".repeat(MAX_BYTES + 1)));
        assert!(matches!(long, Err(PasswordError::TooLong)));
        let binary = hasher.hash(&Secret::from(vec![0xFF; 20]));
        assert!(matches!(binary, Err(PasswordError::NotText)));
    }

    #[test]
    fn hashes_that_do_not_overlap_share_their_memory() {
        let hasher = Hasher::new().unwrap();
        let password = Secret::from("correct horse battery");
        let phc = hasher.hash(&password).unwrap();
        let verify = || assert!(hasher.verify(Some(&phc), &password));
        for _ in 0..3 {
            std::thread::scope(|scope| scope.spawn(verify).join().unwrap());
        }
        assert!(!hasher.verify(None, &password));
        assert_eq!(hasher.memory.free().len(), 1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(verify);
            }
        });
        assert!((1..=4).contains(&hasher.memory.free().len()));
    }

    #[test]
    fn a_hash_with_other_parameters_is_checked_with_its_own() {
        let other = Params::new(64, 1, 1, Some(16)).unwrap();
        let phc = Argon2::new(Algorithm::Argon2i, Version::V0x10, other)
            .hash_password(b"correct horse battery")
            .unwrap()
            .to_string();
        assert!(phc.starts_with("$argon2i$v=16$m=64,t=1,p=1$"), "{phc}");
        let hasher = Hasher::new().unwrap();
        assert!(hasher.verify(Some(&phc), &Secret::from("correct horse battery")));
        assert!(!hasher.verify(Some(&phc), &Secret::from("correct horse batterz")));
    }

    #[test]
    fn a_password_is_not_right_because_its_first_bytes_are() {
        let hasher = Hasher::new().unwrap();
        let longest = "x".repeat(MAX_BYTES);
        let phc = hasher.hash(&Secret::from(longest.as_str())).unwrap();
        assert!(hasher.verify(Some(&phc), &Secret::from(longest.as_str())));
        assert!(!hasher.verify(Some(&phc), &Secret::from(longest + "y")));
    }

    #[test]
    fn the_same_letters_in_other_bytes_are_the_same_password() {
        let hasher = Hasher::with_cost(Cost::LEAST).unwrap();
        let (composed, decomposed) = (
            "Gr\u{fc}\u{df}e aus K\u{f6}ln",
            "Gru\u{308}\u{df}e aus Ko\u{308}ln",
        );
        for (set, given) in [(composed, decomposed), (decomposed, composed)] {
            let phc = hasher.hash(&Secret::from(set)).unwrap();
            assert!(hasher.verify(Some(&phc), &Secret::from(given)));
            assert!(!hasher.verify(Some(&phc), &Secret::from("Grusse aus Koln")));
        }
    }

    #[test]
    fn a_hash_is_outdated_if_any_of_its_parameters_is_less_than_asked_for() {
        let cost = |memory_kib, passes, lanes| Cost {
            memory_kib,
            passes,
            lanes,
        };
        let made_with = |cost| {
            let hasher = Hasher::with_cost(cost).unwrap();
            hasher.hash(&Secret::from("correct horse battery")).unwrap()
        };
        let hasher = Hasher::with_cost(cost(64, 2, 2)).unwrap();
        for (other, outdated) in [
            (cost(64, 2, 2), false),
            (cost(128, 3, 4), false),
            (cost(63, 2, 2), true),
            (cost(64, 1, 2), true),
            (cost(64, 2, 1), true),
        ] {
            assert_eq!(hasher.is_outdated(&made_with(other)), outdated, "{other:?}");
        }
        let phc = made_with(cost(64, 2, 2));
        assert!(hasher.is_outdated(&phc.replace("argon2id", "argon2i")));
        assert!(hasher.is_outdated(&phc.replace("v=19", "v=16")));
        assert!(!hasher.is_outdated("no hash"), "nothing to upgrade from");
    }
}
