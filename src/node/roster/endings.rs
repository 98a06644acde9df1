//! What ends the right to write: which statements do, and of which admissions.

use super::statement::Claim;
use super::view::{Statements, line_of};
use super::{Roster, StatementId};
use crate::base::DeviceId;
use crate::log::chain::Ending;

impl Roster {
    /// Returns the statements that hold and end the right to write of somebody who had it.
    pub fn endings(&self) -> impl Iterator<Item = StatementId> {
        self.view.endings.iter().copied()
    }

    /// Returns what a statement ends, `None` where it is not here, or what it speaks of.
    pub fn ending(&self, statement: StatementId) -> Option<Ending> {
        let found = self.attached.get(&statement)?;
        let (ends, removed) = match &found.content.claim {
            Claim::Remove { admission, .. } => (*admission, Some(admission.0)),
            Claim::Reassign { replaces, role, .. } if !role.writes() => (*replaces, None),
            _ => return Some(Ending::default()),
        };
        let line = line_of(&self.attached, ends)?;
        let admissions = line.into_iter().map(|id| id.0).collect();
        Some(Ending {
            admissions,
            removed,
        })
    }

    /// Returns an admission and those whose place it took, as far as they are here.
    pub fn line(&self, admission: StatementId) -> Vec<StatementId> {
        line_of(&self.attached, admission).unwrap_or_else(|| vec![admission])
    }

    /// Says whether a device may write by an admission, or may have before that ended; `None` where the
    /// admission is not here, or those whose place it took.
    pub fn lets_write(&self, admission: StatementId, device: DeviceId) -> Option<bool> {
        line_of(&self.attached, admission)?;
        let (identity, role, _) = self.attached.get(&admission)?.content.claim.admission()?;
        Some(role.writes() && identity.device() == device)
    }
}

/// Says whether one of an admission and those whose place it took lets somebody write.
pub(super) fn lets_anybody_write(statements: &Statements, admission: StatementId) -> bool {
    let line = line_of(statements, admission).unwrap_or_default();
    let mut claims = line.iter().filter_map(|id| statements.get(id));
    claims.any(|found| {
        let admission = found.content.claim.admission();
        admission.is_some_and(|(_, role, _)| role.writes())
    })
}
