//! The state folder of a peer: who may enter, who holds it, which format it has, what lies where.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use xxhash_rust::xxh3::xxh3_64;

use super::StoreError;
use super::first_start::FIRST_START_FILE;

/// Format version of the state folder, the one that this release reads and writes.
pub const STATE_VERSION: u32 = 5;

/// A state folder that this process holds until the value is dropped.
///
/// The folder belongs to the user of this process and nobody else may enter it. Its lock goes with
/// the open file, so it is free again when the holder ends, however it ends; a process that forks
/// hands it on to its child.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// The folders that this opening made, the deepest first.
    pub(super) made: Vec<PathBuf>,
    /// Held, never read.
    _lock: File,
}

impl StateDir {
    /// Takes hold of the state folder at `path`, making it where it is missing or empty. In one
    /// that is there nothing is changed but the lock.
    ///
    /// Fails with [`StoreError::InUse`] where another process holds it, [`StoreError::TooNew`]
    /// where a newer release wrote it, [`StoreError::NotPrivate`] where others may enter it,
    /// [`StoreError::NotWritable`] where this user may not write to it, [`StoreError::NotState`]
    /// where it holds something else, [`StoreError::Unusable`] where it is damaged.
    pub fn open_or_create(path: &Path) -> Result<Self, StoreError> {
        let missing = path.ancestors().take_while(|above| !above.exists());
        let made = missing.map(Path::to_owned).collect();
        create_private(path)?;
        let fresh = check_folder(path)?;
        let lock = take_lock(path)?;
        let state = Self {
            path: path.to_owned(),
            made,
            _lock: lock,
        };
        if fresh {
            state.begin_first_start()?;
            // Whose it is follows when there is something in it.
            write_private(&state.file(FORMAT_FILE), &format_of(0))?;
        }
        if owner_of(path)?.is_none() {
            for folder in [state.rows(), state.wal(), state.chunks(), state.logs()] {
                create_private(&folder)?;
            }
            sync_folder(path)?;
        }
        Ok(state)
    }

