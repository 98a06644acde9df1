//! Which statements are kept where there are more than a roster holds: the same of one set, in whatever
//! order they came, so that two who have exchanged all have one digest.
//!
//! What records of the chain name stays, with all that it rests on, as others wait for it. Of the rest
//! that stays which is nearest to the genesis, then the oldest: so who floods a roster pushes out what was
//! said under admissions as far from the genesis as his own, and nobody above. A statement stands behind
//! its authority in this order, so none that is kept hangs in the air; and what is behind those that are
//! kept stays behind them whatever else comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::statement::{Claim, Statement, StatementId};
use super::{Roster, Word};
use crate::base::Stamp;

/// Where a statement stands among those of a roster: the last go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_spare: bool,
    depth: usize,
    stamp: Stamp,
    /// The statement, or for what a member says of itself its admission: a newer word has the place of
    /// the older one.
    of: StatementId,
    word: Option<Word>,
}

impl Roster {
    /// Says which statements records of the chain name: those are kept before others, and no later word
    /// of a member takes their place.
    pub fn pin(&mut self, named: Arc<BTreeSet<StatementId>>) {
        self.pinned = named;
    }

    /// Returns the statements that records of the chain name.
    pub fn pinned(&self) -> &Arc<BTreeSet<StatementId>> {
        &self.pinned
    }

    /// Drops what is beyond `max` statements; says whether anything was.
    pub(super) fn drop_beyond(&mut self, max: usize) -> bool {
        let beyond = self.attached.len().saturating_sub(max);
        if beyond == 0 {
            return false;
        }
        let needed = self.needed_by_pinned();
        let mut depths = BTreeMap::new();
        let mut ranks: Vec<(Rank, StatementId)> = Vec::with_capacity(self.attached.len());
        for statement in self.attached.values() {
            let rank = self.rank(statement, !needed.contains(&statement.id), &mut depths);
            ranks.push((rank, statement.id));
        }
        ranks.sort_unstable();
        for (_, id) in ranks.drain(max..) {
            self.attached.remove(&id);
        }
        let attached = &self.attached;
        self.words.retain(|_, id| attached.contains_key(id));
        tracing::warn!(beyond, "the roster is full: statements are dropped");
        true
    }

    /// Returns what records name, and all that it rests on: its authority, what was said before it, and
    /// what it speaks of.
    fn needed_by_pinned(&self) -> BTreeSet<StatementId> {
        let mut needed = BTreeSet::new();
        let mut open: Vec<StatementId> = self.pinned.iter().copied().collect();
        while let Some(id) = open.pop() {
            let Some(statement) = self.attached.get(&id).filter(|_| needed.insert(id)) else {
                continue;
            };
            let content = &statement.content;
            open.extend(content.authority);
            open.extend(content.prev);
            match &content.claim {
                Claim::Remove { admission, keep } => {
                    open.push(*admission);
                    open.extend(keep);
                }
                Claim::Reassign { replaces, keep, .. } => {
                    open.push(*replaces);
                    open.extend(keep);
                }
                Claim::Genesis { .. }
                | Claim::Admit { .. }
                | Claim::Invite { .. }
                | Claim::Grant { .. }
                | Claim::Rename { .. }
                | Claim::Revoke { .. }
                | Claim::Recovery { .. }
                | Claim::Set(_) => {}
            }
        }
        needed
    }

    fn rank(
        &self,
        statement: &Statement,
        is_spare: bool,
        depths: &mut BTreeMap<StatementId, usize>,
    ) -> Rank {
        let depth = self.depth_of(statement, depths);
        match self.place_of(statement) {
            Some((admission, word)) => Rank {
                is_spare,
                depth,
                stamp: self
                    .attached
                    .get(&admission)
                    .map_or(statement.content.stamp, |found| found.content.stamp),
                of: admission,
                word: Some(word),
            },
            None => Rank {
                is_spare,
                depth,
                stamp: statement.content.stamp,
                of: statement.id,
                word: None,
            },
        }
    }

    /// Returns how many authorities are above a statement.
    fn depth_of(&self, statement: &Statement, depths: &mut BTreeMap<StatementId, usize>) -> usize {
        let mut above = Vec::new();
        let mut at = statement.content.authority;
        let mut depth = 0;
        while let Some(id) = at {
            if let Some(known) = depths.get(&id) {
                depth = known + 1;
                break;
            }
            above.push(id);
            let found = self.attached.get(&id);
            at = found.and_then(|found| found.content.authority);
        }
        for id in above.into_iter().rev() {
            depths.insert(id, depth);
            depth += 1;
        }
        depth
    }
}
