//! The threads that answer the kernel: few read, and none of those keeps the others waiting.
//!
//! Requests are read and answered fastest by a thread that does nothing else: threads that read in
//! turn wake each other. But while such a thread waits for a lock or the disk, nobody reads. So there
//! are more threads than **seats**. Who has a seat reads, answers, and reads again; the others wait
//! inside the handler of the last request that they answered. The first of those, the **deputy**, looks
//! every few milliseconds whether a seat's thread is still in the request that it was in, and waits for
//! something, and takes the seat then, whatever it is. Who works, or only waits for a processor, loses his
//! seat a little later: each change of threads costs time. Who comes out of a request and has lost his
//! seat waits with the others.
//!
//! Who is about to wait for the disk where requests lie there opens a further seat, one of a few that
//! are closed else, and the deputy takes it: so the disk has several reads to do at a time. Who sits
//! there goes back to the bench, and closes it behind him, once nobody asks for anything.
//!
//! Each thread begins as a reader, without a seat: all have one request each before it is as said.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::base::waits;

/// The threads of a mount. They end together: when one leaves, each of the others reads again, and
/// finds out why.
#[derive(Debug, Clone)]
pub(super) struct Crew(Arc<Shared>);

struct Shared {
    /// Who sits there, and what he does: see [`Held`].
    seats: Box<[AtomicU64]>,
    /// From this seat on they are closed where nobody waits for the disk.
    always: usize,
    /// Tells whether there is a request to read.
    is_asked: Box<dyn Fn() -> bool + Send + Sync>,
    /// The deputy sleeps until there is a request.
    is_dozing: AtomicBool,
    has_ended: AtomicBool,
    /// Held by the deputy; the others wait for it.
    bench: Mutex<()>,
    /// What the deputy sleeps under, held by who wakes him.
    sleep: Mutex<()>,
    wake: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("seats", &self.seats)
            .finish_non_exhaustive()
    }
}

/// What a seat holds: the kernel's number of its thread, and above it a count that is odd during a
/// request. A free one holds 0, a closed one [`CLOSED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held(u64);

impl Held {
    fn by_this_thread() -> Self {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        Self(u64::from(thread.unsigned_abs()) & THREAD_MASK)
    }

    /// Returns what follows at the beginning or the end of a request.
    fn next(self) -> Self {
        Self(self.0.wrapping_add(THREAD_MASK + 1))
    }

    fn is_in_request(self) -> bool {
        self.0 & (THREAD_MASK + 1) != 0
    }

    /// Tells whether the thread waits for something else than a processor.
    fn is_waiting(self) -> bool {
        let stat =
            std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.0 & THREAD_MASK));
        // Behind the name, in which anything may stand.
        let state = stat
            .as_deref()
            .ok()
            .and_then(|stat| stat.rsplit(')').next());
        state.is_none_or(|state| !state.trim_start().starts_with('R'))
    }
}

/// A thread of the crew.
struct Member {
    crew: Arc<Shared>,
    /// Its seat and what that held when this thread last touched it.
    seat: Option<(usize, Held)>,
}

thread_local! {
    static MEMBER: RefCell<Option<Member>> = const { RefCell::new(None) };
}

impl Crew {
    /// Returns a crew of which so many threads read at a time, and so many `more` while others wait
    /// for the disk. `is_asked` tells whether there is a request to read.
    pub(super) fn new(
        seats: usize,
        more: usize,
        is_asked: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let of = |seat| if seat < seats { FREE } else { CLOSED };
        Self(Arc::new(Shared {
            seats: (0..seats + more).map(of).map(AtomicU64::new).collect(),
            always: seats,
            is_asked: Box::new(is_asked),
            is_dozing: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            bench: Mutex::new(()),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }))
    }

    /// Begins a request: what is returned is to be dropped when it is answered, and keeps the thread
    /// until it is to read again.
    pub(super) fn turn(&self) -> Turn {
        MEMBER.with_borrow_mut(|member| {
            let member = member.get_or_insert_with(|| {
                let crew = Arc::clone(&self.0);
                waits::set(move || crew.share());
                Member {
                    crew: Arc::clone(&self.0),
                    seat: None,
                }
            });
            member.begin();
        });
        Turn
    }
}

