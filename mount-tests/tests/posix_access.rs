//! Who may do what: modes, groups, setuid and setgid, umask, access control lists, beside ext4.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mount_tests::Command;
use mount_tests::beside::{Side, beside};
use mount_tests::sys::{Mapping, as_user, on_own_thread};
use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, accessat,
    chmodat, chownat, linkat, mkdirat, mknodat, open, renameat, symlinkat, unlinkat,
};

const NOBODY: u32 = 65534;
const OTHER: u32 = 4321;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod by root");
}

fn set_owner(path: &Path, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).expect("chown by root");
}

fn mode(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).expect("it stats");
    format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid())
}

#[test]
fn modes_decide_for_owner_group_and_others() {
    beside("access-modes", |side| {
        set_mode(side.root(), 0o755);
        for bits in [
            0o000, 0o400, 0o200, 0o100, 0o040, 0o020, 0o010, 0o004, 0o002, 0o001, 0o754, 0o047,
        ] {
            for (who, uid, gid) in [
                ("owner", NOBODY, OTHER),
                ("group", 1, 5000),
                ("other", 1, OTHER),
            ] {
                let file = side.file(&format!("file {bits:o} {who}"), "x");
                let folder = side.folder(&format!("folder {bits:o} {who}"));
                fs::write(folder.join("inside"), "x").expect("written");
                for path in [&file, &folder] {
                    set_owner(path, uid, gid);
                    set_mode(path, bits);
                }
                // 5000 is a supplementary group.
                let outcome = as_user(NOBODY, &[NOBODY, 5000], move || {
                    let access = |path: &Path| {
                        [Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK]
                            .map(|wanted| accessat(CWD, path, wanted, AtFlags::EACCESS).is_ok())
                    };
                    (
                        access(&file),
                        access(&folder),
                        [OFlags::RDONLY, OFlags::WRONLY, OFlags::TRUNC]
                            .map(|flags| open(&file, flags, Mode::empty()).is_ok()),
                        fs::read_dir(&folder).is_ok(),
                        fs::metadata(folder.join("inside")).is_ok(),
                        fs::write(folder.join("new"), "x").is_ok(),
                        unlinkat(CWD, folder.join("inside"), AtFlags::empty()),
                        chmodat(CWD, &file, Mode::from_raw_mode(bits), AtFlags::empty()),
                        chownat(
                            CWD,
                            &file,
                            None,
                            Some(Gid::from_raw(5000)),
                            AtFlags::empty(),
                        ),
                    )
                });
                side.note(format!("{bits:o} as {who}"), outcome);
            }
        }
    });
}

#[test]
fn each_change_of_a_folder_asks_for_its_permission() {
    beside("access-folders", |side| {
        set_mode(side.root(), 0o755);
        let closed = side.folder("closed");
        let opened = side.folder("opened");
        for folder in [&closed, &opened] {
            for name in ["a", "b"] {
                fs::write(folder.join(name), "x").expect("written");
                set_mode(&folder.join(name), 0o666);
            }
            fs::create_dir(folder.join("d")).expect("made");
        }
        set_mode(&closed, 0o755);
        set_mode(&opened, 0o777);
        let (from, to) = (closed, opened);
        let outcome = as_user(NOBODY, &[NOBODY], move || {
            let in_both = |call: &dyn Fn(&Path) -> rustix::io::Result<()>| (call(&from), call(&to));
            vec![
                in_both(&|dir| mkdirat(CWD, dir.join("new"), Mode::RWXU)),
                in_both(&|dir| symlinkat("x", CWD, dir.join("link"))),
                in_both(&|dir| mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RWXU, 0)),
                in_both(&|dir| {
                    open(dir.join("file"), OFlags::CREATE | OFlags::RDWR, Mode::RWXU).map(drop)
                }),
                in_both(&|dir| {
                    linkat(CWD, to.join("a"), CWD, dir.join("linked"), AtFlags::empty())
                }),
                in_both(&|dir| renameat(CWD, dir.join("b"), CWD, to.join("b moved"))),
                in_both(&|dir| renameat(CWD, to.join("b moved"), CWD, dir.join("b over"))),
                in_both(&|dir| renameat(CWD, dir.join("d"), CWD, to.join("d moved"))),
                in_both(&|dir| unlinkat(CWD, dir.join("a"), AtFlags::empty())),
                in_both(&|dir| unlinkat(CWD, dir.join("d"), AtFlags::REMOVEDIR)),
                in_both(&|dir| {
                    open(dir.join("a"), OFlags::TRUNC | OFlags::WRONLY, Mode::empty()).map(drop)
                }),
            ]
        });
        for (number, outcome) in outcome.into_iter().enumerate() {
            side.note(format!("call {number}"), outcome);
        }
    });
}

