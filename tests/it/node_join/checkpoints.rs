//! Checkpoints between nodes: which counts, and logs that begin behind one.

use std::time::Duration;

use dfs::base::{ChunkId, Clock, DeviceId};
use dfs::log::checkpoint::{Checkpoint, LogStart, LogStarts, Tree};
use dfs::node::{Node, NodeEvent, Role};

use super::world::*;

/// Makes the node at a machine say where the logs go on behind a record, and `rows` of what they make.
fn sign(machine: &Machine, number: u64, rows: u8) -> Checkpoint {
    let (checkpoint, starts) = of_record(machine.node(), number, rows);
    let signed = machine
        .node()
        .sign_checkpoint(checkpoint, tree_of(rows), &starts);
    assert!(signed.unwrap(), "machine {}", machine.at);
    checkpoint
}

/// Returns a checkpoint of a record, and where the logs go on behind it.
fn of_record(node: &Node, number: u64, rows: u8) -> (Checkpoint, LogStarts) {
    let (chain, log) = (node.chain(), node.log());
    let mut starts: Vec<LogStart> = Vec::new();
    for (id, seg_no) in chain.named_at(number).unwrap() {
        let (hash, last) = log.end_at(id, seg_no).unwrap().unwrap();
        starts.push(LogStart {
            log: id,
            device: log.author(id).unwrap(),
            incarnation: log.incarnation_of(id).unwrap(),
            admission: log.admission(id).unwrap(),
            seg_no,
            hash,
            last,
        });
    }
    let starts = LogStarts::new(starts).unwrap();
    let record = chain.get(number).unwrap().unwrap().reference();
    let checkpoint = Checkpoint {
        record,
        rows: [rows; 32],
        logs: starts.hash(),
    };
    (checkpoint, starts)
}

fn counted(machine: &Machine) -> Option<u64> {
    let counted = machine.node().checkpoint();
    counted.map(|counted| counted.checkpoint.record.number)
}

/// Asks for a checkpoint, and waits until all have the record that is one.
async fn marked(asking: &Machine, machines: &[&Machine]) -> u64 {
    let before = asking.node().chain().marked();
    asking.node().ask_checkpoint();
    let is_marked = || {
        let marked = asking.node().chain().marked();
        let has = |machine: &&Machine| machine.node().chain().marked() == marked;
        marked > before && machines.iter().all(has)
    };
    until(120, "a record is a checkpoint", is_marked).await;
    asking.node().chain().marked()
}

fn named_all(machine: &Machine) -> bool {
    let node = machine.node();
    let chain = node.chain();
    let mut offered = node.log().offered().into_iter();
    offered.all(|(log, last)| chain.named(log) >= last)
}

