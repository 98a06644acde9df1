//! Members that come and go while others are away.

use std::time::Duration;

use dfs::base::Rng;
use dfs::base::time::sleep;
use dfs::daemon::troubles::Noted;
use dfs::fs::FsError;
use dfs::node::Role;
use dfs::store::Table;
use dfs_sim::Cluster;

use super::simulate;

/// Long enough for everything that can get through to get through.
const A_WHILE: Duration = Duration::from_secs(60);

#[test]
fn who_has_not_all_that_the_inviter_had_changes_nothing_until_it_has() {
    simulate(23, |seed| async move {
        let mut cluster = Cluster::new(seed, 1, 1).await;
        cluster.write(0, b"plan", b"version one").await;
        cluster.settle().await;
        // The storage peer misses what the founder, alone, keeps nothing of to undo it.
        cluster.partition(&[0], &[1]);
        cluster.write(0, b"plan", b"version two is longer").await;
        cluster.write(0, b"gone", b"was here").await;
        cluster.unlink(0, b"gone");
        cluster.peer(0).flush().await.unwrap();
        let new = cluster.admit(Role::Writer).await;
        cluster.partition(&[0], &[1, new]);
        for _ in 0..2 {
            cluster.restart(new).await;
            sleep(A_WHILE).await;
            let plan = cluster.read(new, b"plan").await;
            assert_eq!(plan.as_deref(), Some(&b"version one"[..]));
            assert_eq!(cluster.peer(new).awaited().len(), 1);
            let told = cluster.peer(new).troubles().open();
            let is_told = |noted: &Noted| noted.what.contains("host0");
            assert!(told.iter().any(is_told), "{told:?}");
            let refused = cluster.try_write(new, b"plan", b"built on version one");
            assert!(matches!(refused, Err(FsError::ReadOnly)), "{refused:?}");
            cluster.crash(new).await;
        }
        cluster.restart(new).await;
        cluster.heal();
        cluster.settle().await;
        cluster.write(new, b"plan", b"version three").await;
        cluster.settle().await;
        assert_eq!(
            cluster.read(0, b"plan").await.as_deref(),
            Some(&b"version three"[..])
        );
        assert_eq!(cluster.conflicts(0), 0);
        cluster.assert_converged().await;
    });
}

#[test]
fn a_log_that_waits_for_its_past_is_told_until_it_goes_on() {
    simulate(27, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 0).await;
        cluster.write(0, b"plan", b"of all").await;
        cluster.settle().await;
        cluster.partition(&[2], &[0, 1]);
        cluster.write(0, b"plan", b"changed by the first").await;
        cluster.peer(0).flush().await.unwrap();
        sleep(A_WHILE).await;
        cluster.write(1, b"other", b"by who has seen that").await;
        cluster.peer(1).flush().await.unwrap();
        // The third hears of the second's change alone.
        let newest = cluster.newest(1);
        let log = cluster.peer(2).node().log();
        let now_ms = newest.header.last.ms();
        let accepted = log.accept(&[newest], now_ms, &|_| Ok(())).unwrap();
        assert_eq!(accepted.grown.len(), 1, "{accepted:?}");
        cluster.crash(2).await;
        cluster.restart(2).await;
        let told = |cluster: &Cluster| {
            let open = cluster.peer(2).troubles().open();
            let waits = open.into_iter().find(|noted| noted.what.contains("wait"));
            waits.map(|noted| (noted.what, noted.since_ms))
        };
        sleep(A_WHILE / 2).await;
        assert_eq!(told(&cluster), None, "it may be on its way");
        sleep(A_WHILE).await;
        let (what, since_ms) = told(&cluster).expect("told");
        assert!(what.contains("host1") && what.contains("host0"), "{what}");
        sleep(A_WHILE).await;
        assert_eq!(told(&cluster), Some((what, since_ms)));
        assert_eq!(cluster.read(2, b"other").await, None);
        cluster.heal();
        cluster.settle().await;
        sleep(A_WHILE / 60).await;
        assert_eq!(told(&cluster), None);
        cluster.assert_converged().await;
    });
}

#[test]
fn what_a_removed_writer_wrote_counts_only_where_somebody_who_stays_built_on_it() {
    simulate(29, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 1).await;
        cluster.write(0, b"plan", b"the plan of all").await;
        cluster.write(0, b"gone", b"to be removed").await;
        cluster.settle().await;
        cluster.partition(&[0], &[1, 2, 3]);
        cluster
            .write(1, b"gone", b"changed where it is not removed")
            .await;
        cluster.peer(1).flush().await.unwrap();
        sleep(A_WHILE).await;
        // One that stays has seen it, and goes on.
        cluster.write(2, b"own", b"behind what it saw").await;
        cluster.peer(2).flush().await.unwrap();
        sleep(A_WHILE).await;
        cluster.partition(&[0, 2], &[1, 3]);
        cluster.write(1, b"plan", b"PLAN").await;
        cluster.peer(1).flush().await.unwrap();
        sleep(A_WHILE).await;
        cluster.crash(1).await;
        cluster.remove(0, 1).await;
        cluster.write(0, b"plan", b"the plan of one").await;
        cluster.unlink(0, b"gone");
        cluster.peer(0).flush().await.unwrap();
        sleep(A_WHILE).await;
        // The storage peer has all that the removed one wrote.
        cluster.heal();
        sleep(3 * A_WHILE).await;
        for index in [0, 2] {
            let gone = cluster.read(index, b"gone").await;
            let built_on = Some(&b"changed where it is not removed"[..]);
            assert_eq!(gone.as_deref(), built_on, "seed {seed}: host{index}");
            let plan = cluster.read(index, b"plan").await;
            assert_eq!(
                plan.as_deref(),
                Some(&b"the plan of one"[..]),
                "host{index}"
            );
        }
        assert_eq!(cluster.tree(0).await, cluster.tree(2).await);
    });
}

