//! Real work with all three peers up: what one member does with ordinary programs, the other sees.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use mount_tests::source::{make_source_tree, pattern};
use mount_tests::tree::{assert_equal, read_tree};
use mount_tests::{
    Command, Scenario, Trio, big_file_bytes, elapsed_since, is_quick, now, scenario,
    wait_for_content, wait_until, wait_until_gone,
};

const MINUTES: Duration = Duration::from_secs(60);

/// Writes a mark after everything else, and waits until the other member has it: its device's
/// changes come in order, so all before it have come, too.
fn wait_for_mark(from: &Path, to: &Path, mark: &str) {
    fs::write(from.join(mark), mark).expect("a mark can be written");
    let closed = now();
    wait_for_content(&to.join(mark), mark.as_bytes());
    println!(
        "{mark}: seen {:?} after the last close",
        elapsed_since(closed)
    );
}

fn source_files() -> usize {
    if is_quick() { 300 } else { 3000 }
}

#[test]
fn a_source_tree_arrives_and_comes_back_changed() {
    scenario("tree", 10 * MINUTES, |s| {
        let source = s.path("source");
        make_source_tree(&source, source_files());
        let expected = read_tree(&source);
        let trio = Trio::start(s);
        let (on_a, on_b) = (trio.a.path("tree"), trio.b.path("tree"));

        let started = now();
        Command::new("cp")
            .arg("-a")
            .args([&source, &on_a])
            .limit(5 * MINUTES)
            .ok();
        println!(
            "cp -a of {} entries: {:?}",
            expected.len(),
            elapsed_since(started)
        );
        assert_equal("the copy on A", &expected, &read_tree(&on_a));
        wait_for_mark(trio.a.mountpoint(), trio.b.mountpoint(), "copied");
        assert_equal("the copy on B", &expected, &read_tree(&on_b));

        change_everything(&on_b);
        let changed = read_tree(&on_b);
        wait_for_mark(trio.b.mountpoint(), trio.a.mountpoint(), "changed");
        assert_equal("B's changes on A", &changed, &read_tree(&on_a));

        Command::new("rm")
            .arg("-r")
            .arg(&on_a)
            .limit(5 * MINUTES)
            .ok();
        wait_until_gone(&on_b);
        assert_eq!(trio.a.facts(&["status"])["conflicts"], 0);
    });
}

/// Edits, renames, deletes, links and chmods throughout a tree.
fn change_everything(root: &Path) {
    let odd = root.join("odd");
    let at = |name: &str| odd.join(name);
    let mut file = fs::File::options()
        .append(true)
        .open(at("case"))
        .expect("it opens");
    file.write_all(b" with more").expect("it appends");
    drop(file);
    fs::write(at("Case"), b"short").expect("it is overwritten");
    fs::rename(at("empty"), at("empty folder/moved")).expect("it moves");
    fs::rename(at("deep/level0"), at("shallow")).expect("a folder moves");
    fs::rename(at("size 4096"), at("size 4095")).expect("it is replaced");
    fs::remove_file(at("linked")).expect("one of three names goes");
    fs::remove_file(at("dangling")).expect("a symlink goes");
    fs::remove_dir_all(at("links")).expect("a folder goes");
    fs::hard_link(at("size 1"), at("another size 1")).expect("a link");
    let sparse = fs::File::options()
        .write(true)
        .open(at("sparse"))
        .expect("it opens");
    sparse.set_len(41 << 20).expect("it is cut");
    Command::shell(
        "setfattr -n user.text -v changed attributes
         setfattr -x user.bytes attributes
         chmod 600 'mode 777'; chmod g+s 'folder 700'; chown 77:88 owned
         touch -d '2030-01-02 03:04:05.678901234' 'time 1970'
         mkdir 'new folder' && cp -a 'size 1048576' 'new folder/'
         find .. -name '*.rs' -size -4k | sort | head -40 | xargs sed -i '1i // edited on B'",
    )
    .folder(&odd)
    .ok();
}

