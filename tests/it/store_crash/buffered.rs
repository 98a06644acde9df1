//! The row log: power is cut at every write, sync, new name and step of the tree, of seeded scripts
//! that fill many tables; what comes back is a prefix with all that was synced.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use dfs::base::Rng;
use dfs::store::buffered::{BufferOptions, BufferedRows};
use dfs::store::tree::{Tree, TreeChange, TreeRow};
use dfs::store::{Rows, StoreError};
use parking_lot::Mutex;

use super::disk::{ModelDisk, Power};
use super::rows::{commit_to, key, prefix_len_of};

/// Small, so that a script flushes every few batches, and gives log files back.
const OPTIONS: BufferOptions = BufferOptions {
    table_bytes: 4 << 10,
    log_bytes: 12 << 10,
};

type TreeRows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A tree in memory on the same plug: after a cut a prefix of what was applied since the last sync.
#[derive(Debug)]
struct ModelTree {
    power: Arc<Power>,
    state: Mutex<TreeState>,
}

#[derive(Debug, Default, Clone)]
struct TreeState {
    /// As the tree was at the last sync, and after each step since.
    versions: Vec<Arc<TreeRows>>,
}

impl ModelTree {
    fn new(power: &Arc<Power>, rows: Arc<TreeRows>) -> Arc<Self> {
        let versions = vec![rows];
        Arc::new(Self {
            power: Arc::clone(power),
            state: Mutex::new(TreeState { versions }),
        })
    }

    fn now(&self) -> Arc<TreeRows> {
        let state = self.state.lock();
        Arc::clone(state.versions.last().unwrap())
    }

    fn crashed(&self, rng: &Rng) -> Arc<TreeRows> {
        let state = self.state.lock();
        let kept = rng.below(state.versions.len() as u64) as usize;
        Arc::clone(&state.versions[kept])
    }

    fn step(&self) -> Result<(), StoreError> {
        self.power.step().map_err(|_| StoreError::Poisoned)
    }
}

impl Tree for ModelTree {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.now().get(key).cloned())
    }

    fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        is_reverse: bool,
    ) -> Box<dyn Iterator<Item = TreeRow> + 'a> {
        let now = self.now();
        let rows = now.range(start.to_vec()..end.to_vec());
        let mut rows: Vec<_> = rows.map(|(k, v)| Ok((k.clone(), v.clone()))).collect();
        if is_reverse {
            rows.reverse();
        }
        Box::new(rows.into_iter())
    }

    fn apply(&self, visit: &mut dyn FnMut(&mut TreeChange<'_>)) -> Result<(), StoreError> {
        self.step()?;
        let mut rows = TreeRows::clone(&self.now());
        visit(&mut |key, value| {
            match value {
                Some(value) => rows.insert(key.to_vec(), value.to_vec()),
                None => rows.remove(key),
            };
        });
        self.state.lock().versions.push(Arc::new(rows));
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.step()?;
        let mut state = self.state.lock();
        let last = state.versions.len() - 1;
        state.versions.drain(..last);
        Ok(())
    }
}

struct Machine {
    disk: ModelDisk,
    tree: Arc<ModelTree>,
    rows: BufferedRows,
    /// Batches committed, and those of them that were synced.
    committed: u64,
    synced: u64,
    rests: bool,
}

impl Machine {
    fn start(disk: ModelDisk, tree: Arc<ModelTree>, epoch: u32) -> Result<Self, StoreError> {
        let rows = BufferedRows::open(
            Arc::new(disk.clone()),
            Path::new("log"),
            tree.clone(),
            key().sealer(epoch),
            OPTIONS,
        )?;
        Ok(Self {
            disk,
            tree,
            rows,
            committed: 0,
            synced: 0,
            rests: false,
        })
    }

    fn new(power: &Arc<Power>) -> Result<Self, StoreError> {
        let tree = ModelTree::new(power, Arc::default());
        Self::start(ModelDisk::new(Arc::clone(power)), tree, 1)
    }

