//! Tests of the inode table.

use std::collections::BTreeSet;

use super::*;
use crate::base::Timespec;

const INO: Ino = Ino(7);

#[test]
fn an_inode_stays_until_the_last_lookup_and_handle_are_given_back() {
    let table = InodeTable::default();
    assert!(table.remember(INO).is_none());
    assert!(table.remember(INO).is_none());
    assert!(table.opened(INO, false));
    assert!(!table.opened(INO, false));
    assert!(table.forget(INO, 2).is_none());
    assert!(table.closed(INO).dropped.is_none());
    assert_eq!(table.counts(), (1, 0, 0));
    assert!(
        table
            .closed(INO)
            .dropped
            .is_some_and(|dropped| dropped.held)
    );
    assert_eq!(table.counts(), (0, 0, 0));
    assert!(table.forget(INO, 1).is_none());
}

#[test]
fn a_dirty_inode_stays_until_it_is_written() {
    let table = InodeTable::default();
    let node = table.node(INO);
    table.mark_dirty(&node);
    assert!(Arc::ptr_eq(&node, &table.node(INO)));
    assert_eq!(table.dirty().len(), 1);
    assert!(table.mark_clean(INO).is_some_and(|dropped| !dropped.held));
    assert!(!table.is_known(INO));
}

#[test]
fn what_waits_to_be_written_comes_in_ascending_order() {
    let table = InodeTable::default();
    // All shards, and more than one inode in each.
    for ino in (0..3 * SHARDS as u64).rev() {
        table.mark_dirty(&table.node(Ino(ino)));
    }
    let dirty: Vec<u64> = table.dirty().iter().map(|node| node.ino.0).collect();
    assert_eq!(dirty, (0..3 * SHARDS as u64).collect::<Vec<_>>());
}

#[test]
fn an_inode_that_is_looked_up_alone_is_a_slot_alone() {
    let table = InodeTable::default();
    assert!(table.remember(INO).is_none());
    assert!(table.known(INO).is_none() && table.all().is_empty());
    // With number, and the control byte of the map, at three quarters of its load.
    let bytes = (size_of::<(Ino, Slot)>() + 1) * 4 / 3;
    assert!(bytes <= 48, "{bytes} bytes an inode");
    let bytes = size_of::<Node>() + 2 * size_of::<usize>();
    assert!(bytes <= 128, "{bytes} bytes of a node");
}

#[test]
fn everybody_gets_the_same_node_while_anybody_has_it() {
    let table = InodeTable::default();
    let _ = table.remember(INO);
    let mine = table.node(INO);
    let theirs = table.node(INO);
    assert!(Arc::ptr_eq(&mine, &theirs));
    // They are done with it; I am not.
    table.rest(theirs);
    assert!(Arc::ptr_eq(&mine, &table.node(INO)));
    assert!(Arc::ptr_eq(&mine, &table.remember(INO).unwrap()));
    table.rest(mine);
    assert!(table.known(INO).is_none() && table.is_known(INO));
}

#[test]
fn a_node_with_something_to_know_stays_as_long_as_the_kernel_knows_the_inode() {
    let time = Timespec { secs: 1, nanos: 2 };
    let notes: [fn(&mut Content, Timespec); 4] = [
        |content, time| content.atime = Atime::Changed(time),
        |content, _| content.cached = Some(OpId::default()),
        |content, _| content.failed = Some(Box::new(FsError::NoSpace)),
        |content, _| content.charged = 1,
    ];
    for note in notes {
        let table = InodeTable::default();
        let _ = table.remember(INO);
        let node = table.node(INO);
        note(&mut node.content(), time);
        table.rest(node);
        assert!(!table.opened(INO, false) || table.closed(INO).node.is_some());
        let node = table.known(INO).unwrap();
        assert!(!node.content().is_plain());
        drop(node);
        let dropped = table.forget(INO, 1).unwrap();
        assert!(dropped.node.is_some_and(|node| !node.content().is_plain()));
    }
    // What the disk says can be read again.
    let table = InodeTable::default();
    let _ = table.remember(INO);
    let node = table.node(INO);
    node.content().atime = Atime::Saved(None);
    table.rest(node);
    assert!(table.known(INO).is_none());
}

#[test]
fn a_node_stays_while_a_handle_is_open_or_changes_wait() {
    let table = InodeTable::default();
    let _ = table.remember(INO);
    let _ = table.opened(INO, false);
    table.rest(table.node(INO));
    assert!(table.known(INO).is_some());
    table.mark_dirty(&table.node(INO));
    assert!(table.closed(INO).node.is_some());
    table.rest(table.node(INO));
    assert!(table.known(INO).is_some());
    let _ = table.mark_clean(INO);
    table.rest(table.node(INO));
    assert!(table.known(INO).is_none());
}

