//! One seed: a cluster, its programs, its weather, and what is looked at meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dfs::base::time::sleep;
use dfs::base::{Ino, Rng};
use dfs::daemon::troubles::Trouble;
use dfs::fs::FsError;
use dfs::node::Role;
use dfs::store::Table;
use dfs::store::memory::MemoryDisk;

use crate::Cluster;
use crate::books::Books;
use crate::check::{self, Seen};
use crate::level::Levels;
use crate::programs::{Programs, Sizes, Turn, pause};
use crate::scenes::Promise;
use crate::trace::Trace;
use crate::tree::UNREADABLE;
use crate::weather::{Climate, Event, Interrupted};

/// What is chosen of a run beside its seed.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Operations of programs.
    pub steps: u64,
    /// Whether all that happens is told.
    pub is_told: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            steps: 150,
            is_told: false,
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// A digest of all that happened.
    pub trace: u64,
    /// Operations that did something.
    pub done: u64,
    /// Things that befell the cluster.
    pub events: u64,
    /// Records that were made.
    pub records: u64,
    /// How often two members that knew the same were compared.
    pub compared: u64,
}

/// Most members at once.
const MEMBERS_MAX: usize = 5;

/// Most hosts that one seed sees.
const HOSTS_MAX: usize = 9;

/// How long what can get through gets through.
const A_WHILE: Duration = Duration::from_secs(60);

/// How wrong the clock of a founder may be.
const A_YEAR: Duration = Duration::from_secs(365 * 86_400);

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) rng: Rng,
    climate: Climate,
    sizes: Sizes,
    books: Books,
    programs: BTreeMap<usize, Programs>,
    trace: Trace,
    seen: Seen,
    levels: Levels,
    /// Hosts that are no members any more.
    pub(crate) removed: Vec<usize>,
    /// Hosts whose disks are full, and that ever had one: a write in the background that failed is told
    /// at the next call.
    pub(crate) full: Vec<usize>,
    had_full: Vec<usize>,
    /// A copy of a host's disk, to be put back once.
    pub(crate) copy: Option<(usize, MemoryDisk)>,
    pub(crate) was_put_back: bool,
    /// Hosts that have made many files at once.
    unpacked: BTreeSet<usize>,
    /// Scenes that were played, and what has to come of them.
    pub(crate) scenes: u64,
    pub(crate) promises: Vec<Promise>,
    report: Report,
}

/// Runs one seed.
///
/// # Panics
///
/// Where a law does not hold.
pub async fn run(seed: u64, plan: Plan) -> Report {
    let rng = Rng::from_seed(seed);
    let climate = Climate::of(&rng);
    let members = match climate.scenes {
        true => 3 + usize::from(rng.below(3) > 0),
        false => 2 + rng.below(3) as usize,
    };
    let storage = rng.below(2) as usize;
    let sizes = match rng.below(12) {
        0 => Sizes::Large,
        1..=5 => Sizes::Mixed,
        _ => Sizes::Small,
    };
    let mut trace = Trace::new(plan.is_told);
    trace.note(&format!("{members} + {storage}, {sizes:?}, {climate:?}"));
    let ahead = match climate.clocks && rng.below(3) == 0 {
        true => A_YEAR,
        false => Duration::ZERO,
    };
    let cluster = Cluster::founded_ahead(seed, members, storage, ahead).await;
    let mut world = World {
        cluster,
        rng,
        climate,
        sizes,
        books: Books::default(),
        programs: BTreeMap::new(),
        trace,
        seen: Seen::default(),
        levels: Levels::default(),
        removed: Vec::new(),
        full: Vec::new(),
        had_full: Vec::new(),
        copy: None,
        was_put_back: false,
        unpacked: BTreeSet::new(),
        scenes: 0,
        promises: Vec::new(),
        report: Report {
            trace: 0,
            done: 0,
            events: 0,
            records: 0,
            compared: 0,
        },
    };
    world.cluster.settle().await;
    for _ in 0..plan.steps {
        if let Some(event) = world.climate.next(&world.rng) {
            world.befall(event).await;
        }
        world.notice().await;
        world.operate().await;
        pause(&world.rng).await;
        world.notice().await;
        world.look();
    }
    world.end().await;
    world.report.trace = world.trace.digest();
    world.report.records = world.seen.records();
    world.report.compared = world.levels.count();
    world.report
}

