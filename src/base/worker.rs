//! Background work: what repeats for as long as a peer runs, each kind with a name, and told what it does.
//!
//! A [`Worker`] says what one step is and when there is one more; [`Workers::run`] does the rest, the same
//! for all: it goes on while there is something to do, waits otherwise, tries again after a failure with
//! growing pauses, and ends a worker that panics. What each does, since when, what it waits for or failed
//! with, and when it tries again is in the list ([`Workers::list`]).
//!
//! A step is not interrupted but by the end of the peer, so it is to be short, or to have a deadline; the
//! wait may be given up at any point.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::time::{Backoff, sleep};
use super::{Clock, PeerId, panics};

/// What a worker is to be told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// What people call it: one word, the same in every version.
    pub name: &'static str,
    /// The peer that it works for, where there is one worker for each.
    pub peer: Option<PeerId>,
    /// What it does, in words: "hands the changes made here to the others".
    pub does: &'static str,
    /// How long after a failure it tries again, at first and at most.
    pub again: (Duration, Duration),
}

impl Job {
    /// Returns a job for the whole peer, with the usual pauses.
    pub const fn new(name: &'static str, does: &'static str) -> Self {
        Self {
            name,
            peer: None,
            does,
            again: AGAIN,
        }
    }

    /// Returns the same job, for one of the other peers.
    #[must_use]
    pub const fn of(mut self, peer: PeerId) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Returns the same job with other pauses after a failure.
    #[must_use]
    pub const fn again(mut self, first: Duration, most: Duration) -> Self {
        self.again = (first, most);
        self
    }
}

/// How long after a failure a worker tries again, unless it says otherwise, at first and at most.
pub const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    Busy,
    /// There is nothing to do before what is named: the wait begins.
    Idle(&'static str),
    /// There is nothing to do any more: the worker ends, and leaves the list.
    Over,
}

/// Why a step could not be done, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    why: String,
}

impl Failed {
    /// Returns the failure with these words.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }

    /// Returns the words.
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}

/// Work that repeats.
pub trait Worker: Send + 'static {
    /// Returns what it is to be told by.
    fn job(&self) -> Job;

    /// Does some of it.
    fn step(&mut self) -> impl Future<Output = Result<Step, Failed>> + Send;

    /// Resolves when there may be something to do; begins behind each step that ended idle.
    fn wait(&mut self) -> impl Future<Output = ()> + Send;
}

/// What a worker does at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// A step.
    Works,
    /// It waits for this.
    Waits(&'static str),
    /// It pauses after a failure, until this time: milliseconds since 1970.
    Pauses(u64),
    /// It has ended by a panic, which said this. Final.
    Panicked(String),
}

/// What a worker fails with, from its first failure until a step is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// The newest reason.
    pub why: String,
    /// When it failed first, milliseconds since 1970.
    pub since_ms: u64,
    /// How often it has failed since.
    pub count: u64,
}

/// What is known of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// What it is told by.
    pub job: Job,
    /// What it does now.
    pub doing: Doing,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// When it has done a step last, milliseconds since 1970.
    pub last_ms: Option<u64>,
    /// How many steps it has done.
    pub steps: u64,
    /// What it fails with; `None` where the last step was done.
    pub failing: Option<Failing>,
}

/// Workers that ended by a panic and stay in the list; of more the oldest are left out.
const PANICKED_MAX: usize = 64;

/// Workers that run, and those that have panicked, in the order in which they began. There are as many as
/// are started: some for the peer, some for each session, of which the node has a bounded number.
pub struct Workers {
    clock: Arc<dyn Clock>,
    list: Mutex<Vec<Arc<Mutex<WorkerStatus>>>>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

impl Workers {
    /// Returns an empty list.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            list: Mutex::default(),
        })
    }

    /// Puts a worker into the list; it works for as long as the future is polled, and leaves the list when
    /// that is dropped.
    pub fn run(self: &Arc<Self>, worker: impl Worker) -> impl Future<Output = ()> + Send + 'static {
        let post = Post::new(self, worker.job());
        drive(post, worker)
    }

    /// Returns what is known of each, in the order in which they began.
    pub fn list(&self) -> Vec<WorkerStatus> {
        let list = self.list.lock();
        list.iter().map(|status| status.lock().clone()).collect()
    }

    /// Returns those that have ended by a panic, and what it said.
    pub fn panicked(&self) -> Vec<(Job, String)> {
        let all = self.list().into_iter();
        let panicked = all.filter_map(|status| match status.doing {
            Doing::Panicked(what) => Some((status.job, what)),
            Doing::Works | Doing::Waits(_) | Doing::Pauses(_) => None,
        });
        panicked.collect()
    }
}

