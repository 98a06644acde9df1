//! The bytes of the rows that every file has: its inode and its entry.
//!
//! Most of what such a row can say is the same for nearly all files, or follows from something else that it
//! says; only what does not is written, and first which parts those are. Ops are named by how much later
//! they are than the one that made the node, where they are of the same log. docs/format.md has the layout.

use bytes::Bytes;

use super::{Cells, Dirent, FileKind, Inode, Kin, Place};
use crate::base::{Ino, LogId, OpId, Stamp, Timespec};
use crate::store::codec;
use crate::volume::op::ino_of;
use crate::volume::{Result, VolumeError};

/// A part that an inode's row has only where it is not as usual.
///
/// Those of most rows come first, so that a byte says which there are.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Part {
    /// Else 0.
    Size = 1,
    /// Else as mtime.
    Birth = 1 << 1,
    /// Else the op that made it, of its content.
    Version = 1 << 2,
    /// Else a file.
    Kind = 1 << 3,
    /// Links and entries; else those of a file with one name, or of an empty directory.
    Counts = 1 << 4,
    /// Else as the owner.
    Group = 1 << 5,
    /// Else as mtime.
    Change = 1 << 6,
    /// Else nobody has set its attributes.
    Cells = 1 << 7,
    /// Else as the size.
    Stored = 1 << 8,
    /// Else the op that names the content.
    Written = 1 << 9,
    /// Else 0.
    Device = 1 << 10,
    /// Else there are none.
    Xattrs = 1 << 11,
    /// Else it has one.
    Homeless = 1 << 12,
    /// What few have.
    Rest = 1 << 13,
}

/// All [`Part`]s.
const PARTS: u16 = (1 << 14) - 1;

/// The bytes of a row as they are made.
struct Writer {
    parts: u16,
    bytes: Vec<u8>,
}

impl Writer {
    /// Appends a part where `is_there`.
    fn part(&mut self, part: Part, is_there: bool, put: impl FnOnce(&mut Vec<u8>)) {
        if is_there {
            self.parts |= part as u16;
            put(&mut self.bytes);
        }
    }
}

/// Longer than most rows.
const ROOM_BYTES: usize = 128;

impl Inode {
    /// Returns the bytes of its row, whose key says its number.
    pub fn to_row(&self) -> Vec<u8> {
        let (made, mtime) = (self.created_by, self.mtime);
        let mut row = Writer {
            parts: 0,
            bytes: Vec::with_capacity(ROOM_BYTES),
        };
        codec::encode_into(&(self.mode, self.uid, mtime), &mut row.bytes);
        put_op(&mut row.bytes, made, OpId::default());
        row.part(Part::Homeless, self.home.is_none(), |_| {});
        if let Some(home) = &self.home {
            row.bytes.extend_from_slice(&home.parent.0.to_be_bytes());
            codec::encode_into(&home.name, &mut row.bytes);
        }
        row.part(Part::Kind, self.kind != FileKind::File, |bytes| {
            codec::encode_into(&self.kind, bytes);
        });
        row.part(Part::Size, self.size != 0, |bytes| {
            codec::encode_into(&self.size, bytes);
        });
        row.part(Part::Stored, self.stored != self.size, |bytes| {
            codec::encode_into(&self.stored, bytes);
        });
        row.part(Part::Birth, self.btime != mtime, |bytes| {
            put_time(bytes, self.btime, mtime);
        });
        row.part(Part::Change, self.ctime != mtime, |bytes| {
            put_time(bytes, self.ctime, mtime);
        });
        row.part(Part::Version, self.version != made, |bytes| {
            put_op(bytes, self.version, made);
        });
        row.part(Part::Written, self.written_by != self.version, |bytes| {
            put_op(bytes, self.written_by, made);
        });
        let counts = (self.nlink, self.entries);
        row.part(Part::Counts, counts != usual_counts(self.kind), |bytes| {
            codec::encode_into(&counts, bytes);
        });
        row.part(Part::Group, self.gid != self.uid, |bytes| {
            codec::encode_into(&self.gid, bytes);
        });
        row.part(Part::Device, self.rdev != 0, |bytes| {
            codec::encode_into(&self.rdev, bytes);
        });
        row.part(Part::Xattrs, self.xattrs != 0, |bytes| {
            codec::encode_into(&self.xattrs, bytes);
        });
        let Cells(cells) = &self.cells;
        row.part(Part::Cells, !cells.is_empty(), |bytes| {
            codec::encode_into(&cells.len(), bytes);
            for (fields, by) in cells {
                bytes.push(*fields);
                put_op(bytes, *by, made);
            }
        });
        let rest = self.rest();
        row.part(Part::Rest, rest != Default::default(), |bytes| {
            codec::encode_into(&rest, bytes);
        });
        let mut bytes = Vec::with_capacity(row.bytes.len() + 3);
        codec::encode_into(&row.parts, &mut bytes);
        bytes.extend_from_slice(&row.bytes);
        bytes
    }

