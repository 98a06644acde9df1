//! Nothing in clear: on no disk, not on the wire. And nobody is impressed by noise on the port.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount_tests::capture::Capture;
use mount_tests::source::pattern;
use mount_tests::{Command, Peer, Start, Trio, machine, scenario, wait_for_content};
use rustix::fs::XattrFlags;

const MINUTES: Duration = Duration::from_secs(60);

const FILE: &str = "needle-of-a-file-name.txt";
const FOLDER: &str = "needle-of-a-folder-name";
const INLINE: &str = "needle of a small content, ";
const CHUNKED: &str = "needle of a large content, ";
const TARGET: &str = "needle-of-a-symlink-target";
const XATTR_NAME: &str = "user.needle-of-an-attribute-name";
const XATTR_VALUE: &str = "needle of an attribute value";
const NEEDLES: [&str; 7] = [
    FILE,
    FOLDER,
    INLINE,
    CHUNKED,
    TARGET,
    XATTR_NAME,
    XATTR_VALUE,
];

#[test]
fn no_disk_and_no_wire_shows_a_name_or_a_content() {
    scenario("secrets", 5 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let capture = Capture::start(s.network(), &s.path("packets"));
        let root = trio.a.path(FOLDER);
        fs::create_dir(&root).expect("a folder");
        fs::write(root.join(FILE), INLINE.repeat(40)).expect("a small file");
        fs::write(root.join("large"), CHUNKED.repeat(100_000)).expect("a large file");
        symlink(TARGET, root.join("link")).expect("a symlink");
        rustix::fs::setxattr(
            &root,
            XATTR_NAME,
            XATTR_VALUE.as_bytes(),
            XattrFlags::empty(),
        )
        .expect("an attribute");
        fs::rename(root.join(FILE), root.join(format!("{FILE}.renamed"))).expect("renamed");
        let renamed = trio.b.path(FOLDER).join(format!("{FILE}.renamed"));
        wait_for_content(&renamed, INLINE.repeat(40).as_bytes());
        trio.sync();
        // On B too the content is read, and so cached.
        let large = trio.b.path(FOLDER).join("large");
        assert_eq!(
            fs::read(large).expect("read"),
            CHUNKED.repeat(100_000).into_bytes()
        );

        for peer in trio.all() {
            search_folder(peer.name(), peer.state());
            peer.terminate();
            search_folder(peer.name(), peer.state());
        }
        let packets = capture.finish();
        let seen: usize = packets.iter().map(Vec::len).sum();
        let least = CHUNKED.len() * 100_000;
        assert!(
            seen > least,
            "only {seen} bytes were captured of more than {least}"
        );
        for packet in &packets {
            search("the wire", packet);
        }
    });
}

fn search_folder(name: &str, folder: &Path) {
    let mut files = 0;
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("listed") {
            let entry = entry.expect("an entry");
            let path = entry.path();
            search(
                &format!("{name}: a name in the state"),
                path.as_os_str().as_encoded_bytes(),
            );
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => {
                    files += 1;
                    let bytes = fs::read(&path).unwrap_or_default();
                    search(&format!("{name}: {}", path.display()), &bytes);
                }
                _ => {}
            }
        }
    }
    assert!(files > 0, "{name} keeps nothing in {}", folder.display());
}

fn search(place: &str, bytes: &[u8]) {
    for needle in NEEDLES {
        // The first letters of each needle are enough and cannot stand there by chance.
        let needle = needle.as_bytes().get(..16).unwrap_or(needle.as_bytes());
        let found = memchr::memmem::find(bytes, needle);
        assert_eq!(
            found,
            None,
            "{place} shows {:?}",
            String::from_utf8_lossy(needle)
        );
    }
}

