//! A state folder that somebody or something changed: every file of it, at many places. Either the
//! start is refused and has changed nothing, or all is there that was synced; of a chunk whose bytes
//! are gone the reading says so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dfs::base::{ChunkId, Rng};
use dfs::crypto::{Identity, chunk_id};
use dfs::store::state::{read_private, write_private};
use dfs::store::{Batch, StateDir, Store, StoreError, StoreOptions, Table};

/// Small, so that some rows lie in tables, some in the log.
fn options() -> StoreOptions {
    StoreOptions {
        table_bytes: 24 << 10,
        chunk_file_max_bytes: 48 << 10,
        ..StoreOptions::default()
    }
}

/// Two identities; making one takes a moment.
fn identity(n: usize) -> &'static Identity {
    static IDENTITIES: OnceLock<Vec<Identity>> = OnceLock::new();
    let made = IDENTITIES.get_or_init(|| {
        let seeds = 1..=2;
        seeds
            .map(|seed| Identity::generate(&Rng::from_seed(seed)).unwrap())
            .collect()
    });
    &made[n]
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// What was synced.
#[derive(Debug, Default, Clone)]
struct Content {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    chunks: BTreeMap<ChunkId, Vec<u8>>,
}

/// Opens a folder as a daemon does.
fn open(folder: &Path) -> Result<(StateDir, Store), String> {
    let state = StateDir::open_or_create(folder).map_err(|e| e.to_string())?;
    let key = state.read_key().map_err(|e| e.to_string())?;
    let key = key.ok_or("a key would be made")?;
    let identity = Identity::from_bytes(&key).map_err(|e| format!("key: {e}"))?;
    let store = Store::open_with(folder, &identity.local_key(), &options());
    Ok((state, store.map_err(|e| e.to_string())?))
}

/// Makes a folder with contents that are all synced.
fn make(folder: &Path, of: usize) -> (Content, StateDir, Store) {
    let state = StateDir::open_or_create(folder).unwrap();
    assert!(state.read_key().unwrap().is_none());
    write_private(&state.identity_key(), &identity(of).to_bytes()).unwrap();
    let key = identity(of).local_key();
    let store = Store::open_with(folder, &key, &options()).unwrap();
    state.founded().unwrap();
    let mut content = Content::default();
    let rng = Rng::from_seed(of as u64 + 10);
    for n in 0..60u64 {
        let mut batch = Batch::new();
        for m in 0..3 {
            let key = (rng.below(150) * 10 + m).to_be_bytes();
            let len = if rng.below(8) == 0 {
                3000
            } else {
                rng.below(600)
            };
            let value: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
            batch.put(Table::Inode, key, value.clone());
            content.rows.insert(key.to_vec(), value);
        }
        store.rows.commit(batch).unwrap();
        if n % 4 == 0 {
            let len = 5000 + rng.below(9000);
            let sealed: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
            let id = chunk_id(&sealed);
            store.chunks.put(id, &sealed).unwrap();
            content.chunks.insert(id, sealed);
        }
        if n % 7 == 0 {
            store.sync().unwrap();
        }
    }
    // The end of the log is not the end of a commit that something follows.
    store.sync().unwrap();
    (content, state, store)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Everything in a folder but what a refused start may write.
fn image(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut image = BTreeMap::new();
    for path in files(folder) {
        let inside = path.strip_prefix(folder).unwrap().to_owned();
        if inside != Path::new("lock") && !inside.starts_with("log") {
            image.insert(inside, fs::read(&path).unwrap());
        }
    }
    image
}

/// What came of a start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    Whole,
    /// Some chunks cannot be read, and that is said.
    ChunksTold,
}

