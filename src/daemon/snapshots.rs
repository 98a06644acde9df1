//! Snapshots: made when somebody asks and at set times, listed, removed; and found out what those of others
//! name.

mod schedule;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use self::schedule::{due, is_of_schedule, thinned};
use super::error::DaemonError;
use super::peer::{Member, Peer};
use super::report::{SnapshotReport, SnapshotsReport};
use crate::base::limits::{FETCH_TIMEOUT, NAME_MAX_BYTES};
use crate::base::time::timeout;
use crate::base::{ChunkId, DeviceId};
use crate::crypto::VolumeKeys;
use crate::data::DataError;
use crate::fs::FsError;
use crate::node::Transfer;
use crate::replica::{Replica, ReplicaError};
use crate::transport::Priority;
use crate::volume::{Keep, Snapshot, VolumeError};

/// How long who asks for a snapshot waits until its moment is chosen.
const CHOSEN_MAX: Duration = Duration::from_secs(10);

/// Nodes that are fetched at once.
const FETCHES_MAX: usize = 8;

/// Who waits for snapshots.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Told when the moment of a snapshot is chosen, by its name.
    chosen: Mutex<BTreeMap<String, oneshot::Sender<()>>>,
    /// Told when somebody asks for one.
    pub(super) asked: Notify,
}

/// Where a snapshot is kept that is made here.
struct Keeping<'a> {
    replica: Arc<Replica>,
    keys: &'a VolumeKeys,
    name: &'a str,
    waiting: &'a Waiting,
}

impl Keep for Keeping<'_> {
    fn put(
        &mut self,
        plain: Bytes,
        is_kept: &dyn Fn(&ChunkId) -> bool,
    ) -> Result<ChunkId, ReplicaError> {
        let sealed = self.keys.seal_chunk(&plain);
        if !is_kept(&sealed.id) {
            self.replica.put(sealed.id, &sealed.bytes)?;
        }
        Ok(sealed.id)
    }

    fn frozen(&mut self) {
        if let Some(waits) = self.waiting.chosen.lock().remove(self.name) {
            // Who waits no more has it all the same.
            let _ = waits.send(());
        }
    }
}

/// Keeps what this machine sees of the volume now, under a name. Returns as soon as the moment is chosen.
pub(super) async fn create(peer: &Arc<Peer>, name: &str) -> Result<SnapshotReport, DaemonError> {
    check(name)?;
    let (chosen, is_chosen) = oneshot::channel();
    let waiting = &peer.snapshots;
    waiting.chosen.lock().insert(name.to_owned(), chosen);
    let (of, named) = (Arc::clone(peer), name.to_owned());
    let ask = move || -> Result<(), DaemonError> {
        let member = of.member_parts().ok_or(DaemonError::NoFiles)?;
        let volume = &member.volume;
        if member.fs.is_read_only() {
            return Err(FsError::ReadOnly.into());
        }
        let is_there = volume.snapshots()?.iter().any(|kept| kept.name == named);
        if is_there || volume.asked_snapshots()?.contains(&named) {
            return Err(bad(format!("there is a snapshot {named}")));
        }
        // What programs wrote is in it.
        member.fs.sync_all()?;
        Ok(volume.ask_snapshot(&named)?)
    };
    let asked = peer.asking_pool().call(ask).await;
    if let Err(error) = asked.unwrap_or(Err(DaemonError::WorkerFailed)) {
        waiting.chosen.lock().remove(name);
        return Err(error);
    }
    let time_ms = peer.clock().wall_ms();
    waiting.asked.notify_one();
    let chosen = timeout(CHOSEN_MAX, is_chosen).await;
    Ok(SnapshotReport {
        name: name.to_owned(),
        time_ms,
        device: peer.device_name(DeviceId::from(peer.node().id())),
        waits: !matches!(chosen, Ok(Ok(()))),
        ..SnapshotReport::default()
    })
}

