//! Whole nodes on a simulated network: joining, sessions, log sync, and what strangers can do.

mod asking;
mod checkpoints;
mod hostile;
mod lines;
mod losses;
mod moves;
mod refusals;
mod removal;
mod roster;
mod strangers;
mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs::base::time::{SimClock, SystemClock, sleep};
use dfs::base::{Clock, PeerId, Rng, Stamp, VolumeId};
use dfs::node::{InviteToken, Node, NodeError, NodeEvent, PeerState, Role};
use dfs::store::{Batch, Store};
use dfs::transport::{Connection, Quic, Transport};
use dfs::wire::{RecordRef, Refusal, Request, Response, SegmentHeader};

use world::*;

#[tokio::test(start_paused = true)]
async fn a_token_makes_a_member_that_needs_no_address_ever_after() {
    let world = World::new();
    let founder = world.founder();
    let mut writer = world.machine(1);
    let token = founder
        .node()
        .invite(Role::Writer, Duration::from_secs(60))
        .await
        .unwrap();
    let token: InviteToken = token.to_string().parse().unwrap();
    let joined = writer.join(&token, &[]).await.unwrap();
    assert_eq!(joined.role, Role::Writer);
    assert_eq!(joined.wrapped_keys.as_deref(), Some(&b"wrapped"[..]));
    assert_eq!(
        Node::volume_of(&writer.store).unwrap(),
        Some(founder.node().volume())
    );
    writer.start(&world);
    until(5, "a session", || all_connected(&[&founder, &writer])).await;

    let storage = world.member(2, Role::Storage, &founder, 0).await;
    let three = [&founder, &writer, &storage];
    until(5, "all know each other", || all_connected(&three)).await;
    for machine in three {
        assert_eq!(machine.node().roster().members().len(), 3);
        assert_eq!(
            machine.node().roster().digest(),
            founder.node().roster().digest()
        );
    }
    let info = &founder.node().peers()[0];
    assert_eq!(info.state, PeerState::Connected);
    assert!(info.rtt_ms.is_some() && info.last_contact_ms.is_some());

    writer.kill(&world).await;
    world.restart(&mut writer);
    let three = [&founder, &writer, &storage];
    until(40, "the restarted one is back", || all_connected(&three)).await;
}

#[tokio::test(start_paused = true)]
async fn a_storage_peer_gets_no_keys() {
    let world = World::new();
    let founder = world.founder();
    let token = founder
        .node()
        .invite(Role::Storage, Duration::from_secs(60))
        .await
        .unwrap();
    let storage = world.machine(1);
    let joined = storage.join(&token, &[addr(0)]).await.unwrap();
    assert_eq!((joined.role, joined.wrapped_keys), (Role::Storage, None));
}

#[tokio::test(start_paused = true)]
async fn every_bad_invite_has_its_own_error() {
    let world = World::new();
    let founder = world.founder();
    let token = founder
        .node()
        .invite(Role::Writer, Duration::from_secs(60))
        .await
        .unwrap();

    let mut wrong = token.clone();
    wrong.secret.0[0] ^= 1;
    let one = world.machine(1);
    assert!(matches!(
        one.join(&wrong, &[]).await,
        Err(NodeError::WrongInvite)
    ));
    assert_eq!(Node::volume_of(&one.store).unwrap(), None);

    one.join(&token, &[]).await.unwrap();
    let two = world.machine(2);
    assert!(matches!(
        two.join(&token, &[]).await,
        Err(NodeError::UsedInvite)
    ));
    // The same peer may have lost the answer.
    assert!(one.join(&token, &[]).await.is_ok());

    let token = founder
        .node()
        .invite(Role::Writer, Duration::from_secs(60))
        .await
        .unwrap();
    world.clock.advance(Duration::from_secs(61));
    assert!(matches!(
        two.join(&token, &[]).await,
        Err(NodeError::ExpiredInvite)
    ));

    let malformed = "dfs1abc".parse::<InviteToken>().map_err(NodeError::from);
    assert!(matches!(malformed, Err(NodeError::MalformedInvite(_))));
}

