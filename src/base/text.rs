//! Text that others chose, before it stands on a terminal.

use std::fmt::Write;

/// Says whether a character is not seen where it stands, or changes how others look: control
/// characters, format characters (bidirectional overrides, joiners, zero-width spaces, tags), line
/// and paragraph separators, and letters that are drawn as nothing.
///
/// The general categories Cc, Cf, Zl and Zp of Unicode 15, and what has the property
/// Default_Ignorable_Code_Point.
pub fn is_unseen(c: char) -> bool {
    const UNSEEN: [(u32, u32); 27] = [
        (0x0000, 0x001f),
        (0x007f, 0x009f),
        (0x00ad, 0x00ad),
        (0x034f, 0x034f),
        (0x0600, 0x0605),
        (0x061c, 0x061c),
        (0x06dd, 0x06dd),
        (0x070f, 0x070f),
        (0x0890, 0x0891),
        (0x08e2, 0x08e2),
        (0x115f, 0x1160),
        (0x17b4, 0x17b5),
        (0x180b, 0x180f),
        (0x200b, 0x200f),
        (0x2028, 0x202e),
        (0x2060, 0x206f),
        (0x3164, 0x3164),
        (0xfe00, 0xfe0f),
        (0xfeff, 0xfeff),
        (0xffa0, 0xffa0),
        (0xfff0, 0xfffb),
        (0x110bd, 0x110bd),
        (0x110cd, 0x110cd),
        (0x13430, 0x1343f),
        (0x1bca0, 0x1bca3),
        (0x1d173, 0x1d17a),
        (0xe0000, 0xe0fff),
    ];
    let code = u32::from(c);
    let at = UNSEEN.partition_point(|(_, last)| *last < code);
    UNSEEN.get(at).is_some_and(|(first, _)| *first <= code)
}

/// Returns a text with every character that is not seen left out.
pub fn seen(text: &str) -> String {
    text.chars().filter(|c| !is_unseen(*c)).collect()
}

/// Returns a text as it can be printed: as it is where every character is seen, else in the shell's
/// `$'...'` form, so that what it says is seen and can be pasted.
pub fn shown(text: &str) -> String {
    if !text.chars().any(is_unseen) {
        return text.to_owned();
    }
    format!("$'{}'", escape(text, true))
}

/// Returns a text with what is not seen in it written out, for a line that names other things, too.
pub fn legible(text: &str) -> String {
    escape(text, false)
}

fn escape(text: &str, quoted: bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' | '\'' if quoted => {
                out.push('\\');
                out.push(c);
            }
            c if !is_unseen(c) => out.push(c),
            c if c.is_ascii() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if u32::from(c) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_told_from_what_is() {
        for c in [
            'a', ' ', 'é', '中', 'ß', '\u{5d0}', '\u{301}', '🐧', '\u{a0}',
        ] {
            assert!(!is_unseen(c), "{c:?}");
        }
        for c in [
            '\0',
            '\n',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{ad}',
            '\u{200b}',
            '\u{200d}',
            '\u{202e}',
            '\u{2066}',
            '\u{2028}',
            '\u{3164}',
            '\u{feff}',
            '\u{fe0f}',
            '\u{e0041}',
        ] {
            assert!(is_unseen(c), "{c:?}");
        }
    }

    #[test]
    fn what_is_printed_moves_no_cursor_and_says_all() {
        assert_eq!(shown("Übung 1.txt"), "Übung 1.txt");
        assert_eq!(shown("a\nb"), "$'a\\nb'");
        assert_eq!(shown("\u{1b}[2J'"), "$'\\x1b[2J\\''");
        assert_eq!(shown("gpj\u{202e}.exe"), "$'gpj\\u202e.exe'");
        assert_eq!(legible("it's\u{1b}[2J"), "it's\\x1b[2J");
        assert_eq!(seen("na\u{200b}s\u{202e}"), "nas");
    }
}
