//! What a set of statements means: a pure function of the set.
//!
//! Statements form a tree: each names the admission by which its issuer is an admin, up to the
//! genesis. Admins are judged in preorder: an admin before those that it admitted, and those in the
//! order of their admissions with all below them. Who comes earlier is *senior*. A removal makes
//! void what a junior admin issued and the remover had not seen, and by then nothing of the junior
//! has been judged; a removal of a senior ends its membership and leaves its statements as they
//! are. So no statement decides over another that decides over it, whatever their stamps say, and
//! a removed admin gains nothing by dating statements back.
//!
//! A change of role is a new admission in the place of another; a removal of either ends both, so it
//! wins over a change of role that was not known to it. Admins behind a recovery phrase are judged
//! after all others, so that anybody can end them. One that a phrase has admitted is below it and so
//! would end it too late; that end is then taken as known from the start, and all is judged anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::endings::lets_anybody_write;
use super::statement::{
    Claim, Content, InviteId, RecoveryId, Schedule, Setting, Statement, StatementId,
};
use super::{Member, Recovery, Role};
use crate::base::{DeviceId, PeerId, Stamp};

pub(super) type Statements = BTreeMap<StatementId, Arc<Statement>>;

/// What holds.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) members: BTreeMap<PeerId, Member>,
    /// Peers that were members and are not now, as they last were.
    pub(super) former: BTreeMap<PeerId, Member>,
    /// Every peer that ever was a member, by its device id.
    pub(super) devices: BTreeMap<DeviceId, PeerId>,
    pub(super) invites: BTreeMap<InviteId, Invite>,
    /// Who was admitted by an invite.
    pub(super) redeemed: BTreeMap<InviteId, PeerId>,
    /// Live admissions of each peer, most senior first.
    pub(super) admissions: BTreeMap<PeerId, Vec<StatementId>>,
    /// For each member the wrapped keys that admins left for it.
    pub(super) grants: BTreeMap<PeerId, Vec<StatementId>>,
    /// Invites that an admin has taken back.
    pub(super) revoked: BTreeSet<InviteId>,
    /// Phrases that hold, most senior first.
    pub(super) recoveries: Vec<Recovery>,
    /// Phrases that held once.
    pub(super) ended_phrases: BTreeSet<RecoveryId>,
    /// When each peer was given its newest name, by its admission or later.
    pub(super) named: BTreeMap<PeerId, Stamp>,
    /// Members whose membership they ended themselves.
    pub(super) left: BTreeSet<PeerId>,
    /// How long what was replaced or removed is kept, milliseconds, and by which statement.
    pub(super) history: Option<((Stamp, StatementId), u64)>,
    /// How many snapshots are made by themselves, and what says so.
    pub(super) schedule: Option<((Stamp, StatementId), Schedule)>,
    /// What holds and ends the right to write of somebody who had it.
    pub(super) endings: BTreeSet<StatementId>,
    /// All statements, each behind the one that it takes its authority from.
    pub(super) order: Vec<StatementId>,
}

/// An invite as it was issued.
#[derive(Debug, Clone, Copy)]
pub(super) struct Invite {
    pub(super) role: Role,
    pub(super) expires_ms: u64,
    pub(super) by: PeerId,
    pub(super) issued: Stamp,
}

/// Recoveries ended by those that they admitted that are looked at; each has all judged once more.
const ENDED_RECOVERIES_MAX: usize = 64;

/// Judges the statements. All of them hang below `genesis`, with signatures that hold.
pub(super) fn evaluate(statements: &Statements, genesis: StatementId) -> View {
    let children = children(statements);
    let mut ended = Cuts::new();
    loop {
        let (view, late) = run(statements, &children, genesis, &ended);
        let late = late.filter(|_| ended.len() < ENDED_RECOVERIES_MAX);
        let Some((recovery, kept)) = late else {
            return view;
        };
        ended.insert(recovery, vec![kept]);
    }
}

