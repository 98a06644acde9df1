//! The bytes of every kind of row.

use crate::base::{ChunkId, DeviceId, LogId, Stamp, Timespec, stored, variants};
use crate::log::checkpoint::Tree;
use crate::volume::op::ino_of;
use crate::volume::progress::Progress;
use crate::volume::sight::Past;
use crate::volume::types::{Cells, ConflictKind, Field, FileKind, Kindred, Source, Twin};
use crate::wire::{RecordRef, Seen};

use super::*;

const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Dir,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::CharDev,
    FileKind::BlockDev,
];

const CONFLICTS: [ConflictKind; 12] = [
    ConflictKind::Name,
    ConflictKind::Content,
    ConflictKind::WriteAgainstUnlink,
    ConflictKind::DirRevived,
    ConflictKind::DirsMerged,
    ConflictKind::RmdirDropped,
    ConflictKind::CycleDropped,
    ConflictKind::ReplacedKept,
    ConflictKind::MovedTwice,
    ConflictKind::Joined,
    ConflictKind::UnlinkDropped,
    ConflictKind::LastName,
];

fn op(n: u64) -> OpId {
    OpId {
        stamp: Stamp::from_ms(n),
        log: LogId(0x0123_4567_89ab_cdef),
    }
}

fn place() -> Place {
    Place {
        parent: Ino(1),
        name: Bytes::from_static(b"hi.txt"),
    }
}

fn inode() -> Inode {
    let time = |secs| Timespec { secs, nanos: 7 };
    let mut cells = Cells::default();
    cells.set(Field::Mode, op(5));
    cells.set(Field::Mtime, op(6));
    let mut inode = Inode {
        ino: Ino(2),
        kind: FileKind::File,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        rdev: 0,
        size: 300,
        stored: 200,
        nlink: 1,
        entries: 0,
        xattrs: 3,
        mtime: time(-1),
        ctime: time(1_700_000_000),
        btime: time(0),
        target: Some(Bytes::from_static(b"to")),
        version: op(1),
        written_by: op(2),
        created_by: op(3),
        origin: Some(Ino(4)),
        home: Some(place()),
        joined: Some(op(7)),
        conflict: Some(op(8)),
        cells,
        kin: Default::default(),
    };
    *inode.kin = Kindred {
        made: vec![op(9)],
        twin: Some(Twin {
            of: Ino(5),
            by: op(10),
            same: (op(11), op(12)),
            seen: vec![op(13)],
        }),
        beside: vec![Ino(6)],
    };
    inode
}

/// A file of which there is nothing to say that is not so of nearly every one.
fn plain() -> Inode {
    let time = inode().ctime;
    Inode {
        gid: 1000,
        size: 0,
        stored: 0,
        xattrs: 0,
        mtime: time,
        btime: time,
        target: None,
        version: op(3),
        written_by: op(3),
        origin: None,
        joined: None,
        conflict: None,
        cells: Cells::default(),
        kin: Default::default(),
        ..inode()
    }
}

fn extent(src: Source) -> Value {
    Value::Extent(Extent {
        offset: 1 << 20,
        len: 4096,
        src,
    })
}

fn conflict(kind: ConflictKind) -> Value {
    Value::Conflict(Conflict {
        op: op(1),
        kind,
        ino: Ino(2),
        place: Some(place()),
        other: Some(Ino(3)),
        other_name: Some(Bytes::from_static(b"hi (conflict).txt")),
        device: DeviceId(4),
        resolved: true,
    })
}

