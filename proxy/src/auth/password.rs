//! Passwords as Argon2id hashes in PHC strings.

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::phc::PasswordHash,
};

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

/// Makes and checks hashes; one for the whole process.
#[derive(Debug)]
pub struct Hasher {
    argon2: Argon2<'static>,
    /// A hash of a password that nobody has, with the parameters of all others.
    decoy: PasswordHash,
}

impl Hasher {
    /// # Errors
    /// If the system has no randomness for the decoy's salt.
    pub fn new() -> Result<Self, PasswordError> {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(hash_error)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut nobody = [0; 32];
        getrandom::fill(&mut nobody).map_err(hash_error)?;
        let decoy = argon2.hash_password(&nobody).map_err(hash_error)?;
        Ok(Self { argon2, decoy })
    }

    /// Hashes a new password with a new salt.
    ///
    /// # Errors
    /// If it is too short, too long or not text.
    pub fn hash(&self, password: &Secret) -> Result<String, PasswordError> {
        let text = std::str::from_utf8(password.expose()).map_err(|_| PasswordError::NotText)?;
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
        let matches = self.argon2.verify_password(looked_at, expected).is_ok();
        matches && stored.is_some() && bytes.len() <= MAX_BYTES
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
    fn a_password_is_not_right_because_its_first_bytes_are() {
        let hasher = Hasher::new().unwrap();
        let longest = "x".repeat(MAX_BYTES);
        let phc = hasher.hash(&Secret::from(longest.as_str())).unwrap();
        assert!(hasher.verify(Some(&phc), &Secret::from(longest.as_str())));
        assert!(!hasher.verify(Some(&phc), &Secret::from(longest + "y")));
    }
}
