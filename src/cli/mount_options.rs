//! The settings of a peer among the options of `-o`: how a line of fstab carries them.

use clap::ValueEnum;

use super::args::{FsyncArg, MountArgs};
use super::units::{parse_host_port, parse_listen, parse_size};

/// Takes the settings out of `args.options` and leaves one mount option an entry there. What has an
/// option of its own on the command line, too, is as that says.
///
/// The error names the option that makes no sense.
pub(super) fn take(args: &mut MountArgs) -> Result<(), String> {
    let mut left = Vec::new();
    for option in args.options.iter().flat_map(|list| split(list)) {
        let Some((key, value)) = option.split_once('=') else {
            left.push(option);
            continue;
        };
        let wrong = |why: String| format!("-o {key}: {why}");
        let peer = &mut args.peer;
        match key {
            "state" if value.is_empty() => return Err(wrong("no folder is named".to_owned())),
            "state" => peer.state = peer.state.take().or_else(|| Some(value.into())),
            "listen" => {
                let listen = parse_listen(value).map_err(wrong)?;
                peer.listen = peer.listen.or(Some(listen));
            }
            "name" => peer.name = peer.name.take().or_else(|| Some(value.to_owned())),
            "capacity" => {
                let bytes = parse_size(value).map_err(wrong)?;
                peer.capacity = peer.capacity.or(Some(bytes));
            }
            "cache" => {
                let bytes = parse_size(value).map_err(wrong)?;
                peer.cache = peer.cache.or(Some(bytes));
            }
            "fsync" => {
                let fsync = FsyncArg::from_str(value, false)
                    .map_err(|_| wrong(format!("'{value}' is neither local nor replicated")))?;
                args.fsync = args.fsync.or(Some(fsync));
            }
            "peer" => peer.peers.push(parse_host_port(value).map_err(wrong)?),
            _ => left.push(option),
        }
    }
    if args.mountpoint.len() > 1 {
        drop_what_mount_fuse_adds(&mut left);
    }
    args.options = left;
    Ok(())
}

/// Takes away the `dev` and the `suid` that mount.fuse3(8), between mount(8) and this, puts behind all
/// options, whether somebody asked for them or not: other members write files here. One that was asked
/// for stands in the list once more.
fn drop_what_mount_fuse_adds(options: &mut Vec<String>) {
    for added in ["suid", "dev"] {
        if options.last().is_some_and(|last| last == added) {
            options.pop();
        }
    }
}

/// Splits a list at its commas; `\,` stands for a comma within an option, `\\` for a backslash.
fn split(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut letters = list.chars().peekable();
    while let Some(letter) = letters.next() {
        let escaped = letters.next_if(|next| letter == '\\' && matches!(next, ',' | '\\'));
        match (escaped, options.last_mut()) {
            (None, _) if letter == ',' => options.push(String::new()),
            (escaped, Some(option)) => option.push(escaped.unwrap_or(letter)),
            (_, None) => {}
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn taken(arguments: &[&str]) -> Result<MountArgs, String> {
        let mut args = MountArgs::try_parse_from(["dfs-mount", "/m"].iter().chain(arguments))
            .map_err(|error| error.to_string())?;
        take(&mut args)?;
        Ok(args)
    }

    #[test]
    fn settings_stand_between_mount_options() {
        let list = "rw,noatime,state=/a b/c\\,d\\\\e,listen=[::1]:4751,name=n,capacity=2G,cache=1M,\
                    fsync=replicated,peer=a:1,peer=[::1]:2,x-systemd.automount,,_netdev";
        let args = taken(&["-o", list, "--peer", "c:3", "-o", "ro"]).unwrap();
        assert_eq!(args.peer.state, Some("/a b/c,d\\e".into()));
        assert_eq!(args.peer.listen, "[::1]:4751".parse().ok());
        assert_eq!(args.peer.name.as_deref(), Some("n"));
        assert_eq!(args.peer.capacity, Some(2 << 30));
        assert_eq!(args.peer.cache, Some(1 << 20));
        assert_eq!(args.fsync, Some(FsyncArg::Replicated));
        assert_eq!(args.peer.peers, ["c:3", "a:1", "[::1]:2"]);
        let left = ["rw", "noatime", "x-systemd.automount", "_netdev", "ro"];
        assert_eq!(args.options, left);
    }

    #[test]
    fn what_nobody_asked_for_is_not_set_by_mount8() {
        let by_mount = |list: &str| {
            let args = ["dfs-mount", "dfs", "/m", "-o", list];
            let mut args = MountArgs::try_parse_from(args).unwrap();
            take(&mut args).unwrap();
            args.options
        };
        assert_eq!(by_mount("ro,dev,suid"), ["ro"]);
        assert_eq!(by_mount("ro,suid,dev,suid"), ["ro", "suid"]);
        assert_eq!(by_mount("nodev,suid"), ["nodev"]);
        assert_eq!(taken(&["-o", "dev,suid"]).unwrap().options, ["dev", "suid"]);
    }

    #[test]
    fn an_option_of_its_own_comes_first() {
        let args = taken(&["-o", "state=/a,capacity=1G", "--state", "/b"]).unwrap();
        assert_eq!(args.peer.state, Some("/b".into()));
        assert_eq!(args.peer.capacity, Some(1 << 30));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for wrong in [
            "state=",
            "listen=here",
            "capacity=much",
            "cache=-1",
            "fsync=maybe",
            "peer=host",
        ] {
            let key = wrong.split('=').next().unwrap();
            assert!(taken(&["-o", wrong]).unwrap_err().contains(key), "{wrong}");
        }
    }
}
