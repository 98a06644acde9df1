//! The verbs about members: who they are and may do, invites, phrases, leaving.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;

use super::args::{InviteArgs, LeaveArgs, MembersAction, MembersArgs, RecoveryArgs, RenameArgs};
use super::client::{Failure, PATIENCE, end, fact, output, pick};
use super::exit::Exit;
use super::qr;
use super::show::{ago, parse};
use crate::base::Clock;
use crate::base::text::shown;
use crate::base::time::SystemClock;
use crate::base::when::{day, moment, span};
use crate::daemon::control::{self, Request};
use crate::daemon::report::{
    InviteEntry, InviteReport, MemberReport, RecoveryEntry, RecoveryReport,
};

/// How long a leave may take: what is written here goes to the others first.
const LEAVE_MAX: Duration = Duration::from_secs(90);

/// Digits of an id that tell members of one name apart.
const SHORT_DIGITS: usize = 8;

/// Longest answer to a question.
const ANSWER_MAX_BYTES: usize = 4096;

fn usage(message: impl Into<String>) -> Failure {
    Failure {
        exit: Exit::Usage,
        message: message.into(),
    }
}

/// Returns a member's name with the digits that tell it from others of that name.
pub(super) fn label(name: &str, id: &str) -> String {
    let short = id.get(..SHORT_DIGITS).unwrap_or(id);
    format!("{} ({short})", shown(name))
}

pub(super) fn members(args: MembersArgs) -> Result<(), Failure> {
    let fact_args = &args.fact;
    match args.action {
        None => list(&args),
        Some(MembersAction::Remove { who, yes }) => {
            let (state, _) = pick(&fact_args.target, fact_args.path.as_deref())?;
            let request = |confirmed| Request::Remove {
                who: who.clone(),
                confirmed,
            };
            let found = control::ask(&state, &request(false), PATIENCE, |_| {})?;
            if !yes {
                let member: MemberReport = read(&found)?;
                let question = format!(
                    "remove {}, {}? {}",
                    label(&member.name, &member.peer_id),
                    member.role,
                    what_removal_means(&member.role)
                );
                confirm(&question, &member.name)?;
            }
            let value = control::ask(&state, &request(true), PATIENCE, |_| {})?;
            output(fact_args.json, &value, |value| {
                let member: MemberReport = parse(value)?;
                Some(format!("removed {}", label(&member.name, &member.peer_id)))
            })
        }
        Some(MembersAction::Role { who, role }) => {
            let role = role.as_str().to_owned();
            fact(fact_args, &Request::SetRole { who, role }, changed_role)
        }
        Some(MembersAction::Rename { who, name }) => {
            let who = Some(who);
            fact(fact_args, &Request::Rename { who, name }, renamed)
        }
    }
}

fn what_removal_means(role: &str) -> &'static str {
    if role == "storage" {
        "It is cut off at once wherever the news arrives; the copies that it keeps no longer count, \
         and are made anew on the others. Invited to store it never had the volume's keys; those of a \
         role before that it keeps."
    } else {
        "It is cut off at once wherever the news arrives; what it wrote stays in the volume. What it \
         has it keeps: its copies, and the volume's keys. No new keys are started, so it could read \
         whatever sealed bytes it gets hold of, newer ones too."
    }
}

fn changed_role(value: &Value) -> Option<String> {
    let member: MemberReport = parse(value)?;
    let what_else = match (member.role_before.as_deref(), member.role.as_str()) {
        (Some("storage"), _) => ": end it, and start it with dfs-mount, and it has the files",
        (_, "storage") => {
            ": it keeps the volume's keys that it has; remove it and invite it anew where it must not"
        }
        _ => "",
    };
    Some(format!(
        "{} is {} now{what_else}",
        label(&member.name, &member.peer_id),
        with_article(&member.role)
    ))
}

fn with_article(role: &str) -> String {
    match role {
        "admin" => "an admin".to_owned(),
        "storage" => "a storage peer".to_owned(),
        role => format!("a {role}"),
    }
}

