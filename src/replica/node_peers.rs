//! The node as the swarm of this room, and this room as what the node serves.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use super::Replica;
use super::peers::{Answer, Ask, AskError, Link, Peers, PutOutcome};
use super::placement::Candidate;
use crate::base::limits::K;
use crate::base::{ChunkId, PeerId};
use crate::crypto::ProvenPart;
use crate::node::{ChunkHandler, Node, NodeError, NodeEvent, PeerInfo, PeerState, Transfer};
use crate::wire::{ChunkLen, ChunkRefusal, ChunkRequest, ChunkResponse, Request, Response};

/// The peers of a running node.
#[derive(Debug)]
pub struct NodePeers {
    node: Arc<Node>,
}

impl NodePeers {
    /// Returns the peers of `node`; this one gives what it told the others.
    pub fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self { node })
    }
}

#[async_trait]
impl Peers for NodePeers {
    fn me(&self) -> PeerId {
        self.node.id()
    }

    fn candidates(&self) -> Vec<Candidate> {
        let candidate = |peer, weight| Candidate {
            peer,
            weight,
            host: 0,
        };
        let others = self
            .node
            .peers()
            .into_iter()
            .map(|info| candidate(info.id, weight_of(&info)));
        let me = candidate(self.node.id(), weight(self.node.capacity_bytes()));
        others.chain(Some(me)).collect()
    }

    fn links(&self) -> Vec<Link> {
        let peers = self.node.peers().into_iter();
        peers
            .filter(|info| info.state == PeerState::Connected)
            .map(|info| Link {
                peer: info.id,
                rtt: Duration::from_millis(info.rtt_ms.unwrap_or(0)),
                sent_rate: info.sent_rate,
            })
            .collect()
    }

    fn expects_more(&self) -> bool {
        self.node.expects_peers()
    }

    async fn ask_for(
        &self,
        peer: PeerId,
        ask: Ask,
        timeout: Duration,
        transfer: &Transfer,
    ) -> Result<Answer, AskError> {
        let (request, payload, kind) = encode(ask);
        let request = Request::Chunk(request);
        let answer = self
            .node
            .request_for(peer, request, payload, timeout, transfer);
        let (response, payload) = answer.await.map_err(|error| ask_error(&error))?;
        let Response::Chunk(response) = response else {
            return Err(AskError::Refused);
        };
        decode(response, payload, kind).ok_or(AskError::Refused)
    }

    async fn lookup(&self, id: &ChunkId) -> Vec<PeerId> {
        self.node.closest(&id.0, K)
    }

    fn newest_record(&self) -> u64 {
        self.node.chain().tip().number
    }

    fn subscribe(&self) -> broadcast::Receiver<NodeEvent> {
        self.node.subscribe()
    }
}

impl Replica {
    /// Returns what answers other peers; it does not keep the replica alive.
    pub fn handler(self: &Arc<Self>) -> Arc<dyn ChunkHandler> {
        Arc::new(Server(Arc::downgrade(self)))
    }
}

/// Answers requests of the wire from a replica.
#[derive(Debug)]
struct Server(Weak<Replica>);

