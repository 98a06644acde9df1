//! Rows: what was never synced is cut, torn and garbled; the rest must come back as a prefix.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dfs::base::Rng;
use dfs::crypto::{Identity, LocalKey};
use dfs::store::{Batch, Rows, StateDir, Store, StoreError, StoreOptions, Table};
use rustix::fs::{SeekFrom, seek};
use xxhash_rust::xxh3::Xxh3;

/// The key of all folders here; making one takes a moment.
pub(crate) fn key() -> &'static LocalKey {
    static KEY: OnceLock<LocalKey> = OnceLock::new();
    KEY.get_or_init(|| Identity::generate(&Rng::from_seed(1)).unwrap().local_key())
}

/// Returns a folder in memory where there is one: what a disk loses is decided by the tests, so real
/// syncs would only take time.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Commits batch `n`: three rows, one of them the count of batches so far.
pub(crate) fn commit(store: &Store, n: u64) -> Result<(), StoreError> {
    commit_to(&*store.rows, n)
}

/// Commits batch `n` as [`commit`] does.
pub(super) fn commit_to(rows: &dyn Rows, n: u64) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    batch.put(Table::Op, n.to_be_bytes(), value(n));
    batch.put(Table::Inode, n.to_be_bytes(), n.to_le_bytes());
    batch.put(Table::Meta, b"count", (n + 1).to_le_bytes());
    if n.is_multiple_of(5) && n > 0 {
        batch.delete(Table::Inode, (n - 1).to_be_bytes());
    }
    rows.commit(batch)
}

/// Sizes that end anywhere in a sector, now and then outside the tree.
fn value(n: u64) -> Vec<u8> {
    vec![n as u8; (n * 37 % 900 + if n % 7 == 3 { 3000 } else { 0 }) as usize]
}

/// Checks that the rows are those of the first batches and no other, and returns how many.
pub(crate) fn prefix_len(store: &Store, what: &str) -> u64 {
    prefix_len_of(&*store.rows, what)
}

/// Checks rows as [`prefix_len`] does.
pub(super) fn prefix_len_of(rows: &dyn Rows, what: &str) -> u64 {
    let count = rows.get(Table::Meta, b"count").expect(what);
    let count = count.map_or(0, |count| u64::from_le_bytes(count.try_into().unwrap()));
    let mut next = 0;
    let mut visit = |key: &[u8], row: &[u8]| {
        assert_eq!(key, u64::to_be_bytes(next), "{what}");
        assert_eq!(row, value(next), "{what}");
        next += 1;
        ControlFlow::Continue(())
    };
    rows.scan(Table::Op, &[], None, &mut visit).expect(what);
    assert_eq!(next, count, "{what}: a batch is there in part");
    for n in 0..count {
        let deleted = (n + 1).is_multiple_of(5) && n + 1 < count;
        let row = rows.get(Table::Inode, &n.to_be_bytes()).expect(what);
        assert_eq!(row.is_none(), deleted, "{what}");
    }
    count
}

/// Returns the files of a folder that end in `.extension`, in the order of their numbers.
fn numbered(folder: &Path, extension: &str, radix: u32) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap();
    let mut files: Vec<(u64, PathBuf)> = files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == extension))
        .map(|path| {
            let number = path.file_stem().unwrap().to_str().unwrap();
            (u64::from_str_radix(number, radix).unwrap(), path)
        })
        .collect();
    files.sort();
    files.into_iter().map(|(_, path)| path).collect()
}

/// Returns the files of the row log, oldest first. One that was made ahead of need has no record.
fn logs(state: &Path) -> Vec<PathBuf> {
    let mut logs = numbered(&state.join("wal"), "wal", 16);
    while logs.len() > 1 && log_end(&logs[logs.len() - 1]) == 0 {
        logs.pop();
    }
    logs
}

/// Returns the file of the row log that is written to.
fn log(state: &Path) -> PathBuf {
    logs(state).pop().unwrap()
}

/// Returns where the records of a log end: behind them a file that was used before holds others.
fn log_end(path: &Path) -> u64 {
    const HEADER_BYTES: usize = 20;
    let bytes = fs::read(path).unwrap();
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER_BYTES) {
        let mut hash = Xxh3::with_seed(log_number(path));
        hash.update(&header[..12]);
        let len = u32::from_le_bytes(header[..4].try_into().unwrap());
        if header[12..] != hash.digest().to_le_bytes() {
            break;
        }
        at += (HEADER_BYTES + len as usize).next_multiple_of(32);
    }
    at as u64
}

