//! The whole stack on a real state folder, with the power cut at every write, sync and rename that
//! its files see.
//!
//! A process of its own does random operations on a filesystem over a [`Store`] in a folder, under
//! strace(1), and says after each that it is done. Its record is played onto a model of a disk
//! (`disk.rs`); at each point the folder is written out as a power cut may leave it, opened, mounted,
//! and compared with the naive trees: everything synced is there, the rest is a prefix. This knows
//! nothing of which files there are: it covers the row database's own files as well as ours.
//!
//! What is simulated: of each file's data since its last sync any sectors or writes are lost; of the
//! changes of names since the last sync of a folder a prefix is kept. What is not: a disk that loses
//! what it said was synced, and file systems that reorder renames.
//!
//! `DFS_POWER_CUT_SEEDS=FROM..TO` runs other seeds, with each kind of loss at every step.

mod disk;
mod rebuild;
mod trace;

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use dfs::base::Rng;
use dfs::crypto::{Identity, LocalKey};
use dfs::store::{StateDir, Store, StoreOptions};
use mount_tests::model::{Ends, Op, Run, Tree, look, random_ops, recovered};

use self::disk::{Disk as ModelDisk, Loss};
use self::trace::Event;
use crate::fs_model::mount::Disk;
use crate::fs_model::room::Room;

const FOLDER_VARIABLE: &str = "DFS_TEST_FOLDER_TO_TRACE";
const SEED_VARIABLE: &str = "DFS_TEST_SEED_TO_TRACE";

/// Operations of a seed.
const OPS: usize = 70;

static KEY: LazyLock<LocalKey> =
    LazyLock::new(|| Identity::generate(&Rng::from_seed(1)).unwrap().local_key());

/// Small, so that the row database flushes and compacts, and chunk files follow one another.
fn options() -> StoreOptions {
    StoreOptions {
        chunk_file_max_bytes: 1 << 20,
        table_bytes: 8 << 10,
        ..StoreOptions::default()
    }
}

fn ops(seed: u64) -> Vec<Op> {
    random_ops(seed, OPS, Ends::default())
}

/// Runs in the process that is traced.
#[test]
fn works_while_it_is_traced() {
    let Some(root) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let root = Path::new(&root);
    let seed = std::env::var(SEED_VARIABLE).unwrap().parse().unwrap();
    let mut said = fs::File::create(root.join("said")).unwrap();
    let state = root.join("state");
    let _held = StateDir::open_or_create(&state).unwrap();
    let store = Store::open_with(&state, &KEY, &options()).unwrap();
    let disk = Disk::on(store).alone(is_alone(seed));
    disk.store.sync().unwrap();
    let mut run = Run::new(Room::new(disk, Rng::from_seed(seed))).unwrap();
    said.write_all(b"0\n").unwrap();
    for (index, op) in ops(seed).iter().enumerate() {
        run.apply(op).unwrap();
        said.write_all(format!("{}\n", index + 1).as_bytes())
            .unwrap();
    }
}

fn is_alone(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

/// Returns the trees after each operation, and how many operations were durable by then.
fn expected(seed: u64) -> Vec<(Tree, usize)> {
    let disk = Disk::new().alone(is_alone(seed));
    let mut run = Run::new(Room::new(disk, Rng::from_seed(seed))).unwrap();
    let mut trees = vec![(run.tree().clone(), 0)];
    for op in ops(seed) {
        run.step(&op).unwrap();
        trees.push((run.tree().clone(), run.durable_steps()));
    }
    trees
}

/// Traces the operations of a seed; checks that the trace tells all.
fn record(seed: u64, root: &Path) -> Vec<Event> {
    let events = record_test("power_cut::works_while_it_is_traced", root, seed);
    let is_flush =
        |event: &Event| matches!(event, Event::Create(path) if path.contains("/tables/"));
    let flushes = events.iter().filter(|event| is_flush(event)).count();
    assert!(flushes > 2, "the row database is written to");
    events
}

/// Traces a test of this program that works in a folder; checks that the trace tells all.
fn record_test(name: &str, root: &Path, seed: u64) -> Vec<Event> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name])
        .arg("--test-threads=1")
        .env(FOLDER_VARIABLE, root)
        .env(SEED_VARIABLE, seed.to_string());
    let output = root.join("trace");
    let ended = trace::traced(&command, &output)
        .stdout(Stdio::null())
        .status()
        .expect("strace, a Debian package, can be started");
    assert!(ended.success(), "seed {seed}");
    let text = fs::read_to_string(&output).unwrap();
    let events = trace::events(&text, &root.join("state"), &root.join("said"));
    let mut disk = ModelDisk::default();
    events.iter().for_each(|event| disk.apply(event));
    disk.check(&root.join("state"));
    events
}

