//! Keyboard-interactive (RFC 4256): what is asked, and whom the answers are given to.

use super::{
    Asked, Attempt, Failed,
    checks::{Checked, Pair},
};
use crate::auth::{
    Factor, Method, Prompt, Secret, Step,
    enrolment::Token,
    flow::{Check, Evidence, Question},
};

/// lftp and sshfs answer only what ends so.
const PASSWORD_PROMPT: &str = "Password: ";
const CODE_PROMPT: &str = "One-time password: ";

/// What came back to an INFO_REQUEST, by the number of its responses.
#[derive(Debug)]
enum Responses {
    One(Secret),
    Two(Pair),
    Other,
}

impl Attempt {
    /// The method `keyboard-interactive`: `None` begins, `Some` answers what was asked last.
    pub async fn keyboard_interactive(
        &mut self,
        user: &str,
        responses: Option<Vec<Secret>>,
    ) -> Step {
        let asked = self.asked(user, Method::KeyboardInteractive, None, None);
        if !self.admit(user) {
            return self.disconnect().await;
        }
        let Some(responses) = responses else {
            let checked = self.look_up(user, Evidence::Begin, None).await;
            return self.conclude(asked, checked).await;
        };
        let checked = self.check_responses(asked, responses).await;
        let step = self.conclude_checked(asked, checked).await;
        self.pad_unless_delayed(asked, step).await
    }

    async fn check_responses(
        &mut self,
        asked: Asked<'_>,
        responses: Vec<Secret>,
    ) -> Result<Checked, Failed> {
        let user = asked.user;
        let responses = match <[Secret; 1]>::try_from(responses) {
            Ok([response]) => Responses::One(response),
            Err(responses) => match <[Secret; 2]>::try_from(responses) {
                Ok([password, code]) => Responses::Two(Pair { password, code }),
                Err(_) => Responses::Other,
            },
        };
        Ok(match (self.flow.pending(user), responses) {
            (None, _) => {
                let evidence = Evidence::None;
                self.look_up(user, evidence, Some("nothing_asked")).await
            }
            (Some(Check::Code | Check::Password { second: true }), Responses::One(text))
                if Token::parse(text.expose()).is_some() =>
            {
                self.check_token(user, &text).await
            }
            (Some(Check::Password { second }), Responses::One(text)) => {
                match self.appended(user, &text, second).await {
                    None => {
                        let evidence = |verdict| Evidence::Answer(verdict, Factor::Password);
                        self.check_password(user, text, second, evidence).await
                    }
                    Some(pair) => {
                        let evidence = Evidence::AnswerBoth;
                        self.check_both(asked, pair, second, evidence).await?
                    }
                }
            }
            (Some(Check::Both { second }), Responses::Two(pair)) => {
                let evidence = Evidence::AnswerBoth;
                self.check_both(asked, pair, second, evidence).await?
            }
            (Some(Check::Code), Responses::One(code)) => self.check_code(user, code, true).await,
            (Some(Check::Decoy), Responses::One(code)) => self.check_code(user, code, false).await,
            // RFC 4256 section 3.4: as many responses as prompts.
            (Some(Check::Password { .. } | Check::Both { .. } | Check::Code | Check::Decoy), _) => {
                let evidence = Evidence::None;
                self.look_up(user, evidence, Some("response_count")).await
            }
        })
    }

    /// A right and a wrong answer that are both followed by the next question take the same time.
    async fn pad_unless_delayed(&self, asked: Asked<'_>, step: Step) -> Step {
        if matches!(step, Step::Ask { .. }) {
            tokio::time::sleep(self.remaining_floor(asked)).await;
        }
        step
    }
}

pub(super) fn prompts(question: Question) -> Vec<Prompt> {
    let texts: &[&str] = match question {
        Question::Password => &[PASSWORD_PROMPT],
        Question::Code => &[CODE_PROMPT],
        Question::Both => &[PASSWORD_PROMPT, CODE_PROMPT],
    };
    texts
        .iter()
        .map(|&text| Prompt {
            text: text.to_owned(),
            echo: false,
        })
        .collect()
}