#[test]
fn a_table_that_was_large_gives_its_memory_back() {
    let table = InodeTable::default();
    let sum = |of: fn(&Shard) -> usize| -> usize {
        table.shards.iter().map(|shard| of(&shard.lock())).sum()
    };
    let inodes = 400 * SHARDS as u64;
    for ino in 0..inodes {
        let _ = table.remember(Ino(ino));
    }
    assert!(sum(|shard| shard.slots.capacity()) >= 400 * SHARDS);
    // Half of it: nothing is moved, more may come again.
    for ino in 0..inodes / 2 {
        let _ = table.forget(Ino(ino), 1);
    }
    assert_eq!(sum(|shard| shard.most), 400 * SHARDS);
    // Three quarters and more: it is moved once and not with each that goes.
    for ino in inodes / 2..inodes * 4 / 5 {
        let _ = table.forget(Ino(ino), 1);
    }
    let most = sum(|shard| shard.most);
    assert!((100 * SHARDS..300 * SHARDS).contains(&most), "{most}");
    for ino in inodes * 4 / 5..inodes {
        let _ = table.forget(Ino(ino), 1);
    }
    assert_eq!(table.counts(), (0, 0, 0));
    let capacity = sum(|shard| shard.slots.capacity());
    assert!(capacity <= 2 * SHARD_CAPACITY_MIN * SHARDS, "{capacity}");
}

/// Returns a table with a limit, of which the given inodes are looked up, and how often it called.
fn crowded_table(most: usize, inodes: std::ops::Range<u64>) -> (InodeTable, Arc<AtomicUsize>) {
    let (table, calls) = (InodeTable::default(), Arc::new(AtomicUsize::new(0)));
    let of_table = Arc::clone(&calls);
    let crowded = move || {
        of_table.fetch_add(1, Ordering::Relaxed);
    };
    table.limit(most, Box::new(crowded));
    inodes.for_each(|ino| drop(table.remember(Ino(ino))));
    (table, calls)
}

#[test]
fn up_to_the_limit_there_is_no_excess_and_beyond_it_an_eighth_is_to_be_free() {
    let most = 8 * SHARDS;
    let (table, calls) = crowded_table(most, 0..most as u64);
    assert_eq!((table.excess(), calls.load(Ordering::Relaxed)), (0, 0));
    let _ = table.remember(Ino(most as u64));
    assert_eq!(table.excess(), 1 + most / 8);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let _ = table.forget(Ino(0), 1);
    assert_eq!(table.excess(), 0);
    // Nobody set a limit.
    let table = InodeTable::default();
    (0..1000).for_each(|ino| drop(table.remember(Ino(ino))));
    assert_eq!(table.excess(), 0);
}

#[test]
fn what_the_kernel_did_not_ask_for_since_the_last_round_goes_first() {
    let inodes = 10 * SHARDS as u64;
    let (table, _) = crowded_table(0, 0..inodes);
    // A first round takes the marks away, and a second one finds everything.
    let spare: BTreeSet<Ino> = table.spare(usize::MAX).into_iter().collect();
    assert_eq!(spare.len(), inodes as usize);
    // Looked up, opened and closed, or new.
    let asked: BTreeSet<Ino> = (0..inodes + 5).step_by(3).map(Ino).collect();
    for ino in &asked {
        match ino.0 % 2 {
            0 => drop(table.remember(*ino)),
            _ => {
                let _ = table.opened(*ino, false);
                let _ = table.closed(*ino);
            }
        }
    }
    let count = inodes as usize / 2;
    let spare: BTreeSet<Ino> = table.spare(count).into_iter().collect();
    assert_eq!(spare.len(), count);
    assert!(spare.is_disjoint(&asked));
}

#[test]
fn what_is_open_or_unwritten_is_not_spared() {
    let (table, _) = crowded_table(0, 0..10);
    let _ = table.opened(Ino(3), false);
    table.mark_dirty(&table.node(Ino(5)));
    let mut spare = table.spare(usize::MAX);
    spare.sort_unstable();
    assert_eq!(spare, [0, 1, 2, 4, 6, 7, 8, 9].map(Ino));
    let _ = table.closed(Ino(3));
    assert!(table.spare(usize::MAX).contains(&Ino(3)));
    assert!(table.spare(0).is_empty());
}

#[test]
fn a_search_for_spare_inodes_takes_away_what_there_is_nothing_to_know_in() {
    let (table, _) = crowded_table(0, 0..3);
    drop(table.node(Ino(0)));
    let mine = table.node(Ino(1));
    table.node(Ino(2)).content().cached = Some(OpId::default());
    let _ = table.spare(usize::MAX);
    assert!(table.known(Ino(0)).is_none());
    assert!(Arc::ptr_eq(&mine, &table.known(Ino(1)).unwrap()));
    assert!(table.known(Ino(2)).is_some());
}