#[async_trait]
impl ChunkHandler for Server {
    async fn handle(
        &self,
        from: PeerId,
        request: ChunkRequest,
        payload: Bytes,
    ) -> (ChunkResponse, Bytes) {
        let refuse = |refusal| (ChunkResponse::Refused(refusal), Bytes::new());
        let Some(replica) = self.0.upgrade() else {
            return refuse(ChunkRefusal::Busy);
        };
        let ask = match request {
            ChunkRequest::Get { id } => Ask::Get(id),
            ChunkRequest::GetPart { id, start, end } => {
                Ask::GetPart(id, start as usize..end as usize)
            }
            ChunkRequest::Have { ids, asked } => Ask::Hold(ids, asked),
            ChunkRequest::Query { ids } => Ask::Query(ids),
            ChunkRequest::Lost { ids } => Ask::Lost(ids),
            ChunkRequest::Named { ids } => Ask::Named(ids),
            ChunkRequest::Collect => Ask::Collect,
            ChunkRequest::Put { chunks, asked } => match split(&chunks, payload) {
                Some(chunks) => Ask::Put(chunks, asked),
                None => {
                    tracing::debug!(%from, "a put does not fit its payload");
                    return refuse(ChunkRefusal::Malformed);
                }
            },
        };
        match replica.serve(from, ask).await {
            None => refuse(ChunkRefusal::Failed),
            Some(Answer::Get(None) | Answer::GetPart(None)) => {
                (ChunkResponse::Missing, Bytes::new())
            }
            Some(Answer::GetPart(Some(part))) => {
                // A sealed chunk is little more than 1 MiB, so its length fits.
                let (len, hashes) = (part.len as u32, part.hashes);
                (ChunkResponse::Part { len, hashes }, part.bytes)
            }
            Some(Answer::Get(Some(sealed))) => (ChunkResponse::Found, sealed),
            Some(Answer::Coming) => (ChunkResponse::Coming, Bytes::new()),
            Some(Answer::Hold(kept)) => (ChunkResponse::Have { kept }, Bytes::new()),
            Some(Answer::Noted) => (ChunkResponse::Noted, Bytes::new()),
            Some(Answer::Named { base_line, named }) => {
                (ChunkResponse::Named { base_line, named }, Bytes::new())
            }
            Some(Answer::Put(outcomes)) => {
                let refused = outcomes.into_iter().map(refusal).collect();
                (ChunkResponse::Stored { refused }, Bytes::new())
            }
        }
    }
}

/// Which answer is due.
#[derive(Debug, Clone, Copy)]
enum AskKind {
    Hold,
    Put,
    Get,
    GetPart,
    Told,
    Named,
}

fn encode(ask: Ask) -> (ChunkRequest, Bytes, AskKind) {
    match ask {
        Ask::Hold(ids, asked) => {
            let have = ChunkRequest::Have { ids, asked };
            (have, Bytes::new(), AskKind::Hold)
        }
        Ask::Query(ids) => (ChunkRequest::Query { ids }, Bytes::new(), AskKind::Hold),
        Ask::Lost(ids) => (ChunkRequest::Lost { ids }, Bytes::new(), AskKind::Told),
        Ask::Collect => (ChunkRequest::Collect, Bytes::new(), AskKind::Told),
        Ask::Named(ids) => (ChunkRequest::Named { ids }, Bytes::new(), AskKind::Named),
        Ask::Get(id) => (ChunkRequest::Get { id }, Bytes::new(), AskKind::Get),
        Ask::GetPart(id, wanted) => {
            let (start, end) = (wanted.start as u32, wanted.end as u32);
            let get = ChunkRequest::GetPart { id, start, end };
            (get, Bytes::new(), AskKind::GetPart)
        }
        Ask::Put(chunks, asked) => {
            // A sealed chunk is little more than 1 MiB, so its length fits.
            let lens = chunks
                .iter()
                .map(|(id, sealed)| ChunkLen {
                    id: *id,
                    len: sealed.len() as u32,
                })
                .collect();
            let payload = match &chunks[..] {
                [(_, only)] => only.clone(),
                _ => {
                    let sealed: Vec<&[u8]> = chunks.iter().map(|(_, sealed)| &sealed[..]).collect();
                    Bytes::from(sealed.concat())
                }
            };
            let put = ChunkRequest::Put {
                chunks: lens,
                asked,
            };
            (put, payload, AskKind::Put)
        }
    }
}

fn decode(response: ChunkResponse, payload: Bytes, kind: AskKind) -> Option<Answer> {
    match (kind, response) {
        (AskKind::Hold, ChunkResponse::Have { kept }) => Some(Answer::Hold(kept)),
        (AskKind::Get, ChunkResponse::Found) => Some(Answer::Get(Some(payload))),
        (AskKind::Get, ChunkResponse::Missing) => Some(Answer::Get(None)),
        (AskKind::GetPart, ChunkResponse::Missing) => Some(Answer::GetPart(None)),
        (AskKind::GetPart, ChunkResponse::Part { len, hashes }) => {
            Some(Answer::GetPart(Some(ProvenPart {
                len: len as usize,
                hashes,
                bytes: payload,
            })))
        }
        (AskKind::Get, ChunkResponse::Coming) => Some(Answer::Coming),
        (AskKind::Told, ChunkResponse::Noted) => Some(Answer::Noted),
        (AskKind::Named, ChunkResponse::Named { base_line, named }) => {
            Some(Answer::Named { base_line, named })
        }
        (AskKind::Put, ChunkResponse::Stored { refused }) => {
            Some(Answer::Put(refused.into_iter().map(outcome).collect()))
        }
        _ => None,
    }
}

