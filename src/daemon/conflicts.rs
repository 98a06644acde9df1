//! The conflicts that the merge kept, with the paths at which people find both sides now.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::DaemonError;
use super::facts::{Surroundings, find, path_to};
use super::locate::path_to_hex;
use super::peer::{Member, Peer};
use super::report::{ActReport, ConflictReport, SideReport};
use crate::base::{DeviceId, Ino, OpId};
use crate::volume::{Conflict, ConflictKind, Inode, Place};

/// Lists the conflicts that nobody has settled: all, or those of a path below the mountpoint (in hex). Of
/// what stands aside itself those alone in which it does.
pub(super) fn list(
    peer: &Arc<Peer>,
    surroundings: &Surroundings,
    path: Option<&str>,
) -> Result<Vec<ConflictReport>, DaemonError> {
    let member = peer.member_parts().ok_or(DaemonError::NoFiles)?;
    let of = path.map(|path| find(member, path)).transpose()?;
    let of = match of {
        Some(ino) => Some(
            member
                .volume
                .inode(ino)?
                .ok_or(DaemonError::NoSuchFile)?
                .ino,
        ),
        None => None,
    };
    let mut reports = Vec::new();
    let mut conflicts = member.volume.conflicts()?;
    conflicts.retain(|conflict| !conflict.resolved);
    if of.is_some() && conflicts.iter().any(|conflict| conflict.other == of) {
        conflicts.retain(|conflict| conflict.other == of);
    }
    let told = Told {
        peer,
        member,
        mountpoint: surroundings.mountpoint.clone().unwrap_or_default(),
    };
    for conflict in conflicts {
        let kept = node(member, conflict.ino)?;
        let other = conflict.other.map(|ino| node(member, ino)).transpose()?;
        let aside = other.flatten();
        let is_of = |side: &Option<Inode>| side.as_ref().is_some_and(|side| Some(side.ino) == of);
        if of.is_some() && !is_of(&kept) && !is_of(&aside) {
            continue;
        }
        let acts = match (&kept, conflict.other) {
            (Some(kept), None) => told.acts(&conflict, kept)?,
            _ => Vec::new(),
        };
        let kept = kept.map(|node| told.kept(&conflict, &node)).transpose()?;
        let aside = aside.map(|node| told.aside(&conflict, &node)).transpose()?;
        let (kept, aside) = (kept.flatten(), aside.flatten());
        if kept.is_none() && aside.is_none() {
            // It went while the others were told.
            continue;
        }
        reports.push(ConflictReport {
            id: crate::base::id::to_hex(&conflict.op.to_key()),
            kind: words(&conflict).to_owned(),
            path: kept.as_ref().map(|side| side.path.clone()),
            copy: aside.as_ref().map(|side| side.path.clone()),
            device: name_of(peer, conflict.device),
            device_id: id_of(conflict.device),
            time_ms: conflict.op.stamp.ms(),
            kept,
            aside,
            acts,
        });
    }
    Ok(reports)
}

/// Takes conflicts off the list, of which both sides stay.
pub(super) fn settle(peer: &Arc<Peer>, ids: &[String]) -> Result<(), DaemonError> {
    let member = peer.member_parts().ok_or(DaemonError::NoFiles)?;
    let op = |id: &String| crate::base::id::from_hex(id).and_then(|key| OpId::from_key(&key));
    let ops: Option<Vec<OpId>> = ids.iter().map(op).collect();
    let ops = ops.ok_or_else(|| DaemonError::BadRequest {
        what: "the id of a conflict is not in hex".to_owned(),
    })?;
    for op in ops {
        member.fs.settle_conflict(op)?;
    }
    Ok(())
}

/// Returns a node that has a name, where it is now.
fn node(member: &Member, ino: Ino) -> Result<Option<Inode>, DaemonError> {
    let inode = member.volume.inode(ino)?;
    Ok(inode.filter(|inode| !inode.is_orphan()))
}

/// What conflicts are told from.
struct Told<'a> {
    peer: &'a Peer,
    member: &'a Member,
    mountpoint: PathBuf,
}

