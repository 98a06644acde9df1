//! Locks, leases and notices of change, beside ext4.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use mount_tests::beside::{Side, beside};
use mount_tests::sys::{LockKind, LockOwner, conflicting_lock, lock, set_lease};
use mount_tests::{Command, wait_until};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, inotify, renameat_with};

fn both(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("it opens")
}

/// Asks another process for the lock that it would meet: POSIX locks do not stand against their
/// own process.
fn seen_by_another(path: &Path) -> String {
    let script = "import fcntl, struct, sys
with open(sys.argv[1], 'r+b') as file:
    asked = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0)
    kind, whence, start, length, pid = struct.unpack('hhqqi4x', fcntl.fcntl(file, fcntl.F_GETLK, asked))
    print({fcntl.F_RDLCK: 'read', fcntl.F_WRLCK: 'write', fcntl.F_UNLCK: 'none'}[kind], start, length)";
    Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .ok()
        .trim()
        .to_owned()
}

#[test]
fn record_locks_of_a_process_are_split_joined_and_given_back() {
    beside("locks-posix", |side| {
        let path = side.file("file", "content");
        let file = both(&path);
        let steps = [
            (LockKind::Write, 0, 100),
            (LockKind::Read, 20, 30),
            (LockKind::Unlock, 0, 20),
            (LockKind::Unlock, 25, 26),
            (LockKind::Write, 200, i64::MAX),
            (LockKind::Unlock, 0, 150),
            (LockKind::Read, 100, 300),
            (LockKind::Unlock, 0, i64::MAX),
        ];
        for (kind, start, end) in steps {
            let set = lock(&file, LockOwner::Process, kind, start..end);
            side.note(
                format!("{kind:?} {start}..{end}"),
                (set, seen_by_another(&path)),
            );
        }
        // Closing any descriptor of the file gives them back.
        lock(&file, LockOwner::Process, LockKind::Write, 0..10).expect("locked");
        side.note("held", seen_by_another(&path));
        drop(File::open(&path).expect("it opens"));
        side.note(
            "after a close of another descriptor",
            seen_by_another(&path),
        );
        let reader = File::open(&path).expect("it opens");
        side.note(
            "write lock by a reader",
            lock(&reader, LockOwner::Process, LockKind::Write, 0..10),
        );
        side.note(
            "read lock by a reader",
            lock(&reader, LockOwner::Process, LockKind::Read, 0..10),
        );
        let writer = File::options().write(true).open(&path).expect("it opens");
        side.note(
            "read lock by a writer",
            lock(&writer, LockOwner::Process, LockKind::Read, 0..10),
        );
        side.note(
            "before the start",
            lock(&file, LockOwner::Process, LockKind::Read, -5..10),
        );
        drop((file, reader, writer));

        // A process that ends, however it does, holds nothing any more.
        let script = "import fcntl, os, sys, signal
file = open(sys.argv[1], 'r+b')
fcntl.lockf(file, fcntl.LOCK_EX)
open(sys.argv[2], 'w').write('held')
signal.pause()";
        let told = side.path("told");
        let mut holder = std::process::Command::new("python3")
            .args(["-c", script])
            .args([&path, &told])
            .spawn()
            .expect("it starts");
        let limit = std::time::Duration::from_secs(30);
        wait_until("the lock is held", limit, || {
            fs::read(&told)
                .is_ok_and(|told| told == b"held")
                .then_some(())
        });
        side.note(
            "held by another",
            lock(both(&path), LockOwner::Process, LockKind::Write, 0..1)
                .map_err(|error| error.kind()),
        );
        holder.kill().expect("killed");
        holder.wait().expect("ended");
        side.note(
            "after it was killed",
            lock(both(&path), LockOwner::Process, LockKind::Write, 0..1),
        );
    });
}

#[test]
fn locks_of_a_description_stand_against_each_other_within_a_process() {
    beside("locks-ofd", |side| {
        let path = side.file("file", "content");
        let (one, two) = (both(&path), both(&path));
        let owner = LockOwner::Description;
        side.note("one locks", lock(&one, owner, LockKind::Write, 0..10));
        let refused = lock(&two, owner, LockKind::Read, 5..6).map_err(|error| error.kind());
        side.note("two is refused", refused);
        side.note(
            "by what",
            conflicting_lock(&two, owner, LockKind::Read, 0..100).map_err(|error| error.kind()),
        );
        side.note("beside it", lock(&two, owner, LockKind::Write, 10..20));
        side.note(
            "a process's lock",
            lock(&two, LockOwner::Process, LockKind::Write, 0..5).map_err(|error| error.kind()),
        );
        side.note("seen by another process", seen_by_another(&path));
        let copy = one.try_clone().expect("cloned");
        drop(one);
        let held = lock(&two, owner, LockKind::Read, 5..6).map_err(|error| error.kind());
        side.note("held by the copy", held);
        drop(copy);
        side.note(
            "after the last close",
            lock(&two, owner, LockKind::Read, 5..6),
        );
    });
}

