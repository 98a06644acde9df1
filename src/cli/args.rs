//! The arguments: one definition that yields the parser, `--help` and the man pages.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::secret::Secret;
use super::units::{parse_duration, parse_host_port, parse_listen, parse_size};

/// Mounts a shared, encrypted volume that lives on the machines of its members.
///
/// A first start with --new makes a volume, one with --invite joins the volume of the one who gave
/// the token, and one with --peer alone asks to be admitted. Every later start needs none of them.
/// The command returns when the mount is up; the peer goes on in the background until the mount is
/// taken away with umount.
#[derive(Debug, Parser)]
#[command(name = "dfs-mount", version, max_term_width = 100)]
pub struct MountArgs {
    /// Folder to mount on. A source name before it, as mount(8) passes one, says that nobody looks
    /// on: without a volume's state such a start fails at once
    #[arg(required = true, num_args = 1..=2, value_name = "MOUNTPOINT")]
    pub mountpoint: Vec<PathBuf>,

    /// Make a new volume; nothing else makes one. Not from fstab, mount(8) or systemd
    #[arg(long, conflicts_with_all = ["peers", "invite"])]
    pub new: bool,

    #[command(flatten)]
    pub peer: PeerArgs,

    /// What fsync waits for: this machine's disk, or other holders too [default: local]
    #[arg(long, value_enum, value_name = "local|replicated")]
    pub fsync: Option<FsyncArg>,

    /// Mount options, as in fstab: ro, allow_other, direct_io (past the kernel's page cache), ino64
    /// (inode numbers of 63 bits in place of 32, which 32-bit programs may not know),
    /// locks=strict|available (where too few machines are reached to grant locks to all, they fail,
    /// or hold on this machine alone, which is the default),
    /// default_permissions, max_read=N, and the options of mount(8) that need no action here; also
    /// state=DIR, listen=ADDR:PORT, name=NAME, capacity=SIZE, cache=SIZE, fsync=local|replicated,
    /// peer=HOST:PORT, which mean what the options of these names do. A comma within one is
    /// written \\,
    #[arg(short = 'o', value_name = "FUSEOPTS")]
    pub options: Vec<String>,

    /// Stay in the foreground; print one line, `mounted MOUNTPOINT`, when ready
    #[arg(short, long)]
    pub foreground: bool,
}

/// What a peer is started with, mount or not. Address, name, sizes and fsync are kept for the later
/// starts.
#[derive(Debug, Clone, Args)]
pub struct PeerArgs {
    /// A peer of the volume to contact; may be given more than once
    #[arg(long = "peer", value_name = "HOST:PORT", value_parser = parse_host_port)]
    pub peers: Vec<String>,

    /// Token from `dfs invite`, for the first start of a new member; from a file or the standard
    /// input it is not seen in the list of processes
    #[arg(long, value_name = "TOKEN|@FILE|-", value_parser = Secret::parser())]
    pub invite: Option<Secret>,

    /// Words from `dfs recovery`, with which a new machine enters a volume as an admin, through any of
    /// its peers; needs --peer
    #[arg(long, value_name = "@FILE|-", value_parser = Secret::parser(), conflicts_with = "invite")]
    pub recovery: Option<Secret>,

    /// Folder of this peer's state [default: one for each mountpoint below $XDG_DATA_HOME/dfs, or
    /// /var/lib/dfs for root]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// UDP address to listen on [default: [::]:4750, IPv4 and IPv6, or a free port where that is taken]
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen)]
    pub listen: Option<SocketAddr>,

    /// Name of this machine for the other members, said at the first start [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Disk space that this peer offers to the volume, like 100G [default: half of what is free at
    /// the first start]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub capacity: Option<u64>,

    /// Disk space for chunks beyond what this peer must hold, like 20G [default: as the capacity]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub cache: Option<u64>,

    /// Log more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What fsync waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FsyncArg {
    /// The bytes are on this machine's disk.
    Local,
    /// The bytes are also on other holders' disks.
    Replicated,
}

/// Speaks to a running peer of a dfs volume, or runs one without a mount.
#[derive(Debug, Parser)]
#[command(name = "dfs", version, max_term_width = 100)]
pub struct DfsArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    #[command(subcommand)]
    pub verb: Verb,
}

