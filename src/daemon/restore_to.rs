//! Making a tree what it was in a snapshot. What was there before is kept in another one first.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::error::DaemonError;
use super::locate::components;
use super::peer::Peer;
use super::report::RestoreToReport;
use super::snapshots;
use crate::base::time::sleep;
use crate::base::when;
use crate::fs::{Brought, FsError};
use crate::volume::Snapshot;

/// How long the snapshot of what is there may take, and how often it is looked for.
const MADE_MAX: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a tree is to be made, and which.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// Its path below the mountpoint, hex.
    pub(super) path: String,
    /// The name of a snapshot, or a moment as it was written.
    pub(super) to: String,
    /// That moment, milliseconds since 1970.
    pub(super) at_ms: Option<u64>,
}

impl Wish {
    fn names(&self) -> Result<Vec<Vec<u8>>, DaemonError> {
        components(&self.path).ok_or_else(|| DaemonError::BadRequest {
            what: "the path is not in hex".to_owned(),
        })
    }
}

/// Finds the snapshot that is meant.
pub(super) fn find(peer: &Peer, wish: &Wish) -> Result<RestoreToReport, DaemonError> {
    wish.names()?;
    Ok(report(&snapshot(peer, wish)?, None, &Brought::default()))
}

fn snapshot(peer: &Peer, wish: &Wish) -> Result<Snapshot, DaemonError> {
    let member = peer.member_parts().ok_or(DaemonError::NoFiles)?;
    let all = member.volume.snapshots()?;
    let named = all.iter().find(|of| of.name == wish.to);
    let is_before = |of: &&Snapshot| wish.at_ms.is_some_and(|at_ms| of.time_ms <= at_ms);
    let last = || {
        all.iter()
            .filter(is_before)
            .max_by_key(|of| (of.time_ms, of.op))
    };
    named
        .or_else(last)
        .cloned()
        .ok_or_else(|| DaemonError::NoSnapshot {
            of: wish.to.clone(),
        })
}

/// Makes a tree what it was.
pub(super) async fn restore(
    peer: &Arc<Peer>,
    wish: Wish,
    told: watch::Sender<RestoreToReport>,
) -> Result<RestoreToReport, DaemonError> {
    let names = wish.names()?;
    let snapshot = snapshot(peer, &wish)?;
    // Before anything is done: one that was not there then is no wish for it to go.
    let (of, to, path) = (Arc::clone(peer), snapshot.clone(), names.clone());
    let checked = peer.asking_pool().call(move || {
        let member = of.member_parts().ok_or(DaemonError::NoFiles)?;
        let past = member.volume.past_volume(&to)?;
        member
            .fs
            .check_was(&past, &path)
            .map_err(|error| match error {
                FsError::NotFound => DaemonError::NotThen {
                    snapshot: to.name.clone(),
                },
                error => error.into(),
            })
    });
    checked.await.ok_or(DaemonError::WorkerFailed)??;
    let before = format!("before-restore-{}", when::exact(peer.clock().wall_ms()));
    snapshots::create(peer, &before).await?;
    if !is_made(peer, &before).await? {
        // What is there now would not be kept.
        snapshots::remove(peer, &before)?;
        return Err(DaemonError::NotKept);
    }
    let of = Arc::clone(peer);
    let restored = peer.asking_pool().call(move || {
        let member = of.member_parts().ok_or(DaemonError::NoFiles)?;
        let past = member.volume.past_volume(&snapshot)?;
        let before = Some(before);
        let done = member.fs.restore_to(&past, &names, &mut |done| {
            told.send_replace(report(&snapshot, before.clone(), done));
        });
        // What programs see of it is what there is now, also where it was broken off.
        of.invalidate(member.fs.tick());
        Ok(report(&snapshot, before, &done?))
    });
    restored.await.ok_or(DaemonError::WorkerFailed)?
}

/// Waits until a snapshot that was asked for is there, whatever becomes of this machine from then on.
async fn is_made(peer: &Peer, name: &str) -> Result<bool, DaemonError> {
    let member = peer.member_parts().ok_or(DaemonError::NoFiles)?;
    let end = peer.clock().monotonic() + MADE_MAX;
    while peer.clock().monotonic() < end {
        if member.volume.snapshots()?.iter().any(|of| of.name == name) {
            return Ok(true);
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(false)
}

fn report(of: &Snapshot, before: Option<String>, done: &Brought) -> RestoreToReport {
    RestoreToReport {
        snapshot: of.name.clone(),
        time_ms: of.time_ms,
        before,
        back: done.back,
        changed: done.changed,
        removed: done.removed,
        bytes: done.bytes,
    }
}