/// A request that is being answered, on the thread that read it.
#[derive(Debug)]
#[must_use]
pub(super) struct Turn;

impl Drop for Turn {
    fn drop(&mut self) {
        // Such a thread ends, and with it all.
        if std::thread::panicking() {
            return;
        }
        MEMBER.with_borrow_mut(|member| member.as_mut().map(Member::end));
    }
}

impl Member {
    fn begin(&mut self) {
        let Some((index, held)) = &mut self.seat else {
            let held = Held::by_this_thread().next();
            let free = |seat: &AtomicU64| {
                let order = Ordering::SeqCst;
                seat.compare_exchange(FREE, held.0, order, order).is_ok()
            };
            self.seat = self.crew.seats.iter().position(free).map(|i| (i, held));
            return self.crew.rouse();
        };
        *held = held.next();
        // Nobody takes a seat that is in no request.
        if let Some(seat) = self.crew.seats.get(*index) {
            seat.store(held.0, Ordering::SeqCst);
        }
        self.crew.rouse();
    }

    fn end(&mut self) {
        if let Some((index, held)) = self.seat {
            let is_needless = index >= self.crew.always && !(self.crew.is_asked)();
            let next = match is_needless {
                true => Held(CLOSED),
                false => held.next(),
            };
            if self.crew.swap(index, held, next) && !is_needless {
                self.seat = Some((index, next));
                return;
            }
        }
        self.seat = self.crew.wait(Held::by_this_thread());
    }
}

impl Drop for Member {
    /// Lets go of all: a thread that ends has found that there is nothing more to read.
    fn drop(&mut self) {
        self.crew.has_ended.store(true, Ordering::SeqCst);
        let _asleep = self.crew.sleep.lock();
        self.crew.wake.notify_all();
    }
}

impl Shared {
    fn swap(&self, index: usize, from: Held, to: Held) -> bool {
        let order = Ordering::SeqCst;
        let seat = self.seats.get(index);
        seat.is_some_and(|seat| seat.compare_exchange(from.0, to.0, order, order).is_ok())
    }

    fn look(&self) -> Vec<Held> {
        let held = |seat: &AtomicU64| Held(seat.load(Ordering::SeqCst));
        self.seats.iter().map(held).collect()
    }

    /// Opens a further seat, where there is one and somebody asks.
    fn share(&self) {
        let is_closed = |seat: &&AtomicU64| seat.load(Ordering::SeqCst) == CLOSED;
        let Some(seat) = self.seats.iter().find(is_closed) else {
            return;
        };
        let order = Ordering::SeqCst;
        if (self.is_asked)() && seat.compare_exchange(CLOSED, FREE, order, order).is_ok() {
            let _asleep = self.sleep.lock();
            self.wake.notify_all();
        }
    }

    /// Takes a free seat.
    fn sit(&self, mine: Held) -> Option<(usize, Held)> {
        let index = (0..self.seats.len()).find(|index| self.swap(*index, Held(FREE), mine));
        index.map(|index| (index, mine))
    }

    /// Wakes a deputy who sleeps.
    fn rouse(&self) {
        if self.is_dozing.load(Ordering::SeqCst) {
            let _asleep = self.sleep.lock();
            self.wake.notify_all();
        }
    }

