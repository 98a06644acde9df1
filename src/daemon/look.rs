//! Looking for troubles that follow from the state of the rooms below: twice a second, and when
//! somebody asks.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::peer::Peer;
use super::troubles::{Trouble, Troubles};
use crate::base::limits::CLOCK_SKEW_MAX;
use crate::base::panics::{self, Panics};
use crate::node::{PeerInfo, PeerState, Role};
use crate::volume::Missing;
use crate::wire::LogRefusal;

/// No clock that is right shows an earlier time: milliseconds of the start of 2026.
const RIGHT_CLOCKS_ARE_LATER_MS: u64 = 1_767_225_600_000;

/// Free bytes of a disk below which its contents are refused: what the store keeps back for rows
/// and chunks together, less what it gives up when it comes to that.
const DISK_LOW_BYTES: u64 = 192 << 20;

/// The same as a fraction of a small disk.
const DISK_LOW_FRACTION: u64 = 16;

impl Peer {
    /// Notes what is wrong now, and crosses out what is not any more.
    pub(super) fn look_around(&self) {
        let troubles = self.troubles();
        let peers = self.node().peers();
        troubles.set(Trouble::Removed, self.removed());
        troubles.set(Trouble::Clock, self.clock_trouble());
        troubles.set(Trouble::Keys, self.keys_trouble());
        troubles.set(Trouble::Joining, self.joining());
        troubles.set(Trouble::Over, self.over());
        self.look_at_statements();
        troubles.set(Trouble::Chunks, self.chunks_trouble());
        if let Some(state) = self.state_folder() {
            troubles.set(Trouble::Disk, disk_trouble(state));
        }
        troubles.set(Trouble::Capacity, self.capacity_trouble());
        troubles.set(Trouble::Socket, self.socket_trouble());
        look_at_peers(troubles, &peers);
        self.look_at_logs();
        self.look_at_waiting();
        self.look_at_named();
        self.look_at_anew();
        troubles.set(Trouble::Parted, self.parted_trouble());
        self.look_at_workers();
    }

    fn removed(&self) -> Option<(String, String)> {
        if self.node().role().is_some() {
            return None;
        }
        let (segments, bytes) = self.untaken();
        let mut what = "this peer was removed from the volume: it is read-only".to_owned();
        if segments > 0 {
            what.push_str(&format!(
                ", and nobody has taken its last {segments} log segments ({bytes} bytes)"
            ));
        }
        let advice = "copy out what you need, and ask an admin for an invite to join anew";
        Some((what, advice.to_owned()))
    }

    /// Returns how much of what was written here no other peer has: log segments, and their bytes.
    pub(super) fn untaken(&self) -> (u64, u64) {
        let node = self.node();
        let drafts = self
            .member_parts()
            .map_or(0, |member| member.volume.counts().drafts);
        let segments = node.segments_nobody_has();
        let bytes = super::facts::segment_bytes(node, segments);
        (segments + u64::from(drafts > 0), bytes)
    }

    fn clock_trouble(&self) -> Option<(String, String)> {
        let now_ms = self.clock().wall_ms();
        let advice = |more: &str| format!("set this machine's clock{more}");
        if now_ms < RIGHT_CLOCKS_ARE_LATER_MS {
            let what = "this machine's clock shows a year before dfs was built".to_owned();
            return Some((what, advice("")));
        }
        let log = self.node().log();
        let ends = self.node().own_ends().into_iter();
        let newest = ends.filter_map(|(own, _)| Some(log.head(own)?.last)).max();
        let newest_ms = newest?.ms();
        let ahead_ms = newest_ms.saturating_sub(now_ms);
        if u128::from(ahead_ms) <= CLOCK_SKEW_MAX.as_millis() {
            return None;
        }
        let what = format!(
            "this peer's newest changes are dated {} ahead of its clock: where others change the \
             same at one time, these count as the later",
            span(ahead_ms)
        );
        Some((
            what,
            advice(" if it is wrong now; if it was wrong then, nothing needs to be done"),
        ))
    }

    /// Tells what a new member waits for.
    fn joining(&self) -> Option<(String, String)> {
        let awaited = self.awaited();
        if awaited.is_empty() {
            return None;
        }
        let log = self.node().log();
        let names: BTreeSet<String> = awaited
            .keys()
            .filter_map(|name| Some(self.device_name(log.author(*name)?)))
            .collect();
        let mut of: Vec<String> = names.into_iter().collect();
        if of.is_empty() {
            of.push("others".to_owned());
        }
        let of = of.join(", ");
        let what = format!(
            "what {of} wrote before this machine was admitted is not all here yet ({} logs to come): \
             the mount is read-only until it is",
            awaited.len()
        );
        let advice =
            "connect the machine that admitted this one, or any that has all; it goes on by itself";
        Some((what, advice.to_owned()))
    }