/// Makes a file with setuid and setgid bits for everybody to write.
fn privileged(side: &Side<'_>, name: &str, bits: u32) -> PathBuf {
    let path = side.file(name, vec![1; 5000]);
    set_owner(&path, NOBODY, NOBODY);
    set_mode(&path, bits);
    path
}

type Change = fn(&Path);

#[test]
fn changes_take_setuid_and_setgid_away() {
    beside("access-setuid", |side| {
        set_mode(side.root(), 0o777);
        let changes: [(&str, Change); 11] = [
            ("write", |path| {
                both(path).write_all_at(b"x", 0).expect("written");
            }),
            ("write nothing", |path| {
                assert_eq!(both(path).write_at(b"", 0).ok(), Some(0));
            }),
            ("append", |path| {
                use std::io::Write;
                File::options()
                    .append(true)
                    .open(path)
                    .expect("it opens")
                    .write_all(b"x")
                    .expect("written");
            }),
            ("ftruncate", |path| {
                both(path).set_len(100).expect("truncated");
            }),
            ("O_TRUNC", |path| {
                drop(File::create(path).expect("it opens"));
            }),
            ("fallocate", |path| {
                rustix::fs::fallocate(both(path), FallocateFlags::empty(), 0, 9000)
                    .expect("allocated");
            }),
            ("punch", |path| {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(both(path), mode, 0, 100).expect("punched");
            }),
            ("copy_file_range", |path| {
                let own = both(path);
                rustix::fs::copy_file_range(&own, Some(&mut 0), &own, Some(&mut 3000), 100)
                    .expect("copied");
            }),
            ("mmap", |path| {
                let map = Mapping::shared(&both(path), 4096).expect("mapped");
                map.write(0, b"x").expect("written");
                map.sync().expect("synced");
            }),
            ("chown to the same", |path| {
                let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                let _ = chownat(CWD, path, Some(uid), Some(gid), AtFlags::empty());
            }),
            ("chmod", |path| {
                let _ = chmodat(CWD, path, Mode::from_raw_mode(0o6777), AtFlags::empty());
            }),
        ];
        for bits in [0o6777, 0o6767, 0o4777, 0o2777, 0o2767] {
            for (what, change) in changes {
                for (who, uid, gid) in [
                    ("root", 0, 0),
                    ("owner", NOBODY, NOBODY),
                    ("other", OTHER, OTHER),
                ] {
                    let path = privileged(side, "file", bits);
                    rustix::fs::setxattr(
                        &path,
                        "security.capability",
                        CAPABILITY,
                        XattrFlags::empty(),
                    )
                    .expect("set");
                    let there = path.clone();
                    as_user(uid, &[gid], move || change(&there));
                    let kept =
                        rustix::fs::getxattr(&path, "security.capability", &mut [0; 0]).is_ok();
                    side.note(format!("{what} of {bits:o} by {who}"), (mode(&path), kept));
                    fs::remove_file(&path).expect("removed");
                }
            }
        }
        // A folder keeps its bits, whoever owns it next.
        let folder = side.folder("folder");
        set_mode(&folder, 0o6777);
        set_owner(&folder, 1, 1);
        side.note("a folder", mode(&folder));
        // The owner cannot give the setgid bit of a group that is not his.
        let path = side.file("of another group", "x");
        set_owner(&path, NOBODY, OTHER);
        let there = path.clone();
        let outcome = as_user(NOBODY, &[NOBODY], move || {
            chmodat(CWD, &there, Mode::from_raw_mode(0o6755), AtFlags::empty())
        });
        side.note("chmod of another group's", (outcome, mode(&path)));
    });
}

fn both(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("it opens")
}