    fn rest(&self) -> Rest {
        let Kin(kin) = &self.kin;
        let kin = Kin(kin.clone());
        (
            self.target.clone(),
            self.origin,
            self.joined,
            self.conflict,
            kin,
        )
    }

    /// Reads the row of the inode with a number.
    pub fn of_row(ino: Ino, row: &[u8]) -> Result<Self> {
        let mut bytes = row;
        let parts: u16 = take(&mut bytes)?;
        if parts & !PARTS != 0 {
            return Err(CORRUPT);
        }
        let has = |part: Part| parts & part as u16 != 0;
        let (mode, uid, mtime): (u32, u32, Timespec) = take(&mut bytes)?;
        let made = take_op(&mut bytes, OpId::default())?;
        let home = match has(Part::Homeless) {
            true => None,
            false => Some(Place {
                parent: Ino(take_u64(&mut bytes)?),
                name: take(&mut bytes)?,
            }),
        };
        let kind = take_where(has(Part::Kind), &mut bytes, FileKind::File)?;
        let size = take_where(has(Part::Size), &mut bytes, 0)?;
        let stored = take_where(has(Part::Stored), &mut bytes, size)?;
        let btime = take_time(has(Part::Birth), &mut bytes, mtime)?;
        let ctime = take_time(has(Part::Change), &mut bytes, mtime)?;
        let version = match has(Part::Version) {
            true => take_op(&mut bytes, made)?,
            false => made,
        };
        let written_by = match has(Part::Written) {
            true => take_op(&mut bytes, made)?,
            false => version,
        };
        let counts = take_where(has(Part::Counts), &mut bytes, usual_counts(kind))?;
        let gid = take_where(has(Part::Group), &mut bytes, uid)?;
        let rdev = take_where(has(Part::Device), &mut bytes, 0)?;
        let xattrs = take_where(has(Part::Xattrs), &mut bytes, 0)?;
        let mut cells = Cells::default();
        if has(Part::Cells) {
            for _ in 0..take::<usize>(&mut bytes)? {
                let (fields, rest) = bytes.split_first().ok_or(CORRUPT)?;
                bytes = rest;
                cells.0.push((*fields, take_op(&mut bytes, made)?));
            }
        }
        let (target, origin, joined, conflict, kin): Rest = match has(Part::Rest) {
            true => codec::decode(bytes, row.len())?,
            false if bytes.is_empty() => Default::default(),
            false => return Err(CORRUPT),
        };
        Ok(Self {
            ino,
            kind,
            mode,
            uid,
            gid,
            rdev,
            size,
            stored,
            nlink: counts.0,
            entries: counts.1,
            xattrs,
            mtime,
            ctime,
            btime,
            target,
            version,
            written_by,
            created_by: made,
            origin,
            home,
            joined,
            conflict,
            cells,
            kin,
        })
    }
}

/// Target, origin, joined, conflict and kin.
type Rest = (Option<Bytes>, Option<Ino>, Option<OpId>, Option<OpId>, Kin);

fn usual_counts(kind: FileKind) -> (u32, u64) {
    match kind {
        FileKind::Dir => (2, 0),
        _ => (1, 0),
    }
}

impl Dirent {
    /// Returns the bytes of its row: kind, op, where that did not make the node its number, name.
    pub fn to_row(&self) -> Vec<u8> {
        let is_made = self.ino == ino_of(self.by);
        let mut bytes = Vec::with_capacity(self.name.len() + ENTRY_BYTES);
        bytes.push(self.kind as u8 | if is_made { 0 } else { NUMBERED });
        bytes.extend_from_slice(&self.by.to_key());
        if !is_made {
            bytes.extend_from_slice(&self.ino.0.to_be_bytes());
        }
        bytes.extend_from_slice(&self.name);
        bytes
    }