/// Lists the snapshots that are kept, oldest first.
pub(super) fn list(peer: &Arc<Peer>) -> Result<SnapshotsReport, DaemonError> {
    let member = peer.member_parts().ok_or(DaemonError::NoFiles)?;
    let report = |kept: Snapshot| SnapshotReport {
        name: kept.name,
        time_ms: kept.time_ms,
        device: peer.device_name(kept.device),
        nodes: kept.nodes,
        bytes: kept.bytes,
        waits: false,
    };
    let snapshots = member.volume.snapshots()?.into_iter().map(report).collect();
    Ok(SnapshotsReport {
        snapshots,
        asked: member.volume.asked_snapshots()?,
    })
}

/// Lets go of a snapshot, or of the wish for one.
pub(super) fn remove(peer: &Arc<Peer>, name: &str) -> Result<(), DaemonError> {
    let member = peer.member_parts().ok_or(DaemonError::NoFiles)?;
    let volume = &member.volume;
    if member.fs.is_read_only() {
        return Err(FsError::ReadOnly.into());
    }
    let mut snapshots = volume.snapshots()?.into_iter();
    match snapshots.find(|kept| kept.name == name) {
        Some(kept) => volume.drop_snapshot(kept.op)?,
        None if volume.asked_snapshots()?.iter().any(|asked| asked == name) => {
            volume.forget_asked(name)?;
        }
        None => return Err(bad(format!("there is no snapshot {name}"))),
    }
    Ok(())
}

/// Checks that a name is one that a folder can hold.
fn check(name: &str) -> Result<(), DaemonError> {
    let is_none = name.is_empty() || name == "." || name == ".." || name.len() > NAME_MAX_BYTES;
    match is_none || name.contains(['/', '\0']) {
        true => Err(bad(
            "the name of a snapshot has 1 to 255 bytes, none of them a slash".to_owned(),
        )),
        false => Ok(()),
    }
}

fn bad(what: String) -> DaemonError {
    DaemonError::BadRequest { what }
}

impl Peer {
    /// Keeps what this machine sees of the volume now, under a name; it is there a moment later.
    pub async fn keep_snapshot(self: &Arc<Self>, name: &str) -> Result<(), DaemonError> {
        create(self, name).await.map(|_| ())
    }

    /// Lets go of a snapshot.
    pub fn remove_snapshot(self: &Arc<Self>, name: &str) -> Result<(), DaemonError> {
        remove(self, name)
    }

    /// Makes the first snapshot that is wanted and can be made; says whether there was one. Fails where there was
    /// none and some failed.
    pub(super) async fn make_snapshot(
        self: &Arc<Self>,
        member: &Member,
    ) -> Result<bool, DaemonError> {
        let mut failure = None;
        for name in member.volume.asked_snapshots()? {
            match self.make_asked(member, name).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(false), Err)
    }

    /// Makes a snapshot that is wanted; says whether it could be made.
    async fn make_asked(
        self: &Arc<Self>,
        member: &Member,
        name: String,
    ) -> Result<bool, DaemonError> {
        let (of, member) = (Arc::clone(self), member.clone());
        let make = move || -> Result<bool, DaemonError> {
            // It was made, and the wish stayed: the power went. One of this name that another made meanwhile is
            // of another moment.
            let volume = &member.volume;
            let own = volume.device();
            let is_it = |kept: &Snapshot| {
                kept.name == name && (kept.device == own || is_of_schedule(&name))
            };
            let is_there = volume.snapshots()?.iter().any(is_it);
            let keep = &mut Keeping {
                replica: Arc::clone(of.replica()),
                keys: &member.keys,
                name: &name,
                waiting: &of.snapshots,
            };
            match (is_there, !member.fs.is_read_only()) {
                (true, _) => {}
                // Later, perhaps.
                (_, false) => return Ok(false),
                _ => match volume.make_snapshot(&name, keep) {
                    Ok(made) => tracing::info!(name, nodes = made.nodes, "made a snapshot"),
                    Err(VolumeError::Busy) => return Ok(false),
                    Err(error) => return Err(error.into()),
                },
            }
            volume.forget_asked(&name)?;
            Ok(true)
        };
        let made = self.asking_pool().call(make).await;
        made.ok_or(DaemonError::WorkerFailed)?
    }