#[test]
fn what_is_written_after_a_removal_opens_for_those_who_stay_alone() {
    simulate(31, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 0).await;
        cluster.write(0, b"before", b"for all three").await;
        cluster.settle().await;
        let segments = cluster.newest(0);
        assert!(cluster.opens(1, &segments));
        // Who is away gets the keys when it comes back.
        cluster.crash(2).await;
        cluster.remove(0, 1).await;
        cluster.peer(0).flush().await.unwrap();
        cluster.write(0, b"after", b"for those who stay").await;
        cluster.peer(0).flush().await.unwrap();
        let segments = cluster.newest(0);
        assert!(cluster.opens(0, &segments));
        assert!(!cluster.opens(1, &segments) && !cluster.opens(2, &segments));
        cluster.crash(1).await;
        cluster.restart(2).await;
        cluster.settle().await;
        assert!(cluster.opens(2, &segments));
        assert_eq!(
            cluster.read(2, b"after").await.as_deref(),
            Some(&b"for those who stay"[..])
        );
        // Who comes now reads what was written in each epoch.
        cluster.assert_converged().await;
        // What came with the roster is there at the next start, too.
        cluster.crash(2).await;
        cluster.restart(2).await;
        cluster.write(2, b"more", b"by one who stayed").await;
        cluster.settle().await;
        assert!(!cluster.opens(1, &cluster.newest(2)));
    });
}

#[test]
fn what_all_members_have_folded_is_given_up_and_what_one_lacks_is_not() {
    simulate(37, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 1).await;
        for index in 0..3 {
            cluster.write(index, b"shared", b"by turns").await;
            cluster.settle().await;
        }
        cluster.unlink(0, b"shared");
        cluster.settle().await;
        sleep(3 * A_WHILE).await;
        for index in 0..3 {
            assert_eq!(cluster.undo_count(index), 0, "seed {seed}: host{index}");
        }
        // Who is away holds it, also where the one that decides begins anew.
        cluster.crash(2).await;
        cluster.write(0, b"plan", b"version one").await;
        cluster.write(1, b"plan", b"version two").await;
        cluster.settle().await;
        cluster.crash(0).await;
        cluster.restart(0).await;
        cluster.write(1, b"plan", b"version three").await;
        sleep(3 * A_WHILE).await;
        assert!(cluster.undo_count(0) > 0, "seed {seed}");
        assert!(cluster.undo_count(1) > 0, "seed {seed}");
        cluster.restart(2).await;
        cluster.settle().await;
        sleep(3 * A_WHILE).await;
        for index in 0..3 {
            assert_eq!(cluster.undo_count(index), 0, "seed {seed}: host{index}");
        }
        cluster.assert_converged().await;
    });
}

#[test]
fn what_waits_for_its_order_is_told_with_who_is_missed() {
    simulate(41, |seed| async move {
        let mut cluster = Cluster::new(seed, 2, 1).await;
        cluster.write(1, b"plan", b"version one").await;
        cluster.settle().await;
        let order = cluster.peer(1).order();
        assert!(order.record > 0 && order.record_ms > 0, "{order:?}");
        assert_eq!((order.waiting_segments, order.missed), (0, Vec::new()));
        assert_eq!(order.decided_by, ["host0"]);
        cluster.crash(0).await;
        cluster.write(1, b"plan", b"version two").await;
        sleep(A_WHILE).await;
        for index in [1, 2] {
            let order = cluster.peer(index).order();
            assert!(order.waiting_segments > 0, "host{index}: {order:?}");
            assert_eq!(order.missed, ["host0"]);
        }
        cluster.restart(0).await;
        cluster.settle().await;
        let order = cluster.peer(1).order();
        assert_eq!((order.waiting_segments, order.missed), (0, Vec::new()));
    });
}

