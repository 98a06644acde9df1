//! Rows of a tree are those of which it was made, however they are asked for, and what is no tree is told.

use std::collections::BTreeMap;

use super::*;
use crate::base::Rng;
use crate::crypto::chunk_id;
use crate::store::Store;
use crate::volume::checkpoint::tree::{Growing, Item, Shared, Sizes};

type Nodes = Arc<Mutex<BTreeMap<ChunkId, Bytes>>>;

fn grow(rows: &BTreeMap<(u8, Vec<u8>), Vec<u8>>, sizes: Sizes) -> (Tree, Nodes) {
    let nodes = Nodes::default();
    let mut put = |plain: Bytes| {
        let id = chunk_id(&plain);
        nodes.lock().insert(id, plain);
        Ok(id)
    };
    let mut growing = Growing::new(sizes, &mut put);
    for ((tag, key), value) in rows {
        let item = Item {
            table: Table::from_tag(*tag).unwrap(),
            key: key.clone(),
            value: value.clone(),
            shared: Shared::Whole,
        };
        growing.add(&item).unwrap();
    }
    let (tree, _) = growing.end().unwrap();
    (tree, nodes)
}

fn rows_of(tree: Tree, nodes: &Nodes) -> TreeRows {
    let nodes = Arc::clone(nodes);
    TreeRows::new(tree, Arc::new(move |id| Ok(nodes.lock().get(id).cloned())))
}

fn some(rng: &Rng, count: u64) -> BTreeMap<(u8, Vec<u8>), Vec<u8>> {
    let mut rows = BTreeMap::new();
    for _ in 0..count {
        let table = [Table::Inode, Table::Extent, Table::Dated][rng.below(3) as usize];
        let key = vec![rng.below(8) as u8; 1 + rng.below(4) as usize];
        // Now and then longer than a leaf, and than several.
        let len = match rng.below(20) {
            0 => rng.below(2000),
            1 => 128 * rng.below(5),
            _ => rng.below(40),
        };
        rows.insert((table.tag(), key), vec![rng.below(250) as u8; len as usize]);
    }
    rows
}

type Seen = Vec<(Vec<u8>, Vec<u8>)>;