/// cap_net_raw+ep, as setcap(8) writes it.
const CAPABILITY: &[u8] = &[
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn what_is_made_in_a_setgid_folder_has_its_group() {
    beside("access-setgid", |side| {
        set_mode(side.root(), 0o777);
        for bits in [0o777, 0o2777] {
            let folder = side.folder(&format!("{bits:o}"));
            set_owner(&folder, 1, OTHER);
            set_mode(&folder, bits);
            for (who, uid, groups) in [
                ("root", 0, vec![0]),
                ("member", NOBODY, vec![NOBODY, OTHER]),
                ("other", NOBODY, vec![NOBODY]),
            ] {
                let at = |name: &str| folder.join(format!("{name} of {who}"));
                let names = ["file", "executable", "folder", "fifo", "link", "mknod"].map(at);
                let there = names.clone();
                let folder_mode = Mode::from_raw_mode(0o755);
                as_user(uid, &groups, move || {
                    let [file, executable, folder, fifo, link, node] = there;
                    let create = OFlags::CREATE | OFlags::RDWR;
                    drop(open(&file, create, Mode::from_raw_mode(0o644)).expect("made"));
                    drop(open(&executable, create, Mode::from_raw_mode(0o2775)).expect("made"));
                    mkdirat(CWD, &folder, folder_mode).expect("made");
                    mkdirat(CWD, folder.join("below"), folder_mode).expect("made");
                    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o2777), 0)
                        .expect("made");
                    mknodat(
                        CWD,
                        &node,
                        FileType::RegularFile,
                        Mode::from_raw_mode(0o2777),
                        0,
                    )
                    .expect("made");
                    symlink("x", &link).expect("made");
                });
                let modes = names.each_ref().map(|path| mode(path));
                side.note(format!("made in {bits:o} by {who}"), modes);
                side.note("below", mode(&at("folder").join("below")));
            }
        }
    });
}

#[test]
fn umask_is_taken_away_once() {
    beside("access-umask", |side| {
        let root = side.root().to_owned();
        let modes = on_own_thread(move || {
            let mut modes = Vec::new();
            for mask in [0o000, 0o022, 0o077, 0o777, 0o137] {
                rustix::process::umask(Mode::from_raw_mode(mask));
                let at = |name: &str| root.join(format!("{name} {mask:o}"));
                let all = Mode::from_raw_mode(0o7777);
                drop(
                    open(
                        at("file"),
                        OFlags::CREATE | OFlags::RDWR,
                        Mode::from_raw_mode(0o666),
                    )
                    .expect("made"),
                );
                drop(
                    open(
                        at("exclusive"),
                        OFlags::CREATE | OFlags::EXCL | OFlags::RDWR,
                        all,
                    )
                    .expect("made"),
                );
                mkdirat(CWD, at("folder"), all).expect("made");
                mknodat(
                    CWD,
                    at("fifo"),
                    FileType::Fifo,
                    Mode::from_raw_mode(0o666),
                    0,
                )
                .expect("made");
                symlink("x", at("link")).expect("made");
                for name in ["file", "exclusive", "folder", "fifo", "link"] {
                    modes.push((mask, name, mode(&at(name))));
                }
            }
            modes
        });
        for (mask, name, mode) in modes {
            side.note(format!("{name} under {mask:o}"), mode);
        }
    });
}

fn acl(side: &Side<'_>, args: &[&str], name: &str) -> String {
    let done = Command::new("setfacl")
        .args(args)
        .arg(side.path(name))
        .run();
    format!(
        "{} {}",
        done.status.success(),
        done.stderr_text().lines().count()
    )
}

fn acl_of(side: &Side<'_>, name: &str) -> String {
    let get = Command::new("getfacl")
        .args(["-cnpE", "--", name])
        .folder(side.root());
    let mode = mode(&side.path(name));
    format!("{mode} {}", get.ok().trim().replace('\n', " "))
}

