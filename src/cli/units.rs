//! Sizes, durations and addresses as people write them; parsing never does work.

use std::net::SocketAddr;
use std::time::Duration;

/// Returns the bytes of a size such as `4096`, `64K`, `10G`, `1.5TiB`; suffixes are powers of 1024.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size: write a number and K, M, G or T, like 100G");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower.get(digits.len()..).unwrap_or("") {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let unit = 1u64 << shift;
    match digits.split_once('.') {
        None => digits
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit))
            .ok_or_else(bad),
        Some((whole, fraction)) => {
            if fraction.is_empty() || fraction.len() > 9 {
                return Err(bad());
            }
            let whole: u64 = whole.parse().map_err(|_| bad())?;
            let scale = 10u64.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
            let fraction: u64 = fraction.parse().map_err(|_| bad())?;
            let part = u128::from(fraction) * u128::from(unit) / u128::from(scale);
            whole
                .checked_mul(unit)
                .and_then(|bytes| bytes.checked_add(u64::try_from(part).ok()?))
                .ok_or_else(bad)
        }
    }
}

/// Returns the duration of a text such as `30s`, `15m`, `12h`, `7d`; a bare number is seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration: write a number and s, m, h or d, like 12h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or("") {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(bad()),
    };
    let count: u64 = digits.parse().map_err(|_| bad())?;
    let seconds = count
        .checked_mul(unit)
        .filter(|s| *s <= 3650 * 86_400)
        .ok_or_else(bad)?;
    Ok(Duration::from_secs(seconds))
}

/// Returns the text unchanged where it has the form `HOST:PORT`; the name is looked up later.
pub(super) fn parse_host_port(text: &str) -> Result<String, String> {
    let bad = || format!("'{text}' is not HOST:PORT, like 192.0.2.7:4750 or [2001:db8::1]:4750");
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let odd = |c: char| c.is_whitespace() || c == '/' || c == '@';
    if port == 0 || host.is_empty() || bare_v6 || host.contains(odd) {
        return Err(bad());
    }
    Ok(text.to_owned())
}

/// Returns the socket address of `ADDR:PORT`.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is not ADDR:PORT, like 0.0.0.0:4750 or [::]:4750"))
}

/// Returns a size for people: three significant digits and a binary unit.
pub(super) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = bytes;
    let mut rest = 0;
    while scaled >= 1024 && unit + 1 < UNITS.len() {
        rest = scaled % 1024;
        scaled /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 || scaled >= 100 {
        format!("{scaled} {name}")
    } else {
        format!("{scaled}.{} {name}", rest * 10 / 1024)
    }
}

/// Returns the text of so many seconds, in the largest unit that has no rest.
pub(super) fn show_duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let whole = units
        .into_iter()
        .find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    match whole {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None if seconds == 0 => "0".to_owned(),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_as_it_is_shown() {
        for text in ["0", "1s", "90s", "5m", "36h", "30d"] {
            let time = parse_duration(text).unwrap();
            assert_eq!(show_duration(time.as_secs()), text);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64K"), Ok(65_536));
        assert_eq!(parse_size("1.5GiB"), Ok(3 << 29));
        for bad in [
            "",
            "G",
            "-1",
            "1.G",
            "1x",
            "99999999999T",
            "1e9",
            "0x10",
            "1 G B",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(200 << 30), "200 GiB");
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        for bad in ["", "d", "1y", "-3s", "99999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert!(parse_host_port("host.example:4750").is_ok());
        assert!(parse_host_port("[::1]:4750").is_ok());
        for bad in [
            "host",
            "host:",
            "host:0",
            "host:70000",
            ":1",
            "::1:5",
            "a b:1",
            "",
        ] {
            assert!(parse_host_port(bad).is_err(), "{bad}");
        }
        assert!(parse_listen("0.0.0.0:0").is_ok());
        assert!(parse_listen("localhost:1").is_err());
    }
}
