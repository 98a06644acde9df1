//! A state folder that is rebuilt, with the power cut, or the process killed, at every step of it: what is
//! left is the old contents or the new ones, never some of each, and a repair that is begun again ends it.

use std::fs;
use std::path::Path;

use dfs::base::{ChunkId, Rng};
use dfs::crypto::chunk_id;
use dfs::store::{Batch, Rebuild, StateDir, Store, StoreError, Table};

use super::disk::Disk;
use super::trace::Event;
use super::{FOLDER_VARIABLE, KEY, LOSSES, options, record_test};

/// Which contents there are.
const MARK: &[u8] = b"contents";

const CHUNK: &[u8] = b"of a chunk";

fn chunk() -> ChunkId {
    chunk_id(CHUNK)
}

fn mark(store: &Store, which: &[u8]) {
    let mut batch = Batch::new();
    batch.put(Table::Meta, MARK, which);
    store.rows.commit(batch).unwrap();
    store.sync().unwrap();
}

fn marked(store: &Store) -> Option<Vec<u8>> {
    store.rows.get(Table::Meta, MARK).unwrap()
}

/// Makes a folder anew. Nothing is wrong with the old one, so that nothing but the repair itself says
/// that it is not to be used in between.
fn make_anew(state: &Path) {
    let (folder, _) = Rebuild::begin(state).unwrap();
    let (store, adopted) = folder.make(&KEY).unwrap();
    assert_eq!((adopted.kept, adopted.damaged), (1, 0));
    mark(&store, b"new");
    drop(store);
    folder.finish().unwrap();
}

/// Runs in the process that is traced.
#[test]
fn rebuilds_while_it_is_traced() {
    let Some(root) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let root = Path::new(&root);
    let state = root.join("state");
    drop(StateDir::open_or_create(&state).unwrap());
    let store = Store::open_with(&state, &KEY, &options()).unwrap();
    store.chunks.put(chunk(), CHUNK).unwrap();
    mark(&store, b"old");
    drop(store);
    fs::write(root.join("said"), "1\n").unwrap();
    make_anew(&state);
}

/// Opens a folder as a start does.
fn start(state: &Path) -> Result<Store, StoreError> {
    let held = StateDir::open_or_create(state)?;
    let store = Store::open_with(held.path(), &KEY, &options());
    drop(held);
    store
}

/// Checks what a cut left.
fn check(image: &Path) -> &'static str {
    let is_open = image.join("rebuilt/whole").exists();
    let is_refused = match start(image) {
        Ok(store) => {
            assert!(store.chunks.get(chunk()).unwrap().is_some());
            let which = marked(&store);
            drop(store);
            match which.as_deref() {
                Some(b"old") => return "old",
                Some(b"new") => false,
                other => panic!("{other:?}"),
            }
        }
        Err(StoreError::Unusable { .. }) => true,
        Err(error) => panic!("{error}"),
    };
    assert!(
        is_refused || !is_open,
        "what a start goes on to write would be set aside"
    );
    let (folder, aside) = Rebuild::begin(image).unwrap();
    assert!(
        aside.is_some() || !is_refused,
        "it is ended by who begins again"
    );
    drop(folder);
    let store = start(image).unwrap();
    assert_eq!(marked(&store).as_deref(), Some(&b"new"[..]));
    assert!(store.chunks.get(chunk()).unwrap().is_some());
    assert!(!image.join("rebuilt").exists());
    match is_refused {
        true => "in between",
        false => "new",
    }
}

#[test]
fn a_cut_anywhere_in_a_repair_leaves_the_old_or_the_new_and_never_some_of_each() {
    let base = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
    let name = "power_cut::rebuild::rebuilds_while_it_is_traced";
    let events = record_test(name, base.path(), 0);
    let mut disk = Disk::default();
    let (mut begun, mut is_whole, mut seen) = (false, false, Vec::new());
    for (step, event) in events.iter().enumerate() {
        disk.apply(event);
        begun |= matches!(event, Event::Said(_));
        if !begun {
            continue;
        }
        // What is in the new files matters to nobody before all of them are there.
        is_whole |= matches!(event, Event::Rename(_, to) if to == "rebuilt/whole");
        for (place, loss) in LOSSES.into_iter().enumerate() {
            let is_due = match is_whole {
                true => place == 0 || place == 1 + step % 3,
                false => step % 128 == 32 * place,
            };
            if !is_due {
                continue;
            }
            let image = base.path().join("image");
            disk.write_out(&image, loss, &Rng::from_seed(step as u64));
            let left = std::panic::catch_unwind(|| check(&image));
            let left = left.unwrap_or_else(|_| panic!("{loss:?} at step {step}, after {event:?}"));
            seen.push(left);
            fs::remove_dir_all(&image).unwrap();
        }
    }
    println!("{} cuts in {} steps", seen.len(), events.len());
    for which in ["old", "in between", "new"] {
        let count = seen.iter().filter(|seen| **seen == which).count();
        println!("{which}: {count}");
        assert!(count > 4, "{which} was seen {count} times");
    }
}
