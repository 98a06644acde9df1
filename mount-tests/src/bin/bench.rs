//! Measures dfs beside a plain folder of the same disk and beside gocryptfs, interleaved.
//!
//!     cargo build --release
//!     cargo run --release -p mount-tests --bin bench -- [--runs N] [--mib N] [--only WORD]
//!
//! `--only` leaves out the workloads without this word, but for the first, which makes the file.
//! Prints the median of each workload, its ratio to the plain folder and to gocryptfs (above 1 is
//! faster than that one), and the daemon's peak memory. Needs root (it drops the page cache) and,
//! for the comparison, the Debian package gocryptfs.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mount_tests::sys::Mapping;

/// Files of the small-files workloads.
const TREE_FILES: usize = 3_000;

/// Reads and writes at random places, and the bytes of each.
const RANDOM_OPS: usize = 8_192;
const PAGE: usize = 4096;

/// Jobs of the workload with many.
const JOBS: usize = 16;

/// Appends of the append workload.
const APPENDS: usize = 400;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().collect();
    let is_known = |pair: &[String]| {
        pair.len() == 2 && ["--runs", "--mib", "--only"].contains(&pair[0].as_str())
    };
    if !args[1..].chunks(2).all(is_known) {
        return Err("usage: bench [--runs N] [--mib N] [--only WORD]".into());
    }
    let number = |name: &str, default: usize| {
        let at = args.iter().position(|arg| arg == name)?;
        Some(args.get(at + 1)?.parse().unwrap_or(default))
    };
    let runs = number("--runs", 5).unwrap_or(5);
    let mib = number("--mib", 1024).unwrap_or(1024);
    let only = args.iter().position(|arg| arg == "--only");
    let only = only.and_then(|at| args.get(at + 1)).map_or("", |word| word);
    let is_wanted = |place: usize, workload: &Workload| place == 0 || workload.name.contains(only);
    let root = tempfile::Builder::new()
        .prefix("dfs-bench")
        .tempdir_in(".")?;
    let root_path = root.path().canonicalize()?;
    let archive = make_archive(&root_path)?;
    let mut targets = vec![Target::plain(&root_path)?, Target::dfs(&root_path)?];
    if let Some(gocryptfs) = Target::gocryptfs(&root_path)? {
        targets.push(gocryptfs);
    } else {
        println!("gocryptfs is not installed: measuring without it");
    }
    let mut results: Vec<Vec<Vec<f64>>> = vec![vec![Vec::new(); targets.len()]; WORKLOADS.len()];
    let mut peaks = vec![0u64; WORKLOADS.len()];
    for run in 0..runs {
        for (index, target) in targets.iter_mut().enumerate() {
            let job = Job {
                mib,
                archive: &archive,
            };
            for (place, workload) in WORKLOADS.iter().enumerate() {
                if !is_wanted(place, workload) {
                    continue;
                }
                if workload.cold {
                    target.remount()?;
                    drop_caches()?;
                }
                target.reset_peak();
                let value = (workload.run)(&job, &target.dir)?;
                results[place][index].push(value);
                if target.name == "dfs" {
                    peaks[place] = peaks[place].max(target.peak_kib());
                }
            }
        }
        eprintln!("run {} of {runs} done", run + 1);
    }
    report(&targets, &results, &peaks);
    for target in &mut targets {
        target.unmount();
    }
    Ok(())
}

struct Job<'a> {
    mib: usize,
    archive: &'a Path,
}

