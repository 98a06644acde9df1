//! Random operations. Targets are indices that are taken modulo what exists, so that any
//! shortened sequence is still one.

use dfs::fs::RenameMode;
use proptest::prelude::*;
use proptest::sample::select;

/// An operation on both sides.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Create {
        dir: usize,
        name: usize,
        mode: u32,
        exclusive: bool,
        truncate: bool,
        append: bool,
    },
    Mknod {
        dir: usize,
        name: usize,
        kind: usize,
    },
    Mkdir {
        dir: usize,
        name: usize,
        mode: u32,
    },
    Symlink {
        dir: usize,
        name: usize,
        len: usize,
    },
    Link {
        node: usize,
        dir: usize,
        name: usize,
    },
    Unlink {
        dir: usize,
        name: usize,
    },
    Rmdir {
        dir: usize,
        name: usize,
    },
    Rename {
        from: (usize, usize),
        to: (usize, usize),
        mode: RenameMode,
    },
    Open {
        dir: usize,
        name: usize,
        truncate: bool,
        append: bool,
    },
    Close {
        handle: usize,
    },
    Write {
        handle: usize,
        at: u64,
        len: usize,
        byte: u8,
    },
    Truncate {
        node: usize,
        size: u64,
    },
    Ftruncate {
        handle: usize,
        size: u64,
    },
    Punch {
        handle: usize,
        at: u64,
        len: u64,
    },
    Zero {
        handle: usize,
        at: u64,
        len: u64,
        keep_size: bool,
    },
    Reserve {
        handle: usize,
        at: u64,
        len: u64,
        keep_size: bool,
    },
    Copy {
        from: usize,
        to: usize,
        at: u64,
        to_at: u64,
        len: u64,
    },
    Chmod {
        node: usize,
        mode: u32,
    },
    Chown {
        node: usize,
        uid: u32,
        gid: u32,
    },
    Utimes {
        node: usize,
        mtime: i64,
    },
    SetXattr {
        node: usize,
        name: usize,
        len: usize,
        mode: usize,
    },
    RemoveXattr {
        node: usize,
        name: usize,
    },
    Flush {
        handle: usize,
    },
    Fsync {
        handle: usize,
    },
    Tick,
    Seal,
    Remount,
}

/// Names that collide often, with one that is too long and one that is no UTF-8.
pub(super) fn name(index: usize) -> Vec<u8> {
    match index % 16 {
        0 => b"a".to_vec(),
        1 => b"A".to_vec(),
        2 => b"b.txt".to_vec(),
        3 => vec![0xff, 0xfe, b'x'],
        4 => vec![b'n'; 255],
        5 => b"...".to_vec(),
        6 => vec![b'l'; 256],
        index => format!("grün {}\n", index % 4).into_bytes(),
    }
}

/// Names of attributes, one of a namespace that nobody has.
pub(super) fn xattr_name(index: usize) -> Vec<u8> {
    match index % 5 {
        0 => b"user.a".to_vec(),
        1 => b"user.b".to_vec(),
        2 => b"trusted.c".to_vec(),
        3 => b"security.d".to_vec(),
        _ => b"strange.e".to_vec(),
    }
}

fn offset() -> impl Strategy<Value = u64> {
    let chunk = 1u64 << 20;
    select(vec![
        0,
        1,
        100,
        4096,
        8192,
        16_384,
        16_385,
        40_000,
        chunk - 5,
        chunk,
        chunk + 1,
        2 * chunk - 4096,
    ])
}

fn len() -> impl Strategy<Value = u64> {
    let chunk = 1u64 << 20;
    prop_oneof![
        8 => select(vec![1, 7, 100, 4096, 16_384, 16_385, 20_000]),
        1 => select(vec![chunk - 1, chunk, chunk + 9]),
    ]
}