pub(super) fn rename(args: RenameArgs) -> Result<(), Failure> {
    let (state, _) = pick(&args.target, None)?;
    let request = Request::Rename {
        who: None,
        name: args.name,
    };
    let value = control::ask(&state, &request, PATIENCE, |_| {})?;
    output(args.json, &value, renamed)
}

fn renamed(value: &Value) -> Option<String> {
    let member: MemberReport = parse(value)?;
    let short = member.peer_id.get(..SHORT_DIGITS)?;
    Some(format!("{short} is called {} now", shown(&member.name)))
}

fn list(args: &MembersArgs) -> Result<(), Failure> {
    let (state, _) = pick(&args.fact.target, args.fact.path.as_deref())?;
    let members = control::ask(&state, &Request::Members, PATIENCE, |_| {})?;
    let phrases = control::ask(&state, &Request::Recoveries, PATIENCE, |_| {})?;
    output(args.fact.json, &members, |members| {
        let mut out = String::new();
        for member in parse::<Vec<MemberReport>>(members)? {
            let state = match member.state.as_str() {
                "this" => "this machine".to_owned(),
                "connected" => "connected".to_owned(),
                state => format!("{state}, last contact {}", ago(member.last_contact_ms)),
            };
            let _ = writeln!(
                out,
                "{:<26} {:<8} since {}  {state}",
                label(&member.name, &member.peer_id),
                member.role,
                day(member.admitted_ms)
            );
        }
        for phrase in parse::<Vec<RecoveryEntry>>(&phrases)? {
            let _ = writeln!(out, "{}", described(&phrase));
        }
        Some(out)
    })
}

fn described(phrase: &RecoveryEntry) -> String {
    format!(
        "recovery phrase, made by {} on {}",
        phrase.made_by,
        moment(phrase.made_ms)
    )
}

pub(super) fn invite(args: InviteArgs) -> Result<(), Failure> {
    if args.list {
        return fact(&args.fact, &Request::Invites, invites);
    }
    if let Some(id) = args.revoke {
        return fact(&args.fact, &Request::Revoke { id }, |value| {
            let invite: InviteEntry = parse(value)?;
            let short = invite.id.get(..SHORT_DIGITS)?;
            Some(format!(
                "revoked the {} invite {short}: it admits nobody any more",
                invite.role
            ))
        });
    }
    let request = Request::Invite {
        role: args.role.as_str().to_owned(),
        expires_s: args.expires.as_secs(),
    };
    fact(&args.fact, &request, |value| {
        invited(value, std::io::stdout().is_terminal())
    })
}

fn invited(value: &Value, is_terminal: bool) -> Option<String> {
    let report: InviteReport = parse(value)?;
    let (who, command) = match report.role.as_str() {
        "storage" => ("storage peer", "dfs node"),
        role => (role, "dfs-mount /mnt/dfs"),
    };
    let peer = report.addresses.first().map_or("HOST:PORT", String::as_str);
    let left = report.expires_ms.saturating_sub(now_ms());
    let code = if is_terminal {
        // In capitals it takes a smaller code; a token is read in either case.
        qr::lines(&report.token.to_ascii_uppercase()).unwrap_or_default()
    } else {
        String::new()
    };
    Some(format!(
        "One new {who} can join with this token, once, until {} (for {}). On the new machine:\n  \
         {command} --peer {peer} --invite -\nand paste it there. dfs invite --revoke {} takes it back.\n\
         {code}{}",
        moment(report.expires_ms),
        span(left),
        report.id.get(..SHORT_DIGITS)?,
        report.token
    ))
}

fn invites(value: &Value) -> Option<String> {
    let invites: Vec<InviteEntry> = parse(value)?;
    if invites.is_empty() {
        return Some("no invites: dfs invite makes one".to_owned());
    }
    let now = now_ms();
    let mut out = String::new();
    for invite in invites {
        let state = match (invite.state.as_str(), &invite.used_by) {
            ("used", Some(by)) => format!("used by {by}"),
            ("open", _) => format!("open for {}", span(invite.expires_ms.saturating_sub(now))),
            (state, _) => state.to_owned(),
        };
        let _ = writeln!(
            out,
            "{} {:<8} by {:<22} ends {}  {state}",
            invite.id.get(..SHORT_DIGITS)?,
            invite.role,
            invite.issued_by,
            moment(invite.expires_ms)
        );
    }
    Some(out)
}

