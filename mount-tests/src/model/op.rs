//! Random operations. Targets are indices that are taken modulo what exists, so that any shortened
//! sequence is still one.

use super::executor::{Allocate, Renaming, SetTime, XattrSet};

/// A place in the tree: which directory, which name.
pub type Where = (usize, usize);

/// An operation on both sides.
#[expect(
    missing_docs,
    reason = "the fields are the arguments of the system calls"
)]
#[derive(Debug, Clone)]
pub enum Op {
    /// open(2) with `O_CREAT`.
    Create {
        at: Where,
        mode: u32,
        exclusive: bool,
        truncate: bool,
        append: bool,
    },
    /// mknod(2).
    Mknod { at: Where, kind: usize },
    /// mkdir(2).
    Mkdir { at: Where, mode: u32 },
    /// symlink(2).
    Symlink { at: Where, len: usize },
    /// link(2).
    Link { node: usize, at: Where },
    /// unlink(2).
    Unlink { at: Where },
    /// rmdir(2).
    Rmdir { at: Where },
    /// renameat2(2).
    Rename {
        from: Where,
        to: Where,
        how: Renaming,
    },
    /// open(2).
    Open {
        at: Where,
        truncate: bool,
        append: bool,
    },
    /// close(2).
    Close { file: usize },
    /// pwrite(2).
    Write {
        file: usize,
        at: u64,
        len: u64,
        byte: u8,
        durable: bool,
    },
    /// truncate(2).
    Truncate { node: usize, size: u64 },
    /// ftruncate(2).
    Ftruncate { file: usize, size: u64 },
    /// fallocate(2).
    Allocate {
        file: usize,
        at: u64,
        len: u64,
        how: Allocate,
    },
    /// copy_file_range(2).
    Copy {
        from: usize,
        to: usize,
        at: u64,
        to_at: u64,
        len: u64,
    },
    /// chmod(2).
    Chmod { node: usize, mode: u32 },
    /// lchown(2).
    Chown {
        node: usize,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    /// utimensat(2).
    Utimes {
        node: usize,
        atime: SetTime,
        mtime: SetTime,
    },
    /// lsetxattr(2).
    SetXattr {
        node: usize,
        name: usize,
        len: usize,
        how: XattrSet,
    },
    /// lremovexattr(2).
    RemoveXattr { node: usize, name: usize },
    /// setfacl(1).
    SetAcl {
        node: usize,
        default: bool,
        list: usize,
    },
    /// setfacl(1) with `-b` or `-k`.
    RemoveAcl { node: usize, default: bool },
    /// setfsuid(2) to a user without privileges, or back to root: who changes contents from now on.
    Become { user: bool },
    /// close(2) of a duplicate.
    Flush { file: usize },
    /// fsync(2) or fdatasync(2).
    Fsync { file: usize, data_only: bool },
    /// fsync(2) of a directory.
    FsyncDir { dir: usize },
    /// Everything.
    Sync,
    /// Begins to list a directory.
    ListStart { dir: usize },
    /// Goes on with it.
    ListSome,
    /// Lets old changes go to the journal.
    Tick,
    /// Seals what was changed for the others.
    Publish,
    /// Ends and begins again.
    Remount,
    /// SIGKILL.
    Kill,
    /// The plug is pulled.
    CutPower,
}

/// Which ends of the filesystem, and changes of the user, are among the operations, in thousandths.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends {
    /// [`Op::Remount`].
    pub remounts: u64,
    /// [`Op::Kill`].
    pub kills: u64,
    /// [`Op::CutPower`].
    pub power_cuts: u64,
    /// [`Op::Become`].
    pub users: u64,
}

/// The source of chance: SplitMix64, the same on every machine.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Returns the dice of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Returns a number below `limit`, 0 where that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.any().checked_rem(limit).unwrap_or(0)
    }

    /// Returns one of some values.
    ///
    /// # Panics
    ///
    /// Where there is none.
    pub fn one_of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.index() % values.len()].clone()
    }

    /// Returns an index to be taken modulo something.
    pub fn index(&mut self) -> usize {
        (self.any() >> 40) as usize
    }

    fn flip(&mut self) -> bool {
        self.any() & 1 == 1
    }
}

/// Returns the operations of a seed.
pub fn random_ops(seed: u64, count: usize, ends: Ends) -> Vec<Op> {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| random_op(&mut dice, ends)).collect()
}

fn random_op(dice: &mut Dice, ends: Ends) -> Op {
    let end = dice.below(1000);
    if end < ends.remounts {
        return Op::Remount;
    }
    if end < ends.remounts + ends.kills {
        return Op::Kill;
    }
    if end < ends.remounts + ends.kills + ends.power_cuts {
        return Op::CutPower;
    }
    if end < ends.remounts + ends.kills + ends.power_cuts + ends.users {
        return Op::Become { user: dice.flip() };
    }
    match dice.below(26) {
        0..6 => making(dice),
        6..9 => naming(dice),
        9..19 => contents(dice),
        19..23 => attributes(dice),
        23 => syncing(dice),
        24 => match dice.below(3) {
            0 => Op::ListStart { dir: dice.index() },
            _ => Op::ListSome,
        },
        _ => dice.one_of(&[Op::Tick, Op::Publish]),
    }
}

