//! What others see while a merge goes on beside them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs::base::Ino;

use super::cluster::{Device, agree, cluster};

/// Names of this device; each in a folder that others work in as well.
const OWN: usize = 60;

#[test]
fn no_name_of_its_own_is_gone_for_a_moment() {
    let asked = std::env::var("DFS_SEEDS").ok();
    let seeds = asked.map_or(3, |asked| asked.parse().unwrap());
    for seed in 0..seeds {
        let devices = cluster(3);
        let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
        for dir in ["x", "y", "z"] {
            a.mkdir(dir);
        }
        super::cluster::sync(&devices);
        let mut own = Vec::new();
        for n in 0..OWN {
            // Some of them in folders that the others make as well.
            let made = format!("made {}", n / 6);
            let dir = ["x", "y", "z", &made][n % 4];
            if a.find(dir).is_none() {
                a.mkdir(dir);
            }
            let name = format!("own {n}");
            a.put(&format!("{dir}/{name}"), "own");
            own.push((a.at(dir).ino, name));
        }
        busy(b, 0, seed);
        busy(c, 1, seed);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for at in 0..2 {
                let (own, is_over) = (&own, &is_over);
                let volume = &a.volume;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        for (dir, name) in own {
                            if at == 0 {
                                let there = volume.dirent(*dir, name.as_bytes()).unwrap();
                                let there = there.unwrap_or_else(|| panic!("{name} is gone"));
                                assert!(volume.inode(there.ino).unwrap().is_some(), "{name}");
                                continue;
                            }
                            let names = names(a, *dir);
                            assert!(names.contains(name.as_bytes()), "{name} is not listed");
                        }
                    }
                });
            }
            for round in 0..2 {
                for other in [b, c] {
                    other.publish();
                    a.publish();
                    while a.pull(other, 1).op_count > 0 {}
                    other.pull(a, usize::MAX);
                    if round == 0 {
                        busy(other, 2, seed);
                    }
                    a.commit();
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        super::cluster::sync(&devices);
        agree(&devices);
    }
}

/// Changes that cross those of the device: the same folders moved, removed and made anew, the same
/// names taken.
fn busy(device: &Device, at: usize, seed: usize) {
    for n in 0..120 {
        let made = format!("made {}", n / 12);
        let dir = ["x", "y", "z", &made][(n + seed) % 4];
        if device.find(dir).is_none() {
            device.mkdir(dir);
        }
        device.put(&format!("{dir}/{at} {n}"), "theirs");
        match (n + at) % 10 {
            0 => device.put(&format!("{dir}/own {}", n % OWN), "of another"),
            1 => device.put(&format!("{dir}/{at} {n}"), "again"),
            2 if at == 1 => {
                device.rename(dir, &format!("{dir} moved {n}"), false);
                continue;
            }
            _ => continue,
        };
    }
}

fn names(device: &Device, dir: Ino) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    let mut take = |_, dirent: &dfs::volume::Dirent| {
        names.insert(dirent.name.to_vec());
        true
    };
    device.volume.readdir(dir, None, &mut take).unwrap();
    names
}
