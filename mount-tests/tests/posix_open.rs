//! open(2) and what an open file promises, beside ext4.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use mount_tests::beside::{Side, beside};
use mount_tests::sys::as_user;
use mount_tests::{Command, spawn};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, mkfifoat, open};
use rustix::io::Errno;

const RW: Mode = Mode::from_raw_mode(0o644);

/// Returns how open(2) ends, without the descriptor's number.
fn outcome(path: &Path, flags: OFlags) -> Result<(), Errno> {
    open(path, flags, RW).map(drop)
}

#[test]
fn flags_of_open_decide_what_is_opened() {
    beside("open-flags", |side| {
        side.file("file", "content");
        side.folder("folder");
        symlink("file", side.path("to file")).expect("a link");
        symlink("folder", side.path("to folder")).expect("a link");
        symlink("nothing", side.path("to nothing")).expect("a link");
        symlink("loop", side.path("loop")).expect("a link");
        mkfifoat(CWD, side.path("fifo"), RW).expect("a fifo");
        let names = [
            "file",
            "folder",
            "to file",
            "to folder",
            "to nothing",
            "loop",
            "nothing",
            "fifo",
            "file/",
            "file/x",
            "folder/",
            "folder/.",
            "nothing/",
            "to nothing/",
            "",
        ];
        let sets = [
            ("RDONLY", OFlags::RDONLY),
            ("WRONLY", OFlags::WRONLY),
            ("RDWR", OFlags::RDWR),
            ("NOFOLLOW", OFlags::NOFOLLOW),
            ("DIRECTORY", OFlags::DIRECTORY),
            ("DIRECTORY|WRONLY", OFlags::DIRECTORY | OFlags::WRONLY),
            ("DIRECTORY|NOFOLLOW", OFlags::DIRECTORY | OFlags::NOFOLLOW),
            ("PATH", OFlags::PATH),
            ("PATH|NOFOLLOW", OFlags::PATH | OFlags::NOFOLLOW),
            ("PATH|DIRECTORY", OFlags::PATH | OFlags::DIRECTORY),
            ("CREAT|EXCL", OFlags::CREATE | OFlags::EXCL | OFlags::RDWR),
            (
                "CREAT|EXCL|NOFOLLOW",
                OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR,
            ),
            ("CREAT", OFlags::CREATE | OFlags::RDWR),
            ("CREAT|RDONLY", OFlags::CREATE),
            ("CREAT|DIRECTORY", OFlags::CREATE | OFlags::DIRECTORY),
            ("TRUNC|RDONLY", OFlags::TRUNC),
            ("TRUNC", OFlags::TRUNC | OFlags::WRONLY),
            (
                "APPEND|TRUNC",
                OFlags::APPEND | OFlags::TRUNC | OFlags::RDWR,
            ),
            ("NOATIME", OFlags::NOATIME),
            ("DIRECT", OFlags::DIRECT | OFlags::RDWR),
            ("SYNC", OFlags::SYNC | OFlags::RDWR),
            ("DSYNC", OFlags::DSYNC | OFlags::RDWR),
        ];
        for name in names {
            for (set, flags) in sets {
                let path = if name.is_empty() {
                    "".into()
                } else {
                    side.path(name)
                };
                // A fifo without a writer must not be waited for.
                let ended = outcome(&path, flags | OFlags::NONBLOCK);
                side.note(format!("open {name:?} {set}"), ended);
            }
            // What O_CREAT made is not there for the next.
            for made in ["nothing", "to nothing"] {
                let _ = fs::remove_file(side.path(made));
            }
            symlink("nothing", side.path("to nothing")).expect("a link");
        }
        side.note(
            "size after truncations",
            fs::metadata(side.path("file")).map(|meta| meta.len()),
        );
    });
}

#[test]
fn a_path_descriptor_names_and_does_not_read() {
    beside("open-path", |side| {
        let path = side.file("file", "content");
        let held = File::from(open(&path, OFlags::PATH, Mode::empty()).expect("it opens"));
        side.note("fstat", held.metadata().map(|meta| meta.len()));
        side.note("read", (&held).read(&mut [0; 8]));
        side.note("chmod", rustix::fs::fchmod(&held, Mode::RWXU));
        side.note("ftruncate", rustix::fs::ftruncate(&held, 1));
        let again = format!("/proc/self/fd/{}", held.as_raw_fd());
        side.note("read through /proc", fs::read_to_string(&again));
        side.note("write through /proc", fs::write(&again, "other"));
        side.note("content", fs::read_to_string(&path));
        let to = side.path("linked");
        side.note(
            "linkat AT_EMPTY_PATH",
            linkat(&held, "", CWD, &to, AtFlags::EMPTY_PATH),
        );
        side.note("links", fs::metadata(&to).map(|meta| meta.nlink()));
    });
}