#[test]
fn a_big_file_arrives() {
    scenario("big", 15 * MINUTES, |s| {
        let trio = Trio::start(s);
        let mut hasher = blake3::Hasher::new();
        let started = now();
        let mut file = fs::File::create(trio.a.path("big")).expect("it is created");
        for block in 0..big_file_bytes() >> 20 {
            let bytes = pattern(1 << 20, block);
            hasher.update(&bytes);
            file.write_all(&bytes).expect("it is written");
        }
        file.sync_all().expect("it is synced");
        drop(file);
        println!(
            "{} MiB written and synced: {:?}",
            big_file_bytes() >> 20,
            elapsed_since(started)
        );

        let on_b = trio.b.path("big");
        wait_until("B sees the whole file", MINUTES, || {
            fs::metadata(&on_b)
                .is_ok_and(|meta| meta.len() == big_file_bytes())
                .then_some(())
        });
        let started = now();
        let mut read = blake3::Hasher::new();
        read.update_reader(fs::File::open(&on_b).expect("it opens"))
            .expect("it is read");
        println!("read cold on B: {:?}", elapsed_since(started));
        assert_eq!(
            read.finalize(),
            hasher.finalize(),
            "B reads other bytes than A wrote"
        );
    });
}

#[test]
fn git_works_in_the_mount_and_across() {
    scenario("git", 10 * MINUTES, |s| {
        let origin = make_repository(s);
        let trio = Trio::start(s);
        Command::new("git")
            .args(["clone", "-q", "--no-local"])
            .arg(&origin)
            .arg(trio.a.path("clone"))
            .limit(3 * MINUTES)
            .ok();
        let git = |folder: &Path, args: &[&str]| {
            // Both members run as root here; git asks who owns the folder and not who serves it.
            let done = Command::new("git").arg("-C").arg(folder);
            done.args(["-c", "user.name=T", "-c", "user.email=t@t"])
                .args(args)
                .limit(3 * MINUTES)
                .ok()
        };
        let (on_a, on_b) = (trio.a.path("clone"), trio.b.path("clone"));
        git(&on_a, &["fsck", "--full", "--strict"]);
        wait_for_mark(trio.a.mountpoint(), trio.b.mountpoint(), "cloned");
        git(&on_b, &["fsck", "--full", "--strict"]);
        assert_eq!(git(&on_b, &["status", "--porcelain"]), "");

        Command::shell("echo more >> README; git rm -q -r --ignore-unmatch src")
            .folder(&on_b)
            .ok();
        git(&on_b, &["commit", "-q", "-a", "-m", "from B"]);
        git(&on_b, &["gc", "-q"]);
        wait_for_mark(trio.b.mountpoint(), trio.a.mountpoint(), "committed");
        git(&on_a, &["fsck", "--full", "--strict"]);
        assert_eq!(git(&on_a, &["status", "--porcelain"]), "");
        assert_eq!(git(&on_a, &["log", "-1", "--format=%s"]).trim(), "from B");
    });
}

fn make_repository(s: &Scenario) -> std::path::PathBuf {
    let origin = s.path("origin");
    make_source_tree(&origin, source_files() / 3);
    fs::remove_dir_all(origin.join("odd")).expect("git does not keep what is odd");
    Command::shell(
        "echo readme > README
         find . -name .git -prune -exec rm -rf {} +
         git init -q . && git add -A -f
         git -c user.name=T -c user.email=t@t commit -q -m first",
    )
    .folder(&origin)
    .limit(2 * MINUTES)
    .ok();
    origin
}

