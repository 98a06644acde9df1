//! Secrets of a command line: said in it, or in a file, or on the standard input; and how the first
//! kind gets out of the list of processes, which every user of a machine may read.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::daemon::PHRASE_WORDS;

/// Longest secret: a token has a few hundred characters, and this fits a pipe that nobody reads.
const SECRET_MAX_BYTES: u64 = 32 << 10;

/// The options of `dfs-mount` and `dfs node` that take a [`Secret`].
const OPTIONS: [&str; 2] = ["--invite", "--recovery"];

/// Where a secret comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// It stands on the command line.
    Text(String),
    /// It is what a file holds: `@FILE`.
    File(PathBuf),
    /// It comes on the standard input: `-`.
    Stdin,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stdin => f.write_str("Stdin"),
        }
    }
}

impl Secret {
    /// Returns what turns an argument into a secret.
    pub(super) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(Self::parse)
    }

    fn parse(argument: OsString) -> Result<Self, &'static str> {
        if argument == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(path) = argument.as_bytes().strip_prefix(b"@") {
            return Ok(Self::File(OsString::from_vec(path.to_vec()).into()));
        }
        match argument.into_string() {
            Ok(text) if text.len() as u64 <= SECRET_MAX_BYTES => Ok(Self::Text(text)),
            _ => Err("neither a text, nor @FILE, nor - for the standard input"),
        }
    }

    /// Returns the secret, without the white space around it.
    ///
    /// `what` names it where a person is to type it. The error is one line for the user.
    pub(super) fn read(&self, what: &str) -> Result<String, String> {
        let (text, from) = match self {
            Self::Text(text) => return Ok(text.trim().to_owned()),
            Self::File(path) => {
                let from = path.display().to_string();
                (std::fs::File::open(path).and_then(read_limited), from)
            }
            Self::Stdin if std::io::stdin().is_terminal() => {
                eprint!("{what}: ");
                let mut line = String::new();
                let read = std::io::stdin().read_line(&mut line);
                (read.map(|_| line), "the terminal".to_owned())
            }
            Self::Stdin => (
                read_limited(std::io::stdin()),
                "the standard input".to_owned(),
            ),
        };
        match text {
            Ok(text) if text.trim().is_empty() => Err(format!("no {what} is in {from}")),
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) => Err(format!("cannot read the {what} from {from}: {error}")),
        }
    }
}

fn read_limited(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(SECRET_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_MAX_BYTES {
        return Err(std::io::Error::other("it is too long"));
    }
    Ok(text)
}

/// Returns the last line of a text: what `dfs invite` prints ends with the token alone, so that its
/// whole output may be passed on as it is.
pub(super) fn last_line(text: &str) -> String {
    text.lines()
        .next_back()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Returns the words of a recovery phrase from a text: its last line where that is one, as in all
/// that `dfs recovery` prints, else all of it, as from paper.
pub(super) fn phrase(text: &str) -> String {
    let last = last_line(text);
    if last.split_whitespace().count() >= PHRASE_WORDS {
        last
    } else {
        text.to_owned()
    }
}

/// Starts this program anew, in this very process, with `secret` on the standard input in place of
/// the command line. Returns only where that fails.
pub(super) fn hide(program: &str, secret: &str) -> std::io::Error {
    let again = std::env::current_exe().and_then(|path| Ok((path, piped(secret)?)));
    match again {
        Ok((path, stdin)) => Command::new(path)
            .arg0(program)
            .args(without_secrets(std::env::args_os().skip(1)))
            .stdin(stdin)
            .exec(),
        Err(error) => error,
    }
}

/// Returns a standard input from which a secret can be read.
pub(super) fn piped(secret: &str) -> std::io::Result<Stdio> {
    let (reader, mut writer) = std::io::pipe()?;
    // It fits the pipe, so nobody needs to read yet.
    writer.write_all(secret.as_bytes())?;
    Ok(reader.into())
}

/// Returns arguments with `-` in the place of each secret.
fn without_secrets(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut shown = Vec::new();
    let mut hidden = false;
    let mut ended = false;
    for argument in arguments {
        if std::mem::take(&mut hidden) {
            shown.push("-".into());
            continue;
        }
        ended |= argument == "--";
        let option = (!ended).then(|| option_of(&argument)).flatten();
        match option {
            Some((option, true)) => shown.push(format!("{option}=-").into()),
            Some((_, false)) => {
                hidden = true;
                shown.push(argument);
            }
            None => shown.push(argument),
        }
    }
    shown
}

/// Returns which option with a secret an argument is, and whether the secret is part of it.
fn option_of(argument: &OsStr) -> Option<(&'static str, bool)> {
    OPTIONS.into_iter().find_map(|option| {
        let rest = argument.as_bytes().strip_prefix(option.as_bytes())?;
        match rest.first() {
            None => Some((option, false)),
            Some(b'=') => Some((option, true)),
            Some(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_are_told_apart() {
        let parse = |text: &str| Secret::parse(text.into());
        assert_eq!(parse("-"), Ok(Secret::Stdin));
        assert_eq!(parse("@a b"), Ok(Secret::File("a b".into())));
        assert_eq!(parse("dfs1x"), Ok(Secret::Text("dfs1x".to_owned())));
        assert!(parse(&"x".repeat(40 << 10)).is_err());
        assert!(!format!("{:?}", parse("dfs1x")).contains("dfs1x"));
    }

    #[test]
    fn a_file_may_hold_all_that_was_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(
            &path,
            "One new writer can join.\n  dfs-mount ...\ndfs1abc\n\n",
        )
        .unwrap();
        let read = |path: &PathBuf| Secret::File(path.clone()).read("token");
        assert_eq!(last_line(&read(&path).unwrap()), "dfs1abc");
        std::fs::write(&path, " \n").unwrap();
        assert!(read(&path).unwrap_err().contains("no token"));
        std::fs::write(&path, "x".repeat(40 << 10)).unwrap();
        assert!(read(&path).unwrap_err().contains("too long"));
        assert!(read(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_phrase_is_the_last_line_or_all_there_is() {
        let words = ["word"; PHRASE_WORDS].join(" ");
        assert_eq!(phrase(&format!("Write them down:\n{words}\n")), words);
        assert_eq!(phrase("one two\nthree"), "one two\nthree");
    }

    #[test]
    fn no_secret_stays_in_the_arguments() {
        let shown = |arguments: &[&str]| without_secrets(arguments.iter().map(OsString::from));
        assert_eq!(
            shown(&["/m", "--invite", "dfs1x", "--name", "n"]),
            ["/m", "--invite", "-", "--name", "n"]
        );
        assert_eq!(shown(&["--invite=dfs1x", "/m"]), ["--invite=-", "/m"]);
        assert_eq!(shown(&["/m", "--recovery=a b"]), ["/m", "--recovery=-"]);
        assert_eq!(shown(&["--", "--invite"]), ["--", "--invite"]);
        assert_eq!(shown(&["--invited", "x"]), ["--invited", "x"]);
    }
}