    /// Returns the secret key that lies in the folder, `None` where one may be made: only in a
    /// folder that holds nothing yet.
    ///
    /// Fails with [`StoreError::KeyMissing`] where what is there was sealed with a key that is
    /// gone, [`StoreError::NotPrivate`] where others may read the key.
    pub fn read_key(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.identity_key();
        if let Some(bytes) = read_private(&path)? {
            return Ok(Some(bytes));
        }
        let mut is_empty = owner_of(&self.path)?.is_none();
        for folder in [self.rows(), self.wal(), self.chunks()] {
            is_empty &= match std::fs::read_dir(&folder) {
                Ok(mut entries) => entries.next().is_none(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => true,
                Err(e) => return Err(StoreError::io("list", &folder, e)),
            };
        }
        if is_empty {
            Ok(None)
        } else {
            Err(StoreError::KeyMissing { path })
        }
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the identity's secret key; [`read_private`] and [`write_private`] go
    /// with it.
    pub fn identity_key(&self) -> PathBuf {
        self.file(KEY_FILE)
    }

    /// Returns the path of the socket on which the daemon takes commands.
    pub fn control_socket(&self) -> PathBuf {
        self.file("control.sock")
    }

    /// Returns the path of the settings that outlast a run.
    pub fn settings(&self) -> PathBuf {
        self.file("settings")
    }

    /// Returns the folder of the row database.
    pub fn rows(&self) -> PathBuf {
        self.path.join(ROWS_FOLDER)
    }

    /// Returns the folder of the row log.
    pub fn wal(&self) -> PathBuf {
        self.path.join(WAL_FOLDER)
    }

    /// Returns the folder of the chunk files.
    pub fn chunks(&self) -> PathBuf {
        self.path.join(CHUNKS_FOLDER)
    }

    /// Returns the folder of the activity logs.
    pub fn logs(&self) -> PathBuf {
        self.path.join(LOGS_FOLDER)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Returns the owner of a state folder, `None` where it was set up and nothing was put in yet.
pub(super) fn owner_of(folder: &Path) -> Result<Option<u64>, StoreError> {
    let path = folder.join(FORMAT_FILE);
    let damaged = |what| {
        let path = path.clone();
        StoreError::Damaged { path, what }.at(folder)
    };
    let bytes = read_limited(&path, FORMAT_MAX_BYTES)?.ok_or_else(|| damaged("is missing"))?;
    let (version, rest) = bytes
        .strip_prefix(FORMAT_MAGIC)
        .and_then(|rest| rest.split_first_chunk())
        .ok_or_else(|| damaged("is damaged"))?;
    let owner = rest.first_chunk().map(|owner| u64::from_le_bytes(*owner));
    match u32::from_le_bytes(*version) {
        STATE_VERSION => {}
        found @ (3 | 4) if owner.is_some_and(|owner| bytes == format_of_version(found, owner)) => {
            return Err(StoreError::TooOld { found });
        }
        // Those had no checksum.
        found @ (1 | 2) if rest.is_empty() => return Err(StoreError::TooOld { found }),
        found if found > STATE_VERSION && found <= VERSION_CREDIBLE => {
            let known = STATE_VERSION;
            return Err(StoreError::TooNew { found, known });
        }
        _ => return Err(damaged("is damaged")),
    }
    let owner = owner.filter(|owner| bytes == format_of(*owner));
    let owner = owner.ok_or_else(|| damaged("is damaged"))?;
    Ok(Some(owner).filter(|owner| *owner != 0))
}

/// Says whose a folder is, from now on.
pub(super) fn set_owner(folder: &Path, owner: u64) -> Result<(), StoreError> {
    write_private(&folder.join(FORMAT_FILE), &format_of(owner))
}

pub(super) fn format_of(owner: u64) -> Vec<u8> {
    format_of_version(STATE_VERSION, owner)
}

fn format_of_version(version: u32, owner: u64) -> Vec<u8> {
    let mut format = FORMAT_MAGIC.to_vec();
    format.extend_from_slice(&version.to_le_bytes());
    format.extend_from_slice(&owner.to_le_bytes());
    format.extend_from_slice(&xxh3_64(&format).to_le_bytes());
    format
}

/// Returns a file that only its owner may read, `None` where there is none.
///
/// Fails with [`StoreError::NotPrivate`] where others may read or change it.
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let io = |e| StoreError::io("look at", path, e);
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() || !is_private(&meta) => Err(StoreError::NotPrivate {
            path: path.to_owned(),
        }),
        Ok(_) => read_limited(path, PRIVATE_MAX_BYTES),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io(e)),
    }
}

/// Replaces a file by one that only its owner may read: the old or the new content survives a
/// crash, the new one from the moment this returns.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let io = |e| StoreError::io("write", path, e);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    // One that a crash left behind may have other permissions.
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.sync_all().map_err(io)?;
    std::fs::rename(&temporary, path).map_err(io)?;
    match path.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| StoreError::io("sync", path, e))
}

/// Returns the sealing epoch of an opening, where none above `last` was used before.
///
/// Row nonces start with it, so it never repeats: not after a crash, and not when the folder is put
/// back from a copy either, because it is at least the number of seconds since 2020 (which fits in
/// 32 bits until 2156).
pub(super) fn next_epoch(last: u32, now_ms: u64) -> u32 {
    let seconds = (now_ms / 1000).saturating_sub(EPOCH_ZERO_SECS);
    last.saturating_add(1)
        .max(u32::try_from(seconds).unwrap_or(0))
}

/// Makes a folder for its owner alone where there is none, and the folders above it.
pub(super) fn create_private(path: &Path) -> Result<(), StoreError> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| refused("create", path, e))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(refused("create", path, e)),
        _ => Ok(()),
    }
}

