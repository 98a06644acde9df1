//! Batches of any size are applied whole or not at all, whatever happens on the way.

use super::*;
use crate::base::Rng;
use crate::store::layer::LayeredRows;
use crate::store::memory::MemoryDisk;
use crate::store::told::{RowsDone, ToldRows};
use crate::store::{KEY_MAX_BYTES, Store};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Small sizes: most batches of these tests go in many steps.
fn open(disk: &MemoryDisk) -> StagedRows {
    StagedRows::with_sizes(disk.bare_rows(), 200, 60).unwrap()
}

fn key(rng: &Rng) -> Vec<u8> {
    vec![b'k', rng.below(40) as u8]
}

fn random(rng: &Rng, model: &mut Model) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..rng.below(60) {
        let key = key(rng);
        if rng.below(3) == 0 {
            batch.delete(Table::Inode, &key);
            model.remove(&key);
        } else {
            let value = vec![rng.below(256) as u8; rng.below(20) as usize];
            batch.put(Table::Inode, &key, value.clone());
            model.insert(key, value);
        }
    }
    // A neighbour that must not be met.
    batch.put(Table::Dirent, b"k", b"other");
    batch
}

fn listed(
    rows: &StagedRows,
    start: &[u8],
    end: Option<&[u8]>,
    reverse: bool,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    if reverse {
        rows.scan_rev(Table::Inode, start, end, &mut visit).unwrap();
    } else {
        rows.scan(Table::Inode, start, end, &mut visit).unwrap();
    }
    found
}

