//! Programs that change files in their own ways: databases, archives, editors, the tools of every
//! script; on a volume with three live peers, some beside ext4.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount_tests::beside::beside;
use mount_tests::source::{make_source_tree, pattern};
use mount_tests::tree::{assert_equal, read_tree};
use mount_tests::{Command, Trio, is_quick, scenario, spawn};

const MINUTES: Duration = Duration::from_secs(60);

/// Adds rows to a database in transactions of their own, and takes some away.
const ADD_ROWS: &str = "import sqlite3, sys
path, mode, writer, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
db = sqlite3.connect(path, timeout=60, isolation_level=None)
db.execute('pragma busy_timeout = 60000')
assert db.execute(f'pragma journal_mode = {mode}').fetchone()[0] == mode
db.execute('pragma synchronous = full')
for number in range(count):
    db.execute('begin immediate')
    db.execute('insert into rows values (?, ?, ?)', (writer, number, bytes([number % 256]) * (number * 37 % 5000)))
    if number % 10 == 9:
        db.execute('update rows set body = zeroblob(3000) where writer = ? and number = ?', (writer, number - 5))
        db.execute('delete from rows where writer = ? and number = ?', (writer, number - 9))
    if number % 25 == 24:
        db.execute('rollback')
    else:
        db.execute('commit')
    if number % 20 == 0:
        assert db.execute('select count(*) from rows where writer = ?', (writer,)).fetchone()[0] <= number + 1
db.close()";

#[test]
fn two_processes_share_an_sqlite_database_in_every_journal_mode() {
    scenario("sqlite", 10 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let count = if is_quick() { 50 } else { 150 };
        // Every tenth row takes the first of its ten away, and every 25th transaction is undone.
        let expected = expected_rows(count);
        for mode in ["delete", "truncate", "persist", "wal"] {
            let path = trio.a.path(format!("{mode}.db"));
            let sql = format!(
                "pragma journal_mode = {mode}; create table rows (writer int, number int, body blob, primary key (writer, number));"
            );
            Command::new("sqlite3").arg(&path).arg(sql).ok();
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let path = path.clone();
                    spawn(move || {
                        let python = Command::new("python3").args(["-c", ADD_ROWS]).arg(path);
                        python
                            .args([mode, &writer.to_string(), &count.to_string()])
                            .limit(3 * MINUTES)
                            .ok()
                    })
                })
                .collect();
            for writer in writers {
                writer.join().expect("it writes");
            }
            check_database(&path, expected, mode);
        }
        trio.a.unmount();
        trio.a.restart();
        for mode in ["delete", "truncate", "persist", "wal"] {
            check_database(&trio.a.path(format!("{mode}.db")), expected, mode);
        }
    });
}

fn expected_rows(count: usize) -> usize {
    let mut rows = std::collections::BTreeSet::new();
    for number in (0..count).filter(|number| number % 25 != 24) {
        rows.insert(number);
        if number % 10 == 9 {
            rows.remove(&(number - 9));
        }
    }
    rows.len() * 2
}

fn check_database(path: &Path, rows: usize, mode: &str) {
    let sql = "pragma integrity_check; select count(*) from rows;";
    let said = Command::new("sqlite3").arg(path).arg(sql).ok();
    assert_eq!(said, format!("ok\n{rows}\n"), "journal mode {mode}");
}

/// Makes a tree with what archives are asked to keep: also lists, and files with holes.
fn make_kept_tree(root: &Path) {
    make_source_tree(root, if is_quick() { 100 } else { 600 });
    let set = |args: &[&str], name: &str| {
        Command::new("setfacl").args(args).arg(root.join(name)).ok();
    };
    set(&["-m", "u:1234:rw,g:5678:r"], "odd/owned");
    set(&["-d", "-m", "u:1234:rwx"], "odd/empty folder");
    let xattr = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("odd/case"), "trusted.kept", b"value", xattr).expect("set");
    rustix::fs::setxattr(root.join("odd/case"), "security.kept", b"value", xattr).expect("set");
    let sparse = File::create(root.join("odd/more holes")).expect("made");
    sparse.set_len(100 << 20).expect("extended");
    for at in [0, 50 << 20, (100 << 20) - 5] {
        sparse.write_all_at(b"data", at).expect("written");
    }
}