struct Workload {
    name: &'static str,
    unit: &'static str,
    /// Whether the mount and the page cache start cold.
    cold: bool,
    run: fn(&Job<'_>, &Path) -> Fallible<f64>,
}

/// In the order in which each run does them: later ones use what earlier ones left.
const WORKLOADS: [Workload; 13] = [
    Workload {
        name: "write 1 MiB blocks + fsync",
        unit: "MB/s",
        cold: false,
        run: write_big,
    },
    Workload {
        name: "read warm",
        unit: "MB/s",
        cold: false,
        run: read_big,
    },
    Workload {
        name: "read cold",
        unit: "MB/s",
        cold: true,
        run: read_big,
    },
    Workload {
        name: "random 4 KiB, cold",
        unit: "per s",
        cold: true,
        run: |job, dir| random_reads(job, dir, 1, 0),
    },
    Workload {
        name: "random 4 KiB, 16 jobs, cold",
        unit: "per s",
        cold: true,
        run: |job, dir| random_reads(job, dir, JOBS, 0),
    },
    Workload {
        name: "random 4 KiB, O_DIRECT, cold",
        unit: "per s",
        cold: true,
        run: |job, dir| random_reads(job, dir, 1, libc::O_DIRECT),
    },
    Workload {
        name: "random mmap, cold",
        unit: "per s",
        cold: true,
        run: random_mmap,
    },
    Workload {
        name: "random 4 KiB writes",
        unit: "per s",
        cold: true,
        run: random_writes,
    },
    Workload {
        name: "untar 3,000 files",
        unit: "files/s",
        cold: false,
        run: untar,
    },
    Workload {
        name: "ls -lR warm",
        unit: "entries/s",
        cold: false,
        run: list,
    },
    Workload {
        name: "ls -lR cold",
        unit: "entries/s",
        cold: true,
        run: list,
    },
    Workload {
        name: "rm -r",
        unit: "files/s",
        cold: false,
        run: remove,
    },
    Workload {
        name: "append 4 KiB + fsync",
        unit: "per s",
        cold: false,
        run: append,
    },
];

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the machine's time"
)]
fn timed(body: impl FnOnce() -> Fallible<()>) -> Fallible<f64> {
    let start = Instant::now();
    body()?;
    Ok(start.elapsed().as_secs_f64())
}

fn write_big(job: &Job<'_>, dir: &Path) -> Fallible<f64> {
    let path = dir.join("big");
    let _ = fs::remove_file(&path);
    // Not compressible and not the same twice: each block differs in every 4 KiB.
    let mut block = vec![0u8; 1 << 20];
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ u64::from(std::process::id());
    for word in block.chunks_exact_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&state.to_le_bytes());
    }
    let seconds = timed(|| {
        let mut file = File::create(&path)?;
        for index in 0..job.mib {
            for page in block.chunks_exact_mut(4096) {
                let (head, _) = page.split_at_mut(8);
                head.copy_from_slice(&(index as u64 ^ state).to_le_bytes());
            }
            file.write_all(&block)?;
        }
        file.sync_all()?;
        Ok(())
    })?;
    Ok(job.mib as f64 * 1.048_576 / seconds)
}

fn read_big(job: &Job<'_>, dir: &Path) -> Fallible<f64> {
    let mut buffer = vec![0u8; 1 << 20];
    let seconds = timed(|| {
        let mut file = File::open(dir.join("big"))?;
        while file.read(&mut buffer)? > 0 {}
        Ok(())
    })?;
    Ok(job.mib as f64 * 1.048_576 / seconds)
}

/// Returns places of pages in a file of `mib` MiB, the same for all who ask with one seed.
fn places(mib: usize, seed: usize) -> impl Iterator<Item = u64> {
    let pages = (mib << 20) / PAGE;
    let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed as u64 + 1);
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % pages.max(1) as u64) * PAGE as u64
    })
}

/// Reads at random places, in so many jobs of one share each.
fn random_reads(job: &Job<'_>, dir: &Path, jobs: usize, flags: i32) -> Fallible<f64> {
    let path = dir.join("big");
    let ops = RANDOM_OPS * if jobs > 1 { 4 } else { 1 };
    let one = |seed: usize| -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(flags).open(&path)?;
        // O_DIRECT takes memory at the beginning of a page.
        let mut memory = vec![0u8; 2 * PAGE];
        let skip = memory.as_ptr().align_offset(PAGE);
        let buffer = memory.get_mut(skip..skip + PAGE).unwrap_or_default();
        places(job.mib, seed)
            .take(ops / jobs)
            .try_for_each(|place| file.read_exact_at(buffer, place))
    };
    let seconds = timed(|| {
        let outcomes: Vec<std::io::Result<()>> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..jobs)
                .map(|seed| scope.spawn(move || one(seed)))
                .collect();
            let ended = started.into_iter().map(|job| job.join());
            ended
                .map(|ended| ended.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())))
                .collect()
        });
        outcomes.into_iter().collect::<Result<(), _>>()?;
        Ok(())
    })?;
    Ok(ops as f64 / seconds)
}

fn random_mmap(job: &Job<'_>, dir: &Path) -> Fallible<f64> {
    let file = File::open(dir.join("big"))?;
    let mapping = Mapping::private(&file, job.mib << 20)?;
    let seconds = timed(|| {
        for place in places(job.mib, 1).take(RANDOM_OPS) {
            let place = place as usize;
            mapping.read(place..place + 8)?;
        }
        Ok(())
    })?;
    Ok(RANDOM_OPS as f64 / seconds)
}

