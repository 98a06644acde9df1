//! Who holds a state folder, asked without changing anything.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::state::LOCK_FILE;

/// Returns the process that holds the state folder at `path`, by its own word; `None` where nobody
/// does. 0 stands for one that has not said yet.
pub fn holder(path: &Path) -> Option<u32> {
    let lock = path.join(LOCK_FILE);
    let file = File::open(&lock).ok()?;
    // Let go of at once, with the file.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let text = std::fs::read_to_string(&lock).unwrap_or_default();
            Some(text.trim().parse().unwrap_or(0))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::StateDir;
    use super::*;

    #[test]
    fn who_holds_a_folder_is_seen_without_a_trace() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        assert_eq!(holder(&path), None);
        assert!(!path.exists());
        let state = StateDir::open_or_create(&path).unwrap();
        assert_eq!(holder(&path), Some(std::process::id()));
        drop(state);
        assert_eq!(holder(&path), None);
    }
}