/// What `dfs` can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a storage peer without a mount, in the foreground; prints `ready` when it serves
    Node(PeerArgs),
    /// Show the volume and this peer, or the replicas of one file
    Status(StatusArgs),
    /// List the other peers: address, role, round trip, state
    Peers(PeersArgs),
    /// Print a token that admits one new peer; the token is alone on the last line
    Invite(InviteArgs),
    /// List the machines that ask to be admitted, or admit one
    Approve(ApproveArgs),
    /// List the members of the volume, or change what one is called or may do, or remove one
    Members(MembersArgs),
    /// Show the settings of this machine, or change one
    Config(ConfigArgs),
    /// Take the mount away and return when the peer has ended and nothing changes any more
    Stop(StopArgs),
    /// Give this machine another name for the other members
    Rename(RenameArgs),
    /// Take this machine out of the volume; it ends, and its state folder stays
    Leave(LeaveArgs),
    /// Print words that let a new machine in as an admin when all others are lost
    Recovery(RecoveryArgs),
    /// List what two people changed at once, of which the merge kept both
    Conflicts(ConflictsArgs),
    /// Settle a conflict: say whose side keeps the name, or that both stay
    Resolve(ResolveArgs),
    /// List what a file held before, or what was removed from a folder and those below it
    History(HistoryArgs),
    /// Have back what was replaced or removed, as a new change
    Restore(RestoreArgs),
    /// Keep the volume as it is now under a name, or list what was kept, or let go of it
    Snapshot(SnapshotArgs),
    /// Wait until everything is replicated
    Sync(SyncArgs),
    /// Give up now what nothing needs any more, on all peers that are there
    Gc(CollectArgs),
    /// Show this peer's activity log
    Log(LogArgs),
    /// Rebuild a damaged state folder from the other members and from what can still be read of it
    Repair(RepairArgs),
    /// Run three peers on this machine under a temporary folder and show them at work
    Demo(DemoArgs),
    /// Write the man pages to a folder
    #[command(hide = true)]
    Man {
        /// Folder to write to
        dir: PathBuf,
    },
}

/// Which running peer is meant.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// State folder of the peer [default: the mount of the current folder, else the only running
    /// peer]
    #[arg(long, value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
}

/// Arguments of the verbs that print facts.
#[derive(Debug, Clone, Args)]
pub struct FactArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// A path inside the mount, to pick the peer
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
}

/// Arguments of `dfs status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// List what the daemon does in the background: what each worker waits for, or fails with
    #[arg(long)]
    pub workers: bool,

    /// File or folder in the mount; the mountpoint itself means the volume
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
}

/// Arguments of `dfs conflicts`.
#[derive(Debug, Args)]
pub struct ConflictsArgs {
    #[command(flatten)]
    pub fact: FactArgs,

    /// Show how the two sides of each differ, as diff(1) does
    #[arg(long, conflicts_with = "json")]
    pub diff: bool,
}

/// Arguments of `dfs resolve`.
#[derive(Debug, Args)]
pub struct ResolveArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Whose side keeps the name: the name of a device or its id's first digits, `mine` (this
    /// machine's), `theirs`, or `both`; of two sides of one device the path of the one that is
    /// meant. What is not kept is removed. Where nothing stands aside there is nothing to say
    #[arg(long, value_name = "DEVICE|mine|theirs|both")]
    pub keep: Option<String>,

    /// The file or one of its copies; of a file all its conflicts are meant
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// Arguments of `dfs history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// File or folder in the mount; it may be one that was removed
    #[arg(value_name = "FILE|DIR")]
    pub path: PathBuf,
}

/// Arguments of `dfs restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Have back all that was removed from this folder and those below it, where nothing has the name now
    #[arg(long)]
    pub deleted: bool,

    /// Make this folder or file what it was in a snapshot: of this name, or the newest one of this time at the
    /// latest. What is there now and was not there then is removed; a snapshot is made of it before
    #[arg(long, value_name = "TIME|SNAPSHOT", conflicts_with = "deleted")]
    pub to: Option<String>,

    /// With --to: do not ask
    #[arg(long, requires = "to")]
    pub yes: bool,

    /// The file, or what was removed; with @TIME as it was at that time, which is written as `dfs
    /// history` does, or as a span before now, like @2h. Else as it was before the last change
    #[arg(value_name = "FILE[@TIME]|DIR")]
    pub path: PathBuf,
}

/// Arguments of `dfs snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    #[command(subcommand)]
    pub verb: SnapshotVerb,
}

