//! Whether password and one-time password are right that came at once: as two answers of one round, or as one text.

use super::{Attempt, Checked};
use crate::auth::{
    Factor, Secret,
    attempt::{Asked, Failed},
    flow::{Both, Evidence, Verdict},
};

/// Digits of a one-time password (RFC 6238; longer ones can't be told from the password's own end).
const CODE_DIGITS: usize = 6;

/// What has to be checked.
#[derive(Debug)]
pub(in crate::auth::attempt) struct Pair {
    pub(in crate::auth::attempt) password: Secret,
    pub(in crate::auth::attempt) code: Secret,
}

impl Pair {
    /// A text that ends in a code, and has something before it.
    fn split(text: &Secret) -> Option<Self> {
        let at = text.expose().len().checked_sub(CODE_DIGITS)?;
        let (password, code) = text.expose().split_at_checked(at)?;
        let is_pair = !password.is_empty() && code.iter().all(u8::is_ascii_digit);
        is_pair.then(|| Self {
            password: Secret::from(password.to_vec()),
            code: Secret::from(code.to_vec()),
        })
    }
}

impl Attempt {
    /// The two in `text`, if the account may send them so and they would be its first factors.
    pub(in crate::auth::attempt) async fn appended(
        &self,
        user: &str,
        text: &Secret,
        second: bool,
    ) -> Option<Pair> {
        let pair = Pair::split(text).filter(|_| !second)?;
        let found = self.look_up(user, Evidence::None, None).await;
        found
            .account
            .is_some_and(|account| account.login.appended_code)
            .then_some(pair)
    }

    /// Checks the password, and the code only if the password is right: a code is not spent for somebody who does not know
    /// the password. A right password has its own record; what is returned is what decided.
    ///
    /// # Errors
    /// If the password's record can't be written.
    pub(in crate::auth::attempt) async fn check_both(
        &mut self,
        asked: Asked<'_>,
        pair: Pair,
        counted: bool,
        evidence: fn(Both) -> Evidence,
    ) -> Result<Checked, Failed> {
        let password = self
            .check_password(asked.user, pair.password, counted, Evidence::Password)
            .await;
        let Evidence::Password(verdict) = password.evidence else {
            return Ok(password);
        };
        // Beside a key that was shown, a code may do without a password.
        let genuine = verdict == Verdict::Right || (verdict == Verdict::Empty && counted);
        if genuine {
            let asked = Asked {
                factor: Some(Factor::Password),
                ..asked
            };
            self.record_step(asked, &password, false).await?;
        }
        let code = self.check_code(asked.user, pair.code, genuine).await;
        let Evidence::Answer(judged, factor) = code.evidence else {
            return Ok(code);
        };
        let both = Both {
            password: verdict,
            code: judged,
            factor,
        };
        let decisive = if genuine { code } else { password };
        Ok(Checked {
            evidence: evidence(both),
            ..decisive
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Option<(String, String)> {
        let text_of = |secret: Secret| String::from_utf8(secret.expose().to_vec()).unwrap();
        Pair::split(&Secret::from(text)).map(|pair| (text_of(pair.password), text_of(pair.code)))
    }

    #[test]
    fn the_last_six_ascii_digits_are_the_code_and_what_is_before_the_password() {
        let parts = |password: &str, code: &str| Some((password.to_owned(), code.to_owned()));
        assert_eq!(split("horse123456"), parts("horse", "123456"));
        assert_eq!(split("horse0123456"), parts("horse0", "123456"));
        assert_eq!(split("h\u{f6}rse 123456"), parts("h\u{f6}rse ", "123456"));
        for alone in [
            "",
            "123456",
            "horse",
            "horse12345",
            "horse12345x",
            "horse123 456",
        ] {
            assert_eq!(split(alone), None, "{alone:?}");
        }
        // Digits of another script are letters of the password.
        assert_eq!(
            split("horse\u{661}\u{662}\u{663}\u{664}\u{665}\u{666}"),
            None
        );
    }
}
