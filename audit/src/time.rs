//! Times and periods as people write them.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Days, Months, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a time: write 2026-11-22T23:00:00Z, 2026-11-22, or how long ago, such as 90m, 12h or 7d"
)]
pub struct TimeError {
    text: String,
}

/// Why a text is no period.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a period: write 2026-11, 2026-11-01..2026-11-30 (both days included), or 7d for the last seven days"
)]
pub struct PeriodError {
    text: String,
}

/// A time, or how long before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    At(DateTime<Utc>),
    /// Midnight at its beginning.
    Day(NaiveDate),
    Ago(TimeDelta),
}

impl Moment {
    /// The first instant that is meant.
    pub fn begin(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(time) => time,
            Self::Day(day) => midnight(day),
            Self::Ago(span) => now - span,
        }
    }

    /// The first instant after what is meant: a day counts as a whole.
    pub fn end(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(time) => time,
            Self::Day(day) => midnight(next_day(day)),
            Self::Ago(span) => now - span,
        }
    }
}

impl FromStr for Moment {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(time.to_utc()));
        }
        if let Ok(day) = text.parse() {
            return Ok(Self::Day(day));
        }
        span(text).map(Self::Ago).ok_or_else(|| TimeError {
            text: text.chars().take(64).collect(),
        })
    }
}

/// A stretch of time, its end excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// A period as it was asked for; what it means may depend on the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Fixed(Period),
    Last(TimeDelta),
}

impl Asked {
    /// From when until when.
    pub fn at(self, now: DateTime<Utc>) -> Period {
        match self {
            Self::Fixed(period) => period,
            Self::Last(span) => Period {
                from: now - span,
                until: now,
            },
        }
    }
}

impl FromStr for Asked {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let wrong = || PeriodError {
            text: text.chars().take(64).collect(),
        };
        if let Some(span) = span(text) {
            return Ok(Self::Last(span));
        }
        let day = |text: &str| text.parse::<NaiveDate>().map_err(|_| wrong());
        let (first, after) = if let Some((first, last)) = text.split_once("..") {
            (day(first)?, next_day(day(last)?))
        } else if text.len() == "2026-11".len() {
            let first = day(&format!("{text}-01"))?;
            (first, first + Months::new(1))
        } else {
            let day = day(text)?;
            (day, next_day(day))
        };
        if first >= after {
            return Err(wrong());
        }
        Ok(Self::Fixed(Period {
            from: midnight(first),
            until: midnight(after),
        }))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", shown(self.from), shown(self.until))
    }
}

/// As records write it, so that the two compare as texts.
pub fn as_recorded(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

fn next_day(day: NaiveDate) -> NaiveDate {
    day.checked_add_days(Days::new(1)).unwrap_or(NaiveDate::MAX)
}

fn span(text: &str) -> Option<TimeDelta> {
    let unit = text.chars().next_back()?;
    let number: u16 = text.strip_suffix(unit)?.parse().ok()?;
    let number = i64::from(number);
    match unit {
        's' => Some(TimeDelta::seconds(number)),
        'm' => Some(TimeDelta::minutes(number)),
        'h' => Some(TimeDelta::hours(number)),
        'd' => Some(TimeDelta::days(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn a_day_begins_at_midnight_and_as_an_end_counts_as_a_whole() {
        let now = at("2026-11-22T12:00:00Z");
        let day: Moment = "2026-11-20".parse().unwrap();
        assert_eq!(day.begin(now), at("2026-11-20T00:00:00Z"));
        assert_eq!(day.end(now), at("2026-11-21T00:00:00Z"));
        let ago: Moment = "90m".parse().unwrap();
        assert_eq!(ago.begin(now), at("2026-11-22T10:30:00Z"));
        let zoned: Moment = "2026-11-22T01:00:00+01:00".parse().unwrap();
        assert_eq!(zoned.begin(now), at("2026-11-22T00:00:00Z"));
        for wrong in [
            "",
            "d",
            "-4h",
            "yesterday",
            "2026-13-01",
            "99999999h",
            "4\u{e4}",
        ] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_period_is_a_month_days_or_a_span_up_to_now() {
        let now = at("2026-11-22T12:00:00Z");
        for (text, from, until) in [
            ("2026-11", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("2026-12", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (
                "2026-11-01..2026-11-30",
                "2026-11-01T00:00:00Z",
                "2026-12-01T00:00:00Z",
            ),
            ("2026-11-05", "2026-11-05T00:00:00Z", "2026-11-06T00:00:00Z"),
            ("7d", "2026-11-15T12:00:00Z", "2026-11-22T12:00:00Z"),
        ] {
            let asked: Asked = text.parse().unwrap();
            let expected = Period {
                from: at(from),
                until: at(until),
            };
            assert_eq!(asked.at(now), expected, "{text}");
        }
        for wrong in [
            "2026-13",
            "2026-11-30..2026-11-01",
            "2026-11-01..",
            "november",
            "..",
            "",
        ] {
            assert!(wrong.parse::<Asked>().is_err(), "{wrong:?}");
        }
    }
}
