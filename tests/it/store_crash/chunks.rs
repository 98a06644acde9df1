//! Chunk files: power is cut at every write, sync, commit, hole and removal of seeded scripts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use dfs::base::{ChunkId, Rng};
use dfs::crypto::chunk_id;
use dfs::store::chunks::LocalChunks;
use dfs::store::memory::MemoryDisk;
use dfs::store::{ChunkUsage, Store, StoreError};

use super::disk::{ModelDisk, Power, PoweredRows};

/// Small, so that scripts fill several files.
const FILE_MAX_BYTES: u64 = 40_000;

/// What may be true of a chunk after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Held,
    Gone,
    Either,
}

/// One machine: its chunk files, its rows, and what must be true of them.
struct Machine {
    disk: ModelDisk,
    rows: MemoryDisk,
    store: Store,
    expected: BTreeMap<ChunkId, Expected>,
    contents: BTreeMap<ChunkId, Vec<u8>>,
}

impl Machine {
    fn start(disk: ModelDisk, rows: MemoryDisk, power: &Arc<Power>) -> Result<Self, StoreError> {
        let powered = Arc::new(PoweredRows {
            rows: rows.store().rows,
            power: Arc::clone(power),
        });
        let files = Arc::new(disk.clone());
        let chunks = LocalChunks::open(files, powered.clone(), FILE_MAX_BYTES)?;
        Ok(Self {
            disk,
            rows,
            store: Store {
                rows: powered,
                chunks: Arc::new(chunks),
                gate: dfs::store::Gate::default(),
            },
            expected: BTreeMap::new(),
            contents: BTreeMap::new(),
        })
    }

    fn new(power: &Arc<Power>) -> Self {
        Self::start(ModelDisk::new(Arc::clone(power)), MemoryDisk::new(), power).unwrap()
    }

    /// Runs a script until it ends or the power does.
    fn run(&mut self, rng: &Rng, steps: u64) -> Result<(), StoreError> {
        for _ in 0..steps {
            let known: Vec<ChunkId> = self.contents.keys().copied().collect();
            let one = known.get(rng.below(known.len() as u64) as usize);
            match (rng.below(8), one) {
                (0, _) => {
                    let before = self.expected.clone();
                    self.store.sync()?;
                    for (id, _) in before {
                        let held = self.store.chunks.len(id)?.is_some();
                        let now = if held { Expected::Held } else { Expected::Gone };
                        self.expected.insert(id, now);
                    }
                }
                (1 | 2, Some(id)) => {
                    self.expected.insert(*id, Expected::Either);
                    self.store.chunks.delete(*id)?;
                }
                (3, Some(id)) => {
                    if self.expected[id] != Expected::Held {
                        self.expected.insert(*id, Expected::Either);
                    }
                    self.store.chunks.put(*id, &self.contents[id])?;
                }
                _ => {
                    let mut bytes = vec![0; rng.below(9000) as usize];
                    rng.with(|rng| rand_core::RngCore::fill_bytes(rng, &mut bytes));
                    let id = chunk_id(&bytes);
                    self.expected.insert(id, Expected::Either);
                    self.contents.insert(id, bytes);
                    self.store.chunks.put(id, &self.contents[&id])?;
                }
            }
        }
        Ok(())
    }

    /// Checks everything that was promised, and that the store agrees with itself.
    fn check(&self, what: &str) {
        for (id, expected) in &self.expected {
            let got = self.store.chunks.get(*id).expect(what);
            match (expected, &got) {
                (Expected::Held, None) => panic!("{what}: a synced chunk is lost"),
                (Expected::Gone, Some(_)) => panic!("{what}: a deleted chunk is back"),
                _ => {}
            }
            if let Some(got) = got {
                assert_eq!(got, self.contents[id], "{what}: a chunk has other bytes");
            }
        }
        let mut usage = ChunkUsage::default();
        let mut visit = |id: ChunkId, len: u64| {
            let got = self.store.chunks.get(id).expect(what).expect(what);
            assert_eq!(got.len() as u64, len, "{what}");
            assert_eq!(chunk_id(&got), id, "{what}");
            usage.count += 1;
            usage.bytes += len;
            usage.ids ^= ChunkUsage::of(id);
            ControlFlow::Continue(())
        };
        self.store.chunks.for_each(&mut visit).expect(what);
        assert_eq!(usage, self.store.chunks.usage(), "{what}");
    }

    /// Returns the machine after its power was cut, running again.
    fn crash(self, rng: &Rng, power: &Arc<Power>) -> Result<Self, StoreError> {
        let disk = self.disk.crashed(rng, Arc::clone(power));
        let next = Self::start(disk, self.rows.crash(rng), power)?;
        Ok(Self {
            expected: self.expected,
            contents: self.contents,
            ..next
        })
    }

