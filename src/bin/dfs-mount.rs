//! `dfs-mount`: see `dfs::cli`.

fn main() -> std::process::ExitCode {
    dfs::cli::main_mount().into()
}
