//! [`AllowedHours`]: the hours of the week in which an account may log in.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Datelike as _, NaiveTime, Timelike as _, Utc, Weekday};
use chrono_tz::Tz;

const MINUTES_A_DAY: u16 = 24 * 60;

/// Windows of the week, in the local time of one zone: `Mon-Fri 07:00-19:00, Sat 08:00-12:00 Europe/Berlin`.
///
/// A window that ends before it begins ends on the next day. Where the clocks change, a window is as long as they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHours {
    windows: Vec<Window>,
    zone: Tz,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    first: Weekday,
    last: Weekday,
    /// Minutes after midnight: 0 to 1439.
    from: u16,
    /// 1 to 1440; not equal to `from`.
    until: u16,
}

/// Why a text does not say which hours are allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{problem}; expected hours such as \"Mon-Fri 07:00-19:00, Sat 08:00-12:00 Europe/Berlin\" (UTC without a zone)"
)]
pub struct HoursError {
    problem: String,
}

impl AllowedHours {
    /// True if `now` lies in one of the windows.
    pub fn allow(&self, now: DateTime<Utc>) -> bool {
        let local = now.with_timezone(&self.zone);
        let minute = u16::try_from(local.hour() * 60 + local.minute()).unwrap_or(MINUTES_A_DAY - 1);
        let today = local.weekday();
        self.windows
            .iter()
            .any(|window| window.holds(today, minute))
    }
}

impl Window {
    fn holds(&self, today: Weekday, minute: u16) -> bool {
        if self.from < self.until {
            self.is_day(today) && (self.from..self.until).contains(&minute)
        } else {
            (self.is_day(today) && minute >= self.from)
                || (self.is_day(today.pred()) && minute < self.until)
        }
    }

    fn is_day(&self, day: Weekday) -> bool {
        day.days_since(self.first) <= self.last.days_since(self.first)
    }
}

impl FromStr for AllowedHours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        let mut zone = Tz::UTC;
        let mut windows = Vec::new();
        let mut parts = text.split(',').peekable();
        while let Some(part) = parts.next() {
            let mut words = part.split_whitespace();
            let (Some(days), Some(times)) = (words.next(), words.next()) else {
                return Err(wrong(format!("{:?} is not days and times", part.trim())));
            };
            windows.push(window(days, times)?);
            if let Some(name) = words.next() {
                let is_last = parts.peek().is_none() && words.next().is_none();
                zone = name
                    .parse()
                    .ok()
                    .filter(|_| is_last)
                    .ok_or_else(|| wrong(format!("{name:?} is not a time zone at the end")))?;
            }
        }
        Ok(Self { windows, zone })
    }
}

fn window(days: &str, times: &str) -> Result<Window, HoursError> {
    let (first, last) = days.split_once('-').unwrap_or((days, days));
    let (first, last) = day(first).zip(day(last)).ok_or_else(|| {
        wrong(format!(
            "{days:?} is not a day such as Mon or days such as Mon-Fri"
        ))
    })?;
    let (from, until) = times
        .split_once('-')
        .and_then(|(from, until)| minute(from).zip(minute(until)))
        .filter(|(from, until)| from != until && *from < MINUTES_A_DAY)
        .ok_or_else(|| wrong(format!("{times:?} is not a time such as 07:00-19:00")))?;
    Ok(Window {
        first,
        last,
        from,
        // Up to midnight, which is the next day's 00:00.
        until: if until == 0 { MINUTES_A_DAY } else { until },
    })
}

fn day(name: &str) -> Option<Weekday> {
    let days = [
        Weekday::Mon,
        Weekday::Tue,
        Weekday::Wed,
        Weekday::Thu,
        Weekday::Fri,
        Weekday::Sat,
        Weekday::Sun,
    ];
    days.into_iter()
        .find(|day| day.to_string().eq_ignore_ascii_case(name))
}

