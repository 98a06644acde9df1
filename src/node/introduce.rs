//! Introductions: how a peer that is not on this one's roster shows that it belongs to the volume,
//! without being told which volume that is.
//!
//! Whoever answers at an address that the user named may be anybody: the address went to another
//! machine, or somebody put himself there. A hello names the volume, and the roster all its members.
//! So an unknown peer first gets a random number and a proof that this one knows the volume's id,
//! from which the id does not follow. A peer of the volume answers with its roster: where that
//! leads, by signatures, from this peer's own roster to the one that answers, it is a newer member.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::Node;
use super::error::NodeError;
use super::hello::{not_a_peer, refused};
use super::join::rest_of_roster;
use super::membership::page;
use super::session::{Session, ask};
use crate::base::limits::RPC_TIMEOUT;
use crate::base::{PeerId, VolumeId};
use crate::wire::{Refusal, Request, Response};

/// Domain of the proof: another use of BLAKE3 over the same bytes yields other numbers.
const PROOF_CONTEXT: &str = "dfs 2026 introduction";

/// Returns what shows `to`, who knows the volume's id too, that `from` knows it. Both are proved by
/// TLS, so that nobody can pass a proof on as his own.
fn proof(volume: VolumeId, nonce: &[u8; 32], from: PeerId, to: PeerId) -> blake3::Hash {
    let key = blake3::derive_key(PROOF_CONTEXT, &volume.0);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(nonce).update(&from.0).update(&to.0);
    hasher.finalize()
}

impl Node {
    /// Finds out whether a dialled peer that is not on the roster is a newer member, and takes over
    /// the statements that make it one.
    ///
    /// # Errors
    ///
    /// [`NodeError::NotAPeer`] where it is none, or what it says.
    pub(super) async fn introduce(
        self: &Arc<Self>,
        session: &Arc<Session>,
        addr: SocketAddr,
    ) -> Result<(), NodeError> {
        let peer = session.peer();
        let stranger = || NodeError::NotAPeer {
            addr,
            why: "it is not a member of this volume".to_owned(),
        };
        let nonce = self.rng.bytes();
        let request = Request::Introduce {
            nonce,
            proof: *proof(self.volume, &nonce, self.id, peer).as_bytes(),
        };
        let answer = ask(session, &request, Bytes::new(), RPC_TIMEOUT).await;
        let (statements, total) = match answer.map_err(|error| not_a_peer(addr, error))?.0 {
            Response::Roster { statements, total } => (statements, total),
            Response::Refused(refusal @ (Refusal::WrongVolume | Refusal::TooNew { .. })) => {
                return Err(refused(addr, refusal));
            }
            // The word of a stranger: what it says of this peer or its clock is worth nothing.
            _ => return Err(stranger()),
        };
        let statements = rest_of_roster(session, statements, total).await?;
        let mut roster = (*self.roster()).clone();
        roster.merge(statements.iter().map(|statement| &statement[..]));
        if roster.member(&peer).is_none() {
            return Err(stranger());
        }
        self.merge_roster(statements, Some(session)).await;
        Ok(())
    }

    /// Answers a peer that shows that it knows the volume's id: with the roster.
    pub(super) fn answer_introduce(
        &self,
        session: &Session,
        nonce: [u8; 32],
        shown: [u8; 32],
    ) -> Response {
        // Compared in constant time.
        if proof(self.volume, &nonce, session.peer(), self.id) != blake3::Hash::from(shown) {
            return Response::Refused(Refusal::WrongVolume);
        }
        session.know_volume();
        if !session.may_ask_roster() {
            return Response::Refused(Refusal::Busy);
        }
        let roster = self.roster();
        Response::Roster {
            statements: page(&roster, 0),
            total: u32::try_from(roster.statement_count()).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_volume_and_from_one_peer_to_another() {
        let (volume, a, b) = (VolumeId([1; 32]), PeerId([2; 32]), PeerId([3; 32]));
        let shown = proof(volume, &[0; 32], a, b);
        assert_eq!(shown, proof(volume, &[0; 32], a, b));
        assert_ne!(shown, proof(volume, &[0; 32], b, a));
        assert_ne!(shown, proof(volume, &[1; 32], a, b));
        assert_ne!(shown, proof(VolumeId([4; 32]), &[0; 32], a, b));
    }
}
