//! A state folder that is rebuilt: what only this machine has is there afterwards.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

use dfs::base::Rng;
use dfs::crypto::{Identity, LocalKey, chunk_id};
use dfs::node::Restored;
use dfs::store::{Batch, Rebuild, StateDir, Store, Table};
use dfs::volume::{OpKind, Piece, Source, Volume};

use super::cluster::{Device, sync, write};
use super::removal::{company, demote};

static KEY: LazyLock<LocalKey> =
    LazyLock::new(|| Identity::generate(&Rng::from_seed(1)).unwrap().local_key());

const CHUNK: &[u8] = b"of a chunk that only this machine has";

/// Makes a state folder of what a device in memory has, and of the chunk.
fn lay(device: &Device, state: &Path) {
    drop(StateDir::open_or_create(state).unwrap());
    let store = Store::open(state, &KEY).unwrap();
    for table in Table::ALL {
        let mut batch = Batch::new();
        let mut take = |key: &[u8], value: &[u8]| {
            batch.put(*table, key, value);
            ControlFlow::Continue(())
        };
        device
            .store
            .rows
            .scan(*table, &[], None, &mut take)
            .unwrap();
        store.rows.commit(batch).unwrap();
    }
    store.chunks.put(chunk_id(CHUNK), CHUNK).unwrap();
    store.sync().unwrap();
}

/// Does what a repair does before it asks the others for what they have.
fn repair(state: &Path) {
    let (folder, _) = Rebuild::begin(state).unwrap();
    let (old, _) = Store::rescue(state, &KEY).unwrap();
    let restored = Restored::of_store(&old).unwrap().expect("its volume");
    let (new, _) = folder.make(&KEY).unwrap();
    let mut own = Batch::new();
    Volume::ask_anew(&mut own);
    restored.lay(&new, &old, own).unwrap();
    drop((old, new));
    folder.finish().unwrap();
}

#[test]
fn what_was_set_aside_is_there_when_the_state_folder_was_rebuilt() {
    let mut devices = company(3);
    devices[1].put("shared", "of all");
    sync(&devices);
    let demoted = &devices[2];
    demoted.mkdir("d");
    demoted.put("d/words", "that nobody had");
    let mut large = write(
        demoted.make("d/large", dfs::volume::FileKind::File),
        Default::default(),
        "",
    );
    if let OpKind::Write(write) = &mut large {
        write.base = demoted.at("d/large").version;
        write.size = CHUNK.len() as u64;
        write.pieces = vec![Piece {
            offset: 0,
            len: write.size,
            src: Some(Source::Chunk {
                id: chunk_id(CHUNK),
                skip: 0,
            }),
        }];
    }
    demoted.apply(large);
    demote(&devices);
    let base = tempfile::tempdir().unwrap();
    let state = base.path().join("state");
    lay(&devices[2], &state);
    std::fs::write(state.join("format"), b"nonsense").unwrap();
    assert!(Store::open(&state, &KEY).is_err(), "it is damaged");
    repair(&state);
    let store = Store::open(&state, &KEY).unwrap();
    assert_eq!(
        store.chunks.get(chunk_id(CHUNK)).unwrap().as_deref(),
        Some(CHUNK)
    );
    devices[2].open_on(store);
    devices[2].pull(&devices[0], usize::MAX);
    let rebuilt = &devices[2];
    assert_eq!(rebuilt.text("shared"), "of all");
    assert_eq!(rebuilt.volume.aside(), 2);
    assert_eq!(rebuilt.list(".dfs/aside/d"), ["large", "words"]);
    assert_eq!(rebuilt.text(".dfs/aside/d/words"), "that nobody had");
    let large = rebuilt.at(".dfs/aside/d/large");
    let extents = rebuilt.volume.extents(large.ino, 0..u64::MAX).unwrap();
    let chunk = Source::Chunk {
        id: chunk_id(CHUNK),
        skip: 0,
    };
    assert!(extents.len() == 1 && extents[0].src == chunk, "{extents:?}");
}