/// Checks owner, permissions and contents; returns whether the folder is still to be set up.
fn check_folder(path: &Path) -> Result<bool, StoreError> {
    let meta = std::fs::metadata(path).map_err(|e| refused("look at", path, e))?;
    if !meta.is_dir() {
        return Err(StoreError::NotState {
            path: path.to_owned(),
        });
    }
    let (mut is_state, mut is_foreign, mut is_left) = (false, false, false);
    let entries = std::fs::read_dir(path).map_err(|e| refused("list", path, e))?;
    for entry in entries {
        let name = entry.map_err(|e| refused("list", path, e))?.file_name();
        is_state |= name == FORMAT_FILE;
        is_foreign |= !SETUP_NAMES.iter().any(|known| name == *known);
        is_left |= [KEY_FILE, WAL_FOLDER].iter().any(|known| name == *known);
    }
    let owner = meta.uid();
    if owner != rustix::process::geteuid().as_raw() && (is_state || is_foreign) {
        return Err(StoreError::NotOwned {
            path: path.to_owned(),
            owner,
        });
    }
    if !is_private(&meta) {
        // What is empty has no secret to lose yet, so it is taken over.
        let owner = meta.uid() == rustix::process::geteuid().as_raw();
        if is_state || is_foreign || !owner {
            return Err(StoreError::NotPrivate {
                path: path.to_owned(),
            });
        }
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(|e| refused("protect", path, e))?;
    }
    if is_foreign && !is_state && is_left {
        let (path, what) = (path.join(FORMAT_FILE), "is missing");
        let folder = path.parent().unwrap_or(&path).to_owned();
        return Err(StoreError::Damaged { path, what }.at(&folder));
    }
    if is_foreign && !is_state {
        return Err(StoreError::NotState {
            path: path.to_owned(),
        });
    }
    Ok(!is_state)
}

pub(super) fn take_lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK_FILE);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| refused("open", folder, e))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(StoreError::InUse {
                path: folder.to_owned(),
            });
        }
        Err(e) => return Err(StoreError::io("lock", &path, e.into())),
    }
    // For people who look who holds it; nothing depends on it, and a full disk has no room for it.
    // Of one length, so that it need not be cut.
    let _ = writeln!(lock, "{:>10}", std::process::id());
    Ok(lock)
}

fn is_private(meta: &std::fs::Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0
}

/// Returns the bytes of a file of at most `max` bytes, `None` where there is none.
fn read_limited(path: &Path, max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let io = |e| StoreError::io("read", path, e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max {
        return Err(StoreError::Corrupt {
            what: "a file of the state folder is longer than it may be",
        });
    }
    Ok(Some(bytes))
}

pub(super) fn refused(op: &'static str, path: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::NotWritable {
                path: path.to_owned(),
            }
        }
        _ => StoreError::io(op, path, source),
    }
}

/// Folder of the row database below the state folder.
pub(super) const ROWS_FOLDER: &str = "rows";

/// Folder of the row log below the state folder.
pub(super) const WAL_FOLDER: &str = "wal";

/// Room kept back for the rows, in the state folder.
pub(super) const BALLAST_FILE: &str = "ballast";

/// Folder of the chunk files below the state folder.
pub(super) const CHUNKS_FOLDER: &str = "chunks";

/// Folder of the activity logs below the state folder.
const LOGS_FOLDER: &str = "log";

pub(super) const FORMAT_FILE: &str = "format";
const FORMAT_MAGIC: &[u8] = b"dfsstate";
pub(super) const LOCK_FILE: &str = "lock";
pub(super) const KEY_FILE: &str = "identity.key";

/// A format file of a later release may be longer.
const FORMAT_MAX_BYTES: u64 = 4096;

/// A version above that is damage.
const VERSION_CREDIBLE: u32 = 1000;

/// 2020-01-01T00:00:00Z in seconds since 1970.
const EPOCH_ZERO_SECS: u64 = 1_577_836_800;