#[test]
fn appends_go_to_the_end_whatever_the_position() {
    beside("open-append", |side| {
        let path = side.file("file", "0123456789");
        let mut file = File::options()
            .read(true)
            .append(true)
            .open(&path)
            .expect("it opens");
        side.note("position at open", file.stream_position());
        side.note("append", file.write(b"AB"));
        side.note("position after", file.stream_position());
        side.note("seek", file.seek(SeekFrom::Start(3)));
        side.note("append again", file.write(b"CD"));
        side.note("position after", file.stream_position());
        // A bug of Linux that pwrite(2) tells of and programs know: it appends.
        side.note("pwrite", file.write_at(b"EF", 0));
        let mut read = [0; 4];
        side.note(
            "pread",
            file.read_at(&mut read, 9).map(|len| read[..len].to_vec()),
        );
        side.note("content", fs::read_to_string(&path));
        let mut other = File::options().write(true).open(&path).expect("it opens");
        side.note("seek of another", other.seek(SeekFrom::End(4)));
        side.note("write of another", other.write(b"far"));
        side.note("append behind it", file.write(b"GH"));
        side.note("content", fs::read(&path));
        side.note("truncated below", file.set_len(2));
        side.note("append there", file.write(b"IJ"));
        side.note("content", fs::read_to_string(&path));
        rustix::fs::fcntl_setfl(&file, OFlags::empty()).expect("O_APPEND is taken back");
        side.note("seek", file.seek(SeekFrom::Start(1)));
        side.note("write in place", file.write(b"x"));
        side.note("content", fs::read_to_string(&path));
        rustix::fs::fcntl_setfl(&other, OFlags::APPEND).expect("O_APPEND is set");
        side.note("seek", other.seek(SeekFrom::Start(0)));
        side.note("append by the other", other.write(b"KL"));
        side.note("content", fs::read_to_string(&path));
        side.note("size", fs::metadata(&path).map(|meta| meta.len()));
    });
}