/// The place of a worker in the list.
struct Post {
    workers: Arc<Workers>,
    status: Arc<Mutex<WorkerStatus>>,
}

impl Post {
    fn new(workers: &Arc<Workers>, job: Job) -> Self {
        let status = Arc::new(Mutex::new(WorkerStatus {
            job,
            doing: Doing::Works,
            since_ms: workers.clock.wall_ms(),
            last_ms: None,
            steps: 0,
            failing: None,
        }));
        workers.list.lock().push(Arc::clone(&status));
        Self {
            workers: Arc::clone(workers),
            status,
        }
    }

    fn now_ms(&self) -> u64 {
        self.workers.clock.wall_ms()
    }

    fn set(&self, doing: Doing) {
        let now_ms = self.now_ms();
        let mut status = self.status.lock();
        // One busy step after another is one thing.
        if status.doing != doing {
            (status.doing, status.since_ms) = (doing, now_ms);
        }
    }

    fn done(&self) {
        let now_ms = self.now_ms();
        let mut status = self.status.lock();
        status.last_ms = Some(now_ms);
        status.steps += 1;
        if status.failing.take().is_some() {
            tracing::info!(worker = status.job.name, "goes on");
        }
    }

    fn failed(&self, failed: Failed, pause: Duration) {
        let now_ms = self.now_ms();
        let why = failed.why;
        {
            let mut status = self.status.lock();
            let name = status.job.name;
            match &mut status.failing {
                Some(failing) => (failing.why, failing.count) = (why, failing.count + 1),
                none => {
                    // Told once, not at each try.
                    tracing::warn!(worker = name, "failed: {why}");
                    *none = Some(Failing {
                        why,
                        since_ms: now_ms,
                        count: 1,
                    });
                }
            }
        }
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.set(Doing::Pauses(now_ms.saturating_add(pause_ms)));
    }

    fn panicked(&self, what: String) {
        tracing::error!(
            worker = self.status.lock().job.name,
            "ended by a panic: {what}"
        );
        self.set(Doing::Panicked(what));
        let mut list = self.workers.list.lock();
        let is_dead =
            |status: &Mutex<WorkerStatus>| matches!(status.lock().doing, Doing::Panicked(_));
        let dead = list.iter().filter(|status| is_dead(status)).count();
        if dead > PANICKED_MAX
            && let Some(oldest) = list.iter().position(|status| is_dead(status))
        {
            list.remove(oldest);
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        if !matches!(self.status.lock().doing, Doing::Panicked(_)) {
            let mut list = self.workers.list.lock();
            list.retain(|status| !Arc::ptr_eq(status, &self.status));
        }
    }
}

async fn drive<W: Worker>(post: Post, mut worker: W) {
    let (first, most) = worker.job().again;
    let mut backoff = Backoff::new(first, most);
    loop {
        post.set(Doing::Works);
        let wait_for = match caught(worker.step()).await {
            Ok(Ok(step)) => {
                post.done();
                backoff.reset();
                match step {
                    Step::Busy => continue,
                    Step::Idle(what) => what,
                    Step::Over => return,
                }
            }
            Ok(Err(failed)) => {
                let pause = backoff.failed();
                post.failed(failed, pause);
                sleep(pause).await;
                continue;
            }
            // What it leaves behind may fit nothing any more.
            Err(what) => return post.panicked(what),
        };
        post.set(Doing::Waits(wait_for));
        if let Err(what) = caught(worker.wait()).await {
            return post.panicked(what);
        }
    }
}

/// Resolves as the future does, or to what its panic said.
async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    std::future::poll_fn(
        |context| match panics::caught(|| future.as_mut().poll(context)) {
            Ok(poll) => poll.map(Ok),
            Err(what) => std::task::Poll::Ready(Err(what)),
        },
    )
    .await
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::sync::Notify;

    use super::*;
    use crate::base::task::spawn;
    use crate::base::time::SimClock;

    const JOB: Job = Job::new("trial", "tries");

    /// Does what the script says, step by step; waits where it is at its end.
    struct Scripted {
        script: VecDeque<fn() -> Result<Step, Failed>>,
        wake: Arc<Notify>,
    }