/// Judges once; `cuts` is what is known from the start. Returns the first end of a recovery that
/// came too late, too, with the statements that it keeps.
fn run(
    statements: &Statements,
    children: &Children<'_>,
    genesis: StatementId,
    cuts: &Cuts,
) -> (View, Option<(StatementId, BTreeSet<StatementId>)>) {
    let mut judge = Judge {
        statements,
        children,
        view: View {
            order: in_order(statements, children, genesis),
            ..View::default()
        },
        cuts: cuts.clone(),
        known: cuts,
        late: None,
        removed: BTreeSet::new(),
        ended_by_itself: BTreeSet::new(),
        replaced: BTreeSet::new(),
        names: BTreeMap::new(),
        judged: BTreeSet::new(),
        admitted: Vec::new(),
        recoveries: Vec::new(),
        ends: Vec::new(),
    };
    let mut pending = Vec::new();
    if let Some(genesis) = statements.get(&genesis) {
        judge.admit(genesis);
        pending.push(genesis.id);
    }
    let mut recovered = 0;
    loop {
        let next = pending.pop().or_else(|| {
            recovered += 1;
            judge.recoveries.get(recovered - 1).map(|found| found.id)
        });
        let Some(admin) = next else { break };
        let admitted = judge.judge(admin);
        pending.extend(admitted.into_iter().rev());
    }
    judge.finish()
}

/// Returns the newest statements under an admission: those that no other one follows.
pub(super) fn heads(statements: &Statements, admission: StatementId) -> Vec<StatementId> {
    let mut own: Vec<&Arc<Statement>> = statements
        .values()
        .filter(|statement| statement.content.authority == Some(admission))
        .collect();
    let followed: BTreeSet<StatementId> = own
        .iter()
        .filter_map(|statement| statement.content.prev)
        .collect();
    own.retain(|statement| !followed.contains(&statement.id));
    own.sort_by_key(|statement| std::cmp::Reverse(statement.order()));
    own.iter().map(|statement| statement.id).collect()
}

type Children<'a> = BTreeMap<StatementId, Vec<&'a Arc<Statement>>>;

/// For an admission the sets that go on to hold: a statement under it must be in all of them.
type Cuts = BTreeMap<StatementId, Vec<BTreeSet<StatementId>>>;

struct Judge<'a> {
    statements: &'a Statements,
    children: &'a Children<'a>,
    view: View,
    cuts: Cuts,
    known: &'a Cuts,
    late: Option<(StatementId, BTreeSet<StatementId>)>,
    removed: BTreeSet<StatementId>,
    /// Those of them that were ended by the member itself.
    ended_by_itself: BTreeSet<StatementId>,
    /// Admissions in whose place another one stands.
    replaced: BTreeSet<StatementId>,
    /// The newest name of each peer that was given one after its admission.
    names: BTreeMap<PeerId, &'a Arc<Statement>>,
    judged: BTreeSet<StatementId>,
    /// Admissions that hold, removed or not, most senior first.
    admitted: Vec<&'a Arc<Statement>>,
    /// Recoveries that hold, removed or not, most senior first.
    recoveries: Vec<&'a Arc<Statement>>,
    /// Removals that hold, and changes of role.
    ends: Vec<&'a Arc<Statement>>,
}

