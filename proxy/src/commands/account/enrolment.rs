//! `account issue-token`: what a user shows to enrol an authenticator.

use std::io::Write;

use chrono::{Duration, SecondsFormat, Utc};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    accounts::{
        AccountName, Administration,
        enrolment::{VALID, VALID_MAX},
    },
    auth::enrolment::Token,
};

/// How long a token may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity(Duration);

impl Default for Validity {
    fn default() -> Self {
        Self(VALID)
    }
}

/// Reads a number with the unit `s`, `m` or `h`, from a minute to 24 hours.
pub(super) fn validity(text: &str) -> Result<Validity, String> {
    let wrong = || "expected 1m to 24h, such as 15m or 2h".to_owned();
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let valid = Duration::seconds(i64::from(number) * seconds);
    if (Duration::minutes(1)..=VALID_MAX).contains(&valid) {
        Ok(Validity(valid))
    } else {
        Err(wrong())
    }
}

pub(super) fn issue(
    administration: &Administration<'_>,
    name: &AccountName,
    Validity(valid): Validity,
    json: bool,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let token = Token::generate()?;
    let expires = Utc::now() + valid;
    administration.issue_token(name, &token.hash(), expires)?;
    let until = expires.to_rfc3339_opts(SecondsFormat::Secs, true);
    let text = token.text();
    if json {
        let line = Zeroizing::new(json!({ "token": *text, "expires": until }).to_string());
        writeln!(output, "{}", *line)?;
        return Ok(());
    }
    writeln!(output, "{}", *text)?;
    writeln!(
        output,
        "For one use by {name}, until {until}; it is not shown again. Tell {name} to run\n  \
         ssh -t {name}@GATEWAY\n\
         and to answer \"One-time password:\" with it after the password, or \"Password:\" after a key."
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_for_a_minute_to_a_day() {
        let minutes = |text: &str| validity(text).map(|Validity(valid)| valid.num_minutes());
        assert_eq!(minutes("60s"), Ok(1));
        assert_eq!(minutes("15m"), Ok(15));
        assert_eq!(minutes("24h"), Ok(24 * 60));
        for wrong in [
            "",
            "m",
            "15",
            "59s",
            "25h",
            "1441m",
            "-1m",
            "1d",
            "1.5h",
            "99999999999h",
            "1ä",
        ] {
            assert!(validity(wrong).is_err(), "{wrong:?}");
        }
    }
}
