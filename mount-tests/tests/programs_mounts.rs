//! Filesystems on top of a mount: an image in a file, and overlays.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mount_tests::source::make_source_tree;
use mount_tests::tree::{assert_equal, read_tree};
use mount_tests::{Command, Trio, is_quick, scenario};

const MINUTES: Duration = Duration::from_secs(60);

fn mount(options: &str, kind: &str, source: &Path, at: &Path) {
    Command::new("mount")
        .args(["-t", kind, "-o", options])
        .args([source, at])
        .ok();
}

fn unmount(at: &Path) {
    Command::new("umount").arg(at).ok();
}

#[test]
fn an_ext4_image_lives_in_a_file() {
    scenario("loop", 10 * MINUTES, |s| {
        let source = s.path("source");
        make_source_tree(&source, if is_quick() { 100 } else { 500 });
        let expected = read_tree(&source);
        let inside = s.new_folder("inside");
        let mut trio = Trio::start(s);
        for direct in [false, true] {
            let image = trio.a.path(format!("disk {direct}.img"));
            Command::new("truncate")
                .args(["-s", "256M"])
                .arg(&image)
                .ok();
            Command::new("mkfs.ext4")
                .args(["-q", "-b", "4096"])
                .arg(&image)
                .ok();
            let attach = |image: &Path| {
                let device = Command::new("losetup").args(["--find", "--show"]);
                let device =
                    device.arg(format!("--direct-io={}", if direct { "on" } else { "off" }));
                device.arg(image).ok().trim().to_owned()
            };
            let device = attach(&image);
            mount("discard", "ext4", Path::new(&device), &inside);
            let tree = inside.join("tree");
            Command::new("cp")
                .arg("-a")
                .args([&source, &tree])
                .limit(3 * MINUTES)
                .ok();
            Command::shell(
                "rm -r tree/odd/deep && cp -a tree twice && rm -r twice && sync -f . && fstrim .",
            )
            .folder(&inside)
            .limit(3 * MINUTES)
            .ok();
            unmount(&inside);
            Command::new("losetup").args(["--detach", &device]).ok();
            Command::new("e2fsck").args(["-f", "-n"]).arg(&image).ok();

            trio.a.unmount();
            trio.a.restart();
            let device = attach(&image);
            mount("ro", "ext4", Path::new(&device), &inside);
            let kept = |mut tree: mount_tests::tree::Tree| {
                tree.retain(|path, _| !path.starts_with("odd/deep") && path != Path::new("odd"));
                tree
            };
            assert_equal(
                "in the image",
                &kept(expected.clone()),
                &kept(read_tree(&tree)),
            );
            unmount(&inside);
            Command::new("losetup").args(["--detach", &device]).ok();
            fs::remove_file(&image).expect("removed");
        }
    });
}

/// Changes a tree in the ways that an overlay has to tell apart.
const CHANGES: &str = "echo more >> odd/case
    rm odd/empty && rm -r odd/deep
    mv odd/linked odd/moved
    mkdir odd/deep && echo new > odd/deep/new
    chmod 700 'odd/folder 1777'
    mv 'odd/empty folder' odd/renamed
    ln odd/case 'odd/hard link'
    setfattr -n user.new -v value odd/owned
    rm -r 'odd/folder 2775' && echo file > 'odd/folder 2775'";

#[test]
fn an_overlay_lies_over_a_mount_and_in_it() {
    scenario("overlay", 10 * MINUTES, |s| {
        let source = s.path("source");
        make_source_tree(&source, 100);
        let changed = s.path("changed");
        Command::new("cp").arg("-a").args([&source, &changed]).ok();
        Command::shell(CHANGES).folder(&changed).ok();
        let outside = s.new_folder("outside");
        let merged = s.new_folder("merged");
        let trio = Trio::start(s);
        let lower = trio.a.path("lower");
        Command::new("cp").arg("-a").args([&source, &lower]).ok();
        let expected = read_tree(&lower);
        // The layer that is written: beside the mount, then in the mount itself.
        for layers in [&outside, &trio.a.path("layers")] {
            for name in ["upper", "work"] {
                fs::create_dir_all(layers.join(name)).expect("made");
            }
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                layers.join("upper").display(),
                layers.join("work").display()
            );
            for round in 0..2 {
                mount(&options, "overlay", Path::new("overlay"), &merged);
                if round == 0 {
                    assert_tree("as below", &lower, &merged);
                    Command::shell(CHANGES).folder(&merged).ok();
                }
                assert_tree("changed", &changed, &merged);
                unmount(&merged);
            }
            assert_equal("what lies below", &expected, &read_tree(&lower));
        }
    });
}

/// Compares names, kinds, modes and contents: numbers of links and files are the overlay's own.
fn assert_tree(what: &str, expected: &Path, found: &Path) {
    let list = "find . -mindepth 1 ! -name more -printf '%y %m %p %l\\n' | sort";
    let list = |root: &Path| Command::shell(list).folder(root).ok();
    assert_eq!(list(expected), list(found), "{what}");
    Command::new("diff")
        .args(["-r", "--no-dereference", "--exclude=fifo"])
        .args([expected, found])
        .ok();
}