/// `HH:MM`, to `24:00`.
fn minute(text: &str) -> Option<u16> {
    if text == "24:00" {
        return Some(MINUTES_A_DAY);
    }
    if text.len() != 5 {
        return None;
    }
    let time = NaiveTime::parse_from_str(text, "%H:%M").ok()?;
    u16::try_from(time.hour() * 60 + time.minute()).ok()
}

fn wrong(problem: String) -> HoursError {
    HoursError { problem }
}

impl fmt::Display for AllowedHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, window) in self.windows.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            window.fmt(f)?;
        }
        write!(f, " {}", self.zone.name())
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            first,
            last,
            from,
            until,
        } = self;
        write!(f, "{first}")?;
        if first != last {
            write!(f, "-{last}")?;
        }
        write!(
            f,
            " {:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            until / 60,
            until % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(text: &str) -> AllowedHours {
        text.parse().unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_begins_with_its_first_minute_and_ends_before_its_last() {
        // 2026-11-20 is a Friday.
        let office = hours("Mon-Fri 07:00-19:00");
        for (time, allowed) in [
            ("2026-11-20T06:59:59Z", false),
            ("2026-11-20T07:00:00Z", true),
            ("2026-11-20T18:59:59Z", true),
            ("2026-11-20T19:00:00Z", false),
            ("2026-11-21T12:00:00Z", false),
            ("2026-11-23T07:00:00Z", true),
        ] {
            assert_eq!(office.allow(at(time)), allowed, "{time}");
        }
    }

    #[test]
    fn the_zone_decides_also_when_its_clocks_change() {
        let berlin = hours("Mon-Fri 07:00-19:00 Europe/Berlin");
        // Winter: UTC+1. Summer: UTC+2.
        assert!(berlin.allow(at("2026-11-20T06:00:00Z")));
        assert!(!berlin.allow(at("2026-11-20T05:59:59Z")));
        assert!(berlin.allow(at("2026-07-17T05:00:00Z")));
        assert!(!berlin.allow(at("2026-07-17T17:00:00Z")));
        assert!(berlin.allow(at("2026-11-20T17:59:59Z")));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let night = hours("Fri 22:00-06:00");
        assert!(night.allow(at("2026-11-20T22:00:00Z")));
        assert!(night.allow(at("2026-11-21T05:59:59Z")));
        assert!(!night.allow(at("2026-11-21T06:00:00Z")));
        assert!(!night.allow(at("2026-11-20T05:00:00Z")));
        assert!(!night.allow(at("2026-11-21T22:00:00Z")));
        let weekend = hours("Fri-Mon 00:00-24:00");
        assert!(weekend.allow(at("2026-11-22T23:59:59Z")));
        assert!(!weekend.allow(at("2026-11-24T00:00:00Z")));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "Mon-Fri 07:00-19:00 UTC",
            "Mon-Fri 07:00-19:00, Sat 08:00-12:00 Europe/Berlin",
            "Sun-Thu 22:30-00:15 Asia/Jerusalem",
            "Mon-Sun 00:00-24:00 America/New_York",
        ] {
            assert_eq!(hours(text).to_string(), text);
        }
        assert_eq!(
            hours(" mon 07:00-00:00 ").to_string(),
            "Mon 07:00-24:00 UTC"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "Mon-Fri",
            "07:00-19:00",
            "Mon 7:00-19:00",
            "Mon 07:00",
            "Mon 07:00-07:00",
            "Mon 24:00-06:00",
            "Mon 07:00-25:00",
            "Mon 07:60-08:00",
            "Workdays 07:00-19:00",
            "Mon 07:00-19:00 Europe/Nowhere",
            "Mon 07:00-19:00 Europe/Berlin UTC",
            "Mon 07:00-19:00 UTC, Tue 07:00-19:00",
            "Mon 07:00-19:00,",
        ] {
            assert!(text.parse::<AllowedHours>().is_err(), "{text:?}");
        }
    }
}