fn seen(
    rows: &dyn Rows,
    table: Table,
    (start, end): (&[u8], Option<&[u8]>),
    most: usize,
) -> [Seen; 2] {
    let [mut forwards, mut backwards] = [Seen::new(), Seen::new()];
    let add = |seen: &mut Seen, key: &[u8], value: &[u8]| {
        seen.push((key.to_vec(), value.to_vec()));
        match seen.len() < most {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let f = &mut |key: &[u8], value: &[u8]| add(&mut forwards, key, value);
    rows.scan(table, start, end, f).unwrap();
    let f = &mut |key: &[u8], value: &[u8]| add(&mut backwards, key, value);
    rows.scan_rev(table, start, end, f).unwrap();
    [forwards, backwards]
}

#[test]
fn rows_of_a_tree_are_those_that_were_put_there() {
    for seed in 0..60 {
        let rng = Rng::from_seed(seed);
        let count = [0, 1, 3, 40, 400][rng.below(5) as usize];
        let (rows, like) = (some(&rng, count), Store::memory().rows);
        let mut batch = Batch::new();
        for ((tag, key), value) in &rows {
            batch.put(Table::from_tag(*tag).unwrap(), key.clone(), value.clone());
        }
        like.commit(batch).unwrap();
        let (tree, nodes) = grow(&rows, Sizes::TINY);
        assert!(count < 400 || tree.level > 1, "seed {seed}");
        let of = rows_of(tree, &nodes);
        for _ in 0..100 {
            let table = [Table::Inode, Table::Dirent, Table::Extent, Table::Dated];
            let table = table[rng.below(4) as usize];
            let key = || vec![rng.below(9) as u8; rng.below(5) as usize];
            let (start, end) = (key(), key());
            let most = 1 + rng.below(20) as usize;
            let end = Some(&*end).filter(|_| rng.below(3) > 0);
            let told = format!("seed {seed}, {table:?} {start:?}..{end:?}");
            assert_eq!(
                of.get(table, &start).unwrap(),
                like.get(table, &start).unwrap(),
                "{told}"
            );
            let span = (&*start, end);
            assert_eq!(
                seen(&of, table, span, most),
                seen(&*like, table, span, most),
                "{told}"
            );
        }
    }
}

#[test]
fn a_row_is_found_by_one_way_down() {
    let rng = Rng::from_seed(1);
    let rows = some(&rng, 400);
    let (tree, nodes) = grow(&rows, Sizes::TINY);
    for ((tag, key), value) in rows.iter().filter(|(_, value)| value.len() < 100) {
        let (read, table) = (Arc::new(Mutex::new(0)), Table::from_tag(*tag).unwrap());
        let (nodes, count) = (Arc::clone(&nodes), Arc::clone(&read));
        let source = move |id: &ChunkId| {
            *count.lock() += 1;
            Ok(nodes.lock().get(id).cloned())
        };
        let of = TreeRows::new(tree, Arc::new(source));
        assert_eq!(of.get(table, key).unwrap().as_ref(), Some(value));
        assert_eq!(*read.lock(), usize::from(tree.level) + 1);
    }
}

#[test]
fn what_is_elsewhere_is_told_and_what_is_no_tree_too() {
    let rng = Rng::from_seed(2);
    let rows = some(&rng, 400);
    let (tree, nodes) = grow(&rows, Sizes::TINY);
    let all = nodes.lock().clone();
    let read = |of: &TreeRows| {
        let mut keys = 0;
        for table in [Table::Inode, Table::Extent, Table::Dated] {
            of.scan(table, &[], None, &mut |_, _| {
                keys += 1;
                ControlFlow::Continue(())
            })?;
        }
        Ok::<_, StoreError>(keys)
    };
    assert_eq!(read(&rows_of(tree, &nodes)).unwrap(), rows.len());
    for (id, plain) in &all {
        nodes.lock().remove(id);
        let told = read(&rows_of(tree, &nodes)).unwrap_err();
        assert!(matches!(told, StoreError::Elsewhere { id: of } if of == *id));
        // Another node of the tree in its place, and bytes that are none.
        let other = all
            .iter()
            .find(|(of, _)| *of != id)
            .map(|(_, plain)| plain.clone());
        let mut spoilt = plain.to_vec();
        let at = rng.below(spoilt.len() as u64) as usize;
        spoilt[at] ^= 1 << rng.below(8);
        for wrong in [
            other.unwrap(),
            plain.slice(..plain.len() - 1),
            Bytes::new(),
            spoilt.into(),
        ] {
            nodes.lock().insert(*id, wrong);
            // Whatever it says, it does not end the program.
            let _ = read(&rows_of(tree, &nodes));
        }
        nodes.lock().insert(*id, plain.clone());
    }
    let deep = Tree { level: 200, ..tree };
    assert!(read(&rows_of(deep, &nodes)).is_err());
    assert!(matches!(
        rows_of(tree, &nodes).commit(Batch::new()),
        Err(StoreError::OfThePast)
    ));
}

#[test]
fn rows_out_of_order_are_no_tree() {
    let rng = Rng::from_seed(3);
    let rows = some(&rng, 100);
    let (tree, nodes) = grow(&rows, Sizes::WHOLE);
    let plain = nodes.lock()[&tree.root].clone();
    let twice = [&plain[..], &plain[2..]].concat();
    nodes.lock().insert(tree.root, twice.into());
    let of = rows_of(tree, &nodes);
    assert!(matches!(
        of.get(Table::Inode, &[1]),
        Err(StoreError::Corrupt { .. })
    ));
}