#[test]
fn appends_of_several_lose_nothing() {
    beside("open-appends", |side| {
        let path = side.path("log");
        let line = |writer: usize, number: usize| {
            format!("{writer} {number:05} {}\n", "-".repeat(number % 60))
        };
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let path = path.clone();
                spawn(move || {
                    let mut file = File::options()
                        .create(true)
                        .append(true)
                        .open(&path)
                        .expect("it opens");
                    for number in 0..500 {
                        file.write_all(line(writer, number).as_bytes())
                            .expect("it appends");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("it writes");
        }
        let text = fs::read_to_string(&path).expect("it reads");
        for writer in 0..4 {
            let own: String = text
                .lines()
                .filter(|line| line.starts_with(&format!("{writer} ")))
                .map(|line| format!("{line}\n"))
                .collect();
            let expected: String = (0..500).map(|number| line(writer, number)).collect();
            side.note(format!("lines of {writer}"), own == expected);
        }
        side.note("bytes", text.len());
    });
}

#[test]
fn there_is_no_tmpfile_and_programs_do_without() {
    // ext4 has O_TMPFILE; fuser cannot be asked for it. open(2) names the errno by which a program
    // knows, and glibc, Python and git fall back to a name.
    beside("open-tmpfile", |side| {
        let folder = side.folder("folder");
        let opened = outcome(&folder, OFlags::TMPFILE | OFlags::RDWR);
        let expected = if side.is_dfs() {
            Err(Errno::OPNOTSUPP)
        } else {
            Ok(())
        };
        assert_eq!(opened, expected);
        let twice = outcome(&folder, OFlags::TMPFILE | OFlags::RDWR);
        assert_eq!(twice, expected);
        let script = "import tempfile, sys
with tempfile.TemporaryFile(dir=sys.argv[1]) as file:
    file.write(b'some'); file.seek(0); print(file.read())";
        let python = Command::new("python3")
            .args(["-c", script])
            .arg(&folder)
            .ok();
        side.note("a temporary file of Python", python);
        side.note("left", fs::read_dir(&folder).map(Iterator::count));
    });
}

#[test]
fn a_running_program_cannot_be_written_and_a_written_one_cannot_run() {
    beside("open-busy-text", |side| {
        let program = side.path("sleeper");
        fs::copy("/bin/sleep", &program).expect("it is copied");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        let writer = File::options()
            .write(true)
            .open(&program)
            .expect("it opens");
        let run = || std::process::Command::new(&program).arg("1000").spawn();
        side.note("exec while open for writing", run().map(|_| ()));
        drop(writer);
        let mut running = run().expect("it runs");
        // spawn(2) returns when the program was executed.
        for (how, flags) in [
            ("WRONLY", OFlags::WRONLY),
            ("RDWR", OFlags::RDWR),
            ("TRUNC", OFlags::WRONLY | OFlags::TRUNC),
            ("RDONLY", OFlags::RDONLY),
        ] {
            side.note(
                format!("open {how} while it runs"),
                outcome(&program, flags),
            );
        }
        let truncated = Command::new("truncate")
            .args(["-s", "1"])
            .arg(&program)
            .run();
        side.note("truncate while it runs", truncated.stderr_text());
        side.note("unlink while it runs", fs::remove_file(&program));
        running.kill().expect("it is killed");
        running.wait().expect("it ends");
    });
}

#[test]
fn a_fifo_waits_for_its_other_end() {
    beside("open-fifo", |side| {
        let path = side.path("fifo");
        mkfifoat(CWD, &path, RW).expect("a fifo");
        side.note(
            "no reader",
            outcome(&path, OFlags::WRONLY | OFlags::NONBLOCK),
        );
        let reader = File::from(open(&path, OFlags::NONBLOCK, RW).expect("a reader need not wait"));
        side.note(
            "with reader",
            outcome(&path, OFlags::WRONLY | OFlags::NONBLOCK),
        );
        drop(reader);
        let there = path.clone();
        let writer = spawn(move || {
            let mut file = File::options().write(true).open(there).expect("it opens");
            file.write_all(&[7; 100_000]).expect("it writes");
        });
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut text));
        writer.join().expect("it writes");
        side.note("read", read);
        side.note("size", fs::metadata(&path).map(|meta| meta.len()));
    });
}

/// Memory whose address fits O_DIRECT.
#[repr(align(4096))]
struct Aligned([u8; 8192]);

#[test]
fn direct_and_synchronous_files_have_the_same_content() {
    beside("open-direct", |side| {
        let path = side.path("direct");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT;
        let file = File::from(open(&path, flags, RW).expect("it opens"));
        let mut memory = Box::new(Aligned([0x5a; 8192]));
        side.note("direct write", file.write_at(&memory.0, 4096));
        // A cached reader and a mapping see it.
        let cached = File::open(&path).expect("it opens");
        let mut seen = vec![1; 12288];
        side.note("cached read", cached.read_exact_at(&mut seen, 0));
        side.note(
            "its bytes",
            (seen[..4096] == [0; 4096], seen[4096..] == [0x5a; 8192]),
        );
        let writer = File::options().write(true).open(&path).expect("it opens");
        side.note("cached write", writer.write_at(&[0x11; 4096], 8192));
        side.note("direct read", file.read_at(&mut memory.0, 4096));
        side.note(
            "its bytes",
            (
                memory.0[..4096] == [0x5a; 4096],
                memory.0[4096..] == [0x11; 4096],
            ),
        );
        let mut seen = vec![0; 4096];
        side.note("direct write again", file.write_at(&memory.0[4096..], 4096));
        side.note(
            "cached read",
            cached
                .read_exact_at(&mut seen, 4096)
                .map(|()| seen == [0x11; 4096]),
        );
        side.note("direct read at the end", file.read_at(&mut memory.0, 12288));
        side.note(
            "direct read across the end",
            file.read_at(&mut memory.0, 8192),
        );
        drop((file, cached, writer));
        for (name, flag) in [("sync", OFlags::SYNC), ("dsync", OFlags::DSYNC)] {
            let path = side.path(name);
            let file = File::from(
                open(&path, OFlags::CREATE | OFlags::RDWR | flag, RW).expect("it opens"),
            );
            for number in 0..8 {
                side.note(
                    format!("{name} {number}"),
                    file.write_at(&[number; 3000], u64::from(number) * 2900),
                );
            }
            side.note(
                format!("size of {name}"),
                file.metadata().map(|meta| meta.len()),
            );
        }
        side.remount();
        for name in ["direct", "sync", "dsync"] {
            let content =
                fs::read(side.path(name)).map(|bytes| (bytes.len(), blake3::hash(&bytes)));
            side.note(format!("{name} after a remount"), content);
        }
    });
}

