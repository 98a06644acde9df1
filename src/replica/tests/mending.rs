//! What becomes of chunks that a disk loses.

use std::time::Duration;

use super::net::Swarm;
use crate::base::time::sleep;
use crate::replica::ReplicaError;

#[tokio::test(start_paused = true)]
async fn a_pending_chunk_that_is_lost_stays_pending_and_is_named() {
    let mut swarm = Swarm::new(3, 1);
    swarm.cut(&[0], &[1, 2]);
    let id = swarm.put(0, 500);
    assert!(swarm.disk(0).rot(id));
    let read = swarm.at(0).get_local(id);
    assert!(matches!(read, Err(ReplicaError::Corrupt { .. })));
    swarm.heal();
    let synced = swarm.at(0).wait_synced(Duration::from_secs(600)).await;
    let left = synced.expect_err("the only copy is gone");
    assert_eq!(left.missing_count, 1);
    assert_eq!(swarm.at(0).lost(), [id]);
    // Also after a restart.
    swarm.kill(0);
    swarm.start(0);
    assert!(
        swarm
            .at(0)
            .wait_synced(Duration::from_secs(1))
            .await
            .is_err()
    );
    // Until no file needs it any more.
    swarm.at(0).give_up_missing(&[id]).unwrap();
    swarm.sync().await;
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn the_push_of_a_chunk_that_rotted_does_not_end_well() {
    let swarm = Swarm::new(3, 2);
    swarm.cut(&[0], &[1, 2]);
    let id = swarm.put(0, 500);
    assert!(swarm.disk(0).rot(id));
    // Nobody reads it: the push finds out.
    swarm.heal();
    let synced = swarm.at(0).wait_synced(Duration::from_secs(600)).await;
    assert_eq!(synced.expect_err("it is gone").missing_count, 1);
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn a_holder_fetches_what_it_lost() {
    let swarm = Swarm::new(3, 3);
    let id = swarm.put(0, 500);
    swarm.sync().await;
    assert!(swarm.disk(1).rot(id));
    assert_eq!(swarm.holders(id), [0, 2]);
    let read = swarm.at(1).get_local(id);
    assert!(matches!(read, Err(ReplicaError::Corrupt { .. })));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(swarm.holders(id), [0, 1, 2]);
    swarm.sync().await;
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_from_one_goes_out_again_to_all() {
    let swarm = Swarm::new(3, 4);
    swarm.cut(&[0, 1], &[2]);
    let id = swarm.put(0, 500);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(swarm.holders(id), [0, 1]);
    assert!(swarm.disk(0).rot(id));
    let _ = swarm.at(0).get_local(id);
    sleep(Duration::from_secs(5)).await;
    swarm.heal();
    swarm.sync().await;
    assert_eq!(swarm.holders(id), [0, 1, 2]);
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn a_survey_is_right_at_every_peer_and_puts_the_books_right() {
    let mut swarm = Swarm::new(3, 5);
    let ids: Vec<_> = (0..40).map(|n| swarm.put(0, 300 + n)).collect();
    swarm.sync().await;
    let limit = Duration::from_secs(3);
    for peer in 0..3 {
        let known = swarm.at(peer).survey(&ids, limit).await.unwrap();
        for id in &ids {
            assert_eq!(known[id].holders.len(), 3, "at {peer}");
            assert!(known[id].local && known[id].unknown.is_empty());
        }
    }
    // One is away: who got its copy by others says what it does not know.
    swarm.kill(2);
    let known = swarm.at(0).survey(&ids, limit).await.unwrap();
    assert!(ids.iter().all(|id| known[id].holders.len() == 3));
    let known = swarm.at(1).survey(&ids, limit).await.unwrap();
    let all = |id: &crate::base::ChunkId| known[id].holders.len() + known[id].unknown.len() == 3;
    assert!(ids.iter().all(all));
    assert!(ids.iter().all(|id| known[id].holders.len() >= 2));

    // It comes back with an empty disk, and gets what it lost.
    swarm.wipe(2);
    swarm.start(2);
    sleep(Duration::from_secs(1)).await;
    let known = swarm.at(0).survey(&ids, limit).await.unwrap();
    assert!(ids.iter().all(|id| known[id].holders.len() == 2));
    swarm.sync().await;
    assert!(ids.iter().all(|id| swarm.holders(*id) == [0, 1, 2]));
    swarm.check_books();
}

/// Who found a chunk missing, and looks at the books after another has put it, must not throw away
/// what that one put.
#[tokio::test(start_paused = true)]
async fn a_good_copy_is_not_lost_by_who_looked_too_early() {
    let swarm = Swarm::new(1, 6);
    let id = swarm.put(0, 500);
    assert!(!swarm.at(0).ledger.lose(id).unwrap());
    assert!(swarm.at(0).get_local(id).unwrap().is_some());
    assert!(swarm.at(0).lost().is_empty());
    swarm.check_books();
}