/// What `dfs snapshot` does.
#[derive(Debug, Subcommand)]
pub enum SnapshotVerb {
    /// Keep what this machine sees of the volume now; returns as soon as the moment is chosen
    Create {
        /// What it is to be called [default: the time]
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// List what was kept, oldest first
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let go of one that was kept, on all machines
    Remove {
        /// What it is called
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Arguments of `dfs peers`.
#[derive(Debug, Args)]
pub struct PeersArgs {
    #[command(flatten)]
    pub fact: FactArgs,

    /// Show whole identifiers and what each peer holds
    #[arg(short, long)]
    pub verbose: bool,
}

/// Arguments of `dfs invite`.
#[derive(Debug, Args)]
pub struct InviteArgs {
    #[command(flatten)]
    pub fact: FactArgs,

    /// What the new peer may do; a storage peer never gets the volume's key
    #[arg(long, value_enum, default_value_t = RoleArg::Writer)]
    pub role: RoleArg,

    /// How long the token is good for, like 30m, 12h, 7d
    #[arg(long, default_value = "24h", value_name = "T", value_parser = parse_duration)]
    pub expires: Duration,

    /// List the invites that were made
    #[arg(long, conflicts_with_all = ["role", "expires", "revoke"])]
    pub list: bool,

    /// Take back the invite whose id begins so
    #[arg(long, value_name = "ID", conflicts_with_all = ["role", "expires"])]
    pub revoke: Option<String>,
}

/// Arguments of `dfs rename`.
#[derive(Debug, Args)]
pub struct RenameArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// The new name
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Arguments of `dfs leave`.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    #[command(flatten)]
    pub fact: FactArgs,

    /// Do not ask
    #[arg(long)]
    pub yes: bool,

    /// Leave although something is on this machine only
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `dfs repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The state folder; no peer may run on it
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,

    /// Another member; may be given several times. Needed where the folder does not say any more who
    /// they are
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: Vec<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `dfs recovery`.
#[derive(Debug, Args)]
pub struct RecoveryArgs {
    #[command(flatten)]
    pub fact: FactArgs,

    /// Say whether there is a phrase, who made it and when
    #[arg(long)]
    pub list: bool,

    /// End the phrase there is
    #[arg(long, conflicts_with = "list")]
    pub revoke: bool,
}

/// Arguments of `dfs approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// Code that the machine shows; without one those that ask are listed
    #[arg(value_name = "CODE")]
    pub code: Option<String>,

    /// What the new member may do; a storage peer never gets the volume's key
    #[arg(long, value_enum, default_value_t = RoleArg::Writer, requires = "code")]
    pub role: RoleArg,

    /// Name of the machine for the members [default: the one that it gives itself]
    #[arg(long, value_name = "NAME", requires = "code")]
    pub name: Option<String>,

    /// Do not admit it
    #[arg(long, requires = "code", conflicts_with_all = ["role", "name"])]
    pub deny: bool,

    #[command(flatten)]
    pub target: TargetArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A role of the roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// May invite and remove, and all of the below.
    Admin,
    /// May read and write.
    Writer,
    /// May read.
    Reader,
    /// Holds sealed chunks and logs; cannot open them.
    Storage,
}

impl RoleArg {
    /// Returns the role's name as it stands on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Storage => "storage",
        }
    }
}

/// Arguments of `dfs members`.
#[derive(Debug, Args)]
pub struct MembersArgs {
    #[command(subcommand)]
    pub action: Option<MembersAction>,

    #[command(flatten)]
    pub fact: FactArgs,
}

/// What `dfs members` can do beside listing.
#[derive(Debug, Subcommand)]
pub enum MembersAction {
    /// Remove a member: it is cut off, and keeps what it has
    Remove {
        /// The member's name, or the first digits of its id
        #[arg(value_name = "NAME|ID")]
        who: String,

        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Give a member another role
    Role {
        /// The member's name, or the first digits of its id
        #[arg(value_name = "NAME|ID")]
        who: String,

        /// What it may do from now on
        #[arg(value_enum)]
        role: RoleArg,
    },
    /// Give a member another name
    Rename {
        /// The member's name, or the first digits of its id
        #[arg(value_name = "NAME|ID")]
        who: String,

        /// The new name
        name: String,
    },
}

/// Arguments of `dfs stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub fact: FactArgs,

