//! Whether the files of the row database are whole, found out without opening it: the database
//! itself removes what it takes for left-overs, and begins anew where it misses a file.
//!
//! Its folder (fjall 3, lsm-tree 3) has for each of its two trees a file `current`, which names the
//! version and has its checksum, the version `vN`, which names the tables and blob files and has
//! theirs, and these.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::StoreError;

/// What lies in the folder of the row database.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing of value: no database, or one whose making was cut short.
    Nothing,
    /// A database that is whole.
    Whole {
        /// There are files that it does not name, which opening it removes.
        has_left_overs: bool,
    },
    /// One that would be whole if these files had these contents: an earlier version of the same
    /// tree is there.
    Earlier {
        /// What is wrong as it is.
        damage: StoreError,
        /// Files, and what they should be.
        contents: Vec<(PathBuf, Vec<u8>)>,
    },
}

/// The two trees of the database: its own, and the one with the rows.
const TREES: [&str; 2] = ["0", "1"];

/// Content of the file that says what the folder is.
const VERSION: &[u8] = b"FJL\x03";

/// Bytes of tables and blob files that are read at most; of what is beyond only the end is.
const READ_MAX_BYTES: u64 = 256 << 20;

/// Longest version file: a million tables.
const VERSION_MAX_BYTES: u64 = 64 << 20;

/// Looks at the folder of the row database.
///
/// [`StoreError::Damaged`] names what is missing or changed.
pub(super) fn look(folder: &Path) -> Result<Found, StoreError> {
    let version = folder.join("version");
    let mut contents = Vec::new();
    let mut damage = match read(&version, 64)? {
        Some(bytes) if bytes == VERSION => None,
        None if !has_tables(folder)? => return Ok(Found::Nothing),
        found => {
            contents.push((version.clone(), VERSION.to_vec()));
            let what = if found.is_none() {
                "is missing"
            } else {
                "is damaged"
            };
            Some(damaged(&version, what))
        }
    };
    let mut seen = Seen::default();
    for tree in TREES {
        let tree = folder.join("keyspaces").join(tree);
        if let Some((current, found)) = look_at_tree(&tree, &mut seen)? {
            contents.push(current);
            damage = damage.or(Some(found));
        }
    }
    Ok(match damage {
        None => Found::Whole {
            has_left_overs: seen.has_left_overs,
        },
        Some(damage) => Found::Earlier { damage, contents },
    })
}

/// Returns what files of the row database would have to be so that it opens without what is damaged
/// or missing; adds what that is.
pub(super) fn mend(folder: &Path, damages: &mut Vec<String>) -> Result<Vec<Content>, StoreError> {
    let mut contents = vec![(folder.join("version"), VERSION.to_vec())];
    for tree in TREES {
        let tree = folder.join("keyspaces").join(tree);
        let mut seen = Seen::default();
        match look_at_tree(&tree, &mut seen) {
            Ok(None) => continue,
            Ok(Some((current, damage))) => {
                damages.push(damage.to_string());
                contents.push(current);
                continue;
            }
            Err(damage) => damages.push(damage.to_string()),
        }
        let mut ids: Vec<u64> = names(&tree)?
            .iter()
            .filter_map(|name| name.strip_prefix('v')?.parse().ok())
            .collect();
        ids.sort_unstable();
        while let Some(id) = ids.pop() {
            let path = tree.join(format!("v{id}"));
            let bytes = read(&path, VERSION_MAX_BYTES)?.unwrap_or_default();
            if let Some(less) = without_damaged(&tree, &bytes) {
                contents.push((tree.join("current"), current_of(id, &less)));
                contents.push((path, less));
                break;
            }
        }
    }
    Ok(contents)
}