/// Returns any operation.
pub(super) fn op() -> impl Strategy<Value = Op> {
    let index = 0usize..1000;
    let (dir, name, node, handle) = (index.clone(), index.clone(), index.clone(), index.clone());
    let mode = select(vec![0o644, 0o600, 0o755, 0o2755, 0o4711, 0o1777, 0o666]);
    let rename_mode = prop_oneof![
        4 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange),
    ];
    let place = (dir.clone(), name.clone());
    let making = prop_oneof![
        4 => (place.clone(), mode.clone(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |((dir, name), mode, exclusive, truncate, append)| Op::Create {
                dir, name, mode, exclusive, truncate, append
            }
        ),
        1 => (place.clone(), index.clone())
            .prop_map(|((dir, name), kind)| Op::Mknod { dir, name, kind }),
        2 => (place.clone(), mode.clone())
            .prop_map(|((dir, name), mode)| Op::Mkdir { dir, name, mode }),
        1 => (place.clone(), select(vec![0usize, 1, 200, 4095, 4096]))
            .prop_map(|((dir, name), len)| Op::Symlink { dir, name, len }),
        1 => (node.clone(), place.clone())
            .prop_map(|(node, (dir, name))| Op::Link { node, dir, name }),
    ];
    let names = prop_oneof![
        2 => place.clone().prop_map(|(dir, name)| Op::Unlink { dir, name }),
        1 => place.clone().prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        4 => (place.clone(), place.clone(), rename_mode)
            .prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
    ];
    let contents = prop_oneof![
        3 => (place, any::<bool>(), any::<bool>()).prop_map(|((dir, name), truncate, append)| {
            Op::Open { dir, name, truncate, append }
        }),
        1 => handle.clone().prop_map(|handle| Op::Close { handle }),
        8 => (handle.clone(), offset(), len(), 1u8..).prop_map(|(handle, at, len, byte)| {
            Op::Write { handle, at, len: len as usize, byte }
        }),
        2 => (node.clone(), offset()).prop_map(|(node, size)| Op::Truncate { node, size }),
        2 => (handle.clone(), offset()).prop_map(|(handle, size)| Op::Ftruncate { handle, size }),
        1 => (handle.clone(), offset(), len())
            .prop_map(|(handle, at, len)| Op::Punch { handle, at, len }),
        1 => (handle.clone(), offset(), len(), any::<bool>()).prop_map(
            |(handle, at, len, keep_size)| Op::Zero { handle, at, len, keep_size }
        ),
        1 => (handle.clone(), offset(), len(), any::<bool>()).prop_map(
            |(handle, at, len, keep_size)| Op::Reserve { handle, at, len, keep_size }
        ),
        2 => (handle.clone(), handle.clone(), offset(), offset(), len()).prop_map(
            |(from, to, at, to_at, len)| Op::Copy { from, to, at, to_at, len }
        ),
        1 => handle.clone().prop_map(|handle| Op::Flush { handle }),
        1 => handle.prop_map(|handle| Op::Fsync { handle }),
    ];
    let attributes = prop_oneof![
        (node.clone(), mode).prop_map(|(node, mode)| Op::Chmod { node, mode }),
        (node.clone(), 0u32..3, 0u32..3).prop_map(|(node, uid, gid)| Op::Chown { node, uid, gid }),
        (node.clone(), select(vec![-1i64, 0, 5_000_000_000]))
            .prop_map(|(node, mtime)| Op::Utimes { node, mtime }),
        (
            node.clone(),
            name.clone(),
            select(vec![0usize, 3, 5000]),
            index
        )
            .prop_map(|(node, name, len, mode)| Op::SetXattr {
                node,
                name,
                len,
                mode
            }),
        (node, name).prop_map(|(node, name)| Op::RemoveXattr { node, name }),
    ];
    prop_oneof![
        6 => making,
        3 => names,
        10 => contents,
        3 => attributes,
        1 => Just(Op::Tick),
        1 => Just(Op::Seal),
        1 => Just(Op::Remount),
    ]
}
