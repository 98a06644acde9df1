//! What is told of others and of oneself is true, and a stranger's word counts for nothing.

use std::fs;
use std::time::Duration;

use mount_tests::{Start, scenario, wait_for_content};

const MINUTES: Duration = Duration::from_secs(60);

#[test]
fn a_known_volume_mounts_whoever_answers_where_a_peer_was() {
    scenario("rogue", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        let mut b = s.peer("b");
        let mut stranger = s.peer("stranger");
        a.mount(&Start::new_volume());
        b.mount(&Start::join(&a, &a.invite("writer")));
        stranger.mount(&Start::new_volume());
        let peers = |peers: &[&str]| {
            let args = peers.iter().flat_map(|peer| ["--peer", *peer]);
            args.fold(Start::again(), |start, arg| start.arg(arg))
        };
        let nobody = "10.77.0.200:4750";
        let nameless = "no.such.host.invalid:4750";

        // The good one comes last.
        b.terminate();
        b.mount(&peers(&[&stranger.listen(), nobody, nameless, &a.listen()]));
        fs::write(a.path("news"), "news").expect("written");
        wait_for_content(&b.path("news"), b"news");
        // It does not come at all.
        b.terminate();
        a.terminate();
        b.mount(&peers(&[&stranger.listen(), nobody, nameless]));
        assert_eq!(fs::read(b.path("news")).expect("read"), b"news");
        fs::write(b.path("more"), "more").expect("written");
    });
}
