//! QR codes for a terminal.

use qrcodegen::{QrCode, QrCodeEcc};

/// Light modules around a code: fewer than the standard's four are read as well.
const MARGIN: i32 = 2;

/// Returns the lines of a QR code of a text, two rows of modules in each, dark on light whatever the
/// colours of the terminal; `None` where the text is too long for one.
pub(super) fn lines(text: &str) -> Option<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
    let mut out = String::new();
    let last = code.size() + MARGIN;
    for y in (-MARGIN..last).step_by(2) {
        out.push_str("\x1b[30;107m");
        for x in -MARGIN..last {
            out.push(match (code.get_module(x, y), code.get_module(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        out.push_str("\x1b[0m\n");
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_fits_eighty_columns() {
        let code = lines(&"A".repeat(392)).unwrap();
        let rows: Vec<&str> = code.lines().collect();
        let width = rows[0].chars().filter(|c| "█▀▄ ".contains(*c)).count();
        assert!(width <= 80, "{width}");
        assert!(rows.len() <= width / 2 + 1);
        assert!(rows.iter().all(|row| row.ends_with("\x1b[0m")));
        assert_eq!(lines(&"a".repeat(5_000)), None);
    }
}
