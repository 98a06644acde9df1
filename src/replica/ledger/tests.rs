//! The books against a naive set, and what it costs to ask them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::edit::join;
use super::window::{FIRST, after};
use super::{Holding, Kind, Ledger, Plan};
use crate::base::{ChunkId, PeerId, Rng};
use crate::replica::collect::{Collected, Terms};
use crate::replica::limits::HOLDERS_MAX;
use crate::store::memory::MemoryDisk;
use crate::store::{Batch, RowVisitor, Rows, Store, StoreError, Table};

/// Rows that count the scans, and the rows that these visit.
#[derive(Debug)]
struct Counted {
    rows: Arc<dyn Rows>,
    scans: AtomicU64,
    visits: AtomicU64,
}

impl Rows for Counted {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.rows.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        self.rows.scan(table, start, end, &mut |key, value| {
            self.visits.fetch_add(1, Ordering::Relaxed);
            f(key, value)
        })
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows.scan_rev(table, start, end, f)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.rows.commit(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.rows.sync()
    }
}

const PEERS: u8 = 3;

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn everyone() -> impl Iterator<Item = PeerId> {
    (1..=PEERS).map(peer)
}

/// Returns the chunk that tests call `n`, anywhere in the space of ids; the first two are its ends.
fn chunk(n: u64) -> ChunkId {
    match n {
        0 => FIRST,
        1 => ChunkId([u8::MAX; 32]),
        _ => ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes()),
    }
}

/// Returns a plan that queues a chunk for all but this peer, which is nobody.
fn plan(_: &ChunkId) -> Plan {
    Plan {
        me: peer(0),
        targets: everyone().collect(),
        wanted: usize::from(PEERS),
    }
}

fn author(ledger: &Ledger, ids: impl Iterator<Item = ChunkId>) {
    for id in ids {
        ledger.author(id, b"sealed", 0, &plan).unwrap();
    }
}

fn confirm(ledger: &Ledger, peer: PeerId, ids: &[ChunkId]) {
    let wanted = &|| usize::from(PEERS);
    ledger.confirm(peer, ids, u64::MAX, wanted).unwrap();
}

/// Goes through a queue as the push does, `count` ids at a time, and confirms what `takes` takes.
fn pass(
    ledger: &Ledger,
    peer: PeerId,
    start: ChunkId,
    count: usize,
    takes: &dyn Fn(&ChunkId) -> bool,
) -> Vec<ChunkId> {
    let mut all = Vec::new();
    let mut next = Some(start);
    while let Some(from) = next {
        let due = ledger.due(&peer, from, count).unwrap();
        let taken: Vec<ChunkId> = due.iter().copied().filter(|id| takes(id)).collect();
        confirm(ledger, peer, &taken);
        next = due.last().and_then(after);
        all.extend(due);
    }
    all
}