/// Writes at random places, and an fsync at the end.
fn random_writes(job: &Job<'_>, dir: &Path) -> Fallible<f64> {
    let file = OpenOptions::new().write(true).open(dir.join("big"))?;
    let mut page = [7u8; PAGE];
    let seconds = timed(|| {
        for place in places(job.mib, 1).take(RANDOM_OPS) {
            page[..8].copy_from_slice(&place.to_le_bytes());
            file.write_all_at(&page, place)?;
        }
        file.sync_all()?;
        Ok(())
    })?;
    Ok(RANDOM_OPS as f64 / seconds)
}

fn untar(job: &Job<'_>, dir: &Path) -> Fallible<f64> {
    let tree = dir.join("tree");
    fs::create_dir_all(&tree)?;
    let seconds = timed(|| {
        run(Command::new("tar")
            .arg("-xf")
            .arg(job.archive)
            .arg("-C")
            .arg(&tree))
    })?;
    Ok(TREE_FILES as f64 / seconds)
}

fn list(job: &Job<'_>, dir: &Path) -> Fallible<f64> {
    if !dir.join("tree").exists() {
        untar(job, dir)?;
    }
    let seconds = timed(|| {
        run(Command::new("ls")
            .arg("-lR")
            .arg(dir.join("tree"))
            .stdout(Stdio::null()))
    })?;
    Ok(TREE_FILES as f64 / seconds)
}

fn remove(job: &Job<'_>, dir: &Path) -> Fallible<f64> {
    if !dir.join("tree").exists() {
        untar(job, dir)?;
    }
    let seconds = timed(|| run(Command::new("rm").arg("-r").arg(dir.join("tree"))))?;
    Ok(TREE_FILES as f64 / seconds)
}

fn append(_: &Job<'_>, dir: &Path) -> Fallible<f64> {
    let path = dir.join("journal");
    let _ = fs::remove_file(&path);
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let block = [7u8; 4096];
    let mut each = Vec::new();
    for _ in 0..APPENDS {
        each.push(timed(|| {
            file.write_all(&block)?;
            file.sync_all()?;
            Ok(())
        })?);
    }
    Ok(1.0 / median(&mut each))
}

fn run(command: &mut Command) -> Fallible<()> {
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {status}").into())
    }
}

/// Makes a tar of files as a source tree has them: most are small, some tens of KiB.
fn make_archive(root: &Path) -> Fallible<PathBuf> {
    let source = root.join("source");
    let mut state = 1u64;
    for index in 0..TREE_FILES {
        let dir = source.join(format!("d{:02}/e{:02}", index / 300, index / 30 % 10));
        fs::create_dir_all(&dir)?;
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let size = match state >> 60 {
            0..=9 => 500 + (state >> 40) % 7_500,
            10..=14 => 8_000 + (state >> 40) % 12_000,
            _ => 20_000 + (state >> 40) % 80_000,
        };
        let text: Vec<u8> = (0..size)
            .map(|i| b' ' + ((i.wrapping_mul(state | 1)) >> 57) as u8 % 90)
            .collect();
        fs::write(dir.join(format!("file{index}.rs")), text)?;
    }
    let archive = root.join("tree.tar");
    run(Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&source)
        .arg("."))?;
    fs::remove_dir_all(&source)?;
    Ok(archive)
}

/// Where a workload runs.
struct Target {
    name: &'static str,
    dir: PathBuf,
    daemon: Option<Child>,
    start: Option<Box<dyn Fn() -> Fallible<Child>>>,
    mountpoint: Option<PathBuf>,
}

impl Target {
    fn plain(root: &Path) -> Fallible<Self> {
        let dir = root.join("plain");
        fs::create_dir_all(&dir)?;
        Ok(Self {
            name: "plain",
            dir,
            daemon: None,
            start: None,
            mountpoint: None,
        })
    }

