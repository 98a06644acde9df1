//! `dfs`, and `dfs-mount` where it is started under that name: see `dfs::cli`.

use std::ffi::OsStr;
use std::path::Path;

/// What a daemon that makes and drops many small things for months wants: it takes less time than the
/// C library's, and gives back what is free.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // The allocator asks for pages of 2 MiB: of each thread's first one most would stay unused. A
    // kernel that refuses takes more memory, and that is all.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let name = std::env::args_os().next();
    let name = name.as_deref().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new("dfs-mount")) {
        dfs::cli::main_mount().into()
    } else {
        dfs::cli::main_dfs().into()
    }
}
