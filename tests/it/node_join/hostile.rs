//! Joining where whoever answers was an admin once and shows a roster that lacks its removal.

use std::sync::atomic::{AtomicU32, Ordering};

use dfs::wire::{JoinInfo, Redeem, StatementBytes};

use super::*;

/// Somebody who shows these statements to whoever asks, and counts the secrets that it gets.
struct Harvester {
    _transport: Arc<dyn Transport>,
    secrets: Arc<AtomicU32>,
}

impl Harvester {
    fn start(world: &World, at: usize, statements: Vec<StatementBytes>) -> Self {
        let transport = world.transport(at);
        let secrets = Arc::new(AtomicU32::new(0));
        let (accepting, counted) = (Arc::clone(&transport), Arc::clone(&secrets));
        let clock = Arc::clone(&world.clock);
        dfs::base::task::spawn(async move {
            while let Some(connection) = accepting.accept().await {
                while let Some(incoming) = connection.next_request().await {
                    let answer = match Request::decode(&incoming.frame.body) {
                        Ok(Request::Join { .. }) => Response::Join(JoinInfo {
                            clock_ms: clock.wall_ms(),
                            total: statements.len() as u32,
                            statements: statements.clone(),
                            admins: Vec::new(),
                            shown: Default::default(),
                        }),
                        Ok(Request::Redeem(Redeem { .. })) => {
                            counted.fetch_add(1, Ordering::Relaxed);
                            Response::Refused(Refusal::Busy)
                        }
                        _ => Response::Refused(Refusal::Busy),
                    };
                    let _ = incoming.reply.send(answer.encode(), Bytes::new()).await;
                }
            }
        });
        Self {
            _transport: transport,
            secrets,
        }
    }

    fn secrets(&self) -> u32 {
        self.secrets.load(Ordering::Relaxed)
    }
}

/// Returns all statements that a machine knows.
fn statements(machine: &Machine) -> Vec<StatementBytes> {
    let roster = machine.node().roster();
    let bytes = roster.statements();
    bytes
        .map(|bytes| StatementBytes::new(bytes.to_vec()).unwrap())
        .collect()
}

/// Removes a member and returns the statement that does.
async fn remove(machine: &Machine, peer: PeerId) -> StatementBytes {
    let before = statements(machine);
    machine.node().remove_member(peer).await.unwrap();
    let mut new = statements(machine);
    new.retain(|statement| !before.contains(statement));
    assert_eq!(new.len(), 1);
    new.remove(0)
}

/// Returns what a machine knows but one statement.
fn without(machine: &Machine, hidden: &StatementBytes) -> Vec<StatementBytes> {
    let mut shown = statements(machine);
    shown.retain(|statement| statement != hidden);
    shown
}

#[tokio::test(start_paused = true)]
async fn a_removed_admin_that_hides_its_removal_gets_no_secret() {
    let world = World::new();
    let founder = world.founder();
    let mut removed = world.member(1, Role::Admin, &founder, 0).await;
    until(5, "a session", || all_connected(&[&founder, &removed])).await;
    removed.kill(&world).await;
    let removal = remove(&founder, id(1)).await;
    let token = founder
        .node()
        .invite(Role::Writer, Duration::from_secs(600))
        .await
        .unwrap();
    let harvester = Harvester::start(&world, 1, without(&founder, &removal));
    let mut nowhere = token.clone();
    nowhere.addrs.clear();
    let guest = world.machine(2);
    let error = guest.join(&nowhere, &[addr(1)]).await.unwrap_err();
    assert!(matches!(error, NodeError::PartialRoster { .. }), "{error}");
    assert_eq!(harvester.secrets(), 0);
    // The invite is as good as ever.
    let joined = guest.join(&token, &[addr(1)]).await.unwrap();
    assert_eq!((joined.role, harvester.secrets()), (Role::Writer, 0));
}

#[tokio::test(start_paused = true)]
async fn an_admin_is_judged_by_what_all_who_answer_know() {
    let world = World::new();
    let mut founder = world.founder();
    let second = world.member(2, Role::Admin, &founder, 0).await;
    let mut removed = world.member(1, Role::Admin, &founder, 0).await;
    until(5, "sessions", || {
        all_connected(&[&founder, &second, &removed])
    })
    .await;
    removed.kill(&world).await;
    // The issuer of the invite has not heard of the removal.
    world.net.partition(&[addr(0)], &[addr(2)]);
    let removal = remove(&second, id(1)).await;
    let token = founder
        .node()
        .invite(Role::Writer, Duration::from_secs(600))
        .await
        .unwrap();
    let harvester = Harvester::start(&world, 1, without(&founder, &removal));
    world.net.heal();
    until(60, "the second one knows the invite", || {
        second.node().roster().has_invite(token.secret.invite())
    })
    .await;

    // The issuer is asked first, however late it answers.
    let guest = world.machine(3);
    let joined = guest.join(&token, &[addr(1), addr(0)]).await.unwrap();
    assert_eq!((joined.role, harvester.secrets()), (Role::Writer, 0));

    let token = founder
        .node()
        .invite(Role::Writer, Duration::from_secs(600))
        .await
        .unwrap();
    until(5, "the second one knows the invite", || {
        second.node().roster().has_invite(token.secret.invite())
    })
    .await;
    let harvester = Harvester::start(&world, 1, without(&founder, &removal));
    founder.kill(&world).await;
    let guest = world.machine(4);
    let joined = guest.join(&token, &[addr(1), addr(2)]).await.unwrap();
    assert_eq!((joined.role, harvester.secrets()), (Role::Writer, 0));
}