#[tokio::test(start_paused = true)]
async fn every_bad_contact_has_its_own_error_in_time() {
    let world = World::new();
    let founder = world.founder();
    let token = founder
        .node()
        .invite(Role::Writer, Duration::from_secs(600))
        .await
        .unwrap();
    let newcomer = world.machine(1);
    let started = world.clock.monotonic();

    let mut nowhere = token.clone();
    nowhere.addrs = vec![addr(9)];
    let error = newcomer.join(&nowhere, &[addr(8)]).await.unwrap_err();
    assert!(
        matches!(&error, NodeError::Unreachable { addrs } if addrs.len() == 2),
        "{error}"
    );
    nowhere.addrs.clear();
    assert!(matches!(
        newcomer.join(&nowhere, &[]).await,
        Err(NodeError::NoAddress)
    ));

    world.net.partition(&[addr(0)], &[addr(1)]);
    assert!(matches!(
        newcomer.join(&token, &[]).await,
        Err(NodeError::Unreachable { .. })
    ));
    world.net.heal();
    assert!(world.clock.monotonic() - started < Duration::from_secs(30));

    let mut other = token.clone();
    other.volume = VolumeId([9; 32]);
    let error = newcomer.join(&other, &[]).await.unwrap_err();
    assert!(matches!(error, NodeError::OtherVolume { .. }), "{error}");

    let mut late = world.machine(2);
    late.clock = SimClock::new(START_MS);
    late.clock.advance(Duration::from_secs(700));
    let error = late.join(&token, &[]).await.unwrap_err();
    assert!(
        matches!(
            error,
            NodeError::ClockSkew {
                skew_ms: 600_001..,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_is_no_admin_leads_to_one() {
    let world = World::new();
    let founder = world.founder();
    let storage = world.member(1, Role::Storage, &founder, 0).await;
    until(5, "a session", || all_connected(&[&founder, &storage])).await;
    let mut token = founder
        .node()
        .invite(Role::Writer, Duration::from_secs(600))
        .await
        .unwrap();
    token.addrs.clear();
    let newcomer = world.machine(2);
    assert_eq!(
        newcomer.join(&token, &[addr(1)]).await.unwrap().role,
        Role::Writer
    );

    let token = founder
        .node()
        .invite(Role::Writer, Duration::from_secs(600))
        .await
        .unwrap();
    until(5, "the invite spreads", || {
        storage.node().roster().digest() == founder.node().roster().digest()
    })
    .await;
    world.net.kill(addr(0));
    let another = world.machine(3);
    assert!(matches!(
        another.join(&token, &[addr(1)]).await,
        Err(NodeError::NoAdmin)
    ));
}

#[tokio::test(start_paused = true)]
async fn any_admin_redeems_what_another_has_issued() {
    let world = World::new();
    let mut founder = world.founder();
    let second = world.member(1, Role::Admin, &founder, 0).await;
    until(5, "a session", || all_connected(&[&founder, &second])).await;
    let token = founder
        .node()
        .invite(Role::Reader, Duration::from_secs(600))
        .await
        .unwrap();
    until(5, "the invite spreads", || {
        second.node().roster().digest() == founder.node().roster().digest()
    })
    .await;
    founder.kill(&world).await;
    let newcomer = world.machine(2);
    assert_eq!(
        newcomer.join(&token, &[addr(1)]).await.unwrap().role,
        Role::Reader
    );
    world.restart(&mut founder);
    until(60, "the founder hears of it", || {
        founder.node().roster().member(&id(2)).is_some()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_member_of_another_volume_gets_no_session() {
    let world = World::new();
    let founder = world.founder();
    let mut other = world.machine(1);
    let rng = Rng::from_seed(99);
    Node::create_volume(&config(1), &other.store, world.clock.as_ref(), &rng).unwrap();
    other.start(&world);
    let error = other.node().contact(addr(0)).await.unwrap_err();
    assert!(matches!(error, NodeError::OtherVolume { .. }), "{error}");
    let error = other.node().contact(addr(9)).await.unwrap_err();
    assert!(matches!(error, NodeError::Unreachable { .. }), "{error}");
    assert!(founder.node().connected().is_empty());
}

#[tokio::test(start_paused = true)]
async fn logs_converge_after_partition_and_restart() {
    let world = World::new();
    let a = world.founder();
    let mut b = world.member(1, Role::Writer, &a, 0).await;
    let c = world.member(2, Role::Writer, &a, 0).await;
    until(5, "sessions", || all_connected(&[&a, &b, &c])).await;

    a.write(3);
    let took = until(5, "pushed", || same_logs(&[&a, &b, &c], &[(0, 3)])).await;
    assert!(took < Duration::from_millis(200), "{took:?}");
    until(5, "acknowledged", || a.node().unpushed_segments(3) == 0).await;

    world.net.partition(&[addr(0)], &[addr(1), addr(2)]);
    a.write(200);
    b.write(50);
    until(5, "b and c go on", || {
        same_logs(&[&b, &c], &[(0, 3), (1, 50)])
    })
    .await;
    assert_eq!(a.node().unpushed_segments(3), 200);
    until(20, "a is suspected", || {
        !b.node().connected().contains(&id(0))
    })
    .await;
    c.write(1);

    world.net.heal();
    let all = [(0, 203), (1, 50), (2, 1)];
    until(60, "healed", || same_logs(&[&a, &b, &c], &all)).await;

    b.kill(&world).await;
    a.write(10);
    c.write(10);
    world.restart(&mut b);
    let all = [(0, 213), (1, 50), (2, 11)];
    until(60, "restarted", || same_logs(&[&a, &b, &c], &all)).await;
    until(5, "acknowledged", || a.node().unpushed_segments(3) == 0).await;
    b.write(1);
    until(5, "goes on", || {
        same_logs(&[&a, &c], &[(0, 213), (1, 51), (2, 11)])
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn logs_converge_over_a_bad_network() {
    let world = World::new();
    let a = world.founder();
    let b = world.member(1, Role::Writer, &a, 0).await;
    let c = world.member(2, Role::Writer, &a, 0).await;
    until(5, "sessions", || all_connected(&[&a, &b, &c])).await;
    world.net.set_loss_permille(100);
    for _ in 0..20 {
        a.write(5);
        b.write(3);
        c.write(2);
        sleep(Duration::from_millis(300)).await;
    }
    let all = [(0, 100), (1, 60), (2, 40)];
    until(120, "in spite of losses", || same_logs(&[&a, &b, &c], &all)).await;
}

#[tokio::test(start_paused = true)]
async fn a_storage_peer_relays_between_members_that_never_meet() {
    let world = World::new();
    let a = world.founder();
    let storage = world.member(1, Role::Storage, &a, 0).await;
    until(5, "a session", || all_connected(&[&a, &storage])).await;
    let token = a
        .node()
        .invite(Role::Admin, Duration::from_secs(600))
        .await
        .unwrap();
    let mut b = world.machine(2);
    b.join(&token, &[addr(0)]).await.unwrap();
    world.net.partition(&[addr(0)], &[addr(2)]);
    b.start(&world);
    until(60, "b reaches the storage peer", || {
        b.node().connected() == [id(1)]
    })
    .await;
    a.write(20);
    b.write(10);
    let took = until(5, "relayed", || {
        same_logs(&[&a, &storage, &b], &[(0, 20), (2, 10)])
    })
    .await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(!a.node().connected().contains(&id(2)));
}

#[tokio::test(start_paused = true)]
async fn simultaneous_dials_leave_one_session() {
    let world = World::new();
    let mut a = world.founder();
    let mut b = world.member(1, Role::Writer, &a, 0).await;
    until(5, "a session", || all_connected(&[&a, &b])).await;
    for _ in 0..10 {
        a.node.take().unwrap().shutdown().await;
        b.node.take().unwrap().shutdown().await;
        world.restart(&mut a);
        world.restart(&mut b);
        let mut events = a.node().subscribe();
        until(10, "a session", || all_connected(&[&a, &b])).await;
        sleep(Duration::from_secs(5)).await;
        assert!(all_connected(&[&a, &b]));
        let mut ups = 0;
        while let Ok(event) = events.try_recv() {
            ups += u32::from(event == NodeEvent::PeerUp(id(1)));
        }
        assert_eq!(ups, 1, "seed {}: the session was replaced", *SEED);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_member_is_cut_off_everywhere() {
    let world = World::new();
    let a = world.founder();
    let b = world.member(1, Role::Writer, &a, 0).await;
    let c = world.member(2, Role::Writer, &a, 0).await;
    until(5, "sessions", || all_connected(&[&a, &b, &c])).await;
    b.write(5);
    until(5, "its log spreads", || same_logs(&[&a, &c], &[(1, 5)])).await;
    a.node().remove_member(id(1)).await.unwrap();
    until(5, "cut off", || {
        b.node().connected().is_empty() && all_connected(&[&a, &c])
    })
    .await;
    b.write(5);
    sleep(Duration::from_secs(60)).await;
    assert!(b.node().connected().is_empty());
    assert!(same_logs(&[&a, &c], &[(1, 5)]));
    let token = a
        .node()
        .invite(Role::Writer, Duration::from_secs(600))
        .await
        .unwrap();
    let removed = b.join(&token, &[addr(0)]).await;
    assert!(matches!(removed, Err(NodeError::Removed)), "{removed:?}");
    // Who joins later gets what it wrote before.
    let d = world.member(3, Role::Writer, &a, 0).await;
    until(10, "the old log reaches the new member", || {
        same_logs(&[&d], &[(1, 5)])
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn segments_of_readers_and_forged_ones_are_refused() {
    let world = World::new();
    let a = world.founder();
    let reader = world.member(1, Role::Reader, &a, 0).await;
    until(5, "a session", || all_connected(&[&a, &reader])).await;
    reader.write(3);
    sleep(Duration::from_secs(10)).await;
    assert!(a.node().log().vector().is_empty());

    let header = SegmentHeader {
        volume: a.node().volume(),
        device: device(0),
        incarnation: 1,
        origin: 1,
        record: RecordRef::default(),
        seen: Vec::new(),
        admission: Some([0; 32]),
        seg_no: 1,
        prev: [0; 32],
        first: Stamp::from_ms(START_MS),
        last: Stamp::from_ms(START_MS),
        op_count: 1,
        epoch: 1,
    };
    let forged = sealed(1, header, 10);
    let push = Request::Push {
        segments: vec![forged],
    };
    for _ in 0..10 {
        let pushed = push.clone();
        let _ = reader
            .node()
            .request(id(0), pushed, Bytes::new(), Duration::from_secs(5))
            .await;
    }
    assert!(a.node().log().vector().is_empty());
    assert!(a.node().connected().is_empty(), "a forger is cut off");
}

/// Returns the answer of machine 0 to a request over a raw connection.
async fn ask(connection: &Arc<dyn Connection>, request: Request) -> Option<Response> {
    let frame = connection
        .request(request.encode(), Bytes::new())
        .await
        .ok()?;
    Response::decode(&frame.body).ok()
}

#[tokio::test(start_paused = true)]
async fn a_member_that_claims_what_it_does_not_give_holds_up_nobody() {
    let world = World::new();
    let a = world.founder();
    let b = world.member(1, Role::Writer, &a, 0).await;
    let mut liar = world.member(2, Role::Writer, &a, 0).await;
    until(5, "sessions", || all_connected(&[&a, &b, &liar])).await;
    liar.node.take().unwrap().shutdown().await;
    world.net.partition(&[addr(0)], &[addr(1)]);

    // The liar has a session with a, claims all logs, and never answers a request.
    let transport = world.transport(2);
    let connection = transport.connect(addr(0)).await.unwrap();
    let hello = Request::Hello(dfs::wire::Hello {
        vector: BTreeMap::from([(log_of(1), 1_000_000), (log_of(2), 1_000_000)]),
        ..world.hello(&a, 2)
    });
    assert!(matches!(
        ask(&connection, hello).await,
        Some(Response::Hello(_))
    ));
    b.write(30);
    world.net.heal();
    let took = until(60, "b's log arrives", || same_logs(&[&a, &b], &[(1, 30)])).await;
    assert!(took < Duration::from_secs(40), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_may_ask_what_this_one_does_not_know_and_a_stranger_may_not() {
    let world = World::new();
    let founder = world.founder();
    let mut member = world.member(1, Role::Writer, &founder, 0).await;
    until(5, "a session", || all_connected(&[&founder, &member])).await;
    member.node.take().unwrap().shutdown().await;

    let unknown = Bytes::from_static(&[1, 200, 1, 2, 3]);
    let connection = world.transport(1).connect(addr(0)).await.unwrap();
    let hello = Request::Hello(world.hello(&founder, 1));
    let greeted = ask(&connection, hello).await;
    assert!(matches!(greeted, Some(Response::Hello(_))), "{greeted:?}");
    for _ in 0..64 {
        let answer = connection.request(unknown.clone(), Bytes::new()).await;
        let answer = Response::decode(&answer.unwrap().body);
        assert_eq!(answer, Ok(Response::Refused(Refusal::Unknown)));
    }
    let pull = Request::RosterPull { skip: 0 };
    let answer = ask(&connection, pull).await;
    assert!(
        matches!(answer, Some(Response::Roster { .. })),
        "{answer:?}"
    );

    let stranger = world.transport(2).connect(addr(0)).await.unwrap();
    let mut answers = 0;
    while stranger
        .request(unknown.clone(), Bytes::new())
        .await
        .is_ok()
    {
        answers += 1;
        assert!(answers < 64, "a stranger may go on for ever");
    }
    assert!(answers >= 8, "one mistake is no offence");
}

#[tokio::test(start_paused = true)]
async fn what_strangers_send_changes_nothing() {
    let world = World::new();
    let a = world.founder();
    a.write(2);
    let digest = a.node().roster().digest();
    let stranger = world.transport(1);
    let rng = Rng::from_seed(*SEED);
    let connection = stranger.connect(addr(0)).await.unwrap();
    let mut cut_off = false;
    for round in 0..64usize {
        let mut bytes = rng.bytes::<64>();
        bytes[0] = 1;
        let body = Bytes::copy_from_slice(&bytes[..round]);
        match connection.request(body, Bytes::new()).await {
            Ok(frame) => {
                let answer = Response::decode(&frame.body).unwrap();
                assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
            }
            Err(_) => {
                cut_off = true;
                break;
            }
        }
    }
    assert!(cut_off, "seed {}: a stranger may go on for ever", *SEED);

    let stranger = world.transport(2);
    let connection = stranger.connect(addr(0)).await.unwrap();
    for request in [
        Request::Pull {
            room: 1 << 20,
            from: BTreeMap::from([(log_of(0), 1)]),
        },
        Request::RosterPull { skip: 0 },
        Request::FindNode { key: [0; 32] },
        Request::Join {
            volume: VolumeId([0; 32]),
            clock_ms: START_MS,
        },
    ] {
        let frame = connection
            .request(request.encode(), Bytes::new())
            .await
            .unwrap();
        let answer = Response::decode(&frame.body).unwrap();
        assert!(
            matches!(
                answer,
                Response::Refused(Refusal::HelloFirst | Refusal::WrongVolume)
            ),
            "{answer:?}"
        );
    }
    sleep(Duration::from_secs(20)).await;
    assert!(
        connection
            .request(Bytes::new(), Bytes::new())
            .await
            .is_err(),
        "no hello, no stay"
    );
    assert_eq!(a.node().roster().digest(), digest);
    assert!(same_logs(&[&a], &[(0, 2)]));
    assert!(a.node().peers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lookup_finds_every_peer_and_the_closest_first() {
    let world = World::new();
    let a = world.founder();
    let mut others = Vec::new();
    for at in 1..5 {
        others.push(world.member(at, Role::Storage, &a, 0).await);
    }
    let machines: Vec<&Machine> = std::iter::once(&a).chain(&others).collect();
    until(30, "all know each other", || all_connected(&machines)).await;
    let found = a.node().lookup(id(3).0).await;
    let found: Vec<PeerId> = found.into_iter().map(|contact| contact.peer).collect();
    let closest = a.node().closest(&id(3).0, 5);
    assert_eq!(closest[0], id(3));
    let others: Vec<PeerId> = closest.into_iter().filter(|peer| *peer != id(0)).collect();
    assert_eq!(found, others);
}

#[tokio::test]
async fn two_nodes_meet_over_real_sockets() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let rng = Rng::from_seed(*SEED);
    let start = |at: usize, store: &Store, transport: &Arc<dyn Transport>| {
        let (transport, clock) = (Arc::clone(transport), Arc::clone(&clock));
        Node::start(transport, config(at), store.clone(), clock, rng.clone()).unwrap()
    };
    let bind = |at: usize| -> Arc<dyn Transport> {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        Arc::new(Quic::bind(local, false, &IDENTITIES[at]).unwrap())
    };
    let stores = [Store::memory(), Store::memory()];
    let transports = [bind(0), bind(1)];
    Node::create_volume(&config(0), &stores[0], clock.as_ref(), &rng).unwrap();
    let a = start(0, &stores[0], &transports[0]);
    let token = a
        .invite(Role::Storage, Duration::from_secs(60))
        .await
        .unwrap();
    let joined = Node::join(&transports[1], &config(1), &stores[1], &clock, &token, &[]).await;
    let joined = joined.unwrap();
    assert_eq!(joined.role, Role::Storage);
    joined.found(&stores[1], Batch::new()).unwrap();
    let b = start(1, &stores[1], &transports[1]);
    until(10, "a session", || {
        a.connected() == [id(1)] && b.connected() == [id(0)]
    })
    .await;
    let machine = Machine {
        at: 0,
        store: stores[0].clone(),
        clock: SimClock::new(clock.wall_ms()),
        transport: Arc::clone(&transports[0]),
        node: Some(Arc::clone(&a)),
    };
    machine.write(10);
    until(10, "pushed", || b.log().vector() == a.log().vector()).await;
    until(10, "acknowledged", || a.unpushed_segments(2) == 0).await;
    b.shutdown().await;
    until(10, "noticed", || a.connected().is_empty()).await;
    a.shutdown().await;
}