fn check(rows: &StagedRows, model: &Model, seed: u64) {
    for (start, end) in [(0, None), (7, Some(23))] {
        let (start, end) = (vec![b'k', start], end.map(|end| vec![b'k', end]));
        let within = |key: &Vec<u8>| *key >= start && end.as_ref().is_none_or(|end| key < end);
        let mut expected: Vec<_> = model
            .clone()
            .into_iter()
            .filter(|(key, _)| within(key))
            .collect();
        assert_eq!(
            listed(rows, &start, end.as_deref(), false),
            expected,
            "seed {seed}"
        );
        expected.reverse();
        assert_eq!(
            listed(rows, &start, end.as_deref(), true),
            expected,
            "seed {seed}"
        );
    }
    for number in 0..40 {
        let key = vec![b'k', number];
        let value = rows.get(Table::Inode, &key).unwrap();
        assert_eq!(value.as_ref(), model.get(&key), "seed {seed}");
    }
    let mut first = None;
    rows.scan_keys(Table::Inode, &[], None, &mut |key| {
        first = Some(key.to_vec());
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(first.as_ref(), model.keys().next(), "seed {seed}");
}

#[test]
fn batches_of_any_size_are_applied_whole() {
    for seed in 0..60 {
        let rng = Rng::from_seed(seed);
        let disk = MemoryDisk::new();
        let (rows, mut model) = (open(&disk), Model::new());
        for _ in 0..20 {
            rows.commit(random(&rng, &mut model)).unwrap();
            check(&rows, &model, seed);
        }
        assert!(disk.take_largest_batch() < 40);
    }
}

#[test]
fn a_power_cut_leaves_all_of_a_batch_or_none() {
    for seed in 0..300 {
        let rng = Rng::from_seed(seed);
        let disk = MemoryDisk::new();
        let rows = open(&disk);
        // The state behind each batch: a cut leaves one of them.
        let mut states = vec![Model::new()];
        for round in 0..6 {
            let mut model = states.last().unwrap().clone();
            rows.commit(random(&rng, &mut model)).unwrap();
            states.push(model);
            if round == 2 {
                rows.sync().unwrap();
                states.drain(..states.len() - 1);
            }
        }
        let left = open(&disk.crash(&rng));
        let found: Model = listed(&left, &[], None, false).into_iter().collect();
        assert!(states.contains(&found), "seed {seed}");
        check(&left, &found, seed);
        let mut rest = 0;
        left.inner
            .scan_keys(Table::Staged, &[], None, &mut |_| {
                rest += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(rest, 0, "seed {seed}: staged rows are left");
    }
}

#[test]
fn a_disk_that_runs_full_on_the_way_leaves_all_of_a_batch_or_none() {
    for seed in 0..300 {
        let rng = Rng::from_seed(seed);
        let disk = MemoryDisk::new();
        let (rows, mut model) = (open(&disk), Model::new());
        rows.commit(random(&rng, &mut model)).unwrap();
        for _ in 0..6 {
            disk.set_writes_left(Some(rng.below(30)));
            let mut next = model.clone();
            match rows.commit(random(&rng, &mut next)) {
                Ok(()) => model = next,
                Err(StoreError::Full) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
            check(&rows, &model, seed);
            disk.set_writes_left(None);
        }
        let mut next = model.clone();
        rows.commit(random(&rng, &mut next)).unwrap();
        check(&rows, &next, seed);
    }
}

#[test]
fn rows_can_be_removed_while_a_full_disk_keeps_the_rest_from_moving() {
    let (mut model, mut large) = (Model::new(), Batch::new());
    for number in 0..40 {
        let key = vec![b'k', number];
        large.put(Table::Inode, &key, vec![number; 16]);
        model.insert(key, vec![number; 16]);
    }
    // Room for what is staged, and for less than what is moved.
    let stuck = (0..4_000).find_map(|capacity| {
        let disk = MemoryDisk::new();
        let rows = open(&disk);
        disk.set_capacity(Some(capacity));
        let committed = rows.commit(large.clone()).is_ok();
        (committed && rows.is_turned()).then_some((disk, rows))
    });
    let (disk, rows) = stuck.expect("a disk that runs full between the turn and the last move");
    check(&rows, &model, 0);
    for number in (0..40).step_by(3) {
        let key = vec![b'k', number];
        let mut batch = Batch::new();
        batch.delete(Table::Inode, &key);
        // What takes no more than is taken still fits.
        disk.set_capacity(Some(disk.used_bytes()));
        rows.commit(batch).unwrap();
        assert!(rows.is_turned());
        model.remove(&key);
        check(&rows, &model, 0);
    }
    disk.set_capacity(None);
    rows.commit(Batch::new()).unwrap();
    assert!(!rows.is_turned());
    check(&rows, &model, 0);
    check(&open(&disk), &model, 0);
}

#[test]
fn no_commit_is_much_greater_than_a_step_and_no_step_is_much_smaller() {
    for (count, len) in [(100, 3), (30, 100)] {
        let told = ToldRows::new(Store::memory().rows);
        let rows = StagedRows::with_sizes(Arc::clone(&told) as _, 200, 60).unwrap();
        let mut batch = Batch::new();
        for n in 0..count {
            batch.put(Table::Inode, [n], vec![n; len]);
        }
        let bytes = bytes_of(&batch);
        told.take();
        rows.commit(batch).unwrap();
        let commits = told.take_commits();
        // Each row is staged, and then moved and unstaged.
        let most = 60 + 3 * (len + 4);
        assert!(commits.iter().all(|commit| *commit <= most), "{commits:?}");
        assert!(commits.len() <= 4 + 2 * bytes / 60, "{commits:?}");
        assert_eq!(listed(&rows, &[], None, false).len(), usize::from(count));
    }
}

#[test]
fn of_a_great_batch_with_a_key_that_is_too_long_nothing_is_left() {
    let told = ToldRows::new(Store::memory().rows);
    let rows = StagedRows::with_sizes(Arc::clone(&told) as _, 200, 60).unwrap();
    let mut batch = Batch::new();
    for n in 0..10 {
        batch.put(Table::Inode, [n], [n; 50]);
    }
    batch.put(Table::Inode, [255; KEY_MAX_BYTES], []);
    told.take();
    let refused = rows.commit(batch);
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    // Ten rows in steps of two at least, the refusal, and what takes them back.
    assert!(told.take_commits().len() <= 5 + 1 + 1);
    assert!(listed(&rows, &[], None, false).is_empty());
    let mut visit = |_: &[u8]| -> ControlFlow<()> { panic!("something is left") };
    told.scan_keys(Table::Staged, &[], None, &mut visit)
        .unwrap();
}

#[test]
fn whoever_syncs_or_settles_reaches_the_rows_below() {
    let told = ToldRows::new(Store::memory().rows);
    let below = || Arc::clone(&told) as Arc<dyn Rows>;
    let layered = Arc::new(LayeredRows::open(below(), |_, _| true).unwrap());
    let layer = layered.begin().unwrap();
    let staged = StagedRows::open(below()).unwrap();
    for rows in [&*layered as &dyn Rows, &layer, &staged] {
        told.take();
        rows.sync().unwrap();
        rows.settle().unwrap();
        assert_eq!(told.take(), [RowsDone::Sync, RowsDone::Settle]);
    }
}
