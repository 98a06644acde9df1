//! Inode numbers of 32 bits: what a 32-bit program without large-file support sees of a mount.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dfs::base::Ino;
use dfs::fuse::MountOptions;
use mount_tests::sys::Handle;
use mount_tests::{Command, scenario, wait_until};
use rustix::fs::{RawDir, SeekFrom};
use support::{Local, drop_caches, mount, new_fs, on_mount};

const MINUTES: Duration = Duration::from_secs(60);

/// One entry as getdents64(2) tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    name: String,
    ino: u64,
    /// Where to go on behind it.
    position: u64,
}

/// Lists an open folder from a position on.
fn list_from(folder: &File, position: u64) -> Vec<Listed> {
    rustix::fs::seek(folder, SeekFrom::Start(position)).expect("a position that was told");
    let mut buffer = [MaybeUninit::uninit(); 2000];
    let mut entries = RawDir::new(folder, &mut buffer);
    let mut listed = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.expect("an entry");
        listed.push(Listed {
            name: entry.file_name().to_str().expect("plain").to_owned(),
            ino: entry.ino(),
            position: entry.next_entry_cookie(),
        });
    }
    listed
}

fn list(folder: &Path) -> Vec<Listed> {
    list_from(&File::open(folder).expect("opened"), 0)
}