/// Returns a version without the files that are damaged or missing, `None` where it is not whole.
fn without_damaged(tree: &Path, version: &[u8]) -> Option<Vec<u8>> {
    let is_whole = |named: &Named| check(tree, std::slice::from_ref(named), &mut Seen::default());
    let mut less = Vec::new();
    let mut table = b"TOC!".to_vec();
    let sections = sections(version)?;
    parse(version)?;
    table.extend_from_slice(&u32::try_from(sections.len()).ok()?.to_le_bytes());
    for (name, section) in sections {
        let start = less.len();
        let mut rest = section;
        match name {
            b"tables" => {
                let levels = take::<1>(&mut rest)?;
                less.extend_from_slice(&levels);
                for _ in 0..u8::from_le_bytes(levels) {
                    // An empty run is none.
                    let mut runs = Vec::new();
                    for _ in 0..u8::from_le_bytes(take(&mut rest)?) {
                        let mut run = Vec::new();
                        for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
                            let entry = rest.get(..ENTRY_BYTES + 8)?;
                            let named = named_file("tables", &mut rest)?;
                            take::<8>(&mut rest)?;
                            if is_whole(&named).is_ok() {
                                run.push(entry);
                            }
                        }
                        runs.extend(Some(run).filter(|run| !run.is_empty()));
                    }
                    less.push(u8::try_from(runs.len()).ok()?);
                    for run in runs {
                        less.extend_from_slice(&u32::try_from(run.len()).ok()?.to_le_bytes());
                        less.extend(run.concat());
                    }
                }
            }
            b"blob_files" => {
                let mut kept = Vec::new();
                for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
                    let entry = rest.get(..ENTRY_BYTES)?;
                    if is_whole(&named_file("blobs", &mut rest)?).is_ok() {
                        kept.push(entry);
                    }
                }
                less.extend_from_slice(&u32::try_from(kept.len()).ok()?.to_le_bytes());
                less.extend(kept.concat());
            }
            _ => less.extend_from_slice(section),
        }
        table.extend_from_slice(&(start as u64).to_le_bytes());
        table.extend_from_slice(&((less.len() - start) as u64).to_le_bytes());
        table.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
        table.extend_from_slice(name);
    }
    let start = less.len() as u64;
    less.extend_from_slice(&table);
    less.extend_from_slice(b"SFA!\x01\0");
    less.extend_from_slice(&xxh3_128(&table).to_le_bytes());
    less.extend_from_slice(&start.to_le_bytes());
    less.extend_from_slice(&(table.len() as u64).to_le_bytes());
    Some(less)
}

/// Id, kind and checksum of a named file.
const ENTRY_BYTES: usize = 8 + 1 + 16;

/// Returns the content of `current` that names a version.
fn current_of(id: u64, version: &[u8]) -> Vec<u8> {
    let mut content = id.to_le_bytes().to_vec();
    content.extend_from_slice(&xxh3_128(version).to_le_bytes());
    content.push(0);
    content
}

#[derive(Debug, Default)]
struct Seen {
    read_bytes: u64,
    has_left_overs: bool,
}

/// Tells whether there are rows, whatever else is missing.
fn has_tables(folder: &Path) -> Result<bool, StoreError> {
    for files in ["tables", "blobs"] {
        let tree = folder.join("keyspaces/1").join(files);
        if !names(&tree)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A file, and what it should be.
type Content = (PathBuf, Vec<u8>);

/// Returns what `current` would have to be where it names a version that is not whole, and why that
/// is not.
fn look_at_tree(tree: &Path, seen: &mut Seen) -> Result<Option<(Content, StoreError)>, StoreError> {
    let current = tree.join("current");
    let (named, damage) = match look_at_current(tree, &current, seen) {
        Ok(()) => return Ok(None),
        Err((named, damage)) => (named, damage),
    };
    let mut ids: Vec<u64> = names(tree)?
        .iter()
        .filter_map(|name| name.strip_prefix('v')?.parse().ok())
        .filter(|id| Some(*id) != named)
        .collect();
    ids.sort_unstable();
    while let Some(id) = ids.pop() {
        let path = tree.join(format!("v{id}"));
        let Some(bytes) = read(&path, VERSION_MAX_BYTES)? else {
            continue;
        };
        let is_whole = parse(&bytes).is_some_and(|files| check(tree, &files, seen).is_ok());
        if is_whole {
            return Ok(Some(((current, current_of(id, &bytes)), damage)));
        }
    }
    Err(damage)
}

/// Fails with the version that `current` names, and what is wrong with it.
fn look_at_current(
    tree: &Path,
    current: &Path,
    seen: &mut Seen,
) -> Result<(), (Option<u64>, StoreError)> {
    let content = read(current, 64).map_err(|e| (None, e))?;
    let content = content.ok_or_else(|| (None, damaged(current, "is missing")))?;
    let Some((id, sum)) = parse_current(&content) else {
        return Err((None, damaged(current, "is damaged")));
    };
    let path = tree.join(format!("v{id}"));
    let bytes = read(&path, VERSION_MAX_BYTES).map_err(|e| (Some(id), e))?;
    let bytes = bytes.ok_or_else(|| (Some(id), damaged(&path, "is missing")))?;
    if xxh3_128(&bytes) != sum {
        // Whichever of the two it is.
        return Err((Some(id), damaged(&path, "is damaged")));
    }
    let files = parse(&bytes).ok_or_else(|| (Some(id), damaged(&path, "is damaged")))?;
    check(tree, &files, seen).map_err(|e| (Some(id), e))?;
    let count = |folder: &str| names(&tree.join(folder)).map(|names| names.len());
    let count = count("tables").and_then(|tables| Ok(tables + count("blobs")?));
    let versions = names(tree).map_err(|e| (Some(id), e))?;
    let versions = versions.iter().filter(|name| name.starts_with('v')).count();
    seen.has_left_overs |= versions > 1 || count.map_err(|e| (Some(id), e))? > files.len();
    Ok(())
}

fn parse_current(content: &[u8]) -> Option<(u64, u128)> {
    let (id, rest) = content.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    (rest == [0]).then_some((u64::from_le_bytes(*id), u128::from_le_bytes(*sum)))
}

/// A file that a version names.
#[derive(Debug)]
struct Named {
    folder: &'static str,
    id: u64,
    sum: u128,
}

/// Returns the files that a version names, `None` where it is not whole.
fn parse(version: &[u8]) -> Option<Vec<Named>> {
    let sections = sections(version)?;
    let section = |name: &[u8]| {
        let (_, section) = sections.iter().find(|(of, _)| *of == name)?;
        Some(*section)
    };
    let mut named = Vec::new();
    let mut tables = section(b"tables")?;
    for _ in 0..u8::from_le_bytes(take(&mut tables)?) {
        for _ in 0..u8::from_le_bytes(take(&mut tables)?) {
            for _ in 0..u32::from_le_bytes(take(&mut tables)?) {
                named.push(named_file("tables", &mut tables)?);
                take::<8>(&mut tables)?;
            }
        }
    }
    let mut blobs = section(b"blob_files")?;
    for _ in 0..u32::from_le_bytes(take(&mut blobs)?) {
        named.push(named_file("blobs", &mut blobs)?);
    }
    Some(named)
}

fn named_file(folder: &'static str, rest: &mut &[u8]) -> Option<Named> {
    let id = u64::from_le_bytes(take(rest)?);
    let kind = take::<1>(rest)?;
    let sum = u128::from_le_bytes(take(rest)?);
    (kind == [0]).then_some(Named { folder, id, sum })
}

/// Behind all sections: their table, then a trailer with its checksum, place and length.
fn sections(file: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let (_, trailer) = file.split_last_chunk::<TRAILER_BYTES>()?;
    let mut trailer = trailer.strip_prefix(b"SFA!\x01\0")?;
    let sum = u128::from_le_bytes(take(&mut trailer)?);
    let start = usize::try_from(u64::from_le_bytes(take(&mut trailer)?)).ok()?;
    let table = file.get(start..file.len() - TRAILER_BYTES)?;
    if xxh3_128(table) != sum {
        return None;
    }
    let mut rest = table.strip_prefix(b"TOC!")?;
    let mut sections = Vec::new();
    for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
        let at = usize::try_from(u64::from_le_bytes(take(&mut rest)?)).ok()?;
        let len = usize::try_from(u64::from_le_bytes(take(&mut rest)?)).ok()?;
        let name_len = u16::from_le_bytes(take(&mut rest)?);
        let name = rest.split_off(..usize::from(name_len))?;
        sections.push((name, file.get(at..at.checked_add(len)?)?));
    }
    Some(sections)
}

const TRAILER_BYTES: usize = 4 + 1 + 1 + 16 + 8 + 8;

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*first)
}

