//! Rebuilding what a member keeps: what another member tells one whose state folder was damaged, and how
//! a new store is filled with what could be read of the old one.
//!
//! Who asks has proved by TLS that it is a member; so it is told the roster, and where it reads the keys
//! that it had, wrapped for its identity. What comes is believed as at a start: the roster by the
//! signatures from the genesis on, which is that of the volume that the old folder was of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::Node;
use super::ask::connect;
use super::error::NodeError;
use super::hello::{check_member, check_session_clock, refused, unanswered};
use super::join::rest_of_roster;
use super::membership::{self, rows_of};
use super::roster::{Role, Roster};
use super::session::{Session, ask};
use super::sync::verify;
use crate::base::limits::RPC_TIMEOUT;
use crate::base::{Clock, DeviceId, LogId, VolumeId};
use crate::crypto::Identity;
use crate::log::chain::Chain;
use crate::log::{LogHead, LogStore};
use crate::store::{Batch, Rows, Store, Table, codec};
use crate::transport::Transport;
use crate::wire::bounded::BoundedBytes;
use crate::wire::{Redeemed, Refusal, Request, Response, SealedSegment};

/// Bytes of segments that are checked in one go.
const SLICE_BYTES: usize = 8 << 20;

/// Tables that are taken over as far as they can be read: what is in them is checked where it is used,
/// or is this machine's alone.
const TAKEN_OVER: [Table; 10] = [
    Table::Aside,
    Table::Peers,
    Table::Records,
    Table::Invite,
    Table::Held,
    Table::Pending,
    Table::Atime,
    Table::Arrival,
    Table::Checkpoint,
    Table::Tree,
];

/// Largest encoded head of a log.
const HEAD_MAX_BYTES: usize = 128;

/// What is known of a volume to rebuild a member's store.
#[derive(Debug, Clone)]
pub struct Restored {
    roster: Roster,
    /// The volume keys, wrapped for this peer, where a member gave them.
    pub wrapped_keys: Option<Vec<u8>>,
}

impl Restored {
    /// Returns what can still be read of the roster in a damaged store, `None` where that does not say
    /// which volume it was.
    pub fn of_store(store: &Store) -> Result<Option<Self>, NodeError> {
        let volume = match membership::volume_of(store) {
            Ok(Some(volume)) => Some(volume),
            Ok(None) | Err(NodeError::DamagedRoster) => volume_of_segments(&*store.rows)?,
            Err(error) => return Err(error),
        };
        let Some(volume) = volume else {
            return Ok(None);
        };
        let mut statements: Vec<Vec<u8>> = Vec::new();
        store.rows.scan(Table::Roster, &[], None, &mut |_, value| {
            statements.push(value.to_vec());
            ControlFlow::Continue(())
        })?;
        let mut roster = Roster::empty(volume);
        roster.merge(statements.iter().map(Vec::as_slice));
        Ok(Some(Self {
            roster,
            wrapped_keys: None,
        }))
    }

    /// Returns the volume.
    pub fn volume(&self) -> VolumeId {
        self.roster.volume()
    }

    /// Tells whether the roster is one: it begins with its genesis and has this member.
    pub fn is_whole(&self, identity: &Identity) -> bool {
        self.roster.has_genesis() && self.role_of(identity).is_some()
    }

    /// Returns what the member may do.
    pub fn role_of(&self, identity: &Identity) -> Option<Role> {
        self.roster.role_of(&identity.id())
    }

    /// Takes over what another member told.
    pub fn merge(&mut self, other: Self) {
        self.roster.merge(other.roster.statements());
        if other.wrapped_keys.is_some() {
            self.wrapped_keys = other.wrapped_keys;
        }
    }

    /// Fills a new store with that, with `own`, and with what is taken over of the damaged one; durable
    /// on return.
    pub fn lay(&self, store: &Store, old: &Store, own: Batch) -> Result<(), NodeError> {
        let mut batch = rows_of(&self.roster);
        batch.append(own);
        store.rows.commit(batch)?;
        for table in TAKEN_OVER {
            copy(&*old.rows, &*store.rows, table, &|_, _| true)?;
        }
        // What authors had folded who stood on another chain follows from these alone.
        copy(&*old.rows, &*store.rows, Table::Left, &Chain::is_left)?;
        Ok(store.sync()?)
    }

