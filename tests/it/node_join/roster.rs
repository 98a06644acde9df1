//! What changes for members once they are there, and a volume entered by a recovery phrase.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dfs::base::time::sleep;
use dfs::base::{Clock, Rng};
use dfs::crypto::RecoveryPhrase;
use dfs::node::{Joined, Node, NodeError, Role, RosterError};
use dfs::store::{Batch, RowVisitor, Rows, Store, StoreError, Table};

use super::world::*;

/// Lets a machine's node wrap real keys.
pub(super) fn with_keys(machine: &Machine, keys: &'static [u8]) {
    let rng = Rng::from_seed(*SEED);
    let wrap = move |to: &dfs::crypto::PublicIdentity| to.wrap_key(&rng, keys).ok();
    machine.node().set_key_wrapper(Box::new(wrap));
}

pub(super) async fn recover(
    machine: &Machine,
    phrase: &RecoveryPhrase,
    peers: &[usize],
) -> Result<Joined, NodeError> {
    let peers: Vec<_> = peers.iter().map(|at| addr(*at)).collect();
    let clock = Arc::clone(&machine.clock) as Arc<dyn Clock>;
    let rng = Rng::from_seed(*SEED);
    let config = config(machine.at);
    let (transport, store) = (&machine.transport, &machine.store);
    Node::recover(transport, &config, store, &clock, &rng, phrase, &peers).await
}

fn all_agree(machines: &[&Machine], at: usize, role: Option<Role>) -> bool {
    let mut roles = machines
        .iter()
        .map(|machine| machine.node().roster().role_of(&id(at)));
    roles.all(|found| found == role)
}

