//! What `dfs conflicts` says of each row of the table in docs/semantics.md: paths that are there, on the
//! machine that is asked, who, when, and what happened.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use mount_tests::{Peer, Trio, scenario, wait_for_a_later_stamp, wait_for_content, wait_until};

const MINUTES: Duration = Duration::from_secs(60);

/// What somebody does in the folder of a row.
type Do = fn(&Path);

/// A row of the table: what both begin with, what B does and, later, A, and what may be told of it, by what comes
/// first in the order of the records: `DIR` is its folder, `WHEN` a moment, `DAY` that of a conflict name.
struct Row {
    name: &'static str,
    base: Do,
    b: Do,
    a: Do,
    told: &'static [&'static str],
}

fn put(path: impl AsRef<Path>, text: &str) {
    fs::write(path, text).expect("written");
}

fn append(path: impl AsRef<Path>, text: &str) {
    let file = fs::File::options().append(true).open(path);
    file.expect("opened")
        .write_all(text.as_bytes())
        .expect("appended");
}

fn mkdir(path: impl AsRef<Path>) {
    fs::create_dir(path).expect("made");
}

fn mv(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    fs::rename(from, to).expect("moved");
}

fn rm(path: impl AsRef<Path>) {
    fs::remove_file(path).expect("removed");
}

