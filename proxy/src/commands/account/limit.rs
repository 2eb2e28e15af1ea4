//! `account limit`: what the command line says of an account's limits.

use std::num::{NonZeroU32, NonZeroU64};

use clap::Args;

use crate::{
    accounts::mounts::{self, RateError},
    allowance::AccountLimits,
};

/// The limits to change; those that are not named stay.
#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = true)]
pub(super) struct LimitArgs {
    /// Sessions at a time, or `none`
    #[arg(long, value_name = "NUMBER", value_parser = sessions)]
    sessions: Option<Limit<NonZeroU32>>,
    /// Bytes a second that all its sessions together may read, such as 20M, or `none`
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    read_rate: Option<Limit<NonZeroU64>>,
    /// Bytes a second that all its sessions together may write, or `none`
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    write_rate: Option<Limit<NonZeroU64>>,
}

#[derive(Debug, Clone, Copy)]
enum Limit<T> {
    None,
    At(T),
}

impl<T> Limit<T> {
    fn into_option(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::At(limit) => Some(limit),
        }
    }
}

impl LimitArgs {
    pub(super) fn apply_to(self, limits: AccountLimits) -> AccountLimits {
        AccountLimits {
            sessions: self.sessions.map_or(limits.sessions, Limit::into_option),
            read_rate: self.read_rate.map_or(limits.read_rate, Limit::into_option),
            write_rate: self
                .write_rate
                .map_or(limits.write_rate, Limit::into_option),
        }
    }
}

fn sessions(text: &str) -> Result<Limit<NonZeroU32>, String> {
    if text == "none" {
        return Ok(Limit::None);
    }
    text.parse()
        .map(Limit::At)
        .map_err(|_| "expected a number from 1 on, or none".to_owned())
}

fn rate(text: &str) -> Result<Limit<NonZeroU64>, RateError> {
    if text == "none" {
        return Ok(Limit::None);
    }
    mounts::parse_rate(text).map(Limit::At)
}
