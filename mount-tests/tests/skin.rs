//! The skin alone: a filesystem of this process on a store in memory, through the kernel.

mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use dfs::base::Ino;
use dfs::fs::{Caller, FsCounts, Invalidation, OpenFlags};
use dfs::fuse::{FuseError, MountOptions, Prepared};
use dfs::store::Store;
use mount_tests::source::{make_odd_things, pattern};
use mount_tests::tree::{assert_equal, read_tree};
use mount_tests::{Command, machine, scenario, wait_until};
use support::{Local, drop_caches, mount, new_fs, on_mount};

const MINUTES: Duration = Duration::from_secs(60);

fn with_mount(name: &str, body: impl FnOnce(&Local)) {
    on_mount(name, "", body);
}

/// Runs a body on a mount that shows inodes by short numbers and on one that does by their own.
fn on_both(name: &str, body: fn(&Local)) {
    on_mount(name, "", body);
    on_mount(&format!("{name}-ino64"), "ino64", body);
}

#[test]
fn files_are_created_written_read_renamed_and_deleted() {
    with_mount("files", |local| {
        let path = local.path("file");
        let mut file = File::create(&path).expect("created");
        file.write_all(b"hello").expect("written");
        file.seek(SeekFrom::Start(1)).expect("sought");
        file.write_all(b"E").expect("written");
        drop(file);
        assert_eq!(fs::read(&path).expect("read"), b"hEllo");
        fs::rename(&path, local.path("other")).expect("renamed");
        assert!(!path.exists());
        let large = pattern((5 << 20) + 321, 1);
        fs::write(&path, &large).expect("written");
        fs::rename(&path, local.path("other")).expect("replaced");
        assert!(fs::read(local.path("other")).expect("read") == large);
        fs::remove_file(local.path("other")).expect("removed");
        assert_eq!(fs::read_dir(&local.root).expect("listed").count(), 0);
        assert!(!local.path("other").exists());
    });
}

#[test]
fn a_change_to_the_owner_that_is_clears_setuid() {
    with_mount("chown", |local| {
        let path = local.path("tool");
        fs::write(&path, b"x").expect("written");
        for (owner, group) in [(Some(0), None), (None, Some(0))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).expect("set");
            std::os::unix::fs::chown(&path, owner, group).expect("changed");
            let mode = fs::metadata(&path).expect("looked at").mode() & 0o7777;
            assert_eq!(mode, 0o711, "{owner:?} {group:?}: {mode:o}");
        }
    });
}

#[test]
fn a_tree_of_odd_things_is_kept() {
    on_both("odd", |local| {
        let here = tempfile::tempdir().expect("a folder");
        make_odd_things(here.path());
        let there = local.path("copy");
        Command::new("cp")
            .args(["-a", "-T"])
            .args([here.path(), &there])
            .ok();
        assert_equal("the copy", &read_tree(here.path()), &read_tree(&there));
        drop_caches();
        assert_equal(
            "the copy, cold",
            &read_tree(here.path()),
            &read_tree(&there),
        );
        Command::new("rm").arg("-r").arg(&there).ok();
    });
}

#[test]
fn ten_thousand_entries_are_listed_once_each_and_in_any_buffer() {
    on_both("many", |local| {
        let names: BTreeSet<_> = (0..10_000)
            .map(|number| format!("entry {number}"))
            .collect();
        for name in &names {
            File::create(local.path(name)).expect("created");
        }
        for _ in 0..2 {
            let listed: Vec<_> = fs::read_dir(&local.root)
                .expect("listed")
                .map(|entry| {
                    entry
                        .expect("an entry")
                        .file_name()
                        .into_string()
                        .expect("plain")
                })
                .collect();
            assert_eq!(listed.len(), names.len());
            assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
            drop_caches();
        }
        // With attributes, and while others change the folder.
        let mut seen = 0;
        for entry in fs::read_dir(&local.root).expect("listed") {
            let entry = entry.expect("an entry");
            if seen % 100 == 0 {
                fs::write(local.path(format!("new {seen}")), "x").expect("written");
            }
            if entry.file_name().to_string_lossy().starts_with("entry") {
                assert_eq!(entry.metadata().expect("attributes").len(), 0);
                fs::remove_file(entry.path()).expect("removed while listing");
                seen += 1;
            }
        }
        assert_eq!(seen, names.len());
    });
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    on_both("unlinked", |local| {
        let path = local.path("file");
        fs::write(&path, "before").expect("written");
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("opened");
        fs::remove_file(&path).expect("removed");
        assert_eq!(file.metadata().expect("attributes").nlink(), 0);
        file.seek(SeekFrom::End(0)).expect("sought");
        file.write_all(b" and after").expect("written");
        file.sync_all().expect("synced");
        file.seek(SeekFrom::Start(0)).expect("sought");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "before and after");
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .expect("changed");
        file.set_len(3).expect("cut");
        assert_eq!(file.metadata().expect("attributes").len(), 3);
        drop(file);
        assert!(!path.exists());
    });
}