#[test]
fn access_control_lists_are_kept_checked_and_inherited() {
    beside("access-acl", |side| {
        set_mode(side.root(), 0o777);
        side.file("file", "x");
        set_mode(&side.path("file"), 0o640);
        for args in [
            &["-m", "u:65534:rw"][..],
            &["-m", "g:4321:r,m::r"],
            &["-m", "g::rwx"],
            &["-x", "u:65534"],
            &["-n", "-m", "u:1:rwx"],
            &["-b"],
            &["-m", "u:65534:rw,u:1:r,g:2:x,o::-"],
            &["-k"],
            &["-d", "-m", "u:1:rwx"],
            &["-m", "u:1:q"],
        ] {
            let set = acl(side, args, "file");
            side.note(format!("setfacl {args:?}"), (set, acl_of(side, "file")));
        }
        for bits in [0o600, 0o660, 0o777, 0o070, 0o4755] {
            set_mode(&side.path("file"), bits);
            side.note(format!("chmod {bits:o}"), acl_of(side, "file"));
        }
        // Checked by the kernel, at once after each change.
        for args in [
            &["-b"][..],
            &["-m", "u:65534:r"],
            &["-m", "m::-"],
            &["-m", "u:65534:rw"],
            &["-m", "g:4321:-"],
            &["-m", "u:65534:-"],
            &["-x", "u:65534"],
        ] {
            acl(side, args, "file");
            let path = side.path("file");
            let outcome = as_user(NOBODY, &[NOBODY, OTHER], move || {
                [OFlags::RDONLY, OFlags::WRONLY]
                    .map(|flags| open(&path, flags, Mode::empty()).is_ok())
            });
            side.note(format!("opened after {args:?}"), outcome);
        }

        side.folder("folder");
        set_mode(&side.path("folder"), 0o2777);
        for args in [
            &["-d", "-m", "u:65534:rwx,g::rx,o::-"][..],
            &["-d", "-m", "m::rx"],
            &["-d", "-m", "u::rw,g:4321:rwx,m::rwx"],
        ] {
            let set = acl(side, args, "folder");
            side.note(format!("default {args:?}"), (set, acl_of(side, "folder")));
            let root = side.path("folder");
            let tag = args.join("");
            let there = tag.clone();
            // A umask counts only where there is no default list.
            on_own_thread(move || {
                rustix::process::umask(Mode::from_raw_mode(0o077));
                let at = |name: &str| root.join(format!("{name}{there}"));
                drop(
                    open(
                        at("file"),
                        OFlags::CREATE | OFlags::RDWR,
                        Mode::from_raw_mode(0o666),
                    )
                    .expect("made"),
                );
                drop(
                    open(
                        at("private"),
                        OFlags::CREATE | OFlags::RDWR,
                        Mode::from_raw_mode(0o600),
                    )
                    .expect("made"),
                );
                mkdirat(CWD, at("sub"), Mode::from_raw_mode(0o777)).expect("made");
                mkdirat(CWD, at("sub").join("sub"), Mode::from_raw_mode(0o751)).expect("made");
                mknodat(
                    CWD,
                    at("fifo"),
                    FileType::Fifo,
                    Mode::from_raw_mode(0o662),
                    0,
                )
                .expect("made");
                symlink("x", at("link")).expect("made");
            });
            for name in ["file", "private", "sub", "fifo"] {
                side.note(
                    format!("{name} in it"),
                    acl_of(side, &format!("folder/{name}{tag}")),
                );
            }
            side.note("below", acl_of(side, &format!("folder/sub{tag}/sub")));
            side.note("a link", mode(&side.path(format!("folder/link{tag}"))));
        }
        side.note("no default list", acl(side, &["-k"], "folder"));
        side.note("of the folder", acl_of(side, "folder"));
        fs::write(side.path("folder/plain"), "x").expect("written");
        side.note("in the folder", acl_of(side, "folder/plain"));

        // Of another's group: the setgid bit goes with a list that its owner sets.
        let path = side.file("grouped", "x");
        for (owner, group, groups) in [
            (NOBODY, OTHER, vec![NOBODY]),
            (NOBODY, OTHER, vec![NOBODY, OTHER]),
        ] {
            set_owner(&path, owner, group);
            set_mode(&path, 0o2775);
            let there = path.clone();
            let outcome = as_user(NOBODY, &groups, move || {
                let list = [
                    &2u32.to_le_bytes()[..],
                    &entry(1, 7, u32::MAX),
                    &entry(2, 6, 1),
                    &entry(4, 5, u32::MAX),
                    &entry(16, 7, u32::MAX),
                    &entry(32, 4, u32::MAX),
                ]
                .concat();
                rustix::fs::setxattr(
                    &there,
                    "system.posix_acl_access",
                    &list,
                    XattrFlags::empty(),
                )
            });
            side.note(
                format!("set by {groups:?}"),
                (outcome, acl_of(side, "grouped")),
            );
        }
        let theirs = side.file("root's", "x");
        let outcome = as_user(NOBODY, &[NOBODY], move || {
            let list = [
                &2u32.to_le_bytes()[..],
                &entry(1, 7, u32::MAX),
                &entry(4, 5, u32::MAX),
                &entry(32, 4, u32::MAX),
            ]
            .concat();
            (
                rustix::fs::setxattr(
                    &theirs,
                    "system.posix_acl_access",
                    &list,
                    XattrFlags::empty(),
                ),
                rustix::fs::removexattr(&theirs, "system.posix_acl_access"),
            )
        });
        side.note("of a file that is not the caller's", outcome);
        for (what, list) in [
            ("empty", vec![]),
            ("a header alone", 2u32.to_le_bytes().to_vec()),
            ("another version", 3u32.to_le_bytes().to_vec()),
            ("cut", [&2u32.to_le_bytes()[..], &[1, 0, 7]].concat()),
            (
                "without others",
                [
                    &2u32.to_le_bytes()[..],
                    &entry(1, 7, u32::MAX),
                    &entry(4, 7, u32::MAX),
                ]
                .concat(),
            ),
            (
                "named without mask",
                [
                    &2u32.to_le_bytes()[..],
                    &entry(1, 7, u32::MAX),
                    &entry(2, 7, 5),
                    &entry(4, 7, u32::MAX),
                    &entry(32, 7, u32::MAX),
                ]
                .concat(),
            ),
            (
                "odd bits",
                [
                    &2u32.to_le_bytes()[..],
                    &entry(1, 15, u32::MAX),
                    &entry(4, 7, u32::MAX),
                    &entry(32, 7, u32::MAX),
                ]
                .concat(),
            ),
        ] {
            for name in ["system.posix_acl_access", "system.posix_acl_default"] {
                for on in ["file", "folder"] {
                    let set = rustix::fs::setxattr(side.path(on), name, &list, XattrFlags::empty());
                    side.note(format!("{what} as {name} of a {on}"), set);
                }
            }
        }
        side.remount();
        for name in ["file", "folder", "grouped", "folder/plain"] {
            side.note(format!("{name:?} after a remount"), acl_of(side, name));
        }
    });
}