    /// Also where files are open in the mount: what was written to them is kept
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `dfs config`.
///
/// What is changed holds at once and at every later start; another address to listen on holds from
/// the next start on.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// The setting [default: all]
    #[arg(value_enum, value_name = "KEY")]
    pub key: Option<Key>,

    /// Its new value, written as the option of dfs-mount is
    #[arg(value_name = "VALUE")]
    pub value: Option<String>,
}

/// A setting of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Key {
    /// UDP address to listen on.
    Listen,
    /// Name for the other members; `dfs rename` changes it.
    Name,
    /// Disk space offered to the volume.
    Capacity,
    /// Disk space for chunks beyond what must be held.
    Cache,
    /// What fsync waits for: local or replicated.
    Fsync,
    /// Memory of the caches of rows and contents, from the next start on.
    Memory,
    /// How long what was replaced or removed can be had back, on all machines, like 90d (30d to begin with; 0 keeps none); for admins.
    History,
    /// How many snapshots the volume makes by itself and keeps, like "hourly:24 daily:7 weekly:4", or off;
    /// for admins.
    Snapshots,
}

impl Key {
    /// Returns the key's name as it stands on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Name => "name",
            Self::Capacity => "capacity",
            Self::Cache => "cache",
            Self::Fsync => "fsync",
            Self::Memory => "memory",
            Self::History => "history",
            Self::Snapshots => "snapshots",
        }
    }
}

/// Arguments of `dfs sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    #[command(flatten)]
    pub fact: FactArgs,

    /// Give up after this long without progress
    #[arg(long, default_value = "60s", value_name = "T", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Arguments of `dfs gc`.
#[derive(Debug, Args)]
pub struct CollectArgs {
    #[command(flatten)]
    pub fact: FactArgs,

    /// Wait this long at most for what cannot go at once
    #[arg(long, default_value = "2m", value_name = "T", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Arguments of `dfs log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(flatten)]
    pub fact: FactArgs,

    /// How many of the newest lines to show
    #[arg(short = 'n', long, default_value_t = 50)]
    pub lines: usize,
}

/// Arguments of `dfs demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after the demonstration instead of waiting for Ctrl-C
    #[arg(long)]
    pub once: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        MountArgs::command().debug_assert();
        DfsArgs::command().debug_assert();
    }

    #[test]
    fn the_contract_parses() {
        let args = MountArgs::try_parse_from([
            "dfs-mount",
            "/mnt/dfs",
            "--peer",
            "a:1",
            "--peer",
            "[::1]:2",
            "--invite",
            "T",
            "--state",
            "/s",
            "--listen",
            "0.0.0.0:4750",
            "--name",
            "n",
            "--capacity",
            "10G",
            "--cache",
            "1GiB",
            "--fsync",
            "replicated",
            "-o",
            "ro,allow_other",
            "-f",
            "-v",
        ])
        .unwrap();
        assert_eq!(args.peer.peers, ["a:1", "[::1]:2"]);
        assert_eq!(args.peer.capacity, Some(10 << 30));
        assert_eq!(args.options, ["ro,allow_other"]);
        for bad in [
            vec!["dfs-mount"],
            vec!["dfs-mount", "/m", "--nope"],
            vec!["dfs-mount", "/m", "--capacity", "12 parsecs"],
            vec!["dfs-mount", "/m", "--listen", "somewhere"],
            vec!["dfs-mount", "/m", "--peer", "no-port"],
        ] {
            assert!(MountArgs::try_parse_from(bad).is_err());
        }
        assert!(DfsArgs::try_parse_from(["dfs", "invite", "--role", "storage"]).is_ok());
        let remove = [
            "dfs", "members", "remove", "ab12", "--yes", "--state", "/s", "--json",
        ];
        assert!(DfsArgs::try_parse_from(remove).is_ok());
        assert!(DfsArgs::try_parse_from(["dfs", "status", "--json", "/mnt/x"]).is_ok());
        for state in [
            &["dfs", "--state", "/s", "status"][..],
            &["dfs", "status", "--state", "/s"],
        ] {
            match DfsArgs::try_parse_from(state).unwrap().verb {
                Verb::Status(args) => assert_eq!(args.target.state, Some("/s".into())),
                other => panic!("{other:?}"),
            }
        }
        let node = DfsArgs::try_parse_from(["dfs", "--state", "/s", "node"]).unwrap();
        assert!(matches!(node.verb, Verb::Node(peer) if peer.state == Some("/s".into())));
    }
}