/// Opens a folder and checks the promise; returns also what the refusal said.
fn check(folder: &Path, content: &Content, may_lose_chunks: bool, what: &str) -> (Outcome, String) {
    let before = image(folder);
    let (state, store) = match open(folder) {
        Ok(opened) => opened,
        Err(said) => {
            let after = image(folder);
            for (path, bytes) in &before {
                assert!(
                    after.get(path) == Some(bytes),
                    "{what}: {} was changed: {said}",
                    path.display()
                );
            }
            assert_eq!(after.len(), before.len(), "{what}: files were made: {said}");
            assert!(
                !said.contains("Error") && !said.contains("source"),
                "{what}: {said}"
            );
            return (Outcome::Refused, said);
        }
    };
    for (key, value) in &content.rows {
        let row = store.rows.get(Table::Inode, key);
        let row = row.unwrap_or_else(|e| panic!("{what}: a row cannot be read: {e}"));
        assert!(
            row.as_ref() == Some(value),
            "{what}: a synced row is missing"
        );
    }
    let mut scanned = BTreeMap::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        scanned.insert(key.to_vec(), value.to_vec());
        std::ops::ControlFlow::Continue(())
    };
    let scan = store.rows.scan(Table::Inode, &[], None, &mut visit);
    scan.unwrap_or_else(|e| panic!("{what}: rows cannot be walked: {e}"));
    assert!(scanned == content.rows, "{what}: a walk misses rows");
    let mut told = 0;
    for (id, sealed) in &content.chunks {
        match store.chunks.get(*id) {
            Ok(Some(read)) if read == *sealed => {}
            // Who reads it opens its seal.
            Ok(Some(read)) if chunk_id(&read) != *id => told += 1,
            Err(StoreError::Corrupt { .. }) => told += 1,
            other => panic!("{what}: a synced chunk is {other:?}"),
        }
    }
    assert!(
        told == 0 || may_lose_chunks,
        "{what}: {told} chunks are lost"
    );
    drop((store, state));
    if told > 0 {
        return (Outcome::ChunksTold, String::new());
    }
    // It goes on from there.
    let (_state, store) = open(folder).unwrap_or_else(|e| panic!("{what}: once more: {e}"));
    let (key, value) = content.rows.iter().next().unwrap();
    assert!(store.rows.get(Table::Inode, key).unwrap().as_ref() == Some(value));
    (Outcome::Whole, String::new())
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(u64),
    Cut(u64),
    Remove,
    Foreign,
}

impl Damage {
    fn name(self) -> &'static str {
        match self {
            Self::Flip(_) => "one byte changed",
            Self::Cut(_) => "cut short",
            Self::Remove => "missing",
            Self::Foreign => "another folder's",
        }
    }

    /// Returns whether there was anything to do.
    fn to(self, path: &Path, foreign: &Path, rng: &Rng) -> bool {
        let bytes = fs::read(path).unwrap();
        match self {
            Self::Flip(at) => {
                let mut bytes = bytes;
                bytes[at as usize] ^= 1 << rng.below(8);
                fs::write(path, bytes).unwrap();
            }
            Self::Cut(len) => fs::write(path, &bytes[..len as usize]).unwrap(),
            Self::Remove => fs::remove_file(path).unwrap(),
            Self::Foreign => match fs::read(foreign) {
                Ok(other) if other != bytes => fs::write(path, other).unwrap(),
                _ => return false,
            },
        }
        true
    }
}

/// Returns what a file is called in the table of damages.
fn class(inside: &Path) -> String {
    let text = inside.to_str().unwrap();
    let digits = |c: char| c.is_ascii_digit();
    let name = inside.file_name().unwrap().to_str().unwrap();
    match inside.extension().and_then(|extension| extension.to_str()) {
        Some("wal" | "chunks" | "jnl") => {
            text.replace(name, &format!("*.{}", name.rsplit('.').next().unwrap()))
        }
        _ if name.trim_start_matches('v').chars().all(digits) => {
            let star = if name.starts_with('v') { "v*" } else { "*" };
            format!("{}/{star}", inside.parent().unwrap().display())
        }
        _ => text.to_owned(),
    }
}