impl Told<'_> {
    /// Returns what has the name: of contents that met by who wrote it last, else by who put it there or wrote
    /// it since.
    fn kept(&self, conflict: &Conflict, node: &Inode) -> Result<Option<SideReport>, DaemonError> {
        let (wrote, put) = (node.written_by, self.put_by(node)?);
        let last = match (conflict.kind, node.is_dir()) {
            (_, true) => put,
            (ConflictKind::Content, false) => wrote,
            (_, false) => put.max(wrote),
        };
        let device = self.author(last).unwrap_or_default();
        Ok(self.side(node, device, last.stamp.ms()))
    }

    /// Returns what stands aside: whose change that is says the conflict, whoever wrote there since.
    fn aside(&self, conflict: &Conflict, node: &Inode) -> Result<Option<SideReport>, DaemonError> {
        let ops = [self.put_by(node)?, node.written_by, conflict.op];
        let own = ops
            .into_iter()
            .filter(|op| self.author(*op) == Some(conflict.device));
        let last = own.max().unwrap_or(conflict.op);
        Ok(self.side(node, conflict.device, last.stamp.ms()))
    }

    /// Returns who did what to a node of which nothing stands aside.
    fn acts(&self, conflict: &Conflict, node: &Inode) -> Result<Vec<ActReport>, DaemonError> {
        let met = self.author(conflict.op).unwrap_or_default();
        let now = |did: &str| self.act(did, met, Some(conflict.op));
        // Where that is known and is somebody else.
        let lost = |did: &str| {
            let is_other = conflict.device != met;
            is_other.then(|| self.act(did, conflict.device, None))
        };
        let by = |did: &str, op: OpId| {
            let device = self.author(op);
            device.map(|device| self.act(did, device, Some(op)))
        };
        let acts = match conflict.kind {
            ConflictKind::WriteAgainstUnlink => [Some(now("written")), lost("removed")],
            ConflictKind::UnlinkDropped => [by("written", node.written_by), Some(now("removed"))],
            ConflictKind::DirRevived => [Some(now("filled")), lost("removed")],
            ConflictKind::RmdirDropped => [Some(now("removed")), None],
            ConflictKind::CycleDropped => {
                let to = self.wanted(conflict.place.as_ref()).unwrap_or_default();
                [Some(now(&format!("moved{to}"))), None]
            }
            ConflictKind::MovedTwice => {
                let to = format!(
                    "moved{}",
                    self.wanted(conflict.place.as_ref()).unwrap_or_default()
                );
                let other = match conflict.device == met {
                    true => now(&to),
                    false => self.act(&to, conflict.device, None),
                };
                [by("moved here", self.put_by(node)?), Some(other)]
            }
            ConflictKind::LastName => [Some(now("removed")), None],
            ConflictKind::Joined => [Some(now("appended")), None],
            ConflictKind::Name
            | ConflictKind::Content
            | ConflictKind::DirsMerged
            | ConflictKind::ReplacedKept => [Some(now("changed")), None],
        };
        Ok(acts.into_iter().flatten().collect())
    }

    fn act(&self, did: &str, device: DeviceId, op: Option<OpId>) -> ActReport {
        ActReport {
            did: did.to_owned(),
            device: name_of(self.peer, device),
            device_id: id_of(device),
            time_ms: op.map(|op| op.stamp.ms()),
        }
    }

    /// Returns where somebody wanted something to be: the name, and the folder, where that is there.
    fn wanted(&self, place: Option<&Place>) -> Option<String> {
        let place = place?;
        let folder = self.member.volume.inode(place.parent).ok()??;
        let above = match &folder.home {
            _ if folder.is_orphan() => return None,
            Some(home) => path_to(self.member, home.parent, &home.name)?,
            None => Vec::new(),
        };
        let folder = self.mountpoint.join(OsStr::from_bytes(&above));
        let name = String::from_utf8_lossy(&place.name);
        Some(format!(" to {name} in {}", folder.display()))
    }

    /// Returns the op that gave a node the name that is told of it.
    fn put_by(&self, node: &Inode) -> Result<OpId, DaemonError> {
        let entry = match &node.home {
            Some(home) => self.member.volume.dirent(home.parent, &home.name)?,
            None => None,
        };
        Ok(entry.map_or(node.created_by, |entry| entry.by))
    }

    fn author(&self, op: OpId) -> Option<DeviceId> {
        self.peer.node().log().author(op.log)
    }

    fn side(&self, node: &Inode, device: DeviceId, time_ms: u64) -> Option<SideReport> {
        let home = node.home.as_ref()?;
        let below = path_to(self.member, home.parent, &home.name)?;
        let path = self.mountpoint.join(OsStr::from_bytes(&below));
        Some(SideReport {
            path: path.to_string_lossy().into_owned(),
            path_hex: path_to_hex(path.as_os_str().as_bytes()),
            is_folder: node.is_dir(),
            device: name_of(self.peer, device),
            device_id: id_of(device),
            is_mine: device == DeviceId::from(self.peer.node().id()),
            time_ms,
        })
    }
}

fn name_of(peer: &Peer, device: DeviceId) -> String {
    let roster = peer.node().roster();
    let author = roster.author(device);
    author.map(|author| author.name.clone()).unwrap_or_default()
}

fn id_of(device: DeviceId) -> String {
    format!("{:016x}", device.0)
}

fn words(conflict: &Conflict) -> &'static str {
    match conflict.kind {
        ConflictKind::Name => "two things at one name",
        ConflictKind::Content => "two writes from one version",
        ConflictKind::WriteAgainstUnlink | ConflictKind::UnlinkDropped => {
            "written by one, removed by another: it is kept"
        }
        ConflictKind::LastName => "its last two names were removed by two: this one is kept",
        ConflictKind::DirRevived => "filled by one, removed by another: it is kept",
        ConflictKind::DirsMerged => "two folders at one name: they are one, with what was in both",
        ConflictKind::RmdirDropped => "removed by one, filled by another: it is kept",
        ConflictKind::CycleDropped => "moved into each other: one of the moves is dropped",
        ConflictKind::MovedTwice => "moved to two places: it is at the later one",
        ConflictKind::Joined => "appended to by two at once: it has both, one behind the other",
        ConflictKind::ReplacedKept => "replaced by one, written by another: both are kept",
    }
}
