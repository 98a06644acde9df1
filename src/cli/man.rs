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