#[test]
fn whatever_is_changed_is_refused_or_healed_or_harmless() {
    let seed = std::env::var("DFS_SEED").map_or(5, |seed| seed.parse().unwrap());
    let places = std::env::var("DFS_PLACES").map_or(400, |places| places.parse().unwrap());
    println!("seed {seed}");
    let rng = Rng::from_seed(seed);
    let root = folder();
    let (other, _, _) = {
        let made = make(&root.path().join("other"), 1);
        (root.path().join("other"), made.0, drop((made.1, made.2)))
    };
    let live = root.path().join("live");
    let (content, state, store) = make(&live, 0);
    // As a kill leaves it, and as an orderly end does. No file goes while they are copied.
    store.gate.close();
    let killed = root.path().join("killed");
    copy(&live, &killed);
    drop((store, state));
    let mut table: BTreeMap<(String, &str, Outcome), (u32, String)> = BTreeMap::new();
    let mut count = 0;
    for from in [&killed, &live] {
        let all = files(from);
        let inside = |path: &PathBuf| path.strip_prefix(from).unwrap().to_owned();
        let all: Vec<PathBuf> = all
            .iter()
            .map(inside)
            .filter(|path| path != Path::new("lock"))
            .collect();
        assert!(
            all.iter()
                .any(|path| path.starts_with("rows/keyspaces/1/tables"))
        );
        let mut damages = Vec::new();
        for path in &all {
            let len = fs::metadata(from.join(path)).unwrap().len();
            damages.extend([(path, Damage::Remove), (path, Damage::Foreign)]);
            if len > 0 {
                damages.push((path, Damage::Cut(0)));
                damages.push((path, Damage::Cut(rng.below(len))));
                damages.push((path, Damage::Cut(len - 1)));
                damages.push((path, Damage::Flip(0)));
                damages.push((path, Damage::Flip(len - 1)));
            }
        }
        let bytes: Vec<(&PathBuf, u64)> = all
            .iter()
            .map(|path| (path, fs::metadata(from.join(path)).unwrap().len()))
            .filter(|(_, len)| *len > 0)
            .collect();
        for _ in 0..places / 2 {
            let (path, len) = bytes[rng.below(bytes.len() as u64) as usize];
            damages.push((path, Damage::Flip(rng.below(len))));
        }
        for (path, damage) in damages {
            let trial = root.path().join("trial");
            copy(from, &trial);
            let what = format!("seed {seed}: {damage:?} of {}", path.display());
            if damage.to(&trial.join(path), &other.join(path), &rng) {
                let may_lose = path.starts_with("chunks");
                let (outcome, said) = check(&trial, &content, may_lose, &what);
                let said = said.replace(trial.to_str().unwrap(), "STATE");
                let entry = table.entry((class(path), damage.name(), outcome));
                entry.or_insert((0, said)).0 += 1;
                count += 1;
            }
            fs::remove_dir_all(&trial).unwrap();
        }
    }
    println!("{count} damages");
    for ((path, damage, outcome), (times, said)) in &table {
        println!("{path} | {damage} | {outcome:?} | {times} | {said}");
    }
    // Not everything is refused, and not everything is taken.
    assert!(table.keys().any(|(.., outcome)| *outcome == Outcome::Whole));
    assert!(
        table
            .keys()
            .any(|(.., outcome)| *outcome == Outcome::Refused)
    );
}

