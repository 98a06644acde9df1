//! What is large: how long it takes, and what memory the daemon has meanwhile.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mount_tests::sizes::{
    LargeFile, ManyFiles, OpenFiles, Step, make_deep, remove_deep, work_on_sparse,
};
use mount_tests::suites::seed;
use mount_tests::{Command, Peer, Scenario, Start, elapsed_since, now, scenario, wait_until};

use crate::{MINUTES, number};

/// Runs the parts that are named, each with the number that follows it if one does; all parts
/// where none is named.
///
/// # Panics
///
/// Where something is not what was written, a rate falls with the number of files, or the daemon's
/// memory grows with the size of a file.
pub(crate) fn run(args: &[&str]) {
    let mut wanted: Vec<(&Part, u64)> = Vec::new();
    let mut rest = args;
    while let [name, more @ ..] = rest {
        let part = PARTS.iter().find(|part| part.name == *name);
        let part = part.unwrap_or_else(|| panic!("no part has the name {name}"));
        let own = more
            .first()
            .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        wanted.push((part, number(own, part.size)));
        rest = more.get(usize::from(own.is_some())..).unwrap_or_default();
    }
    if wanted.is_empty() {
        wanted.extend(PARTS.iter().map(|part| (part, part.size)));
    }
    for (part, size) in wanted {
        println!("{} {size}", part.name);
        scenario(part.name, 120 * MINUTES, |s| (part.run)(s, size));
    }
}

struct Part {
    name: &'static str,
    size: u64,
    run: fn(&mut Scenario, u64),
}

const PARTS: [Part; 6] = [
    Part {
        name: "folder",
        size: 200_000,
        run: folder,
    },
    Part {
        name: "million",
        size: 1_000_000,
        run: million,
    },
    Part {
        name: "sparse",
        size: 1024,
        run: sparse,
    },
    Part {
        name: "large",
        size: 20,
        run: large,
    },
    Part {
        name: "open",
        size: 10_000,
        run: open,
    },
    Part {
        name: "deep",
        size: 400,
        run: deep,
    },
];

fn folder(s: &mut Scenario, files: u64) {
    let mut peer = s.peer("a");
    peer.mount(&Start::new_volume());
    let small = ManyFiles::new(peer.path("small"), files.div_ceil(10));
    let large = ManyFiles::new(peer.path("large"), files);
    println!(
        "  {:<24}{:>14}{:>14}   files/s",
        "",
        small.count(),
        large.count()
    );
    let mut slow = Vec::new();
    for step in Step::ALL {
        // What is left of the steps before must not be in one of the two rates alone.
        let rates = [&small, &large].map(|folder| {
            rustix::fs::sync();
            let (began, word) = (now(), step.word());
            folder.take(step);
            let rate = per_second(folder.count(), elapsed_since(began));
            folder.check_after(step);
            (word, rate)
        });
        let [(word, in_small), (_, in_large)] = rates;
        println!("  {word:<24}{in_small:>14.0}{in_large:>14.0}");
        if in_large * SLOWER_MAX < in_small {
            slow.push(word);
        }
    }
    memory("afterwards", &peer);
    assert!(
        slow.is_empty(),
        "less than a {SLOWER_MAX}th of the smaller folder's rate: {slow:?}"
    );
}

fn million(s: &mut Scenario, files: u64) {
    let mut peer = s.peer("a");
    peer.mount(&Start::new_volume());
    let folders = files.div_ceil(FOLDER_FILES);
    let began = now();
    for folder in 0..folders {
        let path = peer.path(format!("folder {folder}"));
        fs::create_dir(&path).expect("a folder can be made");
        let end = ((folder + 1) * FOLDER_FILES).min(files);
        for file in folder * FOLDER_FILES..end {
            let content = format!("the content of file {file}");
            fs::write(path.join(file.to_string()), content).expect("a file can be made");
        }
    }
    let took = elapsed_since(began);
    fact(
        "created",
        &format!("{}, {:.0}/s", seconds(took), per_second(files, took)),
    );
    memory("after it", &peer);
    let began = now();
    peer.unmount();
    fact("unmounted", &seconds(elapsed_since(began)));
    fact("state folder", &disk_use(peer.state()));
    drop_caches("3");
    let began = now();
    peer.restart();
    fact("mounted, disk cold", &seconds(elapsed_since(began)));
    memory("after the mount", &peer);
    // The mount itself and its folders are found as well.
    let expected = files + folders + 1;
    for (what, command) in [
        ("find, cold", "find ."),
        ("find -ls", "find . -ls"),
        ("find -ls again", "find . -ls"),
    ] {
        let began = now();
        let found: u64 = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &format!("{command} | wc -l")])
            .folder(peer.mountpoint())
            .limit(30 * MINUTES)
            .ok()
            .trim()
            .parse()
            .expect("wc says a number");
        let took = elapsed_since(began);
        assert_eq!(found, expected, "found by {command}");
        fact(
            what,
            &format!("{}, {:.0}/s", seconds(took), per_second(found, took)),
        );
        memory(&format!("after {what}"), &peer);
    }
    wait_until("the kernel's inodes are forgotten", 2 * MINUTES, || {
        drop_caches("2");
        let status = peer.facts(&["status"]);
        (status["inodes_in_use"].as_u64() <= Some(FORGOTTEN)).then_some(())
    });
    memory("after the kernel forgot", &peer);
    peer.unmount();
}

