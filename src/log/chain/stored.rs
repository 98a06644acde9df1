//! The rows of the chain: records with what proves them, what they name and take into account, and the row
//! of this device's part in the agreement.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::core::Output;
use super::keep::{Chain, State};
use super::marks::MARKED_KEY;
use super::record::{Record, RecordBody, Voter};
use super::row::{Row, Tip};
use super::vote::Certificate;
use crate::base::{DeviceId, LogId, Rng, VolumeId};
use crate::log::LogError;
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::Vector;
use crate::wire::limits::LINK_MAX_BYTES;

const ROW_KEY: &[u8] = b"chain/row";

/// The incarnation of the row of who founds a volume. All others are random.
const FOUNDERS_ROW: u64 = 0;

pub(super) const LOST_ROW: LogError = LogError::MalformedRecord {
    what: "the row of the voter, which is gone",
};

/// What every peer of a volume knows of the beginning of its chain.
#[derive(Debug, Clone, Copy)]
pub struct Founding {
    /// The volume: the hash of the statement that founded it.
    pub volume: VolumeId,
    /// The device that founded it, which decides the first record alone.
    pub founder: DeviceId,
}

impl Founding {
    /// Returns record 0, which follows from this alone and needs no certificate.
    pub fn record(self) -> Result<Record, LogError> {
        Record::new(RecordBody {
            era: 0,
            number: 0,
            prev: [0; 32],
            segments: Vec::new(),
            ended: Vec::new(),
            statements: vec![self.volume.0],
            base_line: 0,
            time_ms: 0,
            voters: vec![Voter {
                device: self.founder,
                incarnation: FOUNDERS_ROW,
            }],
            is_checkpoint: false,
        })
    }
}

/// A record with what proves it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) record: Record,
    pub(super) certificate: Certificate,
}

impl Link {
    /// Returns the record of its bytes, which may come from anybody.
    ///
    /// # Errors
    ///
    /// [`LogError::RecordTooNew`] for one of a greater version, and that of the codec.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, LogError> {
        let link = codec::decode(bytes, LINK_MAX_BYTES);
        // A record has its version first.
        let version = bytes.first().filter(|version| **version > Record::VERSION);
        match (link, version) {
            (Err(_), Some(version)) => Err(LogError::RecordTooNew {
                found: *version,
                known: Record::VERSION,
            }),
            (link, _) => Ok(link?),
        }
    }
}

impl Chain {
    /// Puts the row of the device that founds a volume, which decides its first record: of a store that
    /// never had one.
    pub fn found(batch: &mut Batch, founding: Founding) -> Result<(), LogError> {
        let own = Voter {
            device: founding.founder,
            incarnation: FOUNDERS_ROW,
        };
        let row = Row::new(own, Tip::of(&founding.record()?));
        batch.put(Table::Meta, ROW_KEY, row.to_bytes());
        Ok(())
    }

    /// Notes in the rows of a store, before its chain is opened, that they may be older than what this
    /// device has signed: its folder was put back from a copy, or moved. It has no vote until it has
    /// heard what others know.
    pub fn doubt(rows: &dyn Rows) -> Result<(), LogError> {
        let Some(mut row) = stored_row(rows)? else {
            return Ok(());
        };
        row.is_unsure = true;
        let mut batch = Batch::new();
        batch.put(Table::Meta, ROW_KEY, row.to_bytes());
        Ok(rows.commit(batch)?)
    }

    /// Writes what a step of the agreement decided, and the row that it leaves; returns the last segments
    /// that are named now of the logs of which any is.
    pub(super) fn write(&self, state: &State, output: &Output) -> Result<Vector, LogError> {
        let mut batch = Batch::new();
        let mut named = Vector::new();
        for (record, certificate) in &output.decided {
            for segment in &record.segments {
                let last: &mut u64 = named.entry(segment.log).or_default();
                *last = segment.seg_no.max(*last);
            }
            let link = Link {
                record: record.clone(),
                certificate: certificate.clone(),
            };
            let key = record.number.to_be_bytes();
            batch.put(Table::Chain, key, codec::encode(&link));
            if record.is_checkpoint {
                batch.put(Table::Meta, MARKED_KEY, key);
            }
            let statements = record.statements.iter();
            for statement in statements.filter(|of| !state.taken.contains_key(*of)) {
                batch.put(Table::Taken, statement, key);
            }
        }
        for (log, last) in &mut named {
            *last = (*last).max(state.named.get(log).copied().unwrap_or(0));
            batch.put(Table::Named, log.0.to_be_bytes(), last.to_be_bytes());
        }
        put_row(&mut batch, output);
        if !batch.is_empty() {
            self.rows.commit(batch)?;
        }
        Ok(named)
    }
}

/// Returns the last segment of each log that a record names.
pub(super) fn stored_named(rows: &dyn Rows) -> Result<Vector, LogError> {
    let mut named = Vector::new();
    let mut is_damaged = false;
    rows.scan(Table::Named, &[], None, &mut |key, value| {
        let log = key.try_into().map(u64::from_be_bytes).map(LogId);
        let seg_no = value.try_into().map(u64::from_be_bytes);
        match (log, seg_no) {
            (Ok(log), Ok(seg_no)) => {
                named.insert(log, seg_no);
            }
            _ => is_damaged = true,
        }
        ControlFlow::Continue(())
    })?;
    if is_damaged {
        return Err(LogError::MalformedRecord {
            what: "a row of what records name",
        });
    }
    Ok(named)
}

/// Returns the statements that records took into account, with the first that did.
pub(super) fn stored_taken(
    rows: &dyn Rows,
    founding: Founding,
) -> Result<BTreeMap<[u8; 32], u64>, LogError> {
    let mut taken = BTreeMap::from([(founding.volume.0, 0)]);
    let mut is_damaged = false;
    rows.scan(Table::Taken, &[], None, &mut |key, value| {
        match (key.try_into(), value.try_into().map(u64::from_be_bytes)) {
            (Ok(statement), Ok(number)) => {
                taken.insert(statement, number);
            }
            _ => is_damaged = true,
        }
        ControlFlow::Continue(())
    })?;
    if is_damaged {
        return Err(LogError::MalformedRecord {
            what: "a row of what records took into account",
        });
    }
    Ok(taken)
}

/// Puts the row of this device's part in the agreement, where a step changed it.
pub(super) fn put_row(batch: &mut Batch, output: &Output) {
    if let Some(row) = &output.row {
        batch.put(Table::Meta, ROW_KEY, row.to_bytes());
    }
}

/// Returns the row of this device's part in the agreement.
pub(super) fn stored_row(rows: &dyn Rows) -> Result<Option<Row>, LogError> {
    let bytes = rows.get(Table::Meta, ROW_KEY)?;
    bytes.map(|bytes| Row::from_bytes(&bytes)).transpose()
}

/// Begins a row of this device, which joined or lost the one that it had.
pub(super) fn begin_row(
    rows: &dyn Rows,
    founding: Founding,
    own: DeviceId,
    seed: u64,
) -> Result<Row, LogError> {
    let own = Voter {
        device: own,
        incarnation: Rng::from_seed(seed).below(u64::MAX - 1) + 1,
    };
    let row = Row::new(own, Tip::of(&founding.record()?));
    let mut batch = Batch::new();
    batch.put(Table::Meta, ROW_KEY, row.to_bytes());
    rows.commit(batch)?;
    Ok(row)
}
