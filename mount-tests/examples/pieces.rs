//! Measures what files of many pieces cost, and what others wait meanwhile: `pieces FOLDER...`.
//!
//! Each operation is done to files of 1, 1,000 and 100,000 pieces of 4 KiB, one each 16 KiB, and listing
//! to a folder of 200,000 names (`PIECES=` and `NAMES=` say other numbers). While it goes on another
//! thread looks up a name, and changes the times of a small file, again and again: the slowest of each
//! is what others wait. They do it in a folder of their own: a folder in which the kernel makes or removes a
//! name is locked meanwhile, whatever the filesystem, and to remove one of 200,000 names takes it long. What they wait beside nothing at all, and beside programs that do nothing but
//! take the processors, stands first: so much of it is the machine's. With a folder of ext4 beside that
//! of a mount the tables are side by side on one machine.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mount_tests::{elapsed_since, now};
use rustix::fs::{CWD, FallocateFlags, SeekFrom, Timestamps};

const STEP: u64 = 16 << 10;
const PIECE: usize = 4 << 10;

fn main() {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    assert!(!folders.is_empty(), "usage: pieces FOLDER...");
    for folder in folders {
        let folder = folder.join("pieces");
        fs::create_dir(&folder).expect("a new folder");
        println!(
            "{}: milliseconds, and the slowest lookup and change of another program",
            folder.display()
        );
        fs::create_dir(folder.join("asked")).expect("made");
        fs::write(folder.join("asked/small"), "x").expect("written");
        measure(&folder, "nothing", 0, || busy(0));
        measure(&folder, "a busy processor", 1, || busy(1));
        measure(&folder, "busy processors", 4, || busy(4));
        for pieces in numbers("PIECES", &[1, 1_000, 100_000]) {
            file(&folder, pieces);
        }
        for names in numbers("NAMES", &[1_000, 200_000]) {
            names_of(&folder, names);
        }
        fs::remove_dir_all(&folder).expect("removed");
    }
}

fn numbers(variable: &str, usual: &[u64]) -> Vec<u64> {
    let Ok(asked) = std::env::var(variable) else {
        return usual.to_vec();
    };
    asked
        .split(',')
        .map(|number| number.parse().expect("numbers with commas"))
        .collect()
}

/// Keeps processors busy for a while.
fn busy(threads: u32) {
    let started = now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(move || while elapsed_since(started) < BUSY {});
        }
        std::thread::park_timeout(BUSY);
    });
}

/// The slowest lookup and the slowest change that another program met, in microseconds.
#[derive(Default)]
struct Slowest {
    lookup: AtomicU64,
    change: AtomicU64,
}

/// How often somebody asked.
static ASKED: AtomicU64 = AtomicU64::new(1);

/// Asks for small things until it is told to stop.
fn ask(folder: &Path, slowest: &Slowest, stop: &AtomicBool) {
    let folder = folder.join("asked");
    let small = folder.join("small");
    let took = |slowest: &AtomicU64, ask: &dyn Fn()| {
        let started = now();
        ask();
        let took = u64::try_from(elapsed_since(started).as_micros()).unwrap_or(u64::MAX);
        slowest.fetch_max(took, Ordering::Relaxed);
    };
    while !stop.load(Ordering::Relaxed) {
        let number = ASKED.fetch_add(1, Ordering::Relaxed);
        // Never there, nor asked for before, so that the filesystem is asked.
        let none = folder.join(format!("none-{number}"));
        took(&slowest.lookup, &|| drop(fs::metadata(&none)));
        let time = rustix::fs::Timespec {
            tv_sec: i64::try_from(number).unwrap_or(0),
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        took(&slowest.change, &|| {
            let flags = rustix::fs::AtFlags::empty();
            rustix::fs::utimensat(CWD, &small, &times, flags).expect("times");
        });
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Does something, and prints how long that took and what another one waited.
fn measure<T>(folder: &Path, what: &str, size: u64, run: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let slowest = Slowest::default();
    std::thread::scope(|scope| {
        scope.spawn(|| ask(folder, &slowest, &stop));
        let started = now();
        let done = run();
        let took = elapsed_since(started);
        // What goes on behind it is part of it.
        while elapsed_since(started) < took + AFTER {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        let took = took.as_secs_f64() * 1e3;
        let waited = |slowest: &AtomicU64| slowest.load(Ordering::Relaxed) as f64 / 1e3;
        let (lookup, change) = (waited(&slowest.lookup), waited(&slowest.change));
        println!(
            "{what:<20} {size:>7} {took:>9.2} ms, lookup {lookup:>7.2} ms, change {change:>7.2} ms"
        );
        done
    })
}

/// How long others are watched after an operation: changes wait for a second to be written.
const AFTER: Duration = Duration::from_millis(1500);

/// How long processors are kept busy.
const BUSY: Duration = Duration::from_secs(3);

fn file(folder: &Path, pieces: u64) {
    let path = folder.join("file");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    let file = file.expect("created");
    let size = pieces * STEP;
    measure(folder, "write", pieces, || {
        for index in 0..pieces {
            let bytes = [1 + (index % 250) as u8; PIECE];
            file.write_all_at(&bytes, index * STEP).expect("written");
        }
        rustix::fs::ftruncate(&file, size).expect("sized");
        file.sync_all().expect("synced");
    });
    measure(folder, "lseek, all pieces", pieces, || {
        let mut at = 0;
        while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            at = rustix::fs::seek(&file, SeekFrom::Hole(data)).expect("a hole");
        }
    });
    measure(folder, "read", pieces, || {
        let mut room = vec![0; 1 << 20];
        let mut at = 0;
        while let Ok(count @ 1..) = file.read_at(&mut room, at) {
            at += count as u64;
        }
    });
    let copy = folder.join("copy");
    measure(folder, "copy_file_range", pieces, || {
        let to = File::create_new(&copy).expect("created");
        let (mut from, mut into, mut left) = (0, 0, size);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let copied = rustix::fs::copy_file_range(
                file.as_fd(),
                Some(&mut from),
                to.as_fd(),
                Some(&mut into),
                most,
            );
            match copied.expect("copied") {
                0 => break,
                count => left -= count as u64,
            }
        }
    });
    measure(folder, "punch", pieces, || {
        let to = File::options().write(true).open(&copy).expect("opened");
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&to, flags, STEP / 2, size).expect("punched");
        to.sync_all().expect("synced");
    });
    measure(folder, "rename", pieces, || {
        fs::rename(&path, folder.join("other")).expect("renamed");
        fs::rename(folder.join("other"), &path).expect("renamed");
    });
    measure(folder, "unlink", pieces, || {
        fs::remove_file(&copy).expect("removed");
    });
    drop(file);
    measure(folder, "truncate", pieces, || {
        let file = File::options().write(true).open(&path).expect("opened");
        rustix::fs::ftruncate(&file, 1).expect("cut");
        file.sync_all().expect("synced");
    });
    fs::remove_file(&path).expect("removed");
}

fn names_of(folder: &Path, names: u64) {
    let dir = folder.join("names");
    fs::create_dir(&dir).expect("made");
    measure(folder, "create names", names, || {
        for number in 0..names {
            File::create_new(dir.join(number.to_string())).expect("created");
        }
    });
    measure(folder, "readdir", names, || {
        let listed = fs::read_dir(&dir).expect("opened").count() as u64;
        assert_eq!(listed, names);
    });
    let other = folder.join("names-2");
    measure(folder, "rename the folder", names, || {
        fs::rename(&dir, &other).expect("renamed");
    });
    measure(folder, "remove names", names, || {
        fs::remove_dir_all(&other).expect("removed");
    });
}
