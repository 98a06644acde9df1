//! `dfs`: see `dfs::cli`.

fn main() -> std::process::ExitCode {
    dfs::cli::main_dfs().into()
}
