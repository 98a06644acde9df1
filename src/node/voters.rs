//! Who is to decide the records of the chain: three where three machines are there most of the time,
//! else the one that is there most.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Node;
use super::roster::Role;
use crate::base::{DeviceId, PeerId};
use crate::log::chain::{VOTERS_MAX, Voter};
use crate::store::Batch;
use crate::wire::Vector;

/// How long one that decides may be away before another one takes its place.
pub(super) const AWAY_MAX: Duration = Duration::from_secs(24 * 3600);

/// Thousandths of the time that one has to be there to be chosen.
const MOSTLY: u64 = 500;

/// Thousandths below which one is given up: less than what makes one be chosen, so that nobody comes
/// and goes.
const SELDOM: u64 = 400;

/// How much more of the time another has to be there to take the place of the only one.
const MORE: u64 = 200;

/// A member that may decide.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) voter: Voter,
    /// Thousandths of the time that it is there.
    pub(super) presence: u64,
    /// Whether it is there now and has all that records name.
    pub(super) is_ready: bool,
    /// Whether it has been away for too long, or has no room.
    pub(super) is_lost: bool,
    /// The machine that it runs on, as far as that is known.
    pub(super) host: Option<IpAddr>,
}

impl Node {
    /// Takes note of which members are there; keeps it now and then.
    pub(super) fn note_presence(&self) {
        let roster = self.roster();
        let table = self.table.lock();
        let is_up = |peer: &PeerId| table.peers.get(peer).is_some_and(|peer| peer.up);
        let members = roster.members().map(|member| member.id);
        let members = members.map(|id| (id, id == self.id || is_up(&id)));
        let members: Vec<_> = members.collect();
        drop(table);
        self.attendance.lock().note(&members, self.now());
    }

    /// Keeps what is known of who is there for the next start.
    pub(super) fn keep_presence(&self) {
        let mut batch = Batch::new();
        self.attendance.lock().put(&mut batch, self.clock.wall_ms());
        if let Err(error) = self.store.rows.commit(batch) {
            tracing::warn!(%error, "who is there most of the time cannot be kept");
        }
    }

    /// Returns who is to decide from the next record on, where that is somebody else than now.
    pub(super) fn choose_voters(&self) -> Option<Vec<Voter>> {
        let roster = self.roster();
        let named = self.chain.all_named();
        let (voters, own) = (self.chain.voters(), self.chain.own_voter());
        let now_ms = self.clock.wall_ms();
        let table = self.table.lock();
        let attendance = self.attendance.lock();
        let able = roster
            .members()
            .filter(|member| member.role != Role::Reader);
        let candidates = able.filter_map(|member| {
            let presence = attendance.of(&member.id).permille();
            let device = DeviceId::from(member.id);
            if member.id == self.id {
                return Some(Candidate {
                    voter: own,
                    presence,
                    is_ready: true,
                    is_lost: false,
                    host: None,
                });
            }
            let peer = table.peers.get(&member.id)?;
            let away_ms = match peer.up {
                true => 0,
                false => now_ms.saturating_sub(peer.last_contact_ms.unwrap_or(0)),
            };
            Some(Candidate {
                voter: Voter {
                    device,
                    incarnation: peer.voter?,
                },
                presence,
                is_ready: peer.up && holds(&peer.vector, &named),
                is_lost: Duration::from_millis(away_ms) > AWAY_MAX || peer.free_bytes == 0,
                host: peer.session.as_ref().map(|to| to.remote_addr().ip()),
            })
        });
        let candidates: Vec<Candidate> = candidates.collect();
        choose(&voters, &candidates)
    }
}

/// Says whether logs go as far as others do.
fn holds(logs: &Vector, others: &Vector) -> bool {
    let mut others = others.iter();
    others.all(|(log, end)| logs.get(log) >= Some(end))
}

/// Returns who is to decide from the next record on, ascending by device; `None` where those are to that
/// do now. `members` are all that may: one that is none of them any more is replaced.
pub(super) fn choose(current: &[Voter], members: &[Candidate]) -> Option<Vec<Voter>> {
    let is_current = |candidate: &&Candidate| current.contains(&candidate.voter);
    let mut kept: Vec<&Candidate> = members
        .iter()
        .filter(is_current)
        .filter(|one| !one.is_lost && (current.len() == 1 || one.presence >= SELDOM))
        .collect();
    let fit = members
        .iter()
        .filter(|one| !is_current(one) && one.is_ready && !one.is_lost);
    let fit: Vec<&Candidate> = fit.filter(|one| one.presence > MOSTLY).collect();
    if kept.len() == VOTERS_MAX {
        return None;
    }
    let mostly = kept.iter().filter(|one| one.presence > MOSTLY).count();
    if mostly == kept.len() && kept.len() + fit.len() >= VOTERS_MAX {
        add(&mut kept, fit);
    } else if kept.len() < current.len() {
        // Too few for three: the one that is there most.
        let all = kept.into_iter().filter(|one| one.is_ready).chain(fit);
        kept = all
            .max_by_key(|one| (one.presence, one.voter))
            .into_iter()
            .collect();
    } else if let (Some(only), Some(best)) = (
        kept.first(),
        fit.into_iter().max_by_key(|one| (one.presence, one.voter)),
    ) && best.presence >= only.presence + MORE
    {
        kept = vec![best];
    }
    let chosen: BTreeSet<Voter> = kept.into_iter().map(|one| one.voter).collect();
    let chosen: Vec<Voter> = chosen.into_iter().collect();
    (matches!(chosen.len(), 1 | VOTERS_MAX) && chosen != current).then_some(chosen)
}

