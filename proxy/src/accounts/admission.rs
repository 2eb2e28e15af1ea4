//! [`admission`]: may an account be used at this time, from this place? Asked at each step of a login, and again while
//! its sessions live.

use std::{net::IpAddr, num::NonZeroU32, str::FromStr, time::Duration};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use ipnet::IpNet;
use portcullis_journal::AccountKind;

use super::{hours::AllowedHours, machine::Control};

/// How long an account may lie unused unless something else is said (NIST SP 800-53, AC-2(3)).
pub const IDLE_DAYS: u32 = 90;
/// How long a transfer may go on after the hours have ended.
pub const HOURS_GRACE: Duration = Duration::from_secs(300);

/// What narrows the use of an account, as its administrator set it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restrictions {
    /// The last day, UTC.
    pub expires: Option<NaiveDate>,
    /// After so many days without a login there are none; `None` as the configuration has it.
    pub idle_days: Option<NonZeroU32>,
    /// `None` is at any time.
    pub hours: Option<AllowedHours>,
    /// None is from anywhere.
    pub sources: Vec<IpNet>,
}

/// What holds for accounts that don't say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountDefaults {
    /// `None` is for ever.
    pub idle_days: Option<NonZeroU32>,
    /// Sessions at a time; `None` is any number.
    pub sessions: Option<NonZeroU32>,
    /// How long a session with a transfer under way may go on after the hours have ended.
    pub hours_grace: Duration,
}

impl Default for AccountDefaults {
    fn default() -> Self {
        Self {
            idle_days: NonZeroU32::new(IDLE_DAYS),
            sessions: None,
            hours_grace: HOURS_GRACE,
        }
    }
}

/// An enabled account, as far as it is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Grows whenever something is taken from the account.
    pub epoch: i64,
    /// Grows whenever windows that are open are to be forgotten.
    pub window_era: i64,
    pub kind: AccountKind,
    pub restrictions: Restrictions,
    /// The last login, or when the account was made or enabled, whichever was later.
    pub last_used: DateTime<Utc>,
    /// Of a break-glass account: from when until when it is open; `None` is sealed.
    pub open: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// The rule that keeps an account out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    Expired,
    Idle,
    Hours,
    Source,
    /// A break-glass account that is not open.
    Sealed,
    /// A machine account under the policy `machine` lacks what makes up for a second factor.
    Machine(Control),
}

impl Refusal {
    /// The code in records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Expired => "account_expired",
            Self::Idle => "account_idle",
            Self::Hours => "outside_hours",
            Self::Source => "source_not_allowed",
            Self::Sealed => "break_glass_sealed",
            Self::Machine(control) => control.code(),
        }
    }
}

/// Decides whether the account may log in from `source`.
///
/// # Errors
/// The first rule that refuses it.
pub fn admission(
    standing: &Standing,
    defaults: &AccountDefaults,
    source: IpAddr,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    stay(standing, source, now)?;
    let hours = standing.restrictions.hours.as_ref();
    if hours.is_some_and(|hours| !hours.allow(now)) {
        return Err(Refusal::Hours);
    }
    if is_idle(standing, defaults, now) {
        return Err(Refusal::Idle);
    }
    Ok(())
}

/// True if the account lay unused for longer than it may.
pub fn is_idle(standing: &Standing, defaults: &AccountDefaults, now: DateTime<Utc>) -> bool {
    let days = match standing.kind {
        // Nobody logs in to it for years, and then it has to work.
        AccountKind::BreakGlass => None,
        AccountKind::Human | AccountKind::Machine | AccountKind::Admin => {
            standing.restrictions.idle_days.or(defaults.idle_days)
        }
    };
    let idle_for = now.signed_duration_since(standing.last_used);
    days.is_some_and(|days| idle_for > TimeDelta::days(i64::from(days.get())))
}

/// True if the account's last day has passed.
pub fn is_expired(standing: &Standing, now: DateTime<Utc>) -> bool {
    let last = standing.restrictions.expires;
    last.is_some_and(|last| now.date_naive() > last)
}

/// Decides whether a session from `source` may go on at all. That its hours have ended is another matter: then it may
/// finish what it does.
///
/// # Errors
/// The first rule that refuses it.
pub fn stay(standing: &Standing, source: IpAddr, now: DateTime<Utc>) -> Result<(), Refusal> {
    if is_expired(standing, now) {
        return Err(Refusal::Expired);
    }
    let is_open = standing
        .open
        .is_some_and(|(from, until)| from <= now && now < until);
    if standing.kind == AccountKind::BreakGlass && !is_open {
        return Err(Refusal::Sealed);
    }
    let source = source.to_canonical();
    let sources = &standing.restrictions.sources;
    if !sources.is_empty() && !sources.iter().any(|network| network.contains(&source)) {
        return Err(Refusal::Source);
    }
    Ok(())
}

/// A network from which an account may be used: an address, or CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceNetwork(pub IpNet);

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("{text:?} is not a network such as 192.0.2.0/24 or 2001:db8::/32")]
    NotANetwork { text: String },
    #[error(
        "{network} has bits set behind the prefix; write {} for the network or {} for the address",
        network.trunc(), network.addr()
    )]
    HostBits { network: IpNet },
}