fn log_number(path: &Path) -> u64 {
    let number = path.file_stem().unwrap().to_str().unwrap();
    u64::from_str_radix(number, 16).unwrap()
}

/// Returns where the written part of a journal ends, which is not before `from`.
fn written_end(path: &Path, from: u64) -> u64 {
    let file = fs::File::open(path).unwrap();
    // The rest is allocated ahead and was never written.
    let hole = match seek(&file, SeekFrom::Hole(from)) {
        Ok(hole) => hole,
        Err(rustix::io::Errno::NXIO) => return from,
        Err(e) => panic!("{e}"),
    };
    let mut last = vec![0; (hole - from).min(64 << 10) as usize];
    let start = hole - last.len() as u64;
    file.read_exact_at(&mut last, start).unwrap();
    let end = last.iter().rposition(|byte| *byte != 0);
    end.map_or(from, |end| start + end as u64 + 1)
}

/// Copies a state folder; of logs and journals only what is written, their length stays.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else if path
            .extension()
            .is_some_and(|ext| ext == "jnl" || ext == "wal")
        {
            let mut bytes = vec![0; written_end(&path, 0) as usize];
            let file = fs::File::open(&path).unwrap();
            file.read_exact_at(&mut bytes, 0).unwrap();
            fs::write(&target, &bytes).unwrap();
            let copy = fs::OpenOptions::new().write(true).open(&target).unwrap();
            copy.set_len(file.metadata().unwrap().len()).unwrap();
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// What a power cut does to the part of a file that was never synced.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// The file ends here.
    Cut(u64),
    /// Nothing from here on was written.
    Zeros(u64),
    /// Only the sectors that the seed picks were written.
    Sectors(u64),
    /// A sector holds something else.
    Garbage(u64),
}

fn damage(path: &Path, synced: u64, end: u64, damage: Damage) {
    const SECTOR: u64 = 512;
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let fill = |from: u64, to: u64, byte: u8| {
        let from = from.max(synced);
        if from < to {
            file.write_all_at(&vec![byte; (to - from) as usize], from)
                .unwrap();
        }
    };
    match damage {
        Damage::Cut(at) => file.set_len(at).unwrap(),
        Damage::Zeros(at) => fill(at, end, 0),
        Damage::Sectors(seed) => {
            let rng = Rng::from_seed(seed);
            for sector in synced / SECTOR..=end / SECTOR {
                if rng.below(3) == 0 {
                    fill(sector * SECTOR, ((sector + 1) * SECTOR).min(end), 0);
                }
            }
        }
        Damage::Garbage(at) => {
            let sector = at / SECTOR;
            fill(sector * SECTOR, ((sector + 1) * SECTOR).min(end), at as u8);
        }
    }
}

/// Where the row log ends: how many files it has, and how much is written of the newest.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogEnd {
    pub(super) number: u64,
    pub(super) offset: u64,
}

impl LogEnd {
    /// Behind whatever there is.
    pub(super) const ALL: Self = Self {
        number: u64::MAX,
        offset: 0,
    };
}

/// Returns where the row log of a state folder ends.
pub(super) fn written(state: &Path) -> LogEnd {
    let log = log(state);
    LogEnd {
        number: log_number(&log),
        offset: log_end(&log),
    }
}

/// Does to a state folder what a power cut may: damages the row log somewhere behind `synced`, and
/// the journal of the row database.
pub(super) fn damage_behind(state: &Path, synced: LogEnd, rng: &Rng) {
    for path in logs(state) {
        match log_number(&path) {
            number if number < synced.number => {}
            number if number == synced.number => {
                damage_from(&path, synced.offset, log_end(&path), rng);
            }
            _ => damage_from(&path, 0, log_end(&path), rng),
        }
    }
    // Nothing of ours goes through it.
    let journals = numbered(&state.join("rows"), "jnl", 10);
    fs::write(journals.last().unwrap(), at_random(rng)).unwrap();
}

fn at_random(rng: &Rng) -> Vec<u8> {
    (0..rng.below(1000)).map(|_| rng.below(256) as u8).collect()
}