    /// Reads a row that [`Dirent::to_row`] made.
    pub fn of_row(row: &[u8]) -> Result<Self> {
        let (first, mut rest) = row.split_first().ok_or(CORRUPT)?;
        let kind = codec::decode(&[first & !NUMBERED], 1)?;
        let (by, tail) = rest
            .split_first_chunk::<{ OpId::KEY_BYTES }>()
            .ok_or(CORRUPT)?;
        rest = tail;
        let by = OpId::from_key(by).ok_or(CORRUPT)?;
        let ino = match first & NUMBERED {
            0 => ino_of(by),
            _ => Ino(take_u64(&mut rest)?),
        };
        Ok(Self {
            name: Bytes::copy_from_slice(rest),
            ino,
            kind,
            by,
        })
    }
}

/// What an entry takes beside the name, at most.
const ENTRY_BYTES: usize = 1 + OpId::KEY_BYTES + 8;

/// Set in the first byte of an entry that has the number of its node.
const NUMBERED: u8 = 0x80;

/// Appends an op: by how much it is later than `near`, doubled, where it is of the same log; else 1, and
/// stamp and log.
fn put_op(bytes: &mut Vec<u8>, op: OpId, near: OpId) {
    let later = op.stamp.0.checked_sub(near.stamp.0);
    let later = later.filter(|_| op.log == near.log);
    match later.and_then(|later| later.checked_mul(2)) {
        Some(later) => codec::encode_into(&later, bytes),
        None => {
            bytes.push(1);
            bytes.extend_from_slice(&op.to_key());
        }
    }
}

fn take_op(bytes: &mut &[u8], near: OpId) -> Result<OpId> {
    match take::<u64>(bytes)? {
        1 => Ok(OpId {
            stamp: Stamp(take_u64(bytes)?),
            log: LogId(take_u64(bytes)?),
        }),
        later if later % 2 == 0 => Ok(OpId {
            stamp: Stamp(near.stamp.0.checked_add(later / 2).ok_or(CORRUPT)?),
            log: near.log,
        }),
        _ => Err(CORRUPT),
    }
}

/// Appends a time: by how many seconds it is later than `near`, and its nanoseconds.
fn put_time(bytes: &mut Vec<u8>, time: Timespec, near: Timespec) {
    codec::encode_into(&(time.secs.wrapping_sub(near.secs), time.nanos), bytes);
}

fn take_time(is_there: bool, bytes: &mut &[u8], near: Timespec) -> Result<Timespec> {
    if !is_there {
        return Ok(near);
    }
    let (later, nanos): (i64, u32) = take(bytes)?;
    let secs = near.secs.wrapping_add(later);
    Ok(Timespec { secs, nanos })
}

fn take<T: serde::de::DeserializeOwned>(bytes: &mut &[u8]) -> Result<T> {
    codec::take(bytes).ok_or(CORRUPT)
}

fn take_where<T: serde::de::DeserializeOwned>(
    is_there: bool,
    bytes: &mut &[u8],
    usual: T,
) -> Result<T> {
    match is_there {
        true => take(bytes),
        false => Ok(usual),
    }
}

fn take_u64(bytes: &mut &[u8]) -> Result<u64> {
    let (number, rest) = bytes.split_first_chunk().ok_or(CORRUPT)?;
    *bytes = rest;
    Ok(u64::from_be_bytes(*number))
}