impl<'a> Judge<'a> {
    /// Applies what an admin issued; returns the admins that it admitted, oldest first.
    fn judge(&mut self, admin: StatementId) -> Vec<StatementId> {
        let children: &'a Children<'a> = self.children;
        let issued = children.get(&admin).map_or(&[][..], Vec::as_slice);
        // Admins that left have said which of their statements hold: nothing follows after that, not
        // even another leave, as of one whose state was copied.
        for statement in self.holding(admin, issued) {
            match &statement.content.claim {
                Claim::Remove {
                    admission: ends,
                    keep,
                }
                | Claim::Reassign {
                    replaces: ends,
                    keep,
                    ..
                } if *ends == admin => {
                    let mut kept = self.closure(admin, keep);
                    kept.insert(statement.id);
                    self.cuts.entry(admin).or_default().push(kept);
                    break;
                }
                _ => {}
            }
        }
        self.judged.insert(admin);
        let mut admins = Vec::new();
        let Some((issuer, _)) = self
            .statements
            .get(&admin)
            .and_then(|found| found.content.claim.voice())
        else {
            return admins;
        };
        for statement in self.holding(admin, issued) {
            match &statement.content.claim {
                Claim::Genesis { .. } => {}
                Claim::Admit { role, .. } => {
                    if self.admit(statement) && *role == Role::Admin {
                        admins.push(statement.id);
                    }
                }
                Claim::Invite {
                    invite,
                    role,
                    expires_ms,
                } => {
                    let issued = Invite {
                        role: *role,
                        expires_ms: *expires_ms,
                        by: issuer.id(),
                        issued: statement.content.stamp,
                    };
                    self.view.invites.entry(*invite).or_insert(issued);
                }
                Claim::Remove { admission, keep } => {
                    self.removed.insert(*admission);
                    self.ends.push(statement);
                    if *admission == admin {
                        self.ended_by_itself.insert(admin);
                    }
                    self.cut(admin, *admission, keep);
                }
                Claim::Reassign {
                    replaces,
                    identity,
                    role,
                    keep,
                    ..
                } => {
                    if self.admission_of(replaces) == Some(identity.id()) && self.admit(statement) {
                        self.replaced.insert(*replaces);
                        self.ends.push(statement);
                        self.cut(admin, *replaces, keep);
                        if *role == Role::Admin {
                            admins.push(statement.id);
                        }
                    }
                }
                Claim::Rename { peer, .. } => self.rename(*peer, statement),
                Claim::Revoke { invite } => {
                    self.view.revoked.insert(*invite);
                }
                Claim::Recovery { .. } => self.recoveries.push(statement),
                Claim::Set(Setting::HistoryMs(ms)) => {
                    let said = Some((statement.order(), *ms));
                    self.view.history = self.view.history.max(said);
                }
                Claim::Set(Setting::Snapshots(schedule)) => {
                    let said = Some((statement.order(), *schedule));
                    self.view.schedule = self.view.schedule.max(said);
                }
                Claim::Grant { peer, .. } => {
                    self.view
                        .grants
                        .entry(*peer)
                        .or_default()
                        .push(statement.id);
                }
            }
        }
        admins
    }

    /// Makes void what was issued under an admission that `admin` ends, but `keep` and before.
    fn cut(&mut self, admin: StatementId, admission: StatementId, keep: &[StatementId]) {
        let kept = self.closure(admission, keep);
        if !self.judged.contains(&admission) {
            self.cuts.entry(admission).or_default().push(kept);
        } else if self.late.is_none() && !self.known.contains_key(&admission) {
            let is_recovery =
                |found: &Arc<Statement>| matches!(found.content.claim, Claim::Recovery { .. });
            // Who ends what it comes from must not end itself.
            let ended = self.statements.get(&admission);
            if ended.is_some_and(is_recovery) && self.outlives(admin, admission, &kept) {
                self.late = Some((admission, kept));
            }
        }
    }

    /// Says whether an admin still stands where of what was issued under `ended` only `kept` holds.
    fn outlives(
        &self,
        admin: StatementId,
        ended: StatementId,
        kept: &BTreeSet<StatementId>,
    ) -> bool {
        let mut at = admin;
        while let Some(above) = self.statements.get(&at).and_then(|s| s.content.authority) {
            if above == ended {
                return kept.contains(&at);
            }
            at = above;
        }
        admin != ended
    }

    /// Returns whom an admission admits.
    fn admission_of(&self, admission: &StatementId) -> Option<PeerId> {
        let claim = &self.statements.get(admission)?.content.claim;
        Some(claim.admission()?.0.id())
    }

    /// Takes note of a name; the newest of a peer is its name.
    fn rename(&mut self, peer: PeerId, statement: &'a Arc<Statement>) {
        let newest = self.names.entry(peer).or_insert(statement);
        if newest.order() < statement.order() {
            *newest = statement;
        }
    }