    fn dfs(root: &Path) -> Fallible<Self> {
        let mount = root.join("dfs");
        let state = root.join("dfs-state");
        fs::create_dir_all(&mount)?;
        let program = std::env::current_exe()?.with_file_name("dfs-mount");
        let mountpoint = mount.clone();
        let start = move || -> Fallible<Child> {
            let mut child = Command::new(&program)
                .arg(&mount)
                .arg("--state")
                .arg(&state)
                .args(["-f", "--listen", "127.0.0.1:0", "--capacity", "64G"])
                .args((!state.exists()).then_some("--new"))
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|e| format!("{}: {e}; run cargo build --release", program.display()))?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
            if line.starts_with("mounted") {
                Ok(child)
            } else {
                Err("dfs-mount did not mount".into())
            }
        };
        let daemon = Some(start()?);
        Ok(Self {
            name: "dfs",
            dir: mountpoint.clone(),
            daemon,
            start: Some(Box::new(start)),
            mountpoint: Some(mountpoint),
        })
    }

    fn gocryptfs(root: &Path) -> Fallible<Option<Self>> {
        if Command::new("gocryptfs")
            .arg("-version")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            return Ok(None);
        }
        let (cipher, mount) = (root.join("cipher"), root.join("gocryptfs"));
        fs::create_dir_all(&cipher)?;
        fs::create_dir_all(&mount)?;
        let key = root.join("passphrase");
        fs::write(&key, "benchmark\n")?;
        run(Command::new("gocryptfs")
            .args(["-q", "-init", "-scryptn", "10", "-passfile"])
            .arg(&key)
            .arg(&cipher)
            .stdout(Stdio::null()))?;
        let mountpoint = mount.clone();
        let start = move || -> Fallible<Child> {
            let child = Command::new("gocryptfs")
                .args(["-q", "-fg", "-passfile"])
                .args([&key, &cipher, &mount])
                .spawn()?;
            wait_for(|| is_mounted(&mount))?;
            Ok(child)
        };
        let daemon = Some(start()?);
        Ok(Some(Self {
            name: "gocryptfs",
            dir: mountpoint.clone(),
            daemon,
            start: Some(Box::new(start)),
            mountpoint: Some(mountpoint),
        }))
    }

    fn remount(&mut self) -> Fallible<()> {
        self.unmount();
        if let Some(start) = &self.start {
            self.daemon = Some(start()?);
        }
        Ok(())
    }

    fn unmount(&mut self) {
        if let Some(mountpoint) = &self.mountpoint {
            let _ = Command::new("umount").arg(mountpoint).status();
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.wait();
        }
    }

    fn reset_peak(&self) {
        if let Some(daemon) = &self.daemon {
            // 5 resets the peak of the resident set: proc(5).
            let _ = fs::write(format!("/proc/{}/clear_refs", daemon.id()), "5");
        }
    }

    fn peak_kib(&self) -> u64 {
        let Some(daemon) = &self.daemon else { return 0 };
        let status =
            fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap_or_default();
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn is_mounted(dir: &Path) -> bool {
    let parent = dir.parent().and_then(|parent| fs::metadata(parent).ok());
    matches!((fs::metadata(dir), parent), (Ok(dir), Some(parent)) if dir.dev() != parent.dev())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark waits for another program's mount"
)]
fn wait_for(done: impl Fn() -> bool) -> Fallible<()> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > Duration::from_secs(20) {
            return Err("the mount did not come up".into());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

fn drop_caches() -> Fallible<()> {
    run(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(targets: &[Target], results: &[Vec<Vec<f64>>], peaks: &[u64]) {
    print!("{:<28} {:>10}", "workload", "unit");
    for target in targets {
        print!(" {:>12}", target.name);
    }
    println!(
        " {:>10} {:>13} {:>10}",
        "dfs/plain", "dfs/gocryptfs", "peak MiB"
    );
    for ((workload, values), peak) in WORKLOADS.iter().zip(results).zip(peaks) {
        if values.iter().all(Vec::is_empty) {
            continue;
        }
        let medians: Vec<f64> = values.iter().map(|all| median(&mut all.clone())).collect();
        print!("{:<28} {:>10}", workload.name, workload.unit);
        for value in &medians {
            print!(" {value:>12.0}");
        }
        let of = |name: &str| {
            targets
                .iter()
                .position(|t| t.name == name)
                .and_then(|at| medians.get(at))
                .copied()
        };
        let dfs = of("dfs").unwrap_or(f64::NAN);
        let ratio = |name: &str| of(name).map_or_else(|| "-".into(), |v| format!("{:.2}", dfs / v));
        println!(
            " {:>10} {:>13} {:>10}",
            ratio("plain"),
            ratio("gocryptfs"),
            peak / 1024
        );
    }
}
