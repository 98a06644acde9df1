//! Slow lines under real mounts.

use std::fs;
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Peer, Trio, scenario, wait_until};

/// Bytes that have left over a peer's interface.
fn sent(peer: &Peer) -> u64 {
    let path = "/sys/class/net/eth0/statistics/tx_bytes";
    // The interfaces of sysfs are those of the namespace that mounted it, so a mount of its own.
    let script = format!("mount -t sysfs none /sys && cat {path}");
    let said = peer
        .inside("unshare")
        .args(["--mount", "sh", "-c", &script])
        .ok();
    said.trim().parse().expect("a number")
}

#[test]
fn a_megabit_uplink_carries_a_file_to_its_holders_and_a_reader_once() {
    scenario("megabit-uplink", Duration::from_secs(240), |scenario| {
        let trio = Trio::start(scenario);
        let tbf = "qdisc add dev eth0 root tbf rate 1mbit burst 16kb latency 300ms";
        trio.a.inside("tc").args(tbf.split(' ')).ok();
        let before = sent(&trio.a);
        let content = pattern(2 << 20, 7);
        fs::write(trio.a.path("video"), &content).expect("written");
        let named = trio.b.path("video");
        wait_until("all of it has a place", Duration::from_secs(60), || {
            let len = fs::metadata(&named).map_or(0, |found| found.len());
            (len == content.len() as u64).then_some(())
        });
        wait_until("the rate is told", Duration::from_secs(60), || {
            let status = trio.a.facts(&["status"]);
            let rate = status["rate_bytes_s"].as_u64()?;
            let left = status["left_s"].as_u64();
            ((20_000..200_000).contains(&rate) && left.is_some_and(|left| left < 300)).then_some(())
        });
        // A read that lasts as long as the line takes: never EIO.
        assert!(fs::read(&named).expect("read") == content);
        let peers = trio.a.facts(&["peers"]);
        for peer in peers.as_array().expect("a list") {
            assert_eq!(peer["state"], "connected", "{peers}");
        }
        trio.sync();
        let (sent, least) = (sent(&trio.a) - before, content.len() as u64);
        assert!(sent >= least, "{sent}");
        // Two copies, and what is lost in the queue of the line: what the reader asks for while it is on
        // its way as a copy is not sent once more.
        assert!(sent <= 2 * least * 120 / 100, "{sent}");
    });
}
