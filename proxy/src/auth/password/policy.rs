//! Which passwords may be set (NIST SP 800-63B-4 section 3.1.1.2): long enough, not known to attackers, not made of the
//! account's own name, not one of the last few. There is no rule on the kinds of characters.

use std::path::PathBuf;

use chrono::TimeDelta;
use zeroize::Zeroizing;

use super::{
    Cost, Hasher, MIN_CHARACTERS, PasswordError,
    breach::{self, ListError},
    text,
};
use crate::auth::Secret;

/// The last passwords of an account that it can't have again; PCI DSS 4.0.1 requirement 8.3.7 asks for four.
pub const HISTORY: usize = 4;
/// As many former hashes as an account keeps.
pub const HISTORY_MAX: usize = 24;
/// Characters that have to be left of a password without the words that anybody would try first.
const CHARACTERS_LEFT: usize = 8;
/// Anybody would try it first.
const PRODUCT: &str = "portcullis";
/// A shorter account name is found in too many good passwords.
const NAME_MIN: usize = 3;

/// `[auth.password]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordPolicy {
    pub cost: Cost,
    /// At least [`MIN_CHARACTERS`].
    pub min_characters: usize,
    /// How many of the last passwords can't be set again, the present one included; at most [`HISTORY_MAX`].
    pub history: usize,
    /// A password older than this is not accepted any more.
    pub max_age: Option<TimeDelta>,
    /// Sorted SHA-1 hashes of passwords that became public ([`breach::is_in_hash_list`]).
    pub breach_list: Option<PathBuf>,
    /// Passwords in clear, one a line ([`breach::is_in_word_list`]).
    pub word_list: Option<PathBuf>,
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self {
            cost: Cost::default(),
            min_characters: MIN_CHARACTERS,
            history: HISTORY,
            max_age: None,
            breach_list: None,
            word_list: None,
        }
    }
}

