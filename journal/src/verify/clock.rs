//! Times that do not rise.

use super::follow::Claim;

/// Notices that are kept.
const MOST_NOTICES: usize = 10;

/// So much may lie between the two readings of a record's time, in microseconds.
const SLACK: i64 = 1_000_000;

/// The clocks of the host, as the records tell.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// What the wall clock was ahead of the clock since boot, in microseconds, at its highest since the last step back.
    ahead: Option<i64>,
    notices: Vec<String>,
}

impl Clock {
    /// Takes in the next record. True if the clock since boot fell, which no journal writes.
    pub(super) fn fell(&mut self, claim: &Claim, before: Option<&Claim>) -> bool {
        let same_boot = before.filter(|before| before.boot_id == claim.boot_id);
        let fell = same_boot.is_some_and(|before| claim.mono_ns < before.mono_ns);
        if same_boot.is_none() || fell {
            self.ahead = None;
        }
        let ahead = micros(&claim.time)
            .map(|time| time.saturating_sub(i64::try_from(claim.mono_ns / 1000).unwrap_or(0)));
        let step = match (self.ahead, ahead) {
            (Some(highest), Some(ahead)) => highest.saturating_sub(ahead),
            (None, _) | (_, None) => 0,
        };
        self.ahead = match (self.ahead, ahead) {
            (Some(highest), Some(ahead)) if step <= SLACK => Some(highest.max(ahead)),
            (known, ahead) => ahead.or(known),
        };
        // Times of one format sort as text.
        let went_back = before.filter(|before| claim.time < before.time);
        let notice = if step > SLACK {
            Some(format!(
                "the clock was set back before record {}: by {} s against the clock since boot, to {}",
                claim.seq,
                step / 1_000_000,
                claim.time
            ))
        } else {
            went_back.map(|before| {
                format!(
                    "the clock went back before record {}: {} after {}",
                    claim.seq, claim.time, before.time
                )
            })
        };
        if let Some(notice) = notice.filter(|_| self.notices.len() < MOST_NOTICES) {
            self.notices.push(notice);
        }
        fell
    }

    pub(super) fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}

/// Microseconds since 1970 of `2026-11-22T01:02:03.000004Z`; `None` for any other form.
fn micros(time: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = time.as_bytes().get(from..to)?;
        digits.iter().try_fold(0, |number: i64, &digit| {
            digit
                .is_ascii_digit()
                .then(|| number * 10 + i64::from(digit - b'0'))
        })
    };
    if time.len() != 27 || !time.ends_with('Z') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days from 1970-01-01 in years that begin in March, so that the leap day is the last.
    let (years, months) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (months * 153 + 2) / 5 + day
        - 719_469;
    let seconds = ((days * 24 + number(11, 13)?) * 60 + number(14, 16)?) * 60 + number(17, 19)?;
    Some(seconds * 1_000_000 + number(20, 26)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_calendar_has_them() {
        for seconds in [
            0_i64,
            951_782_399,
            951_868_800,
            1_700_000_000,
            4_107_542_399,
        ] {
            let time = chrono::DateTime::from_timestamp(seconds, 7000).unwrap();
            let text = time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            assert_eq!(micros(&text), Some(seconds * 1_000_000 + 7), "{text}");
        }
        assert_eq!(micros("2026-11-22T01:02:03Z"), None);
        assert_eq!(micros("2026-11-22Tx1:02:03.000004Z"), None);
    }
}