    /// Tells what a member does not change any more, or not yet, as its right to write ended in between.
    fn over(&self) -> Option<(String, String)> {
        let volume = &self.member_parts()?.volume;
        let writes = self.node().role().is_some_and(Role::writes);
        if writes && volume.awaits_fence() {
            let what = "what this machine wrote before it was removed is being left out: the mount is read-only \
                        until the others have put that on record";
            let voters = self.node().chain().voters().into_iter();
            let names: Vec<String> = voters.map(|voter| self.device_name(voter.device)).collect();
            let advice = format!("connect {}; it goes on by itself", names.join(" or "));
            return Some((what.to_owned(), advice));
        }
        let aside = volume.aside();
        (aside > 0).then(|| {
            let files = if aside == 1 { "file" } else { "files" };
            let what = format!(
                "what was changed here in {aside} {files} is left out of the volume: this machine lost its right to \
                 write before anybody had it"
            );
            let advice = "they are in .dfs/aside at the top of the mount: copy what is wanted, and remove them there";
            (what, advice.to_owned())
        })
    }

    /// Notes that records wait for what is not known of the members.
    fn look_at_statements(&self) {
        let troubles = self.troubles();
        let Some(since_ms) = self.waiting.statements.long(self.clock().wall_ms()) else {
            return troubles.clear(Trouble::Statements);
        };
        let what =
            "the order of the changes waits: not all is here that admins said of the members";
        let advice = "connect an admin's machine, or any that is up to date; it goes on by itself";
        troubles.note_since(Trouble::Statements, since_ms, what, advice);
    }

    fn capacity_trouble(&self) -> Option<(String, String)> {
        let capacity = self.node().capacity_bytes();
        // A member that gives nothing has none to reach; a full disk is told by itself.
        if capacity == 0 || self.room().free_bytes() > 0 || self.troubles().has(Trouble::Disk) {
            return None;
        }
        let what = format!(
            "this peer holds all it may ({} MiB): the others' chunks go elsewhere",
            capacity >> 20
        );
        let advice = "raise its capacity (dfs config capacity SIZE), or add a storage peer";
        Some((what, advice.to_owned()))
    }

    fn socket_trouble(&self) -> Option<(String, String)> {
        let why = self.node().transport_trouble()?;
        let addr = self.node().local_addr();
        let what = format!("no peer is heard at {addr}: {why}");
        let advice = "it is tried again every few seconds; see that no other program took the port";
        Some((what, advice.to_owned()))
    }

    fn keys_trouble(&self) -> Option<(String, String)> {
        let has_role = self.node().role().is_some_and(|role| role != Role::Storage);
        let has_grant = || {
            let (roster, me) = (self.node().roster(), self.node().id());
            roster.grants(&me).next().is_some()
        };
        (has_role && self.member_parts().is_none()).then(|| {
            let what = "this peer is a member but has no key of the volume: it only stores";
            // One that stored and has another role now finds them at its next start.
            let advice = match has_grant() {
                true => "end it, and start it with dfs-mount on the same state folder: an admin left it the keys",
                false => "join anew with an invite, in another state folder",
            };
            (what.to_owned(), advice.to_owned())
        })
    }

    fn chunks_trouble(&self) -> Option<(String, String)> {
        let missing = self.replica().progress().missing_count;
        if missing == 0 {
            return None;
        }
        let lost = self.replica().lost().len() as u64;
        if lost < missing {
            let what = format!("{missing} chunks were lost from this disk and are being fetched");
            let advice = "check the disk; connect the peers that have them (dfs peers)";
            return Some((what, advice.to_owned()));
        }
        let mut what = format!("{lost} chunks are lost: no peer that answers has them");
        let files = self.lost_files();
        if !files.is_empty() {
            what.push_str(&format!("; they belong to {}", files.join(", ")));
        }
        let advice = "connect the peers that are away, or put the files back from a copy";
        Some((what, advice.to_owned()))
    }

