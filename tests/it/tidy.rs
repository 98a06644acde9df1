//! The rules of the house as a test: direction of imports, walls around external crates, sizes of
//! files, man pages that are not stale.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rooms from top to bottom; a room may import only those that stand after it.
const ROOMS: [&str; 16] = [
    "cli",
    "daemon",
    "fuse",
    "fs",
    "volume",
    "data",
    "replica",
    "node",
    "log",
    "locks",
    "kad",
    "transport",
    "wire",
    "store",
    "crypto",
    "base",
];

/// External crates that only some rooms may name.
const WALLS: [(&str, &[&str]); 16] = [
    ("fuser", &["fuse"]),
    ("quinn", &["transport"]),
    ("rustls", &["transport"]),
    ("rcgen", &["transport"]),
    ("aes_gcm", &["crypto"]),
    ("rsa", &["crypto"]),
    ("ed25519_dalek", &["crypto"]),
    ("hkdf", &["crypto"]),
    ("fjall", &["store"]),
    ("bincode", &["wire", "store"]),
    ("clap", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("qrcodegen", &["cli"]),
    ("tz", &["base"]),
    ("rand_chacha", &["base"]),
    ("stateright", &["log"]),
];

/// `cli` speaks to the `daemon` room alone; `base` is everybody's.
const CLI_KNOWS: [&str; 2] = ["daemon", "base"];

/// Files longer than this have outgrown their room.
const FILE_LINES_MAX: usize = 900;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// Returns each source file with the room it belongs to.
fn sources() -> Vec<(String, PathBuf, String)> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files
        .into_iter()
        .filter_map(|path| {
            let first = path.strip_prefix(&src).ok()?.components().next()?;
            let room = first
                .as_os_str()
                .to_str()?
                .trim_end_matches(".rs")
                .to_owned();
            let text = std::fs::read_to_string(&path).ok()?;
            (room != "lib" && room != "bin").then_some((room, path, text))
        })
        .collect()
}

/// Returns the code of a line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

/// Returns whether `name` is used as a path's head in the code: `name::`.
fn names(text: &str, name: &str) -> bool {
    let needle = format!("{name}::");
    text.lines().map(code).any(|line| {
        line.match_indices(&needle).any(|(at, _)| {
            let before = line.get(..at).and_then(|s| s.chars().next_back());
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    })
}

#[test]
fn every_room_is_listed_and_says_what_it_is() {
    for (room, path, text) in sources() {
        assert!(
            ROOMS.contains(&room.as_str()),
            "{path:?} belongs to no room"
        );
        assert!(
            text.starts_with("//!"),
            "{path:?} does not say what it owns"
        );
    }
}

#[test]
fn rooms_import_only_what_stands_below_them() {
    let mut wrong = Vec::new();
    for (room, path, text) in sources() {
        let own = ROOMS.iter().position(|r| *r == room).unwrap();
        for (place, other) in ROOMS.iter().enumerate() {
            let used = text.lines().map(code).any(|line| {
                line.contains(&format!("crate::{other}::"))
                    || line.contains(&format!("crate::{other};"))
                    || line.contains(&format!("crate::{{{other}"))
            });
            let allowed = match room.as_str() {
                _ if *other == room => true,
                "cli" => CLI_KNOWS.contains(other),
                _ => place > own,
            };
            if used && !allowed {
                wrong.push(format!("{} imports {other}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the direction of the rooms:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn external_crates_stay_behind_their_walls() {
    let mut wrong = Vec::new();
    for (room, path, text) in sources() {
        for (name, rooms) in WALLS {
            if names(&text, name) && !rooms.contains(&room.as_str()) {
                wrong.push(format!("{} names {name}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "outside their walls:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_file_has_outgrown_its_room_and_nothing_is_left_undone() {
    let mut wrong = Vec::new();
    let mut files = Vec::new();
    for folder in ["src", "tests", "mount-tests", "sim"] {
        rust_files(&root().join(folder), &mut files);
    }
    let banned: BTreeMap<&str, String> = [
        ("todo", "todo!("),
        ("unimplemented", "unimplemented!("),
        ("ignored tests", "#[ignore"),
        ("marks", "FIXME"),
    ]
    .map(|(what, text)| (what, text.to_owned()))
    .into();
    for path in files
        .iter()
        .filter(|path| !path.ends_with("tests/it/tidy.rs"))
    {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{} has {lines} lines", path.display()));
        }
        for (what, needle) in &banned {
            if text.contains(needle.as_str()) {
                wrong.push(format!("{}: {what}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "untidy:\n{}", wrong.join("\n"));
}

#[test]
fn man_pages_are_not_stale() {
    let pages = dfs::cli::man_pages().unwrap();
    assert!(pages.len() > 5);
    for (name, page) in &pages {
        let path = root().join("man").join(name);
        let stored = std::fs::read(&path).unwrap_or_default();
        assert!(
            stored == *page,
            "{name} is stale: run `cargo run --bin dfs -- man man`"
        );
    }
    let stored = std::fs::read_dir(root().join("man")).unwrap().count();
    assert_eq!(stored, pages.len(), "man/ holds a page that no command has");
}
