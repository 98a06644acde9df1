//! What befalls a cluster, by chance: each seed has its own kinds of trouble.

use std::time::Duration;

use dfs::base::Rng;

/// The kinds of trouble of one seed.
#[derive(Debug, Clone)]
pub(crate) struct Climate {
    /// Messages and replies get lost, are slow, overtake each other and come twice.
    pub(crate) losses: bool,
    /// Paths are cut, both ways or one.
    pub(crate) cuts: bool,
    /// Machines lose power in the middle of a write.
    pub(crate) power: bool,
    /// Peers are killed, or end in order.
    pub(crate) ends: bool,
    /// Disks fill up and have room again, chunks rot, and a row.
    pub(crate) disks: bool,
    /// Clocks jump, and one was a year ahead while the volume was founded.
    pub(crate) clocks: bool,
    /// Members come, and some are interrupted when they do.
    pub(crate) joins: bool,
    /// Members are removed.
    pub(crate) removals: bool,
    /// A folder is put back.
    pub(crate) copies: bool,
    /// Many files are made at once, now and then.
    pub(crate) masses: bool,
    /// Scenes are played.
    pub(crate) scenes: bool,
    /// Time passes in which no program does anything.
    pub(crate) pauses: bool,
    /// The founder goes for good.
    pub(crate) eras: bool,
}

impl Climate {
    /// Returns the climate of a seed: about half of the kinds, as what all of them hide is seen where few
    /// are.
    pub(crate) fn of(rng: &Rng) -> Self {
        let one_in = |count| rng.below(count) == 0;
        Self {
            losses: one_in(2),
            cuts: !one_in(4),
            power: !one_in(3),
            ends: one_in(2),
            disks: one_in(3),
            clocks: one_in(3),
            joins: one_in(3),
            removals: one_in(4),
            copies: one_in(4),
            masses: one_in(12),
            scenes: !one_in(4),
            pauses: one_in(2),
            eras: one_in(6),
        }
    }
}

/// What interrupts a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    Not,
    /// The power of who joins goes behind so many writes.
    Power {
        writes: u64,
    },
    /// Who joins is killed when it has run for so long.
    Kill {
        after_ms: u64,
    },
    /// The power of who invites goes behind so many writes.
    Invited {
        writes: u64,
    },
    /// The network loses most of it.
    Lost,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Lossy {
        permille: u32,
        repeated: u32,
        doubled: u32,
        delay_ms: u64,
    },
    Cut,
    CutOneWay,
    Heal,
    PowerCut {
        writes: u64,
    },
    Kill,
    Stop,
    Start,
    Full,
    Room,
    Rot,
    Clock {
        ahead: Duration,
    },
    Join(Interrupted),
    Remove,
    Collect,
    Copy,
    PutBack,
    Unpack {
        writes: u64,
    },
    Pass {
        secs: u64,
    },
    Scene,
    Era,
    Storm,
}

const HOUR: u64 = 3_600;

impl Climate {
    /// Returns what happens now, mostly nothing.
    pub(crate) fn next(&self, rng: &Rng) -> Option<Event> {
        let event = match rng.below(120) {
            0 | 1 if self.losses => Event::Lossy {
                permille: rng.below(4) as u32 * 30,
                repeated: rng.below(3) as u32 * 40,
                doubled: rng.below(3) as u32 * 100,
                delay_ms: 1 + rng.below(300),
            },
            2..=4 if self.cuts => Event::Cut,
            5 if self.cuts => Event::CutOneWay,
            6..=9 => Event::Heal,
            10..=12 if self.power => Event::PowerCut {
                writes: rng.below(12) * rng.below(6),
            },
            13 if self.ends => Event::Kill,
            14 if self.ends => Event::Stop,
            15..=22 => Event::Start,
            23 if self.disks => Event::Full,
            24 | 25 if self.disks => Event::Room,
            26 if self.disks => Event::Rot,
            27 | 28 if self.clocks => Event::Clock {
                ahead: Duration::from_secs(match rng.below(6) {
                    0 => 365 * 24 * HOUR,
                    1 => 24 * HOUR,
                    2 => rng.below(HOUR),
                    3 => rng.below(60),
                    _ => 0,
                }),
            },
            29 | 44 | 45 if self.joins => Event::Join(match rng.below(6) {
                0 | 1 => Interrupted::Power {
                    writes: rng.below(60),
                },
                2 => Interrupted::Kill {
                    after_ms: rng.below(600),
                },
                3 => Interrupted::Invited {
                    writes: rng.below(6),
                },
                4 => Interrupted::Lost,
                _ => Interrupted::Not,
            }),
            30 if self.removals => Event::Remove,
            31 if self.copies => Event::Copy,
            32 if self.copies => Event::PutBack,
            33..=35 if self.masses => Event::Unpack {
                writes: rng.below(16),
            },
            36..=40 if self.scenes => Event::Scene,
            41 | 42 if self.pauses => Event::Pass {
                secs: 5 + rng.below(100),
            },
            43 if self.eras => Event::Era,
            46..=48 if self.power => Event::Storm,
            49..=54 => Event::Collect,
            _ => return None,
        };
        Some(event)
    }
}
