//! Arguments, output, exit codes: what a person or a script sees.
//!
//! Owns: the one definition of the arguments ([`args`]), the texts, the exit codes ([`Exit`]).
//! Knows the `daemon` room and its control protocol, and nothing below them.

pub mod args;

mod client;
mod conflicts;
mod demo;
mod detach;
mod exit;
mod history;
mod launch;
mod man;
mod members;
mod mount_options;
mod qr;
mod repair;
mod secret;
mod settings;
mod show;
mod show_asking;
mod snapshot;
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
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "help") {
        // `dfs help --help` asks for no more than `dfs help` does.
        words.retain(|word| word != "--help" && word != "-h");
    }
    let args = match parse::<DfsArgs>(words.into_iter()) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    match args.verb {
        Verb::Node(peer) => launch::node(peer),
        Verb::Demo(demo) => demo::run(&demo),
        Verb::Repair(args) => repair::run(&args),
        Verb::Man { dir } => man::write(&dir),
        verb => client::run(verb),
    }
}

/// Parses arguments; a mistake is one line that names it and a way on.
fn parse<A: Parser>(arguments: impl Iterator<Item = OsString>) -> Result<A, Exit> {
    let words: Vec<OsString> = arguments.collect();
    A::try_parse_from(&words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            Exit::Done
        }
        _ => {
            let program = A::command().get_name().to_owned();
            let text = error.render().to_string();
            exit::complain(&program, &one_line(&named::<A>(&words), &text));
            Exit::Usage
        }
    })
}

/// Returns what clap says of a mistake as one line, which ends with where to read on.
fn one_line(command: &str, text: &str) -> String {
    let lines = text.lines().map(str::trim);
    // Nobody means the tip that ends all options.
    let message: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty() && !line.contains("use '-- "))
        .collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    format!("{message} (see {command} --help)")
}

/// Returns the command that is meant, as far as the words name one.
fn named<A: Parser>(words: &[OsString]) -> String {
    let command = A::command();
    let mut path = command.get_name().to_owned();
    let mut at = &command;
    for word in words.iter().skip(1) {
        if let Some(verb) = at.find_subcommand(word) {
            at = verb;
            path = format!("{path} {}", verb.get_name());
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(arguments: &[&str]) -> String {
        let error = DfsArgs::try_parse_from(arguments).unwrap_err();
        let words: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        one_line(&named::<DfsArgs>(&words), &error.render().to_string())
    }

    #[test]
    fn a_mistake_is_told_with_the_help_that_is_meant() {
        let of_verb = complaint(&["dfs", "invite", "--role", "king"]);
        assert!(of_verb.contains("king"), "{of_verb}");
        assert!(of_verb.ends_with("(see dfs invite --help)"), "{of_verb}");
        let nested = complaint(&["dfs", "members", "remove", "--nope"]);
        assert!(
            nested.ends_with("(see dfs members remove --help)"),
            "{nested}"
        );
        assert!(!nested.contains("'-- "), "{nested}");
        let above = complaint(&["dfs", "stauts"]);
        assert!(above.ends_with("(see dfs --help)"), "{above}");
    }
}
