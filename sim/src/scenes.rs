//! Scenes: what a few members do with and without one another, in an order that chance alone would seldom
//! find, in a folder of their own. What has to come of it is kept as promises, which hold in the end.
//!
//! Weather before and behind a scene is that of the seed; within, the network is that of the scene.

mod apart;
mod mass;
mod merged;
mod removed;
mod storm;

use std::collections::BTreeMap;
use std::time::Duration;

use dfs::base::Ino;
use dfs::base::time::sleep;
use dfs::daemon::peer::Member;
use dfs::fs::FsError;
use dfs::volume::{FileKind, Source};

use crate::Cluster;
use crate::cluster::write;
use crate::world::World;

/// How long members take to hear of one another, at most, where nothing is wrong.
const HEARD_MAX: Duration = Duration::from_secs(40);

/// How often it is looked.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// What has to hold in the end.
#[derive(Debug)]
pub(crate) enum Owed {
    /// Some file of the folder has exactly this content.
    There(Vec<u8>),
    /// No file of the folder has this content: who had seen it removed it, or wrote it over.
    Gone(Vec<u8>),
    /// The file of this name has exactly this content.
    Named(&'static str, Vec<u8>),
    /// The folder has so many names.
    Names(usize),
}

/// Something that has to hold in the end, and by whose word.
#[derive(Debug)]
pub(crate) struct Promise {
    hosts: Vec<usize>,
    scene: String,
    owed: Owed,
}

impl Promise {
    /// Says whether a host has a part in it: where its folder is put back, or it is removed, nothing is
    /// owed any more.
    pub(crate) fn concerns(&self, host: usize) -> bool {
        self.hosts.contains(&host)
    }

    /// Says what is wrong with the contents of the tree.
    pub(crate) fn broken(&self, contents: &BTreeMap<String, Vec<u8>>) -> Option<String> {
        let folder = format!("/{}/", self.scene);
        let here: BTreeMap<&str, &Vec<u8>> = contents
            .iter()
            .filter_map(|(path, content)| Some((path.strip_prefix(&folder)?, content)))
            .collect();
        let any = |wanted: &Vec<u8>| here.values().any(|content| *content == wanted);
        let holds = match &self.owed {
            Owed::There(content) => any(content),
            Owed::Gone(content) => !any(content),
            Owed::Named(name, content) => here.get(name) == Some(&content),
            Owed::Names(count) => here.len() == *count,
        };
        let text = |bytes: &[u8]| {
            let start = bytes.get(..bytes.len().min(24)).unwrap_or_default();
            format!("{} bytes {}", bytes.len(), String::from_utf8_lossy(start))
        };
        let owed = match &self.owed {
            Owed::There(content) => format!("{} is not there", text(content)),
            Owed::Gone(content) => format!("{} is there again", text(content)),
            Owed::Named(name, content) => format!("{name} is not {}", text(content)),
            Owed::Names(count) => format!("there are not {count} names"),
        };
        let shown: Vec<String> = here
            .iter()
            .map(|(name, content)| format!("{name}: {}", text(content)))
            .collect();
        (!holds).then(|| format!("{}: {owed}, but {shown:?}", self.scene))
    }
}

/// Who plays, and where.
pub(super) struct Stage {
    /// Three members.
    pub(super) cast: [usize; 3],
    /// All other hosts.
    rest: Vec<usize>,
    name: String,
    kind: &'static str,
}

impl Stage {
    /// Returns the folder, as a member has it.
    pub(super) fn folder(&self, member: &Member) -> Option<Ino> {
        let entry = member.volume.dirent(Ino::ROOT, self.name.as_bytes());
        entry.ok().flatten().map(|entry| entry.ino)
    }