pub(super) fn recovery(args: &RecoveryArgs) -> Result<(), Failure> {
    if args.list {
        return fact(&args.fact, &Request::Recoveries, |value| {
            let phrases: Vec<RecoveryEntry> = parse(value)?;
            if phrases.is_empty() {
                return Some("no recovery phrase: dfs recovery makes one".to_owned());
            }
            Some(phrases.iter().map(described).collect::<Vec<_>>().join("\n"))
        });
    }
    if args.revoke {
        return fact(&args.fact, &Request::EndRecovery, |value| {
            let ended: Vec<RecoveryEntry> = parse(value)?;
            Some(match ended.as_slice() {
                [] => "there was no recovery phrase".to_owned(),
                _ => "the recovery phrase does not hold any more".to_owned(),
            })
        });
    }
    fact(&args.fact, &Request::MakeRecovery, |value| {
        made_phrase(value, std::io::stdout().is_terminal())
    })
}

fn made_phrase(value: &Value, is_terminal: bool) -> Option<String> {
    let report: RecoveryReport = parse(value)?;
    let peer = report.addresses.first().map_or("HOST:PORT", String::as_str);
    let words: Vec<&str> = report.phrase.split(' ').collect();
    let replaced = match report.replaced {
        0 => "",
        _ => "The phrase before this one does not hold any more.\n",
    };
    let mut out = format!(
        "Whoever has these {} words enters this volume as an admin, through any machine that belongs \
         to it, also when all admins are lost. Write them on paper and keep them where nobody else \
         finds them; they are not shown again. On a new machine:\n  dfs-mount /mnt/dfs --peer {peer} \
         --recovery -\n{replaced}",
        words.len()
    );
    if !is_terminal {
        out.push_str(&report.phrase);
        return Some(out);
    }
    for (row, words) in words.chunks(5).enumerate() {
        out.push('\n');
        for (at, word) in words.iter().enumerate() {
            let _ = write!(out, "{:>4} {word:<10}", row * 5 + at + 1);
        }
    }
    Some(out)
}

pub(super) fn leave(args: &LeaveArgs) -> Result<(), Failure> {
    let (state, _) = pick(&args.fact.target, args.fact.path.as_deref())?;
    let request = |confirmed| Request::Leave {
        confirmed,
        forced: args.force,
    };
    let found = control::ask(&state, &request(false), PATIENCE, |_| {})?;
    let this: MemberReport = read(&found)?;
    if !args.yes {
        let question = format!(
            "take this machine, {}, out of the volume? What is only here goes to the others first. \
             Then it is cut off and its mount ends; the state folder {} stays, but no longer opens.",
            label(&this.name, &this.peer_id),
            state.display()
        );
        confirm(&question, &this.name)?;
    }
    let value = control::ask(&state, &request(true), LEAVE_MAX, |_| {})?;
    // The volume takes nothing any more, so files that are open need not be waited for.
    end(&state, true)?;
    output(args.fact.json, &value, |_| {
        Some(format!(
            "{} has left the volume; {} may be removed",
            label(&this.name, &this.peer_id),
            state.display()
        ))
    })
}

/// Asks on the terminal whether to go on, which is said by typing `name`.
pub(super) fn confirm(question: &str, name: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(usage(
            "this asks before it acts, and nobody can answer here: say --yes",
        ));
    }
    eprintln!("{question}");
    eprint!("Type {} to go on: ", shown(name));
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && answer.len() <= ANSWER_MAX_BYTES && answer.trim() == name.trim() {
        return Ok(());
    }
    Err(Failure {
        exit: Exit::Failed,
        message: "nothing was changed".to_owned(),
    })
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    parse(value).ok_or_else(|| Failure {
        exit: Exit::Failed,
        message: "the daemon is of another version: restart it".to_owned(),
    })
}

fn now_ms() -> u64 {
    SystemClock::new().wall_ms()
}
