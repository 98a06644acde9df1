//! The bytes of every kind of op, and bodies that do not decode or are of a newer program.

use bytes::Bytes;

use super::*;
use crate::base::{ChunkId, DeviceId, Ino, LogId, OpId, Timespec, VolumeId, stored};
use crate::log::checkpoint::Tree;
use crate::volume::{
    Append, Create, FileKind, Kept, Piece, Place, Replaced, Source, Write, ino_of,
};
use crate::wire::RecordRef;

fn id() -> OpId {
    OpId {
        stamp: Stamp::from_ms(1_767_312_000_000),
        log: LogId(0x0102_0304_0506_0708),
    }
}

fn time() -> Timespec {
    Timespec {
        secs: 1_767_312_000,
        nanos: 5,
    }
}

fn place(name: &str) -> Place {
    Place {
        parent: Ino::ROOT,
        name: Bytes::copy_from_slice(name.as_bytes()),
    }
}

fn create(name: &str, kind: FileKind) -> Create {
    Create {
        at: place(name),
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        target: None,
        time: time(),
        xattrs: Vec::new(),
    }
}

fn write() -> Write {
    Write {
        ino: ino_of(id()),
        base: id(),
        size: 5,
        pieces: vec![Piece {
            offset: 0,
            len: 5,
            src: Some(Source::Inline(Bytes::from_static(b"hello"))),
        }],
        mtime: time(),
        ctime: time(),
        mode: None,
        empties: false,
    }
}

/// One file of each kind, so that who adds one is told here what it takes.
fn create_of(kind: FileKind) -> OpKind {
    let (name, rdev, target) = match kind {
        // A new kind changes the bytes of an op that is known: raise `BODY_VERSION`.
        FileKind::File => ("file", 0, None),
        FileKind::Dir => ("dir", 0, None),
        FileKind::Symlink => ("symlink", 0, Some(Bytes::from_static(b"hi.txt"))),
        FileKind::Fifo => ("fifo", 0, None),
        FileKind::Socket => ("socket", 0, None),
        FileKind::CharDev => ("chardev", 0x0103, None),
        FileKind::BlockDev => ("blockdev", 0x0800, None),
    };
    let xattr = (Bytes::from_static(b"user.a"), Bytes::from_static(b"1"));
    OpKind::Create(Create {
        rdev,
        target,
        xattrs: vec![xattr],
        ..create(name, kind)
    })
}

/// One piece of each source, so that who adds one is told here what it takes.
fn pieces() -> Vec<Piece> {
    let sources = [
        Some(Source::Chunk {
            id: ChunkId([7; 32]),
            skip: 300,
        }),
        Some(Source::Inline(Bytes::from_static(b"ab"))),
        None,
    ];
    let piece = |(src, offset)| {
        let len = match &src {
            // A new source changes the bytes of an op that is known: raise `BODY_VERSION`.
            Some(Source::Chunk { .. }) => 70_000,
            Some(Source::Inline(bytes)) => bytes.len() as u64,
            None => 1 << 40,
        };
        Piece { offset, len, src }
    };
    let offsets = [0, 70_000, 70_002];
    sources.into_iter().zip(offsets).map(piece).collect()
}

/// Ops of every kind, with everything that one may have.
fn every_kind() -> Vec<OpKind> {
    let ino = ino_of(id());
    let time = time();
    let name = Bytes::from_static(b"user.b");
    vec![
        OpKind::Format {
            uid: 1000,
            gid: 100,
            mode: 0o755,
            time,
        },
        OpKind::Device {
            name: "desk".to_owned(),
        },
        OpKind::Create(create("hi.txt", FileKind::File)),
        create_of(FileKind::File),
        create_of(FileKind::Dir),
        create_of(FileKind::Symlink),
        create_of(FileKind::Fifo),
        create_of(FileKind::Socket),
        create_of(FileKind::CharDev),
        create_of(FileKind::BlockDev),
        OpKind::Link {
            ino,
            to: place("again"),
            time,
        },
        OpKind::Unlink {
            from: place("again"),
            ino,
            saw: id(),
            time,
        },
        OpKind::Rmdir {
            from: place("dir"),
            ino,
            time,
        },
        OpKind::Rename {
            from: place(&"a".repeat(255)),
            to: place(&"b".repeat(255)),
            ino,
            replaced: Some(Replaced {
                ino: Ino(u64::MAX >> 1),
                saw: id(),
            }),
            exchange: true,
            time,
        },
        OpKind::SetAttr {
            ino,
            mode: Some(0o4755),
            uid: Some(70_000),
            gid: None,
            mtime: Some(time),
            ctime: time,
        },
        OpKind::Write(write()),
        OpKind::Write(Write {
            size: 1 << 41,
            pieces: pieces(),
            mode: Some(0o755),
            ..write()
        }),
        OpKind::Append(Append {
            ino,
            base: id(),
            len: 1 << 41,
            pieces: pieces(),
            mtime: time,
            ctime: time,
            mode: Some(0o755),
        }),
        OpKind::SetXattr {
            ino,
            name: name.clone(),
            value: Bytes::from(vec![9; 300]),
            time,
        },
        OpKind::RemoveXattr { ino, name, time },
        OpKind::Resolve { conflict: id() },
        OpKind::Snapshot(Kept {
            name: "a".repeat(255),
            time_ms: 1_700_000_000_000,
            tree: Tree {
                root: ChunkId([5; 32]),
                len: 300,
                level: 1,
            },
            nodes: 400,
            bytes: 1 << 40,
        }),
        OpKind::DropSnapshot { snapshot: id() },
    ]
}

