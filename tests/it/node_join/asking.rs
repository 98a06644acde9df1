//! Admission by asking: nobody invited the machine, an admin decides, any member carries the word.

use std::sync::Mutex;

use dfs::crypto::spoken;
use dfs::node::{Admission, AskedAt, AskingInfo};
use dfs::wire::{Asked, Asking, PassedAsking, SignedAsking, VolumeMark};
use tokio::task::JoinHandle;

use super::*;

const KEYS: &[u8] = b"the keys of the volume";

/// A machine that asks, on a task of its own.
struct Asker {
    machine: Machine,
    task: JoinHandle<Result<Admission, NodeError>>,
    told: Arc<Mutex<Vec<AskedAt>>>,
}

impl Asker {
    fn start(machine: Machine, peers: &[SocketAddr]) -> Self {
        let (transport, config) = (Arc::clone(&machine.transport), config(machine.at));
        let clock = Arc::clone(&machine.clock) as Arc<dyn Clock>;
        let (peers, told) = (peers.to_vec(), Arc::new(Mutex::new(Vec::new())));
        let telling = Arc::clone(&told);
        let task = dfs::base::task::spawn(async move {
            let tell = |at| telling.lock().unwrap().push(at);
            Node::ask(&transport, &config, &clock, &peers, tell).await
        });
        Self {
            machine,
            task,
            told,
        }
    }

    fn told(&self) -> AskedAt {
        let told = self.told.lock().unwrap();
        assert_eq!(told.len(), 1, "told once");
        told[0].clone()
    }

    async fn failure(self) -> NodeError {
        self.task.await.unwrap().unwrap_err()
    }

    /// Waits until it is admitted, and starts it as a member.
    async fn member(mut self, world: &World) -> Machine {
        let joined = self.task.await.unwrap().unwrap();
        let joined = joined.settle();
        let keys = joined.wrapped_keys.as_ref().map(|wrapped| {
            let unwrapped = IDENTITIES[self.machine.at].unwrap_key(wrapped).unwrap();
            unwrapped.to_vec()
        });
        let reads = joined.role.reads();
        assert_eq!(keys, reads.then(|| KEYS.to_vec()));
        joined.found(&self.machine.store, Batch::new()).unwrap();
        self.machine.start(world);
        self.machine
    }
}

/// Returns a founder that hands out [`KEYS`], and a storage peer that knows it.
async fn pair(world: &World) -> (Machine, Machine) {
    let founder = world.founder();
    wrap_keys(&founder, world);
    let storage = world.member(1, Role::Storage, &founder, 0).await;
    until(5, "a session", || all_connected(&[&founder, &storage])).await;
    (founder, storage)
}

fn wrap_keys(machine: &Machine, world: &World) {
    let rng = world.rng.clone();
    let wrap = move |to: &dfs::crypto::PublicIdentity| to.wrap_key(&rng, KEYS).ok();
    machine.node().set_key_wrapper(Box::new(wrap));
}

async fn listed(machine: &Machine) -> AskingInfo {
    until(5, "the asking is listed", || {
        machine.node().askings().len() == 1
    })
    .await;
    machine.node().askings().remove(0)
}

#[tokio::test(start_paused = true)]
async fn who_asks_at_a_storage_peer_is_admitted_by_an_admin_elsewhere() {
    let world = World::new();
    let (founder, storage) = pair(&world).await;
    // It never reaches the admin itself.
    world.net.partition(&[addr(2)], &[addr(0)]);
    let asker = Asker::start(world.machine(2), &[addr(1)]);
    let asking = listed(&founder).await;
    let told = asker.told();
    assert_eq!(told.addr, addr(1));
    assert_eq!((asking.peer, asking.addr), (id(2), addr(2)));
    assert_eq!((asking.code(), asking.words()), (told.code, told.words));
    assert_eq!(
        (asking.name.as_str(), asking.via),
        ("machine 2", Some(id(1)))
    );
    assert!(asking.since_ms >= START_MS && asking.since_ms <= world.clock.wall_ms());
    // It goes on for as long as nobody decides.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(founder.node().askings().len(), 1);

    let approved = world.clock.monotonic();
    let member = founder
        .node()
        .approve(id(2), Role::Writer, Some("desk"))
        .await
        .unwrap();
    assert_eq!((member.name.as_str(), member.role), ("desk", Role::Writer));
    let newcomer = asker.member(&world).await;
    let took = world.clock.monotonic() - approved;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(founder.node().askings().is_empty() && storage.node().askings().is_empty());
    world.net.heal();
    until(40, "all know each other", || {
        all_connected(&[&founder, &storage, &newcomer])
    })
    .await;
    assert_eq!(newcomer.node().role(), Some(Role::Writer));
    assert!(matches!(
        founder.node().approve(id(2), Role::Writer, None).await,
        Err(NodeError::NotAsking)
    ));
}

