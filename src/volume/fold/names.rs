//! Conflict names: `stem (conflict, DEVICE, YYYY-MM-DD).ext`, with characters of the op's hash behind the
//! bracket where that is taken. Both follow from the op alone: what comes later renames nothing.

use bytes::Bytes;

use crate::base::OpId;
use crate::base::limits::NAME_MAX_BYTES;
use crate::base::text::is_unseen;
use crate::base::time::civil_date;
use crate::volume::op::{MARK_CHARS, mark_of};

/// Longest part behind the last dot that counts as an extension.
const EXTENSION_MAX_BYTES: usize = 16;

/// Longest label of a device in a conflict name.
const LABEL_MAX_BYTES: usize = 64;

/// Returns a device's name without what may not stand in a file name or on a terminal.
pub(in crate::volume) fn label(name: &str) -> String {
    let clean = |c: char| if is_unseen(c) || c == '/' { '-' } else { c };
    let mut label: String = name.chars().map(clean).collect();
    label.truncate(floor_char_boundary(label.as_bytes(), LABEL_MAX_BYTES));
    label
}

/// Characters of an op's hash by which the next name differs where one is taken.
const MARK_STEP: usize = 4;

/// Returns the conflict names of `name`, within the longest name there is, of what stands aside by an op:
/// the first that is free is the one.
///
/// Directories have no extension.
pub(in crate::volume) fn conflict_names(
    name: &[u8],
    is_dir: bool,
    label: &str,
    by: OpId,
) -> impl Iterator<Item = Bytes> {
    let (stem, extension) = if is_dir { (name, &[][..]) } else { split(name) };
    let (year, month, day) = civil_date(by.stamp.ms());
    let bracket = format!(" (conflict, {label}, {year:04}-{month:02}-{day:02})");
    (0..=MARK_CHARS).step_by(MARK_STEP).map(move |len| {
        // Nearly always the first name is free.
        let mark = match len {
            0 => bracket.clone(),
            len => format!("{bracket} {:.len$}", mark_of(by)),
        };
        marked(stem, &mark, extension)
    })
}

/// Returns a name with a mark behind its stem, of which as much is left as fits.
fn marked(stem: &[u8], mark: &str, extension: &[u8]) -> Bytes {
    let room = NAME_MAX_BYTES.saturating_sub(mark.len() + extension.len());
    let stem = stem.get(..floor_char_boundary(stem, room)).unwrap_or(stem);
    let mut result = Vec::with_capacity(NAME_MAX_BYTES);
    result.extend_from_slice(stem);
    result.extend_from_slice(mark.as_bytes());
    result.extend_from_slice(extension);
    Bytes::from(result)
}

/// Returns the `attempt`-th name (from 2) of `name`, within the longest name there is.
pub(in crate::volume) fn numbered(name: &[u8], is_dir: bool, attempt: u32) -> Bytes {
    let (stem, extension) = if is_dir { (name, &[][..]) } else { split(name) };
    marked(stem, &format!(" {attempt}"), extension)
}

/// Splits off the extension with its dot; a leading dot starts none.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 && name.len() - dot <= EXTENSION_MAX_BYTES => {
            name.split_at_checked(dot).unwrap_or((name, &[]))
        }
        _ => (name, &[]),
    }
}

/// Returns the greatest length up to `max` that does not cut a UTF-8 sequence.
fn floor_char_boundary(bytes: &[u8], max: usize) -> usize {
    if bytes.len() <= max {
        return bytes.len();
    }
    let is_continuation = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (max.saturating_sub(3)..=max)
        .rev()
        .find(|at| !is_continuation(*at))
        .unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{LogId, Stamp};

    fn op(ms: u64) -> OpId {
        OpId {
            stamp: Stamp::from_ms(ms),
            log: LogId(7),
        }
    }

    fn names(name: &str) -> Vec<String> {
        let names = conflict_names(name.as_bytes(), false, "mary", op(1_709_164_800_000));
        names
            .map(|name| String::from_utf8(name.to_vec()).unwrap())
            .collect()
    }

    fn name(name: &str) -> String {
        names(name).swap_remove(0)
    }

    #[test]
    fn names_keep_their_extension() {
        assert_eq!(name("a.txt"), "a (conflict, mary, 2024-02-29).txt");
        assert_eq!(name("Makefile"), "Makefile (conflict, mary, 2024-02-29)");
        assert_eq!(name(".profile"), ".profile (conflict, mary, 2024-02-29)");
    }

    #[test]
    fn a_name_that_is_taken_is_followed_by_the_hash_of_the_op() {
        let names = names("a.txt");
        let expected = [
            "a (conflict, mary, 2024-02-29).txt",
            "a (conflict, mary, 2024-02-29) i2ap.txt",
            "a (conflict, mary, 2024-02-29) i2apuhew.txt",
        ];
        assert_eq!(names[..3], expected);
        assert_eq!(names.len(), 1 + MARK_CHARS / MARK_STEP);
        assert_ne!(mark_of(op(1)), mark_of(op(2)));
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        for (len, ascii) in [(80, 0), (85, 0), (84, 1), (84, 2), (84, 3)] {
            let long = "x".repeat(ascii) + &"語".repeat(len) + ".md";
            let cut = name(&long);
            assert!(cut.len() <= NAME_MAX_BYTES && cut.len() > NAME_MAX_BYTES - 4);
            assert!(cut.ends_with(" (conflict, mary, 2024-02-29).md"));
        }
        let mut names = conflict_names(&[0xff; 255], false, "mary", OpId::default());
        assert!(names.all(|name| name.len() <= NAME_MAX_BYTES));
    }

    #[test]
    fn labels_are_fit_for_names() {
        assert_eq!(label("a/b\nc"), "a-b-c");
        assert_eq!(label("gpj\u{202e}.\u{200b}exe"), "gpj-.-exe");
        assert!(label(&"é".repeat(99)).len() <= LABEL_MAX_BYTES);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(86_400_000 * 31), (1970, 2, 1));
        assert_eq!(civil_date(951_782_400_000), (2000, 2, 29));
        assert_eq!(civil_date(1_735_689_599_999), (2024, 12, 31));
        assert_eq!(civil_date(1_735_689_600_000), (2025, 1, 1));
        assert_eq!(civil_date(4_107_542_400_000), (2100, 3, 1));
    }
}