fn entry(tag: u16, perm: u16, id: u32) -> [u8; 8] {
    let mut entry = [0; 8];
    entry[..2].copy_from_slice(&tag.to_le_bytes());
    entry[2..4].copy_from_slice(&perm.to_le_bytes());
    entry[4..].copy_from_slice(&id.to_le_bytes());
    entry
}

#[test]
fn owners_give_files_only_to_their_groups() {
    beside("access-chown", |side| {
        set_mode(side.root(), 0o777);
        for kind in ["file", "folder", "link"] {
            for (what, uid, gid) in [
                ("own group", None, Some(NOBODY)),
                ("a supplementary group", None, Some(OTHER)),
                ("a foreign group", None, Some(7)),
                ("the same owner", Some(NOBODY), None),
                ("another owner", Some(1), None),
                ("both the same", Some(NOBODY), Some(NOBODY)),
            ] {
                for owner in [NOBODY, 1] {
                    let path = side.path(format!("{kind} {what} {owner}"));
                    match kind {
                        "file" => fs::write(&path, "x").expect("written"),
                        "folder" => fs::create_dir(&path).expect("made"),
                        _ => symlink("x", &path).expect("made"),
                    }
                    set_owner(&path, owner, NOBODY);
                    if kind != "link" {
                        set_mode(&path, 0o6755);
                    }
                    let there = path.clone();
                    let outcome = as_user(NOBODY, &[NOBODY, OTHER], move || {
                        chownat(
                            CWD,
                            &there,
                            uid.map(Uid::from_raw),
                            gid.map(Gid::from_raw),
                            AtFlags::SYMLINK_NOFOLLOW,
                        )
                    });
                    side.note(
                        format!("{kind} of {owner} to {what}"),
                        (outcome, mode(&path)),
                    );
                }
            }
        }
        // A number at the end of the range is no owner of anything, but one less is.
        let path = side.file("large", "x");
        set_owner(&path, u32::MAX - 1, u32::MAX - 1);
        side.note("largest owner", mode(&path));
        let name = path.file_name().map(OsStr::to_owned);
        side.remount();
        side.note(format!("{name:?} after a remount"), mode(&path));
    });
}

#[test]
fn programs_run_where_they_may() {
    beside("access-exec", |side| {
        set_mode(side.root(), 0o755);
        let program = side.path("program");
        fs::copy("/bin/true", &program).expect("copied");
        let script = side.file("script", "#!/bin/sh\nexit 3\n");
        for bits in [0o755, 0o644, 0o100, 0o001, 0o000] {
            for path in [&program, &script] {
                set_mode(path, bits);
                let run = |uid: u32| {
                    let path = path.clone();
                    as_user(uid, &[uid], move || {
                        let status = std::process::Command::new(path).status();
                        status
                            .map(|status| status.code())
                            .map_err(|error| error.raw_os_error())
                    })
                };
                side.note(
                    format!("{:?} {bits:o}", path.file_name()),
                    (run(0), run(NOBODY)),
                );
            }
        }
        let file = side.file("text", "no program");
        set_mode(&file, 0o755);
        let ran = std::process::Command::new(&file)
            .status()
            .map_err(|error| error.raw_os_error());
        side.note("what is no program", ran.map(|status| status.code()));
        let mapped = Mapping::executable(&File::open(&program).expect("it opens"), 4096);
        side.note("mapped for execution", mapped.map(drop));
    });
}