fn damage_from(path: &Path, synced: u64, end: u64, rng: &Rng) {
    let at = synced + rng.below(end - synced + 1);
    let case = match rng.below(4) {
        0 => Damage::Cut(at),
        1 => Damage::Zeros(at),
        2 => Damage::Sectors(at),
        _ => Damage::Garbage(at),
    };
    damage(path, synced, end, case);
}

/// Writes batches with a sync in between, then opens the folder under many damages.
fn check_damages(options: &StoreOptions, batches: u64, synced_batches: u64, stride: usize) {
    let root = folder();
    let state = root.path().join("state");
    let held = StateDir::open_or_create(&state).unwrap();
    let store = Store::open_with(&state, key(), options).unwrap();
    let (mut synced_end, mut ends) = (0, Vec::new());
    for n in 0..batches {
        commit(&store, n).unwrap();
        ends.push(log_end(&log(&state)));
        if n + 1 == synced_batches {
            store.sync().unwrap();
            synced_end = ends[n as usize];
        }
    }
    let end = *ends.last().unwrap();
    let image = root.path().join("image");
    copy_folder(&state, &image);
    drop((store, held));

    let mut damages = vec![Damage::Cut(end), Damage::Cut(synced_end)];
    for at in (synced_end..end).step_by(stride) {
        damages.extend([Damage::Cut(at), Damage::Zeros(at)]);
        damages.extend([Damage::Sectors(at), Damage::Garbage(at)]);
    }
    for boundary in ends.iter().rev().step_by(3) {
        for at in [boundary - 1, *boundary, boundary + 1] {
            if at >= synced_end && at <= end {
                damages.extend([Damage::Cut(at), Damage::Zeros(at)]);
            }
        }
    }
    for (number, case) in damages.into_iter().enumerate() {
        let what = format!("{case:?} of {synced_end}..{end}");
        let copy = root.path().join(number.to_string());
        copy_folder(&image, &copy);
        damage(&log(&copy), synced_end, end, case);
        let held = StateDir::open_or_create(&copy).expect(&what);
        let store = Store::open_with(&copy, key(), options).expect(&what);
        let survived = prefix_len(&store, &what);
        assert!(survived >= synced_batches, "{what}: a synced batch is lost");
        if let Damage::Cut(at) | Damage::Zeros(at) = case {
            let whole = ends.iter().filter(|end| **end <= at).count() as u64;
            assert!(
                survived >= whole,
                "{what}: {survived} of {whole} whole batches"
            );
        }
        // It goes on behind the prefix, and that holds, too.
        for n in survived..survived + 3 {
            commit(&store, n).expect(&what);
        }
        store.sync().expect(&what);
        drop((store, held));
        let store = Store::open_with(&copy, key(), options).expect(&what);
        assert_eq!(prefix_len(&store, &what), survived + 3, "{what}");
        drop(store);
        fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn rows_that_were_synced_survive_any_damage_behind_them() {
    check_damages(&StoreOptions::default(), 40, 25, 1511);
}

#[test]
fn rows_survive_damage_when_nothing_was_ever_synced() {
    check_damages(&StoreOptions::default(), 12, 0, 1511);
}

#[test]
fn a_damaged_row_is_an_error_and_not_a_panic() {
    let root = folder();
    let state = root.path().join("state");
    let _held = StateDir::open_or_create(&state).unwrap();
    let store = Store::open(&state, key()).unwrap();
    for n in 0..20 {
        commit(&store, n).unwrap();
    }
    store.sync().unwrap();
    drop(store);
    // Synced bytes that rot are told, and nothing is changed.
    let path = log(&state);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    file.write_all_at(&[0xff; 16], 5000).unwrap();
    let refused = Store::open(&state, key());
    assert!(
        matches!(refused, Err(StoreError::Unusable { .. })),
        "{refused:?}"
    );
    file.write_all_at(&whole[5000..5016], 5000).unwrap();
    // The log has everything, so the database is made anew.
    for entry in fs::read_dir(state.join("rows/keyspaces/0")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(&path, b"nonsense").unwrap();
        }
    }
    let store = Store::open(&state, key()).unwrap();
    assert_eq!(prefix_len(&store, "a nonsensical database"), 20);
}