impl FromStr for SourceNetwork {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(address.to_canonical())));
        }
        let network: IpNet = text.parse().map_err(|_| SourceError::NotANetwork {
            text: text.to_owned(),
        })?;
        if network.addr() == network.network() {
            Ok(Self(network))
        } else {
            Err(SourceError::HostBits { network })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Standing {
        Standing {
            epoch: 0,
            window_era: 0,
            kind: AccountKind::Human,
            restrictions: Restrictions::default(),
            last_used: at("2026-11-20T12:00:00Z"),
            open: None,
        }
    }

    fn with(restrictions: Restrictions) -> Standing {
        Standing {
            restrictions,
            ..standing()
        }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn asked(standing: &Standing, source: &str, now: &str) -> Result<(), Refusal> {
        let defaults = AccountDefaults::default();
        admission(standing, &defaults, source.parse().unwrap(), at(now))
    }

    #[test]
    fn an_account_is_good_through_its_last_day() {
        let expires = with(Restrictions {
            expires: Some(NaiveDate::from_ymd_opt(2026, 11, 30).unwrap()),
            ..Restrictions::default()
        });
        assert_eq!(asked(&expires, "192.0.2.1", "2026-11-30T23:59:59Z"), Ok(()));
        assert_eq!(
            asked(&expires, "192.0.2.1", "2026-12-01T00:00:00Z"),
            Err(Refusal::Expired)
        );
    }

    #[test]
    fn an_account_may_be_idle_for_its_own_days_or_those_of_the_server_and_break_glass_for_ever() {
        let own = |days| {
            with(Restrictions {
                idle_days: NonZeroU32::new(days),
                ..Restrictions::default()
            })
        };
        for (account, days) in [(standing(), 90), (own(7), 7), (own(400), 400)] {
            let last = account.last_used + TimeDelta::days(days);
            let source = "192.0.2.1".parse().unwrap();
            let defaults = AccountDefaults::default();
            assert_eq!(admission(&account, &defaults, source, last), Ok(()));
            let after = last + TimeDelta::seconds(1);
            assert_eq!(
                admission(&account, &defaults, source, after),
                Err(Refusal::Idle)
            );
            let open = Standing {
                kind: AccountKind::BreakGlass,
                open: Some((after, after + TimeDelta::hours(1))),
                ..account
            };
            assert_eq!(admission(&open, &defaults, source, after), Ok(()));
            let sealed = Standing { open: None, ..open };
            assert_eq!(
                admission(&sealed, &defaults, source, after),
                Err(Refusal::Sealed)
            );
        }
    }

    #[test]
    fn a_source_is_compared_with_each_network_whatever_form_the_address_has() {
        let pinned = with(Restrictions {
            sources: vec![
                "192.0.2.0/28".parse().unwrap(),
                "2001:db8::7/128".parse().unwrap(),
            ],
            ..Restrictions::default()
        });
        let now = "2026-11-20T12:00:00Z";
        for good in ["192.0.2.15", "::ffff:192.0.2.1", "2001:db8::7"] {
            assert_eq!(asked(&pinned, good, now), Ok(()), "{good}");
        }
        for bad in ["192.0.2.16", "::ffff:192.0.2.16", "2001:db8::8", "::1"] {
            assert_eq!(asked(&pinned, bad, now), Err(Refusal::Source), "{bad}");
        }
        assert_eq!(asked(&standing(), "203.0.113.9", now), Ok(()));
    }

    #[test]
    fn the_end_of_the_hours_keeps_logins_out_and_lets_a_session_finish() {
        let office = with(Restrictions {
            hours: Some("Mon-Fri 07:00-19:00".parse().unwrap()),
            ..Restrictions::default()
        });
        assert_eq!(asked(&office, "::1", "2026-11-20T18:59:59Z"), Ok(()));
        let after = "2026-11-20T19:00:00Z";
        assert_eq!(asked(&office, "::1", after), Err(Refusal::Hours));
        assert_eq!(stay(&office, "::1".parse().unwrap(), at(after)), Ok(()));
    }

    #[test]
    fn a_clock_that_jumps_back_makes_nobody_idle() {
        assert_eq!(asked(&standing(), "::1", "1970-01-01T00:00:00Z"), Ok(()));
    }

    #[test]
    fn a_network_has_no_bits_behind_its_prefix() {
        let parse = |text: &str| {
            text.parse::<SourceNetwork>()
                .map(|network| network.0.to_string())
        };
        assert_eq!(parse("192.0.2.0/24").unwrap(), "192.0.2.0/24");
        assert_eq!(parse("192.0.2.7").unwrap(), "192.0.2.7/32");
        assert_eq!(parse("::ffff:192.0.2.7").unwrap(), "192.0.2.7/32");
        assert!(matches!(
            parse("192.0.2.7/24"),
            Err(SourceError::HostBits { .. })
        ));
        assert!(matches!(
            parse("192.0.2"),
            Err(SourceError::NotANetwork { .. })
        ));
    }
}