    /// After a crash each chunk is held or not, and from the next sync on stays so.
    fn settle(&mut self, what: &str) {
        self.store.sync().expect(what);
        for (id, expected) in &mut self.expected {
            let held = self.store.chunks.len(*id).expect(what).is_some();
            *expected = if held { Expected::Held } else { Expected::Gone };
        }
    }
}

#[test]
fn chunks_that_were_synced_survive_a_power_cut_at_every_step() {
    for seed in 0..3 {
        let power = Power::steady();
        let mut machine = Machine::new(&power);
        machine.run(&Rng::from_seed(seed), 120).unwrap();
        machine.check(&format!("seed {seed}, no crash"));
        let steps = power.steps();
        assert!(steps > 200, "the script is worth it");
        for cut in 0..steps {
            let what = format!("seed {seed}, cut at {cut}");
            let power = Power::cut_at(cut);
            let mut machine = Machine::new(&power);
            machine.run(&Rng::from_seed(seed), 120).unwrap_err();
            let chance = Rng::from_seed(seed * 10_000 + cut);
            let steady = Power::steady();
            let mut machine = machine.crash(&chance, &steady).expect(&what);
            machine.check(&what);
            if cut % 2 == 0 {
                machine.settle(&what);
            }
            // It goes on as if nothing had been, into a second crash between two steps.
            machine.run(&chance, 30).expect(&what);
            machine.check(&what);
            let machine = machine.crash(&chance, &steady).expect(&what);
            machine.check(&format!("{what}, then again"));
        }
    }
}

#[test]
fn a_power_cut_while_recovering_loses_nothing_either() {
    for seed in 100..103 {
        let chance = Rng::from_seed(seed);
        let power = Power::steady();
        let mut machine = Machine::new(&power);
        machine.run(&chance, 80).unwrap();
        let disk = machine.disk.crashed(&chance, Power::steady());
        let rows = machine.rows.crash(&chance);
        for cut in 0.. {
            let what = format!("seed {seed}, cut at {cut}");
            let power = Power::cut_at(cut);
            let disk = disk.killed(Arc::clone(&power));
            // Each round begins with the same rows, whatever the last one did to them.
            let rows = rows.crash(&chance);
            let opened = Machine::start(disk.clone(), rows.clone(), &power);
            let recovered = opened.is_ok();
            let steady = Power::steady();
            let disk = disk.crashed(&chance, Arc::clone(&steady));
            let mut again = Machine::start(disk, rows.crash(&chance), &steady).expect(&what);
            again.expected = machine.expected.clone();
            again.contents = machine.contents.clone();
            again.check(&what);
            if recovered {
                break;
            }
        }
    }
}

#[test]
fn a_killed_process_loses_no_chunk() {
    let power = Power::steady();
    let mut machine = Machine::new(&power);
    machine.run(&Rng::from_seed(7), 100).unwrap();
    let held = machine.store.chunks.usage();
    let disk = machine.disk.killed(Arc::clone(&power));
    let again = Machine::start(disk, machine.rows.clone(), &power).unwrap();
    assert_eq!(again.store.chunks.usage(), held);
    for (id, bytes) in &machine.contents {
        let before = machine.store.chunks.get(*id).unwrap();
        assert_eq!(again.store.chunks.get(*id).unwrap(), before);
        assert!(before.is_none_or(|before| before == bytes));
    }
}

#[test]
fn deleted_chunks_give_back_their_room_and_a_full_disk_takes_nothing() {
    let power = Power::steady();
    let machine = Machine::new(&power);
    let chunks = &machine.store.chunks;
    let contents: Vec<Vec<u8>> = (1..=40u8).map(|n| vec![n; 5000]).collect();
    for bytes in &contents {
        chunks.put(chunk_id(bytes), bytes).unwrap();
    }
    machine.store.sync().unwrap();
    let (used, files) = (machine.disk.used_bytes(), machine.disk.file_count());
    assert!(used > 200_000 && files > 4);
    for bytes in &contents[1..] {
        chunks.delete(chunk_id(bytes)).unwrap();
    }
    machine.store.sync().unwrap();
    assert!(machine.disk.used_bytes() < 6000, "one chunk is left");
    assert!(
        machine.disk.file_count() <= 2,
        "and the file that is written to"
    );
    assert_eq!(chunks.usage().count, 1);

    machine.disk.set_available(Some(0));
    // The store looks at the free room every few megabytes.
    let mut big = vec![9; 1 << 20];
    let full = (0..8u8).find_map(|n| {
        big[0] = n;
        chunks.put(chunk_id(&big), &big).err()
    });
    assert!(matches!(full, Some(StoreError::Full)));
    let usage = chunks.usage();
    machine.disk.set_available(None);
    chunks.put(chunk_id(&big), &big).unwrap();
    assert_eq!(chunks.usage().count, usage.count + 1);
    machine.check("after the disk was full");
}
