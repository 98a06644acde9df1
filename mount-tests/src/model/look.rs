//! Reading a whole tree, and comparing it with the naive one.

use std::collections::BTreeMap;

use super::content::{Content, Ranges};
use super::executor::{Attr, Executor, Kind, Path, Subject};
use super::tree::{Body, Node, Tree, show};

/// A node as it was seen.
#[derive(Debug)]
pub struct Seen {
    attr: Attr,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    body: SeenBody,
}

#[derive(Debug)]
enum SeenBody {
    File(Vec<u8>, Ranges),
    Dir(BTreeMap<Vec<u8>, Seen>),
    Symlink(Vec<u8>),
    Special,
}

/// Whether files may be as any state since they were handed to the journal last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// All is there.
    Operation,
    /// What was in memory alone may be gone.
    Crash,
    /// An operation that was made here, or on another machine and has arrived.
    Arrival,
}

/// Reads everything below a path.
pub fn look<E: Executor>(executor: &mut E, path: &Path) -> Result<Seen, String> {
    let failed = |what: &str| {
        let path = show(path);
        let what = what.to_owned();
        move |errno| format!("{what} {path}: {errno}")
    };
    let attr = executor.stat(Subject::Path(path)).map_err(failed("stat"))?;
    let xattrs = executor
        .xattrs(Subject::Path(path))
        .map_err(failed("xattrs of"))?;
    let body = match attr.kind {
        Kind::File => {
            let file = executor.open_to_look(path).map_err(failed("open"))?;
            let body = look_inside(executor, &file, path);
            executor.close(file).map_err(failed("close"))?;
            body?
        }
        Kind::Dir => SeenBody::Dir(look_into(executor, path, attr.ino)?),
        Kind::Symlink => SeenBody::Symlink(executor.read_link(path).map_err(failed("readlink"))?),
        _ => SeenBody::Special,
    };
    Ok(Seen { attr, xattrs, body })
}

/// Reads an open file.
pub fn look_open<E: Executor>(executor: &mut E, file: &E::File) -> Result<Seen, String> {
    let failed = |errno| format!("an open file: {errno}");
    let attr = executor.stat(Subject::Open(file)).map_err(failed)?;
    let xattrs = executor.xattrs(Subject::Open(file)).map_err(failed)?;
    let body = look_inside(executor, file, &[])?;
    Ok(Seen { attr, xattrs, body })
}

fn look_inside<E: Executor>(
    executor: &mut E,
    file: &E::File,
    path: &Path,
) -> Result<SeenBody, String> {
    let failed = |errno| format!("read {}: {errno}", show(path));
    let bytes = executor.read(file).map_err(failed)?;
    let ranges = executor
        .data_ranges(file, bytes.len() as u64)
        .map_err(failed)?;
    Ok(SeenBody::File(bytes, ranges))
}

fn look_into<E: Executor>(
    executor: &mut E,
    path: &Path,
    own: u64,
) -> Result<BTreeMap<Vec<u8>, Seen>, String> {
    let failed = |errno| format!("list {}: {errno}", show(path));
    let mut dir = executor.open_dir(path).map_err(failed)?;
    let mut listed = Vec::new();
    loop {
        let some = executor.read_dir(&mut dir).map_err(failed)?;
        if some.is_empty() {
            break;
        }
        listed.extend(some);
    }
    executor.close_dir(dir).map_err(failed)?;
    let mut entries = BTreeMap::new();
    let mut dots = 0;
    for (name, ino, kind) in listed {
        if name == b"." || name == b".." {
            dots += 1;
            if name == b"." && ino != own {
                return Err(format!("{}: . has another number", show(path)));
            }
            continue;
        }
        let child: Vec<Vec<u8>> = path.iter().cloned().chain([name.clone()]).collect();
        let seen = look(executor, &child)?;
        if (seen.attr.ino, seen.attr.kind) != (ino, kind) {
            return Err(format!("{} is listed as something else", show(&child)));
        }
        if entries.insert(name, seen).is_some() {
            return Err(format!("{} is listed twice", show(&child)));
        }
    }
    if dots != 2 {
        return Err(format!("{} lists {dots} of . and ..", show(path)));
    }
    Ok(entries)
}

impl Tree {
    /// Compares with what was seen; takes over what could not be known before: numbers, exact
    /// times, and after a crash the contents.
    ///
    /// # Errors
    ///
    /// What is different; the tree is of no use then.
    pub fn meet(&mut self, seen: &Seen, after: After) -> Result<(), String> {
        self.meet_at(0, seen, &mut Vec::new(), after)
    }

    fn meet_at(
        &mut self,
        index: usize,
        seen: &Seen,
        path: &mut Vec<Vec<u8>>,
        after: After,
    ) -> Result<(), String> {
        self.nodes[index]
            .meet(seen, after)
            .map_err(|what| format!("{}: {what}", show(path)))?;
        let SeenBody::Dir(entries) = &seen.body else {
            return Ok(());
        };
        let expected = self.nodes[index].entries().clone();
        if !expected.keys().eq(entries.keys()) {
            return Err(format!(
                "{} has {:?} instead of {:?}",
                show(path),
                entries
                    .keys()
                    .map(|name| show(std::slice::from_ref(name)))
                    .collect::<Vec<_>>(),
                expected
                    .keys()
                    .map(|name| show(std::slice::from_ref(name)))
                    .collect::<Vec<_>>(),
            ));
        }
        for (name, seen) in entries {
            path.push(name.clone());
            self.meet_at(expected[name], seen, path, after)?;
            path.pop();
        }
        Ok(())
    }
}