#[test]
fn only_the_owner_opens_without_access_times() {
    beside("open-noatime", |side| {
        let path = side.file("file", "x");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
        let own = side.file("own", "x");
        rustix::fs::chown(&own, Some(rustix::fs::Uid::from_raw(65534)), None).expect("chown");
        for path in [path, own] {
            let name = path.file_name().map(OsStr::to_owned);
            let opened = as_user(65534, &[65534], move || outcome(&path, OFlags::NOATIME));
            side.note(format!("O_NOATIME of {name:?} by nobody"), opened);
        }
    });
}

#[test]
fn an_unlinked_open_file_lives_until_it_is_closed() {
    beside("open-unlinked", unlinked_open_file);
}

fn unlinked_open_file(side: &mut Side<'_>) {
    for (name, size) in [("small", 100), ("large", 3 << 20)] {
        let path = side.file(name, vec![1; size]);
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("it opens");
        side.note("unlink", fs::remove_file(&path));
        let facts = |file: &File| {
            file.metadata()
                .map(|meta| (meta.nlink(), meta.len(), meta.blocks() > 0))
        };
        side.note("fstat", facts(&file));
        side.note("read", file.read_exact_at(&mut vec![0; size], 0));
        side.note("write", file.write_all_at(b"more", size as u64));
        side.note("fstat", facts(&file));
        side.note("ftruncate", file.set_len(10));
        side.note("fstat", facts(&file));
        side.note(
            "fchmod",
            file.set_permissions(fs::Permissions::from_mode(0o600)),
        );
        side.note("mode", file.metadata().map(|meta| meta.mode()));
        side.note("fsync", file.sync_all());
        side.note(
            "xattr",
            rustix::fs::fsetxattr(&file, "user.x", b"v", rustix::fs::XattrFlags::empty()),
        );
        let mut value = [0; 8];
        side.note(
            "xattr",
            rustix::fs::fgetxattr(&file, "user.x", &mut value[..]).map(|len| value[..len].to_vec()),
        );
        let link = linkat(&file, "", CWD, side.path("back"), AtFlags::EMPTY_PATH);
        side.note("linkat AT_EMPTY_PATH of what is gone", link);
        let through = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = linkat(
            CWD,
            &through,
            CWD,
            side.path("back"),
            AtFlags::SYMLINK_FOLLOW,
        );
        side.note("linkat through /proc of what is gone", link);
        let mut again = String::new();
        let opened = File::options().read(true).write(true).open(&through);
        side.note(
            "opened through /proc",
            opened.map(|mut file| file.read_to_string(&mut again)),
        );
        side.note("the same name again", fs::write(&path, "new"));
        side.note("the old one", file.metadata().map(|meta| meta.len()));
        let new = fs::metadata(&path).map(|meta| meta.ino());
        let old = file.metadata().map(|meta| meta.ino());
        side.note("not the same file", new.ok() != old.ok());
        drop(file);
        // Of a file with a name a link can be made by its descriptor.
        let file = File::open(&path).expect("it opens");
        let through = format!("/proc/self/fd/{}", file.as_raw_fd());
        let to = side.path(format!("{name} linked"));
        side.note(
            "linkat through /proc",
            linkat(CWD, &through, CWD, &to, AtFlags::SYMLINK_FOLLOW),
        );
        side.note("links", file.metadata().map(|meta| meta.nlink()));
        side.note(
            "renamed over while open",
            fs::rename(side.file("over", "over"), &to),
        );
        side.note("links", file.metadata().map(|meta| meta.nlink()));
        side.note("removed", fs::remove_file(&path));
        side.note("links", file.metadata().map(|meta| meta.nlink()));
        let mut text = String::new();
        side.note(
            "still read",
            (&file).read_to_string(&mut text).map(|_| text),
        );
    }
}