/// Writes a number to each page of a file through a map and checks them through another.
const MAP_SOURCE: &str = r#"
#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
    size_t size = 3 << 20;
    int file = open(argv[argc - 1], O_RDWR | O_CREAT | O_TRUNC, 0644);
    assert(file >= 0 && !ftruncate(file, size));
    char *map = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    assert(map != MAP_FAILED);
    for (uint64_t at = 0; at < size; at += 4096) memcpy(map + at, &at, 8);
    assert(!msync(map, size, MS_SYNC));
    memcpy(map + 100, "end", 3);
    assert(!munmap(map, size) && !close(file));
    file = open(argv[argc - 1], O_RDONLY);
    map = mmap(0, size, PROT_READ, MAP_PRIVATE, file, 0);
    assert(map != MAP_FAILED && !memcmp(map + 100, "end", 3));
    for (uint64_t at = 0; at < size; at += 4096) assert(!memcmp(map + at, &at, 8));
    return 0;
}
"#;

#[test]
fn memory_maps_write_and_read() {
    with_mount("mmap", |local| {
        let source = tempfile::tempdir().expect("a folder");
        let (c, program) = (source.path().join("map.c"), source.path().join("map"));
        fs::write(&c, MAP_SOURCE).expect("written");
        Command::new("gcc").arg("-o").args([&program, &c]).ok();
        Command::new(&program).arg(local.path("mapped")).ok();
        drop_caches();
        let data = fs::read(local.path("mapped")).expect("read");
        assert_eq!(&data[100..103], b"end");
        assert_eq!(&data[8192..8200], 8192u64.to_le_bytes());
        // An executable is a private map.
        fs::copy("/bin/true", local.path("true")).expect("copied");
        Command::new(local.path("true")).ok();
    });
}

#[test]
fn sparse_files_have_holes_and_cost_nothing() {
    with_mount("sparse", |local| {
        let path = local.path("sparse");
        let file = File::create_new(&path).expect("created");
        file.set_len(1 << 40).expect("a tebibyte");
        file.write_all_at(b"island", 500 << 30).expect("written");
        file.sync_all().expect("synced");
        let meta = file.metadata().expect("attributes");
        assert!(
            meta.len() == 1 << 40 && meta.blocks() < 16,
            "{} blocks",
            meta.blocks()
        );
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("opened");
        let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).expect("there is data");
        assert_eq!(data & !0xf_ffff, 500 << 30);
        let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).expect("and a hole");
        assert!(hole > data && hole <= (500 << 30) + (1 << 20));
        Command::new("fallocate")
            .args(["--punch-hole", "-o", "536870912000", "-l", "4096"])
            .arg(&path)
            .ok();
        let mut bytes = [1; 6];
        file.read_exact_at(&mut bytes, 500 << 30).expect("read");
        assert_eq!(bytes, [0; 6]);
        Command::new("fallocate")
            .args(["-l", "1M"])
            .arg(local.path("reserved"))
            .ok();
        assert_eq!(
            fs::metadata(local.path("reserved"))
                .expect("attributes")
                .len(),
            1 << 20
        );
    });
}

