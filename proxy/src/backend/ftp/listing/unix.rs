//! LIST as `ls -l` prints it.

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime};

use super::{Line, entry, number, seconds, word};
use crate::operation::Attributes;

const MONTHS: [&[u8]; 12] = [
    b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec",
];

/// `drwxr-xr-x 2 owner group 4096 Jan 31 12:34 name`. Link count, owner and group may be missing or be several words;
/// the date is what the rest is found by.
pub(super) fn parse(line: &[u8], now: NaiveDateTime) -> Option<Line> {
    let (mode, rest) = word(line)?;
    let mode = permissions(mode)?;
    let mut before: Vec<&[u8]> = Vec::new();
    let mut rest = rest;
    loop {
        if let Some(&size) = before.last()
            && let Some((modified, name)) = date(rest, now)
            && let Some(size) = number::<u64>(size)
        {
            return Some(finish(mode, size, &before, modified, name));
        }
        let (next, following) = word(rest)?;
        before.push(next);
        rest = following;
        if before.len() > 12 {
            return None;
        }
    }
}

fn finish(mode: u32, size: u64, before: &[&[u8]], modified: NaiveDateTime, name: &[u8]) -> Line {
    let mut name = name;
    if mode & Attributes::TYPE_MASK == Attributes::SYMLINK
        && let Some(arrow) = name.windows(4).position(|window| window == b" -> ")
    {
        name = name.get(..arrow).unwrap_or_default();
    }
    let owner = match before {
        [_, user, group, _] => number(user).zip(number(group)),
        _ => None,
    };
    entry(
        name,
        Attributes {
            size: Some(size),
            owner,
            permissions: Some(mode),
            times: seconds(modified).map(|time| (time, time)),
            is_interrupted: false,
            is_foreign: false,
        },
    )
}

/// `-rw-r--r--`, with the marks of access control lists (`+`, `.`, `@`) that some append.
fn permissions(word: &[u8]) -> Option<u32> {
    let (kind, bits) = word.split_first()?;
    let kind = match kind {
        b'-' => Attributes::REGULAR,
        b'd' => Attributes::DIRECTORY,
        b'l' => Attributes::SYMLINK,
        b'b' => 0o060_000,
        b'c' => 0o020_000,
        b'p' => 0o010_000,
        b's' => 0o140_000,
        _ => return None,
    };
    let (bits, marks) = bits.split_at_checked(9)?;
    if marks.len() > 1 {
        return None;
    }
    let mut mode = kind;
    for (index, &letter) in bits.iter().enumerate() {
        let weight = 0o400 >> index;
        let special = match index {
            2 => 0o4000,
            5 => 0o2000,
            _ => 0o1000,
        };
        match (letter, index % 3) {
            (b'-', _) => {}
            (b'r', 0) | (b'w', 1) | (b'x', 2) => mode |= weight,
            (b's' | b't', 2) => mode |= weight | special,
            (b'S' | b'T' | b'l' | b'L', 2) => mode |= special,
            _ => return None,
        }
    }
    Some(mode)
}

/// A date at the beginning of `rest`, and the name after it. One blank separates the two; more belong to the name.
fn date(rest: &[u8], now: NaiveDateTime) -> Option<(NaiveDateTime, &[u8])> {
    let (first, rest) = word(rest)?;
    if let Some(day) = iso_date(first) {
        let (time, name) = word(rest)?;
        return Some((
            NaiveDateTime::new(day, clock(time)?),
            name.strip_prefix(b" ")?,
        ));
    }
    let (second, rest) = word(rest)?;
    let (third, name) = word(rest)?;
    let (month, day) = month(first)
        .zip(day_of_month(second))
        .or_else(|| month(second).zip(day_of_month(first)))?;
    let name = name.strip_prefix(b" ")?;
    let moment = if third.len() == 4 && third.iter().all(u8::is_ascii_digit) {
        NaiveDate::from_ymd_opt(number(third)?, month, day)?.and_time(NaiveTime::MIN)
    } else {
        within_the_last_year(month, day, clock(third)?, now)?
    };
    Some((moment, name))
}

/// `ls` leaves the year away for the last six months. A day of grace covers a server east of us.
fn within_the_last_year(
    month: u32,
    day: u32,
    time: NaiveTime,
    now: NaiveDateTime,
) -> Option<NaiveDateTime> {
    let latest = now.checked_add_days(chrono::Days::new(1))?;
    // 29 February needs up to eight years back to exist, around 1900 and 2100.
    (0..=8).find_map(|years| {
        let moment = NaiveDate::from_ymd_opt(latest.year() - years, month, day)?.and_time(time);
        (moment <= latest).then_some(moment)
    })
}

fn month(word: &[u8]) -> Option<u32> {
    let word = word.to_ascii_lowercase();
    let index = MONTHS.iter().position(|&month| month == word)?;
    u32::try_from(index + 1).ok()
}

fn day_of_month(word: &[u8]) -> Option<u32> {
    let digits = word.strip_suffix(b".").unwrap_or(word);
    number(digits).filter(|day| (1..=31).contains(day))
}

fn iso_date(word: &[u8]) -> Option<NaiveDate> {
    let text = std::str::from_utf8(word).ok()?;
    (text.len() == 10)
        .then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok())
        .flatten()
}

fn clock(word: &[u8]) -> Option<NaiveTime> {
    let text = std::str::from_utf8(word).ok()?;
    ["%H:%M", "%H:%M:%S"]
        .iter()
        .find_map(|form| NaiveTime::parse_from_str(text, form).ok())
}
