//! Stored bytes of what is written to disks and sent to peers: tests hold today's code against them.

use super::id::{from_hex, to_hex};

/// Asserts that samples have the bytes that stand in a file, one line for each with its kind, and that
/// there is one of each kind; returns the stored bytes of each sample.
///
/// Lines are added at the end of the file, and never changed.
#[track_caller]
pub(crate) fn check(file: &str, kinds: &[&str], samples: &[(&str, Vec<u8>)]) -> Vec<Vec<u8>> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let stored = std::fs::read_to_string(path).expect(file);
    let stored = stored.lines().filter(|line| !line.starts_with('#'));
    let stored: Vec<&str> = stored.collect();
    let ours = samples
        .iter()
        .map(|(kind, bytes)| format!("{kind} {}", to_hex(bytes)));
    let ours: Vec<String> = ours.collect();
    assert!(
        ours == stored,
        "{file} has other bytes than these:\n{}",
        ours.join("\n")
    );
    for kind in kinds {
        let has = samples.iter().any(|(of, _)| of == kind);
        assert!(has, "{file} has no line for {kind}");
    }
    let hex = stored.iter().filter_map(|line| line.split_once(' '));
    hex.map(|(_, hex)| from_hex(hex).expect("hex")).collect()
}