fn sparse(s: &mut Scenario, gib: u64) {
    let mut peer = s.peer("a");
    peer.mount(&Start::new_volume());
    let facts = work_on_sparse(peer.mountpoint(), gib << 30);
    fact("cp --sparse=always", &seconds(facts.copy));
    fact("disk use of the copy", &format!("{} KiB", facts.used >> 10));
    fact("all of it", &seconds(facts.whole));
    memory("afterwards", &peer);
}

fn large(s: &mut Scenario, gib: u64) {
    let disk = rustix::fs::statvfs(s.folder()).expect("the disk says what it has");
    let free = (disk.f_bavail * disk.f_frsize) >> 30;
    let needed = gib * 5 / 2;
    if free < needed {
        println!("  SKIPPED: {gib} GiB need {needed} GiB free, here are {free}: name a size");
        return;
    }
    let seed = seed();
    let mut peer = s.peer("a");
    peer.mount(&Start::new_volume());
    let mib = gib << 10;
    fact("seed", &seed.to_string());
    let file = LargeFile::new(&peer.path("large"), mib, seed);
    let check = |what: &str, body: &dyn Fn()| {
        let began = now();
        body();
        let took = elapsed_since(began);
        fact(
            what,
            &format!("{}, {:.0} MiB/s", seconds(took), per_second(mib, took)),
        );
        let peak = memory_kib(&peer, "VmHWM") >> 10;
        memory(&format!("after {what}"), &peer);
        assert!(
            peak < LARGE_RSS_MAX_MIB,
            "{peak} MiB of memory by {what}: more than {LARGE_RSS_MAX_MIB}"
        );
    };
    check("write + fsync", &|| file.write());
    drop_caches("3");
    check("read and compare, cold", &|| file.check());
    let space = disk_use(peer.state());
    fact("state folder", &space);
    peer.unmount();
}

fn open(s: &mut Scenario, files: u64) {
    let mut peer = s.peer("a");
    peer.mount(&Start::new_volume());
    let count = usize::try_from(files).expect("descriptors are counted in less");
    let began = now();
    let open = OpenFiles::open(peer.path("open"), count);
    fact("opened", &seconds(elapsed_since(began)));
    let handles = peer.facts(&["status"])["open_handles"].as_u64();
    assert_eq!(handles, Some(files), "handles");
    for (what, body) in [
        ("written", OpenFiles::write as fn(&OpenFiles)),
        ("read", OpenFiles::check),
    ] {
        let began = now();
        body(&open);
        fact(what, &seconds(elapsed_since(began)));
    }
    memory("while open", &peer);
    let began = now();
    open.close();
    fact("closed and read again", &seconds(elapsed_since(began)));
    wait_until("no handle is left", MINUTES, || {
        (peer.facts(&["status"])["open_handles"] == 0).then_some(())
    });
    memory("after the close", &peer);
}

fn deep(s: &mut Scenario, levels: u64) {
    let mut peer = s.peer("a");
    peer.mount(&Start::new_volume());
    let levels = usize::try_from(levels).expect("levels are counted in less");
    let began = now();
    make_deep(peer.mountpoint(), levels);
    fact("made and found", &seconds(elapsed_since(began)));
    let began = now();
    remove_deep(peer.mountpoint());
    fact("rm -r", &seconds(elapsed_since(began)));
}

fn fact(what: &str, value: &str) {
    println!("  {what:<24}{value:>20}");
}

fn memory(when: &str, peer: &Peer) {
    let mib = |field| memory_kib(peer, field) >> 10;
    fact(&format!("RSS {when}"), &format!("{} MiB", mib("VmRSS")));
    fact("  peak", &format!("{} MiB", mib("VmHWM")));
    // The next peak is one of what comes now.
    fs::write(format!("/proc/{}/clear_refs", peer.pid()), "5").expect("root may");
}

fn memory_kib(peer: &Peer, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", peer.pid())).expect("it runs");
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("{field} in {status}"))
}

fn disk_use(folder: &Path) -> String {
    let said = Command::new("du").args(["-sm"]).arg(folder).ok();
    let mib = said.split_whitespace().next().unwrap_or_default();
    format!("{mib} MiB")
}

fn drop_caches(which: &str) {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", which).expect("root may");
}

fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}

/// Files of one folder, where many folders are made.
const FOLDER_FILES: u64 = 1_000;

/// How many times slower a step may be in a folder of ten times the files: more is no noise, the
/// work for a file grows with the folder.
const SLOWER_MAX: f64 = 5.0;

/// Memory of the daemon while a file passes through it, whatever the file's size.
const LARGE_RSS_MAX_MIB: u64 = 600;

/// The inodes that the kernel may keep when it was asked to forget all: the root, and what asks.
const FORGOTTEN: u64 = 4;