const MODES: [u32; 7] = [0o644, 0o600, 0o755, 0o2755, 0o4711, 0o1777, 0o666];

fn place(dice: &mut Dice) -> Where {
    (dice.index(), dice.index())
}

fn making(dice: &mut Dice) -> Op {
    let at = place(dice);
    let mode = dice.one_of(&MODES);
    match dice.below(9) {
        0..4 => Op::Create {
            at,
            mode,
            exclusive: dice.flip(),
            truncate: dice.flip(),
            append: dice.flip(),
        },
        4 => Op::Mknod {
            at,
            kind: dice.index(),
        },
        5 | 6 => Op::Mkdir { at, mode },
        7 => Op::Symlink {
            at,
            len: dice.one_of(&[0, 1, 200, 4095, 4096]),
        },
        _ => Op::Link {
            node: dice.index(),
            at,
        },
    }
}

fn naming(dice: &mut Dice) -> Op {
    match dice.below(7) {
        0 | 1 => Op::Unlink { at: place(dice) },
        2 => Op::Rmdir { at: place(dice) },
        _ => Op::Rename {
            from: place(dice),
            to: place(dice),
            how: match dice.below(8) {
                0..4 => Renaming::Replace,
                4 => Renaming::NoReplace,
                5 => Renaming::Whiteout,
                _ => Renaming::Exchange,
            },
        },
    }
}

fn contents(dice: &mut Dice) -> Op {
    let file = dice.index();
    let (at, len) = (offset(dice), len(dice));
    match dice.below(23) {
        0..3 => Op::Open {
            at: place(dice),
            truncate: dice.flip(),
            append: dice.flip(),
        },
        3..5 => Op::Close { file },
        5..13 => Op::Write {
            file,
            at,
            len,
            byte: 1 + dice.below(255) as u8,
            durable: dice.below(6) == 0,
        },
        13 | 14 => Op::Truncate {
            node: dice.index(),
            size: at,
        },
        15 | 16 => Op::Ftruncate { file, size: at },
        17..20 => Op::Allocate {
            file,
            at,
            len,
            how: match dice.below(3) {
                0 => Allocate::Punch,
                1 => Allocate::Zero(dice.flip()),
                _ => Allocate::Reserve(dice.flip()),
            },
        },
        20 | 21 => Op::Copy {
            from: file,
            to: dice.index(),
            at,
            to_at: offset(dice),
            len,
        },
        _ => Op::Flush { file },
    }
}

fn attributes(dice: &mut Dice) -> Op {
    let node = dice.index();
    match dice.below(8) {
        0 | 1 => Op::Chmod {
            node,
            mode: dice.one_of(&MODES),
        },
        2 => Op::Chown {
            node,
            uid: dice.one_of(&[None, Some(0), Some(1), Some(1000)]),
            gid: dice.one_of(&[None, Some(0), Some(2), Some(1000)]),
        },
        3 => Op::Utimes {
            node,
            atime: time(dice),
            mtime: time(dice),
        },
        4 | 5 => Op::SetXattr {
            node,
            name: dice.index(),
            len: dice.one_of(&[0, 3, 5000]),
            how: dice.one_of(&[XattrSet::Either, XattrSet::Create, XattrSet::Replace]),
        },
        6 => Op::RemoveXattr {
            node,
            name: dice.index(),
        },
        _ if dice.below(3) == 0 => Op::RemoveAcl {
            node,
            default: dice.flip(),
        },
        _ => Op::SetAcl {
            node,
            default: dice.flip(),
            list: dice.index(),
        },
    }
}

fn syncing(dice: &mut Dice) -> Op {
    match dice.below(4) {
        0 | 1 => Op::Fsync {
            file: dice.index(),
            data_only: dice.flip(),
        },
        2 => Op::FsyncDir { dir: dice.index() },
        _ => Op::Sync,
    }
}

fn time(dice: &mut Dice) -> SetTime {
    const SECOND: i128 = 1_000_000_000;
    dice.one_of(&[
        SetTime::Omit,
        SetTime::Now,
        SetTime::At(-SECOND + 7),
        SetTime::At(0),
        SetTime::At(5_000_000_000 * SECOND + 999_999_999),
    ])
}

fn offset(dice: &mut Dice) -> u64 {
    const CHUNK: u64 = 1 << 20;
    dice.one_of(&[
        0,
        1,
        100,
        4096,
        8192,
        16_384,
        16_385,
        40_000,
        CHUNK - 5,
        CHUNK,
        CHUNK + 1,
        2 * CHUNK - 4096,
    ])
}

fn len(dice: &mut Dice) -> u64 {
    const CHUNK: u64 = 1 << 20;
    match dice.below(9) {
        0 => dice.one_of(&[CHUNK - 1, CHUNK, CHUNK + 9]),
        _ => dice.one_of(&[1, 7, 100, 4096, 16_384, 16_385, 20_000]),
    }
}

/// Names that collide often, with one that is too long and one that is no UTF-8.
pub fn name(index: usize) -> Vec<u8> {
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
pub fn xattr_name(index: usize) -> Vec<u8> {
    match index % 5 {
        0 => b"user.a".to_vec(),
        1 => b"user.b".to_vec(),
        2 => b"trusted.c".to_vec(),
        3 => b"security.d".to_vec(),
        _ => b"strange.e".to_vec(),
    }
}