#[tokio::test(start_paused = true)]
async fn who_is_denied_is_told_wherever_it_asks() {
    let world = World::new();
    let (founder, storage) = pair(&world).await;
    let asker = Asker::start(world.machine(2), &[addr(1)]);
    listed(&founder).await;
    founder.node().deny(id(2)).unwrap();
    assert!(matches!(asker.failure().await, NodeError::Denied));
    for machine in [&founder, &storage] {
        assert!(machine.node().askings().is_empty());
    }
    let again = Asker::start(world.machine(2), &[addr(0)]);
    assert!(matches!(again.failure().await, NodeError::Denied));
    // Who was not there hears it, too.
    let late = world.member(3, Role::Storage, &founder, 0).await;
    until(5, "a session", || late.node().connected().len() == 2).await;
    sleep(Duration::from_secs(1)).await;
    let again = Asker::start(world.machine(2), &[addr(3)]);
    assert!(matches!(again.failure().await, NodeError::Denied));
    // After the time for which one may ask it may ask again.
    sleep(Duration::from_secs(3600 + 601)).await;
    let again = Asker::start(world.machine(2), &[addr(1)]);
    assert_eq!(listed(&founder).await.peer, id(2));
    again.task.abort();
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_vanishes_and_has_the_same_code_again() {
    let world = World::new();
    let (founder, storage) = pair(&world).await;
    let asker = Asker::start(world.machine(2), &[addr(1)]);
    listed(&founder).await;
    let first = asker.told();
    asker.task.abort();
    world.net.kill(addr(2));
    until(30, "it vanishes", || {
        founder.node().askings().is_empty() && storage.node().askings().is_empty()
    })
    .await;
    let asker = Asker::start(world.machine(2), &[addr(1)]);
    let asking = listed(&founder).await;
    assert_eq!((asking.code(), asker.told()), (first.code.clone(), first));
    asker.task.abort();
}

#[tokio::test(start_paused = true)]
async fn asking_ends_after_an_hour_on_both_sides() {
    let world = World::new();
    let (founder, _storage) = pair(&world).await;
    let asker = Asker::start(world.machine(2), &[addr(1)]);
    listed(&founder).await;
    sleep(Duration::from_secs(3590)).await;
    assert_eq!(founder.node().askings().len(), 1);
    assert!(matches!(asker.failure().await, NodeError::AskedTooLong));
    until(30, "it vanishes", || founder.node().askings().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_approval_waits_for_who_was_away_and_needs_no_admin_any_more() {
    let world = World::new();
    let (mut founder, _storage) = pair(&world).await;
    let asker = Asker::start(world.machine(2), &[addr(1)]);
    listed(&founder).await;
    asker.task.abort();
    world.net.kill(addr(2));
    let node = founder.node();
    node.approve(id(2), Role::Reader, None).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    founder.kill(&world).await;
    let asker = Asker::start(world.machine(2), &[addr(1)]);
    let newcomer = asker.member(&world).await;
    assert_eq!(newcomer.node().role(), Some(Role::Reader));
}

#[tokio::test(start_paused = true)]
async fn asking_goes_on_elsewhere_and_when_the_peer_is_back() {
    let world = World::new();
    let (founder, mut storage) = pair(&world).await;
    let first = Asker::start(world.machine(2), &[addr(1), addr(0)]);
    let second = Asker::start(world.machine(3), &[addr(1)]);
    until(5, "both are listed", || founder.node().askings().len() == 2).await;
    storage.kill(&world).await;
    until(40, "one asks at the founder", || {
        let askings = founder.node().askings();
        askings.iter().any(|asking| asking.via.is_none())
    })
    .await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(founder.node().askings().len(), 1);
    world.restart(&mut storage);
    until(60, "both are listed", || {
        founder.node().askings().len() == 2
    })
    .await;
    for at in [2, 3] {
        let node = founder.node();
        node.approve(id(at), Role::Writer, None).await.unwrap();
    }
    first.member(&world).await;
    second.member(&world).await;
}

#[tokio::test(start_paused = true)]
async fn only_admins_decide_and_a_storage_peer_gets_no_keys() {
    let world = World::new();
    let (founder, storage) = pair(&world).await;
    let asker = Asker::start(world.machine(2), &[addr(0)]);
    listed(&storage).await;
    let refused = storage.node().approve(id(2), Role::Writer, None).await;
    let not_admin =
        |error: &NodeError| matches!(error, NodeError::Roster(dfs::node::RosterError::NotAdmin));
    assert!(not_admin(&refused.unwrap_err()));
    assert!(not_admin(&storage.node().deny(id(2)).unwrap_err()));
    let node = founder.node();
    node.approve(id(2), Role::Storage, None).await.unwrap();
    let member = asker.member(&world).await;
    assert_eq!(member.node().role(), Some(Role::Storage));
    assert_eq!(founder.node().roster().grants(&id(2)).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_was_removed_or_has_a_wrong_clock_is_told_so() {
    let world = World::new();
    let (founder, _storage) = pair(&world).await;
    let member = world.member(2, Role::Writer, &founder, 0).await;
    until(5, "a session", || founder.node().connected().len() == 2).await;
    // A member that has lost its folder but not its key gets the keys anew.
    drop(member);
    let asker = Asker::start(world.machine(2), &[addr(1)]);
    listed(&founder).await;
    let node = founder.node();
    node.approve(id(2), Role::Reader, None).await.unwrap();
    assert_eq!(asker.member(&world).await.node().role(), Some(Role::Writer));

    node.remove_member(id(2)).await.unwrap();
    let asker = Asker::start(world.machine(2), &[addr(0)]);
    assert!(matches!(asker.failure().await, NodeError::Removed));

    let mut late = world.machine(3);
    late.clock = SimClock::new(START_MS + world.clock.monotonic().as_millis() as u64);
    late.clock.advance(Duration::from_secs(700));
    let asker = Asker::start(late, &[addr(0)]);
    let error = asker.failure().await;
    assert!(matches!(error, NodeError::ClockSkew { .. }), "{error}");
    let asker = Asker::start(world.machine(3), &[addr(9), addr(8)]);
    let error = asker.failure().await;
    assert!(matches!(error, NodeError::Unreachable { addrs } if addrs.len() == 2));
}

#[tokio::test(start_paused = true)]
async fn whoever_answers_in_the_place_of_a_member_shows_other_words() {
    let world = World::new();
    let (founder, _storage) = pair(&world).await;
    // Somebody else's volume, where the newcomer believes the founder's.
    let mut other = world.machine(2);
    let rng = Rng::from_seed(99);
    Node::create_volume(&config(2), &other.store, world.clock.as_ref(), &rng).unwrap();
    other.start(&world);
    wrap_keys(&other, &world);
    let deceived = Asker::start(world.machine(3), &[addr(2)]);
    listed(&other).await;
    let mark = VolumeMark::of(founder.node().volume());
    let honest = spoken::four_words(&id(3), &mark.0).join(" ");
    assert_ne!(deceived.told().words, honest);
    // To the admin nobody with this code asks, whatever the other one does.
    let relayed = Asker::start(world.machine(4), &[addr(0)]);
    let asking = listed(&founder).await;
    assert_ne!(asking.code(), deceived.told().code);
    assert_ne!(asking.words(), deceived.told().words);
    deceived.task.abort();
    relayed.task.abort();
}

/// Returns what machine `at` says to be admitted to a volume.
fn word(at: usize, volume: VolumeId, clock_ms: u64) -> SignedAsking {
    let asking = Asking {
        volume: VolumeMark::of(volume),
        identity: IDENTITIES[at].public(),
        name: "\u{1b}[2Jlaptop".to_owned(),
        since_ms: clock_ms,
        clock_ms,
    };
    let signature = IDENTITIES[at].sign(Asking::DOMAIN, &asking.signed_bytes());
    SignedAsking { asking, signature }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_asks_is_told_neither_volume_nor_roster() {
    let world = World::new();
    let (founder, _storage) = pair(&world).await;
    let volume = founder.node().volume();
    let stranger = world.transport(2);
    let connection = stranger.connect(addr(0)).await.unwrap();
    let clock_ms = world.clock.wall_ms();
    let knocked = ask(&connection, Request::Knock { clock_ms }).await.unwrap();
    let Response::Knocked { volume: mark } = knocked else {
        panic!("{knocked:?}");
    };
    assert_eq!(mark, VolumeMark::of(volume));
    assert_ne!(mark.0, volume.0);
    let asked = ask(&connection, Request::Ask(word(2, volume, clock_ms))).await;
    assert!(
        matches!(asked, Some(Response::Asked(Asked::Waiting))),
        "{asked:?}"
    );
    // Control characters do not reach a terminal.
    assert_eq!(founder.node().askings()[0].name, "[2Jlaptop");
    for request in [
        Request::RosterPull { skip: 0 },
        Request::RosterPush {
            statements: Vec::new(),
        },
        Request::Join {
            volume: VolumeId(mark.0),
            clock_ms,
        },
        Request::FindNode { key: [0; 32] },
        Request::Askings {
            askings: Vec::new(),
            denials: Vec::new(),
        },
    ] {
        let answer = ask(&connection, request).await.unwrap();
        let refused = matches!(
            answer,
            Response::Refused(Refusal::HelloFirst | Refusal::WrongVolume)
        );
        assert!(refused, "{answer:?}");
    }
    // Nobody asks in another's name, or with what another has signed.
    for forged in [word(3, volume, clock_ms), {
        let mut changed = word(2, volume, clock_ms + 1);
        changed.asking.name = "another".to_owned();
        changed
    }] {
        let answer = ask(&connection, Request::Ask(forged)).await;
        assert!(
            matches!(answer, Some(Response::Refused(Refusal::Malformed))),
            "{answer:?}"
        );
    }
    // It need not say hello for as long as it asks.
    for _ in 0..10 {
        let word = word(2, volume, world.clock.wall_ms());
        assert!(ask(&connection, Request::Ask(word)).await.is_some());
    }
    sleep(Duration::from_secs(60)).await;
    assert!(
        ask(&connection, Request::Knock { clock_ms })
            .await
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn what_members_pass_on_cannot_be_changed_by_them() {
    let world = World::new();
    let (founder, storage) = pair(&world).await;
    let volume = founder.node().volume();
    let clock_ms = world.clock.wall_ms();
    let mut changed = word(2, volume, clock_ms);
    changed.asking.name = "somebody that the admin knows".to_owned();
    let other_volume = word(3, VolumeId([1; 32]), clock_ms);
    let true_one = word(4, volume, clock_ms);
    let mut late = word(4, volume, clock_ms);
    late.asking.clock_ms += 1_000;
    let passed = [changed, other_volume, true_one, late].map(|signed| PassedAsking {
        signed,
        addr: addr(9),
    });
    let denial = dfs::wire::Denial {
        volume: VolumeMark::of(volume),
        peer: id(4),
        admin: id(0),
        denied_ms: clock_ms,
        signature: IDENTITIES[1].sign(dfs::wire::Denial::DOMAIN, b""),
    };
    let request = Request::Askings {
        askings: passed.to_vec(),
        denials: vec![denial],
    };
    let node = storage.node();
    let answer = node.request(id(0), request, Bytes::new(), Duration::from_secs(5));
    assert!(matches!(answer.await, Ok((Response::Done, _))));
    let askings = founder.node().askings();
    assert_eq!(askings.len(), 1, "{askings:?}");
    assert_eq!((askings[0].peer, askings[0].via), (id(4), Some(id(1))));
}

#[tokio::test(start_paused = true)]
async fn strangers_of_one_address_keep_out_neither_others_nor_members() {
    let world = World::new();
    let (founder, storage) = pair(&world).await;
    storage.node.as_ref().unwrap().shutdown().await;
    let greedy = world.transport(2);
    let mut kept = Vec::new();
    for _ in 0..80 {
        kept.push(greedy.connect(addr(0)).await.unwrap());
    }
    let clock_ms = world.clock.wall_ms();
    let mut served = 0;
    for connection in &kept {
        served += u32::from(ask(connection, Request::Knock { clock_ms }).await.is_some());
    }
    assert_eq!(served, 64);
    let other = world.transport(3);
    let connection = other.connect(addr(0)).await.unwrap();
    assert!(
        ask(&connection, Request::Knock { clock_ms })
            .await
            .is_some()
    );
    // The member is known by its key.
    let back = world.transport(1);
    for _ in 0..3 {
        let connection = back.connect(addr(0)).await.unwrap();
        assert!(
            ask(&connection, Request::Knock { clock_ms })
                .await
                .is_some()
        );
    }
    assert_eq!(founder.node().roster().members().len(), 2);
}