/// Cuts a payload into its chunks; `None` where the lengths do not add up to it.
fn split(lens: &[ChunkLen], mut payload: Bytes) -> Option<Vec<(ChunkId, Bytes)>> {
    let mut chunks = Vec::with_capacity(lens.len());
    for chunk in lens {
        let len = usize::try_from(chunk.len).ok()?;
        if len > payload.len() {
            return None;
        }
        chunks.push((chunk.id, payload.split_to(len)));
    }
    payload.is_empty().then_some(chunks)
}

fn refusal(outcome: PutOutcome) -> Option<ChunkRefusal> {
    match outcome {
        PutOutcome::Stored => None,
        PutOutcome::Full => Some(ChunkRefusal::Full),
        PutOutcome::Corrupt => Some(ChunkRefusal::Corrupt),
        PutOutcome::Failed => Some(ChunkRefusal::Failed),
    }
}

fn outcome(refused: Option<ChunkRefusal>) -> PutOutcome {
    match refused {
        None => PutOutcome::Stored,
        Some(ChunkRefusal::Full) => PutOutcome::Full,
        Some(ChunkRefusal::Corrupt) => PutOutcome::Corrupt,
        Some(ChunkRefusal::Malformed | ChunkRefusal::Failed | ChunkRefusal::Busy) => {
            PutOutcome::Failed
        }
    }
}

fn ask_error(error: &NodeError) -> AskError {
    match error {
        NodeError::NotConnected { .. } | NodeError::ShutDown => AskError::Unreachable,
        NodeError::NoAnswer { .. } => AskError::TimedOut,
        _ => AskError::Refused,
    }
}

/// Returns the share of a peer. One that was never met counts as the smallest that stores: the
/// roster names it, so others may already place chunks there.
fn weight_of(info: &PeerInfo) -> u32 {
    if info.last_contact_ms.is_none() && info.capacity_bytes == 0 {
        return 1;
    }
    weight(info.capacity_bytes)
}

/// Returns the share of a peer by what it gives: GiB, rounded down to a power of two, so that all
/// peers see the same and a small change moves nothing.
fn weight(capacity_bytes: u64) -> u32 {
    match capacity_bytes {
        0 => 0,
        // The bound of 2^20 GiB keeps one boundless peer from taking everything.
        _ => 1 << (capacity_bytes >> 30).max(1).ilog2().min(20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_crosses_the_wire_unchanged() {
        for count in 1..4u8 {
            let chunks: Vec<(ChunkId, Bytes)> = (0..count)
                .map(|n| (ChunkId([n; 32]), Bytes::from(vec![n; usize::from(n) * 3])))
                .collect();
            let (request, payload, _) = encode(Ask::Put(chunks.clone(), 7));
            let ChunkRequest::Put {
                chunks: lens,
                asked: 7,
            } = request
            else {
                panic!("not a put")
            };
            assert_eq!(split(&lens, payload.clone()), Some(chunks));
            assert_eq!(split(&lens, [&payload[..], b"x"].concat().into()), None);
            if !payload.is_empty() {
                assert_eq!(split(&lens, payload.slice(1..)), None);
            }
        }
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let answer = decode(ChunkResponse::Found, Bytes::new(), AskKind::Put);
        assert!(answer.is_none());
        let refused = ChunkResponse::Refused(ChunkRefusal::Busy);
        assert!(decode(refused, Bytes::new(), AskKind::Hold).is_none());
    }

    #[test]
    fn weights_go_in_powers_of_two() {
        let gib = 1 << 30;
        let steps = [
            (0, 0),
            (1, 1),
            (gib, 1),
            (3 * gib, 2),
            (100 * gib, 64),
            (u64::MAX, 1 << 20),
        ];
        for (capacity, expected) in steps {
            assert_eq!(weight(capacity), expected);
        }
    }
}