    /// Commits batches until the script ends or the power does.
    fn run(&mut self, rng: &Rng, batches: u64) -> Result<(), StoreError> {
        for _ in 0..batches {
            commit_to(&self.rows, self.committed)?;
            self.committed += 1;
            if rng.below(6) == 0 {
                self.rows.sync()?;
                self.synced = self.committed;
            }
            // Now and then nobody writes for a while.
            if self.rests && rng.below(8) == 0 {
                self.rows.rest()?;
            }
        }
        Ok(())
    }

    /// Returns the machine as one of those that a power cut may leave, running again.
    fn crash(self, rng: &Rng, power: &Arc<Power>, epoch: u32) -> Result<Self, StoreError> {
        let disk = self.disk.crashed(rng, Arc::clone(power));
        let tree = ModelTree::new(power, self.tree.crashed(rng));
        // What a dying process does when it drops its rows is done to a disk that nobody sees.
        let (synced, rests) = (self.synced, self.rests);
        let next = Self::start(disk, tree, epoch)?;
        Ok(Self {
            synced,
            rests,
            ..next
        })
    }

    fn check(&mut self, what: &str) {
        self.committed = prefix_len_of(&self.rows, what);
        assert!(
            self.committed >= self.synced,
            "{what}: {} of {} synced batches",
            self.committed,
            self.synced
        );
    }
}

#[test]
fn a_power_cut_at_every_step_leaves_a_prefix_with_all_that_was_synced() {
    cut_at_every_step(0..2, false);
}

#[test]
fn a_power_cut_while_files_are_given_up_at_rest_loses_nothing() {
    cut_at_every_step(10..14, true);
}

fn cut_at_every_step(seeds: Range<u64>, rests: bool) {
    for seed in seeds {
        let power = Power::steady();
        let mut machine = Machine::new(&power).unwrap();
        machine.rests = rests;
        machine.run(&Rng::from_seed(seed), 90).unwrap();
        machine.check("no crash");
        let steps = power.steps();
        assert!(steps > 150, "the script is worth it: {steps}");
        for cut in 0..steps {
            let what = format!("seed {seed}, cut at {cut}");
            let power = Power::cut_at(cut);
            let chance = Rng::from_seed(seed * 10_000 + cut);
            let Ok(mut machine) = Machine::new(&power) else {
                continue;
            };
            machine.rests = rests;
            machine.run(&Rng::from_seed(seed), 90).unwrap_err();
            let steady = Power::steady();
            let mut machine = machine.crash(&chance, &steady, 2).expect(&what);
            machine.check(&what);
            // It goes on as if nothing had been, into a second crash between two steps.
            machine.run(&chance, 20).expect(&what);
            let mut machine = machine.crash(&chance, &steady, 3).expect(&what);
            machine.check(&format!("{what}, then again"));
        }
    }
}

#[test]
fn a_power_cut_while_recovering_loses_nothing_either() {
    for seed in 100..104 {
        let chance = Rng::from_seed(seed);
        let power = Power::steady();
        let mut machine = Machine::new(&power).unwrap();
        machine.run(&chance, 60).unwrap();
        let disk = machine.disk.crashed(&chance, Power::steady());
        let tree = machine.tree.crashed(&chance);
        for cut in 0.. {
            let what = format!("seed {seed}, cut at {cut}");
            let power = Power::cut_at(cut);
            let (disk, tree) = (
                disk.killed(Arc::clone(&power)),
                ModelTree::new(&power, Arc::clone(&tree)),
            );
            let recovered = Machine::start(disk.clone(), Arc::clone(&tree), 2).is_ok();
            let steady = Power::steady();
            let mut again = Machine::start(
                disk.crashed(&chance, Arc::clone(&steady)),
                ModelTree::new(&steady, tree.crashed(&chance)),
                3,
            )
            .expect(&what);
            again.synced = machine.synced;
            again.check(&what);
            if recovered {
                break;
            }
        }
    }
}
