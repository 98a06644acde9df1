//! What the kernel writes from pages that it was told to drop.

use dfs::fs::WriteFlags;
use dfs::volume::Change;

use super::mount::Disk;
use super::named::{BOTH, ROOT, create, write, write_elsewhere};
use super::room::read_all;

#[test]
fn pages_that_the_kernel_has_not_dropped_yet_are_of_the_version_before() {
    let disk = Disk::new().alone(false);
    let fs = disk.mount();
    let file = create(&fs, "notes.txt");
    write(&fs, file, 0, b"base and more");
    fs.flush(file.0, file.1).unwrap();
    fs.open(ROOT, file.0, BOTH).unwrap();
    let from_cache = WriteFlags {
        from_cache: true,
        ..WriteFlags::default()
    };
    let page = |offset, bytes: &[u8]| fs.write(file.0, file.1, offset, bytes, from_cache);
    let inode = fs.volume().inode(file.0).unwrap().unwrap();
    write_elsewhere(&fs, &inode, b"theirs, which is longer");
    fs.apply_changes([Change::Content(file.0)]);
    // Two pages of a mapping, written back by the notice.
    page(0, b"MINE").unwrap();
    page(5, b"AND").unwrap();
    fs.flush(file.0, file.1).unwrap();
    assert_eq!(read_all(&fs, file.0, file.1), b"MINE AND more");
    let conflicts = fs.volume().conflicts().unwrap();
    assert_eq!(conflicts.len(), 1);
    let other = conflicts[0].other.unwrap();
    let fh = fs.open(ROOT, other, BOTH).unwrap().fh;
    assert_eq!(read_all(&fs, other, fh), b"theirs, which is longer");
    // From then on they are of the present one.
    fs.pages_dropped(file.0);
    let inode = fs.volume().inode(file.0).unwrap().unwrap();
    page(0, b"more").unwrap();
    fs.flush(file.0, file.1).unwrap();
    assert_eq!(fs.volume().conflicts().unwrap().len(), 1);
    let after = fs.volume().inode(file.0).unwrap().unwrap();
    assert_ne!(after.version, inode.version);
    assert_eq!(read_all(&fs, file.0, file.1), b"more AND more");
}