/// Returns the lists of all that has one, in the order of names.
fn acls(root: &Path) -> Vec<String> {
    let get = Command::new("getfacl").args(["-R", "-n", "-p", "-s", "."]);
    let text = get.folder(root).ok();
    let mut lists: Vec<_> = text.split("\n\n").map(str::to_owned).collect();
    lists.sort();
    lists
}

#[test]
fn rsync_finds_nothing_to_do_the_second_time() {
    scenario("rsync", 10 * MINUTES, |s| {
        let source = s.path("source");
        make_kept_tree(&source);
        // rsync leaves the time of a new folder or link alone where it is of the right second.
        Command::shell("find \"$0\" -depth -exec touch -h -d '2001-02-03 04:05:06.789' {} +")
            .arg(&source)
            .ok();
        let expected = read_tree(&source);
        let mut trio = Trio::start(s);
        let rsync = |options: &[&str], from: &Path, to: &Path| {
            let mut with_slash = from.as_os_str().to_owned();
            with_slash.push("/");
            Command::new("rsync")
                .args(["-aHAX", "--itemize-changes"])
                .args(options)
                .arg(with_slash)
                .arg(to)
                .limit(3 * MINUTES)
                .ok()
        };
        let there = trio.a.path("synced");
        assert_ne!(rsync(&["--sparse"], &source, &there), "");
        assert_eq!(rsync(&["--sparse"], &source, &there), "");
        assert_equal("the copy", &expected, &read_tree(&there));
        assert_eq!(acls(&there), acls(&source));
        // Within the mount, and in place over what changed.
        let again = trio.a.path("again");
        rsync(&[], &there, &again);
        assert_eq!(rsync(&["--checksum"], &there, &again), "");
        fs::write(again.join("odd/case"), "changed").expect("written");
        fs::remove_file(again.join("odd/Case")).expect("removed");
        fs::write(again.join("odd/extra"), "extra").expect("written");
        let changes = rsync(&["--inplace", "--delete"], &there, &again);
        assert_eq!(changes.lines().count(), 4, "{changes}");
        assert_eq!(rsync(&["--delete"], &there, &again), "");
        trio.a.unmount();
        trio.a.restart();
        assert_eq!(rsync(&["--delete", "--checksum"], &source, &there), "");
        let back = s.path("back");
        rsync(&[], &there, &back);
        assert_equal("copied back", &expected, &read_tree(&back));
        assert_eq!(acls(&back), acls(&source));
    });
}

#[test]
fn tar_and_cp_keep_everything() {
    scenario("tar", 10 * MINUTES, |s| {
        let source = s.path("source");
        make_kept_tree(&source);
        let expected = read_tree(&source);
        let expected_acls = acls(&source);
        let trio = Trio::start(s);
        let run = |script: &str| {
            let command = Command::shell(script)
                .folder(trio.a.mountpoint())
                .limit(3 * MINUTES);
            command.env("SOURCE", &source).ok()
        };
        run("tar -C \"$SOURCE\" --xattrs --xattrs-include='*' --acls --sparse -cf in.tar .
             mkdir out && tar -C out --xattrs --xattrs-include='*' --acls -xpf in.tar
             tar -C out --xattrs --xattrs-include='*' --acls --sparse -czf again.tar.gz .
             mkdir twice && tar -C twice --xattrs --xattrs-include='*' --acls -xpzf again.tar.gz
             tar -C out --xattrs --xattrs-include='*' --acls --compare -f in.tar
             cp -a --sparse=always \"$SOURCE\" copied && cp -al copied links && cp -a --reflink=auto links again");
        for copy in ["out", "twice", "copied", "again"] {
            let root = trio.a.path(copy);
            assert_eq!(acls(&root), expected_acls, "{copy}");
            if copy == "copied" {
                // Has as many names again.
                continue;
            }
            assert_equal(copy, &expected, &read_tree(&root));
            let blocks = fs::metadata(root.join("odd/more holes"))
                .expect("it stats")
                .blocks();
            assert!(
                blocks * 512 < 1 << 20,
                "{copy}: {blocks} blocks for three islands"
            );
        }
        run("diff -r --no-dereference copied links && rm -r links copied");
    });
}