#[test]
fn a_change_behind_the_kernel_shows_when_it_is_told() {
    on_both("notices", |local| {
        let invalidator = local.mounted.invalidator();
        fs::write(local.path("file"), "old").expect("written");
        fs::create_dir(local.path("folder")).expect("made");
        assert_eq!(fs::read(local.path("file")).expect("read"), b"old");
        assert!(!local.path("folder/new").exists());
        assert_eq!(
            fs::read_dir(local.path("folder")).expect("listed").count(),
            0
        );

        // As another peer would: through the volume's own door and not the kernel's.
        let caller = Caller {
            uid: 0,
            gid: 0,
            pid: 0,
            umask: 0,
        };
        let folder = local
            .fs
            .lookup(Ino::ROOT, b"folder")
            .expect("found")
            .attr
            .ino;
        let flags = OpenFlags {
            write: true,
            ..OpenFlags::default()
        };
        let made = local
            .fs
            .create(caller, folder, b"new", 0o644, flags)
            .expect("created");
        let ino = made.entry.attr.ino;
        local
            .fs
            .write(
                ino,
                made.opened.fh,
                0,
                b"made elsewhere",
                Default::default(),
            )
            .expect("written");
        local.fs.release(ino, made.opened.fh).expect("closed");
        assert!(
            !local.path("folder/new").exists(),
            "the kernel keeps that there is no such name"
        );
        invalidator.push(Invalidation::Entry {
            parent: folder,
            name: b"new".to_vec(),
        });
        wait_until("the name shows", MINUTES, || {
            local.path("folder/new").exists().then_some(())
        });
        assert_eq!(
            fs::read(local.path("folder/new")).expect("read"),
            b"made elsewhere"
        );
        wait_until("the listing shows it", MINUTES, || {
            (fs::read_dir(local.path("folder")).expect("listed").count() == 1).then_some(())
        });

        let opened = local.fs.open(caller, ino, flags).expect("opened");
        local
            .fs
            .write(
                ino,
                opened.fh,
                0,
                b"CHANGED, and longer than before",
                Default::default(),
            )
            .expect("written");
        local.fs.release(ino, opened.fh).expect("closed");
        let watcher = File::open(local.path("folder/new")).expect("opened");
        invalidator.push(Invalidation::Content(ino));
        wait_until("the content shows", MINUTES, || {
            let mut bytes = [0; 31];
            watcher.read_exact_at(&mut bytes, 0).ok()?;
            (&bytes == b"CHANGED, and longer than before").then_some(())
        });
        assert_eq!(watcher.metadata().expect("attributes").len(), 31);

        local.fs.unlink(folder, b"new").expect("removed");
        invalidator.push(Invalidation::Delete {
            parent: folder,
            child: ino,
            name: b"new".to_vec(),
        });
        wait_until("the name is gone", MINUTES, || {
            (!local.path("folder/new").exists()).then_some(())
        });
        local.fs.forget(ino, 1);
        local.fs.forget(folder, 1);
    });
}

#[test]
fn the_tables_are_empty_when_the_kernel_has_forgotten() {
    on_both("forget", |local| {
        let here = tempfile::tempdir().expect("a folder");
        make_odd_things(here.path());
        let there = local.path("copy");
        Command::new("cp")
            .args(["-a", "-T"])
            .args([here.path(), &there])
            .ok();
        read_tree(&there);
        Command::new("ls").arg("-lR").arg(&local.root).ok();
        assert!(local.fs.counts().inodes > 50);
        Command::new("rm").arg("-r").arg(&there).ok();
        wait_until("the kernel has forgotten all but the root", MINUTES, || {
            drop_caches();
            let FsCounts {
                inodes, handles, ..
            } = local.fs.counts();
            (inodes <= 1 && handles == 0).then_some(())
        });
    });
}

#[test]
fn times_owners_modes_and_attributes_are_as_on_any_filesystem() {
    with_mount("attributes", |local| {
        let path = local.path("file");
        fs::write(&path, "x").expect("written");
        Command::shell(
            "touch -d @-1.25 file; test \"$(stat -c %.9Y file)\" = -1.250000000
             touch -d @4294967296.123456789 file; test \"$(stat -c %.9Y file)\" = 4294967296.123456789
             chown 12:34 file; chmod 6755 file; test \"$(stat -c '%u %g %a' file)\" = '12 34 6755'
             chown 13 file; test \"$(stat -c '%a' file)\" = 755
             chmod 4755 file
             setpriv --reuid 99 --regid 99 --clear-groups true
             setfattr -n user.x -v y file; test \"$(getfattr --only-values -n user.x file)\" = y
             ! getfattr -n user.none file 2> err; grep -q 'No such attribute' err; rm err
             umask 027; mkdir made; test \"$(stat -c %a made)\" = 750
             setfacl -m u:77:rw file; getfacl -n file | grep -q user:77:rw
             setfacl -d -m g:88:rx made; mkdir made/below; getfacl -n made/below | grep -q group:88:r-x
             mkfifo fifo; mknod null c 1 3; test \"$(stat -c '%t %T' null)\" = '1 3'
             ln file again; test \"$(stat -c %h file)\" = 2
             ln -s target link; test \"$(readlink link)\" = target
             ! lsattr file 2> err; rm err
             df . > /dev/null",
        )
        .folder(&local.root)
        .ok();
        // An unprivileged write takes setuid away, a privileged one does not.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4777)).expect("set");
        fs::write(&path, "by root").expect("written");
        assert_eq!(mode(&path), 0o4777);
        let as_user = |script: &str| {
            Command::new("setpriv")
                .args([
                    "--reuid",
                    "99",
                    "--regid",
                    "99",
                    "--clear-groups",
                    "sh",
                    "-c",
                    script,
                    "sh",
                ])
                .arg(&path)
                .ok()
        };
        as_user("echo y >> \"$1\"");
        assert_eq!(mode(&path), 0o777);
        for change in [": > \"$1\"", "truncate -s 2 \"$1\""] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).expect("set");
            as_user(change);
            assert_eq!(mode(&path), 0o777, "after {change}");
        }
        let name = OsStr::from_bytes(b"\xf0\x00x".split(|b| *b == 0).next().expect("a part"));
        fs::write(local.path(name), "bytes").expect("any bytes are a name");
        let long = fs::write(local.path("n".repeat(256)), "").expect_err("too long");
        assert_eq!(long.raw_os_error(), Some(36));
    });
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("attributes").permissions().mode() & 0o7777
}