#[test]
fn a_token_is_in_no_list_of_processes_however_it_is_passed() {
    scenario("token", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let file = s.path("token");
        let invite = |role: &str| {
            let printed = a.dfs(&["invite", "--role", role]).stdout_text();
            fs::write(&file, &printed).expect("written");
            let token = printed.lines().last().expect("a token").to_owned();
            (token, format!("@{}", file.display()))
        };
        let hidden = |token: &str, who: &str| {
            let seen = machine::processes_with(Path::new(token));
            assert!(seen.is_empty(), "{who}: {seen:?} show the token");
        };
        let options = |peer: &Peer, secret: &str| {
            let mut args = vec![peer.mountpoint().display().to_string(), "--invite".into()];
            args.push(secret.to_owned());
            args.extend(["--state".into(), peer.state().display().to_string()]);
            args.extend(["--listen".into(), peer.listen()]);
            args
        };
        let (token, _) = invite("writer");
        let mut said = s.peer("said");
        said.mount(&Start::join(&a, &token));
        hidden(&token, "in the foreground");
        assert!(said.is_running(), "it is another process than before");
        let (token, _) = invite("storage");
        let mut stores = s.peer("stores");
        stores.serve(&Start::join(&a, &token));
        hidden(&token, "dfs node");

        let (token, _) = invite("writer");
        let behind = s.peer("behind");
        let done = behind.attempt("dfs-mount", &options(&behind, &token));
        assert!(done.status.success(), "{done}");
        hidden(&token, "in the background");
        let (token, in_file) = invite("writer");
        let from_file = s.peer("file");
        let done = from_file.attempt("dfs-mount", &options(&from_file, &in_file));
        assert!(done.status.success(), "{done}");
        hidden(&token, "from a file");
        let (token, _) = invite("writer");
        let from_stdin = s.peer("stdin");
        let done = from_stdin
            .inside("sh")
            .args(["-c", "file=$1; shift; \"$@\" < \"$file\"", "sh"])
            .arg(&file)
            .arg(machine::program("dfs-mount"))
            .args(options(&from_stdin, "-"))
            .run();
        assert!(done.status.success(), "{done}");
        hidden(&token, "from the standard input");

        for peer in [&behind, &from_file, &from_stdin] {
            assert_eq!(peer.facts(&["status"])["role"], "writer");
            Command::new("umount").arg(peer.mountpoint()).ok();
        }
    });
}

#[test]
fn noise_on_the_port_changes_nothing() {
    scenario("noise", 5 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let capture = Capture::start(s.network(), &s.path("packets"));
        fs::write(trio.a.path("before"), pattern(3 << 20, 1)).expect("written");
        wait_for_content(&trio.b.path("before"), &pattern(3 << 20, 1));
        let packets = capture.finish();
        let stranger = s.peer("stranger");
        for target in trio.all().map(|peer| peer.listen()) {
            let noise = noise(&packets);
            stranger.run_inside(move || {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
                for datagram in noise {
                    // A full send buffer drops some of it, as networks do.
                    let _ = socket.send_to(&datagram, &target);
                }
            });
        }
        fs::write(trio.a.path("after"), "after").expect("written");
        wait_for_content(&trio.b.path("after"), b"after");
        trio.sync();
        for peer in trio.all() {
            assert!(peer.is_running());
            assert_eq!(peer.facts(&["status"])["members"], 3);
            let log = fs::read_to_string(peer.log_path()).expect("a log");
            assert!(
                !log.contains("panicked"),
                "{} panicked:\n{log}",
                peer.name()
            );
        }
    });
}

/// Returns datagrams of random bytes, and real ones: replayed, cut, grown, with a byte changed.
fn noise(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    /// Ethernet, IPv4 without options, UDP.
    const HEADERS_BYTES: usize = 14 + 20 + 8;
    let random = pattern(4 << 20, 4711);
    let mut noise: Vec<Vec<u8>> = (0..3000)
        .map(|number: usize| {
            let at = number * 1301;
            random
                .get(at..at + number * 37 % 1472)
                .unwrap_or_default()
                .to_vec()
        })
        .collect();
    let payloads = packets
        .iter()
        .filter_map(|packet| packet.get(HEADERS_BYTES..));
    for (number, payload) in payloads.enumerate().take(2000) {
        noise.push(payload.to_vec());
        noise.push(
            payload
                .get(..payload.len() / 2)
                .unwrap_or_default()
                .to_vec(),
        );
        noise.push([payload, &[0xa5; 700]].concat());
        let mut changed = payload.to_vec();
        if let Some(byte) = changed.get_mut(number % payload.len().max(1)) {
            *byte ^= 1 << (number % 8);
        }
        noise.push(changed);
    }
    noise
}
