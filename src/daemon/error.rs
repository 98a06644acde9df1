//! What keeps a daemon from running or answering, each with its line for the user and its kind.

use std::path::PathBuf;

use super::control::FailKind;
use crate::crypto::{CryptoError, PhraseError};
use crate::data::DataError;
use crate::fs::FsError;
use crate::fuse::FuseError;
use crate::node::{NodeError, RosterError, TokenError};
use crate::replica::ReplicaError;
use crate::store::StoreError;
use crate::transport::TransportError;
use crate::volume::VolumeError;

/// Says why a daemon cannot run or answer. `Display` is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// There is no place for the default state folder.
    #[error("no home folder for the state: set HOME or pass --state DIR")]
    NoHome,
    /// The system refused something.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Whoever started a peer that asks to be admitted has gone, or told it to end.
    #[error("given up before an admin decided: start again to go on asking, with the same code")]
    GivenUp,
    /// Neither is there anything at a path, nor is anything kept that was there.
    #[error(
        "there is no file of that name, and none is kept that was removed: what was replaced or removed is \
         kept for {} (dfs config history)",
        kept
    )]
    NoHistory {
        /// For how long it is.
        kept: String,
    },
    /// No content of a file is kept of the time that is wanted.
    #[error("no other content of that file is kept from then: dfs history lists those that are")]
    NoVersion,
    /// No snapshot has a name, or is as old as a moment.
    #[error("there is no snapshot {of}, and none of a moment before that (see dfs snapshot list)")]
    NoSnapshot {
        /// The name, or the moment.
        of: String,
    },
    /// Nothing was at a path.
    #[error("nothing was there in the snapshot {snapshot}")]
    NotThen {
        /// When.
        snapshot: String,
    },
    /// What is there cannot be kept before it is made what it was.
    #[error(
        "no snapshot can be made of what is there now, so nothing was done: try again in a moment"
    )]
    NotKept,
    /// No machine that asks to be admitted has this code.
    #[error(
        "no machine asks with the code {code}: it was admitted, has given up, or asks for another \
         volume (see dfs approve)"
    )]
    CodeUnknown {
        /// The code.
        code: String,
    },
    /// A start without state that says nothing of where it would come from.
    #[error(
        "no volume's state is at {state}: start with --new to make a volume, --invite TOKEN to \
         join one, or --peer HOST:PORT to ask its members for admission", state = state.display()
    )]
    NoState {
        /// The state folder.
        state: PathBuf,
    },
    /// The same where mount(8) or systemd started this, who must neither make a volume nor ask.
    #[error(
        "no volume's state is at {state}, and none is made at boot or by mount(8): is its disk \
         mounted? For a first start run dfs-mount by hand, with --new, --invite TOKEN or --peer \
         HOST:PORT", state = state.display()
    )]
    NoStateUnattended {
        /// The state folder.
        state: PathBuf,
    },
    /// `--new` where there is a volume already.
    #[error(
        "{state} holds a volume's state already: start without --new to mount that, or choose \
         another --state DIR for a new one", state = state.display()
    )]
    NewButKnown {
        /// The state folder.
        state: PathBuf,
    },
    /// The file of settings is not what was written there.
    #[error(
        "{} is damaged: remove it, and start with the options that are to hold", path.display()
    )]
    Settings {
        /// The file.
        path: PathBuf,
    },
    /// Another daemon holds the state folder, and goes on.
    #[error(
        "the state folder {state} is in use by process {pid}: dfs stop --state {state} ends it",
        state = state.display()
    )]
    Held {
        /// The state folder.
        state: PathBuf,
        /// The process, 0 where that is not known.
        pid: u32,
    },
    /// The mount is not taken away while somebody uses it.
    #[error(
        "{path} is in use: close what is open there (fuser -vm {path} names it), or end it all the \
         same with dfs stop --force", path = path.display()
    )]
    Busy {
        /// The mountpoint.
        path: PathBuf,
    },
    /// The token is for another volume than the state folder's.
    #[error("{state} belongs to another volume than the invite: choose another --state DIR", state = state.display())]
    OtherVolume {
        /// The state folder.
        state: PathBuf,
    },
    /// The daemon's own files would lie in its mount.
    #[error("the state folder {state} lies in the mountpoint: choose another --state DIR", state = state.display())]
    StateInMount {
        /// The state folder.
        state: PathBuf,
    },
    /// A storage peer has no key and so cannot mount.
    #[error("this peer's role is storage, which cannot mount: run dfs node --state {state}", state = state.display())]
    StorageCannotMount {
        /// The state folder.
        state: PathBuf,
    },
    /// The token admits a storage peer, which has no key and so cannot mount.
    #[error("this invite admits a storage peer: pass it to dfs node, or make one with dfs invite")]
    StorageInvite,
    /// A first start of `dfs node` with nothing to join.
    #[error(
        "dfs node needs a volume: pass --invite TOKEN (from dfs invite --role storage on an admin's \
         machine) to join one, or --peer HOST:PORT to ask its members for admission"
    )]
    NodeNeedsInvite,
    /// The peers did not send the volume's log in time.
    #[error(
        "joined, but the volume's log did not arrive in time: start again while a member is online"
    )]
    FirstSync,
    /// The text of the invite is no token.
    #[error("{0}: copy the whole token that dfs invite printed")]
    Token(TokenError),
    /// A host name has no address.
    #[error("cannot find the address of {host}: {source}")]
    Resolve {
        /// What was looked up.
        host: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// Other holders did not confirm in time.
    #[error("not on enough peers in time: it is on this machine's disk, and goes on being pushed")]
    NotReplicated,
    /// A leave would leave behind what no other machine has.
    #[error(
        "{what} would be left behind: connect the other machines and try again, or leave all the same \
         with --force"
    )]
    OnlyHere {
        /// What it is.
        what: String,
    },
    /// This machine has left its volume.
    #[error(
        "this machine left the volume: {state} keeps what it had; come in again with another --state \
         DIR, by an invite or an admin's word",
        state = state.display()
    )]
    Left {
        /// The state folder.
        state: PathBuf,
    },
    /// The words are no recovery phrase.
    #[error(transparent)]
    Phrase(#[from] PhraseError),
    /// Nobody is named who could be asked for the volume of a recovery phrase.
    #[error("--recovery needs a peer of the volume to ask: name one with --peer HOST:PORT")]
    RecoveryNeedsPeer,
    /// The verb needs a mount.
    #[error("this peer only stores: it cannot see files")]
    NoFiles,
    /// The path is not in the volume.
    #[error("no such file in the volume")]
    NoSuchFile,
    /// The text is no role, id or path.
    #[error("{what}")]
    BadRequest {
        /// What is wrong with it.
        what: String,
    },
    /// A report could not be turned into JSON.
    #[error("cannot print the answer")]
    Unprintable,
    /// A worker thread broke off.
    #[error("an internal worker failed: see dfs log")]
    WorkerFailed,
    /// See [`FuseError`].
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// See [`NodeError`].
    #[error(transparent)]
    Node(#[from] NodeError),
    /// See [`TransportError`].
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// See [`VolumeError`].
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// See [`CryptoError`].
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// See [`ReplicaError`].
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// See [`DataError`].
    #[error(transparent)]
    Data(#[from] DataError),
    /// See [`FsError`].
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A damaged state folder has nothing that could be shown.
    #[error(
        "nothing can be read of {} any more: put it back from your backup, or join anew with \
         `dfs-mount MOUNTPOINT --state NEW --invite TOKEN`",
        state.display()
    )]
    NothingLeft {
        /// The state folder.
        state: PathBuf,
    },
    /// What lies in a state folder that opens is not what was written there.
    #[error(
        "{what}; make the rows anew from the other members with `dfs repair --state {} --peer \
         HOST:PORT`",
        state.display()
    )]
    StateDamaged {
        /// What is wrong.
        what: String,
        /// The state folder.
        state: PathBuf,
    },
    /// There is no folder to repair.
    #[error("there is no state folder at {}", state.display())]
    NothingToRepair {
        /// Where it should be.
        state: PathBuf,
    },
    /// A folder cannot be repaired whose peer nobody can prove to be any more.
    #[error(
        "{} is missing or damaged, and nobody else has it, so this machine cannot be repaired as the \
         member that it was: put the file back from your backup, or join anew with \
         `dfs-mount MOUNTPOINT --state NEW --invite TOKEN`",
        path.display()
    )]
    IdentityLost {
        /// The file.
        path: PathBuf,
    },
    /// What is left of a folder does not say enough, and nobody was asked.
    #[error(
        "what is left of the state folder does not say who the members are: name one that runs \
         with --peer HOST:PORT"
    )]
    RepairNeedsPeer,
    /// The volume's keys cannot be read any more, and nobody gave them.
    #[error(
        "the volume's keys in {} cannot be read any more: name a member that reads the volume with \
         --peer HOST:PORT", state.display()
    )]
    KeysLost {
        /// The state folder.
        state: PathBuf,
    },
    /// The file with the peer's secret is not what was written there.
    #[error(
        "{} is damaged: put it back from your backup, or join anew with \
         `dfs-mount MOUNTPOINT --state NEW --invite TOKEN`",
        path.display()
    )]
    KeyDamaged {
        /// The file.
        path: PathBuf,
    },
}