    /// Waits, as the deputy when it is one's turn, until there is a seat to take, which `mine` is put
    /// in, or all end.
    fn wait(&self, mine: Held) -> Option<(usize, Held)> {
        let _deputy = self.bench.lock();
        let mut asleep = self.sleep.lock();
        let (mut seen, mut quiet) = (self.look(), 0);
        let mut looks = vec![0; seen.len()];
        while !self.has_ended.load(Ordering::SeqCst) {
            if let Some(seat) = self.sit(mine) {
                return Some(seat);
            }
            if quiet < QUIET_LOOKS {
                self.wake.wait_for(&mut asleep, LOOK);
            } else {
                self.is_dozing.store(true, Ordering::SeqCst);
                // Whoever began a request before that is seen here; whoever does later wakes us.
                if self.look() == seen && !self.has_ended.load(Ordering::SeqCst) {
                    self.wake.wait(&mut asleep);
                }
                self.is_dozing.store(false, Ordering::SeqCst);
            }
            let now = self.look();
            quiet = if now == seen { quiet + 1 } else { 0 };
            let seats = now.iter().zip(&seen).zip(&mut looks).enumerate();
            for (index, ((held, before), looks)) in seats {
                let is_kept = held == before && held.0 != CLOSED && held.is_in_request();
                *looks = if is_kept { *looks + 1 } else { 0 };
                let is_late = *looks >= LOOKS_MAX || is_kept && held.is_waiting();
                if is_late && self.swap(index, *held, mine) {
                    return Some((index, mine));
                }
            }
            seen = now;
        }
        None
    }
}

/// How long a request that waits may keep the others waiting, about: the deputy sees it twice.
const LOOK: Duration = Duration::from_millis(2);

/// Looks that see the same request, after the first, until it keeps the others no longer though it
/// works.
const LOOKS_MAX: u32 = 4;

/// Looks without a request after which the deputy sleeps until there is one.
const QUIET_LOOKS: u32 = 50;

/// What a seat holds that anybody may take.
const FREE: u64 = 0;

/// What a seat holds that nobody may take.
const CLOSED: u64 = u64::MAX;