    fn look_at_logs(&self) {
        let troubles = self.troubles();
        let refused = self.node().refused_logs();
        troubles.clear_all(|trouble| match trouble {
            Trouble::NotTaken(device) => !refused.contains_key(device),
            _ => false,
        });
        for (device, refusal) in &refused {
            let name = self.device_name(*device);
            let what = format!(
                "the changes of {name} are not taken here: {}",
                dated(refusal)
            );
            let advice = match refusal {
                LogRefusal::Ahead { .. } => {
                    "set the clocks; it goes on by itself when that is past"
                }
                LogRefusal::Forked { .. } => {
                    "its state folder was restored or copied: it has to join anew"
                }
                LogRefusal::NotAllowed => "ask an admin to give it a role that writes",
                LogRefusal::Unfounded { .. } => FOUNDED_ADVICE,
            };
            troubles.note(Trouble::NotTaken(*device), what, advice);
        }
    }

    fn look_at_waiting(&self) {
        let (troubles, log) = (self.troubles(), self.node().log());
        let waits = self.waiting.long(self.clock().wall_ms());
        troubles.clear_all(|trouble| match trouble {
            Trouble::Waiting(log) => waits.iter().all(|wait| wait.log != *log),
            _ => false,
        });
        let name = |of| {
            let author = log.author(of);
            author.map_or_else(|| "another".to_owned(), |device| self.device_name(device))
        };
        for wait in waits {
            let of = name(wait.log);
            let (what, who) = match wait.needs {
                Missing::Log(log) => {
                    let needs = name(log);
                    (
                        format!("earlier ones of {needs} that are not here yet"),
                        needs,
                    )
                }
                Missing::Record(_) => {
                    let voters = self.node().chain().voters().into_iter();
                    let names: Vec<String> =
                        voters.map(|voter| self.device_name(voter.device)).collect();
                    let who = names.join(" or ");
                    (
                        format!("an order of the changes that {who} made and that is not here yet"),
                        who,
                    )
                }
            };
            let what = format!("the changes of {of} wait: they build on {what}");
            let advice = format!("connect {who}, or any machine that has it; it goes on by itself");
            troubles.note_since(Trouble::Waiting(wait.log), wait.since_ms, what, advice);
        }
    }

    /// Notes that the order names changes which nobody here has: who made it may be gone with them.
    fn look_at_named(&self) {
        let (troubles, now_ms) = (self.troubles(), self.clock().wall_ms());
        let wants = match self.node().chain().wants() {
            Ok(wants) => wants,
            Err(error) => return tracing::warn!(%error, "cannot tell what the chain waits for"),
        };
        // Not while they come.
        let wants = wants.filter(|wants| !self.node().hears_of(wants));
        let number = wants.as_ref().map(|wants| wants.number);
        self.waiting.named.set(number, now_ms);
        let (Some(wants), Some(since_ms)) = (wants, self.waiting.named.long(now_ms)) else {
            return troubles.clear(Trouble::Named);
        };
        let authors = wants
            .logs
            .into_iter()
            .map(|log| self.node().log().author(log));
        let names = authors.map(|author| author.map(|device| self.device_name(device)));
        let names: BTreeSet<Option<String>> = names.collect();
        let names: Vec<String> = names.into_iter().flatten().collect();
        let (of, who) = match names.is_empty() {
            true => (String::new(), "the machine that made them".to_owned()),
            false => (format!(" of {}", names.join(" and ")), names.join(" or ")),
        };
        let what = format!("the order of the changes waits: it has some{of} that are not here yet");
        let advice = format!(
            "connect {who}, or any that has them; it goes on by itself. One that is lost is removed by an admin, with \
             dfs members remove NAME: then the others go on"
        );
        troubles.note_since(Trouble::Named, since_ms, what, advice);
    }

    /// Notes that another order counts than the one by which the changes are shown.
    fn look_at_anew(&self) {
        let troubles = self.troubles();
        let Some((since_ms, why, advice)) = self.waiting.anew.told(self.clock().wall_ms()) else {
            return troubles.clear(Trouble::Anew);
        };
        let what = format!(
            "another order of the changes counts now, and what is shown here does not follow it yet: {why}"
        );
        troubles.note_since(Trouble::Anew, since_ms, what, advice);
    }

    fn look_at_workers(&self) {
        if let Some(Panics {
            count,
            first_ms,
            last,
        }) = panics::noted()
        {
            let ended = match count {
                1 => "a task or request has ended".to_owned(),
                count => format!("{count} tasks or requests have ended"),
            };
            self.troubles().note_since(
                Trouble::Panicked,
                first_ms,
                format!("{ended} by a mistake of dfs: {last}"),
                "unmount and mount again, and report what dfs log says",
            );
        }
        for (job, what) in self.node().workers().panicked() {
            self.troubles().note(
                Trouble::Worker(job.name),
                format!("what {} has ended by a mistake of dfs: {what}", job.does),
                "unmount and mount again, and report what dfs log says",
            );
        }
    }
}