impl From<RosterError> for DaemonError {
    fn from(error: RosterError) -> Self {
        NodeError::from(error).into()
    }
}

impl DaemonError {
    /// Returns what the store said, where it is the store's fault.
    pub(super) fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error)
            | Self::Node(NodeError::Store(error))
            | Self::Volume(VolumeError::Store(error))
            | Self::Fs(FsError::Volume(VolumeError::Store(error))) => Some(error),
            Self::Replica(ReplicaError::Store(error)) => Some(error),
            _ => None,
        }
    }

    /// Returns what an exit code tells of this error.
    pub fn kind(&self) -> FailKind {
        match self {
            Self::Left { .. } | Self::StorageInvite | Self::StorageCannotMount { .. } => {
                FailKind::NotAllowed
            }
            Self::Token(_)
            | Self::Phrase(_)
            | Self::RecoveryNeedsPeer
            | Self::RepairNeedsPeer
            | Self::StateInMount { .. }
            | Self::NodeNeedsInvite
            | Self::NewButKnown { .. }
            | Self::BadRequest { .. } => FailKind::Usage,
            Self::FirstSync | Self::NotReplicated => FailKind::TimedOut,
            Self::Node(error) => node_kind(error),
            Self::Fuse(FuseError::UnknownOption { .. }) => FailKind::Usage,
            Self::Fuse(FuseError::OnlyRoot { .. } | FuseError::AllowOtherNotPermitted)
            | Self::Store(
                StoreError::NotPrivate { .. }
                | StoreError::NotOwned { .. }
                | StoreError::NotWritable { .. },
            ) => FailKind::NotAllowed,
            Self::NoHome
            | Self::KeyDamaged { .. }
            | Self::StateDamaged { .. }
            | Self::NothingToRepair { .. }
            | Self::IdentityLost { .. }
            | Self::KeysLost { .. }
            | Self::GivenUp
            | Self::CodeUnknown { .. }
            | Self::NoHistory { .. }
            | Self::NoVersion
            | Self::NoSnapshot { .. }
            | Self::NotThen { .. }
            | Self::NotKept
            | Self::NothingLeft { .. }
            | Self::NoState { .. }
            | Self::Settings { .. }
            | Self::Held { .. }
            | Self::Busy { .. }
            | Self::NoStateUnattended { .. }
            | Self::Io { .. }
            | Self::OtherVolume { .. }
            | Self::Resolve { .. }
            | Self::NoFiles
            | Self::OnlyHere { .. }
            | Self::NoSuchFile
            | Self::Unprintable
            | Self::WorkerFailed
            | Self::Fuse(_)
            | Self::Store(_)
            | Self::Transport(_)
            | Self::Volume(_)
            | Self::Crypto(_)
            | Self::Replica(_)
            | Self::Data(_)
            | Self::Fs(_) => FailKind::Failed,
        }
    }
}

fn node_kind(error: &NodeError) -> FailKind {
    match error {
        NodeError::Unreachable { .. }
        | NodeError::NoAdmin
        | NodeError::NoAnswer { .. }
        | NodeError::AskedTooLong => FailKind::TimedOut,
        NodeError::NotOnRoster
        | NodeError::Removed
        | NodeError::Denied
        | NodeError::Roster(RosterError::NotAdmin)
        | NodeError::WrongInvite
        | NodeError::UsedInvite
        | NodeError::ExpiredInvite
        | NodeError::RevokedInvite
        | NodeError::UnknownPhrase { .. }
        | NodeError::EndedPhrase
        | NodeError::OtherVolume { .. }
        | NodeError::Refused { .. } => FailKind::NotAllowed,
        NodeError::NoAddress => FailKind::Usage,
        _ => FailKind::Failed,
    }
}