    /// Takes over what this device wrote and no segment of its logs that is in the new store holds, to be
    /// folded and sealed at the next start; returns how many ops.
    pub fn take_drafts(
        &self,
        store: &Store,
        old: &Store,
        own: DeviceId,
    ) -> Result<usize, NodeError> {
        let mut heads: BTreeMap<LogId, LogHead> = BTreeMap::new();
        let mut note = |key: &[u8], value: &[u8]| {
            let log = key.try_into().map(u64::from_be_bytes).map(LogId);
            let head = codec::decode::<LogHead>(value, HEAD_MAX_BYTES);
            if let (Ok(log), Ok(head)) = (log, head)
                && head.device == own
                && LogId::of(own, head.incarnation) == log
            {
                heads.insert(log, head);
            }
            ControlFlow::Continue(())
        };
        old.rows.scan(Table::LogHead, &[], None, &mut note)?;
        let log = LogStore::open(Arc::clone(&store.rows), self.volume(), own, 0)?;
        for head in heads.values() {
            log.know(head.incarnation)?;
        }
        let sealed: BTreeMap<LogId, _> = heads
            .keys()
            .map(|name| (*name, log.head(*name).map(|head| head.last)))
            .collect();
        let is_draft = |key: &[u8], _: &[u8]| {
            let key = key.get(..crate::base::OpId::KEY_BYTES);
            let id = key.and_then(crate::base::OpId::from_key);
            id.is_some_and(|id| {
                let last = sealed.get(&id.log);
                last.is_some_and(|last| last.is_none_or(|last| id.stamp > last))
            })
        };
        let count = copy(&*old.rows, &*store.rows, Table::Op, &is_draft)?;
        copy(&*old.rows, &*store.rows, Table::OpPart, &is_draft)?;
        let of_log = |key: &[u8], _: &[u8]| {
            let log = key.first_chunk().map(|log| LogId(u64::from_be_bytes(*log)));
            log.is_some_and(|log| sealed.contains_key(&log))
        };
        copy(&*old.rows, &*store.rows, Table::Draft, &of_log)?;
        store.sync()?;
        Ok(count)
    }
}

