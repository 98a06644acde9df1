//! `dfs-mount`: becomes the program `dfs` beside it, under this name.
//!
//! One program holds everything, so that it is optimised and installed once.

use std::os::unix::process::CommandExt;
use std::process::Command;

fn main() -> std::process::ExitCode {
    let program = match std::env::current_exe() {
        Ok(this) => this.with_file_name("dfs"),
        Err(error) => {
            eprintln!("dfs-mount: cannot find the program dfs: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    let error = Command::new(&program)
        .arg0("dfs-mount")
        .args(std::env::args_os().skip(1))
        .exec();
    eprintln!("dfs-mount: cannot run {}: {error}", program.display());
    std::process::ExitCode::FAILURE
}