    /// Asks for the snapshots that are due by the volume's schedule and lets go of those that are too many,
    /// where it is the turn of this machine.
    pub(super) fn follow_schedule(&self, member: &Member) -> Result<bool, DaemonError> {
        let roster = self.node().roster();
        let schedule = roster.schedule();
        if schedule.is_off() || member.fs.is_read_only() {
            return Ok(false);
        }
        let writers = roster.members().filter(|of| of.role.writes());
        let writers: Vec<DeviceId> = writers.map(|of| DeviceId::from(of.id)).collect();
        let own = DeviceId::from(self.node().id());
        let (volume, now_ms) = (&member.volume, self.clock().wall_ms());
        let snapshots = volume.snapshots()?;
        let asked = volume.asked_snapshots()?;
        let names = snapshots.iter().map(|kept| &*kept.name);
        let names: Vec<&str> = names.chain(asked.iter().map(|name| &**name)).collect();
        let mut is_asked = false;
        for name in due(&schedule, &names, now_ms, (own, &writers)) {
            volume.ask_snapshot(&name)?;
            is_asked = true;
        }
        // Whoever made the newest one of a kind lets go of what is too many of it.
        let own_names = snapshots.iter().filter(|kept| kept.device == own);
        let own_names: Vec<&str> = own_names.map(|kept| &*kept.name).collect();
        let names: Vec<&str> = snapshots.iter().map(|kept| &*kept.name).collect();
        let over = thinned(&schedule, &names, &own_names, now_ms);
        for kept in snapshots.iter().filter(|kept| over.contains(&&*kept.name)) {
            volume.drop_snapshot(kept.op)?;
        }
        Ok(is_asked)
    }

    /// Finds out what some nodes of snapshots name of which that is not known here; says whether there were any.
    pub(super) async fn read_nodes(&self, member: &Member) -> Result<bool, DaemonError> {
        let volume = Arc::clone(&member.volume);
        let unread = self.asking_pool().call(move || volume.unread_nodes()).await;
        let unread = unread.ok_or(DaemonError::WorkerFailed)??;
        let mut waiting: VecDeque<_> = unread.into();
        let was_any = !waiting.is_empty();
        let mut fetches = JoinSet::new();
        let (mut failure, mut unknown) = (None, None);
        loop {
            while fetches.len() < FETCHES_MAX
                && failure.is_none()
                && let Some(node) = waiting.pop_front()
            {
                let replica = Arc::clone(self.replica());
                fetches.spawn(async move {
                    let transfer = Transfer::new(Priority::Background);
                    let fetched = replica.fetch_for(node.root, FETCH_TIMEOUT, &transfer).await;
                    fetched.map(|sealed| (node, sealed))
                });
            }
            let Some(fetched) = fetches.join_next().await else {
                break;
            };
            match fetched.map_err(|_| DaemonError::WorkerFailed)? {
                Ok((node, sealed)) => {
                    let (volume, keys) = (Arc::clone(&member.volume), Arc::clone(&member.keys));
                    // What came is not kept here where there is no room.
                    let note = move || -> Result<(), DaemonError> {
                        let plain = keys.open_chunk(&sealed)?;
                        Ok(volume.note_node(&node, &plain)?)
                    };
                    let noted = self.asking_pool().call(note).await;
                    if let Err(error) = noted.ok_or(DaemonError::WorkerFailed)? {
                        // The others are read all the same.
                        unknown.get_or_insert(error);
                    }
                }
                Err(error) => failure = Some(DataError::from(error)),
            }
        }
        match failure.map(DaemonError::from).or(unknown) {
            Some(error) => Err(error),
            None => Ok(was_any),
        }
    }
}