/// Opens what a power cut left and checks it against the trees that may be there.
fn check(
    image: &Path,
    alone: bool,
    trees: &[(Tree, usize)],
    passed: Duration,
) -> Result<(), String> {
    let held = StateDir::open_or_create(image).map_err(|e| e.to_string())?;
    let store = Store::open_with(image, &KEY, &options()).map_err(|e| e.to_string())?;
    let disk = Disk::found_on(store).alone(alone);
    disk.clock.advance(passed);
    let mut room = Room::new(disk, Rng::from_seed(0));
    let trees: Vec<Tree> = trees.iter().map(|(tree, _)| tree.clone()).collect();
    let (_, tree) = recovered(&trees, &look(&mut room, &[])?)?;
    drop(tree);
    // Recovered, it goes on.
    let disk = room.into_disk();
    if !alone {
        disk.check_fold();
    }
    drop((disk, held));
    Ok(())
}

/// Cuts the power at every step of a seed: with one kind of loss after the other, or with each.
fn cut_everywhere(seed: u64, each: bool) {
    let base = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
    let trees = expected(seed);
    let events = record(seed, base.path());
    let mut disk = ModelDisk::default();
    let (mut done, mut cuts) = (None, 0);
    for (step, event) in events.iter().enumerate() {
        disk.apply(event);
        if let Event::Said(count) = event {
            done = Some(usize::try_from(*count).unwrap());
        }
        // Making the volume is another matter: before it is there, nothing is promised.
        let Some(done) = done else { continue };
        for (place, loss) in LOSSES.into_iter().enumerate() {
            if !each && place != step % LOSSES.len() {
                continue;
            }
            let first = match loss {
                Loss::Nothing => done,
                Loss::All | Loss::Writes | Loss::Sectors => trees[done].1,
            };
            // The operation that was at work may be there.
            let last = (done + 1).min(trees.len() - 1);
            let image = base.path().join("image");
            disk.write_out(&image, loss, &Rng::from_seed(step as u64));
            let passed = Duration::from_secs(OPS as u64 + 10);
            if let Err(what) = check(&image, is_alone(seed), &trees[first..=last], passed) {
                panic!(
                    "seed {seed}, {loss:?} at step {step} of {}, after {done} operations of which \
                     {first} must be there, in {:?}: {what}",
                    events.len(),
                    ops(seed)[done.min(OPS - 1)],
                );
            }
            fs::remove_dir_all(&image).unwrap();
            cuts += 1;
        }
    }
    println!("seed {seed}: {cuts} cuts in {} steps", events.len());
}

const LOSSES: [Loss; 4] = [Loss::Nothing, Loss::All, Loss::Writes, Loss::Sectors];

#[test]
fn a_power_cut_anywhere_leaves_what_was_synced_and_a_prefix_of_the_rest() {
    let asked = std::env::var("DFS_POWER_CUT_SEEDS").ok();
    let seeds: Range<u64> = match &asked {
        None => 0..2,
        Some(asked) => {
            let (from, to) = asked.split_once("..").expect("FROM..TO");
            from.parse().expect("a number")..to.parse().expect("a number")
        }
    };
    for seed in seeds {
        cut_everywhere(seed, asked.is_some());
    }
}
