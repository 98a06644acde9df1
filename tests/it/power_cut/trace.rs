//! What a process did to the files of a folder, in order, as strace(1) saw it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// A change of the folder; paths are relative to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A new empty file.
    Create(String),
    /// A new folder.
    Mkdir(String),
    /// Bytes at an offset.
    Write(String, u64, Vec<u8>),
    /// The length is set.
    Resize(String, u64),
    /// A range reads as zeros.
    Zero(String, u64, u64),
    /// fsync(2) or fdatasync(2) of a file or a folder.
    Sync(String),
    /// A name is moved over another.
    Rename(String, String),
    /// A file gets a second name.
    Link(String, String),
    /// A name is removed.
    Remove(String),
    /// The process says that it did so many operations.
    Said(u64),
}

/// The system calls that change files, and those that move the offset of a descriptor.
const CALLS: &str = "open,openat,creat,read,readv,lseek,write,writev,pwrite64,pwritev,pwritev2,\
    ftruncate,truncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,rmdir,\
    mkdir,mkdirat,link,linkat,symlink,symlinkat,copy_file_range,sendfile";

/// Returns a command that runs another under strace, which writes to a file.
pub(super) fn traced(command: &Command, output: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-qq",
            "-y",
            "-xx",
            "-e",
            "signal=none",
            "-s",
            "16777216",
        ])
        .args(["-e", &format!("trace={CALLS}"), "-o"])
        .arg(output)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            strace.env(name, value);
        }
    }
    strace
}

/// Returns what a trace says of a folder; `said` is the file in which the process counts.
pub(super) fn events(trace: &str, folder: &Path, said: &Path) -> Vec<Event> {
    let mut reader = Reader {
        folder: format!("{}/", folder.display()),
        said: said.display().to_string(),
        offsets: BTreeMap::new(),
        files: BTreeMap::new(),
        events: Vec::new(),
    };
    let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
    for line in trace.lines() {
        let (pid, rest) = line.split_once(' ').expect("a process id");
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, begun);
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let begun = unfinished.remove(pid).expect("it was begun");
            let (_, end) = resumed.split_once(" resumed>").expect("resumed");
            reader.call(&format!("{begun}{end}"));
        } else {
            reader.call(rest);
        }
    }
    reader.events
}

struct Reader {
    folder: String,
    said: String,
    /// Where each descriptor stands.
    offsets: BTreeMap<String, u64>,
    /// The lengths of the files, for those who append.
    files: BTreeMap<String, u64>,
    events: Vec<Event>,
}

impl Reader {
    /// Takes one whole call: `name(arguments) = result`.
    fn call(&mut self, call: &str) {
        let Some((name, rest)) = call.split_once('(') else {
            return;
        };
        let Some((args, result)) = rest.rsplit_once(" = ") else {
            return;
        };
        let args = args.trim_end();
        let args = split(args.strip_suffix(')').unwrap_or(args));
        let result = result.split(['<', ' ']).next().unwrap_or_default();
        if result.starts_with('-') || result == "?" {
            return;
        }
        let done: u64 = result.parse().unwrap_or_else(|_| panic!("{call:.200}"));
        match name {
            "open" | "openat" | "creat" => self.open(&args, done),
            "read" | "readv" => self.advance(args[0], done),
            "lseek" => {
                self.offsets.insert(number(args[0]), done);
            }
            "write" => {
                let at = self.offset(args[0]);
                self.write(args[0], at, text(args[1]), done);
                self.advance(args[0], done);
            }
            "pwrite64" => self.write(args[0], value(args[3]), text(args[1]), done),
            "pwritev" => self.write(args[0], value(args[3]), pieces(args[1]), done),
            "writev" => {
                let at = self.offset(args[0]);
                self.write(args[0], at, pieces(args[1]), done);
                self.advance(args[0], done);
            }
            "ftruncate" => {
                if let Some(path) = self.inside(&opened(args[0])) {
                    self.resize(path, value(args[1]));
                }
            }
            "fallocate" => {
                let (from, len) = (value(args[2]), value(args[3]));
                if let Some(path) = self.inside(&opened(args[0])) {
                    match args[1] {
                        "0" => {
                            let len = self.files[&path].max(from + len);
                            self.resize(path, len);
                        }
                        _ => self.events.push(Event::Zero(path, from, len)),
                    }
                }
            }
            "fsync" | "fdatasync" => {
                let path = opened(args[0]);
                let is_root = format!("{path}/") == self.folder;
                if let Some(path) = self.inside(&path).or_else(|| is_root.then(String::new)) {
                    self.events.push(Event::Sync(path));
                }
            }
            "rename" => self.rename(args[0], args[1]),
            "renameat" | "renameat2" => self.rename(args[1], args[3]),
            "unlink" | "rmdir" => self.remove(args[0]),
            "unlinkat" => self.remove_at(args[0], args[1]),
            "link" => self.link(args[0], args[1]),
            "linkat" => self.link(args[1], args[3]),
            "mkdir" => self.mkdir(args[0]),
            "mkdirat" => self.mkdir(args[1]),
            _ => {
                let all = args.concat();
                let touches = self.inside(&opened(&all)).is_some();
                assert!(!touches, "{call:.300}: not known to the model");
            }
        }
    }

