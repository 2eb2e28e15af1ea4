//! `account set`: who answers for an account, and what narrows its use.

use std::{num::NonZeroU32, str::FromStr};

use chrono::NaiveDate;
use clap::Args;
use ipnet::IpNet;

use crate::accounts::{
    admission::{SourceError, SourceNetwork},
    hours::{AllowedHours, HoursError},
    restrictions::Changes,
};

/// What to change; what is not named stays.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct SetArgs {
    /// Who answers for the account, or `none`
    #[arg(long, value_name = "TEXT", value_parser = owner)]
    owner: Option<Setting<String>>,
    /// Last day on which it can be used, UTC, as YYYY-MM-DD, or `none`
    #[arg(long, value_name = "DATE", value_parser = date)]
    expires: Option<Setting<NaiveDate>>,
    /// When it can be used, such as "Mon-Fri 07:00-19:00, Sat 08:00-12:00 Europe/Berlin", or `none`
    #[arg(long, value_name = "HOURS", value_parser = hours)]
    hours: Option<Setting<AllowedHours>>,
    /// Networks or addresses from which it can be used, in place of those before, or `none` for any
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',', value_parser = source)]
    source: Option<Vec<Setting<IpNet>>>,
    /// Days without a login after which it can't be used, or `none` for those of the configuration
    #[arg(long, value_name = "DAYS", value_parser = days)]
    idle_days: Option<Setting<NonZeroU32>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Setting<T> {
    None,
    To(T),
}

impl<T> Setting<T> {
    fn into_option(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::To(value) => Some(value),
        }
    }
}

impl SetArgs {
    pub(super) fn into_changes(self) -> Changes {
        Changes {
            owner: self.owner.map(Setting::into_option),
            expires: self.expires.map(Setting::into_option),
            idle_days: self.idle_days.map(Setting::into_option),
            hours: self.hours.map(Setting::into_option),
            sources: self.source.map(|sources| {
                let sources = sources.into_iter();
                sources.filter_map(Setting::into_option).collect()
            }),
        }
    }
}

fn setting<T: FromStr>(text: &str) -> Result<Setting<T>, T::Err> {
    if text == "none" {
        Ok(Setting::None)
    } else {
        text.parse().map(Setting::To)
    }
}

fn owner(text: &str) -> Result<Setting<String>, String> {
    if text.trim().is_empty() {
        return Err("expected a name, or none".to_owned());
    }
    Ok(if text == "none" {
        Setting::None
    } else {
        Setting::To(text.to_owned())
    })
}

fn date(text: &str) -> Result<Setting<NaiveDate>, String> {
    setting(text).map_err(|_| "expected a day as YYYY-MM-DD, or none".to_owned())
}

fn hours(text: &str) -> Result<Setting<AllowedHours>, HoursError> {
    setting(text)
}

fn source(text: &str) -> Result<Setting<IpNet>, SourceError> {
    Ok(match setting::<SourceNetwork>(text)? {
        Setting::None => Setting::None,
        Setting::To(SourceNetwork(network)) => Setting::To(network),
    })
}

fn days(text: &str) -> Result<Setting<NonZeroU32>, String> {
    setting(text).map_err(|_| "expected a number of days from 1 on, or none".to_owned())
}