    /// Returns a content that nobody else has.
    pub(super) fn text(&self, what: &str) -> Vec<u8> {
        format!("({} {what})", self.name).into_bytes()
    }
}

/// Why a scene ends early.
#[derive(Debug)]
pub(super) enum Cut {
    /// Members did not hear of each other.
    Unheard(&'static str),
    /// A call failed.
    Refused(FsError),
}

impl From<FsError> for Cut {
    fn from(error: FsError) -> Self {
        Self::Refused(error)
    }
}

pub(super) type Played = Result<(), Cut>;

/// Returns the small files of a folder that are here.
pub(super) fn files(member: &Member, folder: Ino) -> BTreeMap<Vec<u8>, (Ino, Vec<u8>)> {
    let mut names = Vec::new();
    let listed = member.volume.readdir(folder, None, &mut |_, entry| {
        if entry.kind == FileKind::File {
            names.push((entry.name.to_vec(), entry.ino));
        }
        true
    });
    if listed.is_err() {
        return BTreeMap::new();
    }
    let content = |ino: Ino| {
        let size = member.volume.inode(ino).ok().flatten()?.size;
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        for extent in member.volume.extents(ino, 0..size).ok()? {
            let at = extent.offset as usize..(extent.offset + extent.len) as usize;
            match extent.src {
                Source::Inline(piece) => bytes.get_mut(at)?.copy_from_slice(&piece),
                Source::Chunk { .. } => return None,
            }
        }
        Some(bytes)
    };
    let read = names.into_iter();
    let read = read.filter_map(|(name, ino)| Some((name, (ino, content(ino)?))));
    read.collect()
}

impl World {
    /// Plays a scene; `None` where too few can.
    pub(crate) async fn play(&mut self) -> Option<String> {
        let down = (0..self.cluster.host_count())
            .filter(|host| !self.cluster.is_up(*host) && !self.removed.contains(host));
        for host in down.collect::<Vec<usize>>() {
            self.start(host).await;
        }
        let mut stage = self.stage()?;
        self.scenes += 1;
        let result = self.play_on(&mut stage).await;
        self.cluster.heal();
        self.notice().await;
        let told = match result {
            Ok(()) => "played".to_owned(),
            Err(Cut::Unheard(what)) => format!("{what} did not come"),
            Err(Cut::Refused(error)) => error.to_string(),
        };
        let Stage { cast, kind, .. } = &stage;
        Some(format!("{kind} {cast:?}: {told}"))
    }

    /// Finds three members that can do all they like.
    fn stage(&mut self) -> Option<Stage> {
        let fit = |host: &usize| {
            !self.cluster.is_dark(*host)
                && !self.full.contains(host)
                && !self.removed.contains(host)
                && !self.cluster.member(*host).volume.is_over()
        };
        let mut fit: Vec<usize> = self.up().into_iter().filter(fit).collect();
        if fit.len() < 3 {
            return None;
        }
        let mut draw = || fit.swap_remove(self.rng.below(fit.len() as u64) as usize);
        let cast = [draw(), draw(), draw()];
        let rest = (0..self.cluster.host_count()).filter(|host| !cast.contains(host));
        Some(Stage {
            cast,
            rest: rest.collect(),
            name: format!("scene{}", self.scenes),
            kind: "",
        })
    }

    async fn play_on(&mut self, stage: &mut Stage) -> Played {
        self.cluster.heal();
        let delay = Duration::from_millis(1 + self.rng.below(50));
        self.cluster.net.set_delay(Duration::from_millis(1), delay);
        for host in stage.cast {
            self.cluster.cut_power_after(host, u64::MAX);
        }
        let first = self.cluster.member(stage.cast[0]);
        let made = first
            .fs
            .mkdir(Default::default(), Ino::ROOT, stage.name.as_bytes(), 0o755)?;
        first.fs.forget(made.attr.ino, 1);
        self.put(stage, stage.cast[0], "base", b"in the beginning")?;
        let has_base = |files: &BTreeMap<Vec<u8>, (Ino, Vec<u8>)>| files.len() == 1;
        self.until(stage, &stage.cast, "the folder", has_base)
            .await?;
        let scene = self.rng.below(20);
        stage.kind = match scene {
            0..=2 => "third arrives",
            3..=5 => "equal",
            6 | 7 => "held open",
            8 => "long apart",
            9 | 10 => "built on the removed",
            11 | 12 => "put back at once",
            13 => "acknowledged",
            16.. => "removed elsewhere",
            _ => "merged in pieces",
        };
        match scene {
            0..=2 => self.third_arrives(stage).await,
            3..=5 => self.equal(stage).await,
            6 | 7 => self.held_open(stage).await,
            8 => self.long_apart(stage).await,
            9 | 10 => self.built_on_the_removed(stage).await,
            11 | 12 => self.put_back_at_once(stage).await,
            13 => self.acknowledged(stage).await,
            16.. => self.removed_elsewhere(stage).await,
            _ => self.merged_in_pieces(stage).await,
        }
    }