    impl Worker for Scripted {
        fn job(&self) -> Job {
            JOB.again(Duration::from_secs(1), Duration::from_secs(4))
        }

        async fn step(&mut self) -> Result<Step, Failed> {
            let next = self.script.pop_front();
            next.map_or(Ok(Step::Idle("more")), |step| step())
        }

        async fn wait(&mut self) {
            self.wake.notified().await;
        }
    }

    fn start(
        script: &[fn() -> Result<Step, Failed>],
    ) -> (Arc<Workers>, Arc<Notify>, tokio::task::JoinHandle<()>) {
        let workers = Workers::new(SimClock::new(1_000_000));
        let wake = Arc::new(Notify::new());
        let worker = Scripted {
            script: script.iter().copied().collect(),
            wake: Arc::clone(&wake),
        };
        let task = spawn(workers.run(worker));
        (workers, wake, task)
    }

    fn only(workers: &Workers) -> WorkerStatus {
        let list = workers.list();
        assert_eq!(list.len(), 1, "{list:?}");
        list[0].clone()
    }

    fn fails() -> Result<Step, Failed> {
        Err(Failed::new("no disk"))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_listed_before_it_begins_and_says_what_it_waits_for() {
        let (workers, _, task) = start(&[|| Ok(Step::Busy), || Ok(Step::Busy)]);
        assert_eq!(only(&workers).doing, Doing::Works);
        assert_eq!(only(&workers).last_ms, None);
        sleep(Duration::from_secs(5)).await;
        let status = only(&workers);
        assert_eq!(status.doing, Doing::Waits("more"));
        assert_eq!((status.since_ms, status.steps), (1_000_000, 3));
        assert_eq!(status.last_ms, Some(1_000_000));
        task.abort();
        let _ = task.await;
        assert!(workers.list().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn after_failures_it_pauses_longer_and_longer_and_goes_on() {
        let script = [fails, fails, fails, fails, fails, || Ok(Step::Busy), fails];
        let (workers, _, _task) = start(&script);
        let mut tries = Vec::new();
        // Tries at 0, 1, 3, 7, 11 s; at 15 s it works, and fails anew.
        for _ in 0..40 {
            sleep(Duration::from_millis(500)).await;
            if let Doing::Pauses(until_ms) = only(&workers).doing {
                tries.push(until_ms - 1_000_000);
            }
            if tries.last() == Some(&15_000) {
                break;
            }
        }
        tries.dedup();
        assert_eq!(tries, [1_000, 3_000, 7_000, 11_000, 15_000]);
        let failing = only(&workers).failing.unwrap();
        assert_eq!((&*failing.why, failing.count), ("no disk", 5));
        assert_eq!(failing.since_ms, 1_000_000);
        sleep(Duration::from_secs(4)).await;
        // Since the last success, with the first pause again.
        let status = only(&workers);
        let failing = status.failing.unwrap();
        assert_eq!((failing.since_ms, failing.count), (1_015_000, 1));
        assert_eq!(status.doing, Doing::Pauses(1_016_000));
        sleep(Duration::from_secs(2)).await;
        let status = only(&workers);
        assert_eq!((status.failing, status.doing), (None, Doing::Waits("more")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_told_and_is_the_end_of_that_worker_alone() {
        let (workers, wake, task) = start(&[|| panic!("at the {}rd", 3)]);
        let well = Scripted {
            script: VecDeque::new(),
            wake,
        };
        let well = spawn(workers.run(well));
        task.await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let list = workers.list();
        assert_eq!(list[0].doing, Doing::Panicked("at the 3rd".to_owned()));
        assert_eq!(list[1].doing, Doing::Waits("more"));
        assert_eq!(workers.panicked(), [(list[0].job, "at the 3rd".to_owned())]);
        assert!(!well.is_finished());
        for _ in 0..2 * PANICKED_MAX {
            let script: VecDeque<fn() -> Result<Step, Failed>> =
                [(|| panic!("x")) as fn() -> _].into();
            let wake = Arc::default();
            spawn(workers.run(Scripted { script, wake })).await.unwrap();
        }
        assert_eq!(workers.list().len(), PANICKED_MAX + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_through_leaves_the_list() {
        let (workers, _, task) = start(&[|| Ok(Step::Busy), || Ok(Step::Over)]);
        task.await.unwrap();
        assert!(workers.list().is_empty());
    }
}
