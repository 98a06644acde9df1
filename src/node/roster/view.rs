//! What a set of statements means: a pure function of the set.
//!
//! Statements form a tree: each names the admission by which its issuer is an admin, up to the
//! genesis. Admins are judged in preorder: an admin before those that it admitted, and those in the
//! order of their admissions with all below them. Who comes earlier is *senior*. A removal makes
//! void what a junior admin issued and the remover had not seen, and by then nothing of the junior
//! has been judged; a removal of a senior ends its membership and leaves its statements as they
//! are. So no statement decides over another that decides over it, whatever their stamps say, and
//! a removed admin gains nothing by dating statements back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::statement::{Claim, Content, InviteId, Statement, StatementId};
use super::{Member, Role};
use crate::base::{DeviceId, PeerId};

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
    /// All statements, each behind the one that it takes its authority from.
    pub(super) order: Vec<StatementId>,
}

/// An invite as it was issued.
#[derive(Debug, Clone, Copy)]
pub(super) struct Invite {
    pub(super) role: Role,
    pub(super) expires_ms: u64,
}

/// Judges the statements. All of them hang below `genesis`, with signatures that hold.
pub(super) fn evaluate(statements: &Statements, genesis: StatementId) -> View {
    let children = children(statements);
    let mut judge = Judge {
        statements,
        children: &children,
        view: View {
            order: in_order(statements, &children, genesis),
            ..View::default()
        },
        cuts: BTreeMap::new(),
        removed: BTreeSet::new(),
        judged: BTreeSet::new(),
        admitted: Vec::new(),
    };
    let mut pending = Vec::new();
    if let Some(genesis) = statements.get(&genesis) {
        judge.admit(genesis);
        pending.push(genesis.id);
    }
    while let Some(admin) = pending.pop() {
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

struct Judge<'a> {
    statements: &'a Statements,
    children: &'a Children<'a>,
    view: View,
    /// For an admission the sets that go on to hold: a statement under it must be in all of them.
    cuts: BTreeMap<StatementId, Vec<BTreeSet<StatementId>>>,
    removed: BTreeSet<StatementId>,
    judged: BTreeSet<StatementId>,
    /// Admissions that hold, removed or not, most senior first.
    admitted: Vec<&'a Arc<Statement>>,
}

impl<'a> Judge<'a> {
    /// Applies what an admin issued; returns the admins that it admitted, oldest first.
    fn judge(&mut self, admin: StatementId) -> Vec<StatementId> {
        let children: &'a Children<'a> = self.children;
        let issued = children.get(&admin).map_or(&[][..], Vec::as_slice);
        // Admins that left have said which of their statements hold: nothing follows after that.
        for statement in self.holding(admin, issued) {
            if let Claim::Remove { admission, keep } = &statement.content.claim
                && *admission == admin
            {
                let mut kept = self.closure(admin, keep);
                kept.insert(statement.id);
                self.cuts.entry(admin).or_default().push(kept);
            }
        }
        self.judged.insert(admin);
        let mut admins = Vec::new();
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
                    };
                    self.view.invites.entry(*invite).or_insert(issued);
                }
                Claim::Remove { admission, keep } => {
                    self.removed.insert(*admission);
                    if !self.judged.contains(admission) {
                        let kept = self.closure(*admission, keep);
                        self.cuts.entry(*admission).or_default().push(kept);
                    }
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

    fn finish(mut self) -> View {
        for statement in self.admitted {
            let Some((identity, role, name)) = statement.content.claim.admission() else {
                continue;
            };
            let member = Member {
                id: identity.id(),
                identity: identity.clone(),
                role,
                name: name.to_owned(),
                admitted: statement.content.stamp,
                admission: statement.id,
            };
            if self.removed.contains(&statement.id) {
                self.view.former.insert(member.id, member);
            } else {
                let live = self.view.admissions.entry(member.id).or_default();
                live.push(statement.id);
                self.view.members.entry(member.id).or_insert(member);
            }
        }
        let View {
            members, former, ..
        } = &mut self.view;
        former.retain(|peer, _| !members.contains_key(peer));
        self.view
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