/// Why a password may not be set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("the password is shorter than {min} characters")]
    TooShort { min: usize },
    #[error("the password is in {}, a list of passwords that attackers know", list.display())]
    Breached { list: PathBuf },
    #[error(
        "without the name of the account and of this product fewer than {CHARACTERS_LEFT} characters are left of the password"
    )]
    Guessable,
    #[error("the password is one of the account's last {count}")]
    UsedBefore { count: usize },
    #[error("the list of known passwords can't be searched, so no password can be set")]
    List(#[from] ListError),
    #[error(transparent)]
    Password(#[from] PasswordError),
}

impl PasswordPolicy {
    /// The hash of a new password for `account`, if the policy allows it. `former` are the hashes of the present password
    /// and those before, newest first; as many are looked at as the policy says. Takes a hash for each of them, and reads
    /// the lists.
    ///
    /// # Errors
    /// If it does not, or a list can't be read.
    pub fn hash(
        &self,
        hasher: &Hasher,
        account: &str,
        password: &Secret,
        former: &[String],
    ) -> Result<String, Refusal> {
        let text = text(password)?;
        if text.chars().count() < self.min_characters {
            return Err(Refusal::TooShort {
                min: self.min_characters,
            });
        }
        if is_guessable(&text, account) {
            return Err(Refusal::Guessable);
        }
        self.check_lists(&text)?;
        let used_before = former
            .iter()
            .take(self.history)
            .any(|phc| hasher.verify(Some(phc), password));
        if used_before {
            return Err(Refusal::UsedBefore {
                count: self.history,
            });
        }
        Ok(hasher.hash(password)?)
    }

    fn check_lists(&self, text: &str) -> Result<(), Refusal> {
        if let Some(list) = &self.breach_list
            && breach::is_in_hash_list(list, text.as_bytes())?
        {
            return Err(Refusal::Breached { list: list.clone() });
        }
        if let Some(list) = &self.word_list
            && breach::is_in_word_list(list, text)?
        {
            return Err(Refusal::Breached { list: list.clone() });
        }
        Ok(())
    }
}

/// True if little is left without the words that an attacker of this account tries first.
fn is_guessable(text: &str, account: &str) -> bool {
    let lower = Zeroizing::new(text.to_lowercase());
    let without_product = Zeroizing::new(lower.replace(PRODUCT, ""));
    let rest = if account.len() < NAME_MIN {
        without_product
    } else {
        Zeroizing::new(without_product.replace(account, ""))
    };
    rest.chars().count() < CHARACTERS_LEFT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> PasswordPolicy {
        PasswordPolicy {
            cost: Cost::LEAST,
            ..PasswordPolicy::default()
        }
    }

    fn set(policy: &PasswordPolicy, password: &str, former: &[String]) -> Result<String, Refusal> {
        let hasher = Hasher::with_cost(policy.cost).unwrap();
        policy.hash(&hasher, "alice", &Secret::from(password), former)
    }

    #[test]
    fn the_shortest_password_is_as_long_as_the_policy_says_and_one_less_is_refused() {
        let longer = PasswordPolicy {
            min_characters: 20,
            ..policy()
        };
        assert!(set(&longer, &"\u{e4}".repeat(20), &[]).is_ok());
        let refused = set(&longer, &"\u{e4}".repeat(19), &[]);
        assert!(matches!(refused, Err(Refusal::TooShort { min: 20 })));
        assert!(set(&policy(), "twelve chars", &[]).is_ok());
        assert!(set(&policy(), "eleven char", &[]).is_err());
    }

    #[test]
    fn a_password_made_of_the_accounts_and_the_products_name_is_refused() {
        for refused in [
            "Alice-alice-2026",
            "portcullis-1",
            "PortcullisAlice12",
            "alicealicealice",
        ] {
            let result = set(&policy(), refused, &[]);
            assert!(matches!(result, Err(Refusal::Guessable)), "{refused}");
        }
        for allowed in [
            "alice in wonderland",
            "alice-knows-Secret-41",
            "no names at all",
        ] {
            assert!(set(&policy(), allowed, &[]).is_ok(), "{allowed}");
        }
    }

    #[test]
    fn a_password_on_either_list_is_refused_and_so_is_every_one_while_a_list_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let (hashes, words) = (
            directory.path().join("hashes"),
            directory.path().join("words"),
        );
        // SHA-1 of "correct horse battery staple".
        std::fs::write(&hashes, "ABF7AAD6438836DBE526AA231ABDE2D0EEF74D42:384\n").unwrap();
        std::fs::write(&words, "correct horse battery\n").unwrap();
        let listed = PasswordPolicy {
            breach_list: Some(hashes),
            word_list: Some(words.clone()),
            ..policy()
        };
        for known in ["correct horse battery staple", "Correct Horse Battery"] {
            let refused = set(&listed, known, &[]);
            assert!(matches!(refused, Err(Refusal::Breached { .. })), "{known}");
            assert!(set(&policy(), known, &[]).is_ok());
        }
        assert!(set(&listed, "correct horse battery clip", &[]).is_ok());
        std::fs::remove_file(words).unwrap();
        let refused = set(&listed, "correct horse battery clip", &[]);
        assert!(matches!(refused, Err(Refusal::List(_))));
    }

    #[test]
    fn the_last_passwords_are_refused_and_the_one_before_them_is_not() {
        let hasher = Hasher::with_cost(Cost::LEAST).unwrap();
        let former: Vec<_> = (0..5)
            .map(|number| {
                hasher
                    .hash(&Secret::from(format!("password no. {number}")))
                    .unwrap()
            })
            .collect();
        for number in 0..4 {
            let refused = set(&policy(), &format!("password no. {number}"), &former);
            assert!(matches!(refused, Err(Refusal::UsedBefore { count: 4 })));
        }
        assert!(set(&policy(), "password no. 4", &former).is_ok());
        let without = PasswordPolicy {
            history: 0,
            ..policy()
        };
        assert!(set(&without, "password no. 0", &former).is_ok());
    }
}
