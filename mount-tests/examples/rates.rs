//! Measures what one program gets of a filesystem: `rates FOLDER MIB [PID]`, a table on stdout.
//!
//! The same operations as the floor of an empty FUSE filesystem: compare the two on one machine. With
//! the daemon's PID, also what each operation costs it of a processor: that holds on a busy machine.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use mount_tests::{elapsed_since, now};
use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags};

const FILES: usize = 20_000;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let folder = PathBuf::from(args.next().expect("usage: rates FOLDER MIB [PID]")).join("rates");
    let mut number = || args.next()?.to_str()?.parse::<u64>().ok();
    let (mib, daemon) = (number().unwrap_or(256), number());
    let meter = Meter { daemon };
    fs::create_dir(&folder).expect("a new folder");
    metadata(&folder, &meter);
    contents(&folder, mib, &meter);
    fs::remove_dir_all(&folder).expect("removed");
}

/// Runs and prints.
struct Meter {
    daemon: Option<u64>,
}

impl Meter {
    /// Prints how often a second `each` was done.
    fn rate(&self, what: &str, count: usize, mut each: impl FnMut(usize)) {
        let (started, cpu) = (now(), self.cpu());
        for number in 0..count {
            each(number);
        }
        self.print(what, count as f64, "/s", started, cpu);
    }

    /// Prints how many megabytes a second `run` moved.
    fn throughput(&self, what: &str, bytes: u64, run: impl FnOnce()) {
        let (started, cpu) = (now(), self.cpu());
        run();
        self.print(what, bytes as f64 / 1e6, "MB/s", started, cpu);
    }

    fn print(&self, what: &str, units: f64, unit: &str, started: Instant, cpu: f64) {
        let each = (self.cpu() - cpu) / units * 1e6;
        let rate = units / elapsed_since(started).as_secs_f64();
        println!("{what:<36} {rate:>9.0} {unit:<5} daemon {each:>8.1} us");
    }

    /// Returns the processor seconds that the daemon has used.
    fn cpu(&self) -> f64 {
        let Some(daemon) = self.daemon else {
            return 0.0;
        };
        let tasks = fs::read_dir(format!("/proc/{daemon}/task"))
            .into_iter()
            .flatten()
            .flatten();
        tasks
            .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|stat| stat.split(' ').next()?.parse::<f64>().ok())
            .sum::<f64>()
            / 1e9
    }
}

fn metadata(folder: &Path, meter: &Meter) {
    let at = |number: usize| folder.join(format!("file {number}"));
    let page = vec![7u8; 4096];
    meter.rate("create + close", FILES, |number| {
        File::create(at(number)).expect("created");
    });
    meter.rate("unlink", FILES, |number| {
        fs::remove_file(at(number)).expect("removed");
    });
    meter.rate("create + 4 KiB + close", FILES, |number| {
        File::create(at(number))
            .and_then(|mut file| file.write_all(&page))
            .expect("written");
    });
    meter.rate("stat, warm", FILES * 5, |number| {
        fs::metadata(at(number % FILES)).expect("attributes");
    });
    meter.rate("getattr, forced", FILES * 2, |number| {
        let path = at(number % FILES);
        rustix::fs::statx(
            CWD,
            &path,
            AtFlags::STATX_FORCE_SYNC,
            StatxFlags::BASIC_STATS,
        )
        .expect("attributes");
    });
    meter.rate("open + read 4 KiB + close, warm", FILES, |number| {
        fs::read(at(number)).expect("read");
    });
    meter.rate("rename", FILES, |number| {
        fs::rename(at(number), folder.join(format!("moved {number}"))).expect("renamed");
    });
    drop_caches();
    let (started, cpu) = (now(), meter.cpu());
    let mut bytes = 0;
    for entry in fs::read_dir(folder).expect("listed") {
        bytes += entry
            .and_then(|entry| entry.metadata())
            .expect("attributes")
            .size();
    }
    assert_eq!(bytes, FILES as u64 * 4096);
    meter.print("list + stat, cold", FILES as f64, "/s", started, cpu);
    drop_caches();
    meter.rate("open + read 4 KiB + close, cold", FILES, |number| {
        fs::read(folder.join(format!("moved {number}"))).expect("read");
    });
    meter.rate("unlink, with content", FILES, |number| {
        fs::remove_file(folder.join(format!("moved {number}"))).expect("removed");
    });
    let log = File::create(folder.join("log")).expect("created");
    meter.rate("append 4 KiB + fsync", 500, |_| {
        (&log)
            .write_all(&page)
            .and_then(|()| log.sync_data())
            .expect("synced");
    });
}

fn contents(folder: &Path, mib: u64, meter: &Meter) {
    let path = folder.join("large");
    let bytes = mib << 20;
    // Not compressible, not equal to each other: as media are.
    let mut block = mount_tests::source::pattern(1 << 20, 1);
    for (what, size) in [
        ("write in 1 MiB, + fsync", 1 << 20),
        ("write in 4 KiB, + fsync", 4096),
    ] {
        meter.throughput(what, bytes, || {
            let mut file = File::create(&path).expect("created");
            for number in 0..mib {
                block[..8].copy_from_slice(&number.to_le_bytes());
                for part in block.chunks(size) {
                    file.write_all(part).expect("written");
                }
            }
            file.sync_all().expect("synced");
        });
    }
    for what in ["read, kernel cold", "read, warm"] {
        if what != "read, warm" {
            drop_caches();
        }
        meter.throughput(what, bytes, || {
            let mut file = File::open(&path).expect("opened");
            let mut buffer = vec![0; 1 << 20];
            while file.read(&mut buffer).expect("read") > 0 {}
        });
    }
    let direct = i32::try_from(OFlags::DIRECT.bits()).expect("a flag");
    let direct = File::options()
        .read(true)
        .custom_flags(direct)
        .open(&path)
        .expect("opened");
    let mut buffer = vec![0u8; 8192];
    let aligned = buffer.as_ptr().align_offset(4096);
    let page = &mut buffer[aligned..aligned + 4096];
    meter.rate("read 4 KiB, O_DIRECT, random", 20_000, |number| {
        let at = (number as u64).wrapping_mul(2_654_435_761) % (bytes / 4096) * 4096;
        direct.read_exact_at(page, at).expect("read");
    });
}

fn drop_caches() {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
}
