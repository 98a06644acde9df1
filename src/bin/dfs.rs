//! `dfs`, and `dfs-mount` where it is started under that name: see `dfs::cli`.

use std::ffi::OsStr;
use std::path::Path;

fn main() -> std::process::ExitCode {
    let name = std::env::args_os().next();
    let name = name.as_deref().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new("dfs-mount")) {
        dfs::cli::main_mount().into()
    } else {
        dfs::cli::main_dfs().into()
    }
}