    /// Writes all of a file of the folder.
    pub(super) fn put(&self, stage: &Stage, host: usize, name: &str, content: &[u8]) -> Played {
        let member = self.cluster.member(host);
        let folder = stage.folder(&member).ok_or(FsError::NotFound)?;
        Ok(write(&member, folder, name.as_bytes(), content)?)
    }

    /// Makes what a host did durable.
    pub(super) fn sync(&self, host: usize) -> Played {
        let fs = self.cluster.member(host).fs;
        let opened = fs.opendir(Ino::ROOT)?;
        let synced = fs.fsyncdir(Ino::ROOT, opened.fh);
        fs.releasedir(Ino::ROOT, opened.fh)?;
        Ok(synced?)
    }

    /// Returns the files of the folder, as a host has them.
    pub(super) fn files(&self, stage: &Stage, host: usize) -> BTreeMap<Vec<u8>, (Ino, Vec<u8>)> {
        if !self.cluster.members_up().contains(&host) {
            return BTreeMap::new();
        }
        let member = self.cluster.member(host);
        let folder = stage.folder(&member);
        folder.map_or_else(BTreeMap::new, |folder| files(&member, folder))
    }

    /// Waits until each of some hosts has a folder like this.
    pub(super) async fn until(
        &self,
        stage: &Stage,
        hosts: &[usize],
        what: &'static str,
        is_so: impl Fn(&BTreeMap<Vec<u8>, (Ino, Vec<u8>)>) -> bool,
    ) -> Played {
        let mut waited = Duration::ZERO;
        while waited < HEARD_MAX {
            if hosts.iter().all(|host| is_so(&self.files(stage, *host))) {
                return Ok(());
            }
            sleep(LOOK_PAUSE).await;
            waited += LOOK_PAUSE;
        }
        Err(Cut::Unheard(what))
    }

    /// Waits until each of some hosts has all of these contents.
    pub(super) async fn until_there(
        &self,
        stage: &Stage,
        hosts: &[usize],
        contents: &[&[u8]],
    ) -> Played {
        self.until(stage, hosts, "a content", |files| {
            let has = |wanted: &&[u8]| files.values().any(|(_, content)| content == wanted);
            contents.iter().all(has)
        })
        .await
    }

    /// Lets those of each group hear each other alone.
    pub(super) fn groups(&self, stage: &Stage, groups: &[&[usize]]) {
        self.cluster.heal();
        let all = [&[stage.rest.as_slice()], groups].concat();
        for (at, left) in all.iter().enumerate() {
            for right in all.iter().skip(at + 1) {
                self.cluster.partition(left, right);
            }
        }
    }

    /// Keeps what has to come of a scene.
    pub(super) fn promise(&mut self, stage: &Stage, owed: Owed) {
        self.promises.push(Promise {
            hosts: stage.cast.to_vec(),
            scene: stage.name.clone(),
            owed,
        });
    }

    /// A moment, so that stamps have an order.
    pub(super) async fn moment(&self) {
        sleep(Duration::from_millis(50 + self.rng.below(2_000))).await;
    }
}

impl Cluster {
    /// Says whether a host has folded all that it has of the logs of another.
    pub(super) fn is_level(&self, host: usize, other: usize) -> bool {
        let (here, there) = (self.peer(host).node().log(), self.peer(other).node().log());
        let have = here.vector();
        let told = there.vector();
        let of_other = there.logs_of(self.hosts[other].identity.device());
        of_other.iter().all(|log| have.get(log) >= told.get(log))
    }
}
