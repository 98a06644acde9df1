//! The reference model on real mounts: the operations and the naive tree of `mount_tests::model`,
//! by system calls, with an orderly end and SIGKILL among the operations; and two mounts of one
//! volume that take turns.
//!
//! `DFS_MODEL_SEEDS=FROM..TO` runs other seeds than the usual few, `DFS_MODEL_TRIES=N` looks for
//! a shorter failure in N further runs.

use std::ops::Range;
use std::time::Duration;

use mount_tests::model::mount::Daemon;
use mount_tests::model::{Ends, Failure, Mount, Op, Run, run_all, run_seed};
use mount_tests::{Peer, Start, elapsed_since, now, scenario, wait_until};

const MINUTES: Duration = Duration::from_secs(60);

fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(asked) = std::env::var("DFS_MODEL_SEEDS") else {
        return usual;
    };
    let (from, to) = asked.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

fn tries() -> usize {
    let asked = std::env::var("DFS_MODEL_TRIES");
    asked.map_or(0, |tries| tries.parse().expect("a number"))
}

/// A peer whose mount comes and goes.
struct Ended<'a>(&'a mut Peer);

impl Daemon for Ended<'_> {
    fn remount(&mut self) {
        self.0.unmount();
        self.0.restart();
    }

    fn kill(&mut self) {
        self.0.kill();
        self.0.restart();
    }
}

/// Peers that stay.
struct Kept;

impl Daemon for Kept {
    fn remount(&mut self) {}

    fn kill(&mut self) {
        unreachable!("not among the operations");
    }
}

#[test]
fn a_mount_is_the_naive_tree() {
    scenario("model", 60 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        let ends = Ends {
            remounts: 7,
            kills: 7,
            ..Ends::default()
        };
        let mut folders = 0..;
        for seed in seeds(0..5) {
            run_seed(seed, 150, ends, tries(), |ops| {
                let number: u32 = folders.next().expect("endless");
                let folder = peer.path(format!("{seed} {number}"));
                std::fs::create_dir(&folder).expect("a folder can be made");
                let mount = Mount::new(Ended(&mut peer), vec![folder]);
                let run = mount.map_err(|errno| errno.to_string()).and_then(Run::new);
                run_all(run, ops).map(drop)
            });
        }
    });
}

#[test]
fn two_mounts_are_one_naive_tree() {
    scenario("model-pair", 60 * MINUTES, |s| {
        let mut a = s.peer("a");
        let mut b = s.peer("b");
        a.mount(&Start::new_volume());
        b.mount(&Start::join(&a, &a.invite("writer")));
        let mut folders = 0..;
        for seed in seeds(100..103) {
            run_seed(seed, 100, Ends::default(), tries(), |ops| {
                let number: u32 = folders.next().expect("endless");
                let folder = format!("{seed} {number}");
                std::fs::create_dir(a.path(&folder)).expect("a folder can be made");
                wait_until("the other has the folder", MINUTES, || {
                    b.path(&folder).exists().then_some(())
                });
                let mount = Mount::new(Kept, vec![a.path(&folder), b.path(&folder)]);
                let run = mount.map_err(|errno| errno.to_string()).and_then(Run::new);
                take_turns(run.map(Run::closing), ops)
            });
        }
    });
}

/// Applies operations on one mount and the other in turn; after each both come to the naive tree.
fn take_turns(run: Result<Run<Mount<Kept>>, String>, ops: &[Op]) -> Result<(), Failure> {
    let failed = |upto: usize, what: String| Failure {
        ops: ops.get(..upto).unwrap_or(ops).to_vec(),
        what,
    };
    let mut run = run.map_err(|what| failed(0, what))?;
    for (index, op) in ops.iter().enumerate() {
        turn_to(&mut run, index % 2);
        run.apply(op).map_err(|what| failed(index + 1, what))?;
        // Its own side first, which sees all of it at once: the times seen there are the ones.
        for side in [index % 2, 1 - index % 2] {
            turn_to(&mut run, side);
            let began = now();
            let met = wait_until("the sides are equal", 2 * MINUTES, || match run.compare() {
                Ok(()) => Some(Ok(())),
                Err(what) if side == index % 2 => Some(Err(format!("on its own side: {what}"))),
                Err(what) if elapsed_since(began) > MINUTES / 3 => Some(Err(what)),
                Err(_) => None,
            });
            met.map_err(|what| failed(index + 1, what))?;
        }
    }
    Ok(())
}

fn turn_to(run: &mut Run<Mount<Kept>>, side: usize) {
    run.executor().turn_to(side).expect("the mount is there");
}