#[tokio::test(start_paused = true)]
async fn a_storage_peer_that_joins_late_gets_logs_that_begin_behind_a_checkpoint() {
    let world = World::new();
    let founder = world.founder();
    let writer = world.member(1, Role::Writer, &founder, 0).await;
    until(10, "both meet", || all_connected(&[&founder, &writer])).await;
    founder.write(40);
    writer.write(30);
    let both = [&founder, &writer];
    until(30, "all is named", || {
        same_logs(&both, &[(0, 40), (1, 30)]) && both.iter().all(|machine| named_all(machine))
    })
    .await;
    // It is the writer that asks: it does not decide.
    let number = marked(&writer, &both).await;
    let checkpoint = sign(&founder, number, 1);
    until(10, "the word is heard", || {
        writer.node().checkpoint_words().len() == 1
    })
    .await;
    assert_eq!((counted(&founder), counted(&writer)), (None, None));
    let mut events = writer.node().subscribe();
    sign(&writer, number, 1);
    until(10, "it counts", || {
        both.iter().all(|machine| counted(machine) == Some(number))
    })
    .await;
    let trees = founder.node().checkpoint().unwrap().trees;
    assert_eq!((trees.len(), trees[0].root), (1, ChunkId([1; 32])));
    let told = std::iter::from_fn(|| events.try_recv().ok());
    let told: Vec<_> = told
        .filter(|event| matches!(event, NodeEvent::Checkpoint { .. }))
        .collect();
    assert_eq!(told, [NodeEvent::Checkpoint { number }]);
    for machine in both {
        assert!(machine.node().start_logs_at_checkpoint().await.unwrap());
        assert_eq!(machine.node().log().bytes(), 0);
    }
    // More comes, and then a peer without keys, from whom it had nothing of all that.
    founder.write(3);
    let mut storage = world.member(2, Role::Storage, &founder, 0).await;
    let all = [&founder, &writer, &storage];
    let ends = [(0, 43), (1, 30)];
    until(60, "the storage peer has what comes behind", || {
        same_logs(&all, &ends)
    })
    .await;
    assert_eq!(storage.node().checkpoint().unwrap().checkpoint, checkpoint);
    let log = storage.node().log();
    assert_eq!(log.starts().len(), 2);
    let of_founder = founder.node().log().own_log();
    assert_eq!(log.floor(of_founder), 40);
    assert!(log.get(of_founder, 40).unwrap().is_none());
    assert!(log.get(of_founder, 41).unwrap().is_some());
    // It tells of the chain up to its end, as it has all that is needed of what that names.
    writer.write_behind(&[of_founder], 2, 2_000);
    until(30, "records go on", || {
        let tip = founder.node().chain().tip();
        storage.node().chain().offered() == tip && named_all(&founder)
    })
    .await;
    storage.kill(&world).await;
    world.restart(&mut storage);
    let all = [&founder, &writer, &storage];
    until(30, "it is back", || all_connected(&all)).await;
    founder.write(1);
    until(30, "its logs go on", || {
        same_logs(&all, &[(0, 44), (1, 32)])
    })
    .await;
    assert_eq!(storage.node().log().floor(of_founder), 40);
    assert_eq!(counted(&storage), Some(number));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lags_waits_quietly_until_its_logs_begin_behind_the_checkpoint() {
    let world = World::new();
    let founder = world.founder();
    founder.write(300);
    until(30, "all is named", || named_all(&founder)).await;
    let number = marked(&founder, &[&founder]).await;
    sign(&founder, number, 1);
    until(10, "it counts", || counted(&founder) == Some(number)).await;
    assert!(founder.node().start_logs_at_checkpoint().await.unwrap());
    let late = world.member(1, Role::Writer, &founder, 0).await;
    // Its word is not needed: it wrote nothing that is named.
    until(30, "it hears what counts", || {
        counted(&late) == Some(number)
    })
    .await;
    founder.write(2);
    late.write(2);
    until(30, "what it writes is taken", || named_all(&founder)).await;
    let waiting = ten_minutes(&world).await;
    assert_eq!(
        late.node().log().vector().len(),
        1,
        "it has its own log alone"
    );
    assert!(all_connected(&[&founder, &late]), "nobody is at fault");
    assert!(late.node().start_logs_at_checkpoint().await.unwrap());
    let both = [&founder, &late];
    until(10, "it goes on at once", || {
        same_logs(&both, &[(0, 302), (1, 2)])
    })
    .await;
    until(10, "with all records", || {
        late.node().chain().offered() == founder.node().chain().tip()
    })
    .await;
    let resting = ten_minutes(&world).await;
    let more = waiting.saturating_sub(resting);
    // A question and its answer each half minute, but for the first ones.
    assert!(
        more < 80,
        "{waiting} messages in ten minutes, then {resting}"
    );
}

/// Returns how many messages ten minutes take.
async fn ten_minutes(world: &World) -> u64 {
    let begin = (world.net.stats().messages, world.clock.monotonic());
    let end = begin.1 + Duration::from_secs(600);
    until(700, "ten minutes pass", || world.clock.monotonic() >= end).await;
    world.net.stats().messages - begin.0
}

#[tokio::test(start_paused = true)]
async fn a_list_that_says_nothing_of_the_logs_makes_nobody_busy() {
    let world = World::new();
    let founder = world.founder();
    founder.write(5);
    until(30, "all is named", || named_all(&founder)).await;
    let number = marked(&founder, &[&founder]).await;
    let (checkpoint, _) = of_record(founder.node(), number, 1);
    let starts = LogStarts::default();
    let logs = starts.hash();
    let checkpoint = Checkpoint { logs, ..checkpoint };
    let signed = founder
        .node()
        .sign_checkpoint(checkpoint, tree_of(1), &starts);
    assert!(signed.unwrap());
    // Who has the logs believes him: nobody else wrote anything.
    until(10, "it counts", || counted(&founder) == Some(number)).await;
    // Who only comes, and could have the logs from him, takes these.
    let late = world.member(1, Role::Reader, &founder, 0).await;
    let both = [&founder, &late];
    until(30, "it has all", || same_logs(&both, &[(0, 5)])).await;
    assert!(ten_minutes(&world).await < 3_000);
}

#[tokio::test(start_paused = true)]
async fn words_that_differ_count_for_nothing_and_are_told() {
    let world = World::new();
    let founder = world.founder();
    let one = world.member(1, Role::Admin, &founder, 0).await;
    let two = world.member(2, Role::Writer, &founder, 0).await;
    let storage = world.member(3, Role::Storage, &founder, 0).await;
    let all = [&founder, &one, &two, &storage];
    until(20, "all meet", || all_connected(&all)).await;
    for machine in [&founder, &one, &two] {
        machine.write(3);
    }
    let ends = [(0, 3), (1, 3), (2, 3)];
    until(30, "all is named", || {
        same_logs(&all, &ends) && all.iter().all(|machine| named_all(machine))
    })
    .await;
    let first = marked(&founder, &all).await;
    sign(&founder, first, 1);
    sign(&one, first, 2);
    let differ = |machine: &Machine| machine.node().checkpoints_differ();
    let mut both = vec![device(0), device(1)];
    until(10, "it is told", || {
        all.iter().all(|machine| differ(machine).is_some())
    })
    .await;
    for machine in all {
        let (number, mut devices): (u64, Vec<DeviceId>) = differ(machine).unwrap();
        devices.sort();
        both.sort();
        assert_eq!((number, &devices, counted(machine)), (first, &both, None));
    }
    // Nobody says another thing of a record than before.
    let (other, starts) = of_record(founder.node(), first, 2);
    let signed = founder.node().sign_checkpoint(other, tree_of(2), &starts);
    assert!(!signed.unwrap());
    sign(&two, first, 2);
    until(10, "two of three say the same", || {
        all.iter().all(|machine| counted(machine) == Some(first))
    })
    .await;
    // Until the next that counts.
    assert!(all.iter().all(|machine| differ(machine).is_some()));
    founder.write(1);
    until(30, "more is named", || named_all(&founder)).await;
    let second = marked(&one, &all).await;
    for machine in [&founder, &one] {
        sign(machine, second, 3);
    }
    until(10, "the next counts", || {
        all.iter().all(|machine| counted(machine) == Some(second))
    })
    .await;
    assert!(all.iter().all(|machine| differ(machine).is_none()));
}

fn tree_of(rows: u8) -> Tree {
    Tree {
        root: ChunkId([rows; 32]),
        len: 1,
        level: 0,
    }
}