const ROWS: &[Row] = &[
    Row {
        name: "create",
        base: |_| {},
        b: |d| put(d.join("f"), "B"),
        a: |d| put(d.join("f"), "A"),
        told: &[
            "DIR/f: two things at one name; that of a, WHEN has the name; that of b, WHEN is kept beside it: DIR/f (conflict, b, DAY)",
        ],
    },
    Row {
        name: "equal",
        base: |_| {},
        b: |d| put(d.join("f"), "same"),
        a: |d| put(d.join("f"), "same"),
        told: &[],
    },
    Row {
        name: "folders",
        base: |_| {},
        b: |d| {
            mkdir(d.join("n"));
            put(d.join("n/b"), "B");
        },
        a: |d| {
            mkdir(d.join("n"));
            put(d.join("n/a"), "A");
        },
        told: &[],
    },
    Row {
        name: "full folders",
        base: |d| {
            mkdir(d.join("x"));
            put(d.join("x/1"), "1");
            mkdir(d.join("y"));
            put(d.join("y/2"), "2");
        },
        b: |d| mv(d.join("x"), d.join("z")),
        a: |d| mv(d.join("y"), d.join("z")),
        told: &[
            "DIR/z: two things at one name; that of a, WHEN has the name; that of b, WHEN is kept beside it: DIR/z (conflict, b, DAY)",
        ],
    },
    Row {
        name: "kinds",
        base: |_| {},
        b: |d| mkdir(d.join("n")),
        a: |d| put(d.join("n"), "A"),
        told: &[
            "DIR/n: two things at one name; that of b, WHEN has the name; that of a, WHEN is kept beside it: DIR/n (conflict, a, DAY)",
        ],
    },
    Row {
        name: "write",
        base: |d| put(d.join("f"), "base"),
        b: |d| put(d.join("f"), "B"),
        a: |d| put(d.join("f"), "A"),
        told: &[
            "DIR/f: two writes from one version; that of a, WHEN has the name; that of b, WHEN is kept beside it: DIR/f (conflict, b, DAY)",
        ],
    },
    Row {
        name: "write later",
        base: |d| put(d.join("f"), "base"),
        b: |d| rm(d.join("f")),
        a: |d| put(d.join("f"), "A"),
        told: &[
            "DIR/f: written by one, removed by another: it is kept; written by a, WHEN; removed by b",
            "DIR/f: written by one, removed by another: it is kept; written by a, WHEN; removed by b, WHEN",
        ],
    },
    Row {
        name: "unlink later",
        base: |d| put(d.join("f"), "base"),
        b: |d| put(d.join("f"), "B"),
        a: |d| rm(d.join("f")),
        told: &[
            "DIR/f: written by one, removed by another: it is kept; written by b, WHEN; removed by a, WHEN",
            "DIR/f: written by one, removed by another: it is kept; written by b, WHEN; removed by a",
        ],
    },
    Row {
        name: "name taken",
        base: |d| put(d.join("f"), "base"),
        b: |d| put(d.join("f"), "B"),
        a: |d| {
            rm(d.join("f"));
            put(d.join("f"), "A");
        },
        told: &[
            "DIR/f: two things at one name; that of a, WHEN has the name; that of b, WHEN is kept beside it: DIR/f (conflict, a, DAY)",
            "DIR/f: two things at one name; that of a, WHEN has the name; that of b, WHEN is kept beside it: DIR/f (conflict, b, DAY)",
        ],
    },
    Row {
        name: "move, unlink",
        base: |d| put(d.join("f"), "base"),
        b: |d| mv(d.join("f"), d.join("g")),
        a: |d| rm(d.join("f")),
        told: &[],
    },
    Row {
        name: "link, unlink",
        base: |d| put(d.join("f"), "base"),
        b: |d| fs::hard_link(d.join("f"), d.join("g")).expect("done"),
        a: |d| rm(d.join("f")),
        told: &[],
    },
    Row {
        name: "replace",
        base: |d| {
            put(d.join("f"), "base");
            put(d.join("o"), "other");
        },
        b: |d| put(d.join("f"), "B"),
        a: |d| mv(d.join("o"), d.join("f")),
        told: &[
            "DIR/f: replaced by one, written by another: both are kept; that of a, WHEN has the name; that of b, WHEN is kept beside it: DIR/f (conflict, b, DAY)",
            "DIR/f: two things at one name; that of a, WHEN has the name; that of b, WHEN is kept beside it: DIR/f (conflict, b, DAY)",
        ],
    },
    Row {
        name: "replace then write",
        base: |d| {
            put(d.join("f"), "base");
            put(d.join("o"), "other");
        },
        b: |d| mv(d.join("o"), d.join("f")),
        a: |d| put(d.join("f"), "A"),
        told: &[
            "DIR/f: two things at one name; that of b, WHEN has the name; that of a, WHEN is kept beside it: DIR/f (conflict, a, DAY)",
            "DIR/f: replaced by one, written by another: both are kept; that of b, WHEN has the name; that of a, WHEN is kept beside it: DIR/f (conflict, a, DAY)",
        ],
    },
    Row {
        name: "contents removed",
        base: |d| {
            mkdir(d.join("d"));
            put(d.join("d/in"), "in");
        },
        b: |d| fs::remove_dir_all(d.join("d")).expect("done"),
        a: |d| mv(d.join("d"), d.join("e")),
        told: &[],
    },
    Row {
        name: "emptied",
        base: |d| put(d.join("f"), "base;"),
        b: |d| append(d.join("f"), "B;"),
        a: |d| {
            fs::File::create(d.join("f")).expect("done");
        },
        told: &[],
    },
    Row {
        name: "names",
        base: |d| {
            put(d.join("f"), "base");
            fs::hard_link(d.join("f"), d.join("g")).expect("done");
        },
        b: |d| rm(d.join("f")),
        a: |d| rm(d.join("g")),
        told: &[
            "DIR/g: its last two names were removed by two: this one is kept; removed by a, WHEN",
            "DIR/f: its last two names were removed by two: this one is kept; removed by b, WHEN",
        ],
    },
    Row {
        name: "revived",
        base: |d| mkdir(d.join("d")),
        b: |d| fs::remove_dir(d.join("d")).expect("done"),
        a: |d| put(d.join("d/f"), "A"),
        told: &[
            "DIR/d: filled by one, removed by another: it is kept; filled by a, WHEN; removed by b",
            "DIR/d: removed by one, filled by another: it is kept; removed by b, WHEN",
        ],
    },
    Row {
        name: "rmdir",
        base: |d| mkdir(d.join("d")),
        b: |d| put(d.join("d/f"), "B"),
        a: |d| fs::remove_dir(d.join("d")).expect("done"),
        told: &[
            "DIR/d: removed by one, filled by another: it is kept; removed by a, WHEN",
            "DIR/d: filled by one, removed by another: it is kept; filled by b, WHEN; removed by a",
        ],
    },
    Row {
        name: "cycle",
        base: |d| {
            mkdir(d.join("x"));
            mkdir(d.join("y"));
        },
        b: |d| mv(d.join("x"), d.join("y/x")),
        a: |d| mv(d.join("y"), d.join("x/y")),
        told: &[
            "DIR/y: moved into each other: one of the moves is dropped; moved to y in DIR/y/x by a, WHEN",
            "DIR/x: moved into each other: one of the moves is dropped; moved to x in DIR/x/y by b, WHEN",
        ],
    },
    Row {
        name: "twice",
        base: |d| put(d.join("f"), "base"),
        b: |d| mv(d.join("f"), d.join("g")),
        a: |d| mv(d.join("f"), d.join("h")),
        told: &[
            "DIR/h: moved to two places: it is at the later one; moved here by a, WHEN; moved to g in DIR by b",
            "DIR/h: moved to two places: it is at the later one; moved here by a, WHEN; moved to g in DIR by b, WHEN",
        ],
    },
    Row {
        name: "twice folder",
        base: |d| mkdir(d.join("f")),
        b: |d| mv(d.join("f"), d.join("g")),
        a: |d| mv(d.join("f"), d.join("h")),
        told: &[
            "DIR/h: moved to two places: it is at the later one; moved here by a, WHEN; moved to g in DIR by b",
            "DIR/h: moved to two places: it is at the later one; moved here by a, WHEN; moved to g in DIR by b, WHEN",
        ],
    },
    Row {
        name: "append",
        base: |d| put(d.join("f"), "base;"),
        b: |d| append(d.join("f"), "B;"),
        a: |d| append(d.join("f"), "A;"),
        told: &[
            "DIR/f: appended to by two at once: it has both, one behind the other; appended by a, WHEN",
            "DIR/f: appended to by two at once: it has both, one behind the other; appended by b, WHEN",
        ],
    },
];