impl World {
    /// Chooses one of some hosts.
    pub(crate) fn one_of(&self, hosts: &[usize]) -> Option<usize> {
        hosts
            .get(self.rng.below(hosts.len() as u64) as usize)
            .copied()
    }

    /// Returns the members that are up.
    pub(crate) fn up(&self) -> Vec<usize> {
        self.cluster.members_up()
    }

    /// Returns all hosts that are up.
    fn all_up(&self) -> Vec<usize> {
        let hosts = 0..self.cluster.host_count();
        hosts.filter(|host| self.cluster.is_up(*host)).collect()
    }

    /// One operation of a program.
    async fn operate(&mut self) {
        let Some(host) = self.one_of(&self.up()) else {
            return;
        };
        let (what, done) = {
            let mut turn = self.turn(host);
            turn.act().await
        };
        let outcome = match &done {
            Ok(()) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        self.trace.note(&format!("host{host} {what}: {outcome}"));
        self.report.done += u64::from(done.is_ok());
        if self.removed.contains(&host) {
            self.books.removed(host);
        }
        if let Err(error) = done {
            let is_excused = self.cluster.is_dark(host)
                || self.had_full.contains(&host) && matches!(error, FsError::NoSpace)
                || matches!(error, FsError::ReadOnly)
                // Who has just come has not even the top.
                || matches!(error, FsError::Stale(ino) if ino == Ino::ROOT);
            assert!(
                is_excused || is_posix(&error),
                "host{host} {what}: {error:?}"
            );
        }
        // Right behind what a program was told.
        if self.climate.power && self.rng.below(40) == 0 {
            self.went_dark(host).await;
        }
    }

    fn turn(&mut self, host: usize) -> Turn<'_> {
        Turn {
            host,
            member: self.cluster.member(host),
            rng: &self.rng,
            sizes: self.sizes,
            books: &mut self.books,
            programs: self.programs.entry(host).or_default(),
            detail: String::new(),
        }
    }

    /// Lets something befall the cluster.
    async fn befall(&mut self, event: Event) {
        let done = self.try_befall(event).await;
        if let Some(what) = done {
            self.report.events += 1;
            self.trace.note(&format!("-- {event:?} {what}"));
        }
    }

