//! The man pages, generated from the definition of the arguments.

use std::path::Path;

use clap::CommandFactory;

use super::args::{DfsArgs, MountArgs};
use super::exit::{Exit, complain};

/// Returns the man pages as (file name, roff text).
pub fn pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    let mut render = |name: &str, command: clap::Command| -> std::io::Result<()> {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .manual("dfs")
            .source("dfs")
            .render(&mut page)?;
        page.extend_from_slice(EXIT_STATUS.as_bytes());
        page.extend_from_slice(FILES.as_bytes());
        pages.push((format!("{name}.1"), page));
        Ok(())
    };
    render("dfs-mount", MountArgs::command())?;
    let dfs = DfsArgs::command();
    render("dfs", dfs.clone())?;
    for verb in dfs.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("dfs-{}", verb.get_name());
        // The page's title is the whole command, as git does it.
        let leaked: &'static str = Box::leak(name.clone().into_boxed_str());
        render(&name, verb.clone().name(leaked))?;
    }
    Ok(pages)
}

/// The exit codes, as `cli::exit` has them.
const EXIT_STATUS: &str = ".SH \"EXIT STATUS\"
.TP
0
done
.TP
1
failed
.TP
2
wrong usage
.TP
3
no daemon is running
.TP
4
not allowed
.TP
5
timed out
";

const FILES: &str = ".SH FILES
.TP
/var/lib/dfs/
state folders of root\\*(Aqs peers: one for each mountpoint (mnt\\-dfs for /mnt/dfs), and node
.TP
$XDG_DATA_HOME/dfs/, ~/.local/share/dfs/
those of other users
.TP
STATE/identity.key
the secret of this machine
.TP
STATE/settings
what dfs config shows
.TP
STATE/log/dfs.log
what dfs log shows
.SH \"SEE ALSO\"
dfs\\-mount(1), dfs(1), mount(8), fstab(5)
";

pub(super) fn write(dir: &Path) -> Exit {
    let written = pages().and_then(|pages| {
        std::fs::create_dir_all(dir)?;
        for (name, page) in pages {
            std::fs::write(dir.join(name), page)?;
        }
        Ok(())
    });
    match written {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(
                "dfs",
                &format!("cannot write man pages to {}: {error}", dir.display()),
            );
            Exit::Failed
        }
    }
}
