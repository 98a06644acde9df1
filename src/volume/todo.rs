//! Ops that wait to be folded.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::committed::{Committed, Rank};
use super::op::OpKind;
use super::overlay::Overlay;
use super::view::View;
use super::{Result, VolumeError};
use crate::base::OpId;
use crate::store::{Table, codec};

/// Ops that wait to be folded, in their order.
///
/// Ops that are undone where nobody waits for the view may be more than the memory is to hold: of those
/// this has the places alone, and what they want lies in rows of the table `Undone` until they are folded
/// again.
#[derive(Debug, Default)]
pub(super) struct Todo {
    ops: BTreeMap<Rank, Option<Arc<OpKind>>>,
    /// What those take that are in memory, about.
    bytes: usize,
}

impl Todo {
    /// Adds an op.
    pub(super) fn insert(&mut self, rank: Rank, kind: Arc<OpKind>) {
        self.put(rank, Some(kind));
    }

    fn put(&mut self, rank: Rank, kind: Option<Arc<OpKind>>) {
        self.bytes += room(&kind);
        let before = self.ops.insert(rank, kind);
        self.bytes -= before.as_ref().map_or(0, room);
    }

    /// Adds an op that is undone, and puts the row of what it wants.
    pub(super) fn insert_undone(&mut self, rank: Rank, kind: Arc<OpKind>, overlay: &mut Overlay) {
        self.put(rank, None);
        overlay.undone.insert(rank.id, Some(kind));
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.ops.len()
    }

    /// Tells whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Takes the first op; without what it wants where that lies in a row.
    pub(super) fn pop_first(&mut self) -> Option<(Rank, Option<Arc<OpKind>>)> {
        let first = self.ops.pop_first();
        self.bytes -= first.as_ref().map_or(0, |(_, kind)| room(kind));
        first
    }

    /// Returns how many bytes of what the ops want are in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes out the ops that `is_named` says.
    pub(super) fn take_named(&mut self, is_named: impl Fn(OpId) -> bool) -> Self {
        let mut named = Self::default();
        for (rank, kind) in self.ops.extract_if(.., |rank, _| is_named(rank.id)) {
            self.bytes -= room(&kind);
            named.put(rank, kind);
        }
        named
    }

    /// Forgets the ops that `is_over` says: they are not folded again.
    pub(super) fn forget(&mut self, overlay: &mut Overlay, is_over: impl Fn(OpId) -> bool) {
        for (rank, kind) in self.ops.extract_if(.., |rank, _| is_over(rank.id)) {
            self.bytes -= room(&kind);
            if kind.is_none() {
                overlay.undone.insert(rank.id, None);
            }
        }
    }

    /// Gives the ops their places in another order.
    pub(super) fn rank_anew(&mut self, committed: &Committed) {
        let ops = std::mem::take(&mut self.ops).into_iter();
        self.ops = ops
            .map(|(rank, kind)| (committed.rank(rank.id), kind))
            .collect();
    }
}

fn room(kind: &Option<Arc<OpKind>>) -> usize {
    kind.as_ref().map_or(0, |kind| kind.room())
}

/// What ops want that are to be folded next, read from their rows some at a time.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    kinds: BTreeMap<OpId, Arc<OpKind>>,
}

/// Ops that are read at once, and bytes of them.
const READ_OPS: usize = 256;
const READ_BYTES: usize = 256 << 10;

impl ReadAhead {
    /// Takes what an undone op wants from its row, which goes.
    pub(super) fn take(
        &mut self,
        view: &View,
        overlay: &mut Overlay,
        id: OpId,
    ) -> Result<Arc<OpKind>> {
        if let Some(Some(kind)) = overlay.undone.insert(id, None) {
            return Ok(kind);
        }
        if !self.kinds.contains_key(&id) {
            self.read(view, id)?;
        }
        self.kinds.remove(&id).ok_or(LOST_OP)
    }

    fn read(&mut self, view: &View, from: OpId) -> Result<()> {
        self.kinds.clear();
        let mut bytes = 0;
        let mut failed = None;
        let mut visit = |key: &[u8], value: &[u8]| {
            let kind = codec::decode(value, value.len());
            match (OpId::from_key(key), kind) {
                (Some(id), Ok(kind)) => self.kinds.insert(id, Arc::new(kind)),
                (None, _) => {
                    failed = Some(LOST_OP);
                    return ControlFlow::Break(());
                }
                (_, Err(error)) => {
                    failed = Some(error.into());
                    return ControlFlow::Break(());
                }
            };
            bytes += value.len();
            match self.kinds.len() < READ_OPS && bytes < READ_BYTES {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let rows = &view.rows;
        rows.scan(Table::Undone, &from.to_key(), None, &mut visit)?;
        failed.map_or(Ok(()), Err)
    }
}

const LOST_OP: VolumeError = VolumeError::Corrupt {
    what: "what an undone op wants is missing",
};
