//! What files were before and what was removed, by path, and having it back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::error::DaemonError;
use super::facts::path_to;
use super::locate::{components, path_to_hex};
use super::peer::{Member, Peer};
use super::report::{HistoryReport, RemovedReport, RestoreReport, VersionReport};
use crate::base::{DeviceId, Ino, OpId};
use crate::fs::{FileKind, Fs, FsError, Restored, Way};
use crate::volume::{Removals, Removed, Revision, Volume};

/// Most folders that are inside one another.
const DEPTH_MAX: usize = 4096;

/// A content that a path has or had.
#[derive(Debug, Clone)]
struct Content {
    revision: Revision,
    /// What was removed with it; `None` for the file that is there.
    removed: Option<Removed>,
}

impl Content {
    /// Returns the op that made it and the one that replaced or removed it, with the time of that.
    fn until(&self) -> Option<(OpId, u64)> {
        let removed = self.removed.as_ref();
        self.revision
            .until
            .or_else(|| removed.map(|removed| (removed.by, removed.at_ms)))
    }
}

/// Lists what a path was before; of a folder what was removed from it and from those below it.
pub(super) async fn list(peer: &Arc<Peer>, path: &str) -> Result<HistoryReport, DaemonError> {
    let names = names(path)?;
    let of = Arc::clone(peer);
    let listed = peer.asking_pool().call(move || {
        let member = of.member_parts().ok_or(DaemonError::NoFiles)?;
        let volume = &member.volume;
        let removals = volume.removals()?;
        let way = way(&of, &member.fs, &removals, &names)?;
        let mut report = HistoryReport {
            path: shown(&names.join(&b'/')),
            ..HistoryReport::default()
        };
        for content in contents(volume, &way)? {
            report.versions.push(version(&of, &content));
        }
        let dir = match (&way.now, way.before.first()) {
            (Some(now), _) if now.is_dir() => Some(now.ino),
            (None, Some(before)) if before.kind == FileKind::Dir => Some(before.ino),
            _ => None,
        };
        let Some(dir) = dir else { return Ok(report) };
        let mut open = match way.now.is_some() {
            true => member.fs.restorable_below(&removals, dir)?,
            false => vec![dir],
        };
        let mut seen = BTreeSet::new();
        let mut gone = Gone {
            tops: BTreeMap::new(),
            base: (dir, names.join(&b'/')),
        };
        while let Some(parent) = open.pop() {
            if !seen.insert(parent) {
                continue;
            }
            for removed in removals.of(parent)? {
                let Some(path) = gone.path(member, &removed) else {
                    continue;
                };
                if removed.kind == FileKind::Dir {
                    gone.tops.insert(removed.ino, path.clone());
                    open.push(removed.ino);
                }
                let node = volume.node_or_gone(removed.ino)?;
                let Some(node) = node else { continue };
                let device = of.node().log().author(removed.by.log).unwrap_or_default();
                report.removed.push(RemovedReport {
                    path: shown(&path),
                    path_hex: path_to_hex(&path),
                    is_folder: removed.kind == FileKind::Dir,
                    time_ms: removed.by.stamp.ms(),
                    device: of.device_name(device),
                    device_id: id_of(device),
                    size: match removed.kind {
                        FileKind::File => node.size,
                        _ => 0,
                    },
                });
            }
        }
        report
            .removed
            .sort_by_key(|removed| (std::cmp::Reverse(removed.time_ms), removed.path.clone()));
        Ok(report)
    });
    listed.await.ok_or(DaemonError::WorkerFailed)?
}

/// Says that there was no room for all of the history.
pub(super) fn warning(member: &Member) -> Option<String> {
    let since_ms = member.volume.history_gave_way()?;
    let days = member.fs.age_ms(since_ms) / 86_400_000;
    Some(format!(
        "there was no room here: what was replaced or removed more than {days} days ago can be had back on \
         other machines alone: dfs config capacity gives more"
    ))
}

/// Where folders were that are gone.
struct Gone {
    tops: BTreeMap<Ino, Vec<u8>>,
    /// The folder that is asked about, and its path.
    base: (Ino, Vec<u8>),
}

impl Gone {
    /// Returns the path of what was removed, below the mountpoint.
    fn path(&self, member: &Member, removed: &Removed) -> Option<Vec<u8>> {
        let parent = match self.tops.get(&removed.parent) {
            Some(path) => path.clone(),
            None if removed.parent == self.base.0 => self.base.1.clone(),
            None => return path_to(member, removed.parent, &removed.name),
        };
        let mut path = parent;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&removed.name);
        (path.len() < DEPTH_MAX * 256).then_some(path)
    }
}

/// Has back what was replaced or removed at a path.
pub(super) async fn restore(
    peer: &Arc<Peer>,
    path: String,
    at_ms: Option<u64>,
    deleted: bool,
    told: watch::Sender<RestoreReport>,
) -> Result<RestoreReport, DaemonError> {
    let names = names(&path)?;
    let of = Arc::clone(peer);
    let restored = peer.asking_pool().call(move || {
        let member = of.member_parts().ok_or(DaemonError::NoFiles)?;
        let mut tell = |done: &Restored| {
            told.send_replace(report(done, None));
        };
        let done = restore_at(&of, member, &names, (at_ms, deleted), &mut tell);
        // What programs see of it is what there is now, also where it was broken off.
        of.invalidate(member.fs.tick());
        done
    });
    restored.await.ok_or(DaemonError::WorkerFailed)?
}