/// Returns a line without what differs from run to run.
fn plain(line: &str, folder: &Path, ids: &[(&str, String)]) -> String {
    let mut line = line.replace(&*folder.to_string_lossy(), "DIR");
    assert!(!line.contains('?'), "{line}");
    for (name, id) in ids {
        line = line.replace(&format!("{name} ({id})"), name);
    }
    let words: Vec<&str> = line.split(' ').collect();
    let is_day = |word: &str| word.len() == 10 && word.matches('-').count() == 2;
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        if words.get(at + 1).is_some_and(|day| is_day(day)) {
            // A weekday, a day, a time, a zone.
            let zone = words.get(at + 3).copied().unwrap_or_default();
            let end = if zone.ends_with(';') { ";" } else { "" };
            out.push(format!("WHEN{end}"));
            at += 4;
            continue;
        }
        let day = word.strip_suffix(')').or_else(|| word.strip_suffix(").md"));
        match day.is_some_and(is_day) {
            true => out.push("DAY)".to_owned()),
            false => out.push((*word).to_owned()),
        }
        at += 1;
    }
    out.join(" ")
}

#[test]
fn each_row_of_the_table_is_told_on_both_machines() {
    scenario("table", 5 * MINUTES, |s| {
        let trio = Trio::start(s);
        put(trio.a.path("began"), "began");
        for row in ROWS {
            mkdir(trio.a.path(row.name));
            (row.base)(&trio.a.path(row.name));
        }
        put(trio.a.path("base"), "is here");
        wait_for_content(&trio.b.path("base"), b"is here");
        trio.sync();
        s.network().cut("b");
        for row in ROWS {
            (row.b)(&trio.b.path(row.name));
        }
        put(trio.b.path("done by b"), "done");
        wait_for_a_later_stamp();
        for row in ROWS {
            (row.a)(&trio.a.path(row.name));
        }
        put(trio.a.path("done by a"), "done");
        s.network().mend("b");
        wait_for_content(&trio.a.path("done by b"), b"done");
        wait_for_content(&trio.b.path("done by a"), b"done");
        let ids = [("a", &trio.a), ("b", &trio.b)].map(|(name, peer)| {
            let id = peer.facts(&["status"])["peer_id"].clone();
            (name, id.as_str().expect("an id")[..8].to_owned())
        });
        for peer in [&trio.a, &trio.b] {
            for row in ROWS {
                let folder = peer.path(row.name);
                let told = wait_until("the row is told", MINUTES, || {
                    let list = peer.dfs(&["conflicts"]).stdout_text();
                    let is_of = |line: &&str| Path::new(*line).starts_with(&folder);
                    let lines: Vec<String> =
                        list.lines().filter(is_of).map(str::to_owned).collect();
                    (lines.is_empty() == row.told.is_empty()).then_some(lines)
                });
                let plain: Vec<String> =
                    told.iter().map(|line| plain(line, &folder, &ids)).collect();
                println!("| {} | {} |", row.name, plain.join(", "));
                assert!(plain.len() <= 1, "{}: {plain:?}", row.name);
                let is_right = plain.iter().all(|line| row.told.contains(&&**line));
                assert!(is_right, "{}: {plain:?}", row.name);
            }
            check(peer);
        }
        let append = trio.b.path("append/f");
        let settled = trio.b.dfs(&["resolve", append.to_str().expect("plain")]);
        assert!(settled.status.success(), "{settled}");
        for peer in [&trio.a, &trio.b] {
            wait_until("what was joined is off the list", MINUTES, || {
                let list = peer.dfs(&["conflicts"]).stdout_text();
                (!list.contains("appended")).then_some(())
            });
        }
    });
}

/// Returns when a file was written.
fn written_ms(path: &Path) -> u64 {
    let written = fs::metadata(path).and_then(|found| found.modified());
    let since = written.expect("a time").duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("it is later").as_millis()).expect("it fits")
}

/// Checks that what is told by a peer is there: under its mountpoint, as it is told, and of now.
fn check(peer: &Peer) {
    let when = written_ms(&peer.path("began"))..=written_ms(&peer.path("done by a"));
    for conflict in peer.facts(&["conflicts"]).as_array().expect("a list") {
        let sides = [&conflict["kept"], &conflict["aside"]];
        for side in sides.into_iter().filter(|side| !side.is_null()) {
            let path = Path::new(side["path"].as_str().expect("a path"));
            assert!(path.starts_with(peer.mountpoint()), "{conflict}");
            let found = fs::symlink_metadata(path).expect("it is there");
            assert_eq!(side["is_folder"], found.is_dir(), "{conflict}");
            let is_own = side["device"] == peer.name();
            assert_eq!(side["is_mine"], is_own, "{conflict}");
            let time_ms = side["time_ms"].as_u64().expect("a time");
            assert!(when.contains(&time_ms), "{conflict}");
        }
        let acts = conflict["acts"].as_array().expect("a list");
        assert_eq!(acts.is_empty(), !conflict["aside"].is_null(), "{conflict}");
        for did in acts.iter().filter_map(|act| act["did"].as_str()) {
            let folder = did.split_once(" in ").map(|(_, folder)| Path::new(folder));
            assert!(folder.is_none_or(Path::is_dir), "{conflict}");
        }
    }
}
