//! Who answers at an address where a member was expected, and is none.

use std::sync::Arc;

use dfs::base::task::spawn;
use dfs::node::{NodeError, Role};
use dfs::transport::Transport;
use dfs::wire::{Refusal, Request, Response};
use parking_lot::Mutex;

use super::world::*;

/// A server with a key of its own that answers everything with one refusal, and what it was sent.
fn rogue(transport: Arc<dyn Transport>, refusal: Refusal) -> Arc<Mutex<Vec<Request>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&seen);
    spawn(async move {
        while let Some(connection) = transport.accept().await {
            let (heard, refusal) = (Arc::clone(&heard), refusal.clone());
            spawn(async move {
                while let Some(incoming) = connection.next_request().await {
                    heard
                        .lock()
                        .push(Request::decode(&incoming.frame.body).unwrap());
                    let answer = Response::Refused(refusal.clone()).encode();
                    let _ = incoming.reply.send(answer, Default::default()).await;
                }
            });
        }
    });
    seen
}

#[tokio::test(start_paused = true)]
async fn a_stranger_at_a_known_address_learns_nothing_and_proves_nothing() {
    let world = World::new();
    let a = world.founder();
    let b = world.member(1, Role::Writer, &a, 0).await;
    until(5, "a session", || all_connected(&[&a, &b])).await;
    let volume = b.node().volume();
    for refusal in [
        Refusal::Removed,
        Refusal::NotOnRoster,
        Refusal::WrongVolume,
        Refusal::ClockSkew { skew_ms: 1 << 40 },
    ] {
        let seen = rogue(world.transport(3), refusal.clone());
        let error = b.node().contact(addr(3)).await.unwrap_err();
        assert!(
            !matches!(
                error,
                NodeError::Removed | NodeError::NotOnRoster | NodeError::ClockSkew { .. }
            ),
            "a stranger's word was believed: {error}"
        );
        let seen = std::mem::take(&mut *seen.lock());
        assert!(!seen.is_empty());
        for request in seen {
            let bytes = request.encode();
            let named = bytes.windows(32).any(|window| window == volume.0);
            assert!(!named, "a stranger was told the volume: {request:?}");
            assert!(
                matches!(request, Request::Introduce { .. }),
                "a stranger was sent {request:?}"
            );
        }
        world.net.kill(addr(3));
    }
    assert!(all_connected(&[&a, &b]));
    assert!(b.node().role().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_came_meanwhile_is_no_stranger() {
    let world = World::new();
    let mut a = world.founder();
    let mut b = world.member(1, Role::Writer, &a, 0).await;
    until(5, "a session", || all_connected(&[&a, &b])).await;
    b.kill(&world).await;
    // One came while b was away, and nobody is left whom b knows.
    let c = world.member(2, Role::Writer, &a, 0).await;
    until(30, "only those two", || all_connected(&[&a, &c])).await;
    a.kill(&world).await;
    world.restart(&mut b);
    assert!(b.node().roster().member(&id(2)).is_none());
    assert_eq!(b.node().contact(addr(2)).await.unwrap(), id(2));
    until(5, "a session", || b.node().connected() == [id(2)]).await;
    c.write(3);
    until(5, "its log arrives", || same_logs(&[&b, &c], &[(2, 3)])).await;
}

#[tokio::test(start_paused = true)]
async fn a_proof_of_one_peer_is_of_no_use_to_another() {
    let world = World::new();
    let a = world.founder();
    let b = world.member(1, Role::Writer, &a, 0).await;
    let seen = rogue(world.transport(3), Refusal::Busy);
    let _ = b.node().contact(addr(3)).await;
    let shown = seen.lock().pop().unwrap();
    world.net.kill(addr(3));
    let transport = world.transport(3);
    let connection = transport.connect(addr(0)).await.unwrap();
    let answer = connection
        .request(shown.encode(), Default::default())
        .await
        .unwrap();
    let answer = Response::decode(&answer.body).unwrap();
    assert!(
        matches!(answer, Response::Refused(Refusal::WrongVolume)),
        "{answer:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_removed_member_hears_of_it_from_an_admins_statement() {
    let world = World::new();
    let a = world.founder();
    let b = world.member(1, Role::Writer, &a, 0).await;
    let c = world.member(2, Role::Writer, &a, 0).await;
    until(5, "sessions", || all_connected(&[&a, &b, &c])).await;
    a.node().remove_member(id(1)).await.unwrap();
    until(10, "it knows", || b.node().role().is_none()).await;
    assert!(b.node().roster().former(&id(1)).is_some());
    until(5, "the others are as they were", || {
        all_connected(&[&a, &c])
    })
    .await;
}