#[test]
fn folders_that_are_missing_or_anothers_are_refused() {
    let root = folder();
    let live = root.path().join("live");
    let (content, state, store) = make(&live, 0);
    drop((store, state));
    let other = root.path().join("other");
    drop(make(&other, 1));
    for missing in ["rows", "wal", "chunks"] {
        for foreign in [false, true] {
            let trial = root.path().join("trial");
            copy(&live, &trial);
            fs::remove_dir_all(trial.join(missing)).unwrap();
            if foreign {
                copy(&other.join(missing), &trial.join(missing));
            }
            let what = format!("{missing}, another's: {foreign}");
            // Chunks of another folder lie elsewhere or are others; each is told when it is read.
            let (outcome, said) = check(&trial, &content, missing == "chunks", &what);
            println!("{what}: {outcome:?} {said}");
            let refused = missing != "chunks" || !foreign;
            assert_eq!(outcome == Outcome::Refused, refused, "{what}");
            fs::remove_dir_all(&trial).unwrap();
        }
    }
    // The key: gone, another's, open to others.
    let key = live.join("identity.key");
    let bytes = read_private(&key).unwrap().unwrap();
    fs::remove_file(&key).unwrap();
    let (_, said) = check(&live, &content, false, "no key");
    assert!(
        said.contains("identity.key is missing: put it back"),
        "{said}"
    );
    assert!(!key.exists());
    fs::copy(other.join("identity.key"), &key).unwrap();
    let (_, said) = check(&live, &content, false, "another's key");
    assert!(
        said.contains("is the key of another state folder"),
        "{said}"
    );
    fs::remove_file(&key).unwrap();
    write_private(&key, &bytes).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (outcome, said) = check(&live, &content, false, "an open key");
    assert_eq!(outcome, Outcome::Refused, "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(check(&live, &content, false, "all well").0, Outcome::Whole);
}

#[test]
fn records_that_were_exchanged_are_found_whether_by_accident_or_on_purpose() {
    let root = folder();
    let state = root.path().join("state");
    let held = StateDir::open_or_create(&state).unwrap();
    let key = identity(0).local_key();
    let store = Store::open_with(&state, &key, &options()).unwrap();
    let sealed = [vec![1; 5000], vec![2; 5000], vec![3; 5000]];
    let ids: Vec<ChunkId> = sealed.iter().map(|sealed| chunk_id(sealed)).collect();
    for (id, sealed) in ids.iter().zip(&sealed) {
        store.chunks.put(*id, sealed).unwrap();
    }
    store.sync().unwrap();
    drop(store);
    let path = state.join("chunks/00000001.chunks");
    let bytes = fs::read(&path).unwrap();
    let record = |n: usize| 4096 + n * 8192..4096 + n * 8192 + 48 + 5000;
    let check = |exchanged: &[u8], what: &str| {
        fs::write(&path, exchanged).unwrap();
        let store = Store::open_with(&state, &key, &options()).unwrap();
        for n in [0, 1] {
            let read = store.chunks.get(ids[n]);
            assert!(
                matches!(read, Err(StoreError::Corrupt { .. })),
                "{what}: {read:?}"
            );
        }
        assert_eq!(store.chunks.get(ids[2]).unwrap().unwrap(), sealed[2]);
        // Who reads a part gets the head of the chunk that was asked for, under which it has to open.
        for n in 0..3 {
            let part = store.chunks.get_part(ids[n], &|_| 4990..6000).unwrap();
            let part = part.unwrap();
            assert_eq!((part.len, part.bytes.len()), (5000, 10));
            assert_eq!(part.head, sealed[n][..part.head.len()]);
        }
    };
    // A write that went astray takes its header along.
    let mut astray = bytes.clone();
    astray[record(0)].copy_from_slice(&bytes[record(1)]);
    astray[record(1)].copy_from_slice(&bytes[record(0)]);
    check(&astray, "astray");
    // Who does it on purpose leaves the headers.
    let body = |n: usize| record(n).start + 48..record(n).end;
    let mut forged = bytes.clone();
    forged[body(0)].copy_from_slice(&bytes[body(1)]);
    forged[body(1)].copy_from_slice(&bytes[body(0)]);
    check(&forged, "forged");
    fs::write(&path, &bytes).unwrap();
    // What is put again over bytes that rotted is there.
    let mut rotten = bytes.clone();
    rotten[body(1)][77] ^= 4;
    fs::write(&path, &rotten).unwrap();
    let store = Store::open_with(&state, &key, &options()).unwrap();
    store.chunks.put(ids[1], &sealed[1]).unwrap();
    for n in 0..3 {
        assert_eq!(store.chunks.get(ids[n]).unwrap().unwrap(), sealed[n]);
    }
    assert_eq!(store.chunks.usage().count, 3);
    drop(held);
}

#[test]
fn what_is_left_of_a_damaged_folder_can_be_read_and_the_folder_stays_as_it_is() {
    let root = folder();
    let live = root.path().join("live");
    let (content, state, store) = make(&live, 0);
    drop((store, state));
    let inside = |path: &PathBuf| path.strip_prefix(&live).unwrap().to_owned();
    let all: Vec<PathBuf> = files(&live).iter().map(inside).collect();
    let rng = Rng::from_seed(3);
    for path in &all {
        let name = path.to_str().unwrap();
        let is_vital =
            name == "identity.key" || name == "lock" || name.starts_with("rows/keyspaces/0/tables");
        if is_vital {
            continue;
        }
        for damage in [Damage::Remove, Damage::Cut(0)] {
            let trial = root.path().join("trial");
            copy(&live, &trial);
            damage.to(&trial.join(path), path, &rng);
            let what = format!("{damage:?} of {name}");
            let before = image(&trial);
            let (store, rescued) = Store::rescue(&trial, &identity(0).local_key())
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            let read = content.rows.iter().filter(|(key, value)| {
                let row = store.rows.get(Table::Inode, key).unwrap();
                row.as_ref() == Some(*value)
            });
            let read = read.count();
            // All that is not in the file that is gone; most of the rows are in one table, or their
            // values in one blob file, and only the version tells in which order tables count.
            let is_table = ["tables/", "blobs/", "keyspaces/1/v"]
                .iter()
                .any(|part| name.contains(part));
            assert!(
                is_table || read * 4 >= content.rows.len(),
                "{what}: {read} of {}: {rescued:?}",
                content.rows.len()
            );
            if !name.starts_with("rows") && !name.starts_with("wal") {
                assert_eq!(read, content.rows.len(), "{what}");
            }
            drop(store);
            assert!(image(&trial) == before, "{what}: the folder was changed");
            fs::remove_dir_all(&trial).unwrap();
        }
    }
}
