//! Whether an answer is the account's enrolment token.

use super::{Attempt, Checked, NO_ACCOUNT};
use crate::{
    accounts::enrolment::TokenVerdict,
    auth::{Secret, enrolment::Token, flow::Evidence},
};

impl Attempt {
    /// To be asked only after a right first factor: a right token is spent by it, a wrong one counts against the token.
    pub(in crate::auth::attempt) async fn check_token(&self, user: &str, text: &Secret) -> Checked {
        let shown = Token::parse(text.expose()).map(|token| token.hash());
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            let uid = account.as_ref().map(|account| account.uid);
            let (Some(uid), Some(shown)) = (uid, shown) else {
                let evidence = Evidence::Token { enrolment: None };
                return Ok(Checked::new(account, evidence, Some(NO_ACCOUNT)).guess());
            };
            let now = shared.clock.now();
            let verdict = shared.accounts.redeem_token(uid, &shown, now)?;
            let enrolment = match verdict {
                TokenVerdict::Right(enrolment) => Some(enrolment),
                TokenVerdict::Wrong
                | TokenVerdict::Expired
                | TokenVerdict::Spent
                | TokenVerdict::Void
                | TokenVerdict::NotIssued => None,
            };
            let evidence = Evidence::Token { enrolment };
            Ok(Checked::new(account, evidence, verdict.reason()).guess())
        })
        .await
    }
}