    /// Hears what members that are no admins say of themselves.
    fn hear(&mut self) {
        let children: &'a Children<'a> = self.children;
        for admission in std::mem::take(&mut self.admitted) {
            self.admitted.push(admission);
            if self.judged.contains(&admission.id) {
                continue;
            }
            let words = children.get(&admission.id).map_or(&[][..], Vec::as_slice);
            for statement in self.holding(admission.id, words) {
                match &statement.content.claim {
                    Claim::Rename { peer, .. } => self.rename(*peer, statement),
                    Claim::Remove { .. } => {
                        self.removed.insert(admission.id);
                        self.ends.push(statement);
                        self.ended_by_itself.insert(admission.id);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Takes note of an admission; returns whether it holds.
    ///
    /// Of two for one invite, and of two peers with one device id, the more senior holds.
    fn admit(&mut self, statement: &'a Arc<Statement>) -> bool {
        let Some((identity, ..)) = statement.content.claim.admission() else {
            return false;
        };
        let (peer, device) = (identity.id(), identity.device());
        if *self.view.devices.get(&device).unwrap_or(&peer) != peer {
            return false;
        }
        if let Claim::Admit {
            invite: Some(invite),
            ..
        } = &statement.content.claim
        {
            if self.view.redeemed.contains_key(invite) {
                return false;
            }
            self.view.redeemed.insert(*invite, peer);
        }
        self.view.devices.insert(device, peer);
        self.admitted.push(statement);
        true
    }

    fn holding(
        &self,
        admin: StatementId,
        issued: &'a [&'a Arc<Statement>],
    ) -> Vec<&'a Arc<Statement>> {
        let cuts = self.cuts.get(&admin).map_or(&[][..], Vec::as_slice);
        issued
            .iter()
            .copied()
            .filter(|statement| cuts.iter().all(|kept| kept.contains(&statement.id)))
            .collect()
    }

    /// Returns `heads` and all that they follow, as far as it was issued under `admission`.
    fn closure(&self, admission: StatementId, heads: &[StatementId]) -> BTreeSet<StatementId> {
        let mut kept = BTreeSet::new();
        for head in heads {
            let mut next = Some(*head);
            while let Some(id) = next {
                let Some(statement) = self.statements.get(&id) else {
                    break;
                };
                let content = &statement.content;
                if content.authority != Some(admission) || !kept.insert(id) {
                    break;
                }
                next = content.prev;
            }
        }
        kept
    }

    fn finish(mut self) -> (View, Option<(StatementId, BTreeSet<StatementId>)>) {
        self.hear();
        let mut lines = Lines::default();
        let admissions = self.admitted.iter();
        let wrote: BTreeSet<PeerId> = admissions
            .filter_map(|statement| statement.content.claim.admission())
            .filter(|(_, role, _)| role.writes())
            .map(|(identity, ..)| identity.id())
            .collect();
        for statement in &self.admitted {
            let Some((identity, role, name)) = statement.content.claim.admission() else {
                continue;
            };
            let peer = identity.id();
            let line = lines.of(statement, &self);
            let named = self.names.get(&peer);
            let named = named.filter(|named| named.order() > statement.order());
            let stamp = named.unwrap_or(statement).order().0;
            let known = self.view.named.entry(peer).or_insert(stamp);
            *known = (*known).max(stamp);
            let name = match named.map(|named| &named.content.claim) {
                Some(Claim::Rename { name, .. }) => name.as_str(),
                _ => name,
            };
            let member = Member {
                id: peer,
                identity: identity.clone(),
                role,
                wrote: wrote.contains(&peer),
                name: name.to_owned(),
                admitted: line.began,
                admission: statement.id,
            };
            if line.ended {
                self.view.former.insert(peer, member);
                if line.by_itself {
                    self.view.left.insert(peer);
                }
            } else if !self.replaced.contains(&statement.id) {
                let live = self.view.admissions.entry(peer).or_default();
                live.push(statement.id);
                // All of them speak, so the greatest is what it may do.
                let known = self.view.members.get(&peer);
                if known.is_none_or(|known| known.role < role) {
                    self.view.members.insert(peer, member);
                }
            }
        }
        let View {
            members,
            former,
            left,
            ..
        } = &mut self.view;
        former.retain(|peer, _| !members.contains_key(peer));
        left.retain(|peer| former.contains_key(peer));
        for statement in &self.recoveries {
            if let Claim::Recovery {
                identity, lookup, ..
            } = &statement.content.claim
                && let Some(authority) = statement.content.authority
                && let Some(issuer) = self.statements.get(&authority)
                && let Some((by, _)) = issuer.content.claim.voice()
            {
                if self.removed.contains(&statement.id) {
                    self.view.ended_phrases.insert(*lookup);
                    continue;
                }
                self.view.recoveries.push(Recovery {
                    statement: statement.id,
                    admin: identity.id(),
                    lookup: *lookup,
                    made: statement.content.stamp,
                    by: by.id(),
                });
            }
        }
        let ends = std::mem::take(&mut self.ends);
        let ends = ends
            .into_iter()
            .filter(|statement| self.ends_writing(statement));
        self.view.endings = ends.map(|statement| statement.id).collect();
        (self.view, self.late)
    }

    /// Says whether a removal or a change of role ends somebody's right to write. One that another change
    /// at the same time stands beside does not.
    fn ends_writing(&self, statement: &Statement) -> bool {
        match &statement.content.claim {
            Claim::Remove { admission, .. } => lets_anybody_write(self.statements, *admission),
            Claim::Reassign {
                replaces,
                identity,
                role,
                ..
            } => {
                let live = self.view.admissions.get(&identity.id());
                let mut goes_on = live.into_iter().flatten().filter(|id| {
                    let claim = self.statements.get(id).map(|found| &found.content.claim);
                    let admission = claim.and_then(Claim::admission);
                    admission.is_some_and(|(_, role, _)| role.writes())
                });
                let beside = |id: &StatementId| {
                    let line = line_of(self.statements, *id).unwrap_or_default();
                    line.contains(replaces) && !line.contains(&statement.id)
                };
                !role.writes()
                    && lets_anybody_write(self.statements, *replaces)
                    && !goes_on.any(beside)
            }
            _ => false,
        }
    }
}

/// Returns an admission and those whose place it took, one after the other; `None` where one is not here.
pub(super) fn line_of(statements: &Statements, admission: StatementId) -> Option<Vec<StatementId>> {
    let mut line = Vec::new();
    let mut at = admission;
    loop {
        let claim = &statements.get(&at)?.content.claim;
        line.push(at);
        let Claim::Reassign {
            replaces, identity, ..
        } = claim
        else {
            return Some(line);
        };
        let before = &statements.get(replaces)?.content.claim;
        match before.admission() {
            Some((of, ..)) if of.id() == identity.id() => at = *replaces,
            _ => return Some(line),
        }
    }
}

/// One member's admissions, each in the place of the one before, seen from one of them.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// When the first of them was issued.
    began: Stamp,
    /// Whether one of them was ended.
    ended: bool,
    /// Whether the member did that.
    by_itself: bool,
}

#[derive(Default)]
struct Lines(BTreeMap<StatementId, Line>);

impl Lines {
    fn of(&mut self, admission: &Arc<Statement>, judge: &Judge<'_>) -> Line {
        let mut walked = Vec::new();
        let mut at = admission;
        let mut line = loop {
            if let Some(known) = self.0.get(&at.id) {
                break *known;
            }
            walked.push(at);
            let before = match &at.content.claim {
                Claim::Reassign {
                    replaces, identity, ..
                } if judge.admission_of(replaces) == Some(identity.id()) => {
                    judge.statements.get(replaces)
                }
                _ => None,
            };
            match before {
                Some(before) => at = before,
                None => {
                    break Line {
                        began: at.content.stamp,
                        ended: false,
                        by_itself: false,
                    };
                }
            }
        };
        while let Some(at) = walked.pop() {
            line.ended |= judge.removed.contains(&at.id);
            line.by_itself |= judge.ended_by_itself.contains(&at.id);
            self.0.insert(at.id, line);
        }
        line
    }
}

fn children(statements: &Statements) -> Children<'_> {
    let mut children = Children::new();
    for statement in statements.values() {
        if let Content {
            authority: Some(authority),
            ..
        } = &statement.content
        {
            children.entry(*authority).or_default().push(statement);
        }
    }
    for issued in children.values_mut() {
        issued.sort_by_key(|statement| statement.order());
    }
    children
}

fn in_order(
    statements: &Statements,
    children: &Children<'_>,
    genesis: StatementId,
) -> Vec<StatementId> {
    let mut order = Vec::with_capacity(statements.len());
    order.extend(statements.contains_key(&genesis).then_some(genesis));
    let mut next = 0;
    while let Some(id) = order.get(next) {
        let below = children.get(id).into_iter().flatten();
        order.extend(below.map(|statement| statement.id).collect::<Vec<_>>());
        next += 1;
    }
    order
}