#[test]
fn vim_saves_in_each_of_its_ways() {
    beside("vim", |side| {
        for (name, settings) in [
            ("default", "set backupcopy=auto"),
            ("rename", "set backupcopy=no backup writebackup"),
            ("in place", "set backupcopy=yes backup"),
            ("breaks links", "set backupcopy=auto,breakhardlink"),
            ("fsync", "set fsync undofile undodir=."),
        ] {
            let folder = side.folder(name);
            let path = folder.join("text");
            fs::write(&path, "first line\nsecond line\n").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
            std::os::unix::fs::chown(&path, Some(1234), Some(5678)).expect("chown");
            rustix::fs::setxattr(&path, "user.kept", b"x", rustix::fs::XattrFlags::empty())
                .expect("set");
            fs::hard_link(&path, folder.join("link")).expect("a link");
            std::os::unix::fs::symlink("text", folder.join("symlink")).expect("a link");
            for (number, file) in ["text", "link", "symlink"].into_iter().enumerate() {
                let change = format!("%s/line/line {number}/");
                let vim = Command::new("vim").args(["-N", "-u", "NONE", "-i", "NONE", "-es"]);
                let vim = vim.args([
                    "-c",
                    "set swapfile directory=.",
                    "-c",
                    settings,
                    "-c",
                    &change,
                    "-c",
                    "wq",
                ]);
                let done = vim.arg(file).folder(&folder).env("TERM", "dumb").run();
                side.note(format!("{name} of {file}"), done.status.code());
            }
            let mut entries: Vec<_> = fs::read_dir(&folder)
                .expect("it lists")
                .flatten()
                .map(|entry| entry.path())
                .collect();
            entries.sort();
            for path in entries {
                let meta = fs::symlink_metadata(&path).expect("it stats");
                let is_undo = path.to_string_lossy().ends_with(".un~");
                let text = if is_undo {
                    Ok(String::new())
                } else {
                    fs::read_to_string(&path)
                };
                side.note(
                    path.display(),
                    (meta.mode(), meta.uid(), meta.gid(), meta.nlink(), text),
                );
            }
        }
    });
}

#[test]
fn an_office_saves_with_lock_file_and_rename() {
    scenario("office", 10 * MINUTES, |s| {
        let trio = Trio::start(s);
        let document = trio.a.path("report.odt");
        let lock = trio.a.path(".~lock.report.odt#");
        let mut last = Vec::new();
        for version in 0..20u64 {
            // The lock says who edits; it is made where there is none.
            let mut file = File::create_new(&lock).expect("nobody else edits");
            file.write_all(b",user,machine,21.11.2026 10:00,file:///home;")
                .expect("written");
            drop(file);
            assert!(File::create_new(&lock).is_err());
            let temporary = trio.a.path(format!("lu{version}.tmp"));
            last = pattern(20_000 + version as usize * 30_011, version);
            let file = File::create_new(&temporary).expect("made");
            // A zip file: its directory is written last, its headers are filled in afterwards.
            file.write_all_at(&last[1000..], 1000).expect("written");
            file.write_all_at(&last[..1000], 0).expect("written");
            file.sync_all().expect("synced");
            drop(file);
            if let Ok(before) = fs::metadata(&document) {
                let mode = before.permissions();
                fs::set_permissions(&temporary, mode).expect("chmod");
                fs::copy(&document, trio.a.path("report.bak")).expect("a backup");
            }
            fs::rename(&temporary, &document).expect("renamed");
            fs::remove_file(&lock).expect("unlocked");
            assert!(fs::read(&document).expect("it reads") == last);
        }
        mount_tests::wait_for_content(&trio.b.path("report.odt"), &last);
        let names = |root: &Path| {
            let mut names: Vec<PathBuf> = fs::read_dir(root)
                .expect("it lists")
                .flatten()
                .map(|entry| entry.file_name().into())
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            names(trio.a.mountpoint()),
            [Path::new("report.bak"), Path::new("report.odt")]
        );
        assert_eq!(trio.b.facts(&["status"])["conflicts"], 0);
    });
}

