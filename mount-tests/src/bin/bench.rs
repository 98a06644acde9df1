//! Measures dfs beside a plain folder of the same disk and beside gocryptfs, interleaved.
//!
//!     cargo build --release
//!     cargo run --release -p mount-tests --bin bench -- [--runs N] [--mib N] [--only WORD]
//!
//! Prints the median of each workload, its ratio to the plain folder and to gocryptfs (above 1 is
//! faster than that one), and the daemon's peak memory. Needs root (it drops the page cache) and,
//! for the comparison, the Debian package gocryptfs.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Files of the small-files workloads.
const TREE_FILES: usize = 3_000;

/// Appends of the append workload.
const APPENDS: usize = 400;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let at = args.iter().position(|arg| arg == name)?;
        Some(args.get(at + 1)?.parse().unwrap_or(default))
    };
    let runs = number("--runs", 5).unwrap_or(5);
    let mib = number("--mib", 1024).unwrap_or(1024);
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
const WORKLOADS: [Workload; 8] = [
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

fn list(_: &Job<'_>, dir: &Path) -> Fallible<f64> {
    let seconds = timed(|| {
        run(Command::new("ls")
            .arg("-lR")
            .arg(dir.join("tree"))
            .stdout(Stdio::null()))
    })?;
    Ok(TREE_FILES as f64 / seconds)
}

fn remove(_: &Job<'_>, dir: &Path) -> Fallible<f64> {
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