#[test]
fn every_kind_of_op_has_the_bytes_that_it_always_had() {
    let names = variants::names::<OpKind>();
    let kinds = every_kind();
    let samples = kinds.iter().map(|kind| {
        let bytes = codec::encode(kind);
        (names[usize::from(bytes[0])], bytes)
    });
    let samples: Vec<(&str, Vec<u8>)> = samples.collect();
    let stored = stored::check("docs/ops.txt", names, &samples);
    for (kind, bytes) in kinds.iter().zip(stored) {
        let decoded: OpKind = codec::decode(&bytes, 4096).unwrap();
        assert_eq!(&decoded, kind);
    }
}

#[test]
fn the_shape_of_every_kind_bounds_its_bytes_and_moves_with_its_target() {
    for kind in every_kind() {
        assert!(kind.room() >= codec::encode(&kind).len(), "{kind:?}");
        let shape = kind.shape();
        let moved = kind.clone().with_target(Ino(77));
        assert_eq!(moved.shape().changes(), shape.changes().map(|_| Ino(77)));
        let has_content = kind.as_write().is_some() || kind.as_append().is_some();
        assert!(has_content || shape.chunks().next().is_none());
        let chunks = codec::encode(&kind).windows(32).any(|w| w == [7; 32]);
        assert_eq!(shape.chunks().next().is_some(), chunks, "{kind:?}");
        assert_eq!(kind.flaw(), None);
    }
}

/// The example of docs/format.md. Who changes what it shows changes the format.
#[test]
fn ops_are_encoded_as_documented() {
    let document = include_str!("../../../docs/format.md");
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let create = OpKind::Create(create("hi.txt", FileKind::File));
    put(&mut one, id().stamp, &create);
    put(&mut two, id().stamp.next(), &OpKind::Write(write()));
    for bytes in [whole(2, &[]), one, two] {
        let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for line in pairs.chunks(16) {
            let line = line.join(" ");
            assert!(document.contains(&line), "not in docs/format.md: {line}");
        }
    }
}

fn header(op_count: u32) -> SegmentHeader {
    SegmentHeader {
        volume: VolumeId([1; 32]),
        device: DeviceId(3),
        incarnation: 1,
        origin: 1,
        seg_no: 4,
        prev: [0; 32],
        record: RecordRef::default(),
        seen: Vec::new(),
        admission: None,
        first: Stamp(1),
        last: Stamp(op_count.into()),
        op_count,
        epoch: 0,
    }
}

/// Returns a body of these encoded ops, stamped from 1.
fn body(ops: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (op, stamp) in ops.iter().zip(1..) {
        codec::encode_into(&Stamp(stamp), &mut bytes);
        codec::encode_into(&(op.len() as u64), &mut bytes);
        bytes.extend_from_slice(op);
    }
    whole(ops.len(), &bytes)
}

fn outcome(ops: &[&[u8]]) -> Result<Vec<(Stamp, OpKind)>> {
    open(&body(ops), &header(ops.len() as u32))
}

#[test]
fn a_kind_that_is_not_known_is_told_from_what_is_no_op() {
    let known = codec::encode(&OpKind::Resolve { conflict: id() });
    let next = [15u8, 1, 2, 3];
    let far = [0xfb, 0x2c, 0x01];
    assert_eq!(outcome(&[&known, &known]).unwrap().len(), 2);
    for (newer, number) in [(&next[..], 15), (&far[..], 300)] {
        for ops in [[newer, &known[..]], [&known[..], newer]] {
            let Err(VolumeError::TooNew { found, known, .. }) = outcome(&ops) else {
                panic!("{ops:?}: {:?}", outcome(&ops));
            };
            assert_eq!((found, known), (number, 14));
        }
    }
    // A known kind with other fields, none at all, and a number that is cut.
    let mut longer = known.clone();
    longer.push(0);
    for garbage in [&longer[..], &known[..known.len() - 1], &[], &[0xfb, 0x2c]] {
        let refused = outcome(&[&known, garbage]);
        assert!(
            matches!(refused, Err(VolumeError::BadSegment { .. })),
            "{refused:?}"
        );
    }
    let mut newer = body(&[&known]);
    newer[0] = BODY_VERSION + 1;
    assert!(matches!(
        open(&newer, &header(1)),
        Err(VolumeError::TooNew {
            what: "version",
            ..
        })
    ));
}

#[test]
fn a_body_that_is_cut_or_does_not_fit_its_header_holds_nothing() {
    let known = codec::encode(&OpKind::Resolve { conflict: id() });
    let whole = body(&[&known, &known]);
    for cut in 0..whole.len() {
        let refused = open(&whole[..cut], &header(2));
        assert!(
            matches!(refused, Err(VolumeError::BadSegment { .. })),
            "{cut}: {refused:?}"
        );
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(open(&longer, &header(2)).is_err());
    assert!(open(&whole, &header(1)).is_err());
    let mut other = header(2);
    other.first = Stamp(0);
    assert!(open(&whole, &other).is_err());
}
