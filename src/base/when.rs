//! Moments and spans of time as people say them.

use tz::{DateTime, TimeZone, UtcDateTime};

/// Returns a moment (milliseconds since 1970) in this machine's time zone: `Fri 2027-01-15 09:05 CET`.
pub fn moment(ms: u64) -> String {
    at(ms).map_or_else(|| format!("{ms} ms after 1970"), |at| written(&at))
}

/// Returns the day of a moment: `2027-01-15`.
pub fn day(ms: u64) -> String {
    at(ms).map_or_else(String::new, |at| date(&at))
}

/// Returns a moment to the millisecond, as [`parse`] takes it: `2027-01-15T09:05:00.123`.
pub fn exact(ms: u64) -> String {
    let written = |at: &DateTime| {
        let (hour, minute, second) = (at.hour(), at.minute(), at.second());
        let ms = ms % 1_000;
        format!("{}T{hour:02}:{minute:02}:{second:02}.{ms:03}", date(at))
    };
    at(ms).map_or_else(|| ms.to_string(), |at| written(&at))
}

/// Returns the moment that a text names in this machine's time zone, to the last millisecond of what it
/// leaves out: a day, or a day and a time, as [`exact`] writes it; with a `Z` at its end, of Greenwich.
pub fn parse(text: &str) -> Option<u64> {
    if let Some(text) = text.strip_suffix('Z') {
        return parse_in(text, &TimeZone::utc());
    }
    let zone = TimeZone::local().unwrap_or_else(|_| TimeZone::utc());
    parse_in(text, &zone)
}

fn parse_in(text: &str, zone: &TimeZone) -> Option<u64> {
    let (day, time) = match text.split_once(['T', ' ']) {
        Some((day, time)) => (day, Some(time)),
        None => (text, None),
    };
    let mut parts = day.splitn(3, '-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let (year, month): (i32, u8) = (year.parse().ok()?, month.parse().ok()?);
    let day: u8 = day.parse().ok()?;
    let (mut clock, mut ms) = ([23u8, 59, 59], 999);
    if let Some(time) = time {
        let (time, part) = match time.split_once('.') {
            Some((time, part)) => (time, Some(part)),
            None => (time, None),
        };
        for (at, part) in clock.iter_mut().zip(time.splitn(3, ':')) {
            *at = part.parse().ok()?;
        }
        if let Some(part) = part {
            let digits = part.len().min(3);
            let number: u64 = part.get(..digits)?.parse().ok()?;
            let unit = 10u64.pow(3 - u32::try_from(digits).ok()?);
            ms = number * unit + unit - 1;
        }
    }
    let [hour, minute, second] = clock;
    let utc = UtcDateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    // The offset of the moment, found from that of nearly the same one.
    let mut unix = utc.unix_time();
    for _ in 0..2 {
        let kind = zone.as_ref().find_local_time_type(unix).ok()?;
        unix = utc.unix_time() - i64::from(kind.ut_offset());
    }
    let seconds = u64::try_from(unix).ok()?;
    Some(seconds * 1_000 + ms)
}

fn at(ms: u64) -> Option<DateTime> {
    let zone = TimeZone::local().unwrap_or_else(|_| TimeZone::utc());
    at_in(ms, &zone)
}

fn at_in(ms: u64, zone: &TimeZone) -> Option<DateTime> {
    let seconds = i64::try_from(ms / 1_000).ok()?;
    DateTime::from_timespec(seconds, 0, zone.as_ref()).ok()
}

fn date(at: &DateTime) -> String {
    format!("{:04}-{:02}-{:02}", at.year(), at.month(), at.month_day())
}

fn written(at: &DateTime) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let day = DAYS.get(usize::from(at.week_day())).copied();
    // The zone that is nobody's has no letters.
    let zone = match at.local_time_type().time_zone_designation() {
        "" => "UTC",
        zone => zone,
    };
    format!(
        "{} {} {:02}:{:02} {zone}",
        day.unwrap_or_default(),
        date(at),
        at.hour(),
        at.minute(),
    )
}

/// Returns a span of time in its two greatest units: `6 days 23 h`, `24 h`, `59 min`.
pub fn span(ms: u64) -> String {
    // Rounded: what was just begun is not a second short.
    let minutes = (ms + 30_000) / 60_000;
    let (days, hours) = (minutes / 1_440, minutes / 60);
    let and = |rest: u64, what: &str| match rest {
        0 => String::new(),
        rest => format!(" {rest} {what}"),
    };
    match () {
        () if hours >= 48 => format!("{days} days{}", and(hours % 24, "h")),
        () if hours >= 1 => format!("{hours} h{}", and(minutes % 60, "min")),
        () if minutes >= 1 => format!("{minutes} min"),
        () => format!("{} s", ms / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_their_zone() {
        let said = |ms| written(&at_in(ms, &TimeZone::utc()).unwrap());
        assert_eq!(said(0), "Thu 1970-01-01 00:00 UTC");
        assert_eq!(said(1_800_000_000_000), "Fri 2027-01-15 08:00 UTC");
        assert!(moment(1_800_000_000_000).contains("2027-01-1"));
        assert!(!moment(u64::MAX).is_empty());
    }

    #[test]
    fn moments_are_read_as_they_are_written() {
        let utc = TimeZone::utc();
        let said = |text| parse_in(text, &utc);
        assert_eq!(said("1970-01-02"), Some(2 * 86_400_000 - 1));
        assert_eq!(said("1970-01-01T00:00:01.5"), Some(1_599));
        assert_eq!(said("1970-01-01T00:00:01.500"), Some(1_500));
        assert_eq!(said("1970-01-01 01:00"), Some(3_600_000 + 59_999));
        assert_eq!(said("2027-01-15T08:00:00.000"), Some(1_800_000_000_000));
        for text in [
            "",
            "now",
            "1970-13-01",
            "1970-01-01T25:00",
            "1970-01",
            "a-b-c",
        ] {
            assert_eq!(said(text), None, "{text}");
        }
        let ms = 1_800_000_000_123;
        assert_eq!(parse(&exact(ms)), Some(ms));
        assert_eq!(parse("2027-01-15T08:00:00.123Z"), Some(ms));
    }

    #[test]
    fn spans_are_said_in_two_units() {
        for (ms, said) in [
            (500, "0 s"),
            (20_000, "20 s"),
            (59 * 60_000, "59 min"),
            (86_399_999, "24 h"),
            (90 * 60_000, "1 h 30 min"),
            (7 * 86_400_000 - 60_000, "6 days 23 h"),
            (7 * 86_400_000, "7 days"),
        ] {
            assert_eq!(span(ms), said);
        }
    }
}