/// Makes files, folders, symlinks and second names.
fn make_tree(root: &Path) {
    fs::create_dir(root.join("tree")).expect("made");
    for number in 0..1500 {
        fs::write(root.join(format!("tree/file {number}")), "x").expect("written");
    }
    for number in 0..20 {
        let folder = root.join(format!("tree/folder {number}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .expect("made");
        fs::hard_link(
            root.join(format!("tree/file {number}")),
            folder.join("again"),
        )
        .expect("linked");
        std::os::unix::fs::symlink("target", folder.join("link")).expect("made");
    }
}

/// Returns the numbers of all that is below a folder as stat(2) and getdents(2) tell them.
fn numbers(folder: &Path, found: &mut BTreeMap<PathBuf, u64>) {
    let own = fs::metadata(folder).expect("attributes").ino();
    let above = fs::metadata(folder.join("..")).expect("attributes").ino();
    for entry in list(folder) {
        let path = folder.join(&entry.name);
        let stat = fs::symlink_metadata(&path).expect("attributes");
        assert_eq!(stat.ino(), entry.ino, "{path:?}");
        assert!(
            stat.ino() > 0 && stat.ino() < u64::from(u32::MAX),
            "{path:?}: {}",
            stat.ino()
        );
        assert!(entry.position <= i32::MAX as u64, "{entry:?}");
        match &*entry.name {
            "." => assert_eq!(entry.ino, own),
            ".." => assert_eq!(entry.ino, above),
            _ if stat.is_dir() => numbers(&path, found),
            _ => {}
        }
        if entry.name != ".." && entry.name != "." {
            found.insert(path, entry.ino);
        }
    }
}

#[test]
fn numbers_fit_in_32_bits_and_are_the_same_again_after_a_forget_and_a_remount() {
    scenario("ino32-numbers", 5 * MINUTES, |s| {
        let root = s.new_folder("mnt");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let fs = new_fs(dfs::store::Store::memory());
        let options = MountOptions::new(&root);
        let mounted = mount(&fs, options.clone(), &runtime);
        assert_eq!(fs::metadata(&root).expect("attributes").ino(), Ino::ROOT.0);
        make_tree(&root);
        let mut first = BTreeMap::new();
        numbers(&root.join("tree"), &mut first);
        assert_eq!(first.len(), 1500 + 3 * 20);
        let different: BTreeSet<u64> = first.values().copied().collect();
        // A second name is of the same file.
        assert_eq!(different.len(), first.len() - 20);
        drop_caches();
        let mut again = BTreeMap::new();
        numbers(&root.join("tree"), &mut again);
        assert_eq!(first, again);
        let file = root.join("tree/file 7");
        let handles = [&file, &root.join("tree")].map(|path| Handle::of(path).expect("a handle"));
        runtime.block_on(mounted.close()).expect("closed");

        let mounted = mount(&fs, options, &runtime);
        let top = File::open(&root).expect("opened");
        let opened =
            |handle: &Handle| Ok::<_, std::io::Error>(handle.open(&top)?.metadata()?.ino());
        assert_eq!(opened(&handles[0]).expect("by its handle"), first[&file]);
        let folder = handles[1].open(&top).expect("by its handle");
        assert_eq!(list_from(&folder, 0)[1].ino, Ino::ROOT.0);
        drop((folder, top));
        let mut again = BTreeMap::new();
        numbers(&root.join("tree"), &mut again);
        assert_eq!(first, again);
        runtime.block_on(mounted.close()).expect("closed");
    });
}

#[test]
fn a_listing_goes_on_at_any_position_whatever_was_removed_and_added_meanwhile() {
    on_mount("ino32-positions", "", |local| {
        make_tree(&local.root);
        let tree = local.path("tree");
        let all = list(&tree);
        assert_eq!(all.len(), 2 + 1500 + 20);
        let folder = File::open(&tree).expect("opened");
        for at in (0..all.len()).step_by(97) {
            assert_eq!(list_from(&folder, all[at].position), all[at + 1..]);
        }
        // What was listed is removed, as rm does, and more is made.
        for at in (2..500).filter(|at| !all[*at].name.starts_with("folder")) {
            fs::remove_file(tree.join(&all[at].name)).expect("removed");
            fs::write(tree.join(format!("new {at}")), "").expect("written");
        }
        drop_caches();
        let rest = list_from(&folder, all[499].position);
        let rest: Vec<_> = rest
            .into_iter()
            .filter(|one| !one.name.starts_with("new"))
            .collect();
        assert_eq!(rest, all[500..]);
    });
}

/// Stats its first argument, and lists its second and stats what is there, by the calls of a program
/// that knows no large files; goes back once in the listing. Exits with the errno, or 99 where two
/// calls differ.
const PROGRAM: &str = r#"
struct stat { unsigned dev, ino; unsigned short mode, nlink, uid, gid; unsigned rest[13]; };
struct entry { unsigned ino, off; unsigned short len; char name[]; };
static int call(int number, long a, long b, long c) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
static int checked(int result) { if (result < 0) call(1, -result, 0, 0); return result; }
static char buffer[3000];
static int list(int folder, unsigned *third) {
    int count = 0, len;
    while ((len = checked(call(141, folder, (long)buffer, sizeof buffer))))
        for (int at = 0; at < len; at += ((struct entry *)(buffer + at))->len, count++) {
            struct entry *entry = (struct entry *)(buffer + at);
            struct stat stat;
            checked(call(107, (long)entry->name, (long)&stat, 0));
            if (stat.ino != entry->ino || entry->off > 0x7fffffff) call(1, 99, 0, 0);
            if (count == 2) *third = entry->off;
        }
    return count;
}
__attribute__((used)) static void run(char **arguments) {
    struct stat stat;
    unsigned third = 0, other;
    checked(call(106, (long)arguments[1], (long)&stat, 0));
    checked(call(12, (long)arguments[2], 0, 0));
    int folder = checked(call(5, (long)".", 0, 0));
    int count = list(folder, &third);
    checked(call(19, folder, third, 0));
    if (list(folder, &other) != count - 3) call(1, 99, 0, 0);
    call(1, 0, 0, 0);
}
__asm__(".globl _start\n_start: lea 4(%esp), %eax\npush %eax\ncall run");
"#;

/// Returns how the program ends; `None` where the machine runs none of 32 bits.
fn run_old_program(local: &Local) -> Option<Option<i32>> {
    let folder = tempfile::tempdir().expect("a folder");
    let (c, program) = (folder.path().join("old.c"), folder.path().join("old"));
    fs::write(&c, PROGRAM).expect("written");
    Command::new("gcc")
        .args(["-m32", "-static", "-nostdlib", "-ffreestanding"])
        .args(["-fno-stack-protector", "-fno-pie", "-no-pie", "-o"])
        .args([&program, &c])
        .ok();
    let mut program = std::process::Command::new(program);
    program
        .arg(local.path("tree/file 1"))
        .arg(local.path("tree"));
    Some(program.status().ok()?.code())
}

#[test]
fn a_program_without_large_files_stats_and_lists() {
    if !cfg!(target_arch = "x86_64") {
        println!("skipped: the program is for x86");
        return;
    }
    for (options, expected) in [("ino64", libc::EOVERFLOW), ("", 0)] {
        on_mount("ino32-program", options, |local| {
            make_tree(&local.root);
            match run_old_program(local) {
                Some(code) => assert_eq!(code, Some(expected), "-o {options:?}"),
                None => println!("skipped: this kernel runs no 32-bit programs"),
            }
        });
    }
}

#[test]
fn a_handle_finds_what_the_kernel_has_forgotten() {
    on_mount("ino32-handles", "", |local| {
        make_tree(&local.root);
        let top = File::open(&local.root).expect("opened");
        let handle = Handle::of(&local.path("tree/folder 3")).expect("a handle");
        let ino = fs::metadata(local.path("tree/folder 3"))
            .expect("attributes")
            .ino();
        wait_until("the kernel has forgotten", MINUTES, || {
            drop_caches();
            (local.fs.counts().inodes <= 1).then_some(())
        });
        let folder = handle.open(&top).expect("by its handle");
        assert_eq!(folder.metadata().expect("attributes").ino(), ino);
        let tree = fs::metadata(local.path("tree")).expect("attributes").ino();
        let dots: Vec<u64> = list_from(&folder, 0)[..2]
            .iter()
            .map(|one| one.ino)
            .collect();
        assert_eq!(dots, [ino, tree]);
    });
}
