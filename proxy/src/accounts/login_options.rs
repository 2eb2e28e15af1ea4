//! How accounts' clients get both factors across, in the database.

use std::time::Duration;

use rusqlite::Row;
use serde_json::{Value, json};

use super::{AccountName, AccountsError, Administration, administration::Sessions, damaged};
use crate::auth::flow::{LoginOptions, Prompts};

impl Administration<'_> {
    /// How keyboard-interactive asks; `None` is as the server has it.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn set_prompts(
        &self,
        name: &AccountName,
        prompts: Option<Prompts>,
    ) -> Result<(), AccountsError> {
        let prompts = prompts.map(prompts_name);
        self.change(name, "prompts", Sessions::Keep, |transaction, uid| {
            transaction.execute(
                "UPDATE account SET prompts = ?2 WHERE id = ?1",
                (uid.0, prompts),
            )?;
            Ok(json!({ "prompts": prompts }))
        })
    }

    /// Whether the one-time password may stand behind the password.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn set_appended_code(&self, name: &AccountName, on: bool) -> Result<(), AccountsError> {
        self.change(name, "appended-code", Sessions::Keep, |transaction, uid| {
            transaction.execute(
                "UPDATE account SET appended_code = ?2 WHERE id = ?1",
                (uid.0, on),
            )?;
            Ok(json!({ "appended_code": on }))
        })
    }

    /// How long a key alone continues a login, `None` for not at all. Windows that are open are forgotten.
    ///
    /// # Errors
    /// If there is no such account, or the length is none of
    /// [`WINDOW_LENGTHS`](crate::auth::flow::WINDOW_LENGTHS).
    pub fn set_mfa_window(
        &self,
        name: &AccountName,
        length: Option<Duration>,
    ) -> Result<(), AccountsError> {
        let seconds = length.map(|length| length.as_secs());
        self.change(name, "mfa-window", Sessions::Keep, |transaction, uid| {
            transaction.execute(
                "UPDATE account SET mfa_window = ?2, window_era = window_era + 1 WHERE id = ?1",
                (
                    uid.0,
                    seconds.and_then(|seconds| i64::try_from(seconds).ok()),
                ),
            )?;
            Ok(json!({ "seconds": seconds }))
        })
    }

    /// Forgets the windows that are open, and ends the sessions that came in through one.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn forget_window(&self, name: &AccountName) -> Result<(), AccountsError> {
        self.change(name, "forget-window", Sessions::Keep, |transaction, uid| {
            transaction.execute(
                "UPDATE account SET window_era = window_era + 1 WHERE id = ?1",
                [uid.0],
            )?;
            Ok(json!({}))
        })
    }
}

/// The options as `--json` shows them.
pub fn describe(options: &LoginOptions) -> Value {
    json!({
        "prompts": options.prompts.map(prompts_name),
        "appended_code": options.appended_code,
        "mfa_window_seconds": options.window.map(|length| length.as_secs()),
    })
}

pub(super) fn read(row: &Row<'_>) -> Result<LoginOptions, AccountsError> {
    let prompts: Option<String> = row.get("prompts")?;
    let prompts = match prompts.as_deref() {
        None => None,
        Some("two-rounds") => Some(Prompts::TwoRounds),
        Some("one-round") => Some(Prompts::OneRound),
        Some(other) => return Err(damaged("prompts", other)),
    };
    let seconds: Option<u32> = row.get("mfa_window")?;
    Ok(LoginOptions {
        prompts,
        appended_code: row.get("appended_code")?,
        window: seconds.map(|seconds| Duration::from_secs(seconds.into())),
        window_era: row.get("window_era")?,
    })
}

fn prompts_name(prompts: Prompts) -> &'static str {
    match prompts {
        Prompts::TwoRounds => "two-rounds",
        Prompts::OneRound => "one-round",
    }
}