/// Returns a row of each kind, and one for each variant of what is inside.
fn every_row() -> Vec<(RowKey, Value)> {
    let (hash, name) = (DirKey([9; 16]), Bytes::from_static(b"user.a"));
    let entry = |kind| {
        Value::Dirent(Dirent {
            name: place().name,
            // As that of what it made, for one of them.
            ino: match kind {
                FileKind::File => ino_of(op(1)),
                _ => Ino(2),
            },
            kind,
            by: op(1),
        })
    };
    let xattr = Xattr {
        name,
        value: Bytes::from_static(b"1"),
        by: op(1),
    };
    let chunk = Source::Chunk {
        id: ChunkId([7; 32]),
        skip: 3,
    };
    let inline = Source::Inline(Bytes::from_static(b"words"));
    let (other, plain) = (Value::Inode(inode()), Value::Inode(plain()));
    let mut rows = vec![(RowKey::Inode(Ino(2)), other)];
    rows.push((RowKey::Inode(Ino(2)), plain));
    rows.extend(KINDS.map(|kind| (RowKey::Dirent(Ino(1), hash), entry(kind))));
    rows.extend([inline, chunk].map(|src| (RowKey::Extent(Ino(2), 1 << 20), extent(src))));
    rows.push((RowKey::Xattr(Ino(2), hash), Value::Xattr(xattr)));
    rows.push((RowKey::Link(Ino(2), Ino(1), hash), Value::Link(place())));
    let (by, had) = (op(1), op(2));
    rows.push((RowKey::Orphan(Ino(2)), Value::Orphan(Removed { by, had })));
    rows.push((RowKey::Alias(Ino(2)), Value::Alias(Ino(3))));
    let forks = [Fork::File(Ino(3)), Fork::Same(op(2)), Fork::Joined];
    rows.extend(forks.map(|fork| (RowKey::Fork(Ino(2), op(1)), Value::Fork(fork))));
    rows.extend(CONFLICTS.map(|kind| (RowKey::Conflict(op(1)), conflict(kind))));
    rows.push((
        RowKey::Device(DeviceId(4)),
        Value::Device("desk".to_owned()),
    ));
    let mtime = inode().mtime;
    rows.push((RowKey::Dated(Ino(2)), Value::Dated(Dated { mtime, by })));
    let kept = Kept {
        name: "before".to_owned(),
        time_ms: 1_700_000_000_000,
        tree: Tree {
            root: ChunkId([5; 32]),
            len: 300,
            level: 1,
        },
        nodes: 400,
        bytes: 1 << 40,
    };
    rows.push((RowKey::Snapshot(op(1)), Value::Snapshot(kept)));
    rows
}

#[test]
fn every_kind_of_row_has_the_bytes_that_it_always_had() {
    assert_eq!(KINDS.len() as u32, variants::count::<FileKind>());
    assert_eq!(CONFLICTS.len() as u32, variants::count::<ConflictKind>());
    assert_eq!(2, variants::count::<Source>(), "see every_row");
    assert_eq!(3, variants::count::<Fork>(), "see every_row");
    let names = variants::names::<RowKey>();
    let rows = every_row();
    let mut samples = Vec::new();
    for (key, value) in &rows {
        let name = names[usize::from(codec::encode(key)[0])];
        // The key in its table, how long that is, and the value.
        let mut bytes = key.bytes().as_ref().to_vec();
        bytes.insert(0, bytes.len() as u8);
        bytes.extend_from_slice(&Stored::encode(value.clone()).bytes);
        samples.push((name, bytes));
    }
    let progress = Progress {
        seg_no: 300,
        hash: [1; 32],
        stamp: Stamp::from_ms(2),
        named: 299,
    };
    let past = Past {
        record: RecordRef {
            era: 1,
            number: 300,
            hash: [2; 32],
        },
        seen: vec![Seen {
            log: LogId(3),
            seg_no: 4,
            hash: [5; 32],
            last: Stamp::from_ms(6),
        }],
    };
    samples.push(("progress", codec::encode(&progress)));
    samples.push(("past", codec::encode(&past)));
    let stored = stored::check("docs/rows.txt", names, &samples);
    for ((key, value), bytes) in rows.iter().zip(stored) {
        let (key_bytes, value_bytes) = bytes[1..].split_at(bytes[0].into());
        assert_eq!(RowKey::parse(key, key_bytes).unwrap(), *key);
        let row = Stored::decode(key, value_bytes.to_vec().into()).unwrap();
        assert_eq!(row.value, *value);
    }
}
