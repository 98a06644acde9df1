//! Arguments, output, exit codes: what a person or a script sees.
//!
//! Owns: the one definition of the arguments ([`args`]), the texts, the exit codes ([`Exit`]).
//! Knows the `daemon` room and its control protocol, and nothing below them.

pub mod args;

mod client;
mod demo;
mod detach;
mod exit;
mod launch;
mod man;
mod mount_options;
mod secret;
mod settings;
mod show;
mod units;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

pub use exit::Exit;
pub use man::pages as man_pages;

use args::{DfsArgs, MountArgs, Verb};

/// Runs `dfs-mount` with the process's arguments.
pub fn main_mount() -> Exit {
    match parse::<MountArgs>(std::env::args_os()) {
        Ok(args) => launch::mount(args),
        Err(exit) => exit,
    }
}

/// Runs `dfs` with the process's arguments.
pub fn main_dfs() -> Exit {
    let args = match parse::<DfsArgs>(std::env::args_os()) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    match args.verb {
        Verb::Node(peer) => launch::node(peer),
        Verb::Demo(demo) => demo::run(&demo),
        Verb::Man { dir } => man::write(&dir),
        verb => client::run(verb),
    }
}

/// Parses arguments; a mistake is one line that names it and a way on.
fn parse<A: Parser>(arguments: impl Iterator<Item = OsString>) -> Result<A, Exit> {
    A::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            Exit::Done
        }
        _ => {
            let program = A::command().get_name().to_owned();
            let text = error.render().to_string();
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let first: Vec<&str> = lines
                .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
                .collect();
            let message = first.join(" ");
            let message = message.strip_prefix("error: ").unwrap_or(&message);
            exit::complain(&program, &format!("{message} (see {program} --help)"));
            Exit::Usage
        }
    })
}