#[test]
fn who_had_a_clock_that_was_ahead_admits_others_again_when_it_is_right() {
    simulate(43, |seed| async move {
        let mut cluster = Cluster::new(seed, 1, 0).await;
        let day = Duration::from_secs(24 * 3_600);
        // Its statements are dated behind this from now on.
        cluster.set_ahead(0, 365 * day);
        let invite = cluster.peer(0).node().invite(Role::Writer, day).await;
        cluster.set_ahead(0, Duration::ZERO);
        assert!(invite.is_ok());
        cluster.set_ahead(0, 365 * day);
        cluster.write(0, b"early", b"dated ahead").await;
        cluster.peer(0).flush().await.unwrap();
        cluster.set_ahead(0, Duration::ZERO);
        sleep(A_WHILE).await;
        let told = cluster.peer(0).troubles().open();
        let is_told =
            |noted: &Noted| noted.what.contains("ahead of its clock") && noted.since_ms > 0;
        assert!(told.iter().any(is_told), "{told:?}");
        let new = cluster.admit(Role::Writer).await;
        cluster.restart(new).await;
        cluster.settle().await;
        cluster.write(new, b"plan", b"of the new one").await;
        cluster.settle().await;
        cluster.assert_converged().await;
    });
}

#[test]
fn who_has_a_wrong_clock_goes_on_with_the_others_and_all_are_told() {
    simulate(47, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 0).await;
        cluster.write(0, b"plan", b"version one").await;
        cluster.settle().await;
        let year = Duration::from_secs(365 * 24 * 3_600);
        let told = |cluster: &Cluster| {
            let is_told = |index| {
                let open = cluster.peer(index).troubles().open();
                open.iter().any(|noted| noted.what.contains("the clock of"))
            };
            [0, 1, 2].map(is_told)
        };
        // First it is years ahead of the others, then they are of it, then all are right.
        for (round, ahead) in [[0, 3, 0], [8, 0, 8], [0, 0, 0]].into_iter().enumerate() {
            for (index, years) in ahead.into_iter().enumerate() {
                cluster.set_ahead(index, years * year);
            }
            cluster.crash(1).await;
            cluster.restart(1).await;
            for index in [1, 0] {
                let name = format!("of {index} in round {round}");
                cluster.write(index, name.as_bytes(), b"content").await;
            }
            cluster.settle().await;
            sleep(A_WHILE).await;
            assert_eq!(told(&cluster), [ahead[0] != ahead[1]; 3]);
            let order = cluster.peer(1).order();
            assert_eq!(order.waiting_segments, 0, "{order:?}");
        }
        cluster.assert_converged().await;
    });
}

#[test]
fn who_meets_a_member_by_another_alone_knows_what_it_has() {
    simulate(53, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 0).await;
        cluster.settle().await;
        cluster.partition(&[0], &[2]);
        for index in [0, 2] {
            let name = format!("of {index}");
            cluster.write(index, name.as_bytes(), b"content").await;
        }
        sleep(10 * A_WHILE).await;
        for index in [0, 2] {
            assert_eq!(cluster.peer(index).node().connected().len(), 1);
            assert_eq!(cluster.peer(index).node().unpushed_segments(3), 0);
        }
        cluster.assert_converged().await;
    });
}

#[test]
fn a_row_changed_by_hand_is_an_alarm_everywhere_and_is_mended() {
    simulate(61, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 0).await;
        for n in 0..20 {
            let name = format!("file{n}");
            cluster.write(n % 3, name.as_bytes(), b"content").await;
        }
        cluster.settle().await;
        sleep(A_WHILE).await;
        let says = |what: &str| what.contains("rows") || what.contains("of the same changes");
        let open = |cluster: &Cluster, n: usize| {
            let open = cluster.peer(n).troubles().open();
            open.iter().filter(|noted| says(&noted.what)).count()
        };
        assert!((0..3).all(|n| open(&cluster, n) == 0));
        cluster.damage(1, Table::Dirent);
        sleep(3 * A_WHILE).await;
        for n in 0..3 {
            assert!(open(&cluster, n) > 0, "member {n} says nothing");
        }
        cluster.settle().await;
        cluster.assert_converged().await;
        let said = [0, 1, 2].map(|n| {
            let member = cluster.peer(n).member_parts().unwrap();
            member.volume.at_rest().unwrap().expect("at rest")
        });
        assert!(said[0] == said[1] && said[1] == said[2], "{said:?}");
        // It is told for a while, and no longer.
        sleep(70 * A_WHILE).await;
        assert!((0..3).all(|n| open(&cluster, n) == 0));
    });
}

#[test]
fn who_was_the_only_author_hears_before_its_start_has_ended_that_it_is_not() {
    simulate(73, |seed| async move {
        let mut cluster = Cluster::new(seed, 1, 1).await;
        cluster.write(0, b"plan", b"version one").await;
        cluster.settle().await;
        assert_eq!(cluster.undo_count(0), 0, "nobody else can look back to it");
        let copy = cluster.copy_of(0, &Rng::from_seed(seed));
        let new = cluster.admit(Role::Writer).await;
        cluster.restart(new).await;
        cluster.settle().await;
        cluster.write(new, b"other", b"by another").await;
        cluster.settle().await;
        cluster.crash(new).await;
        // What it knew before that is put back; the storage peer tells it while its start goes on.
        cluster.put_back(0, copy).await;
        cluster.restart_held(0, A_WHILE).await;
        assert_eq!(cluster.peer(0).node().roster().members().len(), 3);
        cluster.write(0, b"plan", b"version two").await;
        cluster.peer(0).flush().await.unwrap();
        assert!(
            cluster.undo_count(0) > 0,
            "seed {seed}: who is away may have changed it"
        );
    });
}