fn restore_at(
    peer: &Peer,
    member: &Member,
    names: &[Vec<u8>],
    (at_ms, deleted): (Option<u64>, bool),
    tell: &mut dyn FnMut(&Restored),
) -> Result<RestoreReport, DaemonError> {
    let (fs, volume) = (&member.fs, &member.volume);
    let removals = volume.removals()?;
    let way = way(peer, fs, &removals, names)?;
    let now_dir = way.now.as_ref().filter(|now| now.is_dir());
    if let Some(dir) = now_dir {
        if !deleted {
            return Err(DaemonError::BadRequest {
                what: "that folder is there: --deleted has back what was removed from it"
                    .to_owned(),
            });
        }
        let done = fs.restore_below(&removals, dir.ino, tell)?;
        return Ok(report(&done, None));
    }
    if way.now.is_none()
        && let Some(before) = way.before.iter().find(|of| is_of_time(of, at_ms))
        && before.kind != FileKind::File
    {
        let done = fs.restore_removed(&removals, &way, (before, None), tell)?;
        return Ok(report(&done, None));
    }
    let mut contents = contents(volume, &way)?;
    match at_ms {
        Some(at_ms) => contents.retain(|content| content.revision.by.stamp.ms() <= at_ms),
        // What is there now is no restore.
        None => contents.retain(|content| content.until().is_some()),
    }
    let content = contents.first().ok_or(DaemonError::NoVersion)?;
    let (ino, by) = (content.revision.inode.ino, content.revision.by);
    let done = match (&way.now, &content.removed) {
        // It has it.
        (Some(_), None) if content.until().is_none() => Restored::default(),
        (Some(now), of) => {
            let of = of.as_ref().map_or(ino, |removed| removed.ino);
            fs.restore_content(now.ino, of, by)?
        }
        (None, Some(removed)) => fs.restore_removed(&removals, &way, (removed, Some(by)), tell)?,
        (None, None) => return Err(DaemonError::NoVersion),
    };
    Ok(report(&done, Some(by.stamp.ms())))
}

/// Says whether something was there at a time.
fn is_of_time(removed: &Removed, at_ms: Option<u64>) -> bool {
    at_ms.is_none_or(|at_ms| removed.by.stamp.ms() >= at_ms)
}

/// Returns the contents that files of one path have or had, newest first.
fn contents(volume: &Volume, way: &Way) -> Result<Vec<Content>, DaemonError> {
    let mut contents = Vec::new();
    let mut add = |ino: Ino, removed: Option<&Removed>| -> Result<(), DaemonError> {
        let revisions = volume.revisions(ino)?;
        contents.extend(revisions.into_iter().map(|revision| Content {
            revision,
            removed: removed.cloned(),
        }));
        Ok(())
    };
    let now = way.now.as_ref().filter(|now| now.kind == FileKind::File);
    if let Some(now) = now {
        add(now.ino, None)?;
    }
    let mut seen: Vec<Ino> = now.map(|now| now.ino).into_iter().collect();
    for removed in way.before.iter().filter(|of| of.kind == FileKind::File) {
        if !seen.contains(&removed.ino) {
            seen.push(removed.ino);
            add(removed.ino, Some(removed))?;
        }
    }
    contents.sort_by_key(|content| std::cmp::Reverse(content.revision.by));
    // What is there comes first, whoever's clock says what.
    contents.sort_by_key(|content| content.until().is_some());
    Ok(contents)
}

fn version(peer: &Peer, content: &Content) -> VersionReport {
    let device_of = |op: OpId| peer.node().log().author(op.log).unwrap_or_default();
    let by = content.revision.by;
    let until = content.until();
    let state = match (&until, content.revision.until.is_some()) {
        (None, _) => "there",
        (Some(_), true) => "replaced",
        (Some(_), false) => "removed",
    };
    VersionReport {
        time_ms: by.stamp.ms(),
        device: peer.device_name(device_of(by)),
        device_id: id_of(device_of(by)),
        size: content.revision.inode.size,
        state: state.to_owned(),
        until_ms: until.map(|(op, _)| op.stamp.ms()),
        until_device: until.map(|(op, _)| peer.device_name(device_of(op))),
    }
}

fn way(
    peer: &Peer,
    fs: &Fs,
    removals: &Removals<'_>,
    names: &[Vec<u8>],
) -> Result<Way, DaemonError> {
    fs.way(removals, names).map_err(|error| match error {
        FsError::NotFound => DaemonError::NoHistory {
            kept: match peer.node().roster().history_ms() {
                0 => "no time".to_owned(),
                ms => format!("{} h", ms / 3_600_000),
            },
        },
        error => error.into(),
    })
}

fn names(path: &str) -> Result<Vec<Vec<u8>>, DaemonError> {
    components(path).ok_or_else(|| DaemonError::BadRequest {
        what: "the path is not in hex".to_owned(),
    })
}

fn report(done: &Restored, time_ms: Option<u64>) -> RestoreReport {
    RestoreReport {
        files: done.files,
        folders: done.folders,
        bytes: done.bytes,
        taken: done.taken,
        time_ms,
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn id_of(device: DeviceId) -> String {
    format!("{:016x}", device.0)
}