/// What a first opening that was cut short, or a file system, leaves in a folder without format.
pub(super) const SETUP_NAMES: [&str; 5] = [
    LOCK_FILE,
    "format.tmp",
    "lost+found",
    FIRST_START_FILE,
    "first-start.tmp",
];

/// Longest private file: an identity with its certificate is a few thousand bytes.
const PRIVATE_MAX_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_folder_is_private_and_held_by_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/state");
        let state = StateDir::open_or_create(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&state.rows()), 0o700);
        assert!(matches!(
            StateDir::open_or_create(&path),
            Err(StoreError::InUse { .. })
        ));
        drop(state);
        StateDir::open_or_create(&path).unwrap();
    }

    #[test]
    fn a_folder_that_others_may_enter_is_refused_unless_empty() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        drop(StateDir::open_or_create(&path).unwrap());
        assert_eq!(mode(&path), 0o700);
        std::fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(
            StateDir::open_or_create(&path),
            Err(StoreError::NotPrivate { .. })
        ));
    }

    #[test]
    fn a_folder_of_something_else_or_of_another_release_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        drop(StateDir::open_or_create(&path).unwrap());
        let format = |bytes: &[u8]| {
            write_private(&path.join(FORMAT_FILE), bytes).unwrap();
            StateDir::open_or_create(&path)
        };
        for found in [1, 2] {
            let outcome = format(&[b"dfsstate", &[found, 0, 0, 0][..]].concat());
            assert!(matches!(outcome, Err(StoreError::TooOld { .. })));
        }
        for found in [3, 4] {
            let outcome = format(&format_of_version(found, 7));
            assert!(matches!(outcome, Err(StoreError::TooOld { found: of }) if of == found));
        }
        let outcome = format(b"dfsstate\x06\0\0\0 and more");
        assert!(matches!(
            outcome,
            Err(StoreError::TooNew { found: 6, known: 5 })
        ));
        let mut whole = format_of(7);
        assert_eq!(owner_of(&path).map_err(|_| ()), Err(()));
        format(&whole).unwrap();
        assert_eq!(owner_of(&path).unwrap(), Some(7));
        whole[15] ^= 1;
        for wrong in [
            &b"dfsstate"[..],
            b"",
            b"dfsstate\0\0\0\0",
            b"another",
            &whole,
        ] {
            assert!(matches!(format(wrong), Err(StoreError::Unusable { .. })));
        }
        std::fs::remove_file(path.join(FORMAT_FILE)).unwrap();
        let outcome = StateDir::open_or_create(&path);
        assert!(matches!(outcome, Err(StoreError::Unusable { .. })));
        let other = root.path().join("other");
        create_private(&other).unwrap();
        std::fs::write(other.join("thesis.txt"), b"text").unwrap();
        assert!(matches!(
            StateDir::open_or_create(&other),
            Err(StoreError::NotState { .. })
        ));
    }

    #[test]
    fn a_key_is_made_only_where_there_is_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        let state = StateDir::open_or_create(&path).unwrap();
        assert!(state.read_key().unwrap().is_none());
        std::fs::write(state.wal().join("mark"), b"").unwrap();
        assert!(matches!(
            state.read_key(),
            Err(StoreError::KeyMissing { .. })
        ));
        std::fs::remove_file(state.wal().join("mark")).unwrap();
        set_owner(&path, 7).unwrap();
        assert!(matches!(
            state.read_key(),
            Err(StoreError::KeyMissing { .. })
        ));
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("identity.key");
        assert!(read_private(&path).unwrap().is_none());
        write_private(&path, b"secret").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_private(&path).unwrap().unwrap(), b"secret");
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            read_private(&path),
            Err(StoreError::NotPrivate { .. })
        ));
    }

    #[test]
    fn epochs_only_grow() {
        let now_ms = (EPOCH_ZERO_SECS + 500) * 1000;
        assert_eq!(next_epoch(0, now_ms), 500);
        assert_eq!(next_epoch(500, now_ms), 501);
        assert_eq!(next_epoch(501, 0), 502);
    }
}
