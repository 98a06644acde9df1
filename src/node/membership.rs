//! The roster as this peer keeps it: in memory for everybody, in rows for the next start.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::error::NodeError;
use super::roster::{Role, Roster, RosterError, StatementId};
use crate::base::{PeerId, VolumeId};
use crate::log::chain::{Ending, Roll};
use crate::store::{Batch, Rows, Store, Table};
use crate::wire::StatementBytes;
use crate::wire::limits::{STATEMENTS_BATCH_BYTES, STATEMENTS_MAX};

/// Row of [`Table::Node`] that holds the volume's id.
const VOLUME_KEY: &[u8] = b"volume";

/// The roster and its rows; each statement is a row under its hash.
pub(super) struct Membership {
    rows: Arc<dyn Rows>,
    current: RwLock<Arc<Roster>>,
    /// Held while a roster is changed and stored: changes come one after another, readers go on.
    changing: Mutex<()>,
}

/// What a change of the roster was.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Statements that are new here: to be passed on.
    pub(super) new: Vec<StatementBytes>,
    /// Statements that were malformed or not authentic.
    pub(super) refused: usize,
    /// Statements that only a newer program knows.
    pub(super) newer: usize,
}

/// Returns the volume that a store belongs to.
pub(super) fn volume_of(store: &Store) -> Result<Option<VolumeId>, NodeError> {
    match store.rows.get(Table::Node, VOLUME_KEY)? {
        None => Ok(None),
        Some(bytes) => VolumeId::from_slice(&bytes)
            .map(Some)
            .ok_or(NodeError::DamagedRoster),
    }
}

/// Returns what makes a store belong to the volume of a roster.
pub(super) fn rows_of(roster: &Roster) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Node, VOLUME_KEY, roster.volume().0);
    for statement in roster.statements() {
        put(&mut batch, statement);
    }
    batch
}

impl Membership {
    /// Loads the roster; every signature is checked again.
    pub(super) fn load(store: &Store) -> Result<Self, NodeError> {
        let volume = volume_of(store)?.ok_or(NodeError::NoVolume)?;
        let statements = stored(&*store.rows)?;
        let mut roster = Roster::empty(volume);
        let merged = roster.merge(statements.iter().map(Vec::as_slice));
        if merged.refused + merged.newer > 0 || !roster.has_genesis() {
            return Err(NodeError::DamagedRoster);
        }
        Ok(Self {
            rows: Arc::clone(&store.rows),
            current: RwLock::new(Arc::new(roster)),
            changing: Mutex::new(()),
        })
    }

    /// Returns the roster as it is now.
    pub(super) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.current.read())
    }

    /// Says which statements records of the chain name: these are kept, also where one is in the rows
    /// that another word of its author had taken the place of.
    pub(super) fn pin(&self, named: BTreeSet<[u8; 32]>) -> Result<(), NodeError> {
        let named: BTreeSet<StatementId> = named.into_iter().map(StatementId).collect();
        let _changing = self.changing.lock();
        let before = self.roster();
        if **before.pinned() == named {
            return Ok(());
        }
        let mut after = (*before).clone();
        after.pin(Arc::new(named));
        let statements = stored(&*self.rows)?;
        after.merge(statements.iter().map(Vec::as_slice));
        *self.current.write() = Arc::new(after);
        Ok(())
    }

    /// Takes over statements from anybody; durable on return.
    pub(super) fn merge(&self, statements: &[StatementBytes]) -> Result<Change, NodeError> {
        let _changing = self.changing.lock();
        let before = self.roster();
        let mut after = (*before).clone();
        let merged = after.merge(statements.iter().map(|statement| &statement[..]));
        let mut change = Change {
            new: Vec::new(),
            refused: merged.refused,
            newer: merged.newer,
        };
        if merged.added > 0 {
            change.new = self.store(&before, after)?;
        }
        Ok(change)
    }

    /// Lets `issue` add this peer's own statements; durable on return, or nothing is changed.
    pub(super) fn issue<T>(
        &self,
        issue: impl FnOnce(&mut Roster) -> Result<T, RosterError>,
    ) -> Result<(T, Change), NodeError> {
        let _changing = self.changing.lock();
        let before = self.roster();
        let mut after = (*before).clone();
        let issued = issue(&mut after)?;
        let new = self.store(&before, after)?;
        let change = Change {
            new,
            ..Change::default()
        };
        Ok((issued, change))
    }

    fn store(&self, before: &Roster, after: Roster) -> Result<Vec<StatementBytes>, NodeError> {
        let known: BTreeSet<&[u8]> = before.statements().collect();
        let new = after
            .statements()
            .filter(|statement| !known.contains(statement));
        let new: Vec<StatementBytes> = new.filter_map(to_bytes).collect();
        let mut batch = Batch::new();
        // A newer word of a member has taken the place of an older one.
        let kept: BTreeSet<&[u8]> = after.statements().collect();
        for gone in known.difference(&kept) {
            batch.delete(Table::Roster, blake3::hash(gone).as_bytes());
        }
        for statement in &new {
            put(&mut batch, statement);
        }
        self.rows.commit(batch)?;
        self.rows.sync()?;
        *self.current.write() = Arc::new(after);
        Ok(new)
    }
}

impl Roll for Membership {
    fn endings(&self) -> Vec<[u8; 32]> {
        self.roster().endings().map(|id| id.0).collect()
    }

    fn ending(&self, statement: &[u8; 32]) -> Option<Ending> {
        self.roster().ending(StatementId(*statement))
    }

    fn line(&self, admission: &[u8; 32]) -> Vec<[u8; 32]> {
        let line = self.roster().line(StatementId(*admission)).into_iter();
        line.map(|id| id.0).collect()
    }
}

/// Returns the statements that are in the rows.
fn stored(rows: &dyn Rows) -> Result<Vec<Vec<u8>>, NodeError> {
    let mut statements: Vec<Vec<u8>> = Vec::new();
    rows.scan(Table::Roster, &[], None, &mut |_, value| {
        statements.push(value.to_vec());
        ControlFlow::Continue(())
    })?;
    Ok(statements)
}

/// Returns one message's worth of a roster's statements, from the place `skip` on.
pub(super) fn page(roster: &Roster, skip: usize) -> Vec<StatementBytes> {
    let mut bytes_total = 0;
    let statements = roster.statements().skip(skip).take(STATEMENTS_MAX);
    let fitting = statements.take_while(|statement| {
        bytes_total += statement.len();
        bytes_total <= STATEMENTS_BATCH_BYTES
    });
    fitting.filter_map(to_bytes).collect()
}

/// Cuts statements into messages.
pub(super) fn batches(statements: &[StatementBytes]) -> impl Iterator<Item = &[StatementBytes]> {
    // Each statement has at most `STATEMENT_MAX_BYTES`, so these stay within a batch's bytes.
    const AT_ONCE: usize = STATEMENTS_BATCH_BYTES / crate::wire::limits::STATEMENT_MAX_BYTES;
    statements.chunks(AT_ONCE)
}

/// Returns the admins of a roster, in the order of their ids.
pub(super) fn admins(roster: &Roster) -> impl Iterator<Item = PeerId> {
    let members = roster.members().filter(|member| member.role == Role::Admin);
    members.map(|member| member.id)
}

fn to_bytes(statement: &[u8]) -> Option<StatementBytes> {
    StatementBytes::new(bytes::Bytes::copy_from_slice(statement))
}

fn put(batch: &mut Batch, statement: &[u8]) {
    batch.put(Table::Roster, blake3::hash(statement).as_bytes(), statement);
}