    /// Does the same; says to whom, `None` where it cannot be now.
    async fn try_befall(&mut self, event: Event) -> Option<String> {
        let members = self.up();
        let member = self.one_of(&members);
        let any = self.one_of(&self.all_up());
        let told = match event {
            Event::Lossy {
                permille,
                repeated,
                doubled,
                delay_ms,
            } => {
                self.cluster.net.set_doubled_permille(doubled);
                self.cluster.net.set_loss_permille(permille);
                self.cluster.net.set_repeated_permille(repeated);
                let delay = Duration::from_millis(delay_ms);
                self.cluster.net.set_delay(Duration::from_millis(1), delay);
                String::new()
            }
            Event::Cut | Event::CutOneWay => {
                let hosts: Vec<usize> = (0..self.cluster.host_count()).collect();
                let (left, right): (Vec<usize>, Vec<usize>) =
                    hosts.iter().partition(|_| self.rng.below(2) == 0);
                match event {
                    Event::Cut => self.cluster.partition(&left, &right),
                    _ => self.cluster.cut_one_way(&left, &right),
                }
                format!("{left:?} {right:?}")
            }
            Event::Heal => {
                self.cluster.heal();
                String::new()
            }
            Event::PowerCut { writes } => {
                self.cluster.cut_power_after(any?, writes);
                format!("host{}", any?)
            }
            Event::Kill => {
                self.cluster.crash(any?).await;
                self.killed(any?);
                format!("host{}", any?)
            }
            Event::Stop => {
                let host = any?;
                if self.full.contains(&host) || self.cluster.is_dark(host) {
                    return None;
                }
                self.cluster.stop(host).await;
                match self.cluster.is_dark(host) {
                    true => self.went_dark(host).await,
                    false => self.killed(host),
                }
                format!("host{host}")
            }
            Event::Start => {
                let down: Vec<usize> = (0..self.cluster.host_count())
                    .filter(|host| !self.cluster.is_up(*host) && !self.removed.contains(host))
                    .collect();
                let host = self.one_of(&down)?;
                self.start(host).await;
                format!("host{host}")
            }
            Event::Full => {
                let host = any?;
                if self.full.contains(&host) || self.programs.entry(host).or_default().hold_any() {
                    return None;
                }
                self.cluster.peer(host).flush().await.ok()?;
                self.cluster.fill(host, true);
                self.full.push(host);
                self.had_full.push(host);
                format!("host{host}")
            }
            Event::Room => {
                let host = self.full.pop()?;
                self.cluster.fill(host, false);
                format!("host{host}")
            }
            Event::Rot => {
                if !self.cluster.rot(any?, &self.rng) {
                    return None;
                }
                format!("host{}", any?)
            }
            Event::Clock { ahead } => {
                self.cluster.hosts[member?].clock.set_ahead(ahead);
                format!("host{}", member?)
            }
            Event::Join(interrupted) => self.join(interrupted).await?,
            Event::Remove => self.remove().await?,
            Event::Collect => {
                let host = member?;
                self.cluster.peer(host).collect_soon();
                self.cluster.peer(host).node().ask_checkpoint();
                format!("host{host}")
            }
            Event::Copy => {
                let host = member?;
                if self.copy.is_some() || self.was_put_back {
                    return None;
                }
                let copy = self.cluster.copy_of(host, &self.rng);
                self.copy = Some((host, copy));
                format!("host{host}")
            }
            Event::Unpack { writes } => {
                let host = member?;
                // Each host once: all of it is looked through again and again.
                if self.full.contains(&host) || !self.unpacked.insert(host) {
                    return None;
                }
                let done = self.turn(host).unpack();
                if self.climate.power
                    && let Some(other) = self.one_of(&members).filter(|other| *other != host)
                {
                    self.cluster.cut_power_after(other, writes);
                }
                format!("host{host}: {}", done.is_ok())
            }
            Event::PutBack => {
                let (host, _) = self.copy.as_ref()?;
                if self.removed.contains(host) || self.full.contains(host) {
                    return None;
                }
                let (host, copy) = self.copy.take()?;
                self.put_back(host, copy).await;
                format!("host{host}")
            }
            Event::Pass { secs } => {
                self.look_away(secs).await;
                String::new()
            }
            Event::Scene => self.play().await?,
            Event::Era => self.era().await?,
            Event::Storm => self.storm().await?,
        };
        Some(told)
    }

    /// A new member comes; one that is interrupted meanwhile goes on later.
    async fn join(&mut self, interrupted: Interrupted) -> Option<String> {
        let is_enough = self.up().len() >= MEMBERS_MAX || self.cluster.host_count() >= HOSTS_MAX;
        // One admin alone invites here.
        let admin = self.cluster.admin();
        if is_enough || !self.cluster.is_up(admin) || self.cluster.is_dark(admin) {
            return None;
        }
        match interrupted {
            Interrupted::Invited { writes } => self.cluster.cut_power_after(admin, writes),
            Interrupted::Lost => self.cluster.net.set_loss_permille(500),
            _ => {}
        }
        let role = match self.rng.below(8) {
            0 => Role::Reader,
            1 => Role::Storage,
            _ => Role::Writer,
        };
        let admitted = self.cluster.try_admit(admin, role).await;
        if interrupted == Interrupted::Lost {
            self.cluster.net.set_loss_permille(0);
        }
        let host = match admitted {
            Ok(host) => host,
            Err(error) => return Some(format!("nobody: {error}")),
        };
        if let Interrupted::Power { writes } = interrupted {
            self.cluster.cut_power_after(host, writes);
        }
        self.start(host).await;
        if let Interrupted::Kill { after_ms } = interrupted {
            sleep(Duration::from_millis(after_ms)).await;
            self.cluster.crash(host).await;
            self.killed(host);
        }
        Some(format!("host{host}, {role:?}"))
    }

    /// A member is removed, and goes on for a while as if it was not.
    async fn remove(&mut self) -> Option<String> {
        let members = self.up();
        let admin = self.cluster.admin();
        let others: Vec<usize> = members.into_iter().filter(|host| *host != admin).collect();
        let gone = self.one_of(&others)?;
        if others.len() < 2 || !self.removed.is_empty() {
            return None;
        }
        let may =
            |host: &usize| *host != gone && self.cluster.is_admin(*host) && self.can_act(*host);
        let admins: Vec<usize> = (0..self.cluster.host_count()).filter(may).collect();
        let by = self.one_of(&admins)?;
        self.cluster.try_remove(by, gone).await?;
        self.is_gone(gone);
        Some(format!("host{gone} by host{by}"))
    }