/// Adds candidates until there are three: those on other machines first, then those that are there most.
fn add<'a>(kept: &mut Vec<&'a Candidate>, mut fit: Vec<&'a Candidate>) {
    while kept.len() < VOTERS_MAX {
        let hosts: Vec<IpAddr> = kept.iter().filter_map(|one| one.host).collect();
        let is_apart = |one: &Candidate| one.host.is_none_or(|host| !hosts.contains(&host));
        let best = fit
            .iter()
            .enumerate()
            .max_by_key(|(_, one)| (is_apart(one), one.presence, one.voter));
        let Some((at, _)) = best else {
            return;
        };
        kept.push(fit.swap_remove(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DeviceId;

    fn voter(device: u64) -> Voter {
        Voter {
            device: DeviceId(device),
            incarnation: 1,
        }
    }

    fn candidate(device: u64, presence: u64) -> Candidate {
        Candidate {
            voter: voter(device),
            presence,
            is_ready: true,
            is_lost: false,
            host: None,
        }
    }

    fn devices(chosen: Option<Vec<Voter>>) -> Vec<u64> {
        let chosen = chosen.unwrap_or_default();
        chosen.iter().map(|voter| voter.device.0).collect()
    }

    #[test]
    fn three_decide_once_three_are_there_most_of_the_time_and_one_until_then() {
        let one = [voter(1)];
        let mut members = vec![candidate(1, 1000), candidate(2, 1000)];
        assert_eq!(choose(&one, &members), None);
        members.push(candidate(3, 500));
        assert_eq!(
            choose(&one, &members),
            None,
            "half of the time is not most of it"
        );
        members[2].presence = 501;
        assert_eq!(devices(choose(&one, &members)), [1, 2, 3]);
        members[2].is_ready = false;
        assert_eq!(choose(&one, &members), None, "it lacks what records name");
    }

    #[test]
    fn the_only_one_hands_over_to_one_that_is_there_much_more() {
        let one = [voter(1)];
        let mut members = vec![candidate(1, 450), candidate(2, 600), candidate(3, 400)];
        assert_eq!(choose(&one, &members), None);
        members[1].presence = 650;
        assert_eq!(devices(choose(&one, &members)), [2]);
        members[2].presence = 900;
        assert_eq!(devices(choose(&one, &members)), [3]);
        // Another row of the same device is somebody else.
        members = vec![candidate(1, 1000)];
        members[0].voter.incarnation = 2;
        assert_eq!(choose(&one, &members), Some(vec![members[0].voter]));
    }

    #[test]
    fn one_of_three_that_is_lost_or_removed_is_replaced_and_one_decides_where_nobody_can() {
        let three = [voter(1), voter(2), voter(3)];
        let mut members: Vec<_> = (1..=4).map(|device| candidate(device, 1000)).collect();
        assert_eq!(choose(&three, &members), None);
        members[1].is_lost = true;
        assert_eq!(devices(choose(&three, &members)), [1, 3, 4]);
        members[1].is_lost = false;
        members[1].presence = 399;
        assert_eq!(devices(choose(&three, &members)), [1, 3, 4]);
        members.remove(1);
        assert_eq!(devices(choose(&three, &members)), [1, 3, 4]);
        members.pop();
        members[1].presence = 900;
        assert_eq!(devices(choose(&three, &members)), [1]);
        members[0].is_ready = false;
        assert_eq!(devices(choose(&three, &members)), [3]);
        members[1].is_ready = false;
        assert_eq!(choose(&three, &members), None, "nobody would be there");
    }

    #[test]
    fn those_on_other_machines_are_chosen_first() {
        let host = |last| Some(IpAddr::from([10, 0, 0, last]));
        let mut members: Vec<_> = (1..=4).map(|device| candidate(device, 1000)).collect();
        for (member, last) in members.iter_mut().zip([1, 1, 2, 3]) {
            member.host = host(last);
        }
        members[1].presence = 1000;
        members[3].presence = 600;
        assert_eq!(devices(choose(&[voter(1)], &members)), [1, 3, 4]);
    }
}