/// Numbers of threads have 22 bits at most.
const THREAD_MASK: u64 = (1 << 22) - 1;

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
    use std::thread::JoinHandle;

    use super::*;
    use crate::base::task;

    type Request = Box<dyn FnOnce() + Send>;

    /// Threads that read requests as those of a mount do, and end with the sender of requests.
    struct Device {
        kernel: Option<Sender<Request>>,
        threads: Vec<JoinHandle<()>>,
        /// How many read, and how many did at most since that was set to 0.
        readers: Arc<Mutex<(usize, usize)>>,
    }

    impl Device {
        fn new(seats: usize, threads: usize) -> Self {
            Self::with(Crew::new(seats, 0, || false), threads)
        }

        fn with(crew: Crew, threads: usize) -> Self {
            let (kernel, requests) = channel::<Request>();
            let requests = Arc::new(Mutex::new(requests));
            let readers = Arc::new(Mutex::new((0, 0)));
            let started = (0..threads).map(|index| {
                let (crew, requests) = (crew.clone(), Arc::clone(&requests));
                let readers = Arc::clone(&readers);
                let read = move || {
                    {
                        let mut readers = readers.lock();
                        readers.0 += 1;
                        readers.1 = readers.1.max(readers.0);
                    }
                    let request = receive(&requests);
                    readers.lock().0 -= 1;
                    request
                };
                let body = move || {
                    while let Ok(request) = read() {
                        let _turn = crew.turn();
                        request();
                    }
                };
                task::thread(&format!("member-{index}"), body).unwrap()
            });
            let device = Self {
                threads: started.collect(),
                kernel: Some(kernel),
                readers,
            };
            // Each has one request, all at once.
            let all = Arc::new(Barrier::new(threads + 1));
            for _ in 0..threads {
                let all = Arc::clone(&all);
                device.ask(move || {
                    all.wait();
                    all.wait();
                });
            }
            all.wait();
            device.readers.lock().1 = 0;
            all.wait();
            device
        }

        fn ask(&self, request: impl FnOnce() + Send + 'static) {
            let kernel = self.kernel.as_ref().unwrap();
            kernel.send(Box::new(request)).unwrap();
        }

        /// Returns when a request was answered that is sent now.
        fn answer_one(&self) {
            let (sender, answer) = channel();
            self.ask(move || sender.send(()).unwrap());
            answer.recv().unwrap();
        }

        /// Ends the requests, and returns how many read at most, when all threads have ended.
        fn end(mut self) -> usize {
            let most = self.readers.lock().1;
            self.kernel = None;
            for thread in self.threads {
                thread.join().unwrap();
            }
            most
        }
    }

    fn receive(requests: &Mutex<Receiver<Request>>) -> Result<Request, RecvError> {
        requests.lock().recv()
    }

    #[test]
    fn as_many_read_as_there_are_seats_and_all_end_together() {
        for (seats, threads) in [(1, 1), (1, 4), (2, 4)] {
            let device = Device::new(seats, threads);
            for _ in 0..1000 {
                device.answer_one();
            }
            assert!(device.end() <= seats);
        }
    }

    #[test]
    fn who_is_stuck_in_a_request_keeps_nobody_waiting_and_waits_when_he_is_done() {
        let device = Device::new(1, 3);
        for _ in 0..3 {
            let (free, stuck) = channel::<()>();
            let (second_free, second_stuck) = channel::<()>();
            let (sender, done) = channel();
            let second_sender = sender.clone();
            device.ask(move || sender.send(stuck.recv()).unwrap());
            device.ask(move || second_sender.send(second_stuck.recv()).unwrap());
            // Nobody would answer this while one thread reads and answers.
            device.answer_one();
            free.send(()).unwrap();
            second_free.send(()).unwrap();
            assert_eq!([done.recv(), done.recv()], [Ok(Ok(())), Ok(Ok(()))]);
            device.answer_one();
        }
        assert_eq!(device.end(), 1);
    }

    #[test]
    fn who_works_in_a_request_keeps_nobody_waiting_either() {
        let device = Device::new(1, 2);
        let is_free = Arc::new(AtomicBool::new(false));
        let works = Arc::clone(&is_free);
        device.ask(move || {
            while !works.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
        });
        device.answer_one();
        is_free.store(true, Ordering::SeqCst);
        assert_eq!(device.end(), 1);
    }

    #[test]
    fn it_is_told_whether_a_thread_waits() {
        assert!(!Held::by_this_thread().is_waiting());
        let (number, told) = channel();
        let (free, stuck) = channel::<()>();
        let waits = task::thread("waits) R (", move || {
            number.send(Held::by_this_thread()).unwrap();
            let _ = stuck.recv();
        });
        let held = told.recv().unwrap();
        while !held.is_waiting() {
            std::thread::yield_now();
        }
        assert!(held.next().is_waiting() && held.next().is_in_request());
        drop(free);
        waits.unwrap().join().unwrap();
    }

    #[test]
    fn a_deputy_who_sleeps_is_woken_by_a_request() {
        let crew = Crew::new(1, 0, || false);
        let shared = Arc::clone(&crew.0);
        let device = Device::with(crew, 2);
        while !shared.is_dozing.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let (free, stuck) = channel::<()>();
        device.ask(move || stuck.recv().unwrap());
        device.answer_one();
        free.send(()).unwrap();
        device.end();
    }

    #[test]
    fn who_waits_for_the_disk_lets_others_read_beside_him_until_nobody_asks() {
        let asks = Arc::new(AtomicBool::new(false));
        let is_asked = Arc::clone(&asks);
        let crew = Crew::new(1, 2, move || is_asked.load(Ordering::SeqCst));
        let shared = Arc::clone(&crew.0);
        let device = Device::with(crew, 5);
        let wait = || {
            let (free, stuck) = channel::<()>();
            let (sender, begun) = channel();
            device.ask(move || {
                waits::begin();
                sender.send(()).unwrap();
                stuck.recv().unwrap();
            });
            begun.recv().unwrap();
            free
        };
        // Where nobody asks there is nothing to be read beside.
        let first = wait();
        let closed = |shared: &Shared| {
            let held = shared.look();
            held.iter().filter(|held| held.0 == CLOSED).count()
        };
        assert_eq!(closed(&shared), 2);
        asks.store(true, Ordering::SeqCst);
        let (second, third, fourth) = (wait(), wait(), wait());
        assert_eq!(closed(&shared), 0);
        // There is a deputy all the same.
        device.answer_one();
        asks.store(false, Ordering::SeqCst);
        for free in [first, second, third, fourth] {
            free.send(()).unwrap();
        }
        while closed(&shared) < 2 {
            device.answer_one();
        }
        device.end();
    }
}