const CORRUPT: VolumeError = VolumeError::Corrupt {
    what: "a row of an inode or an entry",
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::volume::types::{Field, Kindred};

    fn op(ms: u64, log: u64) -> OpId {
        OpId {
            stamp: Stamp::from_ms(1_800_000_000_000 + ms),
            log: LogId(log),
        }
    }

    /// Random, and of the length that random numbers have.
    const LOG: u64 = 0xfedc_ba98_7654_3210;

    /// An empty file of a user, as it was made, and its entry.
    fn made(name: &'static [u8]) -> (Inode, Dirent) {
        let by = op(0, LOG);
        let time = Timespec {
            secs: 1_800_000_000,
            nanos: 123_456_789,
        };
        let inode = Inode {
            ino: ino_of(by),
            kind: FileKind::File,
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            rdev: 0,
            size: 0,
            stored: 0,
            nlink: 1,
            entries: 0,
            xattrs: 0,
            mtime: time,
            ctime: time,
            btime: time,
            target: None,
            version: by,
            written_by: by,
            created_by: by,
            origin: None,
            home: Some(Place {
                parent: ino_of(op(1, LOG)),
                name: Bytes::from_static(name),
            }),
            joined: None,
            conflict: None,
            cells: Cells::default(),
            kin: Kin::default(),
        };
        let dirent = Dirent {
            name: Bytes::from_static(name),
            ino: inode.ino,
            kind: inode.kind,
            by,
        };
        (inode, dirent)
    }

    #[test]
    fn the_rows_of_a_file_say_no_more_than_they_must() {
        let (inode, dirent) = made(b"file0012345");
        assert_eq!(inode.to_row().len(), 54);
        assert_eq!(dirent.to_row().len(), 28);
        // Written some milliseconds later, and dated by who unpacked it.
        let mut written = inode;
        (written.size, written.stored) = (1000, 1000);
        written.version = op(5, LOG);
        written.written_by = written.version;
        written.mtime.nanos += 5_000_000;
        written.ctime = written.mtime;
        assert_eq!(written.to_row().len(), 68);
        written.cells.set(Field::Mtime, op(6, LOG));
        written.mtime = Timespec {
            secs: 1_500_000_000,
            nanos: 0,
        };
        assert!(written.to_row().len() <= 88, "{}", written.to_row().len());
        assert_eq!(dirent, Dirent::of_row(&dirent.to_row()).unwrap());
    }

    #[test]
    fn every_inode_comes_back_as_it_was_and_damage_is_refused() {
        let rng = Rng::from_seed(7);
        for round in 0..1000 {
            let (mut inode, mut dirent) = made(b"name");
            let byte = |most: u64| rng.below(most);
            let any_op = || match byte(4) {
                0 => op(byte(9), LOG),
                1 => op(byte(9), 7),
                2 => OpId::default(),
                _ => OpId {
                    stamp: Stamp(u64::MAX - byte(3)),
                    log: LogId(LOG),
                },
            };
            let any_time = || match byte(3) {
                0 => Timespec::default(),
                1 => inode.mtime,
                _ => Timespec {
                    secs: if byte(2) == 0 { i64::MIN } else { i64::MAX },
                    nanos: 999_999_999,
                },
            };
            let is_usual = |_: u8| byte(3) > 0;
            let (mtime, ctime, btime) = (any_time(), any_time(), any_time());
            (inode.mtime, inode.ctime, inode.btime) = (mtime, ctime, btime);
            (inode.version, inode.written_by) = (any_op(), any_op());
            inode.created_by = any_op();
            inode.kind = [FileKind::File, FileKind::Dir, FileKind::BlockDev][byte(3) as usize];
            inode.size = byte(3) * 70_000;
            inode.stored = byte(3) * 70_000;
            inode.nlink = byte(4) as u32;
            inode.entries = byte(2) * 1000;
            inode.gid = byte(2) as u32 * 1000;
            inode.rdev = byte(2) * u64::MAX;
            inode.xattrs = byte(2) as u32;
            if !is_usual(0) {
                inode.home = None;
            }
            if !is_usual(1) {
                inode.target = Some(Bytes::from(vec![b'x'; 4095]));
            }
            if !is_usual(2) {
                inode.origin = Some(Ino(u64::MAX));
                inode.joined = Some(any_op());
                inode.conflict = Some(any_op());
            }
            if !is_usual(3) {
                *inode.kin = Kindred {
                    made: (0..200).map(|_| any_op()).collect(),
                    ..Kindred::default()
                };
            }
            for field in [Field::Mode, Field::Uid, Field::Gid, Field::Mtime] {
                if !is_usual(4) {
                    inode.cells.set(field, any_op());
                }
            }
            let row = inode.to_row();
            assert_eq!(Inode::of_row(inode.ino, &row).unwrap(), inode, "{round}");
            for cut in 0..row.len().min(200) {
                assert!(Inode::of_row(inode.ino, &row[..cut]).is_err());
            }
            let longer = [&*row, &[0]].concat();
            assert!(Inode::of_row(inode.ino, &longer).is_err());

            dirent.by = any_op();
            dirent.kind = inode.kind;
            let row = dirent.to_row();
            assert_eq!(Dirent::of_row(&row).unwrap(), dirent, "{round}");
            assert!(Dirent::of_row(&row[..ENTRY_BYTES - 9]).is_err());
        }
        assert!(Inode::of_row(Ino(1), &[0xfb, 0xff, 0xff]).is_err());
        assert!(Dirent::of_row(&[7; 30]).is_err());
    }
}