/// Returns what the rows say is queued for each peer.
fn queues(store: &Store) -> BTreeMap<PeerId, BTreeSet<ChunkId>> {
    let mut queues: BTreeMap<PeerId, BTreeSet<ChunkId>> = BTreeMap::new();
    store
        .rows
        .scan(Table::Pending, &[], None, &mut |key, _| {
            let (peer, id) = key.split_at(32);
            let queue = queues.entry(PeerId::from_slice(peer).unwrap()).or_default();
            queue.insert(ChunkId::from_slice(id).unwrap());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    queues
}

fn seed() -> u64 {
    match std::env::var("DFS_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => 8_205,
    }
}

#[test]
fn what_is_due_is_what_the_rows_say_whatever_was_done() {
    let first = seed();
    for seed in first..first + 12 {
        println!("DFS_SEED={seed}");
        run_model(seed);
    }
}

/// Edits at random, with a window of a few ids; and asks after each edit.
fn run_model(seed: u64) {
    let rng = Rng::from_seed(seed);
    let below = |n: u64| rng.below(n);
    let window_max = 2 + below(12) as usize;
    let chunks = 2 + below(60);
    let mut disk = MemoryDisk::new();
    let mut ledger = Ledger::load_with(disk.store(), window_max).unwrap();
    for step in 0..400 {
        let (id, to) = (chunk(below(chunks)), peer(1 + below(3) as u8));
        match below(20) {
            0..8 => {
                let mut plan = plan(&id);
                plan.targets.retain(|_| below(3) > 0);
                ledger.author(id, b"sealed", 0, &|_| plan.clone()).unwrap();
            }
            8..12 => confirm(&ledger, to, &[id]),
            12 => {
                ledger.lose(id).unwrap();
                disk.store().sync().unwrap();
            }
            13 => {
                let ranked: Vec<PeerId> = everyone().collect();
                let plan_of = |id: &ChunkId| (ranked.clone(), plan(id));
                ledger.redirect(to, id, &plan_of, &|_| true).unwrap();
            }
            // A member goes: its queue is dropped.
            14 => {
                let mut cursor = None;
                loop {
                    let plan_of = |id: &ChunkId| {
                        let mut plan = plan(id);
                        plan.targets.retain(|target| *target != to);
                        plan
                    };
                    let is_member = |peer: &PeerId| *peer != to;
                    cursor = ledger.recheck(cursor, 7, &plan_of, &is_member).unwrap();
                    if cursor.is_none() {
                        break;
                    }
                }
            }
            15 | 16 => {
                let all = pass(&ledger, to, id, 1 + below(4) as usize, &|_| below(3) > 0);
                assert!(all.is_sorted(), "{all:?}");
            }
            17 => {
                ledger.hold(&[id], 0).unwrap();
            }
            // Of the rows a prefix is left. The chunks are on the disk, as in a real store, where
            // their index is among the rows.
            18 => {
                drop(ledger);
                disk.store().chunks.sync().unwrap();
                disk = disk.crash(&rng);
                ledger = Ledger::load_with(disk.store(), window_max).unwrap();
            }
            _ => disk.store().sync().unwrap(),
        }
        if step % 10 == 0 {
            ledger.check();
        }
        let queues = queues(&disk.store());
        for _ in 0..3 {
            let (from, count) = (chunk(below(chunks)), 1 + below(6) as usize);
            let to = peer(1 + below(3) as u8);
            let expected: Vec<ChunkId> = queues
                .get(&to)
                .into_iter()
                .flat_map(|queue| queue.range(from..).take(count).copied())
                .collect();
            assert_eq!(ledger.due(&to, from, count).unwrap(), expected);
        }
    }
    ledger.check();
}

#[test]
fn a_queue_that_fits_memory_is_never_scanned() {
    let (ledger, rows) = counted(64);
    for round in 0..50 {
        author(&ledger, (0..20).map(|n| chunk(round * 20 + n)));
        for peer in everyone() {
            for start in [chunk(77), FIRST] {
                pass(&ledger, peer, start, 8, &|_| true);
            }
        }
    }
    assert_eq!(ledger.counters().queues.len(), 0);
    assert_eq!(rows.scans.load(Ordering::Relaxed), 0);
    ledger.check();
}

#[test]
fn a_long_queue_is_read_about_once_and_then_no_more() {
    let (ledger, rows) = counted(64);
    let chunks = 2_000;
    author(&ledger, (0..chunks).map(chunk));
    let start = chunk(77);
    for peer in everyone() {
        // The odd ones are refused at first, as by a peer that is nearly full.
        let takes = |id: &ChunkId| id.0[31].is_multiple_of(2);
        for from in [start, FIRST] {
            pass(&ledger, peer, from, 8, &takes);
        }
        for from in [start, FIRST] {
            pass(&ledger, peer, from, 8, &|_| true);
        }
        assert_eq!(ledger.queue(&peer).count, 0);
    }
    let (scans, visits) = (
        rows.scans.load(Ordering::Relaxed),
        rows.visits.load(Ordering::Relaxed),
    );
    let all = chunks * u64::from(PEERS);
    // All in the first pass, half of them in the second, and what lies where two legs meet.
    assert!(visits <= all * 2, "{visits} rows visited for {all}");
    assert!(scans <= all * 2 / 32 + 20, "{scans} scans for {all}");
    ledger.check();
}

#[test]
fn a_queue_that_became_short_is_in_memory_as_a_whole() {
    let (ledger, rows) = counted(64);
    author(&ledger, (0..500).map(chunk));
    let (to, start) = (peer(1), chunk(77));
    let refused: BTreeSet<ChunkId> = (0..500).step_by(25).map(chunk).collect();
    for from in [start, FIRST, start, FIRST] {
        pass(&ledger, to, from, 8, &|id| !refused.contains(id));
    }
    assert_eq!(ledger.queue(&to).count, 20);
    let before = rows.scans.load(Ordering::Relaxed);
    for from in [start, FIRST, start, FIRST] {
        pass(&ledger, to, from, 8, &|_| false);
    }
    assert_eq!(rows.scans.load(Ordering::Relaxed), before);
    ledger.check();
}

/// Returns books with windows of so many ids over rows that count from now on.
fn counted(window_max: usize) -> (Ledger, Arc<Counted>) {
    let store = MemoryDisk::new().store();
    let rows = Arc::new(Counted {
        rows: store.rows,
        scans: AtomicU64::new(0),
        visits: AtomicU64::new(0),
    });
    let store = Store {
        rows: Arc::clone(&rows) as Arc<dyn Rows>,
        chunks: store.chunks,
        gate: store.gate,
    };
    let ledger = Ledger::load_with(store, window_max).unwrap();
    rows.scans.store(0, Ordering::Relaxed);
    rows.visits.store(0, Ordering::Relaxed);
    (ledger, rows)
}

/// Tells whether the bytes of a chunk are here.
fn is_here(ledger: &Ledger, id: ChunkId) -> bool {
    ledger.store.chunks.len(id).unwrap().is_some()
}

fn kind(ledger: &Ledger, id: ChunkId) -> Option<Kind> {
    ledger.holding(&id).unwrap().map(|holding| holding.kind)
}

#[test]
fn the_fewest_disks_that_a_pending_chunk_is_on_are_told() {
    let (ledger, _) = counted(64);
    let fewest = || ledger.counters().fewest();
    assert_eq!(fewest(), None);
    let both = [chunk(2), chunk(3)];
    author(&ledger, both.into_iter());
    assert_eq!(fewest(), Some(1));
    confirm(&ledger, peer(1), &both[..1]);
    assert_eq!(fewest(), Some(1));
    confirm(&ledger, peer(1), &both);
    assert_eq!(fewest(), Some(2));
    confirm(&ledger, peer(2), &both);
    assert_eq!(fewest(), Some(3));
    confirm(&ledger, peer(3), &both);
    assert_eq!(fewest(), None);
    ledger.check();
}

#[test]
fn no_more_holders_are_noted_than_a_row_has_room_for() {
    let mut holding = Holding::new(6, Kind::Kept);
    for n in 0..=HOLDERS_MAX {
        holding.confirm(PeerId([u8::try_from(n).unwrap(); 32]));
    }
    assert_eq!(holding.copies(), HOLDERS_MAX);
}

#[test]
fn what_was_used_last_is_evicted_last() {
    let (ledger, _) = counted(64);
    let ids = [chunk(2), chunk(3), chunk(4)];
    for id in ids {
        ledger.keep(id, b"sealed", None).unwrap();
        assert!(is_here(&ledger, id));
    }
    ledger.touch(&ids[0]);
    assert_eq!(ledger.evict(6).unwrap(), 2);
    let here = ids.map(|id| (is_here(&ledger, id), kind(&ledger, id).is_some()));
    assert_eq!(here, [(true, true), (false, false), (false, false)]);
    // What is made here is sent, though it was cached before; and once, though it is made again.
    author(&ledger, ids[..1].iter().copied());
    assert_eq!(kind(&ledger, ids[0]), Some(Kind::Kept));
    confirm(&ledger, peer(1), &ids[..1]);
    author(&ledger, ids[..1].iter().copied());
    assert_eq!(ledger.queue(&peer(1)).count, 0);
    assert_eq!(ledger.evict(0).unwrap(), 0);
    ledger.check();
}

/// Collects at a time, where nothing is kept longer than ten milliseconds and nothing is named but `named`.
fn collect(ledger: &Ledger, now_ms: u64, base_line: u64, named: &[ChunkId]) -> Collected {
    let terms = Terms {
        now_ms,
        wait_ms: 10,
        base_line,
    };
    let mut collected = Collected::default();
    let ids = ledger.ids_from(FIRST, 64).unwrap();
    let ids: Vec<_> = ids
        .into_iter()
        .map(|id| (id, named.contains(&id)))
        .collect();
    ledger.note_authored(true);
    ledger.collect(&ids, &terms, &mut collected).unwrap();
    ledger.note_authored(false);
    ledger.check();
    collected
}

#[test]
fn a_collection_drops_nothing_that_was_made_since_it_began() {
    let (ledger, _) = counted(64);
    let ids = [chunk(2), chunk(3), chunk(4)];
    author(&ledger, ids[..2].iter().copied());
    let terms = Terms {
        now_ms: 0,
        wait_ms: 0,
        base_line: 1,
    };
    let collect = |id| {
        let mut collected = Collected::default();
        let unnamed = [(id, false)];
        ledger.collect(&unnamed, &terms, &mut collected).unwrap();
        collected.count
    };
    assert_eq!(collect(ids[0]), 0, "there is none");
    ledger.note_authored(true);
    author(&ledger, ids[1..].iter().copied());
    let counts = ids.map(&collect);
    assert_eq!(counts, [1, 0, 0]);
    ledger.note_authored(false);
    let here = ids.map(|id| is_here(&ledger, id));
    assert_eq!(here, [false, true, true]);
    ledger.check();
}

#[test]
fn what_is_pinned_is_not_evicted_until_it_is_no_more() {
    let (ledger, _) = counted(64);
    let ids = [chunk(2), chunk(3), chunk(4)];
    for id in ids {
        ledger.keep(id, b"sealed", None).unwrap();
    }
    ledger.pin([ids[0], ids[2], chunk(5)].into());
    assert_eq!(ledger.evict(0).unwrap(), 1);
    ledger.check();
    assert_eq!(ids.map(|id| is_here(&ledger, id)), [true, false, true]);
    ledger.pin([ids[2]].into());
    assert_eq!(ledger.evict(0).unwrap(), 1);
    ledger.pin([].into());
    assert_eq!(ledger.evict(0).unwrap(), 1);
    ledger.check();
}

#[test]
fn what_nothing_names_goes_after_its_time_and_only_once_the_base_line_has_passed_who_asked() {
    let (ledger, _) = counted(64);
    let ids = [chunk(2), chunk(3), chunk(4), chunk(5)];
    let [first, later, named, read] = ids;
    let here = || ids.map(|id| is_here(&ledger, id));
    for (id, asked) in [(first, 3), (later, 7), (named, 3)] {
        ledger.keep(id, b"sealed", Some(asked)).unwrap();
    }
    ledger.keep(read, b"sealed", None).unwrap();
    // A copy that was only read goes at once; the others are noted.
    let collected = collect(&ledger, 1000, 5, &[named]);
    assert_eq!((collected.count, collected.waiting), (1, 2));
    assert_eq!(
        (collected.next_ms, collected.is_blocked),
        (Some(1010), true)
    );
    assert_eq!(here(), [true, true, true, false]);
    assert_eq!(collect(&ledger, 1009, 5, &[named]).count, 0);
    assert_eq!(collect(&ledger, 1010, 3, &[named]).count, 0, "not below it");
    assert_eq!(collect(&ledger, 1010, 4, &[named]).count, 1);
    assert_eq!(here(), [false, true, true, false]);
    // Who asks for one makes it stay, and what is named in between begins anew.
    ledger.hold(&[later], 9).unwrap();
    assert_eq!(ledger.unnamed_since(&later), None);
    assert_eq!(collect(&ledger, 1020, 9, &[]).count, 0);
    assert_eq!(collect(&ledger, 1025, 10, &[named]).count, 0);
    assert_eq!(collect(&ledger, 1030, 10, &[]).count, 1);
    assert_eq!(here(), [false, false, true, false]);
    // A clock that was put back only makes it take longer.
    assert_eq!(ledger.unnamed_since(&named), Some(1030));
    assert_eq!(collect(&ledger, 500, 10, &[]).count, 0);
    assert_eq!(collect(&ledger, 510, 10, &[]).count, 1);
}

#[test]
fn who_names_a_chunk_again_counts_on_nobody_who_said_before_that_he_has_it() {
    let (ledger, _) = counted(64);
    let ids = [chunk(2), chunk(3)];
    author(&ledger, ids.into_iter());
    for to in everyone() {
        confirm(&ledger, to, &ids);
    }
    assert_eq!(ids.map(|id| kind(&ledger, id)), [Some(Kind::Cached); 2]);
    let renew = |ids: &[ChunkId], named, asked| {
        let renewed = ledger.renew(ids, named, asked, &plan).unwrap();
        ledger.check();
        renewed
    };
    assert!(!renew(&ids, 0, 5), "they were asked at record 0");
    assert!(renew(&[ids[0], ids[0]], 4, 5));
    assert_eq!(kind(&ledger, ids[0]), Some(Kind::Kept));
    assert_eq!(ledger.queue(&peer(1)).count, 1);
    assert_eq!(ledger.asked(&ids).unwrap(), 5);
    assert!(!renew(&ids[..1], 5, 5));
    // So does who makes it anew, or finds that nothing named it.
    ledger.author(ids[1], b"sealed", 2, &plan).unwrap();
    assert_eq!(ledger.queue(&peer(1)).count, 2);
    collect(&ledger, 1000, 0, &[ids[0]]);
    assert!(renew(&ids[1..], 0, 5));
    assert_eq!(ledger.unnamed_since(&ids[1]), None);
}

#[test]
fn who_finds_nobody_for_a_refused_chunk_holds_it_where_it_may() {
    let (ledger, _) = counted(64);
    let ids = [chunk(2), chunk(3), chunk(4)];
    author(&ledger, ids.into_iter());
    for to in everyone() {
        confirm(&ledger, to, &ids[2..]);
    }
    assert_eq!(kind(&ledger, ids[2]), Some(Kind::Cached));
    let redirect = |id, ranked: Vec<PeerId>| {
        let plan_of = |id: &ChunkId| (ranked.clone(), plan(id));
        ledger.redirect(peer(1), id, &plan_of, &|_| true).unwrap()
    };
    let with_me = || everyone().chain([peer(0)]).collect();
    assert!(!redirect(ids[0], with_me()));
    assert!(!redirect(ids[1], everyone().collect()));
    assert!(!redirect(ids[2], with_me()));
    let kinds = ids.map(|id| kind(&ledger, id).unwrap());
    assert_eq!(kinds, [Kind::Held, Kind::Kept, Kind::Cached]);
    assert_eq!(ledger.queue(&peer(1)).count, 2);
    ledger.check();
}

#[test]
fn what_is_lost_is_missing_where_it_is_due_until_it_is_back_or_given_up() {
    let disk = MemoryDisk::new();
    let ledger = Ledger::load_with(disk.store(), 64).unwrap();
    let [due, cached, stray, gone, held] = [2, 3, 4, 5, 6].map(chunk);
    author(&ledger, [due, gone, held].into_iter());
    ledger.keep(cached, b"sealed", None).unwrap();
    ledger.store.chunks.put(stray, b"sealed").unwrap();
    for id in [due, cached, stray, gone] {
        // They are no chunks of these ids.
        assert!(ledger.lose(id).unwrap());
    }
    assert!(!ledger.lose(due).unwrap(), "that is known");
    let mut missing = vec![due, gone];
    missing.sort();
    assert_eq!(ledger.missing(), missing);
    let here = [due, cached, stray, gone].map(|id| is_here(&ledger, id));
    assert_eq!(here, [true, false, false, true]);
    author(&ledger, [due].into_iter());
    // One that is being put has no row yet, and is nothing that was lost.
    ledger.store.chunks.put(stray, b"sealed").unwrap();
    ledger.give_up(&[gone, held, stray]).unwrap();
    let here = [gone, held, stray].map(|id| is_here(&ledger, id));
    assert_eq!(here, [false, true, true]);
    assert!(ledger.missing().is_empty());
    let again = Ledger::load_with(disk.store(), 64).unwrap();
    assert!(again.missing().is_empty());
    again.check();
}

#[test]
fn a_queue_has_what_is_here_and_is_not_confirmed() {
    let (ledger, _) = counted(64);
    let [here, gone, gone_too] = [2, 3, 4].map(chunk);
    author(&ledger, [here].into_iter());
    let mut batch = Batch::new();
    for id in [gone, gone_too] {
        batch.put(Table::Pending, join(&peer(1), &id), [6, 0, 0, 0]);
    }
    ledger.store.rows.commit(batch).unwrap();
    ledger.unqueue(peer(1), here).unwrap();
    ledger.unqueue(peer(1), gone).unwrap();
    confirm(&ledger, peer(1), &[gone_too]);
    let queue = || queues(&ledger.store).remove(&peer(1)).unwrap_or_default();
    assert_eq!(queue(), BTreeSet::from([here]));
    assert!(!ledger.unconfirm(peer(1), &[here], &plan).unwrap());
    confirm(&ledger, peer(1), &[here]);
    assert_eq!(queue(), BTreeSet::new());
    assert!(ledger.unconfirm(peer(1), &[here, here], &plan).unwrap());
    assert_eq!(queue(), BTreeSet::from([here]));
    assert_eq!(ledger.queue(&peer(1)).count, 1);
    ledger.check();
}