#[test]
fn editors_and_copying_programs_work_both_ways() {
    scenario("programs", 10 * MINUTES, |s| {
        let source = s.path("source");
        make_source_tree(&source, source_files() / 10);
        let expected = read_tree(&source);
        let trio = Trio::start(s);
        for (from, to, turn) in [(&trio.a, &trio.b, "ab"), (&trio.b, &trio.a, "ba")] {
            save_like_an_editor(from.mountpoint(), to.mountpoint(), turn);

            let folder = from.path(format!("programs {turn}"));
            fs::create_dir(&folder).expect("a folder can be made");
            let run = |script: &str| {
                let command = Command::shell(script).folder(&folder).limit(3 * MINUTES);
                command.env("SOURCE", &source).ok()
            };
            run("cp -a \"$SOURCE\" copied; cp -a copied 'copied within'");
            run("rsync -aHX \"$SOURCE/\" synced/");
            let again = run("rsync -aHX --itemize-changes \"$SOURCE/\" synced/");
            assert_eq!(again, "", "the second rsync found something to do");
            run("tar -C \"$SOURCE\" --xattrs -cf tree.tar . && mkdir untarred &&
                 tar -C untarred --xattrs -xpf tree.tar && tar -C untarred -cf - . | cat > again.tar");
            run(
                "mkdir moved && mv copied moved/ && mv -T 'copied within' copied &&
                 echo over > a && echo under > b && mv -f a b && test \"$(cat b)\" = over",
            );
            wait_for_mark(
                from.mountpoint(),
                to.mountpoint(),
                &format!("programs-{turn}"),
            );

            let folder = to.path(format!("programs {turn}"));
            for copy in ["copied", "moved/copied", "synced", "untarred"] {
                assert_equal(copy, &expected, &read_tree(&folder.join(copy)));
            }
            // And out again, on the other side.
            let back = s.path(&format!("back-{turn}"));
            Command::new("cp")
                .arg("-a")
                .arg(folder.join("synced"))
                .arg(&back)
                .limit(MINUTES)
                .ok();
            assert_equal("copied back", &expected, &read_tree(&back));
        }
        assert_eq!(trio.a.facts(&["status"])["conflicts"], 0);
    });
}

/// Saves as editors do: a temporary file renamed over the old one, with and without a backup, and
/// vim itself.
fn save_like_an_editor(from: &Path, to: &Path, turn: &str) {
    let name = format!("document-{turn}");
    let document = from.join(&name);
    for version in 0..20 {
        let text = format!("version {version}\n").repeat(version * 100 + 1);
        if version % 2 == 0 {
            let backup = from.join(format!("{name}~"));
            if document.exists() {
                fs::rename(&document, &backup).expect("a backup");
            }
            fs::write(&document, &text).expect("a new file");
        } else {
            let temporary = from.join(format!(".{name}.swp"));
            let mut file = fs::File::create(&temporary).expect("a temporary file");
            file.write_all(text.as_bytes()).expect("it is written");
            file.sync_all().expect("it is synced");
            fs::rename(&temporary, &document).expect("it replaces the document");
        }
        wait_for_content(&to.join(&name), text.as_bytes());
    }
    Command::new("vim")
        .args([
            "-N",
            "-u",
            "NONE",
            "-i",
            "NONE",
            "-es",
            "-c",
            "%s/version/saved by vim/",
            "-c",
            "wq",
        ])
        .arg(&document)
        .env("TERM", "dumb")
        .ok();
    let saved = fs::read(&document).expect("vim left it there");
    assert!(saved.starts_with(b"saved by vim 19"));
    wait_for_content(&to.join(&name), &saved);
}

#[test]
fn a_change_on_one_side_shows_on_the_other_through_every_call() {
    scenario("changes", 10 * MINUTES, |s| {
        let trio = Trio::start(s);
        let (a, b) = (trio.a.mountpoint(), trio.b.mountpoint());
        let mut delays = Vec::new();
        let mut reader = None;
        for round in 0..if is_quick() { 20 } else { 200 } {
            // Alternating sizes: inline, and beyond the inline limit.
            let text = format!("{round} ").repeat(if round % 2 == 0 { 3 } else { 9000 });
            let path = a.join("watched");
            fs::write(b.join("watched"), &text).expect("B writes");
            let closed = now();
            wait_for_content(&path, text.as_bytes());
            delays.push(elapsed_since(closed));
            assert_eq!(
                fs::metadata(&path).expect("A stats").len(),
                text.len() as u64
            );
            // A descriptor that was open before follows.
            let reader = reader.get_or_insert_with(|| fs::File::open(&path).expect("A opens"));
            let mut head = vec![0; text.len().min(16)];
            std::os::unix::fs::FileExt::read_exact_at(reader, &mut head, 0).expect("A reads");
            assert_eq!(head, &text.as_bytes()[..head.len()]);
        }
        delays.sort();
        let at = |percent: usize| delays[(delays.len() - 1) * percent / 100];
        println!(
            "close on B to read on A: p50 {:?}, p99 {:?}",
            at(50),
            at(99)
        );

        // A name that A knows not to exist, a listing that A has cached, a mode, a rename.
        let names = |folder: &Path| -> Vec<_> {
            let entries = fs::read_dir(folder).expect("A lists");
            let mut names: Vec<_> = entries
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            names.sort();
            names
        };
        for number in 0..50 {
            let name = format!("appears {number}");
            assert!(!a.join(&name).exists());
            let before = names(a);
            fs::write(b.join(&name), "x").expect("B creates");
            wait_for_content(&a.join(&name), b"x");
            assert_eq!(names(a).len(), before.len() + 1);
            let later = format!("renamed {number}");
            fs::rename(b.join(&name), b.join(&later)).expect("B renames");
            wait_for_content(&a.join(&later), b"x");
            wait_until_gone(&a.join(&name));
            fs::remove_file(b.join(&later)).expect("B deletes");
            wait_until_gone(&a.join(&later));
            assert_eq!(names(a), before);
        }
        Command::new("chmod").arg("751").arg(b.join("watched")).ok();
        wait_until("A sees the mode", MINUTES, || {
            let meta = fs::metadata(a.join("watched")).ok()?;
            (std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777 == 0o751)
                .then_some(())
        });
    });
}
