//! The conflicts that the merge kept, with the paths at which people find both sides now.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::DaemonError;
use super::facts::{Surroundings, find, path_to};
use super::locate::path_to_hex;
use super::peer::{Member, Peer};
use super::report::{ConflictReport, SideReport};
use crate::base::{DeviceId, Ino, OpId};
use crate::volume::{Conflict, ConflictKind, Inode};

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
    for conflict in conflicts {
        let kept = node(member, conflict.ino)?;
        let other = conflict.other.map(|ino| node(member, ino)).transpose()?;
        let aside = other.flatten();
        let is_of = |side: &Option<Inode>| side.as_ref().is_some_and(|side| Some(side.ino) == of);
        if of.is_some() && !is_of(&kept) && !is_of(&aside) {
            continue;
        }
        let side = |node: &Inode| side(peer, member, surroundings, node);
        let kept = kept.as_ref().and_then(side);
        let aside = aside.as_ref().and_then(|node| {
            // Whose change it is that stands aside says the conflict, whoever wrote there since.
            let mut side = side(node)?;
            sign(peer, &mut side, conflict.device, conflict.op);
            Some(side)
        });
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

fn side(
    peer: &Peer,
    member: &Member,
    surroundings: &Surroundings,
    node: &Inode,
) -> Option<SideReport> {
    let home = node.home.as_ref()?;
    let below = path_to(member, home.parent, &home.name)?;
    let mountpoint = surroundings.mountpoint.clone().unwrap_or_default();
    let path: PathBuf = mountpoint.join(OsStr::from_bytes(&below));
    let last = if node.is_dir() {
        node.created_by
    } else {
        node.written_by
    };
    let mut side = SideReport {
        path: path.to_string_lossy().into_owned(),
        path_hex: path_to_hex(path.as_os_str().as_bytes()),
        is_folder: node.is_dir(),
        ..SideReport::default()
    };
    let device = peer.node().log().author(last.log).unwrap_or_default();
    sign(peer, &mut side, device, last);
    Some(side)
}

fn sign(peer: &Peer, side: &mut SideReport, device: DeviceId, last: OpId) {
    side.device = name_of(peer, device);
    side.device_id = id_of(device);
    side.time_ms = last.stamp.ms();
    side.is_mine = device == DeviceId::from(peer.node().id());
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
        ConflictKind::CycleDropped => "moved into each other: the later move is dropped",
        ConflictKind::MovedTwice => "moved to two places: it is at the later one",
        ConflictKind::Joined => "appended to by two at once: it has both, one behind the other",
        ConflictKind::ReplacedKept => "replaced by one, written by another: both are kept",
    }
}
