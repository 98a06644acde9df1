//! What can go wrong between this peer and the others.

use std::net::SocketAddr;

use super::roster::RosterError;
use super::token::TokenError;
use crate::base::PeerId;
use crate::base::limits::ASKING_MAX;
use crate::crypto::CryptoError;
use crate::log::LogError;
use crate::store::StoreError;
use crate::wire::Refusal;

/// Says why the node could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The local logs cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A key of this peer or of another does not work.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The state folder belongs to no volume yet: one is created or joined first.
    #[error("the state folder holds no volume yet")]
    NoVolume,
    /// The state folder belongs to a volume already.
    #[error("the state folder belongs to volume {} already", .volume.short())]
    HasVolume {
        /// That volume.
        volume: crate::base::VolumeId,
    },
    /// The roster in the local store is damaged.
    #[error("the roster in the local store is damaged")]
    DamagedRoster,
    /// There is no session with the peer.
    #[error("peer {} is not connected", .peer.short())]
    NotConnected {
        /// The peer.
        peer: PeerId,
    },
    /// The peer did not answer in time, or the session broke; the request may have been executed.
    #[error("peer {} does not answer", .peer.short())]
    NoAnswer {
        /// The peer.
        peer: PeerId,
    },
    /// The peer answered with something that is no answer to the request.
    #[error("peer {} breaks the protocol", .peer.short())]
    Protocol {
        /// The peer.
        peer: PeerId,
    },
    /// A message is larger than one may be; nothing was sent.
    #[error("the message is too large to send")]
    TooLarge,
    /// The peer does not do what was asked.
    #[error("peer {} refuses: {refusal}", .peer.short())]
    Refused {
        /// The peer.
        peer: PeerId,
        /// Its reason.
        refusal: Refusal,
    },
    /// The node is shut down.
    #[error("the node is shut down")]
    ShutDown,
    /// Nobody answers at any of the addresses.
    #[error("no peer answers at {}", list(.addrs))]
    Unreachable {
        /// The addresses that were tried.
        addrs: Vec<SocketAddr>,
    },
    /// No address is known to turn to.
    #[error("the invite names no address: give one with --peer HOST:PORT")]
    NoAddress,
    /// What answers there is no peer of a kind that this program understands.
    #[error("what answers at {addr} is not a dfs peer: {why}")]
    NotAPeer {
        /// The address.
        addr: SocketAddr,
        /// What the handshake or the answer said.
        why: String,
    },
    /// The peers that answered belong to another volume.
    #[error("the peer at {addr} belongs to another volume")]
    OtherVolume {
        /// The address.
        addr: SocketAddr,
    },
    /// The clocks are too far apart.
    #[error(
        "this machine's clock and that of the peer at {addr} differ by {} s: set the one that is wrong",
        skew_ms / 1000
    )]
    ClockSkew {
        /// The address.
        addr: SocketAddr,
        /// The difference, milliseconds.
        skew_ms: u64,
    },
    /// The peer speaks another version of the protocol.
    #[error("the peer at {addr} runs another version of dfs: {why}")]
    Version {
        /// The address.
        addr: SocketAddr,
        /// Which version is known where.
        why: String,
    },
    /// This peer is not on the roster of the volume.
    #[error("this machine is not a member of the volume: join with an invite")]
    NotOnRoster,
    /// This peer was removed from the volume.
    #[error("this machine was removed from the volume")]
    Removed,
    /// The roster that the peer shows does not begin with the volume's genesis, or is not signed.
    #[error("the peer at {addr} shows a member list that does not belong to the volume")]
    BadRoster {
        /// The address.
        addr: SocketAddr,
    },
    /// The roster that the peer shows lacks something that the issuer of the invite knew.
    #[error("the peer at {addr} shows a member list with gaps: name another with --peer HOST:PORT")]
    PartialRoster {
        /// The address.
        addr: SocketAddr,
    },
    /// Peers of the volume answer, but none of its admins.
    #[error("no admin of the volume can be reached, and only admins redeem invites")]
    NoAdmin,
    /// The text of the invite is no token.
    #[error("{0}: copy the whole token that `dfs invite` printed")]
    MalformedInvite(#[from] TokenError),
    /// The volume's admins know no such invite.
    #[error("the invite is not valid for this volume")]
    WrongInvite,
    /// The invite was used before.
    #[error("the invite was used already: ask for a new one")]
    UsedInvite,
    /// The invite is too old.
    #[error("the invite has expired: ask for a new one")]
    ExpiredInvite,
    /// An admin has taken the invite back.
    #[error("the invite was revoked: ask for a new one")]
    RevokedInvite,
    /// The peer's volume knows no such recovery phrase.
    #[error(
        "the volume of the peer at {addr} has no such recovery phrase: it is another volume's, or \
         that peer has not heard of it"
    )]
    UnknownPhrase {
        /// The address.
        addr: SocketAddr,
    },
    /// The recovery phrase held once.
    #[error(
        "this recovery phrase was replaced or revoked by an admin: use the one that was made last"
    )]
    EndedPhrase,
    /// The admin has no volume keys to give; it must have its volume open.
    #[error("the admin cannot hand out the volume keys now")]
    NoKeys,
    /// An admin decided not to admit this machine.
    #[error("an admin of the volume denied this machine")]
    Denied,
    /// Nobody approved this machine in time.
    #[error(
        "nobody approved this machine within {} min: start again to go on asking",
        ASKING_MAX.as_secs() / 60
    )]
    AskedTooLong,
    /// No machine with this key asks to be admitted.
    #[error("this machine does not ask any more: it was admitted, denied, or has given up")]
    NotAsking,
    /// The peer has no place for this machine now.
    #[error("the peer at {addr} is busy: try again later")]
    Busy {
        /// The address.
        addr: SocketAddr,
    },
    /// The roster does not allow it.
    #[error(transparent)]
    Roster(#[from] RosterError),
}

fn list(addrs: &[SocketAddr]) -> String {
    let texts: Vec<String> = addrs.iter().map(SocketAddr::to_string).collect();
    texts.join(", ")
}