#[test]
fn flock_is_of_the_description() {
    beside("locks-flock", |side| {
        let path = side.file("file", "content");
        let folder = side.folder("folder");
        for path in [&path, &folder] {
            let name = path.file_name().map(ToOwned::to_owned);
            let (one, two) = (
                File::open(path).expect("it opens"),
                File::open(path).expect("it opens"),
            );
            let note = |side: &mut Side<'_>, what: &str, file: &File, how| {
                side.note(format!("{name:?} {what}"), flock(file, how));
            };
            note(side, "shared", &one, FlockOperation::NonBlockingLockShared);
            note(
                side,
                "shared by two",
                &two,
                FlockOperation::NonBlockingLockShared,
            );
            note(
                side,
                "exclusive while shared",
                &one,
                FlockOperation::NonBlockingLockExclusive,
            );
            note(side, "unlocked", &two, FlockOperation::Unlock);
            note(
                side,
                "exclusive",
                &one,
                FlockOperation::NonBlockingLockExclusive,
            );
            note(
                side,
                "shared while exclusive",
                &two,
                FlockOperation::NonBlockingLockShared,
            );
            let copy = one.try_clone().expect("cloned");
            drop(one);
            note(
                side,
                "held by the copy",
                &two,
                FlockOperation::NonBlockingLockShared,
            );
            drop(copy);
            note(
                side,
                "after the last close",
                &two,
                FlockOperation::NonBlockingLockExclusive,
            );
        }
        // flock(2) and fcntl(2) do not see each other on a local filesystem.
        let file = both(&path);
        flock(&file, FlockOperation::LockExclusive).expect("locked");
        side.note(
            "record locks beside it",
            lock(
                both(&path),
                LockOwner::Process,
                LockKind::Write,
                0..i64::MAX,
            ),
        );
        side.note("a waiting program", {
            let done = Command::new("flock")
                .args(["-w", "0"])
                .arg(&path)
                .arg("true")
                .run();
            done.status.code()
        });
        drop(file);
        let done = Command::new("flock")
            .args(["-w", "5"])
            .arg(&path)
            .arg("true")
            .run();
        side.note("afterwards", done.status.code());
    });
}