    /// Returns the path within the folder, `None` for one outside.
    fn inside(&self, path: &str) -> Option<String> {
        path.strip_prefix(&self.folder).map(str::to_owned)
    }

    fn open(&mut self, args: &[&str], descriptor: u64) {
        // openat has the folder first; all paths are absolute.
        let at = args.iter().position(|arg| arg.starts_with('"'));
        let at = at.expect("a path");
        self.offsets.insert(descriptor.to_string(), 0);
        let path = string(args[at]);
        let Some(path) = self.inside(&path) else {
            return;
        };
        let flags = args.get(at + 1).copied().unwrap_or("O_CREAT|O_TRUNC");
        if flags.contains("O_CREAT") && !self.files.contains_key(&path) {
            self.files.insert(path.clone(), 0);
            self.events.push(Event::Create(path.clone()));
        }
        if flags.contains("O_APPEND") {
            // Nobody else writes to it meanwhile.
            self.offsets
                .insert(descriptor.to_string(), self.files[&path]);
        }
        if flags.contains("O_TRUNC") {
            self.resize(path, 0);
        }
    }

    fn offset(&self, descriptor: &str) -> u64 {
        let offset = self.offsets.get(&number(descriptor));
        offset.copied().unwrap_or(0)
    }

    fn advance(&mut self, descriptor: &str, by: u64) {
        let at = self.offset(descriptor) + by;
        self.offsets.insert(number(descriptor), at);
    }

    fn write(&mut self, descriptor: &str, at: u64, mut bytes: Vec<u8>, done: u64) {
        let path = opened(descriptor);
        bytes.truncate(usize::try_from(done).unwrap());
        if path == self.said {
            let said = String::from_utf8(bytes).unwrap();
            self.events.push(Event::Said(said.trim().parse().unwrap()));
        } else if let Some(path) = self.inside(&path)
            && let Some(len) = self.files.get_mut(&path)
        {
            *len = (*len).max(at + done);
            self.events.push(Event::Write(path, at, bytes));
        }
    }

    fn resize(&mut self, path: String, len: u64) {
        self.files.insert(path.clone(), len);
        self.events.push(Event::Resize(path, len));
    }

    fn rename(&mut self, from: &str, to: &str) {
        if let (Some(from), Some(to)) = (self.inside(&string(from)), self.inside(&string(to))) {
            if let Some(len) = self.files.remove(&from) {
                self.files.insert(to.clone(), len);
            }
            self.events.push(Event::Rename(from, to));
        }
    }

    fn link(&mut self, from: &str, to: &str) {
        if let (Some(from), Some(to)) = (self.inside(&string(from)), self.inside(&string(to))) {
            if let Some(len) = self.files.get(&from).copied() {
                self.files.insert(to.clone(), len);
            }
            self.events.push(Event::Link(from, to));
        }
    }

    fn remove_at(&mut self, folder: &str, name: &str) {
        let name = string(name);
        self.remove_path(&match name.starts_with('/') {
            true => name,
            false => format!("{}/{name}", opened(folder)),
        });
    }

    fn remove(&mut self, path: &str) {
        self.remove_path(&string(path));
    }

    fn remove_path(&mut self, path: &str) {
        if let Some(path) = self.inside(path) {
            self.files.remove(&path);
            self.events.push(Event::Remove(path));
        }
    }

    fn mkdir(&mut self, path: &str) {
        if let Some(path) = self.inside(&string(path)) {
            self.events.push(Event::Mkdir(path));
        }
    }
}

/// Splits arguments at the commas outside of strings, paths and lists.
fn split(args: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quoted) = (Vec::new(), 0, 0, false);
    for (at, byte) in args.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'[' | b'{' | b'<' if !quoted => depth += 1,
            b']' | b'}' | b'>' if !quoted => depth -= 1,
            b',' if !quoted && depth == 0 => {
                parts.push(args[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(args[start..].trim());
    parts
}

/// Returns the number of a descriptor: `5<path>`.
fn number(descriptor: &str) -> String {
    descriptor.split('<').next().unwrap_or_default().to_owned()
}

/// Returns the path of a descriptor: `5<path>`; one of a removed file is outside of everything.
fn opened(descriptor: &str) -> String {
    let path = descriptor.split_once('<').map_or("", |(_, path)| path);
    match path.strip_suffix('>') {
        Some(path) => String::from_utf8_lossy(&unescape(path)).into_owned(),
        None => String::new(),
    }
}

fn value(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn string(quoted: &str) -> String {
    String::from_utf8(text(quoted)).expect("a path of text")
}

fn text(quoted: &str) -> Vec<u8> {
    let inner = quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    unescape(inner.unwrap_or_else(|| panic!("a cut string: {quoted:.80}")))
}

/// Returns the bytes of `[{iov_base="...", iov_len=3}, ...]`.
fn pieces(list: &str) -> Vec<u8> {
    let quoted = list.split('"').skip(1).step_by(2);
    quoted.flat_map(unescape).collect()
}

/// Returns the bytes of `\x61\x62`, which strace makes of everything with `-xx`.
fn unescape(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => panic!("no hexadecimal digit"),
    };
    if !hex.starts_with("\\x") {
        return hex.as_bytes().to_vec();
    }
    let bytes = hex.as_bytes().chunks_exact(4);
    bytes.map(|c| digit(c[2]) << 4 | digit(c[3])).collect()
}