/// Notes which peers refuse this one, or its log.
fn look_at_peers(troubles: &Arc<Troubles>, peers: &[PeerInfo]) {
    let of = |id| peers.iter().find(|peer| peer.id == id);
    troubles.clear_all(|trouble| match trouble {
        Trouble::Refused(id) => of(*id).is_none_or(|peer| peer.refusal.is_none()),
        Trouble::Newer(id) => of(*id).is_none_or(|peer| !peer.says_newer),
        Trouble::PeerClock(id) => of(*id).is_none_or(|peer| !differs(peer)),
        Trouble::LogRefused(id) => of(*id).is_none_or(|peer| peer.refuses_log.is_none()),
        _ => false,
    });
    for peer in peers {
        if peer.says_newer {
            let what = format!(
                "{} hands on what was written by a newer dfs, and what this one does not know",
                peer.name
            );
            troubles.note(Trouble::Newer(peer.id), what, "update dfs on this machine");
        }
        if differs(peer) {
            let (name, ahead) = (&peer.name, peer.clock_ahead_ms);
            let side = if ahead > 0 { "ahead of" } else { "behind" };
            let by = span(ahead.unsigned_abs());
            let what = format!(
                "the clock of {name} is {by} {side} that of this machine: where both change the same at one time, the \
                 one that is ahead counts as the later"
            );
            let advice = "set the clock that is wrong";
            troubles.note(Trouble::PeerClock(peer.id), what, advice);
        }
        if let Some(refusal) = &peer.refusal {
            let what = format!("{} refuses: {refusal}", peer.name);
            troubles.note(
                Trouble::Refused(peer.id),
                what,
                "see dfs log on both machines",
            );
        }
        if let Some(refusal) = &peer.refuses_log {
            let what = log_refused(&peer.name, refusal);
            let advice = match refusal {
                LogRefusal::Ahead { .. } => {
                    "set this machine's clock if it is wrong; else they are taken when that is past"
                }
                LogRefusal::Forked { .. } => FORK_ADVICE,
                LogRefusal::NotAllowed => "ask an admin for a role that writes",
                LogRefusal::Unfounded { .. } => FOUNDED_ADVICE,
            };
            troubles.note(Trouble::LogRefused(peer.id), what, advice);
        }
    }
}

/// Says whether the clock of a peer with a session is so far from that of this machine that people are told.
fn differs(peer: &PeerInfo) -> bool {
    let ahead_ms = u128::from(peer.clock_ahead_ms.unsigned_abs());
    peer.state != PeerState::Offline && ahead_ms > CLOCK_SKEW_MAX.as_millis()
}

/// What to do where a log has two histories.
pub(super) const FORK_ADVICE: &str = "this state folder was restored or copied: keep a copy of what was written since, and join anew \
     in another state folder";

/// What to do where a log builds on a record that could not be had.
const FOUNDED_ADVICE: &str = "it goes on by itself once a machine is connected that has it";

/// Returns what is told of a peer that does not take this one's log.
pub(super) fn log_refused(name: &str, refusal: &LogRefusal) -> String {
    format!("{name} refuses this peer's changes: {}", dated(refusal))
}

fn dated(refusal: &LogRefusal) -> String {
    match refusal {
        LogRefusal::Ahead { ahead_ms } => format!("they are dated {} ahead", span(*ahead_ms)),
        LogRefusal::Forked { seg_no } => {
            format!("the log has two histories from segment {seg_no} on")
        }
        LogRefusal::NotAllowed => "its role does not write".to_owned(),
        LogRefusal::Unfounded { number } => {
            format!("they build on record {number}, which could not be had")
        }
    }
}

/// Returns a length of time in words.
pub(super) fn span(ms: u64) -> String {
    match ms / 60_000 {
        0 => format!("{} s", ms / 1_000),
        minutes @ 1..=119 => format!("{minutes} min"),
        minutes @ 120..=2_879 => format!("{} h", minutes / 60),
        minutes => format!("{} days", minutes / 1_440),
    }
}

fn disk_trouble(state: &Path) -> Option<(String, String)> {
    let disk = rustix::fs::statvfs(state).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let total = disk.f_blocks.saturating_mul(disk.f_frsize);
    let low = DISK_LOW_BYTES.min(total / DISK_LOW_FRACTION);
    (free <= low).then(|| {
        let what = format!(
            "the disk below {} is full ({} MiB free): new contents are refused",
            state.display(),
            free >> 20
        );
        let advice = "free room on it, or remove files from the volume";
        (what, advice.to_owned())
    })
}