/// Checks that the files are there, and by their checksums as far as they are not too many.
fn check(tree: &Path, files: &[Named], seen: &mut Seen) -> Result<(), StoreError> {
    for named in files {
        let path = tree.join(named.folder).join(named.id.to_string());
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(&path, "is missing"));
            }
            opened => opened.map_err(|e| StoreError::io("open", &path, e))?,
        };
        let io = |e| StoreError::io("read", &path, e);
        let len = file.metadata().map_err(io)?.len();
        let is_whole = if seen.read_bytes + len <= READ_MAX_BYTES {
            seen.read_bytes += len;
            sum_of(&mut file).map_err(io)? == named.sum
        } else {
            has_trailer(&mut file, len).map_err(io)?
        };
        if !is_whole {
            return Err(damaged(&path, "is damaged"));
        }
    }
    Ok(())
}

fn sum_of(file: &mut File) -> io::Result<u128> {
    let mut hash = Xxh3::new();
    let mut block = vec![0; 256 << 10];
    loop {
        let len = file.read(&mut block)?;
        let Some(read) = block.get(..len).filter(|read| !read.is_empty()) else {
            return Ok(hash.digest128());
        };
        hash.update(read);
    }
}

fn has_trailer(file: &mut File, len: u64) -> io::Result<bool> {
    let Some(at) = len.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(false);
    };
    file.seek(SeekFrom::Start(at))?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic)?;
    Ok(magic == *b"SFA!")
}

/// Returns the names in a folder; none where it is missing.
fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let io = |e| StoreError::io("list", folder, e);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(io)?.file_name().into_string());
    }
    Ok(names)
}

/// Returns the content of a file of at most `max` bytes, of a longer one its beginning.
fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| StoreError::io("open", path, e))?,
    };
    let mut bytes = Vec::new();
    let read = file.take(max).read_to_end(&mut bytes);
    read.map_err(|e| StoreError::io("read", path, e))?;
    Ok(Some(bytes))
}

fn damaged(path: &Path, what: &'static str) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        what,
    }
}