#[test]
fn a_wait_for_a_lock_ends_when_it_is_free_at_a_signal_and_in_a_circle() {
    beside("locks-wait", |side| {
        let path = side.file("file", "content");
        let file = both(&path);
        let script = "import fcntl, os, signal, sys
class Rung(Exception):
    pass
def ring(*_):
    raise Rung
signal.signal(signal.SIGALRM, ring)
signal.alarm(1)
try:
    with open(sys.argv[1], 'r+') as file:
        getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
    print('locked')
except Rung:
    print('interrupted')";
        let kinds = ["flock", "lockf"];
        flock(&file, FlockOperation::LockExclusive).expect("locked");
        lock(&file, LockOwner::Process, LockKind::Write, 0..i64::MAX).expect("locked");
        for kind in kinds {
            let waits = Command::new("python3").args(["-c", script]).arg(&path);
            let waits = waits.arg(kind).ok();
            side.note(format!("{kind} until a signal"), waits.trim());
            let mut killed = std::process::Command::new("python3")
                .args(["-c", &script.replace("alarm(1)", "alarm(0)")])
                .arg(&path)
                .arg(kind)
                .spawn()
                .expect("it starts");
            // It waits for the lock by then, or is killed before that.
            wait_until(
                "it has the file open",
                std::time::Duration::from_secs(30),
                || {
                    let open = fs::read_dir(format!("/proc/{}/fd", killed.id())).ok()?;
                    let mut open = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
                    open.any(|open| open == path).then_some(())
                },
            );
            killed.kill().expect("killed");
            let ended = killed.wait().expect("it ends");
            side.note(format!("{kind} until it is killed"), ended.success());
        }
        drop(file);
        let script = script.replace("alarm(1)", "alarm(60)");
        for kind in kinds {
            let waits = Command::new("python3").args(["-c", &script]).arg(&path);
            let waits = waits.arg(kind).ok();
            side.note(format!("{kind} of what is free"), waits.trim());
        }
        // Two processes, each of which wants what the other has.
        let script = "import errno, fcntl, os, sys
file = open(sys.argv[1], 'r+')
ours, theirs = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
    os.write(theirs[1], b'x')
    os.read(ours[0], 1)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
    except OSError as error:
        os._exit(error.errno)
    os._exit(0)
fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
os.read(theirs[0], 1)
os.write(ours[1], b'x')
failed = 0
try:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
except OSError as error:
    failed = error.errno
file.close()
both = [failed, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
# One of the two, whichever asks later.
print([errno.errorcode.get(failed) for failed in sorted(both)])";
        let circle = Command::new("python3").args(["-c", script]).arg(&path);
        side.note("in a circle", circle.ok().trim());
    });
}

#[test]
fn leases_are_given_where_nobody_else_has_the_file_open() {
    beside("locks-lease", |side| {
        let path = side.file("file", "content");
        let reader = File::open(&path).expect("it opens");
        side.note("read lease", set_lease(&reader, libc::F_RDLCK));
        side.note("given back", set_lease(&reader, libc::F_UNLCK));
        side.note(
            "write lease of a reader alone",
            set_lease(&reader, libc::F_WRLCK),
        );
        side.note("given back", set_lease(&reader, libc::F_UNLCK));
        let writer = both(&path);
        side.note(
            "read lease while somebody writes",
            set_lease(&reader, libc::F_RDLCK).map_err(|error| error.kind()),
        );
        side.note(
            "write lease while somebody reads",
            set_lease(&writer, libc::F_WRLCK).map_err(|error| error.kind()),
        );
    });
}

#[test]
fn inotify_tells_of_everything_that_this_machine_does() {
    beside("locks-inotify", |side| {
        let folder = side.folder("watched");
        side.folder("watched/sub");
        let file = side.file("watched/file", "content");
        let watcher = inotify::init(inotify::CreateFlags::NONBLOCK).expect("a watcher");
        let all = inotify::WatchFlags::ALL_EVENTS;
        let ids =
            [&folder, &file].map(|path| inotify::add_watch(&watcher, path, all).expect("watched"));
        let note = |side: &mut Side<'_>, what: &str, change: &dyn Fn()| {
            change();
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(&watcher, &mut buffer);
            let mut events = Vec::new();
            while let Ok(event) = reader.next() {
                let which = ids.iter().position(|id| *id == event.wd());
                let name = event
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                events.push(format!(
                    "{which:?} {:?} {name:?} {}",
                    event.events(),
                    event.cookie() != 0
                ));
            }
            side.note(what, events);
        };
        let at = |name: &str| folder.join(name);
        note(side, "create", &|| {
            drop(File::create(at("new")).expect("made"));
        });
        note(side, "write", &|| {
            fs::write(at("new"), "text").expect("written");
        });
        note(side, "read", &|| drop(fs::read(at("new")).expect("read")));
        note(side, "mkdir", &|| {
            fs::create_dir(at("folder")).expect("made");
        });
        note(side, "symlink", &|| symlink("x", at("link")).expect("made"));
        note(side, "link", &|| {
            fs::hard_link(at("new"), at("hard")).expect("made");
        });
        note(side, "rename", &|| {
            fs::rename(at("new"), at("moved")).expect("moved");
        });
        note(side, "rename over", &|| {
            fs::rename(at("moved"), at("link")).expect("moved");
        });
        note(side, "move out", &|| {
            fs::rename(at("link"), at("sub/link")).expect("moved");
        });
        note(side, "move in", &|| {
            fs::rename(at("sub/link"), at("link")).expect("moved");
        });
        note(side, "exchange", &|| {
            renameat_with(CWD, at("link"), CWD, at("folder"), RenameFlags::EXCHANGE)
                .expect("exchanged");
        });
        note(side, "unlink", &|| {
            fs::remove_file(at("hard")).expect("removed");
        });
        note(side, "rmdir", &|| {
            fs::remove_dir(at("link")).expect("removed");
        });
        note(side, "chmod", &|| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(at("file"), fs::Permissions::from_mode(0o600)).expect("chmod");
        });
        note(side, "truncate", &|| {
            both(&at("file")).set_len(2).expect("truncated");
        });
        note(side, "append and close", &|| {
            both(&at("file")).write_all_at(b"x", 2).expect("written");
        });
        note(side, "list", &|| {
            drop(fs::read_dir(&folder).map(Iterator::count));
        });
        note(side, "the watched file goes", &|| {
            fs::remove_file(at("file")).expect("removed");
        });
        note(side, "all goes", &|| {
            // In one order: a folder lists its entries in its own.
            let listed = fs::read_dir(&folder).expect("listed");
            let mut paths: Vec<_> = listed
                .map(|entry| entry.expect("an entry").path())
                .collect();
            paths.sort();
            for path in paths {
                let is_dir = fs::symlink_metadata(&path).expect("there").is_dir();
                let remove = if is_dir {
                    fs::remove_dir
                } else {
                    fs::remove_file
                };
                remove(path).expect("removed");
            }
            fs::remove_dir(&folder).expect("removed");
        });
    });
}