impl Node {
    /// Compares with what was seen of this node.
    pub fn meet(&mut self, seen: &Seen, after: After) -> Result<(), String> {
        let attr = &seen.attr;
        let known = (
            self.ino.unwrap_or(attr.ino),
            self.kind(),
            self.mode,
            self.nlink,
        );
        let now = (attr.ino, attr.kind, attr.mode, attr.nlink);
        if known != now {
            return Err(format!(
                "number, kind, mode, links are {:?} instead of {:?}",
                (now.0, now.1, format!("{:o}", now.2), now.3),
                (known.0, known.1, format!("{:o}", known.2), known.3),
            ));
        }
        self.ino = Some(attr.ino);
        let known = (self.uid, self.gid, self.rdev);
        let now = (attr.uid, attr.gid, attr.rdev);
        if known != now {
            return Err(format!(
                "owner, group, device are {now:?} instead of {known:?}"
            ));
        }
        if self.xattrs != seen.xattrs {
            let brief = |xattrs: &BTreeMap<Vec<u8>, Vec<u8>>| -> Vec<String> {
                let each = xattrs.iter();
                each.map(|(name, value)| {
                    let start: Vec<u8> = value.iter().copied().take(48).collect();
                    format!("{}={}:{start:?}", name.escape_ascii(), value.len())
                })
                .collect()
            };
            return Err(format!(
                "attributes {:?} instead of {:?}",
                brief(&seen.xattrs),
                brief(&self.xattrs)
            ));
        }
        match &seen.body {
            SeenBody::File(bytes, ranges) => self.meet_file(attr, bytes, ranges, after)?,
            SeenBody::Symlink(target) => {
                if !matches!(&self.body, Body::Symlink(known) if known == target) {
                    return Err("another target".to_owned());
                }
                if attr.size != target.len() as u64 {
                    return Err(format!("a symlink of size {}", attr.size));
                }
            }
            SeenBody::Special if (attr.size, attr.blocks) != (0, 0) => {
                return Err(format!("size {} of a special file", attr.size));
            }
            SeenBody::Dir(_) | SeenBody::Special => {}
        }
        let (mtime, ctime) = (self.mtime, self.ctime);
        let is_changed = match after {
            // Each machine has the moment when the change was made there.
            After::Arrival => attr.ctime >= self.ctime.from,
            After::Operation | After::Crash => self.ctime.meet(attr.ctime),
        };
        if !self.mtime.meet(attr.mtime) || !is_changed {
            return Err(format!(
                "mtime {} ctime {} instead of {mtime:?} {ctime:?}",
                attr.mtime, attr.ctime
            ));
        }
        Ok(())
    }

    fn meet_file(
        &mut self,
        attr: &Attr,
        bytes: &Vec<u8>,
        ranges: &Ranges,
        after: After,
    ) -> Result<(), String> {
        if attr.size != bytes.len() as u64 {
            return Err(format!("size {} and {} bytes", attr.size, bytes.len()));
        }
        if attr.blocks != ranges.total().div_ceil(512) {
            return Err(format!("{} blocks for {ranges:?}", attr.blocks));
        }
        let content = self.content();
        let same = |content: &Content| *content.bytes == *bytes && *content.stored == *ranges;
        if same(&content) && (after != After::Crash || self.unwritten.is_empty()) {
            return Ok(());
        }
        if after != After::Crash || self.unwritten.is_empty() {
            return Err(difference(&content, bytes, ranges));
        }
        let mut versions = std::mem::take(&mut self.unwritten);
        versions.push(self.version());
        if !versions.iter().any(|version| same(&version.content)) {
            meet_mixed(&versions, bytes).map_err(|what| {
                let why = difference(&content, bytes, ranges);
                format!(
                    "none of {} states since it was handed over: {what}; {why}",
                    versions.len()
                )
            })?;
        }
        for version in &versions {
            self.mtime = self.mtime.or(version.mtime);
            self.ctime = self.ctime.or(version.ctime);
        }
        self.body = Body::File(Content {
            bytes: bytes.clone().into(),
            stored: ranges.clone().into(),
        });
        Ok(())
    }
}

/// Checks the states that a crash leaves in the middle of handing over changes that are too many
/// for one op: each byte is as in one of the versions.
fn meet_mixed(versions: &[super::tree::Version], bytes: &[u8]) -> Result<(), String> {
    let sizes = versions.iter().map(|version| version.content.size());
    let (min, max) = (sizes.clone().min(), sizes.max());
    let size = Some(bytes.len() as u64);
    if size < min || size > max {
        return Err(format!("{size:?} bytes, not within {min:?} and {max:?}"));
    }
    for (at, byte) in bytes.iter().enumerate() {
        let as_in = |version: &super::tree::Version| {
            version.content.bytes.get(at).copied().unwrap_or(0) == *byte
        };
        if !versions.iter().any(as_in) {
            return Err(format!("byte {at} is {byte}"));
        }
    }
    Ok(())
}

fn difference(content: &Content, bytes: &[u8], ranges: &Ranges) -> String {
    if content.bytes.len() != bytes.len() {
        return format!("{} bytes instead of {}", bytes.len(), content.bytes.len());
    }
    let differs = content.bytes.iter().zip(bytes).position(|(a, b)| a != b);
    if let Some(at) = differs {
        let (is, was) = (bytes[at], content.bytes[at]);
        return format!("byte {at} of {} is {is} instead of {was}", bytes.len());
    }
    format!("data is at {ranges:?} instead of {:?}", content.stored)
}