/// Copies rows of a table; returns how many.
fn copy(
    from: &dyn Rows,
    to: &dyn Rows,
    table: Table,
    wanted: &dyn Fn(&[u8], &[u8]) -> bool,
) -> Result<usize, NodeError> {
    let (mut batch, mut bytes, mut count) = (Batch::new(), 0, 0);
    let mut failed = Ok(());
    from.scan(table, &[], None, &mut |key, value| {
        if wanted(key, value) {
            batch.put(table, key, value);
            bytes += key.len() + value.len();
            count += 1;
        }
        if bytes < SLICE_BYTES {
            return ControlFlow::Continue(());
        }
        bytes = 0;
        failed = to.commit(std::mem::take(&mut batch));
        match failed {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    failed?;
    to.commit(batch)?;
    Ok(count)
}

/// Returns the volume that most of the segments in a store belong to.
fn volume_of_segments(rows: &dyn Rows) -> Result<Option<VolumeId>, NodeError> {
    let mut found = None;
    rows.scan(Table::Segment, &[], None, &mut |_, value| {
        let segment = SealedSegment::from_bytes(&Bytes::copy_from_slice(value));
        found = segment.ok().map(|segment| segment.header.volume);
        match found {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    })?;
    Ok(found)
}

impl Node {
    /// Returns how many segments lie in a store.
    pub fn segments_in(store: &Store) -> Result<u64, NodeError> {
        let mut count = 0;
        store.rows.scan_keys(Table::Segment, &[], None, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// Takes over the records of the chain that can be read of a damaged store and continue each other, by
    /// their certificates, as from another member: without them nothing is folded that was built on them.
    ///
    /// # Errors
    ///
    /// Those of either store.
    pub fn take_chain(self: &Arc<Self>, old: &Store) -> Result<(), NodeError> {
        let mut links: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        let mut failed = Ok(());
        let take = |links: &mut Vec<Vec<u8>>| -> Result<(), NodeError> {
            let roster = self.roster();
            let judge = self.chain_judge(&roster);
            // As of nobody's: what comes from this device itself is not looked at.
            let (from, now) = (DeviceId(0), self.now());
            let (outcome, taken) = self.chain.accept(links, from, now, &judge);
            self.see_to(&outcome)?;
            self.follow_up(outcome);
            if let Err(error) = taken {
                tracing::debug!(%error, "records of the damaged store are left out");
            }
            links.clear();
            Ok(())
        };
        old.rows.scan(Table::Chain, &[], None, &mut |_, value| {
            links.push(value.to_vec());
            bytes += value.len();
            if bytes < SLICE_BYTES {
                return ControlFlow::Continue(());
            }
            bytes = 0;
            failed = take(&mut links);
            match failed {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        failed?;
        take(&mut links)
    }

    /// Takes over the segments of a damaged store that are whole, signed, and continue what is here, with the
    /// records that they build on: see [`Node::take_chain`]. Returns how many are left out.
    ///
    /// # Errors
    ///
    /// Those of either store.
    pub fn take_logs(&self, old: &Store) -> Result<usize, NodeError> {
        // What lay below its floors it had with the rows of a checkpoint.
        self.log.start_at(&LogStore::starts_in(&*old.rows)?)?;
        let mut left = 0;
        let mut slice: Vec<SealedSegment> = Vec::new();
        let mut bytes = 0;
        let mut failed = Ok(());
        let mut take = |slice: &mut Vec<SealedSegment>| -> Result<(), NodeError> {
            let roster = self.roster();
            self.log.accept(slice, self.clock.wall_ms(), &|segment| {
                let author = roster.author(segment.header.device);
                // Of a store of its own: what lies there was taken once.
                verify(segment, author, crate::base::PeerId([0; 32]))?;
                self.founds(segment)
            })?;
            let is_here = |segment: &&SealedSegment| {
                let head = self.log.head(segment.header.log());
                head.is_some_and(|head| head.seg_no >= segment.header.seg_no)
            };
            left += slice.len() - slice.iter().filter(is_here).count();
            slice.clear();
            Ok(())
        };
        old.rows.scan(Table::Segment, &[], None, &mut |_, value| {
            if let Ok(segment) = SealedSegment::from_bytes(&Bytes::copy_from_slice(value)) {
                bytes += value.len();
                slice.push(segment);
            }
            if bytes < SLICE_BYTES {
                return ControlFlow::Continue(());
            }
            bytes = 0;
            failed = take(&mut slice);
            match failed {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        failed?;
        take(&mut slice)?;
        self.chain.hold()?;
        Ok(left)
    }

    /// Asks a member at an address for what a member has to know whose state folder was damaged: the
    /// roster of `volume`, or of the one that the peer is of where nothing says which it was.
    ///
    /// # Errors
    ///
    /// [`NodeError::Unreachable`], [`NodeError::NotOnRoster`], [`NodeError::Removed`],
    /// [`NodeError::ClockSkew`], [`NodeError::BadRoster`], and what else the peer says.
    pub async fn restore(
        transport: &Arc<dyn Transport>,
        clock: &Arc<dyn Clock>,
        addr: SocketAddr,
        volume: Option<VolumeId>,
        identity: &Identity,
    ) -> Result<Restored, NodeError> {
        let session = connect(transport, clock, addr).await?;
        let request = Request::Restore {
            clock_ms: clock.wall_ms(),
        };
        let answer = ask(&session, &request, Bytes::new(), RPC_TIMEOUT).await;
        let wrapped_keys = match answer.map_err(|error| unanswered(&session, addr, error))?.0 {
            Response::Redeemed(redeemed) => redeemed.wrapped_keys,
            Response::Refused(refusal) => return Err(refused(addr, refusal)),
            _ => {
                let peer = session.peer();
                return Err(NodeError::Protocol { peer });
            }
        };
        let statements = rest_of_roster(&session, Vec::new(), u32::MAX).await?;
        let bad = NodeError::BadRoster { addr };
        let Some(genesis) = statements.first() else {
            return Err(bad);
        };
        let volume = volume.unwrap_or_else(|| VolumeId(blake3::hash(genesis).into()));
        let mut roster = Roster::empty(volume);
        roster.merge(statements.iter().map(|statement| &statement[..]));
        let restored = Restored {
            roster,
            wrapped_keys: wrapped_keys.map(|keys| keys.into_inner().to_vec()),
        };
        let is_member = restored.roster.member(&session.peer()).is_some();
        session.close("done");
        if is_member && restored.is_whole(identity) {
            Ok(restored)
        } else {
            Err(bad)
        }
    }

    /// Tells a member whose state folder was damaged what it knew.
    pub(super) fn answer_restore(&self, session: &Session, clock_ms: u64) -> Response {
        if let Err(refusal) = check_session_clock(self.clock.as_ref(), clock_ms) {
            return Response::Refused(refusal);
        }
        let roster = self.roster();
        if let Err(refusal) = check_member(&roster, &session.peer()) {
            self.strike(session, 1);
            return Response::Refused(refusal);
        }
        session.know_volume();
        if !session.may_ask_roster() {
            return Response::Refused(Refusal::Busy);
        }
        let member = roster.member(&session.peer());
        let reader = member.filter(|member| member.role.reads());
        let wrapped = reader.and_then(|reader| {
            let wrapper = self.wrapper.read();
            wrapper.as_ref().and_then(|wrap| wrap(&reader.identity))
        });
        Response::Redeemed(Redeemed {
            statements: Vec::new(),
            records: Vec::new(),
            wrapped_keys: wrapped.and_then(|keys| BoundedBytes::new(Bytes::from(keys))),
        })
    }
}