#[test]
fn the_tools_of_every_script_leave_what_they_leave_on_ext4() {
    beside("tools", |side| {
        let scripts = [
            (
                "install",
                "install -D -m 750 -o 5 -g 6 /bin/true deep/er/true && install -d -m 2755 made && install -b -m 600 /etc/passwd deep/er/true",
            ),
            (
                "patch",
                "printf 'a\\nb\\nc\\n' > old && printf 'a\\nB\\nc\\n' > new; diff -u old new > change || true; patch -b old change && cat old old.orig; patch -R old change && cat old",
            ),
            (
                "sed",
                "seq 1000 > numbers && sed -i.bak 's/7/seven/' numbers && sed -i -s 1d numbers && cksum numbers numbers.bak",
            ),
            (
                "sort",
                "shuf -i 1-5000 --random-source=/bin/true > mixed && sort -n -o mixed mixed && sort -c -n mixed && cksum mixed",
            ),
            (
                "dd",
                "seq 5000 > whole && printf patched | dd of=whole bs=1 seek=1000 conv=notrunc status=none && dd if=/dev/zero of=whole bs=1k count=1 seek=50 conv=notrunc,fsync oflag=append status=none && cksum whole && dd if=whole of=direct bs=4k oflag=direct conv=fsync status=none; cksum direct",
            ),
            (
                "truncate",
                "echo text > cut && truncate -s 10000 cut && truncate -s -9000 cut && truncate -r cut other && truncate -s %4096 cut && stat -c '%s %F' cut other",
            ),
            (
                "tee",
                "echo one | tee first second > third; echo two | tee -a first > /dev/null; cat first second third",
            ),
            (
                "split",
                "seq 3000 > big && split -b 1000 big part. && cat part.* | cmp - big && csplit -s -f piece big 500 1500 && cat piece* | cmp - big && ls part.* piece* | wc -l",
            ),
            (
                "mv",
                "mkdir m n && echo x > m/x && mv m n/ && mv -T n/m p && mv -n p/x p/x; mv p/x /tmp/dfs-tools-$$ && mv /tmp/dfs-tools-$$ p/back && cat p/back && ls p n",
            ),
            (
                "ln",
                "echo x > target && ln -s target soft && ln target hard && ln -sfn other soft && ln -f hard again && readlink soft && stat -c %h target && cp -d soft copy && cp -L hard followed && ls -1",
            ),
            (
                "touch",
                "touch -d '1969-12-31 23:59:58.5 UTC' old && touch -d '2107-01-01 UTC' late && touch -r old same && stat -c '%Y' old late same && test late -nt old && find . -newer old -name late",
            ),
            (
                "shred",
                "echo secret > s && shred -n 1 -z s && od -An -c s | head -1 && shred -u s && test ! -e s && echo gone",
            ),
            (
                "find",
                "mkdir -p f/a/b f/c && touch f/a/1 f/a/b/2 && find f -depth -print | sort && find f -empty | sort && find f -type f -delete && find f -type f | wc -l && rm -rf f && test ! -e f && echo gone",
            ),
            (
                "archives",
                "mkdir z && seq 10000 > z/n && gzip -k z/n && xz -k z/n && gunzip -c z/n.gz | cmp - z/n && xz -dc z/n.xz | cmp - z/n && echo same",
            ),
            (
                "flock",
                "exec 9> lock && flock 9 && ! flock -n lock true && flock -u 9 && flock -n lock echo free",
            ),
            (
                "fuser",
                "exec 8> used && fuser -s used 2> /dev/null && lsof used 2> /dev/null | grep -q bash && exec 8>&- && ! fuser -s used 2> /dev/null && echo unused",
            ),
            (
                "mktemp",
                "t=$(mktemp -p .) && d=$(mktemp -d -p .) && stat -c '%a %F' $t $d",
            ),
            (
                "chattr",
                "touch plain && chmod u=rw,g=r,o= plain && chgrp 77 plain && stat -c '%a %g' plain && cp --preserve=all plain kept && stat -c '%a %g' kept",
            ),
            (
                "mkfifo",
                "mkfifo pipe && (cat pipe > out &) && echo through > pipe && wait && until test -s out; do :; done; cat out",
            ),
            (
                "awk",
                "seq 100 | awk '{print > (\"bucket\" $1 % 3)}' && wc -l bucket* | tail -1 && cat bucket* | sort -n | cksum",
            ),
        ];
        for (name, script) in scripts {
            let folder = side.folder(name);
            let bash = Command::new("bash").args(["-ec", script]).folder(&folder);
            side.note(name, bash.ok());
            let listing = "find . -mindepth 1 -printf '%y %m %U %G %n %p %l' \\( -type d -printf '\\n' -o -printf ' %s\\n' \\) | sort";
            let left = Command::shell(listing).folder(&folder).run();
            let text = left.stdout_text();
            // Names that mktemp chose.
            let left: Vec<_> = text.lines().filter(|line| !line.contains("tmp.")).collect();
            side.note(format!("{name} left"), left);
        }
    });
}
