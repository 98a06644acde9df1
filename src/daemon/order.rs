//! How far the order of the changes is fixed by records of the chain, and who that waits for.

use super::look::span;
use super::peer::Peer;
use super::report::OrderReport;
use crate::base::{DeviceId, PeerId};
use crate::node::PeerState;

/// How long changes may wait for their record before it is told: who decides may be asleep for a night.
const TOLD_AFTER_MS: u64 = 24 * 3_600_000;

impl Peer {
    /// Returns how far the order of the changes is fixed.
    pub fn order(&self) -> OrderReport {
        let (node, chain) = (self.node(), self.node().chain());
        let tip = chain.tip();
        let record = chain.get(tip.number).ok().flatten();
        // What counts no more waits for no record.
        let offered = node.counting(node.log().offered()).into_iter();
        let waiting = offered.map(|(log, last)| last.saturating_sub(chain.named(log)));
        let voters = chain.voters();
        let missed = voters.iter().filter(|voter| !self.is_heard(voter.device));
        let missed: Vec<String> = missed.map(|voter| self.device_name(voter.device)).collect();
        OrderReport {
            era: tip.era,
            record: tip.number,
            record_ms: record.map_or(0, |record| record.time_ms),
            waiting_segments: waiting.sum(),
            decided_by: voters
                .into_iter()
                .map(|voter| self.device_name(voter.device))
                .collect(),
            missed,
            parted: node
                .parted()
                .into_iter()
                .map(|peer| self.device_name(DeviceId::from(peer)))
                .collect(),
        }
    }

    /// Tells who has another order of the changes than this one. Whoever goes over to the one that counts does so
    /// as soon as it hears of it: where this lasts, something keeps one of them from it.
    pub(super) fn parted_trouble(&self) -> Option<(String, String)> {
        let parted = self.node().parted().into_iter();
        let names: Vec<String> = parted
            .map(|peer| self.device_name(DeviceId::from(peer)))
            .collect();
        (!names.is_empty()).then(|| {
            let of = names.join(" and ");
            let what = format!("there are two orders of the changes: that of {of} is not the one here");
            let advice = format!(
                "the one that does not count is given up by itself, and no change of a member is lost by it; where this \
                 lasts, see dfs status and dfs members here and on {of}, and remove who does not belong to the volume"
            );
            (what, advice)
        })
    }

    /// Says whether a device is this one, or answers now.
    fn is_heard(&self, device: DeviceId) -> bool {
        let is = |id: PeerId| DeviceId::from(id) == device;
        let peers = self.node().peers().into_iter();
        let mut up = peers.filter(|peer| peer.state == PeerState::Connected);
        is(self.node().id()) || up.any(|peer| is(peer.id))
    }

    /// Returns what is told where the order waits for somebody who has been away for long.
    pub(super) fn order_advice(&self, order: &OrderReport) -> Option<String> {
        let waited = self.clock().wall_ms().saturating_sub(order.record_ms);
        if order.waiting_segments == 0 || order.missed.is_empty() || waited < TOLD_AFTER_MS {
            return None;
        }
        let who = order.missed.join(" and ");
        let since = match order.record_ms {
            0 => String::new(),
            _ => format!(" of the last {}", span(waited)),
        };
        let name = &order.missed[0];
        Some(format!(
            "the changes{since} wait for {who} to fix their order: everything goes on meanwhile, but what they \
             replaced or removed is kept until then, and a late change may still come before them. One that is lost \
             is removed by an admin, with dfs members remove {name}: then the others go on"
        ))
    }
}
