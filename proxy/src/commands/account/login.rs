//! `account prompts`, `appended-code` and `mfa-window`: what the command line says of how an account logs in.

use std::time::Duration;

use clap::ValueEnum;

use crate::auth::flow::{Prompts, WINDOW_LENGTHS};

/// How keyboard-interactive asks.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PromptsArg {
    /// Password, then one-time password, one prompt each
    TwoRounds,
    /// Both prompts at once
    OneRound,
    /// As the configuration has it
    Default,
}

impl PromptsArg {
    pub(super) fn into_option(self) -> Option<Prompts> {
        match self {
            Self::TwoRounds => Some(Prompts::TwoRounds),
            Self::OneRound => Some(Prompts::OneRound),
            Self::Default => None,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

impl Switch {
    pub(super) fn is_on(self) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// The length of a window, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WindowArg(pub(super) Option<Duration>);

/// `off`, or minutes or hours such as `30m` and `4h`.
pub(super) fn window(text: &str) -> Result<WindowArg, String> {
    if text == "off" {
        return Ok(WindowArg(None));
    }
    let parts = text
        .strip_suffix('m')
        .map(|number| (number, 60))
        .or_else(|| text.strip_suffix('h').map(|number| (number, 3600)));
    parts
        .filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|(number, unit)| number.parse::<u64>().ok()?.checked_mul(unit))
        .map(Duration::from_secs)
        .filter(|length| WINDOW_LENGTHS.contains(length))
        .map(|length| WindowArg(Some(length)))
        .ok_or_else(|| "expected 15m to 8h, such as 30m or 4h, or off".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_fifteen_minutes_to_eight_hours_or_off_and_nothing_beside() {
        let minutes = |minutes: u64| Ok(WindowArg(Some(Duration::from_secs(60 * minutes))));
        assert_eq!(window("off"), Ok(WindowArg(None)));
        assert_eq!(window("15m"), minutes(15));
        assert_eq!(window("480m"), minutes(480));
        assert_eq!(window("8h"), minutes(480));
        for bad in [
            "14m", "481m", "9h", "0h", "", "m", "15", "-15m", "+15m", "1.5h", "30 m",
        ] {
            assert!(window(bad).is_err(), "{bad:?}");
        }
    }
}
