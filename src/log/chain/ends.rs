//! What has ended by the records of the chain, and so how far the logs of those count who lost the right to
//! write.

use std::sync::Arc;

use super::fence::{Fence, Roll};
use super::keep::{Chain, State};
use super::record::Record;
use crate::base::LogId;
use crate::log::LogError;
use crate::wire::Vector;

impl Chain {
    /// Returns the chain of a volume whose members change: as the roll says.
    pub fn with_roll(self, roll: Arc<dyn Roll>) -> Self {
        Self { roll, ..self }
    }

    /// Returns what is asked about the members.
    pub fn roll(&self) -> &Arc<dyn Roll> {
        &self.roll
    }

    /// Says whether the statements are here that a record takes into account; until then it is as if
    /// it were unknown.
    pub fn knows_statements_of(&self, record: &Record) -> bool {
        let mut statements = record.statements.iter();
        statements.all(|statement| self.roll.ending(statement).is_some())
    }

    /// Returns what has ended by a record, of the statements that are here.
    pub fn fence_at(&self, number: u64) -> Fence {
        self.fence_of(&self.state.lock(), number).0
    }

    /// Returns what has ended by what is known of the members, whether a record took it into account or
    /// not.
    pub fn fence_of_roll(&self) -> Fence {
        let mut fence = Fence::new(Arc::clone(&self.roll));
        let endings = self.roll.endings().into_iter();
        for ending in endings.filter_map(|statement| self.roll.ending(&statement)) {
            fence.add(ending);
        }
        fence
    }

    /// Returns what has ended by the newest record.
    pub fn fence(&self) -> Arc<Fence> {
        self.fence_at_tip(&mut self.state.lock())
    }

    /// Says how far the logs count that are over, of what peers may be told of and is not named: see
    /// [`Pasts::limits`].
    pub fn limits(&self) -> Result<Vector, LogError> {
        self.limits_at_tip(&mut self.state.lock(), &self.log.offered())
    }

    /// Returns up to where logs count that are over, but for what records name: see [`Pasts::reach`].
    pub fn reach(&self) -> Result<Vector, LogError> {
        let mut state = self.state.lock();
        let fence = self.fence_at_tip(&mut state);
        let State { named, pasts, .. } = &mut *state;
        let named = |id: LogId| named.get(&id).copied().unwrap_or(0);
        pasts.reach(self, &fence, &self.log.vector(), &named, &[])
    }

    fn limits_at_tip(&self, state: &mut State, ends: &Vector) -> Result<Vector, LogError> {
        let fence = self.fence_at_tip(state);
        let State { named, pasts, .. } = state;
        let named = |id: LogId| named.get(&id).copied().unwrap_or(0);
        pasts.limits(self, &fence, ends, &named, &[])
    }

    fn fence_at_tip(&self, state: &mut State) -> Arc<Fence> {
        if let Some(fence) = &state.fence {
            return Arc::clone(fence);
        }
        let (fence, is_whole) = self.fence_of(state, u64::MAX);
        let fence = Arc::new(fence);
        state.fence = is_whole.then(|| Arc::clone(&fence));
        fence
    }

    /// Returns what has ended by a record, and whether that is all of it.
    fn fence_of(&self, state: &State, number: u64) -> (Fence, bool) {
        let mut fence = Fence::new(Arc::clone(&self.roll));
        let mut is_whole = true;
        for (statement, _) in state.taken.iter().filter(|(_, by)| **by <= number) {
            match self.roll.ending(statement) {
                Some(ending) => fence.add(ending),
                None => is_whole = false,
            }
        }
        (fence, is_whole)
    }

    /// Returns what counts of what peers may be told of.
    pub(super) fn offered_counting(&self, state: &mut State) -> Result<Vector, LogError> {
        let mut offered = self.log.offered();
        let limits = self.limits_at_tip(state, &offered)?;
        offered.extend(limits);
        Ok(offered)
    }
}
