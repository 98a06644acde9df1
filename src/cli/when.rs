//! Moments and spans of time as people say them.

use tz::{DateTime, TimeZone};

/// Returns a moment (milliseconds since 1970) in this machine's time zone: `Fri 2027-01-15 09:05 CET`.
pub(super) fn moment(ms: u64) -> String {
    at(ms).map_or_else(|| format!("{ms} ms after 1970"), |at| written(&at))
}

/// Returns the day of a moment: `2027-01-15`.
pub(super) fn day(ms: u64) -> String {
    at(ms).map_or_else(String::new, |at| date(&at))
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
pub(super) fn span(ms: u64) -> String {
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