#[test]
fn others_are_answered_while_changes_wait() {
    on_mount("stuck", "threads=1", |local| {
        fs::create_dir(local.path("folder")).expect("made");
        for number in 0..50 {
            fs::write(local.path(number.to_string()), "x").expect("written");
        }
        let is_in_open = |thread: i32| {
            let call = fs::read_to_string(format!("/proc/self/task/{thread}/syscall"));
            call.expect("root may")
                .starts_with(&format!("{} ", libc::SYS_openat))
        };
        for round in 0..3 {
            let writer = local.fs.volume().write().expect("the writer's lock");
            let new = local.path(format!("folder/{round}"));
            let other = local.path(format!("{round}"));
            std::thread::scope(|scope| {
                let (sender, thread) = std::sync::mpsc::channel();
                let new = &new;
                let made = scope.spawn(move || {
                    let thread = rustix::thread::gettid().as_raw_nonzero().get();
                    sender.send(thread).expect("asked for");
                    File::create_new(new)
                });
                let thread = thread.recv().expect("a thread");
                wait_until("it waits for an answer", MINUTES, || {
                    is_in_open(thread).then_some(())
                });
                // Behind it, which is not answered.
                for number in 0..100 {
                    let none = local.path(format!("none {round} {number}"));
                    assert!(!none.exists());
                    assert_eq!(fs::read(&other).expect("read"), b"x");
                }
                assert!(!made.is_finished());
                drop(writer);
                made.join().expect("no panic").expect("made");
            });
        }
    });
}

#[test]
fn a_mount_that_the_user_takes_away_ends_the_session() {
    scenario("umount", MINUTES, |s| {
        let root = s.new_folder("mnt");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let fs = new_fs(Store::memory());
        for _ in 0..3 {
            let mounted = mount(&fs, MountOptions::new(&root), &runtime);
            let twice = Prepared::new(MountOptions::new(&root));
            assert!(
                matches!(twice, Err(FuseError::AlreadyMounted { .. })),
                "{twice:?}"
            );
            fs::write(root.join("file"), "x").expect("written");
            Command::new("umount").arg(&root).ok();
            runtime.block_on(mounted.ended()).expect("an orderly end");
            runtime
                .block_on(mounted.close())
                .expect("nothing is left to close");
        }
        // Dropped while in use: gone all the same.
        let mounted = mount(&fs, MountOptions::new(&root), &runtime);
        let file = File::open(root.join("file")).expect("opened");
        drop(mounted);
        assert!(machine::mounts_below(&root).is_empty());
        assert!(file.metadata().is_err());
        drop(file);
        // And a mount somebody else made there since is not ours to take away.
        let mounted = mount(&fs, MountOptions::new(&root), &runtime);
        Command::new("umount").arg(&root).ok();
        let other = new_fs(Store::memory());
        let second = mount(&other, MountOptions::new(&root), &runtime);
        drop(mounted);
        assert_eq!(machine::mounts_below(&root).len(), 1);
        runtime.block_on(second.close()).expect("closed");
    });
}

#[test]
fn a_mount_becomes_read_only_and_writable_again() {
    with_mount("remount", |local| {
        let path = local.path("file");
        fs::write(&path, "x").expect("written");
        let mut options = MountOptions::new(&local.root);
        options
            .parse("ro,noexec,remount,user_id=0")
            .expect("known options");
        dfs::fuse::remount(&options).expect("remounted");
        let refused = fs::write(&path, "y").expect_err("read-only");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(fs::read(&path).expect("read"), b"x");
        options.parse("rw,exec").expect("known options");
        dfs::fuse::remount(&options).expect("remounted");
        fs::write(&path, "y").expect("written");
        let elsewhere = dfs::fuse::remount(&MountOptions::new(std::env::temp_dir()));
        assert!(
            matches!(elsewhere, Err(FuseError::NotMounted { .. })),
            "{elsewhere:?}"
        );
    });
}
