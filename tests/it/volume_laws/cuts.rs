//! Merges of many thousand ops whose power is cut again and again: in all that large ones are made of,
//! several records, slices, a layer beside the view, and steps in which its rows are moved.
//!
//! `DFS_SEEDS=n` runs more of them. Each begins with a cut at another write or sync: as many seeds as the
//! merge has of those (a line says it) cut at every one.

use std::ops::ControlFlow;

use dfs::base::Rng;
use dfs::store::Table;
use dfs::store::memory::MemoryDisk;
use dfs::volume::Counts;

use super::cluster::{Device, SharedRows, cluster, read_again};
use super::large::{commit_all, fill};

/// Ops of who was there: more than a record names.
const OPS_THERE: usize = 4300;

/// Ops of who comes back, all of which are undone.
const OPS_BACK: usize = 1000;

/// More writes and syncs than any merge takes.
const ENDLESS: u64 = 1 << 40;

/// Cuts of a seed: each goes on where the one before ended.
const CUTS: u64 = 4;

/// Ways in which what was not synced may be lost in a cut, of which one is gone on with.
const DRAWS: usize = 16;

/// Steps, and some more, in which a layer of such a merge is moved.
const MOVES: u64 = 40;

/// What a merge comes to that nothing interrupts.
struct Uncut {
    rows: SharedRows,
    counts: Counts,
    steps: u64,
}

fn uncut(copy: &MemoryDisk, from: &Device) -> Uncut {
    let mut device = Device::new(2);
    let left = device.pull_until_cut(copy.crash(&Rng::from_seed(0)), from, ENDLESS);
    Uncut {
        rows: device.rows(),
        counts: device.volume.counts(),
        steps: ENDLESS - left.expect("no cut"),
    }
}

/// Says whether rows lie in a layer, and whether that counts: it does with a row whose key is the least.
fn layer(image: &MemoryDisk) -> (bool, bool) {
    let (mut is_there, mut counts) = (false, false);
    let mut look = |key: &[u8]| {
        is_there = true;
        counts |= key == [0];
        ControlFlow::Break(())
    };
    let rows = image.store().rows;
    rows.scan_keys(Table::Layer, &[], None, &mut look).unwrap();
    (is_there, counts)
}

/// Returns the write or sync at which a seed begins: neighbours lie far apart, and so many as there are steps
/// meet each.
fn first_cut(seed: u64, steps: u64) -> u64 {
    let is_coprime = |stride: &u64| {
        let (mut a, mut b) = (*stride, steps);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let stride = (steps * 3 / 8..).find(is_coprime).expect("one");
    // The first of them just before the end, where what was made is moved.
    (seed * stride + steps - 4) % steps
}

#[test]
fn a_merge_of_thousands_that_loses_power_again_and_again_ends_the_same() {
    let devices = cluster(3);
    let [voter, plain, back] = &devices[..] else {
        panic!("three devices");
    };
    for index in 0..OPS_THERE {
        fill(voter, "same", index);
        if index < OPS_BACK {
            fill(back, "same", index);
        }
    }
    voter.publish();
    back.publish();
    // One gives it with its order, the other as it was before there was one.
    plain.pull(voter, usize::MAX);
    commit_all(voter);
    let copy = back.copy();
    let own = back.files();
    let whole = [voter, plain].map(|from| uncut(&copy, from));
    let asked = std::env::var("DFS_SEEDS").ok();
    let seeds = asked.map_or(4, |asked| asked.parse().expect("DFS_SEEDS is a number"));
    // Layers that were being made, and that were being moved.
    let mut met = (0, 0);
    for seed in 0..seeds {
        let rng = Rng::from_seed(seed);
        let which = (seed % 2) as usize;
        let (from, whole) = ([voter, plain][which], &whole[which]);
        let mut device = Device::new(2);
        let mut image = copy.crash(&rng);
        let mut cuts = Vec::new();
        for cut in 0..CUTS {
            let (is_there, counts) = layer(&image);
            met.0 += u32::from(is_there && !counts);
            met.1 += u32::from(counts);
            let at = match cut {
                0 => first_cut(seed / 2, whole.steps),
                // A start moves on what counts.
                _ if counts => rng.below(MOVES),
                _ => rng.below(whole.steps),
            };
            cuts.push(at);
            if device.pull_until_cut(image, from, at).is_some() {
                image = device.crashed(&rng);
                break;
            }
            // Of all that the cut may leave, a layer that is being moved where there may be one.
            let images: Vec<MemoryDisk> = (0..DRAWS).map(|_| device.crashed(&rng)).collect();
            let moved = images.iter().position(|image| layer(image).1);
            image = images.into_iter().nth(moved.unwrap_or(0)).expect("one");
        }
        println!("seed {seed}: cut at {cuts:?} of {}", whole.steps);
        device.put_back(image);
        device.pull(from, usize::MAX);
        let files = device.files();
        assert!(
            own.keys().all(|path| files.contains_key(path)),
            "seed {seed}: its own names"
        );
        assert!(device.rows() == whole.rows, "seed {seed}: cut at {cuts:?}");
        assert_eq!(
            device.volume.counts(),
            whole.counts,
            "seed {seed}: cut at {cuts:?}"
        );
        read_again(&device);
    }
    println!("{met:?} layers were met that were made and moved");
    assert!(met.0 > 0 && met.1 > 0, "{met:?}");
}