    /// The founder, who decided alone or with others, ends for good, and another admin removes it.
    async fn era(&mut self) -> Option<String> {
        let founder = self.cluster.admin();
        let others: Vec<usize> = self
            .up()
            .into_iter()
            .filter(|host| *host != founder)
            .collect();
        let heir = self.one_of(&others)?;
        let is_fit = self.can_act(founder) && self.can_act(heir) && others.len() >= 2;
        if founder != 0 || !is_fit || !self.removed.is_empty() {
            return None;
        }
        self.cluster.heal();
        if !self.make_admin(heir).await {
            return Some("nobody heard of it".to_owned());
        }
        self.cluster.crash(founder).await;
        self.killed(founder);
        self.cluster.try_remove(heir, founder).await?;
        self.cluster.set_admin(heir);
        self.is_gone(founder);
        Some(format!("host{heir} for host{founder}"))
    }

    /// Makes a member an admin, too; says whether it heard of that.
    pub(crate) async fn make_admin(&mut self, host: usize) -> bool {
        if self.cluster.try_set_role(host, Role::Admin).await.is_err() {
            return false;
        }
        for _ in 0..60 {
            if self.cluster.is_admin(host) {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.cluster.is_admin(host) && !self.cluster.is_dark(host)
    }

    /// Says whether a host does all that is asked of it.
    pub(crate) fn can_act(&self, host: usize) -> bool {
        let is_up = self.cluster.members_up().contains(&host);
        is_up && !self.cluster.is_dark(host) && !self.full.contains(&host)
    }

    /// A host is no member any more.
    pub(crate) fn is_gone(&mut self, gone: usize) {
        self.removed.push(gone);
        self.books.removed(gone);
        self.promises.retain(|promise| !promise.concerns(gone));
    }

    /// The folder of a host is as a copy has it.
    pub(crate) async fn put_back(&mut self, host: usize, copy: MemoryDisk) {
        self.was_put_back = true;
        self.cluster.put_back(host, copy).await;
        self.books.killed(host);
        self.books.put_back(host);
        self.promises.retain(|promise| !promise.concerns(host));
        self.programs.entry(host).or_default().killed();
        self.start(host).await;
    }

    /// Lets time pass, in which programs do nothing.
    pub(crate) async fn look_away(&mut self, secs: u64) {
        for _ in 0..secs.div_ceil(5) {
            sleep(Duration::from_secs(5)).await;
            self.notice().await;
            self.look();
        }
    }

    fn killed(&mut self, host: usize) {
        self.books.killed(host);
        self.programs.entry(host).or_default().killed();
    }

    /// A host lost its power.
    pub(crate) async fn went_dark(&mut self, host: usize) {
        self.cluster.lose_power(host, &self.rng).await;
        self.books.lost_power(host);
        self.programs.entry(host).or_default().killed();
        self.full.retain(|full| *full != host);
        self.trace.note(&format!("-- host{host} is dark"));
    }

    /// Takes note of the hosts whose power is gone.
    pub(crate) async fn notice(&mut self) {
        for host in 0..self.cluster.host_count() {
            if self.cluster.is_dark(host) {
                self.went_dark(host).await;
            }
        }
    }

    /// Starts a host, as often as its power goes while it does.
    pub(crate) async fn start(&mut self, host: usize) {
        for _ in 0..4 {
            let started = self.cluster.try_restart(host).await;
            if self.cluster.is_dark(host) {
                self.went_dark(host).await;
                continue;
            }
            started.unwrap_or_else(|error| panic!("host{host} does not start: {error:?}"));
            break;
        }
        if !self.cluster.is_up(host) {
            return;
        }
        check::nothing_told_is_forgotten(&self.cluster, host, self.was_put_back);
        self.seen.started(&self.cluster, host, self.was_put_back);
        if self.removed.contains(&host) || !self.cluster.members_up().contains(&host) {
            return;
        }
        let may_rot = self.climate.disks;
        if let Err(wrong) = self.turn(host).check_own(may_rot).await {
            panic!("host{host}: {wrong}");
        }
    }

    /// Looks at what has to hold at any time.
    pub(crate) fn look(&mut self) {
        check::nobody_panicked();
        self.seen
            .look(&self.cluster, &self.removed, self.was_put_back);
        let apart = |host: &usize| {
            let is_out = self.removed.contains(host) || self.full.contains(host);
            is_out || self.cluster.is_dark(*host)
        };
        let apart = (0..self.cluster.host_count()).filter(apart).collect();
        self.levels.look(&self.cluster, &apart);
        for host in self.up() {
            if check::is_spread(&self.cluster, host) {
                self.books.spread(host);
            }
        }
        let stats = self.cluster.net.stats();
        self.trace
            .note(&format!("{} {}", stats.messages, stats.bytes));
    }

    /// A row of a member rots while nobody uses it; says whether there is one. It is mended by then.
    async fn spoil(&mut self) -> bool {
        let members = self.up();
        let Some(host) = self.one_of(&members).filter(|_| members.len() > 1) else {
            return false;
        };
        let table = [Table::Inode, Table::Dirent, Table::Device][self.rng.below(3) as usize];
        // What is compared is what a record names.
        sleep(A_WHILE).await;
        if !self.cluster.try_damage(host, table, &self.rng) {
            return false;
        }
        self.trace
            .note(&format!("-- host{host} has a spoilt row in {table:?}"));
        sleep(A_WHILE * 3).await;
        self.cluster.settle().await;
        true
    }

    /// Mends all, lets the cluster settle, and looks at everything.
    async fn end(&mut self) {
        self.cluster.heal();
        self.cluster.net.set_repeated_permille(0);
        self.cluster.net.set_doubled_permille(0);
        self.cluster
            .net
            .set_delay(Duration::from_millis(1), Duration::from_millis(20));
        for host in std::mem::take(&mut self.full) {
            self.cluster.fill(host, false);
        }
        for host in &self.cluster.hosts {
            host.disk.cut_power_after(u64::MAX, Box::new(|| {}));
        }
        self.notice().await;
        for host in self.removed.clone() {
            self.cluster.crash(host).await;
        }
        for host in 0..self.cluster.host_count() {
            if !self.cluster.is_up(host) && !self.removed.contains(&host) {
                self.start(host).await;
            }
        }
        for host in self.up() {
            let closed = self.turn(host).close_all();
            if let Err(error) = closed {
                let is_excused = matches!(error, FsError::ReadOnly | FsError::NoSpace);
                assert!(is_excused, "host{host} closes: {error:?}");
            }
        }
        self.cluster.settle().await;
        self.look();
        let is_mended = self.climate.disks && self.rng.below(2) == 0 && self.spoil().await;
        if self.climate.pauses {
            check::base_line_goes_on(&self.cluster).await;
        }
        let trees = check::converged(&mut self.cluster).await;
        let mut missing = self.books.missing(&trees);
        missing.extend(
            self.promises
                .iter()
                .filter_map(|promise| promise.broken(&trees)),
        );
        for (path, content) in &trees {
            // A chunk may have been nowhere but on a machine that was removed, or is back where it was.
            let is_excused = self.was_put_back || !self.removed.is_empty();
            let is_read = !content.starts_with(UNREADABLE);
            assert!(is_read || is_excused, "{path} cannot be read");
        }
        assert!(missing.is_empty(), "{}", missing.join("\n"));
        sleep(A_WHILE).await;
        check::no_trouble_is_left(&self.cluster, |trouble| {
            let is_of_rows = matches!(trouble, Trouble::Rows | Trouble::Unequal(_));
            let is_of_clocks = matches!(trouble, Trouble::Clock | Trouble::PeerClock(_));
            is_of_rows && is_mended || is_of_clocks || matches!(trouble, Trouble::Chunks)
        });
        self.look();
    }
}

/// Says whether POSIX knows that an operation is refused so.
fn is_posix(error: &FsError) -> bool {
    matches!(
        error,
        FsError::NotFound
            | FsError::Exists
            | FsError::NotEmpty
            | FsError::IsDirectory
            | FsError::NotDirectory
            | FsError::Invalid { .. }
            | FsError::NotPermitted
            | FsError::NoAttribute
    )
}