#[tokio::test(start_paused = true)]
async fn a_changed_role_holds_on_every_peer_and_what_was_written_before_stays() {
    let world = World::new();
    let a = world.founder();
    let b = world.member(1, Role::Writer, &a, 0).await;
    let c = world.member(2, Role::Storage, &a, 0).await;
    let all = [&a, &b, &c];
    until(5, "sessions", || all_connected(&all)).await;
    b.write(5);
    until(5, "its log spreads", || same_logs(&all, &[(1, 5)])).await;
    let refused = b.node().set_role(id(2), Role::Reader).await;
    assert!(matches!(
        refused,
        Err(NodeError::Roster(RosterError::NotAdmin))
    ));

    a.node().set_role(id(1), Role::Reader).await.unwrap();
    until(5, "all know", || all_agree(&all, 1, Some(Role::Reader))).await;
    assert!(all_connected(&all), "a change of role cuts nobody off");
    b.write(2);
    sleep(Duration::from_secs(20)).await;
    assert!(same_logs(&[&a, &c], &[(1, 5)]));
    let d = world.member(3, Role::Writer, &a, 0).await;
    until(10, "a newcomer gets what it wrote as a writer", || {
        same_logs(&[&d], &[(1, 5)])
    })
    .await;

    // Given back, the right does not cover what it wrote meanwhile.
    let before = b.node().log().own_log();
    until(10, "that is on record", || {
        b.node().chain().fence().is_over(b.node().log(), before)
    })
    .await;
    a.node().set_role(id(1), Role::Admin).await.unwrap();
    until(5, "all know", || all_agree(&all, 1, Some(Role::Admin))).await;
    b.write(3);
    let behind = b.node().log().own_log();
    assert_ne!(before, behind);
    until(60, "it writes again", || {
        [&a, &c, &d].iter().all(|machine| {
            let have = machine.node().log().vector();
            (have.get(&before), have.get(&behind)) == (Some(&5), Some(&3))
        })
    })
    .await;
    let all = [&a, &b, &c, &d];
    let named = |name: &'static str| {
        let of =
            move |machine: &&Machine| machine.node().roster().member(&id(2)).unwrap().name == name;
        all.iter().all(of)
    };
    b.node().rename(id(2), "attic".into()).await.unwrap();
    until(5, "an admin's name for it", || named("attic")).await;
    c.node().rename(id(2), "cellar".into()).await.unwrap();
    until(5, "its own, which is newer", || named("cellar")).await;
    until(5, "one roster", || {
        let digest = a.node().roster().digest();
        all.iter()
            .all(|machine| machine.node().roster().digest() == digest)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_storage_peer_that_may_read_finds_its_keys_on_the_roster() {
    let world = World::new();
    let a = world.founder();
    with_keys(&a, b"the volume keys");
    let mut b = world.member(1, Role::Storage, &a, 0).await;
    until(5, "a session", || all_connected(&[&a, &b])).await;
    a.node().set_role(id(1), Role::Reader).await.unwrap();
    until(5, "it knows", || all_agree(&[&b], 1, Some(Role::Reader))).await;
    b.kill(&world).await;
    world.restart(&mut b);
    let keys: Vec<_> = (b.node().roster().grants(&id(1)))
        .filter_map(|wrapped| IDENTITIES[1].unwrap_key(wrapped).ok())
        .collect();
    assert_eq!(
        keys.iter().map(|key| &key[..]).collect::<Vec<_>>(),
        [b"the volume keys"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_is_gone_everywhere_and_knows_it_later() {
    let world = World::new();
    let a = world.founder();
    let mut b = world.member(1, Role::Writer, &a, 0).await;
    let c = world.member(2, Role::Storage, &a, 0).await;
    until(5, "sessions", || all_connected(&[&a, &b, &c])).await;
    let refused = a.node().leave().await;
    assert!(matches!(
        refused,
        Err(NodeError::Roster(RosterError::LastAdmin))
    ));
    b.node().leave().await.unwrap();
    until(5, "gone", || {
        all_agree(&[&a, &b, &c], 1, None) && all_connected(&[&a, &c])
    })
    .await;
    assert!(a.node().roster().has_left(&id(1)));
    b.kill(&world).await;
    world.restart(&mut b);
    assert!(b.node().roster().has_left(&id(1)));
    assert_eq!(b.node().role(), None);
}

#[tokio::test(start_paused = true)]
async fn an_invite_that_was_taken_back_is_refused_by_its_name() {
    let world = World::new();
    let a = world.founder();
    let token = (a.node().invite(Role::Writer, Duration::from_secs(60)))
        .await
        .unwrap();
    a.node().revoke_invite(token.secret.invite()).await.unwrap();
    let refused = world.machine(1).join(&token, &[]).await;
    assert!(
        matches!(refused, Err(NodeError::RevokedInvite)),
        "{refused:?}"
    );
}

/// Rows that stop to be written after some commits, as when the power goes.
#[derive(Debug)]
struct Mortal {
    rows: Arc<dyn Rows>,
    left: AtomicUsize,
}

impl Rows for Mortal {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.rows.get(table, key)
    }
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows.scan(table, start, end, f)
    }
    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows.scan_rev(table, start, end, f)
    }
    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let left = self.left.load(Ordering::Relaxed);
        let Some(left) = left.checked_sub(1) else {
            return Err(StoreError::Poisoned);
        };
        self.left.store(left, Ordering::Relaxed);
        self.rows.commit(batch)
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.rows.sync()
    }
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_commit_of_a_join_leaves_a_member_with_keys_or_a_token_that_holds() {
    let world = World::new();
    let a = world.founder();
    let token = (a.node().invite(Role::Writer, Duration::from_secs(60)))
        .await
        .unwrap();
    let disk = Store::memory();
    let mut commits = 0;
    loop {
        let mut machine = world.machine(1);
        machine.store = disk.clone();
        machine.store.rows = Arc::new(Mortal {
            rows: Arc::clone(&disk.rows),
            left: AtomicUsize::new(commits),
        });
        let clock = Arc::clone(&machine.clock) as Arc<dyn Clock>;
        let (transport, store) = (&machine.transport, &machine.store);
        let joined = Node::join(transport, &config(1), store, &clock, &token, &[]).await;
        let joined = joined.expect("the token holds for whom it has admitted");
        let mut keys = Batch::new();
        keys.put(Table::Meta, b"keys", joined.wrapped_keys.clone().unwrap());
        let founded = joined.found(store, keys);
        let has_volume = Node::volume_of(&disk).unwrap().is_some();
        let has_keys = disk.rows.get(Table::Meta, b"keys").unwrap().is_some();
        let mut statements = 0;
        let mut count = |_: &[u8], _: &[u8]| {
            statements += 1;
            ControlFlow::Continue(())
        };
        disk.rows
            .scan(Table::Roster, &[], None, &mut count)
            .unwrap();
        assert_eq!(has_volume, has_keys, "after {commits} commits");
        assert_eq!(has_volume, statements > 0, "after {commits} commits");
        // The expiry does not matter to one that was admitted in time.
        world.clock.advance(Duration::from_secs(61));
        if founded.is_ok() {
            assert!(has_keys);
            break;
        }
        commits += 1;
    }
    assert!(commits > 0);
}

#[tokio::test(start_paused = true)]
async fn a_phrase_enters_through_a_storage_peer_when_all_others_are_gone() {
    let world = World::new();
    let mut a = world.founder();
    with_keys(&a, b"the volume keys");
    let storage = world.member(1, Role::Storage, &a, 0).await;
    until(5, "a session", || all_connected(&[&a, &storage])).await;
    a.write(3);
    let first = a.node().make_recovery().await.unwrap();
    let phrase = a.node().make_recovery().await.unwrap();
    let refused = storage.node().make_recovery().await;
    assert!(matches!(
        refused,
        Err(NodeError::Roster(RosterError::NotAdmin))
    ));
    let phrase: RecoveryPhrase = phrase.to_string().parse().unwrap();
    until(5, "the storage peer has all", || {
        storage.node().roster().digest() == a.node().roster().digest()
            && same_logs(&[&storage], &[(0, 3)])
    })
    .await;
    assert_eq!(storage.node().roster().members().len(), 2);
    a.kill(&world).await;

    let mut new = world.machine(2);
    let ended = recover(&new, &first, &[1]).await;
    assert!(matches!(ended, Err(NodeError::EndedPhrase)), "{ended:?}");
    let other = RecoveryPhrase::generate(&Rng::from_seed(99));
    let unknown = recover(&new, &other, &[1]).await;
    assert!(
        matches!(unknown, Err(NodeError::UnknownPhrase { .. })),
        "{unknown:?}"
    );
    let nobody = recover(&new, &phrase, &[0]).await;
    assert!(
        matches!(nobody, Err(NodeError::Unreachable { .. })),
        "{nobody:?}"
    );
    let nowhere = recover(&new, &phrase, &[]).await;
    assert!(matches!(nowhere, Err(NodeError::NoAddress)), "{nowhere:?}");

    // Cut short before it was stored, and done again.
    recover(&new, &phrase, &[0, 1]).await.unwrap();
    let joined = recover(&new, &phrase, &[0, 1]).await.unwrap();
    assert_eq!(joined.role, Role::Admin);
    let keys = joined.wrapped_keys.clone().unwrap();
    let keys = IDENTITIES[2].unwrap_key(&keys).unwrap();
    assert_eq!(keys.as_slice(), b"the volume keys");
    joined.found(&new.store, Batch::new()).unwrap();
    new.start(&world);
    with_keys(&new, b"the volume keys");
    until(10, "a session", || all_connected_but(&[&storage, &new], 0)).await;
    until(5, "the log", || same_logs(&[&new], &[(0, 3)])).await;
    assert_eq!(storage.node().roster().role_of(&id(2)), Some(Role::Admin));

    // It is an admin like any other: it invites, and ends the phrase.
    let third = world.member(3, Role::Writer, &new, 2).await;
    until(10, "the third", || {
        all_connected_but(&[&storage, &new, &third], 0)
    })
    .await;
    new.node().make_recovery().await.unwrap();
    until(5, "the phrase ends", || {
        let lookup = dfs::node::RecoveryId::of_secret(&phrase.lookup_secret());
        storage.node().roster().was_recovery(lookup)
    })
    .await;
    let late = recover(&world.machine(4), &phrase, &[1]).await;
    assert!(matches!(late, Err(NodeError::EndedPhrase)), "{late:?}");
}

/// Says whether these are connected with each other; `gone` is a member that does not run.
fn all_connected_but(machines: &[&Machine], gone: usize) -> bool {
    machines.iter().all(|machine| {
        let connected = machine.node().connected();
        !connected.contains(&id(gone)) && connected.len() + 1 == machines.len()
    })
}
